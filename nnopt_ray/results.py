"""What the rooms hand to each other, by value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Epoch:
    """One finished epoch. `epoch` counts from 0; `seconds` is wall-clock time of this epoch."""

    epoch: int
    metrics: Mapping[str, float]  # train_loss, val_loss, val_accuracy, ... in the user's units
    lr: float  # at the end of the epoch
    grad_norm: float  # mean over the steps, before clipping
    seconds: float
    events: tuple[str, ...] = ()  # "learning rate 0.01 → 0.005", "early stop", ...
    waited_s: float = 0.0  # of `seconds`: for rows that are read from the disk; 0 where they lie in memory
    spent: Mapping[str, float] = field(default_factory=dict)  # kind → seconds, in a scaling study (train/clock.py)

    def line(self) -> dict[str, Any]:
        """As it stands in history.jsonl; waited_s only where there was a wait, spent only where it was measured."""
        waited: dict[str, Any] = {"waited_s": round(self.waited_s, 6)} if self.waited_s else {}
        if self.spent:
            waited["spent"] = dict(self.spent)
        return {
            "epoch": self.epoch,
            **self.metrics,
            "lr": self.lr,
            "grad_norm": self.grad_norm,
            "seconds": round(self.seconds, 6),
            "events": list(self.events),
            **waited,
        }

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> Epoch:
        own = {"epoch", "lr", "grad_norm", "seconds", "events", "waited_s", "spent"}
        return cls(
            epoch=line["epoch"],
            metrics={k: float("nan") if v is None else v for k, v in line.items() if k not in own},
            lr=line["lr"],
            grad_norm=float("nan") if line["grad_norm"] is None else line["grad_norm"],
            seconds=line["seconds"],
            events=tuple(line["events"]),
            waited_s=line.get("waited_s", 0.0),
            spent=line.get("spent", {}),
        )


@dataclass(frozen=True)
class Fit:
    """One finished training. `value` is the objective at `best_epoch`, whose weights are kept."""

    history: tuple[Epoch, ...]
    best_epoch: int
    value: float
    metrics: Mapping[str, float]  # of best_epoch
    reason: str  # why it ended: "all epochs done", "early stop after epoch 12", ...
    seconds: float
    parameters: int


Part = Literal["validation", "test"]  # of the data, that predictions are measured on


@dataclass(frozen=True)
class Scores:
    """Metrics of one model on one part of the data, with intervals where they were asked for."""

    part: Part
    rows: int
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    per_class: tuple[Mapping[str, Any], ...] = ()  # class, rows, its metrics, intervals of them, a note
    confusion: tuple[tuple[int, ...], ...] = ()  # [true][predicted]
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # sentences for the user: what is not defined and why


Status = Literal["finished", "stopped", "failed", "running", "paused", "pending"]


@dataclass(frozen=True)
class TrialRow:
    """One row of trials.parquet. `value` is the objective at the best epoch; None when failed."""

    trial: str
    status: Status
    reason: str
    params: Mapping[str, Any]  # dotted path → value, what this trial chose
    epochs: int
    best_epoch: int | None
    seconds: float
    value: float | None
    metrics: Mapping[str, float]
    history: tuple[Epoch, ...] = ()  # not a column of the table
    cause: str = ""  # of a failure: not-a-number, memory, part (a fault in the page's own code), worker (lost)


@dataclass(frozen=True)
class Progress:
    """Where a search stands. Counts are of trials, those of earlier processes included."""

    total: int
    running: int = 0
    paused: int = 0
    finished: int = 0
    stopped: int = 0
    failed: int = 0
    epochs: int = 0  # trained in all
    epochs_per_s: float = 0.0  # by this process, lately
    workers: int = 0
    lanes: int = 0  # trials that the workers could train at a time
    lanes_filled: int = 0
    left_s: float | None = None  # None: not known yet
    best: TrialRow | None = None


@dataclass(frozen=True)
class Contestant:
    """What was trained again over seeds: one of the best trials, or the baseline.

    values: the objective with each seed, NaN where that training failed; the rest is over those that are
    numbers. mean: NaN when none is. sd: their sample deviation, low, high: the interval of their mean, all
    None with fewer than two.
    """

    trial: str
    values: tuple[float, ...]
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def failed(self) -> int:
        """With how many seeds it failed."""
        return sum(value != value for value in self.values)


@dataclass(frozen=True)
class Comparison:
    """The winner against another, paired by seed.

    gain: mean difference over the `pairs` seeds that both have a value for, in the objective's units and
    positive where the winner is better, whatever the objective's direction. NaN without a pair; low, high and
    p (two-sided, of no difference) are None with fewer than two.
    """

    other: str
    pairs: int
    gain: float
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def tie(self) -> bool:
        """Whether the seeds leave open which of the two is better."""
        return self.low is None or self.high is None or self.low <= 0 <= self.high


@dataclass(frozen=True)
class Confirmation:
    """The best few trials over seeds. `contestants` stand best first, the winner at the head.

    winner: empty when no training gave a value. baseline, over_baseline: None where the baseline was not trained
    over the seeds.
    """

    mode: Literal["min", "max"]
    confidence: float
    winner: str
    contestants: tuple[Contestant, ...]
    runner_up: Comparison | None = None
    baseline: Contestant | None = None
    over_baseline: Comparison | None = None
    sentences: tuple[str, ...] = ()  # what came of it, for people

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Confirmation:
        """From what `to_json` gave; JSON has no NaN and keeps it as null."""
        baseline, runner_up, over = found["baseline"], found["runner_up"], found["over_baseline"]
        return cls(
            mode=found["mode"],
            confidence=found["confidence"],
            winner=found["winner"],
            contestants=tuple(_contestant(each) for each in found["contestants"]),
            runner_up=None if runner_up is None else Comparison(**{**runner_up, "gain": _number(runner_up["gain"])}),
            baseline=None if baseline is None else _contestant(baseline),
            over_baseline=None if over is None else Comparison(**{**over, "gain": _number(over["gain"])}),
            sentences=tuple(found["sentences"]),
        )


def _contestant(found: Mapping[str, Any]) -> Contestant:
    values = tuple(_number(value) for value in found["values"])
    return Contestant(**{**found, "values": values, "mean": _number(found["mean"])})


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


@dataclass(frozen=True)
class RunResult:
    """What result.json says; see `to_json` for the names a script reads."""

    name: str
    status: Literal["finished", "failed", "interrupted"]
    metric: str
    mode: Literal["min", "max"]
    best_trial: str
    best_values: Mapping[str, Any]
    best_metrics: Mapping[str, float]
    best_epoch: int
    baseline_type: str
    baseline_metrics: Mapping[str, float]  # on the test part
    test_metrics: Mapping[str, float]
    test_intervals: Mapping[str, tuple[float, float]]
    trials: Mapping[str, int]  # total, finished, stopped, failed
    epochs_trained: int
    seconds: float
    decided: Mapping[str, str]
    cv: Mapping[str, Any] | None = None  # the cross-validation in brief, where the page asks for one
    confirm: Confirmation | None = None  # the best few over seeds, where the page asks for it
    objectives: tuple[tuple[str, str], ...] = ()  # (mode, metric), where there are several
    pareto: tuple[tuple[str, tuple[float, ...]], ...] = ()  # trials that no other beats, a value per objective
    spent: Mapping[str, float] = field(default_factory=dict)  # seconds of training (all trials), evaluation, report

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "status": self.status,
            "objective": {"metric": self.metric, "mode": self.mode},
            "best": {
                "trial": self.best_trial,
                "values": dict(self.best_values),
                "metrics": dict(self.best_metrics),
                "epoch": self.best_epoch,
            },
            "baseline": {"type": self.baseline_type, "metrics": dict(self.baseline_metrics)},
            "test": dict(self.test_metrics),
            "test_interval": {name: list(ends) for name, ends in self.test_intervals.items()},
            "trials": dict(self.trials),
            "epochs_trained": self.epochs_trained,
            "seconds": round(self.seconds, 3),
            "spent": {name: round(seconds, 3) for name, seconds in self.spent.items()},
            "decided": dict(self.decided),
            **({} if self.cv is None else {"cv": dict(self.cv)}),
            **({} if self.confirm is None else {"confirm": self.confirm.to_json()}),
            **({} if len(self.objectives) < 2 else self._tradeoffs()),
        }

    def _tradeoffs(self) -> dict[str, Any]:
        return {
            "objectives": [{"metric": metric, "mode": mode} for mode, metric in self.objectives],
            "pareto": [{"trial": trial, "values": list(values)} for trial, values in self.pareto],
        }
