"""What the diagnosis found: the case that it judges, the section that tells it, what to try next.

A run of now has its findings in evaluation/diagnosis.json. Of one that has none, or a damaged one, the rules judge what
its folder still tells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nnopt_ray import rundir
from nnopt_ray.errors import RunFolderError
from nnopt_ray.evaluate.diagnose import diagnose, in_words
from nnopt_ray.evaluate.diagnosis import Case
from nnopt_ray.evaluate.measured import Measured
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Advice, Block, Cell, Fold, Head, Section, Table, Text, Tone
from nnopt_ray.report.course import Course
from nnopt_ray.report.facts import Facts, taken
from nnopt_ray.rundir import RunDir

PART = "diagnosis"
MOST = 5  # more advice than this is read by nobody
TONES: dict[str, Tone] = {"high": "bad", "middle": "", "low": "muted"}


@dataclass(frozen=True)
class Finding:
    """One finding as it stands in the file; `page` is the line to change, with the section where it stands."""

    name: str
    severity: str
    title: str
    sentence: str
    page: str
    follows: str


def judge(run: RunDir, facts: Facts, measured: Measured | None) -> Facts:
    """Diagnose a finished run, write evaluation/diagnosis.json → the facts with what was found."""
    case = case_of(facts, measured)
    told = rundir.finite(diagnose(case).to_json(case))
    rundir.write_json(run.evaluated(PART), told)
    return replace(facts, evaluated={**facts.evaluated, PART: told})


def case_of(facts: Facts, measured: Measured | None = None) -> Case:
    """What the rules judge."""
    result, best = facts.result, facts.best
    params = result.best_values if result is not None else best.params if best is not None else {}
    return Case(
        experiment=facts.experiment,
        rows=facts.rows,
        best=best,
        history=facts.history,
        params=params,
        winner=facts.winner,
        baseline=facts.baseline,
        gains={name: (gain.value, gain.low, gain.high) for name, gain in facts.gains.items()},
        summary=facts.summary,
        confirm=result.confirm if result is not None else None,
        taken=tuple(taken(facts.experiment, params)),
        busy=busy(facts.course),
        workers=len({stint.worker for stint in facts.course.stints}),
        seconds=facts.course.seconds,
        calibration=facts.evaluated.get("calibration"),
        measured=measured,
    )


def busy(course: Course) -> float | None:
    """The share of the workers' time in which at least one trial was in training on them; None without a course."""
    workers = {stint.worker for stint in course.stints}
    if not workers or not course.seconds > 0:
        return None
    total = 0.0
    for worker in workers:
        until = 0.0
        for stint in sorted((s for s in course.stints if s.worker == worker), key=lambda s: s.begin_s):
            total += max(0.0, stint.end_s - max(until, stint.begin_s))
            until = max(until, stint.end_s)
    return total / (len(workers) * course.seconds)


def findings(facts: Facts) -> tuple[Finding, ...]:
    """The worst first."""
    return read(_told(facts))


def _told(facts: Facts) -> Mapping[str, Any]:
    """What evaluation/diagnosis.json holds, or would hold of what is known where it is missing or damaged."""
    told = facts.evaluated.get(PART)
    if isinstance(told, Mapping) and isinstance(told.get("found"), list):
        return told
    case = case_of(facts)
    return diagnose(case).to_json(case)


def read(told: Any) -> tuple[Finding, ...]:
    """The findings of what evaluation/diagnosis.json holds; what is no finding there is left out."""
    found = told.get("found") if isinstance(told, Mapping) else None
    if not isinstance(found, list):
        return ()
    names = ("name", "severity", "title", "sentence", "page", "follows")
    whole = [e for e in found if isinstance(e, Mapping) and all(isinstance(e.get(name), str) for name in names)]
    return tuple(Finding(*(each[name] for name in names)) for each in whole if each["severity"] in TONES)


def of_folder(run: RunDir) -> tuple[Finding, ...]:
    """The findings of a run folder's evaluation/diagnosis.json; none where it is missing, damaged or of a search that
    goes on."""
    try:
        if not run.result.is_file():
            return ()
        return read(rundir.read_json(run.evaluated(PART)))
    except RunFolderError:
        return ()


def lines(found: Sequence[Finding]) -> list[str]:
    """For a terminal: what to do and why, and below it the line of the page."""
    said = []
    for each in found:
        if each.follows:
            said.append(f"{each.severity:<7} {each.sentence} (Goes with: {in_words(each.follows)}.)")
            continue
        said.append(f"{each.severity:<7} {each.title}. {each.sentence}")
        if each.page:
            said.append(f"{'':<7} on the page: {each.page}")
    return said


def advice(facts: Facts) -> tuple[Advice, ...]:
    """What to try next, the most important first."""
    if facts.result is None:
        return (_unfinished(facts),)
    return tuple(Advice(each.title, each.sentence, each.page) for each in findings(facts) if not each.follows)[:MOST]


def _unfinished(facts: Facts) -> Advice:
    standing = facts.standing
    if standing.status == "running":
        return Advice("Let it finish", "The run is going on; what is wrong with it is said when it has ended.")
    again = f"nnopt resume {standing.folder or 'RUN   # RUN: the folder of this file'}"
    if standing.status == "failed":
        return Advice(
            "See to the cause, then go on", standing.reason or "The run failed. What was done is kept.", again
        )
    return Advice("Let it finish", "The run was interrupted. What was done is kept.", again)


def diagnosed(facts: Facts) -> Section | None:
    if facts.result is None:
        return None
    told = _told(facts)
    found = read(told)
    asked = told.get("looked_for")
    names = {each.name for each in found}
    nothing = [in_words(str(name)) for name in asked if name not in names] if isinstance(asked, list) else []
    blocks: list[Block] = []
    if found:
        blocks.append(_table(found))
    if nothing:
        blocks.append(Text(f"{'Nothing else' if found else 'Nothing'} was found; looked for: {', '.join(nothing)}."))
    measured = told.get("measured")
    notes = measured.get("notes") if isinstance(measured, Mapping) else None
    blocks += [Text(note, "muted") for note in notes or () if isinstance(note, str)] if isinstance(notes, list) else []
    layers = _layers(measured)
    if layers is not None:
        blocks.append(Fold("The layers of the network in numbers", (layers,)))
    return Section("What is wrong, and what to change", tuple(blocks)) if blocks else None


def _table(found: Sequence[Finding]) -> Table:
    rows = tuple(
        (
            Cell(each.severity, list(TONES).index(each.severity), TONES[each.severity]),
            Cell(in_words(each.name)),
            Cell(each.sentence + (f" It goes with: {in_words(each.follows)}." if each.follows else "")),
            Cell(each.page or "–", tone="" if each.page else "muted"),
        )
        for each in found
    )
    heads = (Head("how bad"), Head("what"), Head("what the numbers say"), Head("what to change on the page"))
    caption = (
        "High: the result cannot be trusted, or little was learned. Middle: a better one is likely to be had. Low: "
        "good to know. Thresholds and all numbers are in evaluation/diagnosis.json."
    )
    return Table("Findings", caption, heads, rows)


def _layers(measured: Any) -> Table | None:
    """The layers as they were measured, with the dead units behind each; None where they were not."""
    inside = measured.get("inside") if isinstance(measured, Mapping) else None
    if not isinstance(inside, Mapping) or not isinstance(layers := inside.get("layers"), list) or not layers:
        return None
    idle: dict[str, str] = {}
    for each in inside.get("activations") or ():
        if isinstance(each, Mapping) and each.get("units"):
            share = max(each.get("dead") or 0, each.get("saturated") or 0)
            idle[str(each.get("after"))] = f"{share} of {each['units']} ({each.get('function')})"
    rows = []
    for layer in layers:
        if not isinstance(layer, Mapping):
            continue
        size, slope = _value(layer, "weight"), _value(layer, "gradient")
        name = str(layer.get("name"))
        rows.append(
            (
                Cell(name),
                Cell(str(layer.get("kind")), tone="muted"),
                Cell(words.number(_value(layer, "rms"))),
                Cell(words.number(size)),
                Cell(f"{slope / size:.2g}" if size > 0 and math.isfinite(slope) else "–"),
                Cell(idle.get(name, "–")),
            )
        )
    caption = (
        f"{words.plural(len(rows), 'layer')}, as {inside.get('rows')} training rows went through the winner. Dead "
        "units give 0, or an end of the function, for each of them."
    )
    heads = (
        Head("layer"),
        Head("kind"),
        Head("size of outputs", number=True, hint="root mean square"),
        Head("norm of weights", number=True),
        Head("gradient / weights", number=True, hint="norms: of the mean loss's gradient, of the weights"),
        Head("dead units behind it", number=True),
    )
    return Table("", caption, heads, tuple(rows))


def _value(found: Any, name: str) -> float:
    value = found.get(name)
    return float(value) if isinstance(value, (int, float)) else math.nan


__all__ = ["Finding", "advice", "case_of", "diagnosed", "findings", "judge", "lines", "of_folder", "read"]
