"""Images [rows, channels, height, width] with the channels last in memory, where that is faster."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnopt_ray.data.types import CODES, Shapes

WIDE = 128  # channels that enter a convolution


def gain_from_channels_last(model: nn.Module, shapes: Shapes, device: str) -> bool:
    """Whether to give a model its images with the channels last in memory.

    On a CPU convolutions are faster so: a step of a two-layer CNN on 1x8x8 1.24x, on 3x32x32 1.02x; of an
    8-layer ResNet on 1x8x8 1.15x, on 3x16x16 1.22x, on 3x32x32 1.24x (one core, batches of 64); with convolutions of
    each channel by itself more, of an EfficientNet 1.38x to 1.63x. Wide ones lose: a ResNet-18 0.94x. A model that
    uses `.view` on what its convolutions give would fail, so two rows are tried, in evaluation and without
    gradients.
    """
    convolutions = [each for each in model.modules() if isinstance(each, nn.Conv2d)]
    if device != "cpu" or shapes.image is None or not convolutions:
        return False
    if all(each.groups == 1 for each in convolutions) and max(each.in_channels for each in convolutions) > WIDE:
        return False
    rows = tuple(
        torch.zeros(2, *each.shape, dtype=torch.int64 if each.kind in CODES else torch.float32)
        for each in shapes.inputs
    )
    model.eval()
    with torch.no_grad():
        try:
            model(*channels_last(rows))
        except RuntimeError:  # "view size is not compatible with input tensor's size and stride"
            return False
    return True


def channels_last(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same values, images reordered in memory."""
    return tuple(x.to(memory_format=torch.channels_last) if x.dim() == 4 else x for x in inputs)
