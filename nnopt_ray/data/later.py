"""Columns that are read from their file when they are asked for, one at a time: for data larger than memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

# Columns that take more than this, 8 bytes a value, are read later: in memory, preparing takes ten times as much.
LARGE_BYTES = 1 << 26


@dataclass(frozen=True, eq=False)
class Later:
    """Of a pyarrow.Table what preparing one needs; `column` reads its file anew each time, and nothing is kept.

    read: position of a column → pyarrow.ChunkedArray. kind: position → the Arrow type as it stands in the file.
    """

    column_names: list[str]
    num_rows: int
    read: Callable[[int], Any]
    kind: Callable[[int], Any]

    @property
    def size(self) -> int:
        """Bytes in memory, of 8 a value."""
        return self.num_rows * len(self.column_names) * 8

    def column(self, name: str) -> Any:
        import pyarrow as pa

        found = self.read(self.column_names.index(name))
        pa.default_memory_pool().release_unused()
        return found

    def take(self, rows: np.ndarray) -> Later:
        """The same columns with these rows, in this order."""
        return replace(self, num_rows=len(rows), read=lambda place: self.read(place).take(rows))

    def changed(self, names: list[str], change: Callable[[Any], Any]) -> Later:
        """The same columns under these names, each changed when it is read."""
        return replace(self, column_names=names, read=lambda place: change(self.read(place)))

    def with_value(self, name: str, value: pa.Scalar) -> Later:
        """The same columns and one more, of the same value in every row."""
        import pyarrow as pa

        last = len(self.column_names)
        return replace(
            self,
            column_names=[*self.column_names, name],
            read=lambda at: pa.chunked_array([pa.repeat(value, self.num_rows)]) if at == last else self.read(at),
            kind=lambda at: value.type if at == last else self.kind(at),
        )


def of_parquet(place: Path) -> Later | None:
    """The columns of a Parquet file; None where one is nested or a name stands twice."""
    import pyarrow as pa
    from pyarrow import parquet

    with parquet.ParquetFile(place) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    names = list(schema.names)
    nested = any(pa.types.is_nested(kind) for kind in schema.types)
    if len(set(names)) < len(names) or nested:
        return None

    def read(number: int) -> pa.ChunkedArray:
        # Threads of a scan keep memory of their own, and so do pages that are fetched before they are needed.
        with parquet.ParquetFile(place, pre_buffer=False) as file:
            return file.read(columns=[names[number]], use_threads=False).column(names[number])

    return Later(names, rows, read, lambda number: schema.types[number])


def of_arrow(place: Path) -> Later | None:
    """The same of an Arrow or Feather file; its columns lie in the page cache where it is not compressed. None also
    for the form of a stream and for Feather's first version."""
    import pyarrow as pa
    from pyarrow import ipc

    with place.open("rb") as head:
        if head.read(6) != b"ARROW1":
            return None

    def opened(column: int | None) -> ipc.RecordBatchFileReader:
        chosen = ipc.IpcReadOptions(included_fields=None if column is None else [column])
        return ipc.open_file(pa.OSFile(str(place)), options=chosen)

    whole = opened(None)
    names = list(whole.schema.names)
    rows = whole.count_rows()
    if len(set(names)) < len(names):
        return None
    types = whole.schema.types
    return Later(names, rows, lambda number: opened(number).read_all().column(0), lambda number: types[number])


__all__ = ["LARGE_BYTES", "Later", "of_arrow", "of_parquet"]
