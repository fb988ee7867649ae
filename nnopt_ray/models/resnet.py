"""Residual networks: those of He et al. for small images, and those for ImageNet."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from nnopt_ray.data.types import Shapes
from nnopt_ray.experiment import Beside
from nnopt_ray.models.convolution import Stem, convolution, is_large, refuse_small
from nnopt_ray.models.inputs import one_image

# depth → blocks in each stage. Three stages of n basic blocks make a depth of 6n+2 (He et al. 2015, section 4.2);
# four stages are the networks of the same paper's table 1, the deeper ones of bottlenecks.
STAGES: dict[int, tuple[int, ...]] = {
    8: (1, 1, 1),
    14: (2, 2, 2),
    18: (2, 2, 2, 2),
    20: (3, 3, 3),
    32: (5, 5, 5),
    34: (3, 4, 6, 3),
    44: (7, 7, 7),
    50: (3, 4, 6, 3),
    56: (9, 9, 9),
    101: (3, 4, 23, 3),
}
BOTTLENECKS = (50, 101)
EXPANSION = 4  # channels that leave a bottleneck, for each of its 3x3 convolution


class Block(nn.Module):
    """A residual block: the branch, and the shortcut around it.

    float32 [rows, channels, h, w] → float32 [rows, outside, ceil(h / stride), ceil(w / stride)], where outside is
    `width`, and EXPANSION times that of a bottleneck. The branch is two 3x3 convolutions, or a bottleneck of 1x1, 3x3
    and 1x1, whose 3x3 has the stride (as in torchvision; the paper's 1x1 had it).
    """

    def __init__(
        self,
        channels: int,
        width: int,
        stride: int,
        *,
        batch_norm: bool,
        projection: bool,
        branch_scale: float,
        bottleneck: bool = False,
    ):
        super().__init__()
        outside = width * EXPANSION if bottleneck else width
        steps = [(channels, width, 3, stride), (width, width, 3, 1)]
        if bottleneck:
            steps = [(channels, width, 1, 1), (width, width, 3, stride), (width, outside, 1, 1)]
        branch: list[nn.Module] = []
        for inside, out, kernel, by in steps:
            branch += [*convolution(inside, out, kernel, by, batch_norm), nn.ReLU()]
        self.branch = nn.Sequential(*branch[:-1])  # the last ReLU comes after the sum
        self.branch_scale = branch_scale
        self.stride = stride
        self.added = outside - channels
        self.projection: nn.Module | None = None
        if projection and (stride != 1 or self.added):
            self.projection = nn.Sequential(*convolution(channels, outside, 1, stride, batch_norm))

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


class ResNet(nn.Module):
    """Residual network (He et al. 2015, arXiv:1512.03385).

    float32 [rows, channels, height, width] → float32 [rows, outputs]. Depths 8, 14, 20, 32, 44 and 56
    are the paper's CIFAR networks (section 4.2: three stages, shortcuts of option A, which have no
    weights); 18, 34, 50 and 101 are its four-stage networks with projections (option B; 50 and 101 of
    bottlenecks). Each stage after the first halves height and width and doubles the channels. Behind the
    imagenet stem these four are torchvision's networks weight for weight: 11,689,512, 21,797,672, 25,557,032
    and 44,549,160 of them for 3 channels and 1000 classes (torchvision.models.resnet, `num_params`).

    Convolutions start as He et al. propose (normal, fan out). Without batch norm each block's branch is
    divided by the square root of the number of blocks, which keeps the signal's size at any depth (Hayou et
    al. 2021, "Stable ResNet").

    Raises UserError when the data is not one image per row, or the images are too small for the stages.

    Keys:
        depth: layers with weights on the longest path.
        width: channels of the first stage; auto is the paper's, 16 of three stages and 64 of four.
        stem: small: 3x3; imagenet: 7x7 and pooling to a quarter; auto: imagenet of four stages from 128 pixels on.
        batch_norm: normalise over the batch after each convolution.
        dropout: share of the pooled features set to zero while training, just before the last layer.
        weights: public weights to start from, a file of torchvision's or transformers' ResNet, beside the page.
    """

    lane_keys: ClassVar[tuple[str, ...]] = ("dropout",)  # what lanes of one pack may have each of its own

    def __init__(
        self,
        shapes: Shapes,
        *,
        depth: Literal[8, 14, 18, 20, 32, 34, 44, 50, 56, 101] = 20,
        width: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = "auto",
        stem: Stem = "auto",
        batch_norm: bool = True,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        weights: Annotated[str | None, Beside()] = None,
    ) -> None:
        super().__init__()
        self.public_weights = weights
        blocks = STAGES[depth]
        four = len(blocks) == 4
        channels, *size = one_image(shapes, "resnet")
        if stem == "auto":
            stem = "imagenet" if four and is_large(*size) else "small"
        halvings = len(blocks) - 1 + 2 * (stem == "imagenet")
        _refuse_small(depth, stem, (size[0], size[1]), halvings)
        if width == "auto":
            width = 64 if four else 16
        if stem == "imagenet":
            first = [*convolution(channels, width, 7, 2, batch_norm), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
        else:
            first = [*convolution(channels, width, 3, 1, batch_norm), nn.ReLU()]
        self.stem = nn.Sequential(*first)
        bottleneck = depth in BOTTLENECKS
        branch_scale = 1.0 if batch_norm else sum(blocks) ** -0.5
        stages: list[nn.Module] = []
        inside = width
        for stage, count in enumerate(blocks):
            made: list[nn.Module] = []
            for block in range(count):
                made.append(
                    Block(
                        inside,
                        width * 2**stage,
                        2 if stage > 0 and block == 0 else 1,
                        batch_norm=batch_norm,
                        projection=four,
                        branch_scale=branch_scale,
                        bottleneck=bottleneck,
                    )
                )
                inside = width * 2**stage * (EXPANSION if bottleneck else 1)
            stages.append(nn.Sequential(*made))
        self.stages = nn.Sequential(*stages)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(inside, shapes.outputs)

    def forward(self, image: Tensor) -> Tensor:
        pooled = self.stages(self.stem(image)).mean((2, 3))
        outputs: Tensor = self.head(self.dropout(pooled))
        return outputs


def _refuse_small(depth: int, stem: Stem, size: tuple[int, int], halvings: int) -> None:
    if stem == "imagenet":
        network, cure = f"model resnet of depth {depth} with stem: imagenet", "stem: small"
    elif len(STAGES[depth]) == 4 and min(size) >= 4:
        network, cure = f"model resnet of depth {depth}", "a depth of three stages (8, 14, 20, 32, 44 or 56), model mlp"
    else:
        network, cure = f"model resnet of depth {depth}", "model mlp"
    refuse_small(network, size, halvings, cure)
