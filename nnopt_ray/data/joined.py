"""Several tables as one: rows below each other, columns by their names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnopt_ray.data.cache import ArrayFile, kept
from nnopt_ray.data.later import Later
from nnopt_ray.data.table import Sequences, Table, is_number, is_text, quoted, tidy
from nnopt_ray.errors import DataError

ARRAY = "images.npy"
AT_ONCE = 256  # images copied at a time


def joined(tables: Sequence[Table], names: Sequence[str], content: str, parts: Sequence[str] | None = None) -> Table:
    """The rows of all tables, in this order. Raises DataError where one has other columns, images or sequences.

    names: of each, for messages. content: digest of them all. parts: of each table the part that its rows are.
    """
    if len(tables) == 1 and parts is None:
        return tables[0]
    tables = [tidy(table) for table in tables]
    _check_columns(tables, names)
    _check_alike(tables, names)
    counts = [table.rows for table in tables]
    targets = {table.target for table in tables if table.target is not None}
    own: np.ndarray | None = None
    notes = list(dict.fromkeys(note for table in tables for note in table.notes))
    if parts is not None:
        own = np.repeat(np.array(parts), counts)
    elif all(table.own_parts is not None for table in tables):
        own = np.concatenate([table.own_parts for table in tables if table.own_parts is not None])
    elif dividing := [name for name, table in zip(names, tables, strict=True) if table.own_parts is not None]:
        notes.append(f"Only {quoted(dividing)} of the sources divides its rows itself, so that is not followed.")
    return Table(
        _listed(names),
        _columns(tables),
        images=_images(tables, content),
        sequences=_sequences(tables),
        target=targets.pop() if len(targets) == 1 else None,
        own_parts=own,
        notes=tuple(notes),
        **_numbering(tables),
    )


def kind_of(kind: Any) -> str:
    """What columns of an Arrow type hold, in a word; types with the same word can stand in one column."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_null(kind):
        return "nothing"
    if is_number(kind):
        return "numbers"
    if is_text(kind):
        return "texts"
    if pa.types.is_boolean(kind):
        return "booleans"
    return "dates" if pa.types.is_date(kind) or pa.types.is_timestamp(kind) else str(kind)


def _check_columns(tables: Sequence[Table], names: Sequence[str]) -> None:
    first = tables[0]
    for table, name in zip(tables[1:], names[1:], strict=True):
        lacking = [column for column in first.names if column not in table.names]
        further = [column for column in table.names if column not in first.names]
        said = [f"lacks {quoted(lacking)}"] if lacking else []
        said += [f"has {quoted(further)} besides"] if further else []
        if said:
            raise DataError(
                f"data.source: the columns of '{name}' are not those of '{names[0]}': it {' and '.join(said)}. "
                "Give all the same columns."
            )
    for column in first.names:
        seen: dict[str, str] = {}
        for table, name in zip(tables, names, strict=True):
            seen.setdefault(kind_of(_type(table, column)), name)
        seen.pop("nothing", None)
        if len(seen) > 1:
            (one, of_one), (two, of_two) = list(seen.items())[:2]
            raise DataError(
                f"data.source: '{column}' holds {one} in '{of_one}' and {two} in '{of_two}'. Make them alike."
            )


def _type(table: Table, column: str) -> Any:
    if isinstance(table.columns, Later):
        return table.columns.kind(table.names.index(column))
    return table.columns.column(column).type


def _check_alike(tables: Sequence[Table], names: Sequence[str]) -> None:
    """Images of one shape in all tables or in none, and the same of sequences."""

    def told(table: Table) -> str:
        if table.images is not None:
            return f"images of the shape {tuple(table.images.shape[1:])}"
        return f"sequences of {quoted(list(table.sequences.channels))}" if table.sequences is not None else "neither"

    for table, name in zip(tables[1:], names[1:], strict=True):
        if told(table) != told(tables[0]):
            raise DataError(
                f"data.source: of images and sequences '{names[0]}' has {told(tables[0])}, and '{name}' {told(table)}. "
                "All must be alike; folders of images have the keys size and channels for it."
            )


def _columns(tables: Sequence[Table]) -> Any:
    import pyarrow as pa

    order = tables[0].names
    if any(isinstance(table.columns, Later) for table in tables):
        return Later(
            order,
            sum(table.rows for table in tables),
            lambda number: _columns([_only(table, order[number]) for table in tables]).column(0),
            lambda number: _columns([_only(table, order[number]) for table in tables]).column(0).type,
        )
    columns = [table.columns.select(order) for table in tables]
    for name in order:
        if kind_of(tables[0].columns.column(name).type) == "numbers":
            kinds = {table.columns.column(name).type for table in tables}
            if len(kinds) > 1 and any(pa.types.is_floating(kind) or pa.types.is_decimal(kind) for kind in kinds):
                columns = [_as_floats(table, name) for table in columns]
    return pa.concat_tables(columns, promote_options="permissive")


def _only(table: Table, name: str) -> Table:
    import pyarrow as pa

    return Table(table.origin, pa.table({name: table.columns.column(name)}))


def _as_floats(table: Any, name: str) -> Any:
    import pyarrow as pa

    place = table.column_names.index(name)
    return table.set_column(place, name, table.column(name).cast(pa.float64(), safe=False))


def _images(tables: Sequence[Table], content: str) -> np.ndarray | None:
    """One array; on disk where one of them is, so that memory stays bounded."""
    held = [table.images for table in tables if table.images is not None]
    if not held:
        return None
    if not any(isinstance(images, np.memmap) for images in held):
        return np.concatenate(held)
    kind = np.result_type(*held)
    shape = (sum(map(len, held)), *held[0].shape[1:])

    def make(place: Path) -> None:
        row = 0
        with ArrayFile(place / ARRAY, kind, shape) as whole:
            for images in held:
                for start in range(0, len(images), AT_ONCE):
                    some = images[start : start + AT_ONCE]
                    whole.put(row, some)
                    row += len(some)

    key = hashlib.blake2b(f"joined {content} {shape} {kind}".encode(), digest_size=16).hexdigest()
    found: np.ndarray = np.load(kept("images", key, make) / ARRAY, mmap_mode="r", allow_pickle=False)
    return found


def _sequences(tables: Sequence[Table]) -> Sequences | None:
    held = [table.sequences for table in tables if table.sequences is not None]
    if not held:
        return None
    longest = max(sequences.values.shape[1] for sequences in held)
    values = np.zeros((sum(len(one.lengths) for one in held), longest, len(held[0].channels)))
    row = 0
    for one in held:
        values[row : row + len(one.lengths), : one.values.shape[1]] = one.values
        row += len(one.lengths)
    return Sequences(values, np.concatenate([one.lengths for one in held]), held[0].channels)


def _numbering(tables: Sequence[Table]) -> dict[str, Any]:
    """`numbers` and `unread` of the whole, the rows of all sources counted on."""
    if not any(table.unread for table in tables):
        return {}
    numbers: list[np.ndarray] = []
    unread: list[tuple[int, str]] = []
    before = 0
    for table in tables:
        numbers.append(before + table.numbered(np.arange(table.rows)))
        unread += [(before + row, why) for row, why in table.unread]
        before += table.rows + len(table.unread)
    return {"numbers": np.concatenate(numbers), "unread": tuple(unread)}


def short(names: Sequence[str]) -> list[str]:
    """Paths without the folders that all of them share."""
    if len(names) < 2:
        return list(names)
    folder = os.path.commonpath([os.path.dirname(name) or "." for name in names])
    return [os.path.relpath(name, folder) for name in names]


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])} and {len(names) - 3} more" if len(names) > 4 else ", ".join(names)


__all__ = ["joined", "kind_of", "short"]
