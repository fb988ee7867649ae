"""The walk over a page: every key checked, every default filled in, every range tried at its ends.

The page goes in as plain data, ranges written as on the page. What comes out is the resolved tree with
Range objects, and the sections built from the first value of each range. The walk never stops at a
fault: it notes it and goes on, so that all faults of a page are said at once.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pydantic

from nnopt_ray import tables
from nnopt_ray.errors import PartError, UserError
from nnopt_ray.experiment import Experiment, Range, Section
from nnopt_ray.reading import ranges
from nnopt_ray.reading.keys import Key, article, as_tree, keys_of, number_keys, words
from nnopt_ray.reading.places import BROKEN, At, Places, dotted, shown
from nnopt_ray.reading.values import Resolved, Values
from nnopt_ray.tables import Part

# (a key's identity, where its value stands, how that reads) → the key, and what its value was resolved to.
Known = dict[tuple[int, At, str], tuple[Key, Resolved]]

KNOWN = 1024  # values kept of earlier walks; a page has about a hundred, and those that vary would be without end


def resolve(
    page: Mapping[str, Any], places: Places, file: Path | None = None, known: Known | None = None
) -> tuple[dict[str, Any], Experiment | None]:
    """The resolved tree of a page and its sections; None for them when a fault was noted.

    file: the page's; a key marked Beside that names something beside it is written in full.
    known: what earlier walks over pages of this file came to; taken from there, and added to. Of two trials most
    values are the same. The parts of the tree are shared then, and nobody may change them.
    """
    walk = _Walk(places, file.absolute().parent if file else None, known)
    tree, value = walk.section(Experiment, dict(page), At((), ""))
    return tree, None if value is BROKEN else value


class _Walk(Values):
    def __init__(self, places: Places, folder: Path | None, known: Known | None) -> None:
        super().__init__(places, folder)
        self._known = known

    # --- sections -------------------------------------------------------------------------------

    def section(self, model: type[Section], raw: Any, at: At, none: str = "") -> Resolved:
        if model.bare and isinstance(raw, str):
            raw = {model.bare: raw}
        if not isinstance(raw, dict):
            names = ", ".join(key.name for key in keys_of(model))
            self._fault(at, f"must be a mapping with the keys {names}; it is {shown(raw)}.{none}")
            return raw, BROKEN
        tree, values = self._keys(keys_of(model), raw, at)
        self._unknown(keys_of(model), raw, tree, at, "")
        if any(value is BROKEN for value in values.values()):
            return tree, BROKEN
        return tree, model.model_construct(**values)

    def _open_optional(self, key: Key, raw: dict[str, Any], at: At) -> Resolved:
        """A choice of sections, or of parts and null."""
        inside = next(_fixed_below(key.section), None) if key.section else None
        if inside and not at.fixed:
            self._fault(at, f"'{inside[0]}' in it may not vary ({inside[1]}). Open the keys inside it one by one.")
            return raw, BROKEN
        return self._open(raw, at, lambda option, here: self.value(key, option, here))

    def _keys(self, keys: tuple[Key, ...], raw: dict[str, Any], at: At) -> tuple[dict[str, Any], dict[str, Any]]:
        """Every key resolved: (name → tree, field → value)."""
        tree: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for key in keys:
            if key.name in raw:
                tree[key.name], values[key.field] = self.value(key, raw[key.name], at.down(key.name, key.fixed))
            elif key.required:
                about = f": {key.about.rstrip('.')}" if key.about else ""
                self._fault(at.down(key.name), f"is missing{about}. Give {key.words}.", at_key=True)
                values[key.field] = BROKEN
            else:
                tree[key.name], values[key.field] = self._default(key, at.down(key.name, key.fixed))
        return tree, values

    def _default(self, key: Key, at: At) -> Resolved:
        default = as_tree(key.default)
        if key.optional and default is None:
            return None, None
        if key.section:
            return self.section(key.section, default if isinstance(default, dict) else {}, at)
        if key.room:
            return self.value(key, default, at)
        return default, key.default

    def _unknown(self, keys: tuple[Key, ...], raw: dict[str, Any], tree: dict[str, Any], at: At, of: str) -> None:
        """A fault for every key that is none, with the nearest key, or the section where it is one."""
        known = [key.name for key in keys]
        for name in raw:
            if name in known or (of and name == "type"):
                continue
            elsewhere = next(_holding(tree, name, at.path), None)
            hint = f" It belongs under '{elsewhere}'." if elsewhere else tables.suggestion(name, known)
            hint = hint or (f" {of} has no keys." if of else "")
            self._fault(at.down(name), f"unknown key{f' of {of}' if of else ''}.{hint}", at_key=True)

    # --- one key --------------------------------------------------------------------------------

    def value(self, key: Key, raw: Any, at: At) -> Resolved:
        if self._known is None:
            return self._value(key, raw, at)
        name, faults = (id(key), at, repr(raw)), len(self._places.faults)
        if name in self._known:
            return self._known[name][1]
        found = self._value(key, raw, at)
        if len(self._known) < KNOWN and found[1] is not BROKEN and len(self._places.faults) == faults:
            self._known[name] = key, found
        return found

    def _value(self, key: Key, raw: Any, at: At) -> Resolved:
        if raw is BROKEN:
            return BROKEN, BROKEN
        if ranges.is_torn(raw) and not _takes_mapping(key, raw):
            kind = next(iter(raw))
            self._fault(at, f"a range needs a list: {ranges.FORMS[kind]}; here stands {shown(raw[kind])}.")
            return raw, BROKEN
        if ranges.is_range(raw) and (key.optional or key.section):
            return self._open_optional(key, raw, at)
        if raw is None and key.optional:
            return None, None
        if key.section:
            none = " Write null for none." if key.optional else ""
            return self.section(key.section, {} if raw is None else raw, at, none)
        if key.room and key.many:
            return self._parts(key.room, raw, at)
        if key.room:
            if (
                isinstance(raw, dict)
                and "type" not in raw
                and not ranges.is_range(raw)
                and isinstance(key.default, dict)
            ):
                raw = {**key.default, **raw}  # a field with a default part needs no `type` for it
            return self._part(key.room, raw, at)
        return self._leaf(key, raw, at)

    def _open(self, raw: dict[str, Any], at: At, each: Callable[[Any, At], Resolved]) -> Resolved:
        """A choice of sub-pages, each resolved by `each`."""
        kind, options = next(iter(raw.items()))
        if not self._may_open(kind, options, at):
            return raw, BROKEN
        if kind != "choice":
            self._fault(at, f"{kind} opens a number. Sub-pages are opened by {{choice: [{{...}}, {{...}}]}}.")
            return raw, BROKEN
        resolved = [self._option(option, at.option(index), each) for index, option in enumerate(options)]
        trees = [tree for tree, _ in resolved]
        self._no_twins(trees, at)
        if any(value is BROKEN for _, value in resolved):
            return raw, BROKEN
        return Range("choice", tuple(trees)), resolved[0][1]

    # --- parts ----------------------------------------------------------------------------------

    def _parts(self, room: str, raw: Any, at: At) -> Resolved:
        if ranges.is_range(raw):
            return self._open(raw, at, lambda option, here: self._parts(room, option, here))
        if not isinstance(raw, list):
            self._fault(at, f"must be a list of {room}s; it is {shown(raw)}. Write [...] around it.")
            return raw, BROKEN
        resolved = [self._part(room, item, at.down(index)) for index, item in enumerate(raw)]
        values = tuple(value for _, value in resolved)
        return [tree for tree, _ in resolved], BROKEN if any(value is BROKEN for value in values) else values

    def _part(self, room: str, raw: Any, at: At) -> Resolved:
        if raw is BROKEN:
            return BROKEN, BROKEN
        if ranges.is_range(raw):
            return self._open(raw, at, lambda option, here: self._part(room, option, here))
        named = (*at.way, "type") if isinstance(raw, dict) else at.way
        number = tables.ROOMS[room].number
        if isinstance(raw, str):
            raw = {"type": raw}
        if number is not None and isinstance(raw, (int, float)) and not isinstance(raw, bool):
            raw = {"type": number[0], number[1]: raw}
        if not isinstance(raw, dict):
            also = "".join(f"{words(key.hint)}, " for key in number_keys(room))
            rule = f"must be {article(room)} {room}: {also}its name or {{type: name, key: value, ...}}"
            self._fault(at, f"{rule}; it is {shown(raw)}. {_known(room)}")
            return raw, BROKEN
        name = self._type(room, raw, at)
        if name is None:
            return raw, BROKEN
        try:
            model = tables.keys(room, name)
        except PartError as error:
            self._places.add(named, at.path, str(error))
            return raw, BROKEN
        except (pydantic.PydanticUserError, NameError, TypeError, ValueError) as error:
            self._fault(at, f"the signature of '{name}' cannot be read: {str(error).splitlines()[0]}")
            return raw, BROKEN
        keys = keys_of(model)
        tree, values = self._keys(keys, raw, at)
        tree = {"type": name, **tree}
        self._unknown(keys, raw, {}, at, f"{room} '{name}'")
        if any(value is BROKEN for value in values.values()) or not self._tried(room, model, values, tree, at):
            return tree, BROKEN
        return tree, Part(name, MappingProxyType(values))

    def _tried(self, room: str, model: type[tables.Keys], values: dict[str, Any], tree: Any, at: At) -> bool:
        """Make one of our own parts from its keys, as its constructor may know rules between them.

        Only where the page says all that it needs. A user's constructor is left for the run: it may
        do anything.
        """
        part, name = tables.find(room, tree["type"]), tree["type"]
        if name not in tables.table(room) or not _by_keywords(part) or any(k.room or k.section for k in keys_of(model)):
            return True
        noted: set[str] = set()
        opened = {key: tree[key] for key in values}
        for number, (way, closed) in enumerate(ranges.variants(opened, at.way)):
            try:
                part(**(values if number == 0 else dict(model.model_validate_json(json.dumps(closed)))))
            except (UserError, ValueError) as error:
                said = str(error).removeprefix(f"{at.path}: ").removeprefix(f"{name}: ")
                if said not in noted:
                    noted.add(said)
                    self._places.add(way, ranges.path_of(at.way, at.path, way), said)
        return not noted

    def _type(self, room: str, raw: dict[str, Any], at: At) -> str | None:
        """The chosen name, or None after noting what is wrong with it."""
        if "type" not in raw:
            self._fault(at, f"'type' is missing: it chooses the {room}. {_known(room)}")
            return None
        name = raw["type"]
        if name is BROKEN:
            return None
        if isinstance(name, str) and name:
            return name
        here = At((*at.way, "type"), dotted(at.path, "type"))
        if ranges.is_range(name) or ranges.is_torn(name):
            rule = "no range may stand in 'type', as each type has its own keys. Open the whole sub-page:"
            self._fault(here, f"{rule} {{choice: [{{type: one, key: ...}}, {{type: another, key: ...}}]}}.")
        else:
            self._fault(here, f"must be the name of {article(room)} {room}; it is {shown(name)}. {_known(room)}")
        return None


@lru_cache(maxsize=512)
def _by_keywords(part: Any) -> bool:
    """Whether a class is made from keyword arguments alone."""
    arguments = list(inspect.signature(part).parameters.values())
    return all(argument.kind is argument.KEYWORD_ONLY for argument in arguments)


def _known(room: str) -> str:
    return f"Known: {', '.join(tables.table(room))}."


def _takes_mapping(key: Key, raw: Any) -> bool:
    """Whether a mapping with one key such as `int` is a value of this key as it stands."""
    if key.room or key.section:
        return False
    try:
        key.adapter.validate_json(json.dumps(raw, default=repr), strict=True)
    except (pydantic.ValidationError, pydantic.PydanticUserError):
        return False
    return True


def _fixed_below(model: type[Section]) -> Iterator[tuple[str, str]]:
    """(key, reason) of every key in a section, at any depth, that may not vary."""
    for key in keys_of(model):
        if key.fixed:
            yield key.name, key.fixed
        elif key.section:
            yield from _fixed_below(key.section)


def _holding(tree: Any, name: str, path: str) -> Iterator[str]:
    """Dotted paths of the sub-pages of `tree` that have a key `name`."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if isinstance(value, dict):
                if name in value and name != "type":
                    yield dotted(path, key)
                yield from _holding(value, name, dotted(path, key))
