"""What a training reads in an epoch: its rows in an order, in batches, augmented and mixed where the page says so."""

from __future__ import annotations

from collections.abc import Iterator

from numpy.random import Generator
from torch import Tensor

from nnopt_ray.data.types import Dataset
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import derived_seed
from nnopt_ray.train.augmenting import Augmenter
from nnopt_ray.train.batches import Batch, Placed, batch_sizes
from nnopt_ray.train.mixing import Mixed, Mixer
from nnopt_ray.train.sampling import sampling_of
from nnopt_ray.train.sharding import Shard

Changed = tuple[tuple[Tensor, ...], Tensor, Mixed]  # inputs, target, and what else the loss is of


class Feed:
    """The training rows of a page, epoch by epoch; all that is random follows from the seed and the epoch.

    shard: which piece of each batch is read, where several processes train together.

    Attributes:
        sizes: rows of each batch of an epoch, of all processes together.
        decided: what was chosen here, in words.

    Raises UserError for data that cannot be drawn, augmented or mixed so.
    """

    def __init__(self, experiment: Experiment, dataset: Dataset, placed: Placed, shard: Shard | None = None) -> None:
        train, self._shard = experiment.train, shard
        self.sizes = batch_sizes(len(dataset.train), train.batch_size)
        self._rows, self._seed = placed.train, experiment.seed
        self._sampling = sampling_of(experiment, dataset)
        self.mixer = Mixer(train.mix, dataset.shapes) if train.mix is not None else None
        self.augmenter = Augmenter(experiment.data, dataset)
        told = {"sampling": self._sampling.decided} if self._sampling.decided else {}
        self.decided = told | self.augmenter.decided

    def order(self, epoch: int) -> Tensor:
        """int64 [rows]: the training rows in an epoch's order."""
        return self._sampling.order(epoch)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, augmented where the page says so."""
        sizes, order = self.sizes, self.order(epoch)
        if self._shard is not None:
            sizes, order = self._shard.mine(sizes, order)
        rows = self._rows.batches(sizes, order)
        if not self.augmenter.parts:
            yield from rows
            return
        for number, (inputs, target) in enumerate(rows):
            yield self.augmenter.batch(inputs, self.augmenting_seed(epoch, number)), target

    def without_steps(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """The inputs of those batches, for a pass that takes no gradient."""
        batches = self.batches(epoch)
        return (inputs for inputs, _ in (batches if self._shard is None else self._shard.with_rows(batches)))

    def augmenting_seed(self, epoch: int, number: int) -> int:
        """What the changes to a batch are drawn from, whatever was drawn before."""
        return derived_seed(self._seed, "augment", epoch, number, *self._rank)

    def mixed(self, epoch: int) -> Iterator[Changed]:
        """The batches of an epoch, mixed too where the page says so."""
        draws = self.mixing(epoch)
        for inputs, target in self.batches(epoch):
            yield self._mix(inputs, target, draws)

    def mixing(self, epoch: int) -> Generator:
        """What the mixtures of an epoch are drawn from, batch by batch."""
        return Mixer.draws(derived_seed(self._seed, "mix", epoch, *self._rank))

    @property
    def _rank(self) -> tuple[int, ...]:
        return () if self._shard is None or not self._shard.rank else (self._shard.rank,)

    def changed(self, inputs: tuple[Tensor, ...], target: Tensor) -> Changed:
        """Any batch, augmented and mixed: an example of what a step is of."""
        return self._mix(self.augmenter.batch(inputs, 0), target, Mixer.draws(0))

    def examples(self, epoch: int) -> list[Changed]:
        """A batch of each size that `mixed` gives in an epoch, changed as its are."""
        order = self.order(epoch)
        sizes = self.sizes
        if self._shard is not None:
            sizes = [last - first for first, last in self._shard.pieces(sizes) if last > first]
        return [
            self.changed(inputs, target)
            for rows in dict.fromkeys(sizes)
            for inputs, target in self._rows.batches([rows], order[:rows])
        ]

    def _mix(self, inputs: tuple[Tensor, ...], target: Tensor, draws: Generator) -> Changed:
        if self.mixer is None:
            return inputs, target, ()
        inputs, mixed = self.mixer.mix(inputs, target, draws)
        return inputs, target, mixed
