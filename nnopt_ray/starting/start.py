"""The door: from DATA to a page that passes `nnopt check` and runs to its end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nnopt_ray import rundir, tables
from nnopt_ray.data.types import LANGUAGE, Task
from nnopt_ray.errors import DataError, UserError
from nnopt_ray.starting.found import Found, find
from nnopt_ray.starting.seen import Seen, look
from nnopt_ray.starting.written import named, page, percent, told_target
from nnopt_ray.tables import Part

ONE_LINE = 110
MOST_LINES = 12


@dataclass(frozen=True)
class Started:
    """The page that was written, what it says, and what was seen in the data, a (name, sentence) each."""

    page: Path
    text: str
    seen: tuple[tuple[str, str], ...]
    kind: str
    task: Task
    target: str | None
    ignored: dict[str, str]


def start(
    data: str,
    *,
    target: str | None = None,
    out: Path | None = None,
    task: Task | Literal["auto"] = "auto",
    search: bool = True,
    force: bool = False,
) -> Started:
    """Look at DATA and write a page to start from.

    out: the page; without it the name of DATA with .yaml, in the current folder. What is there is kept, unless `force`.
    Raises DataError when DATA cannot be read or has no target, UserError when the page cannot be written.
    """
    stem = Path(data.removeprefix("sklearn:")).name.split(".")[0] or Path(data).resolve().name or "page"
    place = out if out is not None else Path(f"{stem}.yaml")
    _writable(place, force)
    found = find(data, place.parent, target)
    seen = None
    if task in LANGUAGE or (found.kind == "lines" and target is None):
        if found.kind != "lines":
            raise DataError(f"data.task {task} is learned of text files, and {data} is none.")
        if task == "masked_language_modelling":
            raise DataError("init writes pages of language_modelling; write task: masked_language_modelling by hand.")
    else:
        seen = look(found, target, task)
        _divisible(found, seen)
    name = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "page"
    said = f"nnopt init {data}" + (f" --target {target}" if target else "")
    text = page(found, seen, name, " ".join(said.split()), place, search)
    rundir.write_text(place, text)
    what: Task = "language_modelling" if seen is None else seen.target.task
    shown = None if seen is None else seen.target_name
    return Started(place, text, _told(found, seen), found.kind, what, shown, dict(seen.ignored) if seen else {})


def _writable(place: Path, force: bool) -> None:
    if place.suffix not in (".yaml", ".yml"):
        raise UserError(f"a page ends in .yaml, and -o says {place}.")
    if not place.parent.is_dir():
        raise UserError(f"there is no folder {place.parent} to write {place.name} into.")
    if place.exists() and not force:
        raise UserError(f"{place} is there already and is kept. Choose another name with -o, or write --force.")


def _divisible(found: Found, seen: Seen) -> None:
    """Whether the rows can be divided as the page will say. Raises DataError."""
    if found.own_parts:
        return
    keys: dict[str, Any] = {"stratify": False} if seen.single else {}
    table = found.table
    valid = table.columns.column(seen.target.name if seen.target.name in table.names else table.target).is_valid()
    tables.build("split", Part("random", keys)).divide(  # type: ignore[arg-type]
        table.take(valid.to_numpy().nonzero()[0]) if seen.without_target else table, seen.target
    )


def _told(found: Found, seen: Seen | None) -> tuple[tuple[str, str], ...]:
    """What was seen, in at most a dozen lines."""
    table = found.table
    what = {"image": "images", "sequence": "sequences", "lines": "lines of text", "folder of texts": "texts"}
    shape = "x".join(map(str, table.images.shape[1:])) if table.images is not None else ""
    rows = f"{table.rows:,} {what.get(found.kind, 'rows')}" + (f" of {shape}" if shape else "")
    columns = f" of {len(table.names):,} columns" if found.kind == "table" else ""
    said = [("data", f"{found.keys['type']} {found.short}: {rows}{columns}"), *(("", each) for each in found.remarks)]
    if seen is None:
        return (*said, ("task", "language_modelling: there are no classes, so the next character is learned"))
    said.append(("target", f"{seen.target_name}: {seen.target.task}, {told_target(seen)}"))
    if seen.rarest is not None:
        said.append(("rare", f"{seen.rarest[0]!r} is {percent(seen.rarest[1])} of the rows: searched for by F1"))
    if seen.without_target:
        said.append(("left out", f"{seen.without_target:,} rows without a target"))
    if seen.ignored:
        said.append(("ignored", "; ".join(f"{name} ({why})" for name, why in list(seen.ignored.items())[:4])))
    if seen.missing:
        said.append(("missing", f"values in {named(list(seen.missing))}: filled, with an indicator of numbers"))
    if seen.dates:
        said.append(("dates", "; ".join(seen.date_notes)))
    if seen.skewed:
        said.append(("skewed", f"{named(seen.skewed)}: their ranks are put for them"))
    categories = [*seen.one_hot, *seen.embedded]
    if categories:
        said.append(("words", f"{named(categories)}: {len(seen.one_hot)} one-hot, {len(seen.embedded)} embedded"))
    if seen.texts:
        said.append(("texts", f"{named(seen.texts)}: read as tokens, 95 % have at most {seen.words:,} words"))
    return tuple((name, _cut(sentence)) for name, sentence in said[:MOST_LINES])


def _cut(sentence: str) -> str:
    return sentence if len(sentence) <= ONE_LINE * 2 else sentence[: ONE_LINE * 2 - 3] + "..."


__all__ = ["Started", "start"]
