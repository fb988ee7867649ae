"""What travels to a cluster with a page: the page itself, the user's own code, and files named to go along. No data.

Everything keeps its place below one folder, the current directory where the page lies in it and the page's own folder
else, so that what stands beside the page here stands beside it there.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment, plain
from nnopt_ray.reading.addresses import is_address

MOST_BYTES = 500 * 2**20  # Ray takes working directories of up to 512 MiB
LARGE_BYTES = 2**20  # files from here on are named before they are sent
CODE = (".py", ".pyi")
NOT_CODE = {"__pycache__", "node_modules", "site-packages", "runs"}
NEVER_SENT = {".gitignore", ".rayignore"}  # Ray would leave out what these name
LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Cargo:
    """Files by their place below the folder that is sent. page: the page's own place. key: a digest of all of it."""

    page: str
    files: Mapping[str, Path]
    key: str
    elsewhere: tuple[str, ...] = ()  # absolute paths of the page, which the cluster must have too

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files.values())

    @property
    def large(self) -> list[tuple[str, int]]:
        """(place, bytes) of files that take a while to send, the largest first."""
        sizes = [(place, file.stat().st_size) for place, file in self.files.items()]
        return sorted((one for one in sizes if one[1] >= LARGE_BYTES), key=lambda one: -one[1])

    def stage(self, folder: Path) -> None:
        """Put copies of everything into a folder."""
        for place, file in self.files.items():
            there = folder / place
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, there)


def packed(
    experiment: Experiment,
    page: Path,
    include: Sequence[Path] = (),
    settings: Sequence[str] = (),
    folder: Path | None = None,
) -> Cargo:
    """What has to travel with a page.

    include: files and folders that go along, below the folder that is sent. settings: `--set` of the command, part of
    the key. folder: what to send from (default: see the head of this file). Raises UserError for files that the page
    names beside it and that would not be there, and for more than Ray takes.
    """
    page = page.resolve()
    root = (folder or (Path.cwd() if page.is_relative_to(Path.cwd()) else page.parent)).resolve()
    files: dict[str, Path] = {str(page.relative_to(root)): page}
    if any(":" in part for part in _types(plain(experiment.tree))):
        files |= {str(file.relative_to(root)): file for file in _code(root)}
    for path in include:
        files |= _included(path, root)
    beside, elsewhere = _named(experiment, page, settings)
    absent = [path for path in beside if not _sent(path, root, files)]
    if absent:
        raise UserError("\n".join(_not_there(path, root) for path in absent))
    digest = hashlib.blake2b(digest_size=8)
    for place, file in sorted(files.items()):
        digest.update(f"{place}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    digest.update("\0".join(settings).encode())
    cargo = Cargo(str(page.relative_to(root)), files, digest.hexdigest(), tuple(elsewhere))
    if cargo.bytes > MOST_BYTES:
        most = ", ".join(f"{place} ({_size(size)})" for place, size in cargo.large[:3])
        raise UserError(
            f"{_size(cargo.bytes)} would be sent, and Ray takes {_size(MOST_BYTES)}: the largest are {most}. Put data "
            "where every node sees it and write its absolute path or address on the page."
        )
    return cargo


def _types(node: Any) -> Iterator[str]:
    """Every `type:` of a page, the bare words that stand for one among them."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key == "type" and isinstance(value, str):
                yield value
            yield from _types(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _types(value)
    elif isinstance(node, str) and _dotted(node):
        yield node


def _dotted(word: str) -> bool:
    module, colon, name = word.partition(":")
    return bool(colon) and name.isidentifier() and all(piece.isidentifier() for piece in module.split("."))


def _code(root: Path) -> Iterator[Path]:
    """The Python files below a folder, without environments, run folders and what is hidden."""
    for folder, inner, names in os.walk(root):
        here = Path(folder)
        if {"pyvenv.cfg", "resolved.yaml"} & set(names) and here != root:
            inner.clear()
            continue
        inner[:] = sorted(name for name in inner if name not in NOT_CODE and not name.startswith("."))
        yield from (here / name for name in sorted(names) if Path(name).suffix in CODE)


def _included(path: Path, root: Path) -> dict[str, Path]:
    place = path.resolve()
    if not place.exists():
        raise UserError(f"--include {path}: there is no such file or folder.")
    if not place.is_relative_to(root):
        raise UserError(f"--include {path}: only what lies below {root} can go along, as it keeps its place there.")
    found = [place] if place.is_file() else [file for file in sorted(place.rglob("*")) if file.is_file()]
    return {str(file.relative_to(root)): file for file in found if file.name not in NEVER_SENT}


def _named(experiment: Experiment, page: Path, settings: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files and folders of this machine that a page names beside it; and those that it names by absolute paths.

    In the resolved page all are written in full; what the page itself says in full is meant for the cluster.
    """
    written = {text for text in _texts(yaml.safe_load(page.read_text(encoding="utf-8"))) if os.path.isabs(text)}
    beside, elsewhere = [], []
    for text in dict.fromkeys(_texts(plain(experiment.tree))):
        if not os.path.isabs(text) or is_address(text):
            continue
        if text in written or any(text in setting for setting in settings):
            elsewhere.append(text)
        elif os.path.exists(text) or (glob.has_magic(text) and glob.glob(text)):
            beside.append(Path(text))
    return beside, elsewhere


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _texts(value)


def _sent(path: Path, root: Path, files: Mapping[str, Path]) -> bool:
    """Whether all that a path means is sent."""
    found = [Path(one) for one in glob.glob(str(path))] if glob.has_magic(str(path)) else [path]
    inner = [file for one in found for file in ([one] if one.is_file() else one.rglob("*")) if file.is_file()]
    there = set(files.values())
    return all(file.resolve() in there or file.name in NEVER_SENT for file in inner)


def _not_there(path: Path, root: Path) -> str:
    below = path.resolve().is_relative_to(root)
    named = os.path.relpath(path, root) if below else str(path)
    size = _size(path.stat().st_size) if path.is_file() else "a folder" if path.is_dir() else "several files"
    send = f"send it along with `--include {named}`, or " if below and not glob.has_magic(named) else ""
    return (
        f"the page names {named} ({size}), which is on this machine only: {send}put it where every node of the cluster "
        "sees it and write its absolute path or an address on the page."
    )


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.0f} KiB"


def on_this_machine(address: str) -> bool:
    """Whether a job server's address is of this machine, whose files are there then."""
    host = address.partition("://")[2].partition("/")[0].rpartition(":")[0] or address
    return host.strip("[]") in LOCAL_HOSTS
