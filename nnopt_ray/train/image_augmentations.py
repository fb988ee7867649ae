"""Augmentations of images, float32 [rows, channels, height, width]."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from nnopt_ray.errors import PartError
from nnopt_ray.section import Count
from nnopt_ray.train.augmentations import Augmentation, Share

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nnopt_ray.data.types import Input

# The nearest pixel is of every scale; 0 is black only where the steps leave black at 0.
Outside = Literal["edge", "reflect", "zero"]

GREY = (0.299, 0.587, 0.114)  # how bright red, green and blue are (ITU-R BT.601)
TRIES = 10  # boxes that are drawn for one that fits, as in torchvision's RandomErasing


class OfImages(Augmentation):
    """What changes images."""

    kinds = ("image",)


class RandomCrop(OfImages):
    """Move the image by up to `padding` whole pixels down or up and to the right or left, each as likely as any other.

    It is the usual cut of the image's own size out of the padded image (He et al. 2016, section 4.2).

    Keys:
        padding: pixels, fewer than a side has; without it an eighth of the shorter side, as the paper's 4 of 32.
        outside: what lies beyond the edge: edge repeats the nearest pixel, reflect mirrors, zero is 0 after the steps.
    """

    def __init__(self, *, padding: Count | None = None, outside: Outside = "edge") -> None:
        self.padding, self.outside = padding, outside

    def refuse(self, given: Input) -> str:
        height, width = given.shape[1:]
        if self.padding is not None and self.padding >= min(height, width):
            return f"padding must be less than a side, and {self.padding} is not for images of {height}x{width} pixels"
        return ""

    def __call__(self, x: Tensor, draws: torch.Generator) -> Tensor:
        from nnopt_ray.train.warping import shifted

        most = self.padding if self.padding is not None else max(1, min(x.shape[-2:]) // 8)
        down, right = (
            x.new_empty(len(x)).random_(0, 2 * most + 1, generator=draws).long() - most for _ in ("down", "right")
        )
        return shifted(x, down, right, self.outside)


class Flip(OfImages):
    """Mirror some of the images.

    Keys:
        direction: horizontal swaps left and right, vertical top and bottom; both does each of the two by chance.
        probability: with which an image is mirrored.
    """

    def __init__(
        self, *, direction: Literal["horizontal", "vertical", "both"] = "horizontal", probability: Share = 0.5
    ) -> None:
        self.direction, self.probability = direction, probability

    def __call__(self, x: Tensor, draws: torch.Generator) -> Tensor:
        for direction, axis in (("horizontal", -1), ("vertical", -2)):
            if self.direction in (direction, "both"):
                chosen = _uniform(x, 0, 1, draws) < self.probability
                x = x.flip(axis).where(chosen, x)
        return x


class Rotate(OfImages):
    """Turn the image around its middle, by an angle that is drawn evenly; pixels are interpolated bilinearly.

    Keys:
        degrees: the largest angle, to either side.
        outside: what lies beyond the edge: edge repeats the nearest pixel, reflect mirrors, zero is 0 after the steps.
    """

    def __init__(self, *, degrees: Annotated[float, Field(ge=0, le=180)] = 10.0, outside: Outside = "edge") -> None:
        self.degrees, self.outside = degrees, outside

    def __call__(self, x: Tensor, draws: torch.Generator) -> Tensor:
        from nnopt_ray.train.warping import rotated

        return rotated(x, _uniform(x, -self.degrees, self.degrees, draws).flatten(), self.outside)


class Affine(OfImages):
    """Move, stretch and slant the image, each by an amount that is drawn evenly; pixels are interpolated bilinearly.

    Keys:
        translate: the farthest move, as a share of the height and of the width, to every side.
        scale: sides grow to between 1 - scale and 1 + scale times their length, both alike.
        shear: the largest angle by which upright lines lean, in degrees, to either side.
        outside: what lies beyond the edge: edge repeats the nearest pixel, reflect mirrors, zero is 0 after the steps.
    """

    def __init__(
        self,
        *,
        translate: Share = 0.1,
        scale: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        shear: Annotated[float, Field(ge=0, le=60)] = 0.0,
        outside: Outside = "edge",
    ) -> None:
        self.translate, self.scale, self.shear, self.outside = translate, scale, shear, outside

    def __call__(self, x: Tensor, draws: torch.Generator) -> Tensor:
        from nnopt_ray.train.warping import warped

        height, width = x.shape[-2:]
        moved = x.new_empty(len(x), 2).uniform_(-self.translate, self.translate, generator=draws)
        grown = _uniform(x, 1 - self.scale, 1 + self.scale, draws).flatten()
        lean = _uniform(x, -self.shear, self.shear, draws).flatten()
        matrix = x.new_zeros(len(x), 2, 2)
        matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / grown
        matrix[:, 0, 1] = lean.deg2rad().tan() / grown
        return warped(x, matrix, moved * x.new_tensor([width, height]), self.outside)


class Colour(OfImages):
    """Make the image lighter or darker, its contrast larger or smaller, its colours stronger or paler.

    Values are not cut to a range: behind the steps they are numbers of any scale, of which none is white.

    Keys:
        brightness: what is added to every pixel at most, or taken away, as a share of what the image's darkest and
            lightest value are apart.
        contrast: distances from the image's mean become 1 - contrast to 1 + contrast times as large.
        saturation: distances of red, green and blue from their grey become 1 - saturation to 1 + saturation times
            as large; for three channels.
    """

    def __init__(self, *, brightness: Share = 0.2, contrast: Share = 0.2, saturation: Share = 0.0) -> None:
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation

    def refuse(self, given: Input) -> str:
        if self.saturation > 0 and given.shape[0] != 3:
            return f"saturation is for red, green and blue, and these images have {given.shape[0]} channel" + "s" * (
                given.shape[0] != 1
            )
        return ""

    def __call__(self, x: Tensor, draws: torch.Generator) -> Tensor:
        if self.saturation > 0:
            grey = (x * x.new_tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True)
            x = grey + (x - grey) * _uniform(x, 1 - self.saturation, 1 + self.saturation, draws)
        mean = x.mean((1, 2, 3), keepdim=True)
        apart = x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True)
        added = apart * _uniform(x, -self.brightness, self.brightness, draws)
        return mean + (x - mean) * _uniform(x, 1 - self.contrast, 1 + self.contrast, draws) + added


class Erase(OfImages):
    """Cover a box of some of the images (random erasing, Zhong et al. 2017).

    Its sides' ratio is drawn evenly in its logarithm, so that tall and wide boxes are as likely.

    Keys:
        probability: with which an image gets a box.
        min_area: of the box, as a share of the image.
        max_area: of the box, as a share of the image.
        min_aspect: height over width, which is between this and its inverse.
        fill: noise draws each pixel evenly between the image's smallest and largest value; mean is that of the image;
            zero is 0 after the steps.
    """

    def __init__(
        self,
        *,
        probability: Share = 0.5,
        min_area: Annotated[float, Field(gt=0, le=1)] = 0.02,
        max_area: Annotated[float, Field(gt=0, le=1)] = 0.4,
        min_aspect: Annotated[float, Field(gt=0, le=1)] = 0.3,
        fill: Literal["noise", "mean", "zero"] = "noise",
    ) -> None:
        if min_area > max_area:
            raise PartError(
                f"data.augment: erase.min_area must be at most max_area, and {min_area:g} is more than "
                f"{max_area:g}: lower it."
            )
        self.probability, self.area, self.aspect, self.fill = probability, (min_area, max_area), min_aspect, fill

    def __call__(self, x: Tensor, draws: torch.Generator) -> Tensor:
        from nnopt_ray.train.warping import boxes

        high, wide = x.shape[-2:]
        area = x.new_empty(len(x), TRIES).uniform_(*self.area, generator=draws) * (high * wide)
        widest = -math.log(self.aspect)
        aspect = x.new_empty(len(x), TRIES).uniform_(-widest, widest, generator=draws).exp()
        heights, widths = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        fits = (heights >= 1) & (heights <= high) & (widths >= 1) & (widths <= wide)
        first = fits.float().argmax(1, keepdim=True)
        height, width = heights.gather(1, first)[:, 0].long(), widths.gather(1, first)[:, 0].long()
        place = x.new_empty(2, len(x)).uniform_(0, 1, generator=draws)
        top, left = (place[0] * (high - height + 1)).long(), (place[1] * (wide - width + 1)).long()
        covered = boxes(top, left, height, width, (high, wide)) & fits.any(1)[:, None, None, None]
        covered &= _uniform(x, 0, 1, draws) < self.probability
        return self._filling(x, draws).where(covered, x)

    def _filling(self, x: Tensor, draws: torch.Generator) -> Tensor:
        if self.fill == "zero":
            return x.new_zeros(1)
        if self.fill == "mean":
            return x.mean((1, 2, 3), keepdim=True)
        least, most = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        return least + (most - least) * x.new_empty(x.shape).uniform_(0, 1, generator=draws)


def _uniform(x: Tensor, low: float, high: float, draws: torch.Generator) -> Tensor:
    """[rows, 1, 1, 1]: a number of each image's own."""
    return x.new_empty(len(x), 1, 1, 1).uniform_(low, high, generator=draws)
