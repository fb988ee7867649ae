"""Augmentations: rows of a training batch, changed by chance in ways that leave their target true.

Each row draws its own. They come behind the steps of the data, in the units that the network sees, epoch after
epoch anew; validation and test rows are never touched. What changes images is in `image_augmentations.py`, what
changes sequences in `sequence_augmentations.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from nnopt_ray.section import NonNegative

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nnopt_ray.data.types import Input

Share = Annotated[float, Field(ge=0, le=1)]


class Augmentation:
    """Base of all augmentations.

    kinds: the kinds of input (`data.types.Input`) that it changes; others of a row stay as they are.
    forecasts: whether what comes next (`data.window`) stays true.
    """

    kinds: ClassVar[tuple[str, ...]] = ()
    forecasts: ClassVar[bool] = True

    def refuse(self, given: Input) -> str:
        """Why an input of one of its kinds cannot be changed so, as half a sentence; empty when it can."""
        return ""

    def __call__(self, x: Tensor, draws: torch.Generator) -> Tensor:
        """The rows changed: of the shape, dtype and device of `x` [rows, *shape], which stays as it is.

        draws: a generator on the device of `x`; all that is random comes from it.
        """
        raise NotImplementedError


class Noise(Augmentation):
    """Add independent normal noise to every number (Bishop 1995: near to a penalty on the network's slopes).

    Keys:
        std: standard deviation, in the data's own units after the steps; behind a standard scale 1 is a column's own.
    """

    kinds = ("table", "image", "sequence")

    def __init__(self, *, std: NonNegative = 0.1) -> None:
        self.std = std

    def __call__(self, x: Tensor, draws: torch.Generator) -> Tensor:
        return x + x.new_empty(x.shape).normal_(0, self.std, generator=draws)


class FeatureSwap(Augmentation):
    """Replace some values of a row by those that other rows of the batch have in the same columns.

    So a value is one that its column really has (swap noise; studied by Bahri et al. 2022). Columns are swapped one
    by one, also those that one_hot has made of one: such a row may have two categories, or none.

    Keys:
        share: probability with which a value is replaced.
    """

    kinds = ("table", "categories")

    def __init__(self, *, share: Share = 0.1) -> None:
        self.share = share

    def __call__(self, x: Tensor, draws: torch.Generator) -> Tensor:
        from torch import rand, randint

        chosen = rand(x.shape, generator=draws, device=x.device) < self.share
        others = randint(len(x), x.shape, generator=draws, device=x.device)
        return x.gather(0, others).where(chosen, x)
