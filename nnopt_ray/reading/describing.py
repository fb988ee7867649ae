"""What can be said on a page, in words: sections, rooms, parts and their keys."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from nnopt_ray import tables
from nnopt_ray.errors import PartError, UserError
from nnopt_ray.experiment import Experiment, Section
from nnopt_ray.reading.keys import Key, as_tree, keys_of, summary
from nnopt_ray.reading.page import make_importable

RANGES = (
    "A value may be opened for a search by a range in its place: {uniform: [low, high]}, {log: [low, high]}, "
    "{int: [low, high]}, {log_int: [low, high]}, {step: [low, high, step]}, {choice: [one, another]}. "
    "The numbers are the values themselves, never exponents."
)


def describe(room: str | None = None, part: str | None = None, width: int = 80) -> str:
    """Text of at most `width` columns: all there is, a section or room, or one part and its keys.

    Raises UserError for a name that is none.
    """
    if room is None:
        return _overview(width)
    if part is not None and ":" in part:
        make_importable(None)
    if room in tables.ROOMS:
        return _part(room, part, width) if part else _room(room, width)
    found = _key_at(room)
    if found is None:
        known = [*tables.ROOMS, *(path for path, _ in _sections())]
        raise UserError(f"there is no section and no room '{room}'.{tables.suggestion(room, known)}")
    key, section = found
    if key and key.room:
        return _part(key.room, part, width) if part else _room(key.room, width)
    if part is not None and section is not None:
        return describe(f"{room}.{part}", None, width)
    if section is not None:
        return _section(room, section, width)
    assert key is not None
    return "\n".join(_entry(key, width, name=room))


# --- finding ------------------------------------------------------------------------------------


def _sections(model: type[Section] = Experiment, path: str = "") -> list[tuple[str, type[Section]]]:
    """(dotted path, model) of every section, in the order of the page."""
    found: list[tuple[str, type[Section]]] = []
    for key in keys_of(model):
        if key.section:
            here = f"{path}.{key.name}" if path else key.name
            found += [(here, key.section), *_sections(key.section, here)]
    return found


def _key_at(path: str) -> tuple[Key | None, type[Section] | None] | None:
    """The key at a dotted path of the page, and its section where it is one."""
    if path in ("page", "experiment"):
        return None, Experiment
    key: Key | None = None
    model: type[Section] | None = Experiment
    for name in path.split("."):
        key = next((key for key in keys_of(model) if key.name == name), None) if model else None
        if key is None:
            return None
        model = key.section
    return key, model


# --- writing ------------------------------------------------------------------------------------


def _overview(width: int) -> str:
    lines = ["The page", ""]
    for key in keys_of(Experiment):
        if key.section:
            lines += _pair(key.name, summary(key.section.__doc__ or ""), width)
        else:
            lines += _pair(key.name, f"{key.about}{_default(key)}", width)
    lines += ["", *textwrap.wrap("Rooms, from which `type:` chooses", width), ""]
    for room in tables.ROOMS.values():
        lines += _pair(room.name, f"{room.about}: {', '.join(tables.table(room.name))}", width)
    lines += ["", *textwrap.wrap(RANGES, width), ""]
    lines += textwrap.wrap(
        "More: nnopt describe train, nnopt describe optimizer, nnopt describe optimizer adam.", width
    )
    return "\n".join(lines)


def _section(path: str, section: type[Section], width: int) -> str:
    lines = [*textwrap.wrap(f"{path}: {summary(section.__doc__ or '')}", width), ""]
    for key in keys_of(section):
        lines += _entry(key, width)
    return "\n".join(lines)


def _room(room: str, width: int) -> str:
    lines = [*textwrap.wrap(f"{room}: {tables.ROOMS[room].about}", width), ""]
    for name in tables.table(room):
        try:
            about = summary(tables.find(room, name).__doc__ or "")
        except PartError as error:
            about = f"(not available: {error})"
        lines += _pair(name, about, width)
    contract = tables.ROOMS[room].contract.replace(":", ".")
    own = f"Your own: type: package.module:Class, a subclass of {contract}. Its keyword-only arguments are its keys."
    if libraries := tables.libraries(room):
        own = f"Of other libraries: {', '.join(f'type: {prefix}/NAME' for prefix in libraries)}. {own}"
    return "\n".join(
        [*lines, "", *textwrap.wrap(own, width), *textwrap.wrap(f"More: nnopt describe {room} NAME.", width)]
    )


def _part(room: str, name: str, width: int) -> str:
    keys = keys_of(tables.keys(room, name))
    doc = (tables.find(room, name).__doc__ or "").split("Keys:")[0]
    lines = textwrap.wrap(f"{room} {name}", width)
    for paragraph in textwrap.dedent(doc if doc.startswith("\n") else f"    {doc}").strip().split("\n\n"):
        if paragraph.strip():
            lines += ["", *textwrap.wrap(" ".join(paragraph.split()), width)]
    lines.append("")
    for key in keys:
        lines += _entry(key, width)
    if not keys:
        lines += textwrap.wrap("It has no keys (no keyword-only arguments).", width)
    return "\n".join(lines)


def _entry(key: Key, width: int, name: str = "") -> list[str]:
    """A key: its name and meaning; below them what it takes, its default, and why it may not vary."""
    takes = f"{key.words[:1].upper()}{key.words[1:]}"
    facts = f"{takes}.{' Must be given.' if key.required else f' Default: {_shown_default(key)}.'}"
    if key.fixed:
        facts += f" No range here: {key.fixed}."
    return [*_pair(name or key.name, key.about, width), *_indented(facts, width)]


def _pair(name: str, text: str, width: int) -> list[str]:
    """A name with its text beside it, or below it where the name is long or the terminal narrow."""
    margin = 18 if width >= 60 else 4
    if len(name) + 4 > margin:
        return [f"  {name}", *_indented(text, width)]
    wrapped = textwrap.wrap(text, max(width - margin, 20)) or [""]
    return [f"  {name}".ljust(margin) + wrapped[0], *(" " * margin + line for line in wrapped[1:])]


def _indented(text: str, width: int) -> list[str]:
    margin = 18 if width >= 60 else 4
    return [" " * margin + line for line in textwrap.wrap(text, max(width - margin, 20))]


def _default(key: Key) -> str:
    return "" if key.required else f" (default: {_shown_default(key)})"


def _shown_default(key: Key) -> str:
    default: Any = as_tree(key.default)
    if key.section and key.default is not None:
        return "its own defaults"
    if isinstance(default, dict) and "type" in default:
        return str(default["type"])
    return default if isinstance(default, str) else json.dumps(default, default=str)
