"""In which order the training rows are learned from: an index array an epoch, from the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import derived_seed

AT_ONCE = 4096  # rows whose order is drawn from one seed: a class of three has many rounds in an epoch


class Shuffled:
    """Every row once an epoch."""

    decided = ""

    def __init__(self, rows: int, seed: int) -> None:
        self._rows, self._seed = rows, seed

    def order(self, epoch: int) -> Tensor:
        """int64 [rows]: the rows of this epoch, in order."""
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "order", epoch))
        return torch.randperm(self._rows, generator=generator)


class Balanced:
    """Every class as often as any other, in each batch to within one row; an epoch has as many rows as ever.

    The places of all epochs, one behind the other, take the classes in turn. Each class gives its rows in rounds: all
    of them in an order drawn anew, then again. So a row comes back only when all others of its class were there, and
    rows of a large class that one epoch leaves out are the next one's first.

    imbalanced-learn's `BalancedBatchGenerator` draws the small classes' number of rows of every class once, and
    shuffles them: its batches are even on average, its epochs shorter, and what it leaves out is never seen.

    Args:
        classes: int64 [rows], the class of each row.
        names: of all classes.
    """

    def __init__(self, classes: np.ndarray, seed: int, names: Sequence[str] = ()) -> None:
        self._rows, self._seed = len(classes), seed
        found, counts = np.unique(classes, return_counts=True)
        self._of = [np.flatnonzero(classes == each) for each in found]
        rare, often = counts.argmin(), counts.argmax()
        each = self._rows / len(found)
        told = [names[found[at]] if names else str(found[at]) for at in (rare, often)]
        self.decided = (
            f"balanced: each of {len(found)} classes about {each:,.0f} times an epoch, so a row of '{told[0]}' "
            f"{each / counts[rare]:.2g} times and one of '{told[1]}' {each / counts[often]:.2g} times; "
            "train_loss is that of these batches"
        )

    def order(self, epoch: int) -> Tensor:
        """int64 [rows]: the rows of this epoch, in order; some of them several times, others not at all."""
        places = np.arange(epoch * self._rows, (epoch + 1) * self._rows)
        order = np.empty(self._rows, dtype=np.int64)
        for number, rows in enumerate(self._of):
            mine = places % len(self._of) == number
            order[mine] = self._drawn(rows, number, places[mine] // len(self._of))
        return torch.from_numpy(order)

    def _drawn(self, rows: np.ndarray, number: int, uses: np.ndarray) -> np.ndarray:
        """The rows of a class that its uses, consecutive numbers from 0 over all epochs, fall on."""
        if not len(uses):
            return np.empty(0, dtype=np.int64)
        rounds = max(1, AT_ONCE // len(rows))
        size = rounds * len(rows)
        blocks = range(uses[0] // size, uses[-1] // size + 1)
        drawn = []
        for block in blocks:
            draws = np.random.Generator(np.random.PCG64(derived_seed(self._seed, "balanced", number, block)))
            drawn.append(draws.permuted(np.tile(rows, (rounds, 1)), axis=1).ravel())
        found: np.ndarray = np.concatenate(drawn)[uses - blocks[0] * size]
        return found


def sampling_of(experiment: Experiment, dataset: Dataset) -> Shuffled | Balanced:
    """What `train.sampling` asks for. Raises UserError where there are no classes, or they are even already."""
    if experiment.train.sampling == "shuffled":
        return Shuffled(len(dataset.train), experiment.seed)
    if dataset.shapes.task != "classification":
        raise UserError(
            f"train.sampling: balanced draws every class as often as any other, and this task is "
            f"{dataset.shapes.task}: leave it out."
        )
    if dataset.summary.balanced:
        raise UserError(
            f"train.sampling: balanced draws every class as often as any other, and data.balance: "
            f"{dataset.summary.balanced} has evened out their rows already: leave one of the two out."
        )
    return Balanced(np.asarray(dataset.train.target), experiment.seed, dataset.classes)
