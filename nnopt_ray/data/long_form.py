"""The source `sequences`: a table with a row for each step of each sequence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from nnopt_ray.data.columns import text as as_words
from nnopt_ray.data.csv_file import table_file
from nnopt_ray.data.files import Paths
from nnopt_ray.data.sources import FileSource, Source
from nnopt_ray.data.split import instants
from nnopt_ray.data.table import LARGEST, Sequences, Table, is_number, numbers, quoted, tidy
from nnopt_ray.errors import DataError


class LongForm(Source):
    """Sequences in long form: a csv, parquet or arrow file with a row a step, and a column that says of which sequence.

    The input is a sequence, float32 [length, channels], with zeros behind the end of shorter ones, and their lengths
    beside it where they differ. The target is one value a sequence; `data.target` may call it as it likes.

    Keys:
        path: the file, a pattern such as walks/*.csv, or a list of these, relative to the page.
        validation: the same with the validation part; then path is the training part (`split: given`).
        test: the same with the test part.
        id: the column that says which sequence a row belongs to.
        order: the column that says when: dates, timestamps or numbers; without it the rows are in their order.
        label: the column with the target, which must be the same in all rows of a sequence.
        channels: the columns of numbers to learn from; all others that are numbers when left out.
        whole: further columns that are the same in all rows of a sequence, to learn from or to divide by.
        length: steps kept of a sequence, its first ones; all when left out.
        delimiter: of a csv file, what stands between fields.
    """

    def __init__(
        self,
        *,
        path: Paths,
        validation: Paths | None = None,
        test: Paths | None = None,
        id: str,
        label: str,
        order: str | None = None,
        channels: tuple[str, ...] | None = None,
        whole: tuple[str, ...] = (),
        length: Annotated[int, Field(ge=1)] | None = None,
        delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ",",
    ) -> None:
        self.id = id
        self.label = label
        self.order = order
        self.channels = channels
        self.whole = whole
        self.length = length
        self._file: FileSource = table_file(path, validation, test, delimiter=delimiter)

    @classmethod
    def divides(cls, keys: Mapping[str, Any], base: Path) -> bool:
        return FileSource.divides(keys, base)

    def fingerprint(self, base: Path) -> str:
        return self._file.fingerprint(base)

    def read(self, base: Path) -> Table:
        return self.gathered(self._file.read(base))

    def gathered(self, read: Table) -> Table:
        """The sequences of a table with a row a step."""
        import pyarrow as pa

        steps = tidy(read)
        ids = steps.column(self.id, "data.source.id")
        if ids.null_count:
            raise DataError(
                f"data.source.id: '{self.id}' is missing in {ids.null_count} rows, so their sequence is unknown. "
                "Fill them in the source or leave those rows out."
            )
        codes = as_words(ids, self.id).codes  # numbered as they first appear
        if steps.own_parts is not None:  # another file may count its sequences from 1 again
            codes = _numbered(codes, steps.own_parts)
        times = np.arange(steps.rows) if self.order is None else instants(steps, self.order, "data.source.order")
        rows = np.lexsort((times, codes))
        counts = np.bincount(codes)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        place = np.arange(len(rows)) - np.repeat(starts, counts)
        twice = np.flatnonzero((np.diff(times[rows]) == 0) & (place[1:] > 0))
        if len(twice):
            at = rows[twice[0] + 1]
            when = steps.column(self.order or "", "data.source.order")[int(at)].as_py()
            raise DataError(
                f"data.source.order: two rows of the sequence {ids[int(at)].as_py()!r} have the time {when}. "
                "Remove one, or choose another column."
            )
        channels = self._channels(steps)
        longest = int(counts.max())
        length = longest if self.length is None else min(longest, self.length)
        kept = place < length
        values = np.zeros((len(counts), length, len(channels)))
        for number, name in enumerate(channels):
            column = numbers(steps.columns.column(name))
            infinite = int((np.abs(column) > LARGEST).sum())
            if infinite:
                raise DataError(
                    f"data.source: '{name}' is infinite, or beyond {LARGEST:g}, in {infinite} rows. Repair them."
                )
            values[codes[rows][kept], place[kept], number] = column[rows][kept]
        columns = {name: self._one_each(steps, name, codes) for name in (self.label, *self.whole)}
        cut = int((counts > length).sum())
        notes = [f"{cut:,} of {len(counts):,} sequences are longer than {length:,} steps and were cut at their end."]
        return Table(
            steps.origin,
            pa.table(columns),
            sequences=Sequences(values, np.minimum(counts, length).astype(np.int64), channels),
            target=self.label,
            own_parts=None if steps.own_parts is None else steps.own_parts[np.unique(codes, return_index=True)[1]],
            notes=(*steps.notes, *(notes if cut else ())),
        )

    def _channels(self, steps: Table) -> tuple[str, ...]:
        import pyarrow as pa

        def usable(name: str) -> bool:
            kind = steps.columns.column(name).type
            return is_number(kind) or bool(pa.types.is_boolean(kind))

        taken = {self.id, self.order, self.label, *self.whole}
        if self.channels is None:
            found = tuple(name for name in steps.names if name not in taken and usable(name))
            if not found:
                raise DataError(f"data.source: {steps.origin} has no further column of numbers to learn from.")
            return found
        for name in self.channels:
            steps.column(name, "data.source.channels")
        wrong = [name for name in self.channels if not usable(name)]
        if wrong or not self.channels:
            raise DataError(f"data.source.channels: {quoted(wrong) or 'an empty list'} holds no numbers.")
        return self.channels

    def _one_each(self, steps: Table, name: str, codes: np.ndarray) -> Any:
        """The value of each sequence; missing where no row has one. Raises DataError where they differ."""
        column = steps.column(name, f"data.source.{'label' if name == self.label else 'whole'}")
        words = as_words(column, name).codes
        known = np.flatnonzero(words >= 0)
        # The first row with a value of each sequence: assigned last when the rows are gone through backwards.
        first = np.full(int(codes.max()) + 1, -1, dtype=np.int64)
        first[codes[known[::-1]]] = known[::-1]
        other = known[words[known] != words[first[codes[known]]]]
        if len(other):
            row = int(other[0])
            one, two = column[int(first[codes[row]])].as_py(), column[row].as_py()
            which = steps.columns.column(self.id)[row].as_py()
            raise DataError(
                f"data.source: '{name}' must be the same in all rows of a sequence, and is {one!r} and {two!r} in the "
                f"sequence {which!r}. Choose another column, or repair the rows."
            )
        import pyarrow as pa

        return column.take(pa.array(np.where(first < 0, 0, first), mask=first < 0))


def _numbered(codes: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """int64 [rows]: each pair of code and part as a number of its own, numbered as they first appear."""
    pairs = codes * 3 + np.unique(parts, return_inverse=True)[1]
    _, first, found = np.unique(pairs, return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    numbered: np.ndarray = order[found]
    return numbered


__all__ = ["LongForm"]
