"""A store as object stores are: whole files under keys, no folders, nothing appended to, renamed or locked."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import fsspec
from fsspec import AbstractFileSystem


class Flat(AbstractFileSystem):
    """`flat://bucket/...`, in the memory of this process. `refuses` is asked before each call and may raise."""

    protocol = "flat"
    cachable = False
    async_impl = True  # no folders are made in it, and several files are sent at a time
    held: ClassVar[dict[str, bytes]] = {}
    states: ClassVar[list[dict[str, bytes]]] = []  # what was there after each change, while `watched`
    watched: ClassVar[bool] = False
    refuses: ClassVar[Callable[[str, str], None]] = staticmethod(lambda call, path: None)
    _lock: ClassVar[Any] = threading.Lock()
    _changes: ClassVar[int] = 0

    @classmethod
    def reset(cls) -> None:
        cls.held, cls.states, cls.watched = {}, [], False
        cls.refuses = staticmethod(lambda call, path: None)

    def _changed(self) -> None:
        type(self)._changes += 1
        if self.watched:
            self.states.append(dict(self.held))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **keys: Any) -> None:
        type(self).refuses("write", path)
        with self._lock:
            if mode == "create" and path in self.held:
                raise FileExistsError(path)
            self.held[path] = bytes(value)
            self._changed()

    def put_file(self, lpath: str, rpath: str, **keys: Any) -> None:
        with open(lpath, "rb") as file:
            self.pipe_file(rpath, file.read())

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **keys: Any) -> bytes:
        type(self).refuses("read", path)
        if path not in self.held:
            raise FileNotFoundError(path)
        return self.held[path]

    def get_file(self, rpath: str, lpath: str, **keys: Any) -> None:
        with open(lpath, "wb") as file:
            file.write(self.cat_file(rpath))

    def rm_file(self, path: str) -> None:
        type(self).refuses("remove", path)
        with self._lock:
            if self.held.pop(path, None) is None:
                raise FileNotFoundError(path)
            self._changed()

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **keys: Any
    ) -> Any:
        type(self).refuses("list", path)
        found = {name: self._told(name) for name in sorted(self.held) if name.startswith(f"{path}/")}
        return found if detail else list(found)

    def ls(self, path: str, detail: bool = True, **keys: Any) -> Any:
        type(self).refuses("list", path)
        inside = [name.removeprefix(f"{path}/") for name in self.held if name.startswith(f"{path}/")]
        if not inside:
            raise FileNotFoundError(path)
        folders = {name.partition("/")[0] for name in inside if "/" in name}
        files = [self._told(f"{path}/{name}") for name in inside if "/" not in name]
        found = [{"name": f"{path}/{name}", "size": 0, "type": "directory"} for name in folders] + files
        return found if detail else [each["name"] for each in found]

    def info(self, path: str, **keys: Any) -> dict[str, Any]:
        if path not in self.held:
            raise FileNotFoundError(path)
        return self._told(path)

    def _told(self, path: str) -> dict[str, Any]:
        content = self.held[path]
        return {"name": path, "size": len(content), "type": "file", "ETag": f"{hash(content):x}"}

    def _open(self, path: str, mode: str = "rb", **keys: Any) -> Any:
        raise NotImplementedError(f"{os.path.basename(path)}: files are read and written whole")

    def mv(self, *paths: Any, **keys: Any) -> None:
        raise NotImplementedError("nothing is renamed")


fsspec.register_implementation("flat", Flat, clobber=True)
