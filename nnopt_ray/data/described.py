"""A source in words, and by its files' names alone."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from nnopt_ray.reading.addresses import is_address, masked
from nnopt_ray.tables import Part

# Keys of ours that name files.
PLACES = ("path", "x", "y", "lengths", "file", "labels", "validation", "test")


def unplaced(part: Part) -> dict[str, Any]:
    """The part with files by their names alone: the same content is the same data wherever it lies."""
    return {
        key: [unplaced(one) for one in value] if _parts(value) else _named(value) if key in PLACES and value else value
        for key, value in part.page().items()
    }


def every(part: Part) -> Iterator[Part]:
    """The part and all parts that stand in its keys."""
    yield part
    for value in part.keys.values():
        for inner in _parts(value):
            yield from every(inner)


def described(source: Part) -> str:
    """Its type and what it reads: csv train.csv, test test.csv."""
    said = unplaced(source)
    inner = [part for value in source.keys.values() for part in _parts(value)]
    if inner:
        return f"{source.type} of {_few([described(part) for part in inner])}"
    where = said.get("path") or said.get("name") or [said[key] for key in ("x", "y") if key in said]
    parts = [f"{key} {_few(said[key])}" for key in ("validation", "test") if said.get(key)]
    return ", ".join([f"{source.type} {_few(where)}".strip(), *parts])


def _parts(value: Any) -> list[Part]:
    return [one for one in value if isinstance(one, Part)] if isinstance(value, (tuple, list)) else []


def _named(value: Any) -> Any:
    if isinstance(value, str) and is_address(value):
        return PurePosixPath(masked(value).partition("?")[0].partition("::")[0]).name or masked(value)
    if isinstance(value, str):
        return str(Path(*Path(value).parts[-2:])) if glob.has_magic(value) else Path(value).name
    return [_named(one) for one in value] if isinstance(value, (tuple, list)) else value


def _few(names: Any) -> str:
    if isinstance(names, str):
        return names
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


__all__ = ["described", "every", "unplaced"]
