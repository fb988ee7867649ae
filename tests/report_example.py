"""Facts of runs that never were: drawn from a seed, with the shapes that real runs have.

A trial's curve follows from how far its learning rate and dropout lie from a hidden optimum; the test
part is a simulated set of predictions, from which every score is computed by scikit-learn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import metrics as sk

from nnopt_ray import machine, reading, rundir
from nnopt_ray.data.types import Column, DataSummary, Found
from nnopt_ray.experiment import Experiment, walk
from nnopt_ray.report.course import Course, course_of
from nnopt_ray.report.facts import Facts, Gain, Points
from nnopt_ray.results import Epoch, RunResult, Scores, TrialRow
from nnopt_ray.rundir import RunDir
from nnopt_ray.search.confirm import contestants, verdict
from nnopt_ray.trials import write_table

OPTIMIZERS = {
    "choice": [
        {"type": "adam", "lr": {"log": [1e-4, 1e-1]}},
        {"type": "sgd", "lr": {"log": [1e-4, 1e-1]}, "momentum": {"uniform": [0.5, 0.99]}},
        {"type": "rmsprop", "lr": {"log": [1e-4, 1e-1]}},
    ]
}


def page(name: str = "digits-search", dataset: str = "digits", search: bool = True, **change: Any) -> Experiment:
    train: dict[str, Any] = {"epochs": 30, "early_stopping": {"patience": 6, "restore_best_weights": True}}
    model: dict[str, Any] = {"type": "mlp", "widths": [64, 32]}
    tree: dict[str, Any] = {"name": name, "data": {"source": {"type": "sklearn", "name": dataset}}}
    if search:
        train |= {"batch_size": {"choice": [16, 32, 64, 128, 256, 512]}, "optimizer": OPTIMIZERS}
        model["dropout"] = {"uniform": [0.1, 0.5]}
        tree["search"] = {"method": "bayesian", "trials": 64, "scheduler": {"type": "asha", "grace_period": 3}}
    return reading.from_tree(tree | {"model": model, "train": train} | change)


def draw(experiment: Experiment, random: np.random.Generator) -> dict[str, Any]:
    """One point of the space: path → value."""
    params: dict[str, Any] = {}

    def choose(path: str, branch: str, opened: Any) -> Any:
        if opened.kind == "choice":
            at = int(random.integers(len(opened.values)))
            params[path] = opened.labels()[at]
            return at
        low, high = opened.values[:2]
        value = (
            float(np.exp(random.uniform(np.log(low), np.log(high))))
            if "log" in opened.kind
            else float(random.uniform(low, high))
        )
        params[path] = value
        return value

    walk(dict(experiment.tree), choose)
    return params


def curve(quality: float, epochs: int, random: np.random.Generator, classes: bool = True) -> tuple[Epoch, ...]:
    """Epochs of a training; quality 0 (hopeless) to 1 (as good as it gets)."""
    floor, tau, lr = 0.06 + 0.9 * (1 - quality) ** 2, 2.5 + 8 * (1 - quality), 0.01
    history = []
    for epoch in range(epochs):
        train = 0.8 * floor + 2.2 * math.exp(-epoch / tau) + 0.01 * random.random()
        val = floor + 2.2 * math.exp(-epoch / tau) + 0.02 * random.random() + 0.003 * max(0, epoch - 18)
        events: tuple[str, ...] = ()
        if epoch in (14, 22):
            events = (f"learning rate {lr:g} → {lr / 2:g}",)
            lr /= 2
        metrics = {"train_loss": train, "val_loss": val}
        metrics |= {"val_accuracy": max(0.1, 1 - 0.4 * val)} if classes else {"val_mae": 40 + 20 * val}
        history.append(Epoch(epoch, metrics, lr, 2.0 * math.exp(-epoch / 8) + 0.1 * random.random(), 0.05, events))
    return tuple(history)


def trial(number: int, params: dict[str, Any], random: np.random.Generator, classes: bool = True) -> TrialRow:
    name = f"{number:04d}"
    if random.random() < 0.05:
        reason = "NotANumber: the training loss became NaN in epoch 2 (learning rate 0.0912)."
        return TrialRow(name, "failed", reason, params, 2, None, 0.1, None, {}, curve(0, 2, random, classes))
    far = abs(math.log10(params.get("train.optimizer.lr", 0.004) / 0.004)) / 2
    quality = max(0.0, 1 - far - abs(params.get("model.dropout", 0.2) - 0.2) - 0.1 * random.random())
    stopped = bool(params) and quality < 0.7
    epochs = int(random.choice([3, 9])) if stopped else 30
    history = curve(quality, epochs, random, classes)
    best = min(history, key=lambda epoch: epoch.metrics["val_loss"])
    reason = f"stopped by asha at epoch {epochs}" if stopped else "all epochs done"
    status: Any = "stopped" if stopped else "finished"
    value = best.metrics["val_loss"]
    return TrialRow(name, status, reason, params, epochs, best.epoch, 0.05 * epochs, value, best.metrics, history)


def measure(table: np.ndarray) -> dict[str, float]:
    """From a confusion matrix [true][predicted]."""
    right, true, predicted = table.diagonal(), table.sum(axis=1), table.sum(axis=0)
    accuracy = float(right.sum() / table.sum())
    return {
        "loss": 0.03 + 2.5 * (1 - accuracy),
        "accuracy": accuracy,
        "balanced_accuracy": float(np.mean(right / np.maximum(true, 1))),
        "f1": float(np.mean(2 * right / np.maximum(true + predicted, 1))),
    }


def table_of(true: np.ndarray, said: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(true * classes + said, minlength=classes**2).reshape(classes, classes)


def resampled(rows: int, random: np.random.Generator, times: int = 100) -> np.ndarray:
    return random.integers(0, rows, size=(times, rows))


def middle(values: list[float]) -> tuple[float, float]:
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))


def scores(part: Any, true: np.ndarray, said: np.ndarray, names: tuple[str, ...], draws: np.ndarray) -> Scores:
    size = len(names)
    table = table_of(true, said, size)
    drawn = [measure(table_of(true[i], said[i], size)) for i in draws]
    each = sk.precision_recall_fscore_support(true, said, labels=range(size), zero_division=0)
    return Scores(
        part=part,
        rows=len(true),
        metrics=measure(table),
        intervals={m: middle([one[m] for one in drawn]) for m in measure(table)} if part == "test" else {},
        per_class=tuple(
            {"class": name, "precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
            for name, p, r, f, n in zip(names, *each, strict=True)
        ),
        confusion=tuple(tuple(int(cell) for cell in row) for row in table),
        classes=names,
    )


def gains_of(true: np.ndarray, ours: np.ndarray, theirs: np.ndarray, size: int, draws: np.ndarray) -> dict[str, Gain]:
    def differences(i: np.ndarray) -> dict[str, float]:
        one, other = measure(table_of(true[i], ours[i], size)), measure(table_of(true[i], theirs[i], size))
        return {m: (other[m] - one[m]) if m == "loss" else (one[m] - other[m]) for m in one}

    found, drawn = differences(np.arange(len(true))), [differences(i) for i in draws]
    return {m: Gain(m, value, *middle([one[m] for one in drawn])) for m, value in found.items()}


def classification(
    seed: int = 1, experiment: Experiment | None = None, classes: tuple[str, ...] | None = None, error: float = 0.03,
    baseline_error: float = 0.08,
) -> Facts:  # fmt: skip
    """A search on ten classes (or a single training, when the page opens nothing)."""
    random = np.random.default_rng(seed)
    experiment = experiment or page()
    classes = classes or tuple(str(digit) for digit in range(10))
    count = experiment.search.trials if experiment.is_search and isinstance(experiment.search.trials, int) else 1
    rows = tuple(trial(number, draw(experiment, random), random) for number in range(1, count + 1))
    parts = {"validation": 270, "test": 360}

    def wrong(true: np.ndarray, rate: float) -> np.ndarray:
        return np.where(random.random(len(true)) < rate, (true + random.integers(1, 4, len(true))) % len(classes), true)

    winner, baseline = {}, {}
    gains: dict[str, Gain] = {}
    for part, size in parts.items():
        true, draws = np.arange(size) % len(classes), resampled(size, random)
        ours, theirs = wrong(true, error), wrong(true, baseline_error)
        winner[part] = scores(part, true, ours, classes, draws)
        baseline[part] = scores(part, true, theirs, classes, draws)
        if part == "test":
            gains = gains_of(true, ours, theirs, len(classes), draws)
    summary = DataSummary(
        source="sklearn digits",
        rows=1797,
        task="classification",
        target="target",
        columns=(Column("image", "image", 0, 1797, "1 × 8 × 8"), Column("target", "target", 0, len(classes))),
        parts={"train": 1167, **parts},
        class_counts={
            part: dict.fromkeys(classes, size // len(classes)) for part, size in {"train": 1167, **parts}.items()
        },
        notes=("3 rows have no target and were left out.",),
    )
    found = finish(experiment, rows, summary, winner, baseline, gains, None)
    return confirmed(found, np.random.default_rng(seed)) if experiment.is_search else found


def confirmed(facts: Facts, random: np.random.Generator) -> Facts:
    """The three best over three seeds."""
    best = contestants(facts.rows, facts.experiment.mode, 3)
    values = {row.trial: list((row.value or 0.0) * random.normal(1.05, 0.04, 3)) for row in best}
    assert facts.result is not None
    found = verdict(values, [facts.result.baseline_metrics["loss"]] * 3, facts.experiment.mode, 0.95, "val_loss")
    return replace(facts, result=replace(facts.result, confirm=found))


def regression(seed: int = 2) -> Facts:
    random = np.random.default_rng(seed)
    experiment = page("diabetes-mlp", "diabetes", search=False)
    rows = (trial(1, {}, random, classes=False),)
    true = random.normal(150, 75, 120)
    said, simple = true * 0.6 + 60 + random.normal(0, 40, 120), np.full(120, 150.0)

    def of(part: Any, guess: np.ndarray) -> Scores:
        def all_of(i: np.ndarray) -> dict[str, float]:
            return {
                "loss": float(np.mean((true[i] - guess[i]) ** 2)) / 75**2,
                "mae": float(sk.mean_absolute_error(true[i], guess[i])),
                "rmse": float(sk.root_mean_squared_error(true[i], guess[i])),
                "r2": float(sk.r2_score(true[i], guess[i])),
            }

        draws = [all_of(i) for i in resampled(120, random)]
        found = all_of(np.arange(120))
        ends = {m: middle([one[m] for one in draws]) for m in found}
        return Scores(part, 120, found, ends)

    winner, baseline = {"test": of("test", said)}, {"test": of("test", simple)}
    names = ("age", "sex", "bmi", "bp", "s1", "s2")
    summary = DataSummary(
        source="sklearn diabetes",
        rows=442,
        task="regression",
        target="progression",
        columns=(
            *(Column(name, "numeric", 0, 58) for name in names),
            Column("id", "dropped", 0, 442, "all values differ: an id"),
        ),
        parts={"train": 256, "validation": 66, "test": 120},
    )
    loss = baseline["test"].metrics["loss"] - winner["test"].metrics["loss"]
    points = Points(tuple(true.tolist()), tuple(said.tolist()), 120)
    return finish(
        experiment, rows, summary, winner, baseline, {"loss": Gain("loss", loss, loss - 0.1, loss + 0.1)}, points
    )


def finish(
    experiment: Experiment, rows: tuple[TrialRow, ...], summary: DataSummary, winner: dict[str, Scores],
    baseline: dict[str, Scores], gains: dict[str, Gain], points: Points | None,
) -> Facts:  # fmt: skip
    best = min((row for row in rows if row.value is not None), key=lambda row: row.value or 0.0)
    result = RunResult(
        name=experiment.name,
        status="finished",
        metric=experiment.metric,
        mode=experiment.mode,
        best_trial=best.trial,
        best_values=best.params,
        best_metrics=best.metrics,
        best_epoch=best.best_epoch or 0,
        baseline_type="baseline (linear)",
        baseline_metrics=baseline["test"].metrics,
        test_metrics=winner["test"].metrics,
        test_intervals=winner["test"].intervals,
        trials={"total": len(rows)}
        | {s: sum(row.status == s for row in rows) for s in ("finished", "stopped", "failed")},
        epochs_trained=sum(row.epochs for row in rows),
        seconds=23.4,
        spent={"training": 23.4, "evaluation": 0.8},
        decided={"device": "cpu, as resources.gpus_per_worker is 0", "threads": "1, from resources.cpus_per_worker"},
    )
    return Facts(
        experiment=experiment,
        result=result,
        rows=rows,
        history=best.history,
        winner=winner,
        baseline=baseline,
        gains=gains,
        points=points,
        summary=summary,
        environment=machine.environment() | {"seed": experiment.seed},
        parameters=6634,
        course=course_of(journal(rows)) if experiment.is_search else Course(),
    )


def journal(rows: Iterable[TrialRow]) -> list[dict[str, Any]]:
    """The events of a search whose trials were trained one after another, on two workers in turn."""
    events: list[dict[str, Any]] = []

    def event(kind: str, row: TrialRow, **more: Any) -> None:
        events.append({"t": 1e9 + 0.1 * len(events), "event": kind, "trial": row.trial, **more})

    for number, row in enumerate(rows):
        event("asked", row, params=row.params)
        event("started", row, worker=number % 2, epoch=0)
        for epoch in row.history:
            event("result", row, epoch=epoch.epoch)
        if row.status != "running":
            event("ended", row, status=row.status, reason=row.reason, value=row.value)
    return events


def folder(facts: Facts, root: Path) -> RunDir:
    """The open files of a run folder that tell these facts, as pipeline.py and evaluate.py write them."""
    run = RunDir(root)
    rundir.write_text(run.resolved, reading.dump(facts.experiment))
    rundir.write_json(run.environment, dict(facts.environment))
    if facts.summary:
        rundir.write_json(run.data / "summary.json", asdict(facts.summary))
    for row in facts.rows:
        lines = "".join(json.dumps(rundir.finite(epoch.line())) + "\n" for epoch in row.history)
        rundir.write_text(run.trial(row.trial).history, lines)
    events = journal(facts.rows) if facts.experiment.is_search else []
    rundir.write_text(run.journal, "".join(json.dumps(event) + "\n" for event in events))
    rundir.write(run.trials_table, lambda path: write_table(path, facts.rows))
    scores_json = {
        "winner": {part: asdict(found) for part, found in facts.winner.items()},
        "baseline": {part: asdict(found) for part, found in facts.baseline.items()},
        "gains": {metric: asdict(found) for metric, found in facts.gains.items()},
    }
    rundir.write_json(run.scores, scores_json)
    if facts.points:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {"part": ["test"] * facts.points.rows, "true": facts.points.true, "predicted": facts.points.predicted}
        rundir.write(run.predictions, lambda path: pq.write_table(pa.table(columns), path))
    rundir.write_json(run.best_metrics, {"parameters": facts.parameters})
    if facts.result:
        rundir.write_json(run.result, facts.result.to_json())
    return run


HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    "<!--<script>",
    "{{ 7 * 7 }}{% for x in y %}",
    "a' onmouseover='alert(4)' x=\"",
    '<a href="javascript:alert(5)">x</a>',
    "%{customdata}<b>\u2028</b>",
    "\u202eשלום \u2067עולם\u2069 مرحبا 👩‍👩‍👧 🤖 \u0000\ufffd",
    "x" * 300 + "|`*_[a](b)",
)


def hostile() -> Facts:
    """Bad text wherever a user's text can stand."""
    every = " ".join(HOSTILE)
    about = {"purpose": every, "owner": HOSTILE[0], "limits": HOSTILE[8], "licence": HOSTILE[9]}
    experiment = page(name=every, about=about)
    found = classification(experiment=experiment, classes=HOSTILE)
    rows = tuple(
        replace(row, trial=f"{row.trial}{HOSTILE[i % 8]}", reason=every, params={**row.params, every: HOSTILE[i % 8]})
        for i, row in enumerate(found.rows)
    )
    assert found.result is not None
    assert found.summary is not None
    best = rows[[row.trial for row in found.rows].index(found.result.best_trial)]
    summary = replace(
        found.summary,
        source=every,
        target=every,
        notes=HOSTILE,
        checked=(every,),
        quality=(Found(every, every, "high", every, 1, ((3, 1.0),), HOSTILE, {every: 1}, {every: 2}, every),),
        columns=tuple(Column(text, "numeric", 1, 2, text) for text in HOSTILE),
    )
    assert found.result.confirm is not None
    confirm = replace(
        found.result.confirm,
        winner=every,
        contestants=tuple(replace(each, trial=every) for each in found.result.confirm.contestants),
        runner_up=replace(found.result.confirm.runner_up, other=every) if found.result.confirm.runner_up else None,
    )
    result = replace(
        found.result,
        confirm=confirm,
        name=every,
        best_trial=best.trial,
        best_values=best.params,
        baseline_type=every,
        decided={every: every},
    )
    history = tuple(replace(epoch, events=(every,)) for epoch in found.history)
    names = ("name", "title", "sentence", "page", "follows")
    diagnosis = {"found": [dict.fromkeys(names, text) | {"severity": "high", "evidence": {}} for text in HOSTILE]}
    return replace(
        found, rows=rows, summary=summary, result=result, history=history, environment={every: {every: [every]}},
        missing=(every,), evaluated={"diagnosis": diagnosis},
    )  # fmt: skip
