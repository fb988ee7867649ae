"""What trainings must have in common to be lanes of one step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nnopt_ray import tables
from nnopt_ray.tables import Part
from nnopt_ray.train import fusible, images, masks
from nnopt_ray.train.fusible import CannotFuse
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.weights import trainable


class Shape:
    """What the lanes of all packs of one shape have in common: the network's structure, and where it was tried.

    Raises CannotFuse when a training of this shape cannot be a lane.
    """

    def __init__(self, example: Trainer) -> None:
        if getattr(example.model, "fit_directly", None) is not None:
            raise CannotFuse("the model finds its weights in a way of its own, not step by step")
        if example.placed.train.mapped is not None or example.placed.validation.mapped is not None:
            raise CannotFuse("the data is larger than memory and is read batch by batch")
        if example.machine.precision != "float32":
            raise CannotFuse(f"lanes compute in float32, and train.precision makes this {example.machine.precision}")
        if example.compiled is not None:
            raise CannotFuse("each trial's steps are compiled (train.compile), and lanes record theirs")
        if example.experiment.train.freeze is not None:
            raise CannotFuse("some of its layers are frozen (train.freeze), and lanes train whole networks")
        if example.weights.flat.numel() == 0:
            raise CannotFuse("the model has no weights to train")
        with fusible.torch_seeded(0):
            model: nn.Module = tables.build("model", example.experiment.model, example.dataset.shapes)
        self.model = model.to(device=example.machine.device, dtype=torch.float32)
        self.placed, self.loss, self.machine = example.placed, example.loss, example.machine
        self.sizes = tuple(example.sizes)
        self.accumulate = example.experiment.train.accumulate
        self.mixes = example.feed.mixer is not None
        self.layout = example.weights.layout
        self.validation = example.validation
        self.page, self.data, self.shapes = example.experiment, example.dataset.key, example.dataset.shapes
        # A part of one's own may do anything, so each of its lanes is held against the training alone once.
        # What another library has made (`hf/NAME`) is as little known.
        self.own = any(mark in self.page.model.type for mark in ":/") or ":" in self.page.train.loss.type
        self._channels_last = images.gain_from_channels_last(self.model, example.dataset.shapes, self.machine.device)
        self._try(example)
        self.sites = {rows: self._sites(rows) for rows in set(self.sizes)}

    def _try(self, example: Trainer) -> None:
        if [(name, tuple(p.shape)) for name, p in trainable(self.model)[0]] != self.layout:
            raise CannotFuse("its weights have other shapes at another seed")
        try:
            fusible.observe(self.model, [self._rows(rows) for rows in sorted(set(self.sizes))])
            outputs = self.model(*self._rows(self.sizes[0]))
        except fusible.FAULTS as error:
            raise CannotFuse(fusible.reason(error)) from error
        shapes = example.dataset.shapes
        if not isinstance(outputs, Tensor) or outputs.shape != shapes.returned(self.sizes[0]):
            asked = "[rows, length, outputs]" if shapes.is_language else "[rows, outputs]"
            raise CannotFuse(f"its outputs are not one tensor of shape {asked}")

    def _sites(self, rows: int) -> tuple[masks.Site, ...]:
        batch = self._rows(rows)
        self.model.train()
        return tuple(masks.sites(lambda: self.model(*batch)))

    def _rows(self, rows: int) -> tuple[Tensor, ...]:
        batch = tuple(each[:rows] for each in self.placed.train.inputs)
        return images.channels_last(batch) if self._channels_last else batch

    def rates(self, trainer: Trainer) -> list[float]:
        """A lane's dropout rate at each site."""
        if not self.sites[self.sizes[0]]:
            return []  # that it has none either is seen when it is held against its training alone
        buffers = dict(trainer.model.named_buffers())
        kept = {name: buffer.clone() for name, buffer in buffers.items()}
        trainer.model.train()
        batch = self._rows(self.sizes[0])
        found = [site.rate for site in masks.sites(lambda: trainer.model(*batch))]
        fusible.put_back(trainer.model, buffers, kept)  # batch norm has taken note of the rows
        if len(found) != len(self.sites[self.sizes[0]]):
            raise CannotFuse("its dropout is not at the same places as in the other lanes")
        return found

    def refuse_other(self, trainer: Trainer) -> None:
        """Raises CannotFuse for a training whose lane would not be the training alone."""
        page = trainer.experiment
        same = {
            "other weights": trainer.weights.layout == self.layout,
            "another model": _same("model", page.model, self.page.model),
            "another loss": _same("loss", page.train.loss, self.page.train.loss)
            and trainer.loss.lane_values().keys() == self.loss.lane_values().keys(),
            "other batches": tuple(trainer.sizes) == self.sizes
            and page.train.accumulate == self.accumulate
            and trainer.validation.rows_a_batch == self.validation.rows_a_batch,
            "other data": trainer.dataset.key == self.data or self._like(trainer),
            "another kind of rows (mixed or not)": (trainer.feed.mixer is not None) == self.mixes,
            "steps that are compiled": trainer.compiled is None,
            "frozen layers": page.train.freeze is None,
            "another device or precision": (trainer.machine.device, trainer.machine.precision)
            == (self.machine.device, self.machine.precision),
        }
        for what, holds in same.items():
            if not holds:
                raise CannotFuse(f"it has {what} than the other lanes")

    def _like(self, trainer: Trainer) -> bool:
        """Whether a training on other rows can be a lane beside those on these: a fold of the same size."""
        if trainer.dataset.shapes != self.shapes or trainer.placed.train.rows != self.placed.train.rows:
            return False
        if trainer.placed.train.mapped is not None or trainer.placed.validation.mapped is not None:
            return False
        # The loss of the pack is one: class weights that follow from the rows must be the same.
        target = self.placed.train.target
        assert target is not None
        rows = min(len(target), 1024)
        generator = torch.Generator().manual_seed(0)
        outputs = torch.randn(self.shapes.returned(rows), generator=generator).to(target.device)
        losses = [loss(outputs, target[:rows]) for loss in (self.loss, trainer.loss)]
        return torch.equal(*losses)


def _same(room: str, one: Part, two: Part) -> bool:
    """Whether two parts differ in nothing but what each lane may have for itself."""
    if one.type != two.type:
        return False
    own = getattr(tables.find(room, one.type), "lane_keys", ())
    return all(one[key] == two[key] for key in one.keys if key not in own)
