"""How rows are divided into the training, validation and test part.

Every split gives rows that never overlap and together are all rows, the same for the same seed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data.table import quoted
from nnopt_ray.errors import DataError
from nnopt_ray.machine import derived_seed

if TYPE_CHECKING:
    from nnopt_ray.data.table import Table
    from nnopt_ray.data.target import Target

PARTS = ("train", "validation", "test")

GIVEN_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip

REGRESSION_BINS = 10  # `stratify: true` of a regression target: tenths of its values

Parts = dict[str, np.ndarray]


class Split(ABC):
    """Contract of a split. `hidden` names columns that only serve to divide and are not learned from."""

    hidden: tuple[str, ...] = ()

    @abstractmethod
    def divide(self, table: Table, target: Target) -> Parts:
        """train, validation, test → row numbers (int64, ascending) of this table.

        Every row has a target here. Raises DataError when a part cannot be made.
        """


def unused_parts(table: Table, split: Split) -> tuple[str, ...]:
    """A sentence where the source divides its rows itself and the page divides them otherwise."""
    if table.own_parts is None or isinstance(split, Given):
        return ()
    named = [part for part in PARTS if (table.own_parts == part).any()]
    return (f"The source says itself which rows are {' and '.join(named)}; data.split: given would keep that.",)


def _check_shares(validation: float, test: float) -> None:
    if validation + test >= 1:
        raise DataError(
            f"data.split: validation {validation:g} and test {test:g} leave no rows to train on. "
            "Their sum must be below 1."
        )


def _generator(seed: int | None) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(derived_seed(seed or 0, "split")))


def _sizes(rows: int, validation: float, test: float) -> tuple[int, int]:
    """Rows of the validation and the test part. Raises DataError when a part would be empty."""
    for_validation, for_test = round(rows * validation), round(rows * test)
    if min(for_validation, for_test, rows - for_validation - for_test) < 1:
        raise DataError(
            f"data.split: {rows} rows are too few: validation {validation:g} is {for_validation} rows, test {test:g} "
            f"is {for_test}, and {rows - for_validation - for_test} are left to train on. "
            "Use larger shares or more rows."
        )
    return for_validation, for_test


def _checked(parts: Parts, cure: str) -> Parts:
    empty = [name for name in PARTS if not len(parts[name])]
    if empty:
        raise DataError(f"data.split: the {empty[0]} part has no rows. {cure}")
    return {name: np.sort(parts[name]).astype(np.int64) for name in PARTS}


class Random(Split):
    """Rows drawn at random.

    Stratified: each class has the same share in every part, to within a row, and at least one row in the
    training part; a regression target is stratified by tenths of its values.

    Keys:
        validation: share of the validation part.
        test: share of the test part.
        stratify: keep the shares of the classes; auto does for classification.
        seed: what the draw depends on; without it the page's seed.
    """

    def __init__(
        self,
        *,
        validation: Annotated[float, Field(gt=0, lt=1)] = 0.15,
        test: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        stratify: bool | Literal["auto"] = "auto",
        seed: Annotated[int, Field(ge=0)] | None = None,
    ) -> None:
        _check_shares(validation, test)
        self.validation = validation
        self.test = test
        self.stratify = stratify
        self.seed = seed

    def divide(self, table: Table, target: Target) -> Parts:
        rows = len(target.values)
        for_validation, for_test = _sizes(rows, self.validation, self.test)
        random = _generator(self.seed)
        order = random.permutation(rows)
        classification = target.task == "classification"
        if self.stratify is False or (self.stratify == "auto" and not classification):
            test, validation = order[:for_test], order[for_test : for_test + for_validation]
        else:
            groups = target.values if classification else _tenths(target.values)
            if classification:
                self._refuse_single(target)
            test = drawn(order, groups, for_test, random)
            rest = order[~np.isin(order, test)]
            validation = drawn(rest, groups, for_validation, random)
        taken = np.concatenate([test, validation])
        parts = {"train": np.setdiff1d(order, taken), "validation": validation, "test": test}
        return _checked(parts, "Use a larger share, more rows, or data.split.stratify: false.")

    @staticmethod
    def _refuse_single(target: Target) -> None:
        counts = np.bincount(target.values, minlength=len(target.classes))
        single = [name for name, count in zip(target.classes, counts, strict=True) if count == 1]
        if single:
            told = f"the class {single[0]!r} has" if len(single) == 1 else f"the classes {quoted(single)} have"
            raise DataError(
                f"data.target: {told} a single row, which cannot stand in more than one part. "
                "Remove it, merge it with another class, find more rows, or set data.split.stratify: false."
            )


def _tenths(values: np.ndarray) -> np.ndarray:
    edges = np.quantile(values, np.linspace(0, 1, REGRESSION_BINS + 1)[1:-1])
    return np.searchsorted(edges, values, side="right")


def drawn(order: np.ndarray, groups: np.ndarray, wanted: int, random: np.random.Generator) -> np.ndarray:
    """`wanted` of the rows in `order`, from each group in proportion, and never the last row of one.

    Largest remainders, ties at random; then the counts add up to `wanted` exactly where the groups allow.
    """
    counts = np.bincount(groups[order])
    exact = counts * (wanted / len(order))
    quota = np.minimum(np.floor(exact).astype(np.int64), np.maximum(counts - 1, 0))
    for group in np.lexsort((random.random(len(counts)), quota - exact)):
        if quota.sum() >= wanted:
            break
        if quota[group] < counts[group] - 1:
            quota[group] += 1
    chosen = [order[groups[order] == group][:count] for group, count in enumerate(quota) if count]
    return np.concatenate(chosen) if chosen else order[:0]


class Grouped(Split):
    """Rows that belong together stay together: no value of `group` stands in two parts.

    Groups are drawn at random and dealt, large ones first, to the part that lacks the most rows, so the
    shares are met as well as the groups allow. The column `group` itself is not learned from.

    Keys:
        group: the column that says which rows belong together.
        validation: share of the validation part.
        test: share of the test part.
        seed: what the draw depends on; without it the page's seed.
    """

    def __init__(
        self,
        *,
        group: str,
        validation: Annotated[float, Field(gt=0, lt=1)] = 0.15,
        test: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        seed: Annotated[int, Field(ge=0)] | None = None,
    ) -> None:
        _check_shares(validation, test)
        self.group = group
        self.validation = validation
        self.test = test
        self.seed = seed
        self.hidden = (group,)

    def divide(self, table: Table, target: Target) -> Parts:
        from nnopt_ray.data.columns import text

        column = table.column(self.group, "data.split.group")
        if column.null_count:
            raise DataError(
                f"data.split.group: '{self.group}' is missing in {column.null_count} rows, so their group is unknown. "
                "Fill them in the source or leave those rows out."
            )
        encoded = text(column, self.group)
        # Numbered in sorted order: the same whatever order the rows come in.
        names, codes = np.unique(np.array(encoded.words), return_inverse=True)
        groups = codes[encoded.codes]
        if len(names) < len(PARTS):
            raise DataError(
                f"data.split.group: '{self.group}' has {len(names)} different values; "
                "three parts need at least 3 groups."
            )
        sizes = np.bincount(groups)
        random = _generator(self.seed)
        wanted = np.array([1 - self.validation - self.test, self.validation, self.test]) * len(groups)
        part_of = np.empty(len(names), dtype=np.int64)
        filled, held = np.zeros(3), np.zeros(3, dtype=np.int64)
        shuffled = random.permutation(len(names))
        dealt = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
        for position, group in enumerate(dealt):
            left = len(dealt) - position
            lacking = wanted - filled
            if left <= (held == 0).sum():  # the last groups go to parts that have none yet
                lacking = np.where(held == 0, lacking + len(groups), -np.inf)
            part = int(np.argmax(lacking))
            part_of[group] = part
            filled[part] += sizes[group]
            held[part] += 1
        parts = {name: np.flatnonzero(part_of[groups] == number) for number, name in enumerate(PARTS)}
        return _checked(parts, "Use more groups.")


class Time(Split):
    """The past trains, what follows validates, the newest rows test.

    Rows of the same time are never torn apart; a cut moves to the nearer edge of such a block.

    Keys:
        column: the column that says when: dates, timestamps or numbers.
        validation: share of the validation part.
        test: share of the test part.
    """

    def __init__(
        self,
        *,
        column: str,
        validation: Annotated[float, Field(gt=0, lt=1)] = 0.15,
        test: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    ) -> None:
        _check_shares(validation, test)
        self.column = column
        self.validation = validation
        self.test = test

    def divide(self, table: Table, target: Target) -> Parts:
        times = instants(table, self.column, "data.split.column")
        for_validation, for_test = _sizes(len(times), self.validation, self.test)
        order = np.argsort(times, kind="stable")
        ordered = times[order]
        # Positions at which the time changes: the only places where a cut may fall.
        edges = np.flatnonzero(np.diff(ordered)) + 1
        cure = f"'{self.column}' has {len(edges) + 1} different times; use other shares or a finer time."
        if len(edges) < 2:
            raise DataError(f"data.split.column: {cure}")
        first = int(edges[np.argmin(np.abs(edges - (len(times) - for_test - for_validation)))])
        later = edges[edges > first]
        if not len(later):  # the validation part needs an edge of its own
            first = int(edges[-2])
            later = edges[-1:]
        second = int(later[np.argmin(np.abs(later - (len(times) - for_test)))])
        parts = {"train": order[:first], "validation": order[first:second], "test": order[second:]}
        return _checked(parts, cure)


def instants(table: Table, name: str, key: str) -> np.ndarray:
    """float64 [rows]: a column of dates, timestamps or numbers as points in time. `key` is the page's, for messages."""
    from nnopt_ray.data import dates
    from nnopt_ray.data.table import is_number, is_text, numbers

    column = table.column(name, key)
    if column.null_count:
        raise DataError(
            f"{key}: '{name}' is missing in {column.null_count} rows, so their time is unknown. "
            "Fill them in the source or leave those rows out."
        )
    if is_number(column.type):
        times = numbers(column)
    else:
        formats = dates.date_formats(column) if is_text(column.type) else ("",)
        readable = len(formats) == 1 and (formats[0] or dates.is_date(column.type))
        found = dates.days(column, formats[0]) if readable else None
        if found is None:
            raise DataError(
                f"{key}: '{name}' holds no times "
                f"({column.type}, such as {column[0].as_py()!r}). Give dates as YYYY-MM-DD, timestamps or numbers."
            )
        times = found
    if not np.isfinite(times).all():
        raise DataError(f"{key}: '{name}' holds infinite numbers.")
    return times


class Given(Split):
    """The source says it: a column that holds train, validation or test, or a test set of the source's own.

    Understood are also training, valid, val, dev and testing, in any case. The column is not learned from. Where
    no row is for validation, rows of the training part are drawn for it, classes in their shares. Where a source comes
    with a validation part and no test part, rows are drawn for that.

    Keys:
        column: the column with the part of each row; without it the parts that the source came with (idx, folders).
        validation: share of the training rows to draw, where none are given.
        test: the same for the test part of a source that comes with none.
        seed: what the draw depends on; without it the page's seed.
    """

    def __init__(
        self,
        *,
        column: str | None = None,
        validation: Annotated[float, Field(gt=0, lt=1)] = 0.15,
        test: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        seed: Annotated[int, Field(ge=0)] | None = None,
    ) -> None:
        self.column = column
        self.validation = validation
        self.test = test
        self.seed = seed
        self.hidden = () if column is None else (column,)

    def divide(self, table: Table, target: Target) -> Parts:
        part = self.marked(table)
        parts = {name: np.flatnonzero(part == name) for name in PARTS}
        if self.column is None and not len(parts["test"]) and len(parts["train"]) > 1:
            parts["train"], parts["test"] = self._drawn(parts["train"], target, self.test)
        if not len(parts["validation"]) and len(parts["train"]) > 1:
            parts["train"], parts["validation"] = self._drawn(parts["train"], target, self.validation)
        cure = f"Mark rows as such in the column '{self.column}'." if self.column else "Choose another split."
        return _checked(parts, cure)

    def marked(self, table: Table) -> np.ndarray:
        """The part that each row is given, [rows] of train, validation and test. Raises DataError."""
        part = self._of_column(table, self.column) if self.column is not None else table.own_parts
        if part is None:
            raise DataError(
                f"data.split: {table.origin} does not divide its rows itself. "
                "Name the column that does, {type: given, column: NAME}, or choose another split."
            )
        return part

    def _drawn(self, train: np.ndarray, target: Target, share: float) -> tuple[np.ndarray, np.ndarray]:
        random = _generator(self.seed)
        order = random.permutation(train)
        wanted = min(max(1, round(len(train) * share)), len(train) - 1)
        classes = target.task == "classification"
        validation = drawn(order, target.values, wanted, random) if classes else order[:wanted]
        return np.setdiff1d(train, validation), validation

    @staticmethod
    def _of_column(table: Table, name: str) -> np.ndarray:
        from nnopt_ray.data.columns import text

        column = table.column(name, "data.split.column")
        if column.null_count:
            raise DataError(
                f"data.split.column: '{name}' is missing in {column.null_count} rows. "
                "Write train, validation or test there."
            )
        encoded = text(column, name)
        unknown = [word for word in encoded.words if word.lower() not in GIVEN_NAMES]
        if unknown:
            raise DataError(
                f"data.split.column: '{name}' holds {', '.join(map(repr, unknown[:5]))}; "
                "it may hold train, validation and test only."
            )
        parts: np.ndarray = np.array([GIVEN_NAMES[word.lower()] for word in encoded.words])[encoded.codes]
        return parts
