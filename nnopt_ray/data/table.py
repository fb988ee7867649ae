"""What a source hands on: named columns (Arrow) and, for images, one array beside them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nnopt_ray.data.later import Later
from nnopt_ray.errors import DataError
from nnopt_ray.tables import suggestion

if TYPE_CHECKING:
    import pyarrow as pa

LARGEST = 1e150  # numbers beyond it have squares that float64 cannot hold
IMAGE = "image"  # the name under which the image input is addressed, as in `columns: [image]`
SEQUENCE = "sequence"  # the same of sequences


@dataclass(frozen=True, eq=False)
class Sequences:
    """values: float [rows, length, channels], NaN where missing, 0 behind the end of a shorter sequence.

    lengths: int64 [rows], steps of each; differ: the network is told them.
    """

    values: np.ndarray
    lengths: np.ndarray
    channels: tuple[str, ...]
    differ: bool = False

    @property
    def real(self) -> np.ndarray:
        """bool [rows, length]: which steps are there."""
        there: np.ndarray = np.arange(self.values.shape[1]) < self.lengths[:, None]
        return there

    def take(self, rows: np.ndarray) -> Sequences:
        """The same sequences with these rows, in this order."""
        return replace(self, values=self.values[rows], lengths=self.lengths[rows])


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of a source, as read.

    columns: a pyarrow.Table with every column but the image, the target among them; Later where a source was asked
        for data larger than memory.
    images: [rows, channels, height, width], any real dtype; None when there are none.
    sequences: None when there are none.
    target: the column that is the source's own target where the source has no name for it (arrays);
        the page's `data.target` may call it anything.
    own_parts: [rows] of train, validation and test, where the source itself divides its rows (`split: given`).
    origin: what it was read from, in words, for messages and the report.
    numbers: int64 [rows], the number of each row in the source, where rows of it were left out; unread: those, each
        with its number and why.
    """

    origin: str
    columns: pa.Table
    images: np.ndarray | None = None
    sequences: Sequences | None = None
    target: str | None = None
    own_parts: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    numbers: np.ndarray | None = None
    unread: tuple[tuple[int, str], ...] = ()

    @property
    def rows(self) -> int:
        if self.images is not None:
            return len(self.images)
        return len(self.sequences.values) if self.sequences is not None else int(self.columns.num_rows)

    @property
    def names(self) -> list[str]:
        return list(self.columns.column_names)

    def take(self, rows: np.ndarray) -> Table:
        """The same table with these rows, in this order."""
        return replace(
            self,
            columns=self.columns.take(rows),
            images=None if self.images is None else self.images[rows],
            sequences=None if self.sequences is None else self.sequences.take(rows),
            own_parts=None if self.own_parts is None else self.own_parts[rows],
            numbers=None if self.numbers is None else self.numbers[rows],
        )

    def numbered(self, rows: np.ndarray) -> np.ndarray:
        """int64 [rows]: the numbers that these rows of the table have in the source."""
        return rows if self.numbers is None else self.numbers[rows]

    def column(self, name: str, asked_by: str) -> Any:
        """One column (pyarrow.ChunkedArray). Raises DataError naming the key of the page that asked for it."""
        if name not in self.names:
            raise DataError(f"{asked_by}: {self.origin} has no column '{name}'.{hint(name, self.names)}")
        return self.columns.column(name)


def hint(word: str, known: list[str]) -> str:
    """A nearby name and what there is, cut at 30 names, to end a sentence about a column that is not there."""
    shown = ", ".join(known[:30]) + (f", and {len(known) - 30} more" if len(known) > 30 else "")
    near = suggestion(word, known) if len(known) else ""
    return (near if "Did you mean" in near else "") + (f" The columns are: {shown}." if known else "")


def tidy(table: Table) -> Table:
    """Checked and made uniform: names unique and on one line, text trimmed, blank text missing, dictionaries decoded.

    Raises DataError when there are no rows, when two columns share a name, or when columns and images
    differ in length.
    """
    import pyarrow as pa

    names = one_line(table.names)
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(
            f"{table.origin} has more than one column named {', '.join(map(repr, twice))}. "
            "Give every column a name of its own."
        )
    if table.images is not None and names and len(table.images) != table.columns.num_rows:
        raise DataError(f"{table.origin} has {len(table.images)} images but {table.columns.num_rows} rows of columns.")
    if table.sequences is not None:
        table = replace(table, sequences=_tidy_sequences(table))
    if table.rows == 0:
        raise DataError(f"{table.origin} has no rows.")
    if isinstance(table.columns, Later):
        return replace(
            table, columns=table.columns.changed(names, _tidy), target=table.target and _one_line(table.target)
        )
    columns = pa.table([_tidy(column) for column in table.columns.columns], names=names)
    return replace(table, columns=columns, target=table.target and _one_line(table.target))


def _tidy_sequences(table: Table) -> Sequences:
    """With zeros behind their ends. Raises DataError for lengths that cannot be."""
    found = table.sequences
    assert found is not None
    rows, length, _ = found.values.shape
    if table.names and rows != table.columns.num_rows:
        raise DataError(f"{table.origin} has {rows} sequences but {table.columns.num_rows} rows of columns.")
    wrong = np.flatnonzero((found.lengths < 1) | (found.lengths > length))
    if len(wrong):
        raise DataError(
            f"{table.origin}: the length of a sequence must be 1 to {length}, and that of row {wrong[0]} is "
            f"{found.lengths[wrong[0]]}."
        )
    if rows and (found.lengths < length).any():
        values = np.where(found.real[:, :, None], found.values, np.zeros((), found.values.dtype))
        return replace(found, values=values, differ=True)
    return found


def one_line(names: list[str]) -> list[str]:
    """Names as a table has them: each on one line, and none empty."""
    return [_one_line(name) or f"unnamed_{position}" for position, name in enumerate(names, start=1)]


def _one_line(name: str) -> str:
    return " ".join(name.split())


def _tidy(column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if is_text(column.type):
        trimmed = pc.utf8_trim_whitespace(column.cast(pa.string()))
        return pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed)
    if pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
        return pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
    return column


def is_text(kind: Any) -> bool:
    """True for Arrow's text types."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number(kind: Any) -> bool:
    """True for Arrow's whole, floating and decimal numbers."""
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def numbers(column: Any) -> np.ndarray:
    """A column of numbers or booleans as float64 [rows], NaN where missing."""
    import pyarrow as pa

    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def quoted(names: list[str], most: int = 8) -> str:
    """'a', 'b', 'c' and 4 more."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
