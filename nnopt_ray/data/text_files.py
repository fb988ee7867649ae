"""The source `text_lines`: plain text in files, a row a line, a paragraph or a file."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data.sources import Source, digest, files, located
from nnopt_ray.data.split import GIVEN_NAMES
from nnopt_ray.data.table import Table
from nnopt_ray.errors import DataError
from nnopt_ray.experiment import Beside


class TextLines(Source):
    """Plain text: a file, or all files of a folder. The rows have a column `text`.

    Empty lines are no rows, and spaces around a row are cut off. Where rows are files that lie in folders, the
    folder next to the file is the class, in a column `label` that is the target: `pos/1.txt`, `neg/2.txt`. Where
    folders train and test lie above (`train/pos/1.txt`), `split: given` keeps their parts.

    Keys:
        path: the file or folder, relative to the page.
        rows: lines; paragraphs, which blank lines divide; or files.
        suffix: of a folder, only files that end so are read.
        encoding: of the files, such as utf-8, latin-1 or cp1252.
    """

    def __init__(
        self,
        *,
        path: Annotated[str, Beside()],
        rows: Literal["lines", "paragraphs", "files"] = "lines",
        suffix: Annotated[str, Field(min_length=1)] = ".txt",
        encoding: str = "utf-8",
    ) -> None:
        self.path = path
        self.rows = rows
        self.suffix = suffix
        self.encoding = encoding

    def _files(self, base: Path) -> list[Path]:
        return files(self.path, base, (self.suffix,), "data.source.path", hidden=(".",))

    def fingerprint(self, base: Path) -> str:
        return digest(self._files(base), located(self.path, base, "data.source.path"))

    def read(self, base: Path) -> Table:
        import pyarrow as pa

        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise DataError(
                f"data.source.encoding: Python knows no encoding '{self.encoding}'. Write one such as utf-8 or latin-1."
            ) from None
        root = located(self.path, base, "data.source.path")
        places = self._files(base)
        texts: list[str] = []
        of: list[int] = []  # the file of each row
        for number, place in enumerate(places):
            found = self._divided(self._text(place))
            texts += found
            of += [number] * len(found)
        if not texts:
            raise DataError(f"data.source.path: {root} holds no text but spaces and line ends.")
        columns = {"text": pa.array(texts, pa.string())}
        folders = [place.relative_to(root).parts[:-1] if root.is_dir() else () for place in places]
        parts = parts_of(folders)
        labels = [folder[-1] if len(folder) > (parts is not None) else "" for folder in folders]
        labelled = self.rows == "files" and all(labels)
        if labelled:
            columns["label"] = pa.array([labels[number] for number in of], pa.string())
        notes = []
        if self.rows == "files" and not labelled and any(labels):
            notes.append("Some of the files lie in folders and others do not, so the folders are no classes.")
        return Table(
            str(root),
            pa.table(columns),
            target="label" if labelled else None,
            own_parts=None if parts is None else parts[np.array(of)],
            notes=tuple(notes),
        )

    def _text(self, place: Path) -> str:
        try:
            return place.read_text(encoding=self.encoding).removeprefix("\ufeff")
        except UnicodeError as error:
            other = "latin-1" if self.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else "utf-8"
            raise DataError(
                f"data.source: {place} holds bytes that are not {self.encoding}. Add to data.source: encoding: {other}"
            ) from error
        except OSError as error:
            raise DataError(f"data.source: {place} cannot be read: {error.strerror or error}.") from error

    def _divided(self, text: str) -> list[str]:
        if self.rows == "files":
            return [text] if text.strip() else []
        # str.splitlines would also part lines at form feeds and other separators inside a line.
        pieces = re.split(r"\n[^\S\n]*\n", text) if self.rows == "paragraphs" else text.split("\n")
        return [piece for piece in pieces if piece.strip()]


def parts_of(folders: list[tuple[str, ...]]) -> np.ndarray | None:
    """The part of each file, where the first folder of every one says it, and they say more than one."""
    named = [GIVEN_NAMES.get(folder[0].lower()) if folder else None for folder in folders]
    if None in named or len(set(named)) < 2:
        return None
    return np.array(named)
