"""Values of a page that are neither sections nor parts: checked against their type, ranges tried at their ends."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydantic

from nnopt_ray.experiment import Range, plain
from nnopt_ray.reading import ranges
from nnopt_ray.reading.addresses import is_address
from nnopt_ray.reading.keys import Key, as_tree, members, stripped
from nnopt_ray.reading.places import BROKEN, At, Places, Way
from nnopt_ray.reading.sentences import sentences

_NO_RANGE_AS_OPTION = "an option cannot itself be a range. Widen one range, or make the options sub-pages."

Resolved = tuple[Any, Any]  # (tree with Range objects, value with every range at its first; BROKEN when at fault)


class Values:
    """Checks single values; the walk over sections and parts builds on it."""

    def __init__(self, places: Places, folder: Path | None = None) -> None:
        self._places = places
        self._folder = folder  # of the page

    def _fault(self, at: At, message: str, *, at_key: bool = False) -> Resolved:
        self._places.add(at.way, at.path, message, at_key=at_key)
        return BROKEN, BROKEN

    def _option(self, option: Any, at: At, each: Callable[[Any, At], Resolved]) -> Resolved:
        if ranges.is_range(option):
            self._fault(at, _NO_RANGE_AS_OPTION)
            return option, BROKEN
        return each(option, at)

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

    # --- values ---------------------------------------------------------------------------------

    def _leaf(self, key: Key, raw: Any, at: At) -> Resolved:
        if not isinstance(raw, (dict, list)):
            if type(raw) is type(key.default) and raw == key.default and not key.required:
                return raw, raw
            return self._closed(key, raw, at)
        if ranges.any_node(raw, lambda node: node is BROKEN):
            return raw, BROKEN
        if not ranges.any_node(raw, ranges.is_range):
            return self._closed(key, raw, at)
        tree = self._with_ranges(raw, at)
        if tree is BROKEN:
            return raw, BROKEN
        return self._opened(key, tree, at)

    def _closed(self, key: Key, raw: Any, at: At) -> Resolved:
        try:
            value = self._valid(key, raw)
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

    def _valid(self, key: Key, raw: Any) -> Any:
        """A closed value as its key has it. Raises pydantic's ValidationError."""
        value = key.adapter.validate_json(json.dumps(raw), strict=True)
        if not key.is_place:
            return value
        return tuple(map(self._in_full, value)) if isinstance(value, tuple) else self._in_full(value)

    def _in_full(self, place: Any) -> Any:
        """A path beside the page in full, or a pattern of such, so that the resolved page may be kept elsewhere."""
        if self._folder is None or not isinstance(place, str) or not place or place.startswith("~"):
            return place
        if is_address(place):  # zip://inside.csv::archive.zip
            outer, chained, inner = place.rpartition("::")
            return f"{outer}::{self._in_full(inner)}" if chained and not is_address(inner) else place
        full = str(self._folder / place)
        there = os.path.exists(full) or (glob.has_magic(place) and any(glob.iglob(full, recursive=True)))
        return full if there else place

    def _with_ranges(self, raw: Any, at: At) -> Any:
        """The value with Range objects for its ranges; BROKEN after noting what is wrong with one."""
        if ranges.is_range(raw):
            kind, values = next(iter(raw.items()))
            if not self._may_open(kind, values, at):
                return BROKEN
            if kind == "choice":
                values = [self._option(option, at.option(i), self._inner) for i, option in enumerate(values)]
                values = [value for _, value in values]
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

    def _inner(self, option: Any, at: At) -> Resolved:
        return option, self._with_ranges(option, at)

    def _opened(self, key: Key, tree: Any, at: At) -> Resolved:
        """A value with ranges: tried with one range moved at a time, each faulty range said once."""
        first: Any = None
        good: dict[Way, Any] = {}  # way → tree of a closed value that was accepted
        noted: set[Way] = set()
        known: set[tuple[Way, str]] = set()  # faults of the first values, met again whichever range is moved
        for number, (way, value) in enumerate(ranges.variants(tree, at.way)):
            try:
                valid = self._valid(key, value)
            except pydantic.ValidationError as error:
                for inside, sentence in sentences(key.hint, value, error):
                    if (inside, sentence) not in known:
                        self._misfit(
                            key, at, ranges.locate(tree, inside, at.way) if number == 0 else way, sentence, noted
                        )
                    if number == 0:
                        known.add((inside, sentence))
                continue
            first = valid if number == 0 else first
            good.setdefault(way, as_tree(valid, value))
        if isinstance(tree, Range) and tree.kind == "choice":
            options = [good.get((*at.way, "choice", i), option) for i, option in enumerate(tree.values)]
            self._no_twins([plain(option) for option in options], at)
            tree = Range("choice", tuple(options))
        return tree, BROKEN if noted else first

    def _misfit(self, key: Key, at: At, way: Way, sentence: str, noted: set[Way]) -> None:
        """Note a value that came from a range; a numeric range is said once, an option of a choice each."""
        range_way, kind = ranges.range_of(way)
        once = way if kind == "choice" else range_way
        if once not in noted:
            noted.add(once)
            self._places.add(way, ranges.path_of(at.way, at.path, way), f"{sentence}{_of_range(kind, key.hint)}")


def _of_range(kind: str, hint: Any) -> str:
    """What to add to a sentence about a value that came from a range."""
    if kind in ("uniform", "log"):
        bases = [stripped(member)[0] for member in members(hint)]
        whole = "" if float in bases or Any in bases else f" For whole numbers write {ranges.FORMS['int']}."
        return f" A range is tried at its ends and in its middle.{whole}"
    if kind and kind != "choice":
        return " A range is tried at its ends and, when it is short, at every value."
    return ""
