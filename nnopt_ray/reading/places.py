"""Where the values of a page stand, and the list of faults found in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from nnopt_ray.errors import Fault

Spot = tuple[int, int]  # line and column, both from 1
Way = tuple[str | int, ...]  # the way to a value in the page as written: ("train", "optimizer", "choice", 0, "lr")


class _Broken:
    """Stands in a tree where the text could not be read; its fault is already noted."""

    def __repr__(self) -> str:
        return "BROKEN"

    def __deepcopy__(self, memo: Any) -> _Broken:
        return self


BROKEN: Final = _Broken()


@dataclass
class Places:
    """Keeps the place of every key and value, and collects faults.

    `given` holds the ways that did not come from the file but from the command line, with the words
    they were given in.
    """

    file: str
    keys: dict[Way, Spot] = field(default_factory=dict)
    values: dict[Way, Spot] = field(default_factory=dict)
    given: dict[Way, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def add(self, way: Way, path: str, message: str, *, at_key: bool = False) -> None:
        """Note a fault of the value (or the key) at `way`; `path` is what the user calls it."""
        line, column = self._spot(way, at_key)
        for length in range(len(way), 0, -1):
            if way[:length] in self.given:
                message, line, column = f"{message} (from {self.given[way[:length]]})", 0, 0
                break
        self.faults.append(Fault(_printable(self.file), line, column, _printable(path), _printable(message)))

    def _spot(self, way: Way, at_key: bool) -> Spot:
        """The spot of a value or key, else that of the nearest key that holds it."""
        first, second = (self.keys, self.values) if at_key else (self.values, self.keys)
        if spot := first.get(way) or second.get(way):
            return spot
        for length in range(len(way) - 1, -1, -1):
            if spot := self.keys.get(way[:length]) or self.values.get(way[:length]):
                return spot
        return (0, 0)

    def replaced(self, way: Way, words: str) -> None:
        """Forget what stood at and below `way`: it is now given by `words` ("--set train.epochs=5")."""
        size = len(way)
        for known in (self.keys, self.values, self.given):
            for other in [other for other in known if other[:size] == way]:
                del known[other]
        self.given[way] = words


def _printable(text: str) -> str:
    """A file name or an argument may hold bytes that are no UTF-8, which Python keeps as lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def dotted(path: str, key: str | int) -> str:
    """The dotted path of a key below `path`."""
    return f"{path}.{key}" if path else str(key)


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


def shown(value: Any) -> str:
    """A value as a sentence says it, short."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return "true" if value else "false"
        case str():
            return f"'{value}'" if len(value) <= 60 else f"'{value[:57]}...'"
        case float() if value != value:
            return "not a number (.nan)"
        case int() if abs(value) >= 10**30:
            return f"a number of {len(hex(value)) * 6 // 5} digits or so"
        case int() | float():
            return str(value)
        case dict():
            return f"a mapping ({', '.join(map(str, list(value)[:3]))}{', ...' if len(value) > 3 else ''})"
        case list() | tuple():
            words = ", ".join(shown(item) for item in value[:4] if not isinstance(item, (dict, list)))
            return f"the list [{words}{', ...' if len(value) > 4 else ''}]" if words or not value else "a list"
        case _:
            return f"a {type(value).__name__}"
