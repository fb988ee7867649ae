"""The checks of a page are run, one after the other, and what they ask for is done: to rows, values, classes, columns.

A row that is dropped leaves its part and stays in the table, so that rows keep their numbers from check to check.
"""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from nnopt_ray import tables
from nnopt_ray.data.audit import Line
from nnopt_ray.data.columns import features, useless
from nnopt_ray.data.preprocessing import named_by
from nnopt_ray.data.quality import Check, Examined, Finding, Repair
from nnopt_ray.data.split import PARTS
from nnopt_ray.data.table import Table
from nnopt_ray.data.types import DataSummary, Found
from nnopt_ray.errors import DataError, PartError

if TYPE_CHECKING:
    from nnopt_ray.experiment import Data
    from nnopt_ray.tables import Part

ONE_VALUE = "it has one and the same value in all training rows"
LISTED = 1000  # rows of a finding that summary.json lists; audit.csv has all that were touched


@dataclass(frozen=True, eq=False)
class Seen:
    """The data behind the checks.

    data: as they left it. dropped: columns that are not learned from any more → why. audit: a line for each row or
    column touched. found: for summary.json. notes: for the user. checked: names of the checks that ran, skipped: of
    those that make no sense of the data → why. findings: of each check, by its name, with all rows.
    """

    data: Examined
    dropped: Mapping[str, str]
    audit: tuple[Line, ...] = ()
    found: tuple[Found, ...] = ()
    notes: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[tuple[str, Finding], ...] = ()


def examined(parts: Sequence[Part], data: Examined, kind: str = "rows", also: Sequence[Part] = ()) -> Seen:
    """The checks run in the order of CHECKS, own ones behind ours, each on what those before it left.

    kind: what a row is: rows, windows (time points of a forecast) or language (texts). also: checks that nobody asked
    for: what they cannot examine is skipped. Raises DataError where one of `parts` makes no sense of the data or would
    leave nothing to learn from, PartError for what a check of a user's own does wrong.
    """
    seen = Seen(data, {})
    for part in in_order([*parts, *also]):
        try:
            check: Check = tables.build("check", part)
            _refuse_senseless(part, check, kind)
            findings = check.examine(seen.data)
        except DataError as error:
            if not any(part is one for one in also):
                raise
            why = str(error).removeprefix("data.quality: ").removesuffix(" Take it away.")
            seen = replace(seen, skipped={**seen.skipped, part.type: why})
            continue
        seen = _applied(seen, part.type, check, findings, kind)
    return replace(seen, notes=_notes(seen))


def of_page(data: Data, given: Examined, kind: str = "rows") -> Seen:
    """What the checks of a page's data.quality make of the data; these as they are where it asks for none."""
    if not data.quality:
        return Seen(given, {})
    return examined(data.quality, ready(data, given), kind)


def ready(data: Data, given: Examined) -> Examined:
    """With what checks need beside the rows: the split, its seed, the steps, the columns that are left out anyway."""
    made = features(given.table, given.readings)
    why, _ = useless(made, given.train, given.table.rows, named_by(data.steps, made))
    left = {feature.origin for name, feature in made.items() if name not in why}  # a date is several features
    return replace(
        given,
        readings=tuple(reading for reading in given.readings if reading.name in left),
        unread={r.name: why.get(r.name, ONE_VALUE) for r in given.readings if r.name not in left},
        seed=data.split.keys.get("seed") or 0,
        steps=data.steps,
        split=data.split,
    )


def versions(part: Part) -> list[str]:
    """Of the libraries that the findings of a check follow from."""
    return [importlib.metadata.version(library) for library in tables.find("check", part.type).libraries]


def told(summary: DataSummary, seen: Seen) -> DataSummary:
    """The summary with what was found."""
    dropped = tuple(f"Column '{name}' is not learned from:" for name in seen.dropped)  # the findings say it
    notes = [note for note in summary.notes if not (dropped and note.startswith(dropped))]
    return replace(summary, checked=seen.checked, quality=seen.found, notes=(*seen.notes, *notes))


def in_order(parts: Sequence[Part]) -> list[Part]:
    """As they are run, whatever the order of the page."""
    known = list(tables.table("check"))
    return sorted(parts, key=lambda part: known.index(part.type) if part.type in known else len(known))


def _refuse_senseless(part: Part, check: Check, kind: str) -> None:
    fits = {"windows": check.windows, "language": check.language}.get(kind, True)
    if not fits:
        what = (
            "time points, which data.window makes windows of" if kind == "windows" else "the texts of a language task"
        )
        raise DataError(f"data.quality: {part.type} makes no sense of {what}. Take it away.")


def _applied(seen: Seen, name: str, check: Check, findings: tuple[Finding, ...], kind: str) -> Seen:
    data, dropped = seen.data, dict(seen.dropped)
    lines: list[Line] = []
    for finding in findings:
        _verify(data, name, check, finding)
        columns = {repair.column: repair.why for repair in finding.repairs if repair.what == "column dropped"}
        rows = [repair for repair in finding.repairs if repair.what != "column dropped"]
        if rows and kind == "windows":
            raise DataError(
                f"data.quality: {name} would change {len(rows):,} time point{'s' * (len(rows) != 1)}, and the windows "
                "over them would no longer be what happened. Set its action: report."
            )
        lines += [_line(data, name, repair) for repair in finding.repairs]
        data = _changed(data, columns, rows)
        dropped |= {column: f"{why} (data.quality: {name})" for column, why in columns.items()}
        _refuse_nothing_left(seen.data, data, name)
    found = tuple(_said(data, finding, name, check.action) for finding in findings)
    return replace(
        seen,
        data=data,
        dropped=dropped,
        audit=(*seen.audit, *lines),
        found=(*seen.found, *found),
        checked=(*seen.checked, name),
        findings=(*seen.findings, *((name, finding) for finding in findings)),
    )


def _verify(data: Examined, name: str, check: Check, finding: Finding) -> None:
    """A user's own check may say anything."""
    rows = data.table.rows
    if finding.rows.dtype != np.int64 or (
        len(finding.rows) and not 0 <= finding.rows.min() <= finding.rows.max() < rows
    ):
        raise PartError(f"data.quality: '{name}' must name rows as int64 from 0 to {rows - 1}.")
    if finding.sure.shape != finding.rows.shape or not ((finding.sure >= 0) & (finding.sure <= 1)).all():
        raise PartError(f"data.quality: '{name}' must say of each row that it names how sure it is, from 0 to 1.")
    if finding.repairs and check.action == "report":
        raise PartError(f"data.quality: '{name}' has the action report and asks for repairs.")
    touched = np.array([repair.row for repair in finding.repairs if repair.what != "column dropped"], dtype=np.int64)
    if len(touched) and not (touched.min() >= 0 and touched.max() < rows):
        raise PartError(f"data.quality: '{name}' repairs rows that there are not.")
    if not data.within(tuple(part for part in check.parts if part != "test"))[touched].all():
        raise PartError(
            f"data.quality: '{name}' repairs rows outside the {' and '.join(check.parts)} part; the test part always "
            "stays as it is."
        )
    classes = [r.after for r in finding.repairs if r.what == "relabelled" and r.after not in data.target.classes]
    if classes:
        raise PartError(f"data.quality: '{name}' gives a row the class {classes[0]!r}, which there is not.")
    unknown = [r.column for r in finding.repairs if r.what == "column dropped" and r.column not in data.table.names]
    if unknown:
        raise PartError(f"data.quality: '{name}' drops the column '{unknown[0]}', which there is not.")


def _line(data: Examined, name: str, repair: Repair) -> Line:
    reason = f"{name}: {repair.why}"
    if repair.what == "column dropped":
        return Line(None, "", repair.what, reason, repair.column)
    part, number = PARTS[data.part_of[repair.row]], int(data.source_rows[repair.row])
    column = data.target.name if repair.what == "relabelled" else repair.column
    return Line(number, part, repair.what, reason, column, repair.before, repair.after)


def _changed(data: Examined, columns: Mapping[str, str], rows: list[Repair]) -> Examined:
    if columns:
        data = replace(data, readings=tuple(reading for reading in data.readings if reading.name not in columns))
    gone = np.array([repair.row for repair in rows if repair.what == "dropped"], dtype=np.int64)
    if len(gone):
        data = replace(data, parts={part: np.setdiff1d(kept, gone) for part, kept in data.parts.items()})
    relabelled = [repair for repair in rows if repair.what == "relabelled"]
    if relabelled:
        values = data.target.values.copy()
        for repair in relabelled:
            values[repair.row] = data.target.classes.index(repair.after)
        data = replace(data, target=replace(data.target, values=values))
    values_changed: dict[str, list[Repair]] = {}
    for repair in rows:
        if repair.what == "changed":
            values_changed.setdefault(repair.column, []).append(repair)
    for column, repairs in values_changed.items():
        data = replace(data, table=_with_values(data.table, column, repairs))
    return data


def _with_values(table: Table, column: str, repairs: list[Repair]) -> Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    before = table.columns.column(column).combine_chunks()
    after = {repair.row: repair.after or None for repair in repairs}
    mask = np.zeros(table.rows, dtype=bool)
    mask[list(after)] = True
    try:
        values = pa.array([after[row] for row in sorted(after)], pa.string()).cast(before.type)
    except pa.ArrowInvalid as error:
        wrong = str(error).partition("\n")[0]
        raise PartError(f"data.quality: a value that '{column}' ({before.type}) cannot hold: {wrong}") from error
    place = table.names.index(column)
    return replace(table, columns=table.columns.set_column(place, column, pc.replace_with_mask(before, mask, values)))


def _refuse_nothing_left(before: Examined, after: Examined, name: str) -> None:
    cure = "Set its action: report, or repair the source."
    for part in PARTS:
        if not len(after.parts[part]):
            raise DataError(f"data.quality: {name} would leave no row in the {part} part. {cure}")
    if not after.readings and before.readings and after.table.images is None and after.table.sequences is None:
        raise DataError(f"data.quality: {name} would leave no column to learn from. {cure}")
    if after.target.task != "classification":
        return
    counts = [np.bincount(d.target.values[d.train], minlength=len(d.target.classes)) for d in (before, after)]
    lost = np.flatnonzero((counts[0] > 0) & (counts[1] == 0))
    if len(lost):
        label = after.target.classes[int(lost[0])]
        raise DataError(f"data.quality: {name} would leave no training row of the class {label!r}. {cure}")


def _said(data: Examined, finding: Finding, name: str, action: str) -> Found:
    first = [
        (int(data.source_rows[row]), round(float(sure), 4))
        for row, sure in zip(finding.rows[:LISTED], finding.sure[:LISTED], strict=True)
    ]
    done: Counter[str] = Counter(repair.what for repair in finding.repairs)
    return Found(
        check=name,
        action=action,
        severity=finding.severity,
        sentence=finding.sentence,
        rows=len(finding.rows),
        first_rows=tuple(first),
        columns=finding.columns,
        measured=finding.measured,
        repaired=dict(done),
        cure=finding.cure,
    )


DONE = {
    "dropped": ("row was dropped", "rows were dropped"),
    "relabelled": ("row was given another class", "rows were given another class"),
    "changed": ("value was changed", "values were changed"),
    "column dropped": ("column was dropped", "columns were dropped"),
}


def done(found: Found) -> str:
    """ "3 rows were dropped": what the action did, in words; empty where it did nothing."""
    return ", ".join(f"{count:,} {DONE[what][count != 1]}" for what, count in found.repaired.items())


def _notes(seen: Seen) -> tuple[str, ...]:
    notes = [f"{found.check}: {found.sentence}{f' {done(found)}.' if done(found) else ''}" for found in seen.found]
    nothing = [name for name in dict.fromkeys(seen.checked) if name not in {found.check for found in seen.found}]
    if nothing:
        notes.append(f"Nothing was found by {', '.join(nothing)} (data.quality).")
    return tuple(notes)


__all__ = ["Seen", "done", "examined", "in_order", "of_page", "ready", "told", "versions"]
