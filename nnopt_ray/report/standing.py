"""How far a run is, and how it ended: what the head of the page says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from nnopt_ray.errors import RunFolderError
from nnopt_ray.experiment import Experiment, count
from nnopt_ray.holding import in_use
from nnopt_ray.report import words
from nnopt_ray.report.course import Course
from nnopt_ray.results import TrialRow
from nnopt_ray.rundir import RunDir, read_json

Status = Literal["finished", "running", "interrupted", "failed"]


def _now() -> datetime:
    return datetime.now().astimezone()


@dataclass(frozen=True)
class Standing:
    """folder: the run folder, empty where there is none. reason: why a run failed, one sentence. written: when."""

    status: Status = "interrupted"
    folder: str = ""
    reason: str = ""
    written: datetime = field(default_factory=_now)


def standing_of(run: RunDir) -> Standing:
    """From the run folder alone. A run without a result and without a process that holds it was interrupted."""
    folder = run.place
    if run.result.is_file():
        return Standing("finished", folder)
    try:
        told = read_json(run.ended) if run.ended.is_file() else {}
    except RunFolderError:
        told = {}
    if told.get("status") == "failed":
        return Standing("failed", folder, str(told.get("reason", "")))
    if not told and in_use(run):
        return Standing("running", folder)
    return Standing("interrupted", folder)


def sentence(standing: Standing, experiment: Experiment, rows: Sequence[TrialRow], course: Course) -> str:
    """What became of a run that has no result."""
    done = progress(experiment, rows, course)
    if standing.status == "running":
        return f"The run is going on: {done}. All below is of that moment."
    resume = f" `nnopt resume {standing.folder}` goes on from there." if standing.folder else ""
    if standing.status == "failed":
        reason = words.capital(standing.reason.rstrip(".")) or "The run failed"
        return f"{reason}. Before that: {done}.{'' if 'nnopt resume' in reason else resume}"
    return f"The run was interrupted: {done}.{resume}"


def progress(experiment: Experiment, rows: Sequence[TrialRow], course: Course) -> str:
    """How much is done, in half a sentence."""
    if not rows:
        return "no trial has begun"
    if not experiment.is_search:
        row, planned = rows[0], words.plural(experiment.train.epochs, "epoch")
        return f"{row.epochs} of at most {planned}, in {words.duration(row.seconds)} of training"
    counts = {status: sum(row.status == status for row in rows) for status in ("finished", "stopped", "failed")}
    over, total = sum(counts.values()), _total(experiment, len(rows))
    said = f"{over:,} of {words.plural(total, 'trial')} are over" if total else f"{words.plural(over, 'trial')} over"
    failed = f" ({counts['failed']} failed)" if counts["failed"] else ""
    work = sum(row.status == "running" for row in rows)
    under = f", {work} under way" if work else ""
    epochs = sum(row.epochs for row in rows)
    took = f" in {words.duration(course.seconds)}" if course.seconds else ""
    return f"{said}{failed}{under}; {words.plural(epochs, 'epoch')} trained{took}"


def _total(experiment: Experiment, begun: int) -> int:
    """Trials that the search is for; 0 where nobody can say."""
    told = experiment.search.trials
    if isinstance(told, tuple):
        return len(told)
    if told is None:
        told = count(experiment.tree) if experiment.search.method.type == "grid" else None
    return 0 if told is None else max(told, begun)
