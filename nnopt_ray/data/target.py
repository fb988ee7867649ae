"""The column to predict: classes or numbers, and which rows have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nnopt_ray.data import dates
from nnopt_ray.data.table import LARGEST, Table, hint, is_number, is_text, numbers
from nnopt_ray.data.types import Task
from nnopt_ray.errors import DataError

# task: auto reads whole numbers as classes when there are at most this many different ones and each
# occurs this often on average; two values are always classes.
MOST_CLASSES = 20
ROWS_PER_CLASS = 5
DOUBTFUL = 100  # up to this many different whole numbers the choice is said in a note


@dataclass(frozen=True, eq=False)
class Target:
    """The target of the rows that have one.

    values: int64 [rows], index into classes (classification) or float64 [rows] (regression).
    classes: sorted; whole numbers by their value, all else as text.
    """

    name: str
    task: Task
    values: np.ndarray
    classes: tuple[str, ...]
    note: str = ""

    def take(self, rows: np.ndarray) -> Target:
        return Target(self.name, self.task, self.values[rows], self.classes, self.note)


def target_name(table: Table, asked: str) -> str:
    """The column that `data.target` means. Raises DataError when there is none."""
    if asked in table.names:
        return asked
    if table.target is not None:  # the source has no name of its own for it
        return table.target
    missing = f"data.target: {table.origin} has no column '{asked}'."
    separator = next((sign for sign in (";", "\t", "|", ",") if sign in table.names[0]), None)
    if len(table.names) == 1 and separator:
        quoted_sign = '"\\t"' if separator == "\t" else f"'{separator}'"
        raise DataError(
            f"{missing} Its only column is {table.names[0]!r}; if its fields are separated by {separator!r}, "
            f"add to data.source: delimiter: {quoted_sign}"
        )
    raise DataError(f"{missing}{hint(asked, table.names)}")


def listed(ignored: tuple[str, ...], table: Table, target: str | None) -> dict[str, str]:
    """The columns of `data.ignore` → why they are not learned from. Raises DataError for one that there is not."""
    unknown = [name for name in ignored if name not in table.names]
    if unknown:
        raise DataError(f"data.ignore: {table.origin} has no column '{unknown[0]}'.{hint(unknown[0], table.names)}")
    if target in ignored:
        raise DataError(f"data.ignore names the target '{target}'. Take it off, or choose another target.")
    return dict.fromkeys(ignored, "listed in data.ignore")


def read_target(table: Table, column_name: str, shown: str, task: Task | Literal["auto"]) -> Target:
    """Target of a table in which every row has one. `shown` is what the page calls it. Raises DataError."""
    import pyarrow as pa

    column = table.columns.column(column_name)
    if dates.is_date(column.type):
        raise DataError(
            f"data.target: '{shown}' is a date, which is neither a class nor a number. Choose another column."
        )
    if not (is_number(column.type) or is_text(column.type) or pa.types.is_boolean(column.type)):
        raise DataError(f"data.target: '{shown}' is of the kind {column.type}; it must be text, a boolean or a number.")
    if is_number(column.type):
        values = numbers(column)
        beyond = int((np.abs(values) > LARGEST).sum())
        if beyond:
            raise DataError(
                f"data.target: '{shown}' is infinite, or beyond {LARGEST:g}, in {beyond} rows. "
                "Repair or leave out those rows."
            )
        target = _of_numbers(values, shown, task)
    else:
        target = _of_words(column, shown, task)
    distinct = len(target.classes) if target.task == "classification" else len(np.unique(target.values))
    if distinct == 1:
        only = repr(target.classes[0]) if target.classes else f"{target.values[0]:g}"
        raise DataError(f"data.target: '{shown}' is {only} in every row: there is nothing to predict.")
    return target


def _of_numbers(values: np.ndarray, name: str, task: str) -> Target:
    found, codes = np.unique(values, return_inverse=True)
    whole = bool((found == np.floor(found)).all())
    note = ""
    if task == "auto":
        few = len(found) <= MOST_CLASSES and len(values) >= ROWS_PER_CLASS * len(found)
        task = "classification" if whole and (few or len(found) == 2) else "regression"
        other = "regression" if task == "classification" else "classification"
        read = "classes" if task == "classification" else "amounts"
        if whole and 2 < len(found) <= DOUBTFUL:
            note = (
                f"The target '{name}' holds {len(found)} different whole numbers, read as {read}; "
                f"set data.task: {other} if they are not."
            )
    if task == "regression":
        return Target(name, "regression", values, (), note)
    if len(found) > max(MOST_CLASSES, len(values) // 2):
        raise DataError(
            f"data.task: '{name}' has {len(found)} different numbers in {len(values)} rows, too many for classes. "
            "Set data.task: regression."
        )
    classes = tuple(str(int(value)) if value == np.floor(value) else repr(float(value)) for value in found)
    return Target(name, "classification", codes.astype(np.int64), classes, note)


def _of_words(column: Any, name: str, task: str) -> Target:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_boolean(column.type):
        words = np.where(np.asarray(column.to_numpy(), dtype=bool), "true", "false")
    else:
        words = np.asarray(column.to_numpy(), dtype=np.str_)
    if task == "regression":
        like_number = pc.match_substring_regex(pa.array(words), r"^[+-]?\d*\.?\d+([eE][+-]?\d+)?$")
        others = [str(word) for word in words[~like_number.to_numpy(zero_copy_only=False)][:3]]
        shown = ", ".join(map(repr, others or words[:3].tolist()))
        raise DataError(
            f"data.task: regression needs numbers, and '{name}' holds {shown}. "
            "Repair those values, list them as `missing` of a csv source, or set data.task: classification."
        )
    classes, codes = np.unique(words, return_inverse=True)
    if len(classes) > len(words) // 2 and len(words) > MOST_CLASSES:
        raise DataError(
            f"data.target: '{name}' holds {len(classes)} different texts in {len(words)} rows: too many for classes. "
            "Choose a column whose values repeat."
        )
    return Target(name, "classification", codes.astype(np.int64), tuple(str(word) for word in classes))


def class_counts(target: Target, rows: np.ndarray) -> dict[str, int]:
    """class → rows of it among these."""
    counts = np.bincount(target.values[rows], minlength=len(target.classes))
    return {name: int(count) for name, count in zip(target.classes, counts, strict=True)}
