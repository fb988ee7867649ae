"""How the rows that are not for the test part become folds: each is held out once, and learned from in the other folds.

`parts_of` is the way in: it makes of the page's three parts those of one fold. Its test part is the fold that is held
out; its validation part, which chooses the epoch, is taken from the rows that are learned from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from nnopt_ray import tables
from nnopt_ray.data.split import Parts, drawn, instants
from nnopt_ray.data.table import quoted
from nnopt_ray.errors import DataError
from nnopt_ray.machine import derived_seed
from nnopt_ray.tables import Part

if TYPE_CHECKING:
    from nnopt_ray.data.table import Table
    from nnopt_ray.data.target import Target
    from nnopt_ray.data.types import Task
    from nnopt_ray.experiment import Data, Fold

FoldCount = Annotated[int, Field(ge=2, le=1000)]
Repeats = Annotated[int, Field(ge=1, le=100)]
Divided = tuple[np.ndarray, np.ndarray]  # rows that are learned from, and those that are held out or chosen by
FOLDS = 5  # where a page asks for folds and says no number
UNEVEN = 0.25  # deviation of the logarithm by which sizes of groups are blurred, so that repeats differ


class Folds(ABC):
    """Contract of a kind of folds. All methods take rows as numbers of the table, int64, ascending, and return such.

    What is drawn follows from `seed`, the split's where the page says none. A kind of a user's own writes `divide`;
    `inner` and `share` draw rows at random unless it says otherwise.
    """

    folds: int = FOLDS
    repeats: int = 1
    seed: int | None = None
    even: ClassVar[bool] = False  # whether folds differ by a row at most, so that all can have as many training rows

    @property
    def number(self) -> int:
        """Trainings in all."""
        return self.folds * self.repeats

    @abstractmethod
    def divide(self, table: Table, target: Target, rows: np.ndarray) -> list[Divided]:
        """For each fold of each repeat the rows that are learned from and those held out.

        Raises DataError, with the cure, when the rows cannot be divided so.
        """

    def inner(self, table: Table, target: Target, rows: np.ndarray, wanted: int) -> Divided:
        """Of the rows that are learned from, about `wanted` that choose the epoch; they are the second."""
        return without(rows, self.share(table, target, rows, wanted, "inner"))

    def share(self, table: Table, target: Target, rows: np.ndarray, wanted: int, purpose: str = "share") -> np.ndarray:
        """About `wanted` of the rows, so that a larger number holds all of a smaller one."""
        groups = target.values if target.task == "classification" else None
        return nested(rows, groups, wanted, self._random(purpose))

    def _random(self, *purpose: str | int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(derived_seed(self.seed or 0, "folds", *purpose)))


def without(rows: np.ndarray, chosen: np.ndarray) -> Divided:
    return np.setdiff1d(rows, chosen), np.sort(chosen)


def nested(rows: np.ndarray, groups: np.ndarray | None, wanted: int, random: np.random.Generator) -> np.ndarray:
    """The first `wanted` of the rows in an order in which each group (class) comes evenly; ascending."""
    order = random.permutation(len(rows))
    codes = np.zeros(len(rows), dtype=np.int64) if groups is None else groups[rows]
    place = np.empty(len(rows))
    for code in np.unique(codes):
        own = order[codes[order] == code]
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return np.sort(rows[np.lexsort((random.random(len(rows)), place))[:wanted]])


def _dealt(order: np.ndarray, folds: int) -> list[np.ndarray]:
    """Rows dealt out one by one, so that folds differ by a row at most."""
    return [np.sort(order[number::folds]) for number in range(folds)]


class KFold(Folds):
    """Rows drawn at random, each held out in one fold.

    Keys:
        folds: into how many the rows are divided.
        repeats: how often that is done, drawn anew each time.
        seed: what the draw depends on; without it the split's seed.
    """

    even = True

    def __init__(
        self, *, folds: FoldCount = FOLDS, repeats: Repeats = 1, seed: Annotated[int, Field(ge=0)] | None = None
    ) -> None:
        self.folds, self.repeats, self.seed = folds, repeats, seed

    def divide(self, table: Table, target: Target, rows: np.ndarray) -> list[Divided]:
        if len(rows) < self.folds:
            raise DataError(f"evaluate.folds: {len(rows)} rows are too few for {self.folds} folds. Use fewer folds.")
        made = []
        for repeat in range(self.repeats):
            made += [without(rows, held) for held in _dealt(self._order(target, rows, repeat), self.folds)]
        return made

    def _order(self, target: Target, rows: np.ndarray, repeat: int) -> np.ndarray:
        return self._random("divide", repeat).permutation(rows)


class Stratified(KFold):
    """As `k_fold`, and each class has the same share in every fold, to within a row.

    Keys:
        folds: into how many the rows are divided.
        repeats: how often that is done, drawn anew each time.
        seed: what the draw depends on; without it the split's seed.
    """

    def divide(self, table: Table, target: Target, rows: np.ndarray) -> list[Divided]:
        if target.task != "classification":
            raise DataError(
                f"evaluate.folds: stratified keeps the shares of classes, and '{target.name}' holds amounts. Write "
                "type: k_fold."
            )
        counts = np.bincount(target.values[rows], minlength=len(target.classes))
        rare = np.flatnonzero((counts > 0) & (counts < self.folds))
        if len(rare):
            least = int(rare[np.argmin(counts[rare])])
            rows_of = f"{counts[least]} row{'s' * bool(counts[least] != 1)}"
            cure = f"Use folds: {counts[least]}" if counts[least] > 1 else "Find more such rows, merge the class"
            raise DataError(
                f"evaluate.folds: the class {target.classes[least]!r} has {rows_of} outside the test part, and each of "
                f"{self.folds} folds needs one. {cure}, or write type: k_fold."
            )
        return super().divide(table, target, rows)

    def _order(self, target: Target, rows: np.ndarray, repeat: int) -> np.ndarray:
        order = super()._order(target, rows, repeat)
        return order[np.argsort(target.values[order], kind="stable")]  # one class behind the other, then dealt out

    def inner(self, table: Table, target: Target, rows: np.ndarray, wanted: int) -> Divided:
        random = self._random("inner")
        return without(rows, drawn(random.permutation(rows), target.values, wanted, random))


class Grouped(Folds):
    """Rows that belong together stay together: no value of `group` stands in two folds.

    Groups are dealt, large ones first, to the fold that has the fewest rows (as scikit-learn's GroupKFold); their sizes
    are blurred by chance first, so that repeats differ.

    Keys:
        group: the column that says which rows belong together.
        folds: into how many the groups are divided.
        repeats: how often that is done, drawn anew each time.
        seed: what the draw depends on; without it the split's seed.
    """

    def __init__(
        self,
        *,
        group: str,
        folds: FoldCount = FOLDS,
        repeats: Repeats = 1,
        seed: Annotated[int, Field(ge=0)] | None = None,
    ) -> None:
        self.group = group
        self.folds, self.repeats, self.seed = folds, repeats, seed

    def divide(self, table: Table, target: Target, rows: np.ndarray) -> list[Divided]:
        groups = self._groups(table, rows)
        names, codes = np.unique(groups, return_inverse=True)
        if len(names) < self.folds:
            raise DataError(
                f"evaluate.folds: '{self.group}' has {len(names)} different values outside the test part, and "
                f"{self.folds} folds need as many groups. Use folds: {max(2, len(names))} at most."
            )
        sizes = np.bincount(codes)
        made = []
        for repeat in range(self.repeats):
            blurred = sizes * np.exp(UNEVEN * self._random("divide", repeat).standard_normal(len(names)))
            fold_of, filled = np.empty(len(names), dtype=np.int64), np.zeros(self.folds)
            held = np.zeros(self.folds, dtype=np.int64)
            for group in np.argsort(-blurred, kind="stable"):
                fold = int(np.lexsort((held, filled))[0])
                fold_of[group] = fold
                filled[fold] += sizes[group]
                held[fold] += 1
            made += [without(rows, rows[fold_of[codes] == fold]) for fold in range(self.folds)]
        return made

    def share(self, table: Table, target: Target, rows: np.ndarray, wanted: int, purpose: str = "share") -> np.ndarray:
        """Whole groups in an order drawn at random, up to the nearest number of rows; one group at least."""
        names, codes = np.unique(self._groups(table, rows), return_inverse=True)
        order = self._random(purpose).permutation(len(names))
        reached = np.cumsum(np.bincount(codes)[order])
        count = int(np.argmin(np.abs(reached - wanted))) + 1
        return rows[np.isin(codes, order[:count])]

    def inner(self, table: Table, target: Target, rows: np.ndarray, wanted: int) -> Divided:
        if len(np.unique(self._groups(table, rows))) < 2:
            raise DataError(
                f"evaluate.folds: a fold has one group of '{self.group}' to learn from, and the epoch is chosen by "
                "groups that are not learned from. Use more folds, or more groups."
            )
        learned, validation = without(rows, self.share(table, target, rows, wanted, "inner"))
        return (learned, validation) if len(learned) else (validation, learned)

    def _groups(self, table: Table, rows: np.ndarray) -> np.ndarray:
        """int64 [rows]: the group of each, numbered in sorted order."""
        from nnopt_ray.data.columns import text

        column = table.column(self.group, "evaluate.folds: group")
        if column.null_count:
            raise DataError(
                f"evaluate.folds: '{self.group}' is missing in {column.null_count} rows, so their group is unknown. "
                "Fill them in the source or leave those rows out."
            )
        encoded = text(column, self.group)
        _, codes = np.unique(np.array(encoded.words), return_inverse=True)
        found: np.ndarray = codes[encoded.codes][rows]
        return found


class Time(Folds):
    """The past is learned from and what follows is held out, fold after fold (as scikit-learn's TimeSeriesSplit).

    The rows in their order are cut into folds + 1 blocks; each but the first is held out once, and all before it are
    learned from. Rows of the same time are never torn apart.

    Keys:
        column: the column that says when: dates, timestamps or numbers.
        folds: how many blocks are held out.
        gap: different times that are left out between what is learned from and what is held out.
    """

    def __init__(self, *, column: str, folds: FoldCount = FOLDS, gap: Annotated[int, Field(ge=0)] = 0) -> None:
        self.column, self.folds, self.gap = column, folds, gap

    def divide(self, table: Table, target: Target, rows: np.ndarray) -> list[Divided]:
        times, edges, order = self._ordered(table, rows)
        if len(edges) < self.folds + self.gap:
            raise DataError(
                f"evaluate.folds: '{self.column}' has {len(edges) + 1} different times outside the test part, and "
                f"{self.folds} folds{f' with a gap of {self.gap}' if self.gap else ''} need "
                f"{self.folds + self.gap + 1} at least. Use fewer folds."
            )
        size = len(rows) // (self.folds + 1)
        starts = self._cuts(edges, [len(rows) - size * left for left in range(self.folds, 0, -1)])
        ends = [*starts[1:], len(rows)]
        moments = np.unique(times)
        made = []
        for start, end in zip(starts, ends, strict=True):
            at = int(np.searchsorted(moments, times[order[start]]))
            past = order[:start][times[order[:start]] < moments[max(0, at - self.gap)]] if self.gap else order[:start]
            if not len(past):
                raise DataError(
                    f"evaluate.folds: the first of {self.folds} folds has nothing to learn from with a gap of "
                    f"{self.gap}. Use fewer folds, or a smaller gap."
                )
            made.append((np.sort(rows[past]), np.sort(rows[order[start:end]])))
        return made

    def _ordered(self, table: Table, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Times of the rows, where in their order the time changes, and that order."""
        times = instants(table, self.column, "evaluate.folds: column")[rows]
        order = np.argsort(times, kind="stable")
        return times, np.flatnonzero(np.diff(times[order])) + 1, order

    def _cuts(self, edges: np.ndarray, wanted: list[int]) -> list[int]:
        """Ascending edges, each near to the one wanted, `gap` times before the first at least."""
        made: list[int] = []
        for number, cut in enumerate(wanted):
            first = int(np.searchsorted(edges, made[-1])) + 1 if made else min(self.gap, len(edges) - len(wanted))
            last = len(edges) - (len(wanted) - number - 1)
            free = edges[first:last]
            made.append(int(free[np.argmin(np.abs(free - cut))]))
        return made

    def share(self, table: Table, target: Target, rows: np.ndarray, wanted: int, purpose: str = "share") -> np.ndarray:
        """The newest rows, up to the nearest change of time."""
        _, edges, order = self._ordered(table, rows)
        starts = np.concatenate([[0], edges])
        return np.sort(rows[order[int(starts[np.argmin(np.abs(len(rows) - starts - wanted))]) :]])

    def inner(self, table: Table, target: Target, rows: np.ndarray, wanted: int) -> Divided:
        _, edges, order = self._ordered(table, rows)
        if not len(edges):
            raise DataError(
                f"evaluate.folds: the first fold has one time of '{self.column}' to learn from, and the epoch is "
                "chosen by later ones. Use fewer folds, or finer times."
            )
        cut = int(edges[np.argmin(np.abs(len(rows) - edges - wanted))])
        return np.sort(rows[order[:cut]]), np.sort(rows[order[cut:]])


class Auto(KFold):
    """What the page's data ask for: `time` where the split is by time or there are windows, `grouped` where the split
    keeps groups whole, else `stratified` for classes and `k_fold` for amounts.

    Keys:
        folds: into how many the rows are divided.
        repeats: how often that is done, drawn anew each time; by time only once.
        seed: what the draw depends on; without it the split's seed.
    """


def settled(chosen: Part, data: Data, task: Task) -> Part:
    """The kind that `auto` stands for, and the split's seed where it names none. Raises DataError."""
    keys = dict(chosen.keys)
    if chosen.type == "auto":
        split = data.split
        column = data.window.order if data.window is not None else split.keys.get("column")
        if data.window is not None or split.type == "time":
            if keys["repeats"] > 1:
                raise DataError(
                    "evaluate.folds: rows in time have one order, so there is nothing to repeat. Take repeats away."
                )
            return Part("time", MappingProxyType({"column": column, "folds": keys["folds"], "gap": 0}))
        if split.type == "grouped":
            keys["group"] = split["group"]
        name = "grouped" if split.type == "grouped" else "stratified" if task == "classification" else "k_fold"
        chosen = Part(name, MappingProxyType(keys))
    if keys.get("seed", 0) is None:
        chosen = Part(chosen.type, MappingProxyType({**keys, "seed": data.split.keys.get("seed") or 0}))
    return chosen


def parts_of(data: Data, table: Table, target: Target, parts: Parts) -> Parts:
    """The parts that a page's data.fold and data.train_share make of those of its split.

    Of a fold the test part is what is held out; the page's own test rows are in no part. All folds have as many
    training rows where the kind allows, so that they can be trained as lanes of one step. Raises DataError.
    """
    if data.fold is not None:
        chosen = settled(data.fold.of, data, target.task)
        kind: Folds = tables.build("fold", chosen)
        parts = _of_fold(kind, data.fold, table, target, parts)
    if data.train_share is not None:
        wanted = max(1, round(data.train_share * len(parts["train"])))
        kind = tables.build("fold", settled(BY_DEFAULT, data, target.task))
        train = kind.share(table, target, parts["train"], wanted)
        _refuse_lost(data.train_share, target, parts["train"], train)
        parts = {**parts, "train": train}
    return parts


BY_DEFAULT = Part("auto", MappingProxyType({"folds": FOLDS, "repeats": 1, "seed": None}))


def _of_fold(kind: Folds, fold: Fold, table: Table, target: Target, parts: Parts) -> Parts:
    number = fold.number
    rows = np.sort(np.concatenate([parts["train"], parts["validation"]]))
    divided = kind.divide(table, target, rows)
    if number > len(divided):
        raise DataError(f"data.fold: number is {number}, and there are {len(divided)} folds.")
    share = len(parts["validation"]) / len(rows)
    fewest = min(len(learned) for learned, _ in divided)
    training = fewest - max(1, round(share * fewest))
    learned, held = divided[number - 1]
    if fold.held_out == "validation":
        train = kind.share(table, target, learned, fewest, "even") if kind.even else learned
        _refuse_absent(kind, number, target, train, held)
        return {"train": train, "validation": held, "test": parts["test"]}
    wanted = len(learned) - training if kind.even else round(share * len(learned))
    if training < 1:
        raise DataError(f"evaluate.folds: {len(learned)} rows are too few to learn from. Use fewer folds.")
    train, validation = kind.inner(table, target, learned, max(1, wanted))
    _refuse_absent(kind, number, target, train, held)
    return {"train": train, "validation": validation, "test": held}


def _refuse_absent(kind: Folds, number: int, target: Target, train: np.ndarray, held: np.ndarray) -> None:
    if target.task != "classification":
        return
    count = len(target.classes)
    learned, asked = (np.bincount(target.values[rows], minlength=count) for rows in (train, held))
    absent = [target.classes[code] for code in np.flatnonzero((learned == 0) & (asked > 0))]
    if absent:
        named = f"the class {absent[0]!r} has" if len(absent) == 1 else f"the classes {quoted(absent)} have"
        raise DataError(
            f"evaluate.folds: {named} rows that fold {number} holds out, and none that it learns from. Use another "
            "number of folds or another type, merge the class with another, or find more such rows."
        )


def _refuse_lost(share: float, target: Target, before: np.ndarray, train: np.ndarray) -> None:
    if target.task == "classification":
        lost = np.setdiff1d(target.values[before], target.values[train])
        if len(lost):
            raise DataError(
                f"data.train_share: {share:g} of the training rows are {len(train)}, and none is of the class "
                f"{target.classes[int(lost[0])]!r}. Use a larger share (evaluate.sizes)."
            )


__all__ = ["BY_DEFAULT", "FOLDS", "Folds", "parts_of", "settled"]
