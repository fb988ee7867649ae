"""The source `wide_sequences`: a table with a row for each sequence and a column for each step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data.csv_file import table_file
from nnopt_ray.data.files import Paths
from nnopt_ray.data.sources import FileSource, Source
from nnopt_ray.data.table import LARGEST, Sequences, Table, hint, is_number, numbers, quoted, tidy
from nnopt_ray.errors import DataError

NUMBERED = re.compile(r"(.*?)(\d+(?:\.\d+)?)")  # x_12: the channel x_, the step 12


class WideForm(Source):
    """Sequences in wide form: a csv, parquet or arrow file with a row a sequence, columns such as t0, t1, t2, ...

    The input is a sequence, float32 [length, channels]. Where the last steps of a row are missing in all channels, it
    is a shorter one: zeros follow its end, and its length stands beside it. The target is the column `label`;
    `data.target` may call it as it likes.

    Keys:
        path: the file, a pattern such as walks/*.csv, or a list of these, relative to the page.
        validation: the same with the validation part; then path is the training part (`split: given`).
        test: the same with the test part.
        label: the column with the target.
        channels: of each channel its columns, a pattern such as x_*, the star being the step, or a list in order; when
            left out, columns that differ only in a number at their end are one.
        whole: further columns to learn from or to divide by.
        trailing: what missing values at the end of a row mean: ends (the sequence is shorter) or missing (gaps).
        delimiter: of a csv file, what stands between fields.
        header: of a csv file, the first row holds the names; without one the columns are f0, f1, ...
    """

    def __init__(
        self,
        *,
        path: Paths,
        validation: Paths | None = None,
        test: Paths | None = None,
        label: str,
        channels: Annotated[tuple[str | tuple[str, ...], ...], Field(min_length=1)] | None = None,
        whole: tuple[str, ...] = (),
        trailing: Literal["ends", "missing"] = "ends",
        delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ",",
        header: bool = True,
    ) -> None:
        self.label = label
        self.channels = channels
        self.whole = whole
        self.trailing = trailing
        self._file: FileSource = table_file(path, validation, test, delimiter=delimiter, header=header)

    @classmethod
    def divides(cls, keys: Mapping[str, Any], base: Path) -> bool:
        return FileSource.divides(keys, base)

    def fingerprint(self, base: Path) -> str:
        return self._file.fingerprint(base)

    def read(self, base: Path) -> Table:
        return self.gathered(self._file.read(base))

    def gathered(self, read: Table) -> Table:
        """The sequences of a table with a row a sequence."""
        import pyarrow as pa

        table = tidy(read)
        kept = {self.label: table.column(self.label, "data.source.label")}
        kept |= {name: table.column(name, "data.source.whole") for name in self.whole}
        channels = self._found(table) if self.channels is None else self._named(table, self.channels)
        values = np.stack([self._steps(table, columns) for columns in channels.values()], axis=2)
        lengths = np.full(table.rows, values.shape[1], dtype=np.int64)
        if self.trailing == "ends":
            there = ~np.isnan(values).all(axis=2)
            lengths = np.where(there.any(axis=1), values.shape[1] - there[:, ::-1].argmax(axis=1), 0)
            empty = np.flatnonzero(lengths == 0)
            if len(empty):
                raise DataError(
                    f"data.source: all steps are missing in {len(empty):,} rows of {table.origin}, first in row "
                    f"{empty[0]:,}. Leave them out."
                )
        sequences = Sequences(values, lengths, tuple(channels))
        idle = [name for name in table.names if name not in kept and not any(name in of for of in channels.values())]
        notes = [f"Columns that are neither steps nor named in `whole` are not read: {quoted(idle)}."] if idle else []
        return replace(
            table, columns=pa.table(kept), sequences=sequences, target=self.label, notes=(*table.notes, *notes)
        )

    def _found(self, table: Table) -> dict[str, list[str]]:
        """Channel → its columns, by the names of columns of numbers."""
        taken = {self.label, *self.whole}
        steps: dict[str, list[tuple[float, str]]] = {}
        for name in table.names:
            match = NUMBERED.fullmatch(name)
            if match and name not in taken and is_number(table.columns.column(name).type):
                steps.setdefault(match[1], []).append((float(match[2]), name))
        several = {prefix: sorted(of) for prefix, of in steps.items() if len(of) > 1}
        if not several:
            raise DataError(
                f"data.source: {table.origin} has no columns of numbers whose names differ only in a number at their "
                "end. Name the columns: channels: [[first, second, ...]]"
            )
        self._check_alike({prefix: [step for step, _ in of] for prefix, of in several.items()})
        return _called({prefix: [name for _, name in of] for prefix, of in several.items()})

    def _named(self, table: Table, channels: tuple[str | tuple[str, ...], ...]) -> dict[str, list[str]]:
        """Channel → its columns, as the page says it."""
        found: dict[str, list[str]] = {}
        steps: dict[str, list[float]] = {}
        for number, said in enumerate(channels):
            if isinstance(said, str):
                before, _, after = said.partition("*")
                pattern = re.compile(rf"{re.escape(before)}(\d+(?:\.\d+)?){re.escape(after)}")
                matches = [(match, name) for name in table.names if (match := pattern.fullmatch(name))]
                of = sorted((float(match[1]), name) for match, name in matches if name not in (self.label, *self.whole))
                if said.count("*") != 1 or not of:
                    raise DataError(
                        f"data.source.channels: {said!r} names no columns of {table.origin}; a pattern is a name with "
                        f"one star for the step, such as x_*, and a list names the columns.{hint(said, table.names)}"
                    )
                key, found[said], steps[said] = said, [name for _, name in of], [step for step, _ in of]
            else:
                key = f"channel {number}"
                for name in said:
                    table.column(name, "data.source.channels")
                found[key], steps[key] = list(said), [float(place) for place in range(len(said))]
            if set(found[key]) & {self.label, *self.whole}:
                raise DataError(f"data.source.channels: '{self.label}' or `whole` stands in {key!r} too. Take it off.")
        self._check_alike(steps)
        return _called({key.replace("*", ""): of for key, of in found.items()})

    @staticmethod
    def _check_alike(steps: Mapping[str, list[float]]) -> None:
        first, expected = next(iter(steps.items()))
        for key, of in steps.items():
            if of != expected:
                differing = sorted(set(of) ^ set(expected)) or of
                raise DataError(
                    f"data.source.channels: {first!r} has {len(expected):,} steps and {key!r} {len(of):,}; they must "
                    f"be the same, and differ at {', '.join(f'{step:g}' for step in differing[:5])}. Say which columns "
                    f"are learned from: channels: [...]"
                )

    @staticmethod
    def _steps(table: Table, columns: list[str]) -> np.ndarray:
        """float64 [rows, length]"""
        wrong = [name for name in columns if not is_number(table.columns.column(name).type)]
        empty = [name for name in wrong if table.columns.column(name).null_count == table.rows]
        if len(wrong) > len(empty):
            held = [name for name in wrong if name not in empty]
            raise DataError(f"data.source.channels: {quoted(held)} hold no numbers.")
        values = np.stack([numbers(table.columns.column(name)) for name in columns], axis=1)
        infinite = int((np.abs(values) > LARGEST).sum())
        if infinite:
            raise DataError(
                f"data.source: {infinite:,} steps of {table.origin} are infinite, or beyond {LARGEST:g}. Repair them."
            )
        return values


def _called(channels: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """By names that read well: x_ is x, and what is nothing but numbers is `value`."""
    names = [key.strip(" _-.") or "value" for key in channels]
    if len(set(names)) < len(names):
        names = list(channels)
    return dict(zip(names, channels.values(), strict=True))


__all__ = ["WideForm"]
