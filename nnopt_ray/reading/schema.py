"""JSON Schema (draft 2020-12) of the page, for editors; made from the same models and signatures.

It says the shape of a page: keys, types, limits, choices, and where a range may stand. What keys must
be to each other (objective and metrics, method and trials) only `nnopt check` knows.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from nnopt_ray import tables
from nnopt_ray.errors import PartError
from nnopt_ray.experiment import Experiment, Section
from nnopt_ray.reading.keys import Key, adapter, as_tree, keys_of, members, number_keys, stripped, summary

Schema = dict[str, Any]

OWN_PART = r"^[^:\s]+:[^:\s]+$"
_ENDS = {
    "uniform": ("number", 2),
    "log": ("number", 2),
    "int": ("integer", 2),
    "log_int": ("integer", 2),
    "step": ("number", 3),
}


def schema() -> Schema:
    """The schema of a page."""
    made = _Maker()
    root = made.section(Experiment, fixed=False)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A page of nnopt",
        **root,
        "$defs": dict(sorted(made.definitions.items())),
    }


class _Maker:
    """Collects definitions; a name that ends in `.fixed` holds no ranges."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {
            f"range.{kind}": _range(kind, {"type": number, **({"exclusiveMinimum": 0} if "log" in kind else {})}, size)
            for kind, (number, size) in _ENDS.items()
        }

    def section(self, model: type[Section], fixed: bool) -> Schema:
        keys = keys_of(model)
        made = _object({key.name: self.key(key, fixed) for key in keys}, [key.name for key in keys if key.required])
        return {"description": summary(model.__doc__ or ""), **made}

    def key(self, key: Key, fixed: bool) -> Schema:
        fixed = fixed or key.fixed is not None
        if key.section:
            made = self._section_key(key, key.section, fixed)
        elif key.room:
            one = self._part(key.room, fixed)
            made = _openable({"type": "array", "items": one}, fixed) if key.many else self._part_key(key, one)
            made = {"anyOf": [made, {"type": "null"}]} if key.optional else made
        else:
            made = self.value(key.hint, fixed)
        about = {"description": key.about} if key.about else {}
        return {**about, **made, **({} if key.required else {"default": as_tree(key.default)})}

    def _section_key(self, key: Key, section: type[Section], fixed: bool) -> Schema:
        """A section; an empty one (null) means its defaults, or none where it is optional."""
        inside = self.section(section, fixed)
        if section.bare:
            inside = {"anyOf": [inside, {"type": "string"}]}
        varies = not fixed and key.optional and not any(k.fixed for k in keys_of(section))
        return _openable({"anyOf": [inside, {"type": "null"}]}, not varies)

    def _part_key(self, key: Key, part: Schema) -> Schema:
        """A part; without `type` it is the default's."""
        if not isinstance(key.default, dict) or not key.room:
            return part
        default = tables.keys(key.room, key.default["type"])
        fixed = part["$ref"].endswith(".fixed")
        untyped = _object({k.name: self.key(k, fixed) for k in keys_of(default)}, [])
        return {"anyOf": [part, untyped]}

    def _part(self, room: str, fixed: bool) -> Schema:
        name = f"{room}.fixed" if fixed else room
        if name not in self.definitions:
            self.definitions[name] = {}  # a part may hold parts of its own room
            self.definitions[name] = self._room(room, fixed)
        return {"$ref": f"#/$defs/{name}"}

    def _room(self, room: str, fixed: bool) -> Schema:
        words: list[str] = []
        options: list[Schema] = []
        for name in tables.table(room):
            try:
                keys = keys_of(tables.keys(room, name))
            except PartError:  # its package is not installed here; elsewhere it may be
                options.append({"type": "object", "properties": {"type": {"const": name}}, "required": ["type"]})
                words.append(name)
                continue
            properties = {key.name: self.key(key, fixed) for key in keys}
            required = [key.name for key in keys if key.required]
            made = _object({"type": {"const": name}, **properties}, ["type", *required])
            options.append({"description": summary(tables.find(room, name).__doc__ or ""), **made})
            words += [name] if not required else []
        libraries = "".join(f"|^{prefix}/" for prefix in tables.libraries(room))
        of_others: Schema = {"type": "string", "pattern": f"{OWN_PART}{libraries}"}
        own = {"type": "object", "properties": {"type": of_others}, "required": ["type"]}
        number = [self.value(key.hint, fixed=True) for key in number_keys(room)]
        made = {"oneOf": [{"enum": words}, *number, of_others, *options, own]}
        return {"description": tables.ROOMS[room].about, **_openable(made, fixed, {"$ref": f"#/$defs/{room}"})}

    # --- values ---------------------------------------------------------------------------------

    def value(self, hint: Any, fixed: bool) -> Schema:
        """A value of a type, or a range of such values."""
        closed = [self._closed(member, fixed) for member in members(hint)]
        made = closed[0] if len(closed) == 1 else {"anyOf": closed}
        if fixed:
            return made
        bases = [stripped(member)[0] for member in members(hint)]
        kinds = [kind for kind in _ENDS if _gives(kind, bases)]
        return {"anyOf": [made, *({"$ref": f"#/$defs/range.{kind}"} for kind in kinds), _range("choice", made)]}

    def _closed(self, hint: Any, fixed: bool) -> Schema:
        base, marks = stripped(hint)
        origin, inside = get_origin(base), get_args(base)
        if origin in (list, tuple) and inside and not (origin is tuple and Ellipsis not in inside):
            limits = {
                name: getattr(mark, attribute)
                for mark in marks
                for attribute, name in _SIZES
                if hasattr(mark, attribute)
            }
            return {"type": "array", "items": self.value(inside[0], fixed), **{k: v for k, v in limits.items() if v}}
        if origin is tuple and inside:
            size = len(inside)
            items = [self.value(item, fixed) for item in inside]
            return {"type": "array", "prefixItems": items, "minItems": size, "maxItems": size}
        if origin is dict:
            return {"type": "object"}
        made: Schema = adapter(hint).json_schema()
        # JSON has no word for infinity; 1.0 is an integer to JSON Schema and none to the page, which says so.
        return made


_SIZES = (("min_length", "minItems"), ("max_length", "maxItems"))


def _gives(kind: str, bases: list[Any]) -> bool:
    """Whether a kind of range can give a value of one of these types."""
    if Any in bases or float in bases:
        return True
    numbers = [v for base in bases if get_origin(base) is Literal for v in get_args(base) if type(v) is int]
    return kind in ("int", "log_int", "step") and (int in bases or bool(numbers))


def _openable(made: Schema, fixed: bool, option: Schema | None = None) -> Schema:
    return made if fixed else {"anyOf": [made, _range("choice", option or made)]}


def _range(kind: str, items: Schema, size: int | None = None) -> Schema:
    sizes = {"minItems": size, "maxItems": size} if size else {"minItems": 1}
    return _object({kind: {"type": "array", "items": items, **sizes}}, [kind])


def _object(properties: dict[str, Schema], required: list[str]) -> Schema:
    made: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**made, "required": required} if required else made
