"""Vision Transformer: an image as a row of patches."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nnopt_ray.data.types import Shapes
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Beside
from nnopt_ray.models.convolution import is_large
from nnopt_ray.models.inputs import one_image

# size → width, depth, heads. base: Dosovitskiy et al. 2020, table 1; tiny and small: Touvron et al. 2020
# (arXiv:2012.12877, table 1); micro is our own, for images of 8 to 32 pixels.
SIZES: dict[str, tuple[int, int, int]] = {
    "micro": (64, 4, 4),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
}
LARGE_PATCH = 16
FEWEST, MOST = 4, 64  # patches that `auto` divides a small image into

Size = Annotated[int, Field(ge=1, le=65536)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class Attention(nn.Module):
    """Self-attention of several heads: float32 [rows, length, width] → the same shape."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(query, key, value, dropout_p=self.rate if self.training else 0.0)
        out: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention, then two layers at each patch; each behind a layer norm and with a shortcut around both."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float, attention_dropout: float, eps: float):
        super().__init__()
        self.norm_1 = nn.LayerNorm(width, eps)
        self.attention = Attention(width, heads, attention_dropout)
        self.dropout = nn.Dropout(dropout)
        self.norm_2 = nn.LayerNorm(width, eps)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width), nn.Dropout(dropout)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_1(x)))
        y: Tensor = x + self.mlp(self.norm_2(x))
        return y


class ViT(nn.Module):
    """Vision Transformer (Dosovitskiy et al. 2020, arXiv:2010.11929).

    float32 [rows, channels, height, width] → float32 [rows, outputs]. The image is cut into square patches; each
    becomes `width` numbers, with its learned position added; what a class token has gathered after `depth` blocks, or
    the mean over the patches, is given to one linear layer. `base` with patches of 16 on 3x224x224 is torchvision's
    vit_b_16: 86,567,656 weights for 1000 classes (torchvision.models.vision_transformer, `num_params`); tiny and small
    have DeiT's 5,717,416 and 22,050,664. Layers start as in torchvision; the last one, which there starts at zero,
    normal with deviation 0.02.

    Raises UserError when the data is not one image per row, the patch does not divide the image, or the heads do
    not divide the width.

    Keys:
        size: micro, for small images, or a published network; sets width, depth and heads.
        patch: pixels a side of a patch; auto: 16 from 128 pixels on, else the smallest that makes 4 to 64 patches.
        width: numbers that stand for a patch; auto: what the size says.
        depth: blocks; auto: what the size says.
        heads: of each attention; auto: what the size says.
        pool: token: a class token, as published; mean: over the patches; auto: mean of micro, else token.
        positions: what they start from: small random numbers, or sines and cosines; auto: sincos of micro, else random.
        mlp_ratio: hidden units at each patch, for each of the width.
        dropout: share of the numbers set to zero while training, behind the positions and in each block.
        attention_dropout: share of each attention's weights set to zero while training.
        layer_norm_eps: added to variances; 1e-6 as published, and 1e-12 for weights of transformers.
        weights: public weights to start from, a file of torchvision's or transformers' ViT, beside the page.
    """

    lane_keys: ClassVar[tuple[str, ...]] = ("dropout", "attention_dropout")  # what lanes of one pack may have each

    def __init__(
        self,
        shapes: Shapes,
        *,
        size: Literal["micro", "tiny", "small", "base"] = "micro",
        patch: Size | Literal["auto"] = "auto",
        width: Size | Literal["auto"] = "auto",
        depth: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = "auto",
        heads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto",
        pool: Literal["auto", "token", "mean"] = "auto",
        positions: Literal["auto", "random", "sincos"] = "auto",
        mlp_ratio: Annotated[int, Field(ge=1, le=64)] = 4,
        dropout: Rate = 0.0,
        attention_dropout: Rate = 0.0,
        layer_norm_eps: Annotated[float, Field(gt=0, le=1)] = 1e-6,
        weights: Annotated[str | None, Beside()] = None,
    ) -> None:
        super().__init__()
        self.public_weights = weights
        channels, high, wide = one_image(shapes, "vit")
        width = SIZES[size][0] if width == "auto" else width
        depth = SIZES[size][1] if depth == "auto" else depth
        heads = SIZES[size][2] if heads == "auto" else heads
        if width % heads:
            raise UserError(f"model vit: its heads must divide its width, and {heads} heads do not divide {width}.")
        side = _patch(high, wide) if patch == "auto" else patch
        if high % side or wide % side:
            raise UserError(
                f"model vit: its patch must divide the image, and {side} does not divide {high}x{wide} pixels. "
                f"{_dividing(high, wide)}"
            )
        self.grid = (high // side, wide // side)
        self.patches = nn.Conv2d(channels, width, side, side)
        inside = channels * side * side
        nn.init.trunc_normal_(self.patches.weight, std=inside**-0.5)
        assert self.patches.bias is not None
        nn.init.zeros_(self.patches.bias)
        # On digits, 1168 rows and 30 epochs, the two together gave an accuracy of 0.97 where each alone gave 0.93 to
        # 0.95, and neither 0.94 (both after Beyer et al. 2022, arXiv:2205.01580, whose positions are not learned).
        has_token = pool == "token" or (pool == "auto" and size != "micro")
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if has_token else None
        start = torch.empty(1, self.grid[0] * self.grid[1] + has_token, width).normal_(std=0.02)
        if positions == "sincos" or (positions == "auto" and size == "micro"):
            start[0, int(has_token) :] = _waves(*self.grid, width)
        self.positions = nn.Parameter(start)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(
            *(Block(width, heads, mlp_ratio * width, dropout, attention_dropout, layer_norm_eps) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width, layer_norm_eps)
        self.head = nn.Linear(width, shapes.outputs)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        row = self.patches(image).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            row = torch.cat([self.class_token.expand(len(row), -1, -1), row], dim=1)
        seen = self.norm(self.blocks(self.dropout(row + self.positions)))
        outputs: Tensor = self.head(seen.mean(1) if self.class_token is None else seen[:, 0])
        return outputs


def _waves(high: int, wide: int, width: int) -> Tensor:
    """float32 [high * wide, width]: a quarter each of sines and cosines of the row and of the column (Vaswani et al.
    2017, in two dimensions); what does not divide by four is 0.
    """
    quarter = width // 4
    speed = 10000.0 ** (-torch.arange(quarter) / max(quarter - 1, 1))
    row, column = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
    down, across = row.reshape(-1, 1) * speed, column.reshape(-1, 1) * speed
    waves = torch.cat([down.sin(), down.cos(), across.sin(), across.cos()], dim=1)
    return F.pad(waves, (0, width - 4 * quarter))


def _patch(high: int, wide: int) -> int:
    """What `auto` chooses. Raises UserError where nothing divides the image into FEWEST to MOST patches."""
    if is_large(high, wide) and high % LARGE_PATCH == 0 and wide % LARGE_PATCH == 0:
        return LARGE_PATCH
    for side in range(2, min(high, wide) + 1):
        if high % side == 0 and wide % side == 0 and FEWEST <= high * wide // side**2 <= MOST:
            return side
    raise UserError(
        f"model vit: no patch divides {high}x{wide} pixels into {FEWEST} to {MOST} patches. {_dividing(high, wide)}"
    )


def _dividing(high: int, wide: int) -> str:
    """What to do, with the patches that would do."""
    sides = [str(side) for side in range(2, min(high, wide) + 1) if high % side == 0 and wide % side == 0]
    if not sides:
        return "Bring the images to another size, or use model mlp."
    return f"Give patch: {', '.join(sides[:-1]) + ' or ' if len(sides) > 1 else ''}{sides[-1]}."
