"""The source `text_lines`: plain text in files, a row a line, a paragraph or a file."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data.files import Paths, digest, files, is_pattern, located
from nnopt_ray.data.joined import joined
from nnopt_ray.data.sources import Source
from nnopt_ray.data.split import GIVEN_NAMES
from nnopt_ray.data.table import Table
from nnopt_ray.errors import DataError

BLANK_LINE = r"\n[^\S\n]*\n"


class TextLines(Source):
    """Plain text: a file, several, or all files of a folder. The rows have a column `text`.

    Empty lines are no rows, and spaces around a row are cut off. Where rows are files that lie in folders, the
    folder next to the file is the class, in a column `label` that is the target: `pos/1.txt`, `neg/2.txt`. Where
    folders train and test lie above (`train/pos/1.txt`), they are the parts (`split: given`, the default then).

    Keys:
        path: the file or folder, a pattern such as books/*.txt, or a list of these, relative to the page.
        validation: the same with the validation part; then path is the training part (`split: given`).
        test: the same with the test part.
        rows: lines; paragraphs, which blank lines divide; or files.
        suffix: of a folder, only files that end so are read.
        encoding: of the files, such as utf-8, latin-1 or cp1252.
    """

    def __init__(
        self,
        *,
        path: Paths,
        validation: Paths | None = None,
        test: Paths | None = None,
        rows: Literal["lines", "paragraphs", "files"] = "lines",
        suffix: Annotated[str, Field(min_length=1)] = ".txt",
        encoding: str = "utf-8",
    ) -> None:
        said = {"path": path, "validation": validation, "test": test}
        self.paths: dict[str, str | tuple[str, ...]] = {key: each for key, each in said.items() if each is not None}
        self.rows = rows
        self.suffix = suffix
        self.encoding = encoding

    @classmethod
    def divides(cls, keys: Mapping[str, Any], base: Path) -> bool:
        return bool(keys.get("test") or keys.get("validation")) or folders_divide(keys.get("path"), base)

    def _files(self, base: Path, key: str) -> list[Path]:
        return files(self.paths[key], base, (self.suffix,), f"data.source.{key}", hidden=(".",))

    def _root(self, base: Path, key: str) -> Path:
        path = self.paths[key]
        return located(path, base, f"data.source.{key}") if isinstance(path, str) and not is_pattern(path) else base

    def fingerprint(self, base: Path) -> str:
        return " ".join(f"{key} {digest(self._files(base, key), self._root(base, key))}" for key in self.paths)

    def read(self, base: Path) -> Table:
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise DataError(
                f"data.source.encoding: Python knows no encoding '{self.encoding}'. Write one such as utf-8 or latin-1."
            ) from None
        found = [self._read(base, key) for key in self.paths]
        parts = ["train" if key == "path" else key for key in self.paths]
        return joined(found, [table.origin for table in found], "", parts if len(found) > 1 else None)

    def _read(self, base: Path, key: str) -> Table:
        import pyarrow as pa

        root, path = self._root(base, key), self.paths[key]
        places = self._files(base, key)
        texts: list[str] = []
        of: list[int] = []  # the file of each row
        for number, place in enumerate(places):
            found = self._divided(self._text(place))
            texts += found
            of += [number] * len(found)
        listed = [path] if isinstance(path, str) else list(path)
        origin = ", ".join(listed) if len(listed) > 1 or is_pattern(listed[0]) else str(root)
        if not texts:
            raise DataError(f"data.source.{key}: {origin} holds no text but spaces and line ends.")
        columns = {"text": pa.array(texts, pa.string())}
        inside = [place.relative_to(root) if place.is_relative_to(root) else Path(place.name) for place in places]
        folders = [place.parts[:-1] if root.is_dir() else () for place in inside]
        parts = parts_of(folders)
        labels = [folder[-1] if len(folder) > (parts is not None) else "" for folder in folders]
        labelled = self.rows == "files" and all(labels)
        if labelled:
            columns["label"] = pa.array([labels[number] for number in of], pa.string())
        notes = []
        if self.rows == "files" and not labelled and any(labels):
            notes.append("Some of the files lie in folders and others do not, so the folders are no classes.")
        return Table(
            origin,
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

    def texts(self, place: Path) -> list[str]:
        """The rows of a file; lines and files without text are rows, too, but for what ends a file."""
        text = self._text(place)
        if self.rows == "files":
            return [text]
        if self.rows == "paragraphs":
            return self._divided(text)
        pieces = text.split("\n")
        return pieces[:-1] if pieces and not pieces[-1].strip() else pieces

    def _divided(self, text: str) -> list[str]:
        if self.rows == "files":
            return [text] if text.strip() else []
        # str.splitlines would also part lines at form feeds and other separators inside a line.
        pieces = re.split(BLANK_LINE, text) if self.rows == "paragraphs" else text.split("\n")
        return [piece for piece in pieces if piece.strip()]


def parts_of(folders: list[tuple[str, ...]]) -> np.ndarray | None:
    """The part of each file, where the first folder of every one says it, and they say more than one."""
    named = [GIVEN_NAMES.get(folder[0].lower()) if folder else None for folder in folders]
    if None in named or len(set(named)) < 2:
        return None
    return np.array(named)


def folders_divide(path: Any, base: Path) -> bool:
    """Whether the folders of a folder are train and validation or test, and nothing else: quick, as a page asks it."""
    if not isinstance(path, str) or "://" in path or not (base / path).is_dir():
        return False
    held = [one.name for one in (base / path).iterdir() if one.is_dir() and not one.name.startswith((".", "__"))]
    found = {GIVEN_NAMES.get(name.lower(), "") for name in held}
    return "" not in found and "train" in found and len(found) > 1
