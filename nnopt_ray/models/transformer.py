"""What the Transformers for text share: sizes that a page may change, and attention of several heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from nnopt_ray.errors import UserError

Auto = Literal["auto"]


@dataclass(frozen=True)
class Size:
    """Layers, numbers a token, heads of attention, numbers of the hidden layer of each feed-forward part."""

    depth: int
    width: int
    heads: int
    feed_forward: int

    def changed(
        self, model: str, depth: int | Auto, width: int | Auto, heads: int | Auto, feed_forward: int | Auto
    ) -> Size:
        """This size with what a page says; the feed-forward part is four times as wide as all else by itself.

        Raises UserError when the heads do not divide the width.
        """
        wide = self.width if width == "auto" else width
        size = Size(
            self.depth if depth == "auto" else depth,
            wide,
            self.heads if heads == "auto" else heads,
            4 * wide if feed_forward == "auto" else feed_forward,
        )
        if size.width % size.heads:
            raise UserError(
                f"model {model} divides its width among its heads, and {size.heads} heads do not divide a width of "
                f"{size.width}. Choose a width that is a multiple of heads."
            )
        return size


class Attention(nn.Module):
    """Attention of several heads within a text (Vaswani et al. 2017): float32 [rows, length, width] → the same.

    mask: bool [rows, 1, 1, length], True where a token may be looked at; None for all, or in a causal one for all
    before. The weights of queries, keys and values are one matrix, in this order.
    """

    def __init__(self, width: int, heads: int, dropout: float, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.rate, self.causal = heads, dropout, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        rate = self.rate if self.training else 0.0
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate, is_causal=self.causal)
        out: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return out
