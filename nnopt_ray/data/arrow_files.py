"""The sources `parquet` and `arrow`: tables in Arrow's own formats."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from nnopt_ray.data import later
from nnopt_ray.data.files import Paths, reading
from nnopt_ray.data.later import Later, of_arrow, of_parquet
from nnopt_ray.data.sources import FileSource
from nnopt_ray.data.table import Table

if TYPE_CHECKING:
    import pyarrow as pa

CURE = "Write it anew, or choose the source type that fits the file."
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
            with reading("Parquet", place, CURE):
                found.append(parquet.read_table(place, partitioning=None))
        return _named(places, found)

    def later(self, places: list[Path], room: Path) -> list[Table] | None:
        found = _large("Parquet", places, of_parquet)
        return None if found is None else _named(places, found)


def _named(places: list[Path], found: list[Any]) -> list[Table]:
    if len(places) > 1:
        found = _with_folders(found, [_folders(place) for place in places])
    return [Table(str(place), columns) for place, columns in zip(places, found, strict=True)]


def _large(kind: str, places: list[Path], of: Callable[[Path], Later | None]) -> list[Later] | None:
    """The columns of files, to be read later; None where they are few enough to hold, or one cannot be read so."""
    found: list[Later] = []
    for place in places:
        with reading(kind, place, CURE):
            columns = of(place)
        if columns is None:
            return None
        found.append(_guarded(kind, place, columns))
    return found if sum(columns.size for columns in found) > later.LARGE_BYTES else None


def _guarded(kind: str, place: Path, columns: Later) -> Later:
    """What goes wrong when a column is read is said as when the file is."""

    def read(number: int) -> Any:
        with reading(kind, place, CURE):
            return columns.read(number)

    return replace(columns, read=read)


def _folders(place: Path) -> dict[str, str | None]:
    """The `key=value` folders right above a file, the outermost first."""
    found: list[tuple[str, str | None]] = []
    for folder in place.parents:
        key, sign, value = folder.name.partition("=")
        if not (key and sign):
            break
        found.append((unquote(key), None if value == NO_VALUE else unquote(value)))
    return dict(reversed(found))


def _with_folders(tables: list[Any], folders: list[dict[str, str | None]]) -> list[Any]:
    """The tables with their folders as columns: whole numbers where all values of a key are, else text."""
    import pyarrow as pa

    for key in dict.fromkeys(key for folder in folders for key in folder):
        values = [folder.get(key) for folder in folders]
        whole = all(value is None or WHOLE.fullmatch(value) for value in values)
        kind = pa.int64() if whole else pa.string()
        for number, (table, value) in enumerate(zip(tables, values, strict=True)):
            if key in folders[number] and key not in table.column_names:
                one = pa.scalar(int(value) if whole and value is not None else value, kind)
                is_later = isinstance(table, Later)
                tables[number] = (
                    table.with_value(key, one) if is_later else table.append_column(key, pa.repeat(one, table.num_rows))
                )
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
            with reading("Arrow", place, CURE):
                found.append(Table(str(place), _read_arrow(place)))
        return found

    def later(self, places: list[Path], room: Path) -> list[Table] | None:
        found = _large("Arrow", places, of_arrow)
        if found is None:
            return None
        return [Table(str(place), columns) for place, columns in zip(places, found, strict=True)]


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
