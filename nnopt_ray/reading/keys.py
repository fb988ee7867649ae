"""What one key of a section or part takes: its room, its section, or its type in words.

Everything is read from the models: the sections of experiment.py, and the models that tables.py makes
from signatures. Checking, `nnopt describe` and `nnopt schema` all use what is found here.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args, get_origin

import pydantic
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.fields import FieldInfo

from nnopt_ray import tables
from nnopt_ray.experiment import Beside, Fixed, InRoom, Section
from nnopt_ray.tables import ROOMS, Part

_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)


@dataclass(frozen=True)
class Key:
    """One key: `name` on the page, `field` in the model.

    Exactly one of three: `room` is set (a part, or with `many` a list of parts), `section` is set, or
    neither, and `hint` says what the value must be. `optional`: null is allowed.
    """

    name: str
    field: str
    hint: Any
    required: bool
    default: Any
    about: str
    room: str | None = None
    many: bool = False
    section: type[Section] | None = None
    optional: bool = False
    fixed: str | None = None

    @cached_property
    def adapter(self) -> TypeAdapter[Any]:
        return adapter(self.hint)

    @cached_property
    def is_place(self) -> bool:
        """Whether it names a file or folder."""
        hints = (self.hint, *members(self.hint))  # of a union, or of one of its members
        return any(isinstance(mark, Beside) for hint in hints for mark in stripped(hint)[1])

    @cached_property
    def words(self) -> str:
        """What it takes, in words."""
        if self.room:
            also = "a whole number, " * bool(ROOMS[self.room].number)
            one = f"{article(self.room)} {self.room}: {also}its name, or {{type: name, key: value, ...}}"
            text = f"a list, each {one}" if self.many else one
        elif self.section:
            text = f"a mapping with keys such as {', '.join(key.name for key in keys_of(self.section)[:3])}"
        else:
            return words(self.hint)
        return f"{text}, or null" if self.optional else text


def adapter(hint: Any) -> TypeAdapter[Any]:
    """Pydantic's checker of a type, strict; raises what pydantic raises when the type is none it knows."""
    try:
        return TypeAdapter(hint, config=_STRICT)
    except pydantic.PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        return TypeAdapter(hint)  # a pydantic model or dataclass brings its own config


@lru_cache(maxsize=1024)
def keys_of(model: type[BaseModel]) -> tuple[Key, ...]:
    """The keys of a section or of a part's model, in the order they are written there."""
    explained = {} if issubclass(model, Section) else explanations(model.__doc__ or "")
    return tuple(_key(name, info, explained) for name, info in model.model_fields.items())


def number_keys(room: str) -> tuple[Key, ...]:
    """The key that a number alone stands for, where a part of this room is wanted; empty where none does."""
    part, name = tables.ROOMS[room].number or ("", "")
    return tuple(key for key in keys_of(tables.keys(room, part)) if key.name == name) if part else ()


def _key(name: str, info: FieldInfo, explained: Mapping[str, str]) -> Key:
    hint: Any = typing.Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    found = _look(hint)
    default = None if info.is_required() else info.get_default(call_default_factory=False)
    return Key(
        name=info.alias or name,
        field=name,
        hint=hint,
        required=info.is_required(),
        default=default,
        about=info.description or explained.get(name, ""),
        fixed=next((mark.why for mark in info.metadata if isinstance(mark, Fixed)), None),
        **found,
    )


def _look(hint: Any) -> dict[str, Any]:
    """room, many, section, optional of a hint, as far as it has them."""
    base, marks = stripped(hint)
    room = next((mark.room for mark in marks if isinstance(mark, InRoom)), None)
    if base is Part:
        return {"room": room} if room else {}
    if inspect.isclass(base) and get_origin(base) is None and issubclass(base, Section):
        return {"section": base}
    if get_origin(base) in (tuple, list):
        for item in get_args(base):
            inner, inner_marks = stripped(item)
            room = room or next((mark.room for mark in inner_marks if isinstance(mark, InRoom)), None)
            if inner is Part and room:
                return {"room": room, "many": True}
        return {}
    if is_union(base):
        members = [member for member in get_args(base) if member is not type(None)]
        if len(members) == 1 and len(get_args(base)) == 2:
            return {**found, "optional": True} if (found := _look(typing.Annotated[(members[0], *marks, None)])) else {}
    return {}


def stripped(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A hint without Annotated, and its marks (those of a Field written out)."""
    if get_origin(hint) is not typing.Annotated:
        return hint, ()
    base, *marks = get_args(hint)
    flat: list[Any] = []
    for mark in marks:
        flat.extend(mark.metadata if isinstance(mark, FieldInfo) else [mark])
    inner, inner_marks = stripped(base)
    return inner, (*inner_marks, *flat)


def is_union(hint: Any) -> bool:
    return get_origin(hint) in (typing.Union, types.UnionType)


def members(hint: Any) -> tuple[Any, ...]:
    """The members of a union, of unions inside it too; of anything else itself alone."""
    base, _ = stripped(hint)
    if not is_union(base):
        return (hint,)
    return tuple(inner for member in get_args(base) for inner in members(member))


# --- in words -----------------------------------------------------------------------------------

_PLAIN = {
    int: "a whole number",
    float: "a number",
    str: "a word",
    bool: "true or false",
    type(None): "null",
    dict: "a mapping",
    list: "a list",
    tuple: "a list",
    Any: "anything",
}


def words(hint: Any) -> str:
    """A type in words: "a whole number of at least 1", "one of 'none', 'batch'", ..."""
    base, marks = stripped(hint)
    if is_union(base):
        return _either([words(member) for member in members(base)])
    if get_origin(base) is Literal:
        return _one_of([_literal(value) for value in get_args(base)])
    origin, inside = get_origin(base) or base, get_args(base)
    text = _PLAIN.get(origin) if _hashable(origin) else None
    if origin in (tuple, list) and inside:
        if origin is tuple and Ellipsis not in inside:
            return f"a list of {len(inside)}: {', '.join(words(item) for item in inside)}"
        return f"a list{_limits(marks, ' items')}, each item {words(inside[0])}"
    if origin is Part:
        text = "a part: its name, or {type: name, key: value, ...}"
    if text is None:
        text = f"a {getattr(base, '__name__', str(base))}"
    return text + _limits(marks, {str: " characters", list: " items", tuple: " items", dict: " keys"}.get(base, ""))


def article(word: str) -> str:
    return "an" if word[:1] in "aeiou" else "a"


def _hashable(thing: Any) -> bool:
    return isinstance(thing, typing.Hashable)


def _either(options: Sequence[str]) -> str:
    return ", or ".join(dict.fromkeys(options))


def _one_of(options: Sequence[str]) -> str:
    return options[0] if len(options) == 1 else f"one of {', '.join(options)}"


def _literal(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def _limits(marks: Sequence[Any], counted: str) -> str:
    """ " from 0 to 1", " of at least 0 and below 1", " of at most 9 items": limits put on a value, or on its length."""
    given = {
        name: getattr(mark, name)
        for mark in marks
        for name in ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern")
        if getattr(mark, name, None) is not None
    }
    found: list[str] = []
    if "ge" in given and "le" in given:
        found.append(f"from {_number(given.pop('ge'))} to {_number(given.pop('le'))}")
    for name, text in (("gt", "above"), ("ge", "of at least"), ("lt", "below"), ("le", "of at most")):
        found += [f"{text} {_number(given[name])}"] if name in given else []
    found += [f"divisible by {given['multiple_of']}"] if "multiple_of" in given else []
    if counted:
        found += (
            [f"of at least {given['min_length']}{counted[: -1 if given['min_length'] == 1 else None]}"]
            if given.get("min_length")
            else []
        )
        found += [f"of at most {given['max_length']}{counted}"] if "max_length" in given else []
    found += [f"of the form {given['pattern']}"] if "pattern" in given else []
    return f" {' and '.join(found)}" if found else ""


def _number(value: Any) -> str:
    power = isinstance(value, int) and value >= 2**31 and value & (value - 1) == 0
    return f"2^{value.bit_length() - 1}" if power else f"{value}"


def explanations(doc: str) -> dict[str, str]:
    """key → text from the section `Keys:` of a docstring (lines `name: text`, longer ones indented further)."""
    found: dict[str, str] = {}
    lines = inspect.cleandoc(doc).splitlines()
    starts = [i for i, line in enumerate(lines) if line.strip() == "Keys:"]
    if not starts:
        return found
    margin, last = None, ""
    for line in lines[starts[0] + 1 :]:
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            continue
        if indent == 0:
            break
        margin = indent if margin is None else margin
        name, colon, text = line.strip().partition(":")
        if indent == margin and colon and name.isidentifier():
            found[name], last = text.strip(), name
        elif last:
            found[last] = f"{found[last]} {line.strip()}".strip()
    return found


def summary(doc: str) -> str:
    """The first paragraph of a docstring as one line."""
    return " ".join(inspect.cleandoc(doc).split("\n\n")[0].split())


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
