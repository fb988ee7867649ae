"""Rows of the source as they stand there, to see that an export with its preprocessing says the same of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnopt_ray import tables
from nnopt_ray.data.columns import Reading, features
from nnopt_ray.data.frame import Numeric, assemble
from nnopt_ray.data.series import ordered
from nnopt_ray.data.sources import FileSource, Source
from nnopt_ray.data.table import IMAGE, SEQUENCE, Table, tidy
from nnopt_ray.serving import rows
from nnopt_ray.serving.noticed import Noticed
from nnopt_ray.serving.trained import Trained

COMPARED = 256


@dataclass(frozen=True, eq=False)
class Real:
    """inputs: as the preprocessing makes them of these rows. fed: what an export is given instead, by its inputs.

    target: of windows whose changes are foretold, the last value seen, float64 [rows].
    """

    inputs: tuple[np.ndarray, ...]
    fed: Mapping[str, np.ndarray]
    target: np.ndarray | None = None


def read(trained: Trained, columns: Mapping[str, str]) -> Real:
    """Some rows of the source: of tables in files the first ones, else those of the test part.

    columns: what an export is fed, as `Prepared` has it. Raises DataError where the source is not there any more.
    """
    noticed = Noticed(trained)
    done = trained.preprocessing
    table = tidy(_read(trained))
    if done.window is None:
        chosen = noticed.chosen(table)
        frame, gaps = noticed.filled(done.frame(chosen))
        if len(gaps):  # rows that nobody can predict
            chosen = chosen.take(np.flatnonzero(~gaps))
            frame = done.frame(chosen)
        return Real(done.arrays(frame, chosen), _fed(chosen, trained, columns, None))
    ends = [found[stop - done.window.length : stop] for _, found in ordered(table, done.window).series()
            for stop in range(len(found), done.window.length - 1, -max(1, len(found) // COMPARED))]  # fmt: skip
    windows = np.stack(ends[:COMPARED])
    recent = noticed.chosen(table.take(windows.ravel()))
    frame, gaps = noticed.filled(done.frame(recent))
    _, arrays = assemble(frame)
    inputs = arrays[0].reshape(len(windows), done.window.length, -1)
    whole = np.ones(len(windows), dtype=bool) if not len(gaps) else ~gaps.reshape(windows.shape).any(axis=1)
    fed = {name: values[whole] for name, values in _fed(recent, trained, columns, done.window.length).items()}
    last = None
    if done.window.foretell == "change":
        last = fed[target_of(trained)][:, -1]
    return Real((inputs[whole],), fed, last)


def target_of(trained: Trained) -> str:
    """The name that the target has in the source."""
    return next(column.name for column in trained.dataset.summary.columns if column.kind == "target")


def _read(trained: Trained) -> Table:
    part = trained.source
    base = Path.cwd() if trained.experiment.file is None else trained.experiment.file.parent
    source: Source = tables.build("source", part)
    if isinstance(source, FileSource) and trained.kind == "rows":
        place = next(iter(source.groups(base).values()))[0]
        return next(rows.pieces(place, trained, (), COMPARED, lambda _origin, _names: None))
    table = source.read(base)
    if trained.kind == "windows":
        return table
    there = np.sort(np.asarray(trained.dataset.test.source_rows[:COMPARED]))
    if table.numbers is not None:
        there = np.flatnonzero(np.isin(table.numbers, there))
    return replace(table.take(there[there < table.rows]), own_parts=None)


def _fed(table: Table, trained: Trained, columns: Mapping[str, str], length: int | None) -> dict[str, np.ndarray]:
    readings = {reading.name: reading for reading in trained.preprocessing.readings}
    fed: dict[str, np.ndarray] = {}
    for name, kind in columns.items():
        if kind == "array":
            fed[name] = _array(table, name, trained)
            continue
        values = _column(table, readings[name], kind)
        fed[name] = values[:, None] if length is None else values.reshape(-1, length)
    return fed


def _array(table: Table, name: str, trained: Trained) -> np.ndarray:
    if name == IMAGE:
        assert table.images is not None
        return np.ascontiguousarray(table.images)
    found = table.sequences
    assert found is not None
    if name != SEQUENCE:
        return found.lengths.astype(np.int64)
    length = next(layout.input.shape[0] for layout in trained.preprocessing.layouts if layout.input.kind == "sequence")
    values = np.zeros((len(found.lengths), length, len(found.channels)))
    inside = min(length, found.values.shape[1])
    values[:, :inside] = found.values[:, :inside]
    return values


def _column(table: Table, reading: Reading, kind: str) -> np.ndarray:
    """As a user feeds it: float64, NaN where missing, or texts, "" where missing."""
    import pyarrow as pa

    if kind == "text":
        texts = table.columns.column(reading.name).cast(pa.string()).fill_null("").to_pylist()
        return np.array(texts, dtype=object)
    name = f"{reading.name}.days" if kind == "date" else reading.name
    found = features(table, (reading,))[name]
    assert isinstance(found, Numeric)
    return found.values


__all__ = ["COMPARED", "Real", "read"]
