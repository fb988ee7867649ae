"""From the inputs of a network back to what the user gave: the column of each number, the values as they were read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnopt_ray import rundir, tables
from nnopt_ray.data.columns import Reading, features
from nnopt_ray.data.frame import Frame, Numeric
from nnopt_ray.data.preprocessing import FILE, Preprocessing
from nnopt_ray.data.table import Table, tidy
from nnopt_ray.data.types import Dataset
from nnopt_ray.experiment import Experiment

READ_AGAIN = 20_000_000  # values of a source beyond which it is not read a second time, seconds of a CSV file


def origins(folder: Path) -> tuple[tuple[str, ...], ...]:
    """Of each input of the prepared data in a folder, the source's column that each of its names was made from.

    One-hot columns, indicators of missing values and parts of dates have that of their column. The steps are gone
    through with one row that lacks every value, as where a feature comes from does not hang on the rows. A step of the
    user's own that cannot do that leaves the names as they are.
    """
    import pyarrow as pa

    done = Preprocessing.from_json(rundir.read_json(folder / FILE))
    names = tuple(layout.names for layout in done.layouts)
    empty = Table("no rows", pa.table({reading.name: pa.nulls(1) for reading in done.readings}))
    made = features(empty, done.readings)
    frame = Frame({name: feature for name, feature in made.items() if name not in done.left_out})
    for part, state in done.steps:
        if part.type not in tables.table("step"):
            return names
        frame = tables.build("step", part).transform(frame, state)
    return tuple(tuple(frame.features[name].origin if name in frame.features else name for name in of) for of in names)


def channels(folder: Path) -> tuple[str, ...]:
    """The names of the channels of the sequences, the first input of the prepared data in a folder."""
    return Preprocessing.from_json(rundir.read_json(folder / FILE)).layouts[0].names


@dataclass(frozen=True)
class AsRead:
    """Rows of a table as the source has them.

    values: column → a value a row, None where it is missing. orders: column → float64 [rows] of those that have an
    order: numbers, days of dates, 0 and 1; NaN where missing.
    """

    values: Mapping[str, list[Any]]
    orders: Mapping[str, np.ndarray]


def as_read(experiment: Experiment, dataset: Dataset, source_rows: np.ndarray) -> AsRead | None:
    """The columns learned from, in rows of the source by their numbers, int64 [rows].

    None comes back where the source has more values than READ_AGAIN, where its rows are no rows of a table, or where it
    has changed since. Raises DataError when it cannot be read any more.
    """
    summary = dataset.summary
    if summary.rows * max(1, len(summary.columns)) > READ_AGAIN or experiment.data.window is not None:
        return None
    base = experiment.file.resolve().parent if experiment.file is not None else Path.cwd()
    table = tidy(tables.build("source", experiment.data.source).read(base))
    places = source_rows
    if table.numbers is not None:
        places = np.searchsorted(table.numbers, source_rows)
        if (places >= len(table.numbers)).any() or (table.numbers[places] != source_rows).any():
            return None
    readings = Preprocessing.from_json(rundir.read_json(dataset.folder / FILE)).readings
    if (len(places) and int(places.max()) >= table.rows) or any(each.name not in table.names for each in readings):
        return None
    return of_table(table.take(places), readings)


def of_table(table: Table, readings: tuple[Reading, ...]) -> AsRead:
    """All rows of a table that is like the source, which was made tidy."""
    values = {reading.name: table.columns.column(reading.name).to_pylist() for reading in readings}
    made = features(table, readings)
    orders = {}
    for reading in readings:
        found = made.get(f"{reading.name}.days") or made.get(reading.name)
        if isinstance(found, Numeric):
            orders[reading.name] = found.values
    return AsRead(values, orders)


__all__ = ["AsRead", "as_read", "channels", "of_table", "origins"]
