"""Rows that are points in time: which series they belong to, in which order, and the newest of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nnopt_ray.data.columns import text as as_words
from nnopt_ray.data.split import instants
from nnopt_ray.data.table import Table, hint
from nnopt_ray.errors import DataError
from nnopt_ray.experiment import Window

GAP = 1.5  # a step is a gap when it is longer than this many usual ones: months differ by less


@dataclass(frozen=True, eq=False)
class Order:
    """The time points of a table in their order. rows: int64, one series behind the other; starts: where each begins.

    names: of the series, "" when there is one.
    """

    rows: np.ndarray
    starts: np.ndarray
    names: tuple[str, ...]
    gaps: int  # steps between neighbours of a series that are much longer than the usual one

    def series(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, rows in the order of time) of each series."""
        yield from zip(self.names, np.split(self.rows, self.starts[1:]), strict=True)


def ordered(table: Table, window: Window) -> Order:
    """The rows by series and time. Raises DataError for unknown columns, and times that are missing or there twice."""
    for key, asked in (("by", window.by), ("order", (window.order,))):
        for name in asked:
            if name not in table.names:
                raise DataError(f"data.window.{key}: {table.origin} has no column '{name}'.{hint(name, table.names)}")
    times = instants(table, window.order, "data.window.order")
    groups, names = np.zeros(table.rows, dtype=np.int64), [""]
    for name in window.by:
        column = table.columns.column(name)
        if column.null_count:
            raise DataError(f"data.window.by: '{name}' is missing in {column.null_count} rows. Fill or remove them.")
        encoded = as_words(column, name)
        words, codes = np.unique(np.array(encoded.words), return_inverse=True)
        pairs = groups * len(words) + codes[encoded.codes]
        found, groups = np.unique(pairs, return_inverse=True)
        names = [f"{names[pair // len(words)]} {words[pair % len(words)]}".strip() for pair in found]
    rows = np.lexsort((times, groups))
    starts = np.concatenate([[0], np.flatnonzero(np.diff(groups[rows])) + 1])
    distances = np.diff(times[rows])
    inside = np.ones(len(distances), dtype=bool)
    inside[starts[1:] - 1] = False
    twice = np.flatnonzero(inside & (distances == 0))
    if len(twice):
        at = table.columns.column(window.order)[int(rows[twice[0]])].as_py()
        whose = f" of the series {names[groups[rows[twice[0]]]]!r}" if window.by else ""
        cure = "Remove one, or name in data.window.by the columns that tell the series apart."
        raise DataError(f"data.window.order: two rows{whose} have the time {at}. {cure}")
    usual = float(np.median(distances[inside])) if inside.any() else 0.0
    gaps = int((distances[inside] > GAP * usual).sum())
    return Order(rows.astype(np.int64), starts, tuple(names), gaps)


def newest(window: Window, table: Table, steps: np.ndarray) -> np.ndarray:
    """float32 [series, length, channels]: the last `length` time points of each series, series in sorted order: what
    a forecast of the time after them is made from. `steps`: float32 [rows, channels]."""
    found = []
    for name, rows in ordered(table, window).series():
        if len(rows) < window.length:
            whose = f"the series {name!r}" if window.by else table.origin
            raise DataError(f"{whose} has {len(rows):,} time points; a forecast needs the last {window.length:,}.")
        found.append(steps[rows[-window.length :]])
    return np.stack(found)


__all__ = ["Order", "newest", "ordered"]
