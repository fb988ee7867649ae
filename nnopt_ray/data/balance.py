"""Evening out the classes of the training part, after the steps. Validation and test part keep their rows.

What is done to a row is said in audit.csv. The methods are in balancers.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nnopt_ray import tables
from nnopt_ray.data.audit import Line
from nnopt_ray.data.scaled_images import Array
from nnopt_ray.errors import DataError, PartError
from nnopt_ray.machine import derived_seed

if TYPE_CHECKING:
    from nnopt_ray.data.target import Target
    from nnopt_ray.data.types import Input
    from nnopt_ray.tables import Part

MADE = -1  # source_row of a row that no source has
NAMED = 8  # classes that a note names


@dataclass(frozen=True, eq=False)
class Training:
    """The training rows as the network reads them.

    inputs: what the arrays are. arrays: one an input, [rows, *shape], float32 or int64, nothing missing.
    target: int64 [rows], index into classes. At least two classes have rows.
    """

    inputs: tuple[Input, ...]
    arrays: tuple[np.ndarray, ...]
    target: np.ndarray
    classes: tuple[str, ...]

    @property
    def counts(self) -> np.ndarray:
        """int64 [classes]: rows of each."""
        counted: np.ndarray = np.bincount(self.target, minlength=len(self.classes))
        return counted

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the inputs, such as ("table", "categories")."""
        return tuple(given.kind for given in self.inputs)


def _none() -> np.ndarray:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Balanced:
    """What a balancer says of the training rows, by their numbers from 0.

    kept: int64, ascending, the rows that stay. repeated: int64, rows that are there once more, each as often as
    named. made: rows that were never there, one array an input (empty: none); made_target: int64, their classes.
    """

    kept: np.ndarray
    repeated: np.ndarray = field(default_factory=_none)
    made: tuple[np.ndarray, ...] = ()
    made_target: np.ndarray = field(default_factory=_none)


class Balancer(ABC):
    """Contract of a balancer. It is given the training rows and nothing else."""

    @abstractmethod
    def balance(self, training: Training, seed: int) -> Balanced:
        """Which rows stay, which are repeated, which are made. The same seed (below 2**32) gives the same.

        Raises DataError, with the cure, for data that it cannot balance.
        """


@dataclass(frozen=True, eq=False)
class Outcome:
    """The arrays of all rows, those that were made at their end; which of them are the training part now.

    audit: a line for each row added or removed. notes: sentences for the user. counts: int64 [classes] of the
    training part.
    """

    inputs: tuple[Array, ...]
    target: np.ndarray
    source_rows: np.ndarray
    train: np.ndarray
    audit: tuple[Line, ...] = ()
    notes: tuple[str, ...] = ()
    counts: np.ndarray = field(default_factory=_none)


def balanced(
    part: Part,
    inputs: tuple[Input, ...],
    arrays: tuple[np.ndarray, ...],
    target: Target,
    source_rows: np.ndarray,
    train: np.ndarray,
    seed: int,
) -> Outcome:
    """The training rows balanced as the page says. seed: what the draws depend on.

    arrays, target, source_rows: of all rows, `train` says which are the training part. Raises DataError.
    """
    if target.task != "classification":
        raise DataError(
            f"data.balance evens out classes, and the target '{target.name}' is read as amounts. "
            "Take it away, or set data.task: classification."
        )
    balancer: Balancer = tables.build("balance", part)
    given = Training(inputs, tuple(array[train] for array in arrays), target.values[train], target.classes)
    found = balancer.balance(given, derived_seed(seed, "balance") % 2**32)
    _check(found, given, part)
    made = len(found.made_target)
    if made:
        arrays = tuple(np.concatenate(pair) for pair in zip(arrays, found.made, strict=True))
    rows = len(target.values)
    now = np.concatenate([found.kept, found.repeated])
    counts = np.bincount(np.concatenate([given.target[now], found.made_target]), minlength=len(given.classes))
    return Outcome(
        inputs=arrays,
        target=np.concatenate([target.values, found.made_target]),
        source_rows=np.concatenate([source_rows, np.full(made, MADE)]),
        train=np.concatenate([train[now], np.arange(rows, rows + made)]),
        audit=_audit(found, given, source_rows[train], part.type),
        notes=_notes(found, given, counts, part.type),
        counts=counts,
    )


def _check(found: Balanced, given: Training, part: Part) -> None:
    """A user's own balancer may say anything; numbers too large for float32 may become infinite in any."""
    rows = len(given.target)
    for named in (found.kept, found.repeated):
        if named.dtype != np.int64 or (len(named) and not 0 <= named.min() <= named.max() < rows):
            raise PartError(f"data.balance: '{part.type}' must name rows as int64 from 0 to {rows - 1}.")
    if (np.diff(found.kept) <= 0).any():
        raise PartError(f"data.balance: '{part.type}' must name the rows that it keeps once, in ascending order.")
    made = len(found.made_target)
    expected = [(array.dtype, (made, *array.shape[1:])) for array in given.arrays] if made else []
    known = found.made_target.dtype == np.int64 and np.isin(found.made_target, np.arange(len(given.classes))).all()
    if not known or [(array.dtype, array.shape) for array in found.made if made] != expected:
        raise PartError(f"data.balance: '{part.type}' made rows that are not like the training rows.")
    left = np.bincount(given.target[found.kept], minlength=len(given.classes))
    gone = np.flatnonzero((left == 0) & (given.counts > 0))
    if len(gone):
        raise DataError(f"data.balance: {part.type} leaves no row of the class {given.classes[int(gone[0])]!r}.")
    if not all(np.isfinite(array).all() for array in found.made):
        raise DataError(
            f"data.balance: numbers are too large for {part.type} to calculate with. Add to data.steps: - scale"
        )


def _audit(found: Balanced, given: Training, numbers: np.ndarray, name: str) -> tuple[Line, ...]:
    """numbers: int64 [training rows], of each in the source."""

    def line(number: int, action: str, label: int) -> Line:
        return Line(int(number), "train", action, f"balance {name}, class {given.classes[label]}")

    removed = np.setdiff1d(np.arange(len(given.target)), found.kept)
    return (
        *(line(numbers[row], "removed", given.target[row]) for row in removed),
        *(line(numbers[row], "repeated", given.target[row]) for row in found.repeated),
        *(line(MADE, "made", label) for label in found.made_target),
    )


def _notes(found: Balanced, given: Training, counts: np.ndarray, name: str) -> tuple[str, ...]:
    before = given.counts
    changed = [label for label in range(len(before)) if counts[label] != before[label]]
    if not changed:
        return (f"{name} found nothing to change: the training part is as it was (data.balance).",)
    told = [_change(given.classes[label], int(before[label]), int(counts[label])) for label in changed[:NAMED]]
    if len(changed) > NAMED:
        told.append(f"and of {len(changed) - NAMED} more classes (audit.csv lists every row)")
    notes = [
        f"The training part was balanced by {name}: {', '.join(told)}; {counts.sum():,} rows now.",
        "Network and baseline learn from the balanced rows, while validation and test part keep the shares of the "
        "source: predicted probabilities lean towards the classes whose share grew.",
    ]
    between = _between(found, given)
    if between:
        columns = "1 column" if between == 1 else f"{between} columns"
        notes.append(
            f"In rows that {name} made, {columns} of two values, such as booleans and one-hot columns, "
            f"hold{'s' * (between == 1)} values in between."
        )
    return tuple(notes)


def _change(label: str, before: int, now: int) -> str:
    size = abs(now - before)
    return f"{size:,} row{'s' * (size != 1)} of the class {label!r} {'added' if now > before else 'removed'}"


def _between(found: Balanced, given: Training) -> int:
    """Columns of two values among the training rows that have others among those made."""
    if not found.made or "table" not in given.kinds:
        return 0
    place = given.kinds.index("table")
    there, made = given.arrays[place], found.made[place]
    low, high = there.min(axis=0), there.max(axis=0)
    two = ((there == low) | (there == high)).all(axis=0)
    return int((two & ~((made == low) | (made == high)).all(axis=0)).sum())


__all__ = ["MADE", "Balanced", "Balancer", "Outcome", "Training", "balanced"]
