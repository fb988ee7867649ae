"""New rows from wherever they are: the forms that training took, and more of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnopt_ray import tables
from nnopt_ray.data.files import files, located
from nnopt_ray.data.hugging_face import SPLITS, STATE
from nnopt_ray.data.table import Table
from nnopt_ray.errors import UserError
from nnopt_ray.reading.addresses import is_address
from nnopt_ray.serving import pictures, rows, sequences, texts
from nnopt_ray.serving.noticed import Noticed
from nnopt_ray.serving.piece import Piece, cut
from nnopt_ray.serving.trained import Trained

OF_TEXTS = (".txt", ".md", ".text")


def pieces(
    data: Sequence[str], trained: Trained, noticed: Noticed, keep: tuple[str, ...], chunk: int
) -> Iterator[Piece]:
    """The rows of DATA, at most `chunk` at a time: files, folders, patterns such as new/*.csv, addresses.

    Columns that are missing or further are told to `noticed` before rows are read. Raises DataError for what cannot be
    read, UserError for what is not of the kind that the network takes.
    """
    whole = _hugging_face(data, trained)
    if whole is not None:
        yield from cut(replace(whole, target=None), chunk)
        return
    if trained.kind == "images":
        _refuse_keep(keep, "images")
        yield from pictures.pieces(_places(data, pictures.SUFFIXES, trained, "images"), trained, chunk)
    elif trained.kind == "sequences":
        _refuse_keep(keep, "sequences")
        yield from sequences.pieces(_places(data, sequences.SUFFIXES, trained, "sequences"), trained, chunk)
    elif trained.text is not None and _is_text(data, trained):
        _refuse_keep(keep, "texts in files")
        suffix = trained.source["suffix"] if trained.source.type == "text_lines" else None
        places = _places(data, (*OF_TEXTS, *([suffix] if suffix else [])), trained, "texts")
        yield from texts.pieces(places, trained, any(Path(one).is_dir() for one in data), chunk)
    else:
        yield from _tables(data, trained, noticed, keep, chunk)


def _tables(
    data: Sequence[str], trained: Trained, noticed: Noticed, keep: tuple[str, ...], chunk: int
) -> Iterator[Piece]:
    import pyarrow as pa

    places = _places(data, (*rows.SUFFIXES, *pictures.ARRAYS), trained, "a table")
    for place in places:
        if place.suffix.lower() in pictures.ARRAYS:
            whole = array(pictures.array(place, trained, "x"), trained, str(place))
            cuts: Iterator[Table] = (piece.table for piece in cut(whole, chunk))
        else:
            cuts = rows.pieces(place, trained, keep, chunk, noticed.names)
        for table in cuts:
            names = pa.array([str(place)] * table.rows, pa.string()) if len(places) > 1 else None
            yield Piece(table, {} if names is None else {"file": names})


def array(values: Any, trained: Trained, origin: str) -> Table:
    """An array [rows, columns] as a table: the columns of the training data in their order, the target left out.

    Raises UserError for another number of columns.
    """
    import numpy as np
    import pyarrow as pa

    names = trained.columns
    if values.ndim == 1 and len(values) == len(names):
        values = values[None]
    if values.ndim != 2 or values.shape[1] != len(names):
        shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        raise UserError(
            f"{origin} has the shape {values.shape}; {trained.root} learned from {len(names)} columns, and an array "
            f"[rows, {len(names)}] has them in this order: {shown}."
        )
    return Table(origin, pa.table({name: np.ascontiguousarray(values[:, at]) for at, name in enumerate(names)}))


def _places(data: Sequence[str], suffixes: tuple[str, ...], trained: Trained, what: str) -> list[Path]:
    """The files that are meant. Raises DataError where there is none, UserError where one is of another kind."""
    found: list[Path] = []
    for one in data:
        path = one if is_address(one) else str(Path(one).expanduser().absolute())
        found += files(path, Path.cwd(), suffixes, "DATA", hidden=(".",))
    found = [place for place in found if "labels" not in place.name or not place.name.endswith(pictures.IDX)]
    for place in found:
        if not place.name.lower().endswith(tuple(suffix.lower() for suffix in suffixes)):
            shown = ", ".join(dict.fromkeys(suffix.lower() for suffix in suffixes))
            raise UserError(
                f"{place} ends in none of {shown}, so nobody knows how to read it. {trained.root} predicts {what}."
            )
    return found


def _is_text(data: Sequence[str], trained: Trained) -> bool:
    """Whether DATA is texts, not a table with a column of them."""
    if trained.source.type == "text_lines":
        return not all(one.lower().endswith((".csv", ".tsv", ".parquet", ".arrow", ".feather")) for one in data)
    written = trained.source.keys.get("path")
    as_table = str(written).endswith(".txt") if trained.source.type == "csv" else False
    return all(one.lower().endswith(OF_TEXTS) or Path(one).is_dir() for one in data) and not as_table


def _hugging_face(data: Sequence[str], trained: Trained) -> Table | None:
    """The rows of a folder that save_to_disk wrote; None where DATA is none."""
    if len(data) != 1:
        return None
    root = located(data[0], Path.cwd(), "DATA") if not is_address(data[0]) else None
    if root is None or not ((root / STATE).is_file() or (root / SPLITS).is_file()):
        return None
    keys: dict[str, Any] = {"path": str(root.absolute())}
    if trained.source.type == "hugging_face":
        keys |= {key: trained.source[key] for key in ("image", "size", "resize")}
    if trained.preprocessing.image_shape is not None:
        keys |= {"channels": trained.preprocessing.image_shape[0]}
    found: Table = tables.find("source", "hugging_face")(**keys).read(root)
    return found


def _refuse_keep(keep: tuple[str, ...], what: str) -> None:
    if keep:
        raise UserError(f"--keep copies columns of a table, and {what} have none. Leave it out.")


__all__ = ["array", "pieces"]
