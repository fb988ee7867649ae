"""New sequences: tables with a row a step or a row a sequence, and arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from nnopt_ray import tables
from nnopt_ray.data.arrays import Numpy
from nnopt_ray.data.csv_file import table_file
from nnopt_ray.data.long_form import LongForm
from nnopt_ray.data.table import Table, tidy
from nnopt_ray.data.wide_form import WideForm
from nnopt_ray.errors import DataError, UserError
from nnopt_ray.serving.noticed import missing_columns
from nnopt_ray.serving.pictures import ARRAYS
from nnopt_ray.serving.pictures import array as array_of_file
from nnopt_ray.serving.piece import Piece, cut
from nnopt_ray.serving.rows import SUFFIXES as OF_TABLES
from nnopt_ray.serving.trained import Trained

SUFFIXES = (*ARRAYS, *OF_TABLES)


def pieces(places: list[Path], trained: Trained, chunk: int) -> Iterator[Piece]:
    """The sequences of files, those of one below those of another. Raises DataError."""
    for place in places:
        beside: dict[str, Any] = {}
        if place.suffix.lower() in ARRAYS:
            found = array(array_of_file(place, trained, "x"), trained, str(place))
        else:
            keys = {key: trained.source[key] for key in ("delimiter", "header") if key in trained.source.keys}
            found, beside = gathered(tidy(table_file(str(place), **keys).read(place.parent)), trained)
        yield from cut(found, chunk, beside)


def array(values: np.ndarray, trained: Trained, origin: str) -> Table:
    """Sequences of one length, [rows, length, channels] or [rows, length] of one channel. Raises DataError."""
    channels = trained.preprocessing.channels or ()
    found = Numpy(x="x.npy", y="y.npy", kind="sequence").unlabelled(values, None, origin)
    if found.sequences is not None and len(found.sequences.channels) == len(channels):
        found = replace(found, sequences=replace(found.sequences, channels=channels))
    return found


def gathered(read: Table, trained: Trained) -> tuple[Table, dict[str, Any]]:
    """The sequences of a tidy table in the form of the source that was learned from, and what tells them apart.

    Raises DataError for a table that has no such form, UserError where training had none.
    """
    import pyarrow as pa

    part = trained.source
    if part.type not in ("sequences", "wide_sequences"):
        raise UserError(
            f"{trained.root} learned from sequences in arrays. Give new ones as an array [rows, length, channels] "
            "(.npy)."
        )
    keys = dict(part.keys)
    lacking = [name for name in (keys["label"],) if name not in read.names]
    columns = read.columns
    for name in lacking:  # new rows have no target, which the form asks for
        columns = columns.append_column(name, pa.nulls(read.rows, pa.string()))
    if part.type == "sequences":
        keys["channels"] = trained.preprocessing.channels
    keys |= {"validation": None, "test": None}
    source = tables.build("source", replace(part, keys=MappingProxyType(keys)))
    assert isinstance(source, (LongForm, WideForm))
    _refuse_lacking(read, source)
    found = source.gathered(replace(read, columns=columns))
    kept = [name for name in found.names if name != keys["label"]]
    beside: dict[str, Any] = {}
    if isinstance(source, LongForm):
        beside[source.id] = read.columns.column(source.id).unique()
    return replace(found, columns=found.columns.select(kept), target=None, notes=()), beside


def _refuse_lacking(read: Table, source: LongForm | WideForm) -> None:
    if isinstance(source, LongForm):
        named = [source.id, *([source.order] if source.order is not None else []), *(source.channels or ())]
        named += source.whole
        lacking = [name for name in named if name not in read.names]
        if lacking:
            raise DataError(missing_columns(read.origin, lacking, [name for name in read.names if name not in named]))


__all__ = ["SUFFIXES", "array", "gathered", "pieces"]
