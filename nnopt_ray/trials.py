"""trials.parquet: one row a trial, readable at any time of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnopt_ray.results import TrialRow

FIXED = ("trial", "status", "reason", "epochs", "best_epoch", "seconds", "value")


def write_table(path: Path, rows: Sequence[TrialRow]) -> None:
    """Columns: trial, status, reason, epochs, best_epoch, seconds, value, a column per metric of the
    best epoch, and `param.<path>` per searched value (one type a column; mixed ones become text)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in FIXED}
    for name in sorted({metric for row in rows for metric in row.metrics}):
        columns[name] = [row.metrics.get(name) for row in rows]
    paths = list(dict.fromkeys(path for row in rows for path in row.params))
    for param in paths:
        columns[f"param.{param}"] = _one_type([row.params.get(param) for row in rows])
    types = {"trial": pa.string(), "status": pa.string(), "reason": pa.string(), "epochs": pa.int64(),
             "best_epoch": pa.int64(), "seconds": pa.float64(), "value": pa.float64()}  # fmt: skip
    arrays = {name: pa.array(values, type=types.get(name)) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), path)


def _one_type(values: list[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int} or kinds <= {float} or kinds <= {bool} or kinds <= {str}:
        return values
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else value if isinstance(value, str) else json.dumps(value) for value in values]


def read_table(path: Path) -> list[TrialRow]:
    """The rows of trials.parquet, without their histories."""
    import pyarrow.parquet as pq

    rows = []
    for line in pq.read_table(path).to_pylist():
        params = {k.removeprefix("param."): v for k, v in line.items() if k.startswith("param.") and v is not None}
        metrics = {k: v for k, v in line.items() if k not in FIXED and not k.startswith("param.") and v is not None}
        rows.append(TrialRow(params=params, metrics=metrics, **{name: line[name] for name in FIXED}))
    return rows
