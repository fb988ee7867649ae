"""New texts in files: a row a line, a paragraph or a file, as in training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nnopt_ray.data.table import Table
from nnopt_ray.data.text_files import TextLines
from nnopt_ray.errors import DataError
from nnopt_ray.serving.piece import Piece
from nnopt_ray.serving.trained import Trained

EMPTY = "it is empty"


def pieces(places: list[Path], trained: Trained, whole_files: bool, chunk: int) -> Iterator[Piece]:
    """The texts of files. A line without text is a row too, so that rows are lines; without a prediction.

    whole_files: a row is a file, where training does not say it. Raises DataError.
    """
    source = trained.source
    keys = {key: source[key] for key in ("rows", "encoding")} if source.type == "text_lines" else {}
    if not keys and whole_files:
        keys = {"rows": "files"}
    reader = TextLines(path=str(places[0]), **keys)
    texts: list[str | None] = []
    names: list[str] = []
    for place in places:
        found = reader.texts(place)
        texts += [text if text.strip() else None for text in found]
        names += [str(place)] * len(found)
        while len(texts) >= chunk:
            yield _piece(texts[:chunk], names[:chunk], trained, reader.rows == "files" or len(places) > 1)
            del texts[:chunk], names[:chunk]
    if texts:
        yield _piece(texts, names, trained, reader.rows == "files" or len(places) > 1)


def _piece(texts: list[str | None], names: list[str], trained: Trained, named: bool) -> Piece:
    import pyarrow as pa

    if trained.text is None:
        raise DataError("the network reads more than one text. Give a table with its columns.")
    columns = pa.table({trained.text: pa.array(texts, pa.string())})
    faults = {row: EMPTY for row, text in enumerate(texts) if text is None}
    return Piece(Table(names[0], columns), {"file": pa.array(names, pa.string())} if named else {}, faults)


__all__ = ["EMPTY", "pieces"]
