"""EfficientNet: inverted bottlenecks with squeeze-excitation, scaled in width and depth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nnopt_ray.data.types import Shapes
from nnopt_ray.experiment import Beside
from nnopt_ray.models.convolution import Stem, is_large, refuse_small
from nnopt_ray.models.inputs import one_image

Padding = Literal["symmetric", "same"]


@dataclass(frozen=True)
class Stage:
    """Blocks that share their form. expansion: channels inside of a block, for each that enters it."""

    expansion: int
    kernel: int
    stride: int
    width: int
    blocks: int


# Tan and Le 2019, table 1.
B0 = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
# Of our own, for images of 8 to 64 pixels: the first stages of B0, of which two halve the image.
TINY = (Stage(1, 3, 1, 16, 1), Stage(4, 3, 2, 24, 2), Stage(4, 5, 2, 40, 2), Stage(4, 3, 1, 64, 1))

# size → stages, what their width and their depth is multiplied by (Tan and Le's reference code, `efficientnet_params`),
# and channels of the stem and behind the last stage before that.
SIZES: dict[str, tuple[tuple[Stage, ...], float, float, int, int]] = {
    "tiny": (TINY, 1.0, 1.0, 16, 256),
    "b0": (B0, 1.0, 1.0, 32, 1280),
    "b1": (B0, 1.0, 1.1, 32, 1280),
    "b2": (B0, 1.1, 1.2, 32, 1280),
    "b3": (B0, 1.2, 1.4, 32, 1280),
}
SQUEEZED = 4  # channels that enter a block, for each of its squeeze-excitation


def _rounded(width: int, by: float) -> int:
    """A width times `by`, as a multiple of 8 that is at most a tenth below it (reference code, `round_filters`)."""
    wished = width * by
    near = max(8, int(wished + 4) // 8 * 8)
    return near + 8 if near < 0.9 * wished else near


class Convolution(nn.Module):
    """A convolution, batch norm, and SiLU unless it is the last of a branch.

    float32 [rows, channels, h, w] → float32 [rows, width, ceil(h / stride), ceil(w / stride)]. padding same: as
    TensorFlow pads, which has one pixel less before than behind where the stride divides the side.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        activate: bool = True,
        padding: Padding = "symmetric",
    ):
        super().__init__()
        self.same = padding == "same" and stride > 1
        beside = 0 if self.same else kernel // 2
        self.convolution = nn.Conv2d(channels, width, kernel, stride, padding=beside, groups=groups, bias=False)
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out")
        self.norm = nn.BatchNorm2d(width)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        if self.same:
            kernel, stride = self.convolution.kernel_size[0], self.convolution.stride[0]
            missing = [max(0, (math.ceil(side / stride) - 1) * stride + kernel - side) for side in x.shape[2:]]
            x = F.pad(x, [pad for m in reversed(missing) for pad in (m // 2, m - m // 2)])
        x = self.norm(self.convolution(x))
        return F.silu(x) if self.activate else x


class SqueezeExcitation(nn.Module):
    """Each channel times a factor in 0 … 1 that is found from the means of all (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)
        for each in (self.reduce, self.expand):
            nn.init.kaiming_normal_(each.weight, mode="fan_out")
            assert each.bias is not None
            nn.init.zeros_(each.bias)

    def forward(self, x: Tensor) -> Tensor:
        seen = F.silu(self.reduce(x.mean((2, 3), keepdim=True)))
        return torch.sigmoid(self.expand(seen)) * x


class InvertedBottleneck(nn.Module):
    """Expansion, a convolution of each channel alone, squeeze-excitation, projection; a shortcut where shapes agree.

    rate: share of rows whose branch is left out while training (Huang et al. 2016, "stochastic depth"; those that
    stay are divided by 1 - rate).
    """

    def __init__(self, channels: int, stage: Stage, width: int, stride: int, rate: float, padding: Padding) -> None:
        super().__init__()
        inside = channels * stage.expansion
        self.expand = Convolution(channels, inside) if stage.expansion > 1 else nn.Identity()
        self.depthwise = Convolution(inside, inside, stage.kernel, stride, groups=inside, padding=padding)
        self.squeeze = SqueezeExcitation(inside, max(1, channels // SQUEEZED))
        self.project = Convolution(inside, width, activate=False)
        self.shortcut = stride == 1 and channels == width
        self.rate = rate if self.shortcut else 0.0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.squeeze(self.depthwise(self.expand(x))))
        if not self.shortcut:
            return y
        if self.rate > 0 and self.training:
            y = y * F.dropout(y.new_ones(len(y), 1, 1, 1), self.rate)
        return x + y


class EfficientNet(nn.Module):
    """EfficientNet (Tan and Le 2019, arXiv:1905.11946).

    float32 [rows, channels, height, width] → float32 [rows, outputs]. B0 to B3 are torchvision's networks weight for
    weight: 5,288,548, 7,794,184, 9,109,994 and 12,233,232 of them for 3 channels and 1000 classes
    (torchvision.models.efficientnet, `num_params`), with its start of weights and its batch norm. `tiny` has their
    blocks, and 84,802 weights for 1 channel and 10 classes. Stochastic depth grows from nothing in the first block to
    nearly its full rate in the last, as in the reference code.

    Raises UserError when the data is not one image per row, or the images are too small for the stages.

    Keys:
        size: tiny, for small images, or one of the published networks.
        stem: the first convolution. imagenet halves the image; small does not; auto: imagenet from 128 pixels on.
        stochastic_depth: share of rows whose branch is left out while training, in the last block.
        dropout: share of the pooled features set to zero while training, just before the last layer.
        padding: same: as TensorFlow pads, which transformers' weights were made with; symmetric: as torchvision.
        weights: public weights to start from, a file of torchvision's or transformers' EfficientNet, beside the page.
    """

    lane_keys: ClassVar[tuple[str, ...]] = ("dropout",)  # what lanes of one pack may have each of its own

    def __init__(
        self,
        shapes: Shapes,
        *,
        size: Literal["tiny", "b0", "b1", "b2", "b3"] = "tiny",
        stem: Stem = "auto",
        stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        padding: Padding = "symmetric",
        weights: Annotated[str | None, Beside()] = None,
    ) -> None:
        super().__init__()
        self.public_weights, self.padding = weights, padding
        stages, wider, deeper, first, last = SIZES[size]
        channels, height, wide = one_image(shapes, "efficientnet")
        if stem == "auto":
            stem = "imagenet" if is_large(height, wide) else "small"
        halvings = sum(stage.stride == 2 for stage in stages) + (stem == "imagenet")
        cure = "stem: small" if stem == "imagenet" else "size: tiny" if size != "tiny" else "model mlp"
        refuse_small(f"model efficientnet of size {size} with stem: {stem}", (height, wide), halvings, cure)
        inside = _rounded(first, wider)
        self.stem = Convolution(channels, inside, 3, 2 if stem == "imagenet" else 1, padding=padding)
        counts = [math.ceil(stage.blocks * deeper) for stage in stages]
        rates = iter(stochastic_depth * block / sum(counts) for block in range(sum(counts)))
        self.stages = nn.Sequential()
        for stage, count in zip(stages, counts, strict=True):
            outside = _rounded(stage.width, wider)
            self.stages.append(nn.Sequential(*_blocks(inside, outside, stage, count, rates, padding)))
            inside = outside
        self.top = Convolution(inside, _rounded(last, wider))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(_rounded(last, wider), shapes.outputs)
        bound = shapes.outputs**-0.5
        nn.init.uniform_(self.head.weight, -bound, bound)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        pooled = self.top(self.stages(self.stem(image))).mean((2, 3))
        outputs: Tensor = self.head(self.dropout(pooled))
        return outputs


def _blocks(
    channels: int, width: int, stage: Stage, count: int, rates: Iterator[float], padding: Padding
) -> Iterator[nn.Module]:
    for block in range(count):
        stride = stage.stride if block == 0 else 1
        yield InvertedBottleneck(channels if block == 0 else width, stage, width, stride, next(rates), padding)
