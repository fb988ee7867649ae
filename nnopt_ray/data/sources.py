"""What a source is; files as a source, and the data sets that come with scikit-learn.

Relative paths of a page are looked up beside the page.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from nnopt_ray.data.files import digest, files, located
from nnopt_ray.data.joined import joined, short
from nnopt_ray.data.table import Table
from nnopt_ray.errors import DataError


class Source(ABC):
    """Contract of a source.

    `fingerprint` answers with a text that changes whenever the content does; a modification time is not
    enough. `read` gives the rows as they are; trimming and checking them is `table.tidy`'s work. Both raise
    DataError; `base` is the folder of the page.

    own_parts: the source comes with a test set of its own; `split: given` is the default then.
    """

    own_parts: ClassVar[bool] = False

    @classmethod
    def divides(cls, keys: Mapping[str, Any], base: Path) -> bool:
        """Whether its rows come in parts, where that hangs on its keys (as the page has them, unchecked) or on what
        lies there. Asked whenever a page is read, so it must be quick and may not raise."""
        return cls.own_parts

    @abstractmethod
    def read(self, base: Path) -> Table:
        """All rows."""

    def stream(self, base: Path, room: Path) -> Table | None:
        """All rows, with columns that are read when they are asked for; None where `read` is the way to them.

        room: an empty folder on disk that is there for as long as columns are asked for.
        """
        return None

    @abstractmethod
    def fingerprint(self, base: Path) -> str:
        """The digest of the content."""


class Sklearn(Source):
    """A data set that comes with scikit-learn: no file, no network.

    digits are 1797 images of 8x8 pixels of 0 to 16, ten classes; iris, wine and breast_cancer are
    tables with named classes; diabetes is a table with a number to predict. The target has no name of its
    own there: `data.target` may call it as it likes.

    Keys:
        name: digits, iris, wine, breast_cancer or diabetes.
    """

    def __init__(self, *, name: Literal["digits", "iris", "wine", "breast_cancer", "diabetes"]) -> None:
        self.name = name

    def read(self, base: Path) -> Table:
        import pyarrow as pa

        bunch = _bundled(self.name)
        origin = f"scikit-learn's {self.name}"
        if self.name == "digits":
            # As words: ten classes, not amounts.
            labels = pa.array([str(digit) for digit in bunch.target])
            return Table(origin, pa.table({"target": labels}), images=bunch.images[:, None], target="target")
        columns: dict[str, Any] = {
            str(name): pa.array(np.ascontiguousarray(values))
            for name, values in zip(bunch.feature_names, bunch.data.T, strict=True)
        }
        names = getattr(bunch, "target_names", None)
        columns["target"] = pa.array(bunch.target if names is None else [str(names[code]) for code in bunch.target])
        return Table(origin, pa.table(columns), target="target")

    def fingerprint(self, base: Path) -> str:
        bunch = _bundled(self.name)
        digest = hashlib.blake2b(digest_size=20)
        for array in (bunch.data, bunch.target):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@lru_cache(maxsize=2)
def _bundled(name: str) -> Any:
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")()


class FileSource(Source):
    """A source of files, each of which is a table; `test` and `validation` name those of further parts."""

    path: str | tuple[str, ...]
    validation: str | tuple[str, ...] | None = None
    test: str | tuple[str, ...] | None = None
    suffixes: tuple[str, ...] = ()  # of the files of a folder; empty: a folder is refused

    @classmethod
    def divides(cls, keys: Mapping[str, Any], base: Path) -> bool:
        return bool(keys.get("test") or keys.get("validation"))

    @abstractmethod
    def tables(self, places: list[Path]) -> list[Table]:
        """What the files hold, a table each."""

    def later(self, places: list[Path], room: Path) -> list[Table] | None:
        """The same of files that are large, with columns that are read when they are asked for; None: in memory."""
        return None

    def stream(self, base: Path, room: Path) -> Table | None:
        places, parts = self._places(base)
        found = self.later(places, room)
        return None if found is None else joined(found, short([str(place) for place in places]), "", parts)

    def groups(self, base: Path) -> dict[str, list[Path]]:
        """Part → its files; all are of `train` where there is one part."""
        said = {"path": self.path, "validation": self.validation, "test": self.test}
        found = {
            "train" if key == "path" else key: files(path, base, self.suffixes, f"data.source.{key}")
            for key, path in said.items()
            if path is not None
        }
        every = [file.resolve() for places in found.values() for file in places]
        twice = [file for file in every if every.count(file) > 1]
        if twice:
            raise DataError(f"data.source: {twice[0]} stands in two parts. What is learned from cannot test as well.")
        return found

    def fingerprint(self, base: Path) -> str:
        root = located(self.path, base, "data.source.path") if isinstance(self.path, str) else base
        return " ".join(f"{part} {digest(places, root)}" for part, places in self.groups(base).items())

    def _places(self, base: Path) -> tuple[list[Path], list[str] | None]:
        """All files, and where they are of several parts that of each."""
        groups = self.groups(base)
        places = [place for part in groups.values() for place in part]
        return places, [part for part, of in groups.items() for _ in of] if len(groups) > 1 else None

    def read(self, base: Path) -> Table:
        places, parts = self._places(base)
        return joined(self.tables(places), short([str(place) for place in places]), self.fingerprint(base), parts)


__all__ = ["FileSource", "Sklearn", "Source"]
