"""A folder at a URL, by fsspec: files are read and written whole. Nothing is appended to, renamed or locked there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnopt_ray.data.fetch import MARKS, PACKAGES
from nnopt_ray.errors import RunFailed, UserError
from nnopt_ray.reading.addresses import masked

AT_ONCE_BYTES = 64 << 20  # larger files are sent in parts, which their store puts together at the end


class StoreFailed(RunFailed):
    """The store did not do what it was asked; the message is one sentence without its end."""


class NotThere(StoreFailed):
    """There is no such file."""


@dataclass(frozen=True)
class Found:
    """A file of the store. mark: tells one state of it from another, empty where the store has none."""

    bytes: int
    mark: str


class Store:
    """The files below one URL, by their names relative to it."""

    def __init__(self, url: str) -> None:
        """Raises UserError when nobody knows how to reach such URLs."""
        self.url = url
        self._fs, self._root = _opened(url)

    @property
    def together(self) -> int:
        """How many files are sent or fetched at a time."""
        return 8 if getattr(self._fs, "async_impl", False) else 1

    def read(self, name: str) -> bytes:
        """Raises NotThere and StoreFailed."""
        with self._asked("read", name):
            content: bytes = self._fs.cat_file(self._path(name))
            return content

    def write(self, name: str, content: bytes) -> None:
        """Raises StoreFailed; what stood there before is untouched then."""
        with self._asked("written", name):
            self._put(name, lambda path: self._fs.pipe_file(path, content))

    def send(self, name: str, handle: int) -> None:
        """The whole content of an open file, under a name. Raises StoreFailed."""
        if os.fstat(handle).st_size <= AT_ONCE_BYTES:
            with os.fdopen(os.dup(handle), "rb") as file:
                file.seek(0)
                content = file.read()
            self.write(name, content)
            return
        with self._asked("written", name):
            self._put(name, lambda path: self._fs.put_file(f"/dev/fd/{handle}", path))

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that is not there; False where one is.

        Where the store offers it (S3, Google Cloud) of several that try one is told True; elsewhere it is a look and
        then a write. Raises StoreFailed.
        """
        try:
            with self._asked("written", name, passes=(FileExistsError, NotImplementedError, TypeError, ValueError)):
                self._put(name, lambda path: self._fs.pipe_file(path, content, mode="create"))
            return True
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError, ValueError):
            try:
                self.read(name)
                return False
            except NotThere:
                self.write(name, content)
                return True

    def remove(self, name: str) -> None:
        """Raises StoreFailed; a file that is not there is none to remove."""
        with self._asked("removed", name):
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                return
            except NotImplementedError:
                self._fs.rm(self._path(name))

    def fetch(self, name: str, target: Path) -> None:
        """A file of the store as a file of this machine. Raises NotThere and StoreFailed, and OSError of this disk."""
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")
        try:
            with self._asked("read", name):
                self._fs.get_file(self._path(name), str(part))
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)

    def files(self, below: str = "") -> dict[str, Found]:
        """Every file, or every one below a folder; none where there is no such folder. Raises StoreFailed."""
        with self._asked("listed", below):
            self._fs.invalidate_cache()
            try:
                listed: dict[str, Any] = self._fs.find(self._path(below), detail=True)
            except FileNotFoundError:
                return {}
        root = self._root.rstrip("/") + "/"
        return {
            str(name).removeprefix(root): Found(
                int(info.get("size") or 0), " ".join(str(info[mark]) for mark in MARKS if info.get(mark))
            )
            for name, info in listed.items()
            if str(name).startswith(root)
        }

    def folders(self) -> list[str]:
        """The folders right below the URL. Raises StoreFailed."""
        with self._asked("listed", ""):
            self._fs.invalidate_cache()
            try:
                listed = self._fs.ls(self._path(""), detail=True)
            except FileNotFoundError:
                return []
        return sorted(
            str(info["name"]).rstrip("/").rpartition("/")[2] for info in listed if info["type"] == "directory"
        )

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}".rstrip("/")

    def _put(self, name: str, write: Any) -> None:
        path = self._path(name)
        try:
            write(path)
        except FileNotFoundError:
            # Stores of keys have no folders to make, and making one would make a bucket of a misspelt name.
            if getattr(self._fs, "async_impl", False):
                raise
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            write(path)

    @contextmanager
    def _asked(self, what: str, name: str, passes: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        """What the libraries of stores raise has no common base: all of it is told as the store's failure."""
        try:
            yield
        except passes:
            raise
        except Exception as error:
            kind = NotThere if isinstance(error, FileNotFoundError) and what == "read" else StoreFailed
            place = f"{self.url}/{name}".rstrip("/")
            raise kind(f"{place} cannot be {what}: {why(error)}") from error


def why(error: BaseException) -> str:
    """What a library says of its failure: one line, without secrets and its full stop."""
    said = masked(str(error)).strip().splitlines()
    if isinstance(error, TimeoutError) and not said:
        return "there was no answer in time"
    return (said or [type(error).__name__])[0].rstrip(".")


def _opened(url: str) -> tuple[Any, str]:
    import fsspec

    kind = url.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except ImportError as error:
        package = PACKAGES.get(kind) or str(error).strip().rstrip(".")
        raise UserError(
            f"{url}: URLs of the kind {kind}:// need a package that is not installed: pip install {package}"
        ) from error
    except Exception as error:
        raise UserError(f"{url} is no place for run folders: {why(error)}.") from error


def probe(url: str) -> Store:
    """The store, after a file was written there, read and removed. Raises UserError with what it said otherwise."""
    store = Store(url)
    name, content = f".nnopt-{os.urandom(6).hex()}", b"nnopt looks whether it can write here"
    try:
        store.write(name, content)
        read = store.read(name)
        store.remove(name)
    except StoreFailed as error:
        said = str(error).replace(f"/{name}", "")
        raise UserError(f"{said}. Runs are kept where files can be written, read and removed.") from error
    if read != content:
        raise UserError(f"{url} gave back another file than was written. Runs cannot be kept there.")
    return store


__all__ = ["Found", "NotThere", "Store", "StoreFailed", "probe"]
