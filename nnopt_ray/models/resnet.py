"""Residual networks for small images: a 3x3 stem without pooling, so that 8x8 to 64x64 keep their detail."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nnopt_ray.data.types import Shapes
from nnopt_ray.errors import UserError
from nnopt_ray.models.inputs import one_image

# depth → basic blocks in each stage. A depth of the form 6n+2 has three stages of n blocks (He et al.
# 2015, section 4.2); 18 is the first network of the same paper's table 1.
STAGES: dict[int, tuple[int, ...]] = {
    8: (1, 1, 1),
    14: (2, 2, 2),
    18: (2, 2, 2, 2),
    20: (3, 3, 3),
    32: (5, 5, 5),
    44: (7, 7, 7),
    56: (9, 9, 9),
}


class Block(nn.Module):
    """Basic block: two 3x3 convolutions and the shortcut around them.

    float32 [rows, channels, h, w] → float32 [rows, width, ceil(h / stride), ceil(w / stride)].
    """

    def __init__(
        self, channels: int, width: int, stride: int, *, batch_norm: bool, projection: bool, branch_scale: float
    ):
        super().__init__()
        self.branch = nn.Sequential(
            *_convolution(channels, width, 3, stride, batch_norm),
            nn.ReLU(),
            *_convolution(width, width, 3, 1, batch_norm),
        )
        self.branch_scale = branch_scale
        self.stride = stride
        self.added = width - channels
        self.projection: nn.Module | None = None
        if projection and (stride != 1 or self.added):
            self.projection = nn.Sequential(*_convolution(channels, width, 1, stride, batch_norm))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        if self.branch_scale != 1.0:
            y = y * self.branch_scale
        if self.projection is not None:
            x = self.projection(x)
        elif self.added or self.stride != 1:
            below = self.added // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, below, self.added - below))
        return F.relu(x + y)


def _convolution(channels: int, width: int, kernel: int, stride: int, batch_norm: bool) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=not batch_norm)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return [convolution, nn.BatchNorm2d(width)] if batch_norm else [convolution]


class ResNet(nn.Module):
    """Residual network for small images (He et al. 2015, arXiv:1512.03385).

    float32 [rows, channels, height, width] → float32 [rows, outputs]. Depths 8, 14, 20, 32, 44 and 56
    are the paper's CIFAR networks (section 4.2: three stages, shortcuts of option A, which have no
    weights); 18 is its four-stage network with projections (option B) behind a 3x3 stem. Each stage
    after the first halves height and width and doubles the channels. Convolutions start as He et al.
    propose (normal, fan out). Without batch norm each block's branch is divided by the square root of
    the number of blocks, which keeps the signal's size at any depth (Hayou et al. 2021, "Stable ResNet").

    Raises UserError when the data is not one image per row, or the images are too small for the stages.

    Keys:
        depth: layers with weights on the longest path.
        width: channels of the first stage; auto is the paper's 16, and 64 for depth 18.
        batch_norm: normalise over the batch after each convolution.
        dropout: share of the pooled features set to zero while training, just before the last layer.
    """

    lane_keys: ClassVar[tuple[str, ...]] = ("dropout",)  # what lanes of one pack may have each of its own

    def __init__(
        self,
        shapes: Shapes,
        *,
        depth: Literal[8, 14, 18, 20, 32, 44, 56] = 20,
        width: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = "auto",
        batch_norm: bool = True,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        blocks = STAGES[depth]
        channels = _channels(shapes, depth, smallest=2 ** (len(blocks) - 1))
        if width == "auto":
            width = 64 if depth == 18 else 16
        self.stem = nn.Sequential(*_convolution(channels, width, 3, 1, batch_norm), nn.ReLU())
        branch_scale = 1.0 if batch_norm else sum(blocks) ** -0.5
        stages: list[nn.Module] = []
        inside = width
        for stage, count in enumerate(blocks):
            outside = width * 2**stage
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(
                    Block(
                        inside,
                        outside,
                        stride,
                        batch_norm=batch_norm,
                        projection=depth == 18,
                        branch_scale=branch_scale,
                    )
                )
                inside = outside
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(inside, shapes.outputs)

    def forward(self, image: Tensor) -> Tensor:
        pooled = self.stages(self.stem(image)).mean((2, 3))
        outputs: Tensor = self.head(self.dropout(pooled))
        return outputs


def _channels(shapes: Shapes, depth: int, smallest: int) -> int:
    """Channels of the images; refuses data that is no image, or smaller than `smallest` pixels a side."""
    channels, height, width = one_image(shapes, "resnet")
    if min(height, width) < smallest:
        raise UserError(
            f"model resnet of depth {depth} halves the image {smallest.bit_length() - 1} times and needs at least "
            f"{smallest}x{smallest} pixels, and these are {height}x{width}. Use "
            + ("a depth other than 18, " if depth == 18 and min(height, width) >= 4 else "model mlp, ")
            + "or larger images."
        )
    return channels
