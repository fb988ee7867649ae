"""Some new rows, with what tells them apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnopt_ray.data.table import Table


@dataclass(frozen=True, eq=False)
class Piece:
    """table: as a source reads rows, without a target. beside: columns that say which rows these are, such as `file`.

    faults: row of the piece → why there is nothing in it to predict; what its place holds means nothing.
    """

    table: Table
    beside: Mapping[str, Any] = field(default_factory=dict)
    faults: Mapping[int, str] = field(default_factory=dict)


def cut(table: Table, chunk: int, beside: Mapping[str, Any] | None = None) -> Iterator[Piece]:
    """Pieces of `chunk` rows of a table in memory; beside: Arrow arrays of all rows."""
    for start in range(0, max(table.rows, 1), chunk):
        rows = np.arange(start, min(start + chunk, table.rows))
        yield Piece(
            table if len(rows) == table.rows else table.take(rows),
            {name: column.slice(start, len(rows)) for name, column in (beside or {}).items()},
        )


__all__ = ["Piece", "cut"]
