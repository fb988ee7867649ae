"""A value that does not fit, in one sentence: the rule, the value, the cure."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from nnopt_ray.reading.keys import members, stripped, words
from nnopt_ray.reading.places import shown

# A check that a part's author wrote says more than the type does: its own words are kept.
_OWN_WORDS = ("value_error", "assertion_error")
_MORE_THAN_TYPE = ("missing", "extra_forbidden", "invalid_key", "unexpected_keyword_argument")


def sentences(hint: Any, value: Any, error: ValidationError) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(place inside the value, sentence) for every fault that pydantic found, one a place."""
    seen: set[tuple[str | int, ...]] = set()
    for found in error.errors(include_url=False):
        where, wanted, given = _descend(hint, value, found["loc"])
        if where in seen:
            continue
        seen.add(where)
        if found["type"] in _OWN_WORDS:
            said = found["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            yield where, f"{said.rstrip('.')}; it is {shown(given)}."
        elif found["type"] in _MORE_THAN_TYPE and not is_plain(wanted):
            yield where, f"{found['msg'][:1].lower()}{found['msg'][1:]}; it is {shown(given)}."
        else:
            yield where, misfit(wanted, given)


def is_plain(hint: Any) -> bool:
    """Whether `words` says all there is to say about a type."""
    bases = [stripped(member)[0] for member in members(hint)]
    return all(base in (int, float, str, bool, type(None)) or get_origin(base) for base in bases)


def _descend(hint: Any, value: Any, loc: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], Any, Any]:
    """How far `loc` leads into the value, with the type wanted and the value found there.

    Pydantic puts names of union members between the keys; they lead nowhere and are passed over.
    """
    where: list[str | int] = []
    for step in loc:
        if isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value):
            inner = _inside(hint, list, step)
        elif isinstance(value, dict) and step in value:
            inner = _inside(hint, dict, step)
        else:
            continue
        if inner is None:
            break
        where.append(step)
        hint, value = inner, value[step]
    return tuple(where), hint, value


def _inside(hint: Any, kind: type, step: str | int) -> Any:
    """The type of an item of a list or mapping; None when the type says nothing of it."""
    for member in members(hint):
        base, _ = stripped(member)
        origin, inside = get_origin(base), get_args(base)
        if kind is dict and origin is dict and inside:
            return inside[1]
        if kind is list and origin in (list, tuple, set, frozenset) and inside:
            if origin is tuple and Ellipsis not in inside:
                return inside[step] if isinstance(step, int) and step < len(inside) else None
            return inside[0]
    return None


def misfit(hint: Any, value: Any) -> str:
    """ "must be a number above 0, and is -1." with a cure where one is known."""
    rule = words(hint)
    if isinstance(value, float) and not math.isfinite(value):
        rule = rule.replace("a number", "a finite number")
    return f"must be {rule}; it is {shown(value)}.{cure(hint, value)}"


def cure(hint: Any, value: Any) -> str:
    """What to write instead, when the value makes that plain; begins with a space."""
    bases = [stripped(member)[0] for member in members(hint)]
    kinds = {get_origin(base) or base for base in bases}
    options = [option for base in bases if get_origin(base) is Literal for option in get_args(base)]
    if isinstance(value, str):
        near = difflib.get_close_matches(value, [str(option) for option in options], n=1, cutoff=0.6)
        if near:
            return f" Did you mean {near[0]}?"
        number = as_number(value)
        if number is not None and kinds & {int, float}:
            return f" Write {number}, without quotes or separators."
        if bool in kinds and value.lower() in ("yes", "on", "no", "off", "true", "false"):
            return f" Write {'true' if value.lower() in ('yes', 'on', 'true') else 'false'}."
    if isinstance(value, float) and int in kinds and value.is_integer() and abs(value) < 2**53:
        return f" Write {int(value)}."
    if isinstance(value, bool) and str in kinds:
        return f" Put it in quotes: '{str(value).lower()}'."
    if isinstance(value, (int, float)) and str in kinds:
        return f" Put it in quotes: '{value}'."
    if not isinstance(value, (list, dict)) and value is not None and kinds & {list, tuple}:
        return f" Write [{value}]."
    if isinstance(value, dict) and "type" in value:
        return " It is not chosen by 'type'."
    if isinstance(value, dict) and len(value) > 1:
        return " A range has one key only, such as {uniform: [0.1, 0.5]}."
    return ""


def as_number(text: str) -> int | float | None:
    """The number that a text was meant to be: '1e-3', '1_000', '1,5', '10%'."""
    plain = text.strip().replace("_", "").replace(" ", "")
    percent = plain.endswith("%")
    plain = plain.removesuffix("%")
    if re.fullmatch(r"[-+]?[0-9]+,[0-9]{1,2}", plain):
        plain = plain.replace(",", ".")
    plain = re.sub(r",(?=[0-9]{3}(,|\.|$))", "", plain)
    if not re.fullmatch(r"[-+]?([0-9]{1,300}(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,3})?", plain):
        return None
    number = float(plain)
    if not math.isfinite(number):
        return None
    if percent:
        return number / 100
    return int(plain) if re.fullmatch(r"[-+]?[0-9]+", plain) else number
