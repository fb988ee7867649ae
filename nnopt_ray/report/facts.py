"""What a report is made of, by value; and the same facts read back from a run folder's open files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnopt_ray import reading
from nnopt_ray.data.types import DataSummary, Task
from nnopt_ray.errors import RunFolderError, UserError
from nnopt_ray.experiment import Experiment, Range, walk
from nnopt_ray.report.augmented import Augmented, samples
from nnopt_ray.report.course import Course, course_of, status_of
from nnopt_ray.report.standing import Standing, standing_of
from nnopt_ray.results import Confirmation, Epoch, RunResult, Scores, TrialRow
from nnopt_ray.rundir import RunDir, read_json, read_lines
from nnopt_ray.trials import read_table

PLOTTED_POINTS = 2000  # a scatter of more points is a blot and only makes the file heavy


@dataclass(frozen=True)
class Gain:
    """How much better the winner is than the baseline on the test part.

    `value`, `low` and `high` are differences in the metric's units, positive where the winner is
    better, whatever the metric's direction. The ends are None where no interval was asked for.
    """

    metric: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Points:
    """Regression: true and predicted values of the test part in the user's units; `rows` of it in all."""

    true: tuple[float, ...]
    predicted: tuple[float, ...]
    rows: int
    targets: int = 1  # of the network; these are the first one's


@dataclass(frozen=True)
class Facts:
    """Everything a report may say. What a run did not come to is empty or None and named in `missing`."""

    experiment: Experiment
    result: RunResult | None = None
    rows: tuple[TrialRow, ...] = ()  # a single run has exactly one
    history: tuple[Epoch, ...] = ()  # of the winner
    winner: Mapping[str, Scores] = field(default_factory=dict)  # "validation", "test"
    baseline: Mapping[str, Scores] = field(default_factory=dict)
    gains: Mapping[str, Gain] = field(default_factory=dict)  # by metric, without prefix
    points: Points | None = None
    summary: DataSummary | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    course: Course = field(default_factory=Course)  # of a search
    resumed: tuple[int, ...] = ()  # epochs before which the winner's training was taken up again
    checkpoints: tuple[int, ...] = ()  # epochs after which its state was written and is still there
    augmented: Augmented | None = None
    # Each JSON file of evaluation/ but scores.json, by its stem; None where it is damaged.
    evaluated: Mapping[str, Any] = field(default_factory=dict)
    standing: Standing = field(default_factory=Standing)
    missing: tuple[str, ...] = ()  # sentences

    @property
    def best(self) -> TrialRow | None:
        """The winner's row: the one the result names, else the best value so far."""
        if self.result is not None:
            named = next((row for row in self.rows if row.trial == self.result.best_trial), None)
            if named is not None:
                return named
        scored = [row for row in self.rows if row.value is not None and math.isfinite(row.value)]
        sign = 1 if self.experiment.mode == "min" else -1
        return min(scored, key=lambda row: sign * (row.value or 0.0), default=None)

    @property
    def task(self) -> Task | None:
        if self.summary is not None:
            return self.summary.task
        test = self.winner.get("test")
        if test is None:
            return None
        return "classification" if test.classes else "regression"


def usable(row: TrialRow) -> bool:
    return row.status != "failed" and row.value is not None and math.isfinite(row.value)


def incumbents(rows: Sequence[TrialRow], mode: str) -> list[tuple[str, float]]:
    """(trial, value) of each trial that was better than all before it."""
    found: list[tuple[str, float]] = []
    for row in rows:
        if usable(row) and row.value is not None:
            better = not found or (row.value < found[-1][1] if mode == "min" else row.value > found[-1][1])
            if better:
                found.append((row.trial, row.value))
    return found


def taken(experiment: Experiment, params: Mapping[str, Any]) -> list[tuple[str, str, Range, Any]]:
    """(path, branch, range, chosen value) of every range that a trial with these values met."""
    found: list[tuple[str, str, Range, Any]] = []

    def choose(path: str, branch: str, opened: Range) -> Any:
        if opened.kind != "choice":
            value = params.get(path, opened.first())
            answer = value
        else:
            labels = opened.labels()
            value = params.get(path)
            # trials.parquet keeps choices of several types as text
            answer = next((i for i, label in enumerate(labels) if label == value or str(label) == str(value)), 0)
        if path in params:
            found.append((path, branch, opened, value))
        return answer

    walk(dict(experiment.tree), choose)
    return found


def facts_from_folder(run: RunDir) -> Facts:
    """Rebuild the facts of any run, finished or cut short, from the open files of its folder.

    Only resolved.yaml must be there; for every other file that is missing or damaged the report
    says so in a sentence. Raises RunFolderError when resolved.yaml is missing or unreadable.
    """
    try:
        experiment = reading.load(run.resolved)
    except RunFolderError:
        raise
    except UserError as error:
        raise RunFolderError(f"{run.resolved} cannot be read as a page: {error}") from error
    missing: list[str] = []

    standing = standing_of(run)
    result = _optional(run.result, "", missing)
    scores = _optional(run.scores, "The winner has not been evaluated on the test part yet.", missing)
    data = run.best_data if run.best_data.is_dir() else run.data  # as the winner learned it
    summary = _optional(data / "summary.json", "There is no summary of the data.", missing)
    environment = _optional(run.environment, "There is no record of the environment.", missing)
    best = _optional(run.best_metrics, "", missing)
    told = _result(result) if result else None
    rows = trial_rows(run, experiment)
    if not rows:
        missing.append("No trial has begun.")
    facts = Facts(
        experiment=experiment,
        result=told,
        rows=rows,
        winner=_both_parts((scores or {}).get("winner")),
        baseline=_both_parts((scores or {}).get("baseline")),
        gains=_gains((scores or {}).get("gains")),
        summary=DataSummary.from_json(summary) if summary else None,
        environment=environment or {},
        parameters=(best or {}).get("parameters"),
        course=course_of(read_lines(run.journal)),
        standing=standing,
        evaluated={
            file.stem: _optional(file, "", missing)
            for file in sorted(run.evaluation.glob("*.json"))
            if file != run.scores
        },
    )
    return replace(
        facts,
        history=facts.best.history if facts.best else (),
        resumed=_taken_up(run, facts),
        checkpoints=_checkpoints(run, facts),
        points=_points(run) if facts.task == "regression" else None,
        augmented=_augmented(facts, data, missing),
        missing=tuple(missing),
    )


def _taken_up(run: RunDir, facts: Facts) -> tuple[int, ...]:
    """The epochs before which the winner's training was resumed."""
    if facts.best is None:
        return ()
    stints = sorted(stint.first for stint in facts.course.stints if stint.trial == facts.best.trial)
    return tuple(
        sorted(
            {*stints[1:], *(line["epoch"] for line in read_lines(run.trial(facts.best.trial).resumed) if line["epoch"])}
        )
    )


def _checkpoints(run: RunDir, facts: Facts) -> tuple[int, ...]:
    files = run.trial(facts.best.trial).checkpoints.glob("epoch-*.safetensors") if facts.best else ()
    names = (re.fullmatch(r"epoch-(\d+)\.safetensors", path.name) for path in files)
    return tuple(sorted(int(name[1]) for name in names if name))


def _augmented(facts: Facts, data: Path, missing: list[str]) -> Augmented | None:
    from nnopt_ray.data.store import open_dataset

    if facts.best is None or not facts.experiment.tree["data"]["augment"]:
        return None
    if facts.standing.status == "running":  # a function of the page may take any time
        return None
    try:
        return samples(facts.experiment, open_dataset(data), facts.best.params)
    except UserError as error:  # the data is not there yet, or a file or function of the page is no more
        missing.append(f"Augmented rows cannot be shown: {str(error).rstrip('.')}.")
        return None


def _optional(path: Any, sentence: str, missing: list[str]) -> Any:
    if path.is_file():
        try:
            return read_json(path)
        except RunFolderError as error:
            missing.append(f"{error}.")
            return None
    if sentence:
        missing.append(sentence)
    return None


def _number(value: Any) -> float:
    """JSON has no NaN: it is written as null."""
    return float("nan") if value is None else float(value)


def _metrics(found: Mapping[str, Any] | None) -> dict[str, float]:
    return {name: _number(value) for name, value in (found or {}).items()}


def _intervals(found: Mapping[str, Any] | None) -> dict[str, tuple[float, float]]:
    return {name: (_number(ends[0]), _number(ends[1])) for name, ends in (found or {}).items() if ends}


def _result(found: Mapping[str, Any]) -> RunResult:
    best = found["best"]
    return RunResult(
        name=found["name"],
        status=found["status"],
        metric=found["objective"]["metric"],
        mode=found["objective"]["mode"],
        best_trial=best["trial"],
        best_values=best["values"],
        best_metrics=_metrics(best["metrics"]),
        best_epoch=best["epoch"],
        baseline_type=found["baseline"]["type"],
        baseline_metrics=_metrics(found["baseline"]["metrics"]),
        test_metrics=_metrics(found["test"]),
        test_intervals=_intervals(found["test_interval"]),
        trials=found["trials"],
        epochs_trained=found["epochs_trained"],
        seconds=found["seconds"],
        spent=found.get("spent", {}),
        decided=found["decided"],
        cv=found.get("cv"),
        confirm=Confirmation.from_json(found["confirm"]) if found.get("confirm") else None,
    )


def _scores(found: Mapping[str, Any]) -> Scores:
    return Scores(
        part=found["part"],
        rows=found["rows"],
        metrics=_metrics(found["metrics"]),
        intervals=_intervals(found.get("intervals")),
        per_class=tuple(found.get("per_class", ())),
        confusion=tuple(tuple(row) for row in found.get("confusion", ())),
        classes=tuple(found.get("classes", ())),
        notes=tuple(found.get("notes", ())),
    )


def _both_parts(found: Mapping[str, Any] | None) -> dict[str, Scores]:
    return {part: _scores(scores) for part, scores in (found or {}).items() if scores}


def _gains(found: Mapping[str, Any] | None) -> dict[str, Gain]:
    return {
        metric: Gain(metric, gain["value"], gain["low"], gain["high"])
        for metric, gain in (found or {}).items()
        if gain["value"] is not None  # the metric is not defined for one of the two
    }


OVER = ("finished", "stopped", "failed")


def trial_rows(run: RunDir, experiment: Experiment) -> tuple[TrialRow, ...]:
    """A row a trial with its history: from trials.parquet, and what a run that was cut short did not write
    there from the journal or the one trial's folder. Empty when no trial has begun."""
    rows: dict[str, TrialRow] = {}
    if run.trials_table.is_file():
        rows = {row.trial: replace(row, history=_history(run, row.trial)) for row in read_table(run.trials_table)}
    told: dict[str, dict[str, Any]] = {}
    confirming: set[str] = set()
    for event in read_lines(run.journal):
        if "trial" in event and event.get("confirms"):  # no trial of the search
            confirming.add(event["trial"])
        elif "trial" in event and event["trial"] not in confirming:
            told[event["trial"]] = {**told.get(event["trial"], {}), **event}
    if not rows and not told and run.trials.is_dir():
        told = {folder.name: {} for folder in sorted(run.trials.iterdir()) if folder.is_dir()}
    for trial, event in told.items():
        if trial not in rows or rows[trial].status not in OVER:
            rows[trial] = _unfinished_row(run, trial, event, experiment)
    return tuple(rows.values())


def _history(run: RunDir, trial: str) -> tuple[Epoch, ...]:
    return tuple(Epoch.from_line(line) for line in read_lines(run.trial(trial).history))


def _unfinished_row(run: RunDir, trial: str, told: Mapping[str, Any], experiment: Experiment) -> TrialRow:
    """A trial that the table does not have yet. `told` holds all the journal says of it, the latest last."""
    history = _history(run, trial)
    over = told.get("event") == "ended"
    sign = 1 if experiment.mode == "min" else -1
    values = [(sign * epoch.metrics.get(experiment.epoch_metric, math.nan), epoch) for epoch in history]
    best = min((pair for pair in values if math.isfinite(pair[0])), key=lambda pair: pair[0], default=None)
    # A single training has no journal.
    status = status_of(told) if told else "running"
    reasons = {"paused": f"paused after {len(history)} epochs", "pending": "not begun" if not history else "waits"}
    return TrialRow(
        trial=trial,
        status=status,
        reason=told["reason"] if over else reasons.get(status, "not finished"),
        params=told.get("params", {}),
        epochs=len(history),
        best_epoch=best[1].epoch if best else None,
        seconds=sum(epoch.seconds for epoch in history),
        value=sign * best[0] if best and status != "failed" else None,
        metrics=dict(best[1].metrics) if best else {},
        history=history,
        cause=told.get("cause", "") if over else "",
    )


def _points(run: RunDir) -> Points | None:
    """An even sample of the winner's test predictions, of several targets of the first (the next time point)."""
    if not run.predictions.is_file():
        return None
    import pyarrow.parquet as pq

    names = pq.read_schema(run.predictions).names
    several = sum(name.startswith("predicted_") for name in names)
    wanted = ["true_0", "predicted_0"] if several else ["true", "predicted"]
    if not {"part", *wanted} <= set(names):
        return None
    table = pq.read_table(run.predictions, columns=wanted, filters=[("part", "=", "test")])
    true, predicted = (table[name].cast("float64").to_pylist() for name in wanted)
    return replace(thinned(list(zip(true, predicted, strict=True))), targets=several or 1)


def thinned(pairs: list[tuple[float, float]]) -> Points:
    """At most PLOTTED_POINTS of the pairs, evenly spread over their order."""
    every = max(1, math.ceil(len(pairs) / PLOTTED_POINTS))
    kept = pairs[::every]
    return Points(tuple(t for t, _ in kept), tuple(p for _, p in kept), len(pairs))
