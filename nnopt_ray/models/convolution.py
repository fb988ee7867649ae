"""What the convolutional families share: convolutions as He et al. start them, stems, and the size of images."""

from __future__ import annotations

from typing import Literal

from torch import nn

from nnopt_ray.errors import UserError

Stem = Literal["auto", "small", "imagenet"]

# From this many pixels on the shorter side, `auto` takes the networks as they were published for ImageNet (224
# pixels). They shrink an image 32 times: at 64 pixels 2x2 would be left for the last layers to see.
LARGE = 128


def is_large(height: int, width: int) -> bool:
    return min(height, width) >= LARGE


def convolution(
    channels: int, width: int, kernel: int, stride: int, batch_norm: bool, *, bias: bool | None = None
) -> list[nn.Module]:
    """A convolution with half its kernel as padding, and batch norm if asked: height and width divided by stride.

    It has a bias where no batch norm follows, unless `bias` says otherwise. Weights start normal with the variance
    of He et al. 2015 (fan out), biases zero.
    """
    if bias is None:
        bias = not batch_norm
    made = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=bias)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return [made, nn.BatchNorm2d(width)] if batch_norm else [made]


def refuse_small(network: str, size: tuple[int, int], halvings: int, cure: str) -> None:
    """Raises UserError when an image of (height, width) pixels cannot be halved so many times.

    network: as the sentence names it; cure: what to use instead, in words.
    """
    height, width = size
    smallest = 2**halvings
    if min(height, width) < smallest:
        raise UserError(
            f"{network} halves the image {halvings} times and needs at least {smallest}x{smallest} pixels, and these "
            f"are {height}x{width}. Use {cure}, or larger images."
        )
