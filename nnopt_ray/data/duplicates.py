"""Rows that are there more than once, and rows that are the same in everything but the target."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from nnopt_ray.data.likeness import Copy, Likeness, copies, exact_items
from nnopt_ray.data.quality import Check, Examined, Finding, Repair, Repaired
from nnopt_ray.data.table import hint
from nnopt_ray.errors import DataError

MANY = 0.3  # share of copies from which rows are likely to be the same by chance, as columns have few values
PAIRS = 1000  # copies that `measured` names with their originals
WORDS = ("training", "validation", "test")  # the parts, in words


def compared(data: Examined, ignored: tuple[str, ...], name: str) -> np.ndarray:
    """exact_items, for a check of this name. Raises DataError where the key `ignore` names no column or leaves none."""
    unknown = [column for column in ignored if column not in data.table.names]
    if unknown:
        raise DataError(
            f"data.quality: {name}.ignore: {data.table.origin} has no column '{unknown[0]}'."
            f"{hint(unknown[0], data.table.names)}"
        )
    alone = data.table.images is None and data.table.sequences is None
    if alone and all(reading.name in ignored for reading in data.readings):
        raise DataError(f"data.quality: {name}.ignore leaves no column to compare rows by. Take one off.")
    return exact_items(data, ignored)


class Conflicts(Check):
    """Rows that are the same in everything but the target.

    At most one of them can be right, or the columns do not say what the target depends on.

    Keys:
        action: drop leaves out all that conflict; relabel gives them the class that most of them have (where no class
            has most, they stay).
        parts: the parts whose rows may be dropped or relabelled; only rows of one part are compared.
        ignore: columns that are not compared.
    """

    def __init__(
        self,
        *,
        action: Literal["report", "drop", "relabel"] = "report",
        parts: Repaired = ("train",),
        ignore: tuple[str, ...] = (),
    ) -> None:
        self.action = action
        self.parts = parts
        self.ignore = ignore

    def examine(self, data: Examined) -> tuple[Finding, ...]:
        target = data.target
        classes = target.task == "classification"
        if self.action == "relabel" and not classes:
            raise DataError(
                f"data.quality: conflicts: relabel needs classes, and the target '{target.name}' is read as amounts. "
                "Set its action: report or drop."
            )
        items = compared(data, self.ignore, "conflicts")
        groups = [g for part in ("train", "validation", "test") for g in _conflicting(items, data, part)]
        if not groups:
            return ()
        rows = np.sort(np.concatenate(groups))
        share = len(rows) / sum(len(part) for part in data.parts.values())
        return (
            Finding(
                "conflicts",
                f"{len(rows):,} rows in {len(groups):,} group{'s' * (len(groups) != 1)} are the same in everything but "
                f"the {'class' if classes else 'target'}: {data.named(rows)}.",
                "low" if not classes else "middle",
                rows=rows,
                sure=np.ones(len(rows)),
                measured={"groups": len(groups), "share": share, "in_parts": data.count(rows)},
                repairs=tuple(repair for group in groups for repair in self._repairs(data, group)),
                cure=f"data.quality: - {{type: conflicts, action: {_cure(data, groups)}}}",
            ),
        )

    def _repairs(self, data: Examined, group: np.ndarray) -> list[Repair]:
        if self.action == "report" or not data.within(self.parts)[group[0]]:
            return []
        numbers = data.source_rows[group]
        if self.action == "drop":
            others = {int(row): next(int(n) for n in numbers if n != data.source_rows[row]) for row in group}
            return [
                Repair(int(row), "dropped", f"same as source row {others[int(row)]} in all but the target")
                for row in group
            ]
        counts = np.bincount(data.target.values[group])
        if (counts == counts.max()).sum() > 1:
            return []
        most = int(np.argmax(counts))
        why = f"{counts[most]} of {len(group)} rows that are the same have this class"
        names = data.target.classes
        return [
            Repair(int(row), "relabelled", why, "", names[data.target.values[row]], names[most])
            for row in group
            if data.target.values[row] != most
        ]


def _cure(data: Examined, groups: list[np.ndarray]) -> str:
    """relabel where most rows of some group have one class, else drop."""
    if data.target.task != "classification":
        return "drop"
    counts = [np.sort(np.bincount(data.target.values[group], minlength=2)) for group in groups]
    return "relabel" if any(found[-1] > found[-2] for found in counts) else "drop"


def _conflicting(items: np.ndarray, data: Examined, part: str) -> list[np.ndarray]:
    """Groups of rows of a part that are one item and have different targets, each ascending."""
    rows = data.parts[part]
    order = rows[np.argsort(items[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(items[order])) + 1
    groups = [group for group in np.split(order, starts) if len(group) > 1]
    return [group for group in groups if (data.target.values[group] != data.target.values[group[0]]).any()]


class Duplicates(Check):
    """Rows that are exactly the same in all that is learned from.

    Of the same rows one stays: one of the test part, else of the validation part, else the first. A training row that
    is the same as a test row is a copy whatever its target; within a part the target must be the same, too (see
    `conflicts`).

    Keys:
        action: drop leaves out every copy.
        parts: the parts whose rows may be dropped.
        ignore: columns that are not compared.
    """

    language: ClassVar[bool] = True

    def __init__(
        self,
        *,
        action: Literal["report", "drop"] = "report",
        parts: Repaired = ("train",),
        ignore: tuple[str, ...] = (),
    ) -> None:
        self.action = action
        self.parts = parts
        self.ignore = ignore

    def examine(self, data: Examined) -> tuple[Finding, ...]:
        likeness = Likeness(compared(data, self.ignore, "duplicates"))
        found = copies(likeness, data, self.parts, data.target.values)
        return findings("duplicates", "exactly the same as", found.found, data, self.action, self.parts)


class DropDuplicates(Duplicates):
    """The check `duplicates` with action: drop.

    Keys:
        action: drop leaves out every copy.
        parts: the parts whose rows may be dropped.
        ignore: columns that are not compared.
    """

    short_for: ClassVar[str] = "duplicates"

    def __init__(
        self, *, action: Literal["drop"] = "drop", parts: Repaired = ("train",), ignore: tuple[str, ...] = ()
    ) -> None:
        super().__init__(action=action, parts=parts, ignore=ignore)


def findings(
    name: str, alike: str, found: tuple[Copy, ...], data: Examined, action: str, parts: tuple[str, ...]
) -> tuple[Finding, ...]:
    """What is said of copies across parts, and of those within one. alike: such as "exactly the same as"."""
    told = []
    across = [copy for copy in found if copy.across]
    if across:
        finding = _finding(name, f"{alike} a row of another part", across, data, action, parts)
        learned = data.count(finding.rows)["train"]
        kind = " Scores on what was learned from are too kind." if learned else ""
        told.append(replace(finding, severity="high", sentence=finding.sentence + kind))
    within = [copy for copy in found if not copy.across]
    if within:
        finding = _finding(name, f"{alike} another row of their part", within, data, action, parts)
        chance = " Where columns have few values, so many are the same by chance." if _many(within, data) else ""
        told.append(replace(finding, sentence=finding.sentence + chance))
    return tuple(told)


def _many(found: list[Copy], data: Examined) -> bool:
    return len(found) > MANY * sum(len(part) for part in data.parts.values())


def _finding(name: str, what: str, found: list[Copy], data: Examined, action: str, parts: tuple[str, ...]) -> Finding:
    rows = np.array([copy.row for copy in found], dtype=np.int64)
    counts = data.count(rows)
    told = ", ".join(f"{count:,} {part}" for part, count in counts.items() if count)
    pairs = [[int(data.source_rows[row]) for row in (copy.row, copy.of)] for copy in found[:PAIRS]]
    may_go = data.within(parts)
    return Finding(
        name,
        f"{len(rows):,} row{' is' if len(rows) == 1 else 's are'} {what} ({told}): {data.named(rows)}.",
        rows=rows,
        sure=np.array([copy.similarity for copy in found]),
        measured={"in_parts": counts, "copy_and_original": pairs},
        repairs=tuple(
            Repair(copy.row, "dropped", _why(copy, data)) for copy in found if action == "drop" and may_go[copy.row]
        ),
        cure=f"data.quality: - {{type: {name}, action: drop}}",
    )


def _why(copy: Copy, data: Examined) -> str:
    like = "same as" if copy.similarity == 1.0 else f"{100 * copy.similarity:.3g} % like"
    return f"{like} source row {data.source_rows[copy.of]} of the {WORDS[data.part_of[copy.of]]} part"


__all__ = ["Conflicts", "DropDuplicates", "Duplicates", "compared", "findings"]
