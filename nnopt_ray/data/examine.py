"""What is wrong with the data of a page, by every check there is, and what its own would do. Nothing is written."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from nnopt_ray import tables
from nnopt_ray.data import repairs
from nnopt_ray.data.audit import Line
from nnopt_ray.data.described import described
from nnopt_ray.data.prepare import divided
from nnopt_ray.data.quality import Finding, Judge, Repair
from nnopt_ray.data.split import PARTS
from nnopt_ray.data.types import Found
from nnopt_ray.experiment import Experiment
from nnopt_ray.tables import Part

ORDER = ("high", "middle", "low")
COLUMNS = ("check", "severity", "source_row", "part", "sure", "action", "reason", "column", "before", "after")


@dataclass(frozen=True, eq=False)
class Examination:
    """source: in words. rows: that have a target. parts: train, validation, test → rows, before any repair.

    findings: the worst first. nothing: checks that found nothing. skipped: checks that make no sense here → why.
    named: the checks of the page. audit: what their actions would do, as audit.csv would say it.
    """

    source: str
    task: str
    rows: int
    parts: Mapping[str, int]
    findings: tuple[Found, ...]
    nothing: tuple[str, ...]
    skipped: Mapping[str, str]
    named: tuple[str, ...]
    audit: tuple[Line, ...]
    _found: tuple[tuple[str, Finding], ...]
    _source_rows: np.ndarray
    _part_of: np.ndarray

    @property
    def would(self) -> dict[str, int]:
        """What the page's actions would do (dropped, relabelled, changed, column dropped) → how often."""
        return dict(Counter(line.action for line in self.audit))

    def to_json(self) -> dict[str, Any]:
        """With the first rows of each finding; `csv` has them all."""
        return {
            "source": self.source,
            "task": self.task,
            "rows": self.rows,
            "parts": dict(self.parts),
            "findings": [asdict(found) for found in self.findings],
            "nothing_found": list(self.nothing),
            "skipped": dict(self.skipped),
            "named": list(self.named),
            "would": self.would,
        }

    def csv(self) -> str:
        """A line for each row of each finding, and for each column that would go (COLUMNS)."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, finding in self._found:
            done = {repair.row: repair for repair in finding.repairs if repair.what != "column dropped"}
            for row, sure in zip(finding.rows.tolist(), finding.sure.tolist(), strict=True):
                writer.writerow((name, finding.severity, *self._place(row), f"{sure:.4g}", *_said(done.pop(row, None))))
            for row, repair in done.items():
                writer.writerow((name, finding.severity, *self._place(row), "", *_said(repair)))
            for repair in finding.repairs:
                if repair.what == "column dropped":
                    writer.writerow((name, finding.severity, "", "", "", *_said(repair)))
        return out.getvalue()

    def _place(self, row: int) -> tuple[int, str]:
        return int(self._source_rows[row]), PARTS[self._part_of[row]]


def _said(repair: Repair | None) -> tuple[str, ...]:
    if repair is None:
        return ("", "", "", "", "")
    return repair.what, repair.why, repair.column, repair.before, repair.after


def examine(experiment: Experiment, judge: Judge | None = None) -> Examination:
    """Every check on the data of a page without ranges: those of data.quality with their keys and actions, the others
    as they are, reporting. judge: the network that checks may ask.

    Raises DataError as `prepare` does.
    """
    data, kind = divided(experiment)
    ready = repairs.ready(experiment.data, replace(data, judge=judge))
    own = experiment.data.quality
    seen = repairs.examined(own, ready, kind, also=_others(own))
    said = sorted(seen.found, key=lambda found: (ORDER.index(found.severity), -found.rows))
    told = {found.check for found in seen.found}
    return Examination(
        source=described(experiment.data.source),
        task=data.target.task,
        rows=data.table.rows,
        parts={part: len(rows) for part, rows in data.parts.items()},
        findings=tuple(said),
        nothing=tuple(name for name in dict.fromkeys(seen.checked) if name not in told),
        skipped=seen.skipped,
        named=tuple(part.type for part in repairs.in_order(own)),
        audit=seen.audit,
        _found=seen.findings,
        _source_rows=data.source_rows,
        _part_of=ready.part_of,
    )


def _others(own: tuple[Part, ...]) -> list[Part]:
    """The checks that a page does not name, with their defaults; one that is short for another is no other."""
    named = {part.type for part in own}
    named |= {tables.find("check", part.type).short_for for part in own}
    return [
        Part(name, MappingProxyType(tables.keys("check", name)().model_dump()))
        for name in tables.table("check")
        if name not in named and not tables.find("check", name).short_for
    ]


__all__ = ["COLUMNS", "Examination", "examine"]
