"""Dropout in a pack of lanes: each lane has its own rate and, on a CPU, the very mask it would have alone.

A network comes to its dropout sites in the same order at every step: `torch.nn.functional.dropout` (as `nn.Dropout`
calls it), dropout of whole channels (`dropout1d` to `dropout3d`), and the dropout inside of
`scaled_dot_product_attention`. Alone, a site draws Bernoulli(1 - p) from torch's generator, which is seeded from
(seed, epoch), divides by 1 - p and multiplies. A lane draws the same numbers in the same order from a generator
of its own that is seeded alike, so its masks are bitwise those of the trial alone, whatever lanes are beside it.
On a GPU the kernel alone draws its numbers in another order: there a lane's masks depend on nothing but
(seed, epoch) too, but they are others than alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# The number of dimensions, rows among them, in which each drops whole channels of every row.
CHANNELWISE = {"dropout1d": 3, "dropout2d": 4, "dropout3d": 5}


@dataclass(frozen=True)
class Site:
    """One call of dropout in a step: the shape and memory order of its mask, and its rate."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    rate: float


# What gives the mask of a site: from a tensor of the mask's shape and memory order, and the rate.
Source = Callable[[Tensor, float], Tensor]


class _Replaced(TorchFunctionMode):
    """Within, dropout in training multiplies by what `source` gives.

    As a mode it is told of the calls of functions that were imported by name. `torch.nn.functional` calls its own
    (in attention) out of a mode's reach, so they are replaced there too.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source
        named: dict[str, Callable[..., Any]] = {
            "dropout": self.dropout,
            "scaled_dot_product_attention": self.attention,
            **{name: self._channelwise(name, dims) for name, dims in CHANNELWISE.items()},
        }
        self.given = {name: getattr(F, name) for name in named}
        self.named = named
        self.own = {self.given[name]: function for name, function in named.items()}
        self.own[torch.dropout] = self.dropout

    def __enter__(self) -> Any:
        for name, function in self.named.items():
            setattr(F, name, function)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for name, function in self.given.items():
            setattr(F, name, function)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.own.get(func, func)(*args, **(kwargs or {}))

    def dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return input
        return self._dropped(input, torch.empty_like(input), p, inplace)

    def _channelwise(self, name: str, dims: int) -> Callable[..., Tensor]:
        given = getattr(F, name)

        def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
            if not training or p == 0:
                return input
            if input.dim() != dims:  # torch has its own ways with other inputs; vmap refuses their numbers
                dropped: Tensor = given(input, p, training, inplace)
                return dropped
            like = input.new_empty((*input.shape[:2], *[1] * (dims - 2)))
            return self._dropped(input, like, p, inplace)

        return dropout

    def _dropped(self, input: Tensor, like: Tensor, p: float, inplace: bool) -> Tensor:
        if input.dtype != torch.float32:
            raise NotImplementedError(f"dropout of {input.dtype} numbers")
        mask = self.source(like, p)
        return input.mul_(mask) if inplace else input * mask

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """In the steps of torch's own `_scaled_dot_product_attention_math`, which vmap takes for all lanes."""
        if enable_gqa and dropout_p > 0:
            raise NotImplementedError("dropout in attention of grouped queries")
        if enable_gqa:
            whole: Tensor = self.given["scaled_dot_product_attention"](
                query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=True
            )
            return whole
        each = math.sqrt(1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        weights = (query * each) @ (key.transpose(-2, -1) * each)
        if is_causal:
            attn_mask = torch.ones(weights.shape[-2:], dtype=torch.bool, device=query.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -math.inf)
        if attn_mask is not None:
            weights = weights + attn_mask
        return self.dropout(torch.softmax(weights, dim=-1), dropout_p) @ value


def sites(forward: Callable[[], Any]) -> list[Site]:
    """The dropout sites that `forward` comes to, in order."""
    found: list[Site] = []

    def note(like: Tensor, rate: float) -> Tensor:
        found.append(Site(tuple(like.shape), tuple(like.stride()), rate))
        return torch.ones_like(like)

    with torch.no_grad(), _Replaced(note):
        forward()
    return found


@contextmanager
def fed(masks: Iterable[Tensor]) -> Iterator[None]:
    """Within, dropout multiplies by these masks, one a site, which hold 0 and 1 / (1 - rate)."""
    waiting = iter(masks)

    def give(like: Tensor, rate: float) -> Tensor:
        mask = next(waiting, None)
        if mask is None or mask.shape != like.shape:
            raise RuntimeError("its dropout is not at the same places in every step")
        return mask

    with _Replaced(give):
        yield


def draw(mask: Tensor, site: Site, rate: float, generator: torch.Generator) -> None:
    """Fill one lane's mask at one site, as dropout itself would."""
    if rate in (0, 1):  # torch draws nothing then
        mask.fill_(1 - rate)
        return
    if mask.stride() == site.stride:
        mask.bernoulli_(1 - rate, generator=generator).div_(1 - rate)
        return
    noise = torch.empty_strided(site.shape, site.stride, dtype=mask.dtype, device=mask.device)
    mask.copy_(noise.bernoulli_(1 - rate, generator=generator).div_(1 - rate))
