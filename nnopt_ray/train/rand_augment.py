"""RandAugment: some of many changes of an image, drawn for each image, all of one strength (Cubuk et al. 2020).

Behind the steps an image's numbers have no range that is known, so what the paper defines on 0 to 255 is defined here
on the image's own range, from its smallest to its largest value over all channels; no value leaves it. Strengths are
those of the paper's code and of torchvision at magnitude 10, and linear in the magnitude.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from nnopt_ray.train.image_augmentations import GREY, OfImages, Outside

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LEVELS = 256  # of grey, by which equalize counts and posterize rounds: as in images of 8 bits

# At magnitude 10.
DEGREES, SHEAR, TRANSLATE = 30.0, 0.3, 150 / 331  # of the side: AutoAugment's 150 pixels of 331
ENHANCED = 0.9  # brightness, contrast, saturation and sharpness become 1 - 0.9 to 1 + 0.9 times as large
FEWER_BITS = 4  # of 8, by posterize

GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


class RandAugment(OfImages):
    """Do some changes that are drawn for each image, one after another, all of one strength (Cubuk et al. 2020).

    Drawn evenly from: nothing, rotate (by 30 degrees at magnitude 10), shear_x and shear_y (by 0.3 of the other side),
    translate_x and translate_y (by 0.45 of the side), brightness, contrast and sharpness (1 +- 0.9 times), posterize
    (to 4 bits), solarize (what is above a limit is inverted, all of it at magnitude 10), equalize; of three channels
    also colour (saturation, 1 +- 0.9 times) and auto_contrast (each channel stretched to the image's range). Signs are
    drawn; equalize, for images of 256 pixels and more, and auto_contrast know no strength. What is light or dark is
    measured in the image's own range, which stays.

    Keys:
        operations: changes of each image.
        magnitude: of the changes, 0 to 10 as in the paper; amounts are linear in it.
        outside: what lies beyond the edge: edge repeats the nearest pixel, reflect mirrors, zero is 0 after the steps.
    """

    def __init__(
        self,
        *,
        operations: Annotated[int, Field(ge=0, le=20)] = 2,
        magnitude: Annotated[float, Field(ge=0, le=10)] = 5.0,
        outside: Outside = "edge",
    ) -> None:
        self.operations, self.magnitude, self.outside = operations, magnitude, outside

    def __call__(self, x: Tensor, draws: torch.Generator) -> Tensor:
        names = names_for(x.shape[1])
        for _ in range(self.operations):
            chosen = x.new_empty(len(x)).random_(0, len(names), generator=draws).long()
            # Only the sign of an amount is a matter of chance.
            sign = x.new_empty(len(x)).random_(0, 2, generator=draws) * 2 - 1
            x = applied(x, chosen, sign * (self.magnitude / 10), self.outside)
        return x


def names_for(channels: int) -> tuple[str, ...]:
    """The changes of images of so many channels, in the order of their numbers."""
    return ("nothing", *GEOMETRIC, *ONE_CHANNEL, *(THREE_CHANNELS if channels == 3 else ()))


def applied(x: Tensor, chosen: Tensor, amount: Tensor, outside: Outside) -> Tensor:
    """Each image changed in the way that `chosen`, int64 [rows], numbers, by `amount` [rows] from -1 to 1."""
    import torch

    names = names_for(x.shape[1])
    numbers = {name: number for number, name in enumerate(names)}
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    apart = (high - low).clamp(min=torch.finfo(x.dtype).tiny)
    moving = (chosen > 0) & (chosen <= len(GEOMETRIC))
    after = torch.where(moving[:, None, None, None], _moved(x, numbers, chosen, amount, outside), x)
    for name, change in {**ONE_CHANNEL, **(THREE_CHANNELS if x.shape[1] == 3 else {})}.items():
        rows = (chosen == numbers[name]).nonzero()[:, 0]
        if len(rows):
            light = (x[rows] - low[rows]) / apart[rows]
            changed = change(light, amount[rows, None, None, None]).clamp(0, 1)
            # What a change of light leaves as it is stays bit for bit.
            shown = torch.where(changed == light, x[rows], low[rows] + changed * apart[rows])
            after = after.index_copy(0, rows, shown)
    return after


def _moved(x: Tensor, numbers: dict[str, int], chosen: Tensor, amount: Tensor, outside: Outside) -> Tensor:
    import torch

    from nnopt_ray.train.warping import warped

    by = {name: torch.where(chosen == numbers[name], amount, 0) for name in GEOMETRIC}
    angle = (by["rotate"] * DEGREES).deg2rad()
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack(
        [
            torch.stack([cos, -sin + by["shear_x"] * SHEAR], 1),
            torch.stack([sin + by["shear_y"] * SHEAR, cos], 1),
        ],
        1,
    )
    side = x.new_tensor([x.shape[-1], x.shape[-2]])
    shift = torch.stack([by["translate_x"], by["translate_y"]], 1) * TRANSLATE * side
    return warped(x, matrix, shift, outside)


# Of light, [rows, channels, height, width] from 0 to 1, by an amount [rows, 1, 1, 1] from -1 to 1.


def _brightness(light: Tensor, amount: Tensor) -> Tensor:
    return light * (1 + ENHANCED * amount)


def _contrast(light: Tensor, amount: Tensor) -> Tensor:
    mean = _grey(light).mean((2, 3), keepdim=True)
    return mean + (light - mean) * (1 + ENHANCED * amount)


def _colour(light: Tensor, amount: Tensor) -> Tensor:
    grey = _grey(light)
    return grey + (light - grey) * (1 + ENHANCED * amount)


def _sharpness(light: Tensor, amount: Tensor) -> Tensor:
    """Away from, or towards, the image smoothed by Pillow's SMOOTH; its edge stays."""
    from torch.nn.functional import conv2d

    channels = light.shape[1]
    kernel = light.new_tensor([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    if min(light.shape[2:]) < 3:
        return light
    smooth = light.clone()
    smooth[:, :, 1:-1, 1:-1] = conv2d(light, kernel.expand(channels, 1, 3, 3), groups=channels)
    return smooth + (light - smooth) * (1 + ENHANCED * amount)


def _posterize(light: Tensor, amount: Tensor) -> Tensor:
    fewer = (FEWER_BITS * amount.abs()).round()
    step = 2**fewer
    rounded = ((light * (LEVELS - 1)).round() / step).floor() * step / (LEVELS - 1)
    return rounded.where(fewer > 0, light)


def _solarize(light: Tensor, amount: Tensor) -> Tensor:
    return (1 - light).where(light > 1 - amount.abs(), light)


def _equalize(light: Tensor, amount: Tensor) -> Tensor:
    """Each channel's values as frequent as any other: by their ranks among LEVELS, as Pillow has it, to the point
    that an image of few pixels (up to 255) stays."""
    level = (light * (LEVELS - 1)).round().long().flatten(2)
    counts = light.new_zeros(*light.shape[:2], LEVELS).scatter_add_(2, level, light.new_ones(1).expand(level.shape))
    below = counts.cumsum(2) - counts
    top = counts.gather(2, level.amax(2, keepdim=True))  # pixels of the lightest level
    step = (counts.sum(2, keepdim=True) - top).div(LEVELS - 1, rounding_mode="floor")
    table = ((below + (step / 2).floor()) / step.clamp(min=1)).floor().clamp(0, LEVELS - 1) / (LEVELS - 1)
    flat = light.flatten(2)
    return table.gather(2, level).where(step > 0, flat).view_as(light)


def _auto_contrast(light: Tensor, amount: Tensor) -> Tensor:
    low, high = light.amin((2, 3), keepdim=True), light.amax((2, 3), keepdim=True)
    return ((light - low) / (high - low)).where(high > low, light)


def _grey(light: Tensor) -> Tensor:
    if light.shape[1] != 3:
        return light.mean(1, keepdim=True)
    return (light * light.new_tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True)


ONE_CHANNEL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "equalize": _equalize,
}
THREE_CHANNELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"colour": _colour, "auto_contrast": _auto_contrast}
