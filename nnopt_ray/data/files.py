"""The files that a path of a page means: one, several, those of a folder or of a pattern; what their content is."""

from __future__ import annotations

import glob
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import Field

from nnopt_ray.data.fetch import fetched
from nnopt_ray.errors import DataError
from nnopt_ray.experiment import Beside
from nnopt_ray.reading.addresses import is_address

# A file, a folder, a pattern such as logs/*.csv, or a list of these.
Paths = Annotated[str | Annotated[tuple[str, ...], Field(min_length=1)], Beside()]


def located(path: str, base: Path, key: str) -> Path:
    """Where a path of the page leads; an address is fetched. `key` is the page's, for messages. Raises DataError."""
    return fetched(path, base, key) if is_address(path) else base / Path(path).expanduser()


def files(
    path: str | Sequence[str], base: Path, suffixes: tuple[str, ...], key: str, hidden: tuple[str, ...] = ("_", ".")
) -> list[Path]:
    """The files of a path, of a folder or a pattern in sorted order. Raises DataError when there is nothing to read.

    suffixes: of the files of a folder; empty where none may be named. hidden: how names begin that are no data; what
    writes Parquet leaves files such as _SUCCESS beside it.
    """
    paths = [path] if isinstance(path, str) else list(path)
    found = [file for one in paths for file in _matching(one, base, suffixes, key, hidden)]
    twice = [str(file) for file, count in Counter(file.resolve() for file in found).items() if count > 1]
    if twice:
        raise DataError(f"{key} names {twice[0]} more than once; its rows would be there twice. Name it once.")
    return found


def _matching(path: str, base: Path, suffixes: tuple[str, ...], key: str, hidden: tuple[str, ...]) -> list[Path]:
    place = located(path, base, key)
    if is_pattern(path) and not place.exists():
        places = [Path(name) for name in sorted(glob.glob(str(place), recursive=True))]
        there = [one for one in places if one.is_file() or suffixes]
        if not there:
            raise DataError(f"{key}: no file is named as {place} says.{_relative(path)}")
        return [file for one in there for file in _of_one(one, str(one), suffixes, key, hidden)]
    return _of_one(place, path, suffixes, key, hidden)


def is_pattern(path: str) -> bool:
    """Whether a path is one for several files, such as logs/*.csv."""
    return glob.has_magic(path) and not is_address(path)


def suffix(path: str) -> str:
    """The suffix of a path or address: .csv."""
    return PurePosixPath(path.split("?")[0].partition("::")[0]).suffix


def _relative(path: str) -> str:
    return "" if Path(path).is_absolute() else " Relative paths start at the folder of the page."


def _of_one(place: Path, path: str, suffixes: tuple[str, ...], key: str, hidden: tuple[str, ...]) -> list[Path]:
    if place.is_dir():
        if not suffixes:
            raise DataError(f"{key}: {place} is a folder; name a file in it.")
        there = [file for file in sorted(place.rglob("*")) if file.is_file() and not file.name.startswith(hidden)]
        found = [file for file in there if file.name.endswith(suffixes)]
        if not found:
            others = Counter(file.suffix for file in there if file.suffix).most_common(3)
            told = ", ".join(f"{count} in {suffix}" for suffix, count in others)
            raise DataError(
                f"{key}: the folder {place} holds no file that ends in {' or '.join(suffixes)}"
                + (f"; of those there are, {told}." if told else ", and no other.")
            )
        return found
    if not place.exists():
        beside = ""
        if place.parent.is_dir():
            near = [file.name for file in sorted(place.parent.iterdir()) if file.name.lower() == place.name.lower()]
            near = near or [file.name for file in sorted(place.parent.iterdir()) if file.stem == place.stem]
            beside = f" There is {near[0]}." if near else ""
        raise DataError(f"{key}: there is no file {place}.{beside}{_relative(path)}")
    if place.stat().st_size == 0:
        raise DataError(f"{key}: {place} is empty.")
    return [place]


def digest(files: Sequence[Path], root: Path) -> str:
    """Digest of the content of files, and of their names where they are several: those inside the folder `root`."""
    total = hashlib.blake2b(digest_size=20)
    for file in files:
        inside = file.relative_to(root) if file.is_relative_to(root) else file.name
        name = str(inside) if len(files) > 1 else ""
        total.update(f"{name}\x1f{file.stat().st_size}\x1f".encode())
        try:
            with file.open("rb") as content:
                while block := content.read(1 << 20):
                    total.update(block)
        except OSError as error:
            raise DataError(f"data.source: {file} cannot be read: {error.strerror or error}.") from error
    return total.hexdigest()


@contextmanager
def reading(kind: str, place: Path, cure: str) -> Iterator[None]:
    """What goes wrong while a file is read, as one sentence."""
    import zipfile
    import zlib

    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        first = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise DataError(f"data.source: {place} cannot be read as {kind}: {first}. {cure}") from error


__all__ = ["Paths", "digest", "files", "is_pattern", "located", "reading", "suffix"]
