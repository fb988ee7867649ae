"""The walk over a page: every key checked, every default filled in, every range tried at its ends.

The page goes in as plain data, ranges written as on the page. What comes out is the resolved tree with
Range objects, and the sections built from the first value of each range. The walk never stops at a
fault: it notes it and goes on, so that all faults of a page are said at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pydantic

from nnopt_ray import tables
from nnopt_ray.errors import PartError
from nnopt_ray.experiment import Experiment, Fixed, Range, Section
from nnopt_ray.reading import ranges
from nnopt_ray.reading.keys import Key, keys_of
from nnopt_ray.reading.places import BROKEN, Places, Way, dotted, shown
from nnopt_ray.reading.sentences import sentences
from nnopt_ray.tables import Part


@dataclass(frozen=True)
class At:
    """Where the walk stands: the way in the page as written, its dotted name, and why no range may stand here."""

    way: Way
    path: str
    fixed: str | None = None

    def down(self, key: str | int, fixed: str | None = None) -> At:
        return At((*self.way, key), dotted(self.path, key), fixed or self.fixed)

    def option(self, index: int) -> At:
        return At((*self.way, "choice", index), self.path, self.fixed)


Resolved = tuple[Any, Any]  # (tree with Range objects, value with every range at its first; BROKEN when at fault)


def resolve(page: Mapping[str, Any], places: Places) -> tuple[dict[str, Any], Experiment | None]:
    """The resolved tree of a page and its sections; None for them when a fault was noted."""
    tree, value = _Walk(places).section(Experiment, dict(page), At((), ""))
    return tree, None if value is BROKEN else value


class _Walk:
    def __init__(self, places: Places) -> None:
        self._places = places

    def _fault(self, at: At, message: str, *, at_key: bool = False) -> Resolved:
        self._places.add(at.way, at.path, message, at_key=at_key)
        return BROKEN, BROKEN

    # --- sections -------------------------------------------------------------------------------

    def section(self, model: type[Section], raw: Any, at: At) -> Resolved:
        if ranges.is_range(raw) and at.path:
            return self._open_section(model, raw, at)
        if not isinstance(raw, dict):
            names = ", ".join(key.name for key in keys_of(model))
            self._fault(at, f"must be a mapping with the keys {names}; it is {shown(raw)}.")
            return raw, BROKEN
        tree, values = self._keys(keys_of(model), raw, at)
        self._unknown(keys_of(model), raw, tree, at, "")
        if any(value is BROKEN for value in values.values()):
            return tree, BROKEN
        return tree, model.model_construct(**values)

    def _open_section(self, model: type[Section], raw: dict[str, Any], at: At) -> Resolved:
        inside = next(_fixed_below(model), None)
        if not at.fixed and inside:
            self._fault(at, f"'{inside[0]}' in it may not vary ({inside[1]}). Open the keys inside it one by one.")
            return raw, BROKEN
        return self._open(raw, at, lambda option, here: self.section(model, option, here))

    def _keys(self, keys: tuple[Key, ...], raw: dict[str, Any], at: At) -> tuple[dict[str, Any], dict[str, Any]]:
        """Every key resolved: (name → tree, field → value)."""
        tree: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for key in keys:
            if key.name in raw:
                tree[key.name], values[key.field] = self.value(key, raw[key.name], at.down(key.name, key.fixed))
            elif key.required:
                about = f": {key.about}" if key.about else ""
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
        if raw is BROKEN:
            return BROKEN, BROKEN
        if ranges.is_torn(raw) and not _takes_mapping(key, raw):
            kind = next(iter(raw))
            self._fault(at, f"a range needs a list: {ranges.FORMS[kind]}; here stands {shown(raw[kind])}.")
            return raw, BROKEN
        if key.optional and ranges.is_range(raw):
            return self._open(raw, at, lambda option, here: self.value(key, option, here))
        if raw is None and key.optional:
            return None, None
        if key.section:
            return self.section(key.section, {} if raw is None else raw, at)
        if key.room and key.many:
            return self._parts(key.room, raw, at)
        if key.room:
            if isinstance(raw, dict) and "type" not in raw and not ranges.is_range(raw) and isinstance(key.default, dict):
                raw = {**key.default, **raw}  # a field with a default part needs no `type` for it
            return self._part(key.room, raw, at)
        return self._leaf(key, raw, at)

    def _open(self, raw: dict[str, Any], at: At, each: Callable[[Any, At], Resolved]) -> Resolved:
        """A choice of sub-pages, each resolved by `each`."""
        kind, options = next(iter(raw.items()))
        if not self._may_open(kind, options, at):
            return raw, BROKEN
        if kind != "choice":
            self._fault(at, f"{kind} opens a number. Sub-pages are opened with {{choice: [{{type: ...}}, {{type: ...}}]}}.")
            return raw, BROKEN
        resolved = [each(option, at.option(index)) for index, option in enumerate(options)]
        trees = [tree for tree, _ in resolved]
        self._no_twins(trees, at)
        if any(value is BROKEN for _, value in resolved):
            return raw, BROKEN
        return Range("choice", tuple(trees)), resolved[0][1]

    def _may_open(self, kind: str, values: list[Any], at: At) -> bool:
        if at.fixed:
            self._fault(at, f"no range may stand here: {at.fixed}. Give one value.")
            return False
        wrong = ranges.fault(kind, values)
        if wrong:
            self._fault(at, wrong)
        return wrong is None

    def _no_twins(self, options: list[Any], at: At) -> None:
        same = ranges.twin(options)
        if same:
            first, second = same[0] + 1, same[1] + 1
            self._fault(at.option(same[1]), f"options {first} and {second} of this choice are the same. Remove one.")

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
        if isinstance(raw, str):
            raw = {"type": raw}
        if not isinstance(raw, dict):
            known = ", ".join(tables.table(room))
            self._fault(at, f"must be a {room}: a word or {{type: word, key: value, ...}}; it is {shown(raw)}. Known: {known}.")
            return raw, BROKEN
        name = self._type(room, raw, at)
        if name is None:
            return raw, BROKEN
        try:
            model = tables.keys(room, name)
        except PartError as error:
            self._places.add((*at.way, "type"), at.path, str(error))
            return raw, BROKEN
        except (pydantic.PydanticUserError, NameError, TypeError, ValueError) as error:
            self._fault(at, f"the signature of '{name}' cannot be read: {str(error).splitlines()[0]}")
            return raw, BROKEN
        keys = keys_of(model)
        tree, values = self._keys(keys, raw, at)
        tree = {"type": name, **tree}
        self._unknown(keys, raw, {}, at, f"{room} '{name}'")
        if any(value is BROKEN for value in values.values()):
            return tree, BROKEN
        return tree, Part(name, MappingProxyType(values))

    def _type(self, room: str, raw: dict[str, Any], at: At) -> str | None:
        """The chosen name, or None after noting what is wrong with it."""
        if "type" not in raw:
            self._fault(at, f"'type' is missing: it chooses the {room}. Known: {', '.join(tables.table(room))}.")
            return None
        name = raw["type"]
        if name is BROKEN:
            return None
        if isinstance(name, str) and name:
            return name
        here = At((*at.way, "type"), dotted(at.path, "type"))
        if ranges.is_range(name) or ranges.is_torn(name):
            example = "{choice: [{type: one, key: ...}, {type: another, key: ...}]}"
            self._fault(here, f"a range may not stand in 'type', as each type has its own keys. Open the whole sub-page: {example}.")
        else:
            self._fault(here, f"must be the name of a {room}; it is {shown(name)}. Known: {', '.join(tables.table(room))}.")
        return None

    # --- values ---------------------------------------------------------------------------------

    def _leaf(self, key: Key, raw: Any, at: At) -> Resolved:
        if not isinstance(raw, (dict, list)):
            if type(raw) is type(key.default) and raw == key.default and not key.required:
                return raw, raw
            return self._closed(key, raw, at)
        if _any_node(raw, lambda node: node is BROKEN):
            return raw, BROKEN
        if not _any_node(raw, ranges.is_range):
            return self._closed(key, raw, at)
        tree = self._with_ranges(raw, at)
        if tree is BROKEN:
            return raw, BROKEN
        return self._opened(key, tree, at)

    def _closed(self, key: Key, raw: Any, at: At) -> Resolved:
        try:
            value = key.adapter.validate_json(json.dumps(raw), strict=True)
        except pydantic.ValidationError as error:
            for inside, sentence in sentences(key.hint, raw, error):
                here = at
                for step in inside:
                    here = here.down(step)
                self._fault(here, sentence)
            return raw, BROKEN
        except pydantic.PydanticUserError as error:
            self._fault(at, f"its annotation cannot be checked: {str(error).splitlines()[0]}")
            return raw, BROKEN
        return as_tree(value, raw), value

    def _with_ranges(self, raw: Any, at: At) -> Any:
        """The value with Range objects for its ranges; BROKEN after noting what is wrong with one."""
        if ranges.is_range(raw):
            kind, values = next(iter(raw.items()))
            if not self._may_open(kind, values, at):
                return BROKEN
            if kind == "choice":
                values = [self._with_ranges(option, at.option(index)) for index, option in enumerate(values)]
            elif kind in ("uniform", "log") or (kind == "step" and any(isinstance(value, float) for value in values)):
                values = [float(value) for value in values]
            return BROKEN if any(value is BROKEN for value in values) else Range(kind, tuple(values))
        if isinstance(raw, dict):
            items = {name: self._with_ranges(item, at.down(name)) for name, item in raw.items()}
            return BROKEN if any(item is BROKEN for item in items.values()) else items
        if isinstance(raw, list):
            listed = [self._with_ranges(item, at.down(index)) for index, item in enumerate(raw)]
            return BROKEN if any(item is BROKEN for item in listed) else listed
        return raw

    def _opened(self, key: Key, tree: Any, at: At) -> Resolved:
        """A value with ranges: tried with one range moved at a time, each faulty range said once."""
        first: Any = None
        good: dict[Way, Any] = {}  # way → tree of a closed value that was accepted
        noted: set[Way] = set()
        before = len(self._places.faults)
        for number, (way, value) in enumerate(_variants(tree, at.way)):
            try:
                valid = key.adapter.validate_json(json.dumps(value), strict=True)
            except pydantic.ValidationError as error:
                _, sentence = next(sentences(key.hint, value, error))
                range_way = way[:-1] if len(way) > 1 and way[-2] in ranges.KINDS[:-1] else way
                if range_way in noted or (noted and number and at.way in noted):
                    continue
                noted.add(range_way)
                self._places.add(way, at.path, f"{sentence}{_of_range(way)}")
                continue
            first = valid if number == 0 else first
            good.setdefault(way, as_tree(valid, value))
        if isinstance(tree, Range) and tree.kind == "choice":
            options = [good.get((*at.way, "choice", i), option) for i, option in enumerate(tree.values)]
            self._no_twins([_page(option) for option in options], at)
            tree = Range("choice", tuple(options))
        return tree, BROKEN if len(self._places.faults) > before else first


def _page(option: Any) -> Any:
    return option.page() if isinstance(option, Range) else option


def _of_range(way: Way) -> str:
    kind = way[-2] if len(way) > 1 else ""
    if kind in ("uniform", "log"):
        return " A range is tried at its ends and in its middle; for whole numbers write {int: [low, high]}."
    if kind in ranges.KINDS[:-1]:
        return " A range is tried at its ends and, when it is short, at every value."
    return ""


def _variants(node: Any, way: Way) -> list[tuple[Way, Any]]:
    """(way, closed value): first with every range at its first, then with one range moved at a time."""
    if isinstance(node, Range):
        if node.kind == "choice":
            return [v for i, option in enumerate(node.values) for v in _variants(option, (*way, "choice", i))]
        return [((*way, node.kind, end), value) for end, value in ranges.probes(node.kind, list(node.values))]
    if isinstance(node, dict):
        inside = {name: _variants(item, (*way, name)) for name, item in node.items()}
        base: Any = {name: found[0][1] for name, found in inside.items()}
        moved = [(w, {**base, name: value}) for name, found in inside.items() for w, value in found[1:]]
        return [(way, base), *moved]
    if isinstance(node, list):
        items = [_variants(item, (*way, i)) for i, item in enumerate(node)]
        listed = [found[0][1] for found in items]
        shifted = [(w, [*listed[:i], value, *listed[i + 1 :]]) for i, found in enumerate(items) for w, value in found[1:]]
        return [(way, listed), *shifted]
    return [(way, node)]


def _any_node(node: Any, wanted: Callable[[Any], bool]) -> bool:
    if wanted(node):
        return True
    if isinstance(node, dict):
        return any(_any_node(item, wanted) for item in node.values())
    return isinstance(node, list) and any(_any_node(item, wanted) for item in node)


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


def as_tree(value: Any, raw: Any = None) -> Any:
    """A checked value as plain data; what plain data cannot say stays as it was written."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list() | tuple():
            return [as_tree(item, item) for item in value]
        case Part():
            return {name: as_tree(item, item) for name, item in value.page().items()}
        case Mapping():
            return {str(name): as_tree(item, item) for name, item in value.items()}
        case Section():
            return {}
    return raw


__all__ = ["Fixed", "resolve"]
