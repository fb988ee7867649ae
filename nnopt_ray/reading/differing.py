"""What differs between pages, a line a key: parts by their names, and of one that not all have what is no default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nnopt_ray import tables
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment, Range, plain
from nnopt_ray.reading.keys import Key, keys_of

ABSENT = "-"


@dataclass(frozen=True)
class Said:
    """text: as on a page. default: it is what the page would mean without it."""

    text: str
    default: bool


def differences(pages: Sequence[Experiment]) -> dict[str, tuple[str, ...]]:
    """Dotted path → its value on each page, where not all agree; "-" where a page has no such key.

    A part stands under its path by its type (`model: mlp`), a list of parts by their types in their order, and the keys
    of one of them behind its type (`data.steps.scale.method`), those in an option of a choice behind `=`
    (`train.optimizer=sgd.momentum`). A key of a part that not all pages have is left out where it is the default.
    """
    told = [dict(_section(page.tree, keys_of(Experiment), "")) for page in pages]
    found = {}
    for path in _merged([list(each) for each in told]):
        values = [each.get(path) for each in told]
        known = [value for value in values if value is not None]
        if len({value.text for value in known}) == 1 and (len(known) == len(values) or known[0].default):
            continue
        if len(known) < len(values) and all(value.default for value in known):
            continue
        found[path] = tuple(ABSENT if value is None else value.text for value in values)
    return {path: values for path, values in found.items() if path != "name"}


def _merged(orders: Sequence[Sequence[str]]) -> list[str]:
    """All paths once; one that the first page does not have stands behind what is before it on its own."""
    merged: list[str] = []
    for order in orders:
        place = 0
        for path in order:
            if path in merged:
                place = merged.index(path) + 1
            else:
                merged.insert(place, path)
                place += 1
    return merged


def _section(node: Mapping[str, Any], keys: Sequence[Key], path: str) -> Iterator[tuple[str, Said]]:
    for key in keys:
        if key.name in node:
            yield from _key(node[key.name], key, f"{path}.{key.name}" if path else key.name)


def _key(value: Any, key: Key, path: str) -> Iterator[tuple[str, Said]]:
    if key.section is not None and isinstance(value, Mapping):
        yield from _section(value, keys_of(key.section), path)
    elif key.room is not None and key.many and isinstance(value, (list, tuple)):
        yield from _parts(value, key.room, path)
    elif key.room is not None and value is not None:
        yield from _part(value, key.room, path)
    else:
        yield path, Said(_text(value), not key.required and plain(value) == plain(key.default))


def _part(value: Any, room: str, path: str) -> Iterator[tuple[str, Said]]:
    if isinstance(value, Range):  # a choice
        labels = [str(label) for label in value.labels()]
        yield path, Said(f"{{choice: [{', '.join(labels)}]}}", default=False)
        for label, option in zip(labels, value.values, strict=True):
            if isinstance(option, Mapping):
                yield from _keys_of_part(option, room, f"{path}={label}")
    else:
        yield path, Said(str(value["type"]), default=False)
        yield from _keys_of_part(value, room, path)


def _keys_of_part(value: Mapping[str, Any], room: str, path: str) -> Iterator[tuple[str, Said]]:
    try:
        keys = keys_of(tables.keys(room, str(value.get("type"))))
    except UserError:  # a part of the page's own that is not there any more
        keys = ()
    yield from _section(value, keys, path)
    known = {key.name for key in keys} | {"type"}
    for name, other in value.items():
        if name not in known:
            yield f"{path}.{name}", Said(_text(other), default=False)


def _parts(values: Sequence[Any], room: str, path: str) -> Iterator[tuple[str, Said]]:
    seen: dict[str, int] = {}
    names, inside = [], []
    for value in values:
        name = "choice" if isinstance(value, Range) else str(value["type"])
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
        if isinstance(value, Range):
            inside += list(_part(value, room, f"{path}.{names[-1]}"))
        else:
            inside += list(_keys_of_part(value, room, f"{path}.{names[-1]}"))
    yield path, Said(f"[{', '.join(names)}]", default=not names)
    yield from inside


def _text(node: Any) -> str:
    """On one line, as it may stand on a page."""
    if isinstance(node, Range):
        node = node.page()
    if isinstance(node, Mapping):
        return f"{{{', '.join(f'{key}: {_text(value)}' for key, value in node.items())}}}"
    if isinstance(node, (list, tuple)):
        return f"[{', '.join(map(_text, node))}]"
    if node is None or isinstance(node, bool):
        return {None: "null", True: "true", False: "false"}[node]
    return str(node)


__all__ = ["ABSENT", "differences"]
