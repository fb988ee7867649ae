"""Data for the tests of the quality checks, examined as the framework shows it to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from nnopt_ray import reading, tables
from nnopt_ray.data.columns import recognise
from nnopt_ray.data.quality import Examined
from nnopt_ray.data.table import Table, tidy
from nnopt_ray.data.target import read_target
from nnopt_ray.tables import Part


def examined(
    columns: dict[str, Any],
    target: str = "y",
    *,
    images: np.ndarray | None = None,
    split: dict[str, Any] | None = None,
    steps: tuple[Any, ...] = (),
    seed: int = 0,
    as_text: frozenset[str] = frozenset(),
) -> Examined:
    """These columns, divided and read as a page with this split and these steps does it."""
    said = {"source": {"type": "csv", "path": "t.csv"}, "split": split or "random", "steps": list(steps)}
    data = reading.from_tree({"seed": seed, "data": said, "model": "mlp"}).data
    table = tidy(Table("a table", pa.table(columns), images))
    read = read_target(table, target, target, "auto")
    divide = tables.build("split", data.split)
    names = [name for name in table.names if name != target and name not in divide.hidden]
    readings, empty = recognise(table, names, as_text)
    parts = divide.divide(table, read)
    return Examined(
        table, readings, read, parts, np.arange(table.rows), seed, unread=empty, steps=data.steps, split=data.split
    )


def part(name: str, **keys: Any) -> Part:
    """A check with its defaults filled in, as a page gives it."""
    return Part(name, dict(keys))  # type: ignore[arg-type]
