"""trials.parquet: one row a trial, readable at any time of a run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnopt_ray.results import TrialRow

CAUSES_SAID = 3  # of a search without any value, the commonest

CAUSES = {
    "not-a-number": "the loss became not a number",
    "memory": "out of memory",
    "part": "a fault in a part",
    "worker": "lost with its worker",
}

FIXED = ("trial", "status", "cause", "reason", "epochs", "best_epoch", "seconds", "value")


def write_table(path: Path, rows: Sequence[TrialRow]) -> None:
    """Columns: trial, status, cause (of a failure), reason, epochs, best_epoch, seconds, value, a column
    per metric of the best epoch, and `param.<path>` per searched value (one type a column; mixed ones
    become text)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in FIXED}
    for name in sorted({metric for row in rows for metric in row.metrics}):
        columns[name] = [row.metrics.get(name) for row in rows]
    paths = list(dict.fromkeys(path for row in rows for path in row.params))
    for param in paths:
        columns[f"param.{param}"] = _one_type([row.params.get(param) for row in rows])
    text, whole, real = pa.string(), pa.int64(), pa.float64()
    types = dict(zip(FIXED, (text, text, text, text, whole, whole, real, real), strict=True))
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
        rows.append(TrialRow(params=params, metrics=metrics, **{name: line[name] for name in FIXED if name in line}))
    return rows


def cause_in_words(cause: str) -> str:
    return CAUSES.get(cause, cause or "other reasons")


def no_value(rows: Sequence[TrialRow], metric: str) -> str:
    """Why a search ended without a value: one sentence for each way in which its trials failed."""
    if not rows:
        return f"no trial gave a value for {metric}: none was run."
    ways: dict[str, list[TrialRow]] = {}
    for row in rows:
        # The same fault at another point differs in its numbers alone.
        ways.setdefault(row.cause or re.sub(r"[-+.\d]*\d[-+.\de]*", "#", row.reason), []).append(row)
    told = []
    for alike in sorted(ways.values(), key=len, reverse=True)[:CAUSES_SAID]:
        how_many = f"{len(alike)} of {len(rows)}" if len(alike) < len(rows) else f"all {len(rows)}"
        where = f"{how_many} trials ({alike[0].trial} for one)" if len(alike) > 1 else f"trial {alike[0].trial}"
        told.append(f"In {where}: {alike[0].reason.rstrip('.')}.")
    more = len(ways) - len(told)
    told += [f"{more} other reasons are in trials.parquet."] * (more > 0)
    return f"no trial gave a value for {metric}. {' '.join(told)}"
