"""The augmentations of a page, applied to the batches of training."""

from __future__ import annotations

import torch
from torch import Tensor

from nnopt_ray import tables
from nnopt_ray.data.types import Dataset
from nnopt_ray.data.words import Words, words_of
from nnopt_ray.errors import PartError, UserError
from nnopt_ray.experiment import Data
from nnopt_ray.train.augmentations import Augmentation
from nnopt_ray.train.sequence_augmentations import OfSequences
from nnopt_ray.train.text_augmentations import OfTexts
from nnopt_ray.train.warping import steps

SEVERAL = {"table": "tables", "image": "images", "sequence": "sequences", "categories": "categories", "tokens": "text"}


class Augmenter:
    """Changes batches by each part in turn; without parts it leaves them as they are.

    Raises UserError for data that a part is not for.
    """

    def __init__(self, data: Data, dataset: Dataset) -> None:
        shapes = dataset.shapes
        self._words: Words | None = None
        self.parts: list[tuple[str, Augmentation, tuple[int, ...]]] = []  # name, part, the inputs that it changes
        for index, part in enumerate(data.augment):
            made: Augmentation = tables.build("augmentation", part)
            place = f"data.augment.{index}: {part.type}"
            chosen = tuple(i for i, given in enumerate(shapes.inputs) if given.kind in made.kinds)
            if not chosen:
                takes = " and ".join(SEVERAL.get(kind, kind) for kind in made.kinds)
                there = " and ".join(SEVERAL.get(given.kind, given.kind) for given in shapes.inputs)
                raise UserError(f"{place} changes {takes}, and this data has {there}: leave it out.")
            if data.window is not None and not made.forecasts:
                raise UserError(
                    f"{place} changes where a sequence ends or how high it is, and a forecast follows from both: "
                    "leave it out."
                )
            for i in chosen:
                if reason := made.refuse(shapes.inputs[i]):
                    raise UserError(f"{place}: {reason}: change it, or leave it out.")
            if shapes.is_language and not (isinstance(made, OfTexts) and shapes.task in made.language):
                raise UserError(
                    f"{place} changes a text of which {shapes.task} asks for the token at each place: leave it out."
                )
            if isinstance(made, OfTexts) and self._words is None:
                self._words = words_of(dataset.folder)
            self.parts.append((part.type, made, chosen))
        self._kinds = [given.kind for given in shapes.inputs]

    @property
    def decided(self) -> dict[str, str]:
        """What it does, in words."""
        names = ", ".join(name for name, _, _ in self.parts)
        return {"augment": f"{names}: training rows alone, anew in every epoch"} if names else {}

    @torch.no_grad()
    def batch(self, inputs: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
        """The inputs of a batch, changed; what is given stays as it is. Raises PartError for what a part of one's
        own makes of another shape or type."""
        if not self.parts:
            return inputs
        draws = torch.Generator(device=inputs[0].device).manual_seed(seed)
        changed = list(inputs)
        for name, part, chosen in self.parts:
            for i in chosen:
                before = changed[i]
                lengths = None
                if self._kinds[i] == "sequence" and "lengths" in self._kinds:
                    lengths = inputs[self._kinds.index("lengths")]
                after = self._after(part, before, draws, lengths)
                if not isinstance(after, Tensor) or (after.shape, after.dtype) != (before.shape, before.dtype):
                    told = f"{after.dtype} {list(after.shape)}" if isinstance(after, Tensor) else type(after).__name__
                    raise PartError(
                        f"data.augment: {name} must return {before.dtype} {list(before.shape)} as it was given, "
                        f"and it returned {told}."
                    )
                if lengths is not None:
                    every, has = steps(after, lengths)
                    after = after * (every < has)[:, :, None]  # behind the end of a sequence is 0
                changed[i] = after
        return tuple(changed)

    def _after(self, part: Augmentation, x: Tensor, draws: torch.Generator, lengths: Tensor | None) -> Tensor:
        if isinstance(part, OfSequences):
            return part(x, draws, lengths)
        if isinstance(part, OfTexts):
            return part(x, draws, self._words)
        return part(x, draws)
