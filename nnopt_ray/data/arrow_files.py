"""The sources `parquet` and `arrow`: tables in Arrow's own formats."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from nnopt_ray.data.files import Paths, reading
from nnopt_ray.data.later import Later, of_arrow, of_parquet
from nnopt_ray.data.sources import FileSource
from nnopt_ray.data.table import Table

if TYPE_CHECKING:
    import pyarrow as pa

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")


class Parquet(FileSource):
    """Parquet files: one, several, or a folder of them (Hive-style `key=value` folders become columns).

    Keys:
        path: the file, a folder, a pattern such as logs/*.parquet, or a list of these, relative to the page.
        validation: the same with the validation part; then path is the training part (`split: given`).
        test: the same with the test part.
    """

    suffixes = (".parquet", ".pq")

    def __init__(self, *, path: Paths, validation: Paths | None = None, test: Paths | None = None) -> None:
        self.path = path
        self.validation = validation
        self.test = test

    def tables(self, places: list[Path]) -> list[Table]:
        from pyarrow import parquet

        found = []
        for place in places:
            with reading("Parquet", place, "Write it anew, or choose the source type that fits the file."):
                found.append(parquet.read_table(place, partitioning=None))
        if len(places) > 1:
            found = _with_folders(found, [_folders(place) for place in places])
        return [Table(str(place), columns) for place, columns in zip(places, found, strict=True)]

    def later(self, place: Path) -> Later | None:
        with reading("Parquet", place, "Write it anew, or choose the source type that fits the file."):
            return of_parquet(place)


def _folders(place: Path) -> dict[str, str | None]:
    """The `key=value` folders right above a file, the outermost first."""
    found: list[tuple[str, str | None]] = []
    for folder in place.parents:
        key, sign, value = folder.name.partition("=")
        if not (key and sign):
            break
        found.append((unquote(key), None if value == NO_VALUE else unquote(value)))
    return dict(reversed(found))


def _with_folders(tables: list[pa.Table], folders: list[dict[str, str | None]]) -> list[pa.Table]:
    """The tables with their folders as columns: whole numbers where all values of a key are, else text."""
    import pyarrow as pa

    for key in dict.fromkeys(key for folder in folders for key in folder):
        values = [folder.get(key) for folder in folders]
        whole = all(value is None or WHOLE.fullmatch(value) for value in values)
        kind = pa.int64() if whole else pa.string()
        for number, (table, value) in enumerate(zip(tables, values, strict=True)):
            if key in folders[number] and key not in table.column_names:
                one = pa.scalar(int(value) if whole and value is not None else value, kind)
                tables[number] = table.append_column(key, pa.repeat(one, table.num_rows))
    return tables


class Arrow(FileSource):
    """Feather or Arrow IPC files, file or stream form, compressed or not.

    Keys:
        path: the file, a pattern such as logs/*.arrow, or a list of these, relative to the page.
        validation: the same with the validation part; then path is the training part (`split: given`).
        test: the same with the test part.
    """

    def __init__(self, *, path: Paths, validation: Paths | None = None, test: Paths | None = None) -> None:
        self.path = path
        self.validation = validation
        self.test = test

    def tables(self, places: list[Path]) -> list[Table]:
        found = []
        for place in places:
            with reading("Arrow", place, "Write it anew, or choose the source type that fits the file."):
                found.append(Table(str(place), _read_arrow(place)))
        return found

    def later(self, place: Path) -> Later | None:
        with reading("Arrow", place, "Write it anew, or choose the source type that fits the file."):
            return of_arrow(place)


def _read_arrow(place: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import feather, ipc

    with place.open("rb") as file:
        head = file.read(6)
    if head == b"ARROW1" or head[:4] == b"FEA1":
        return feather.read_table(place)
    if head[:4] != b"\xff\xff\xff\xff":  # how every message of a stream begins
        raise ValueError("it is no Feather or Arrow file")
    with pa.memory_map(str(place)) as stream:
        return ipc.open_stream(stream).read_all()


__all__ = ["Arrow", "Parquet"]
