"""What a diagnosis is made of: the case, all that is known of a run, and the findings; and numbers in its words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from nnopt_ray.data.types import LANGUAGE, DataSummary, Task
from nnopt_ray.evaluate.measured import Fitted, Measured
from nnopt_ray.evaluate.page_line import Line, proposed
from nnopt_ray.experiment import Experiment, Range
from nnopt_ray.results import Confirmation, Epoch, Scores, TrialRow

Severity = Literal["high", "middle", "low"]
SEVERITIES: tuple[Severity, ...] = ("high", "middle", "low")


@dataclass(frozen=True)
class Diagnosis:
    """One thing that is wrong with a run.

    title: what to do about it, in a few words. sentence: what is wrong, with its numbers. evidence: JSON, the numbers
    and what they are held against. severity: high: the result cannot be trusted, or next to nothing was learned;
    middle: a better result is likely to be had; low: good to know. line: the change of the page, None where none helps.
    name, follows: put in by `diagnose.judged`: the rule, and another rule's finding that is the likely cause.
    """

    title: str
    sentence: str
    severity: Severity
    evidence: Mapping[str, Any]
    line: Line | None = None
    name: str = ""
    follows: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "severity": self.severity,
            "title": self.title,
            "sentence": self.sentence,
            "evidence": dict(self.evidence),
            "page": self.line.text if self.line is not None else "",
            "follows": self.follows,
        }


Found = tuple[Diagnosis, ...] | None  # of a rule: None where this run cannot have it, or does not say


@dataclass(frozen=True)
class Case:
    """All that is known of a run; what a run did not come to is empty or None.

    rows: a trial each. history: of the winner. gains: metric without prefix → (difference, low, high), positive where
    the winner is better than the baseline. taken: (path, branch, range, value) of the ranges that the winner met.
    busy: share of the workers' time in which they trained, of a search on several; seconds: what the search took.
    """

    experiment: Experiment
    rows: tuple[TrialRow, ...] = ()
    best: TrialRow | None = None
    history: tuple[Epoch, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    winner: Mapping[str, Scores] = field(default_factory=dict)
    baseline: Mapping[str, Scores] = field(default_factory=dict)
    gains: Mapping[str, tuple[float, float | None, float | None]] = field(default_factory=dict)
    summary: DataSummary | None = None
    confirm: Confirmation | None = None
    taken: tuple[tuple[str, str, Range, Any], ...] = ()
    busy: float | None = None
    workers: int = 0
    seconds: float = 0.0
    calibration: Mapping[str, Any] | None = None
    measured: Measured | None = None

    @property
    def task(self) -> Task | None:
        return self.summary.task if self.summary is not None else None

    @property
    def metric(self) -> str:
        """The objective's, without prefix."""
        return bare(self.experiment.metric)

    @cached_property
    def train_losses(self) -> tuple[float, ...]:
        return self.curve("train_loss")

    def curve(self, name: str) -> tuple[float, ...]:
        """A metric of each epoch, NaN where it is not there."""
        return tuple(epoch.metrics.get(name, math.nan) for epoch in self.history)

    @property
    def epochs(self) -> int:
        """As many as the winner might have trained."""
        return int(self.params.get("train.epochs", self.experiment.train.epochs))

    @property
    def stopped_early(self) -> bool:
        return self.best is not None and self.best.reason.startswith("early stop")

    @property
    def directly(self) -> bool:
        """Whether the winner has a way of its own to its weights, without epochs."""
        return self.best is not None and self.best.reason == "fitted directly"

    def value(self, path: str) -> Any:
        """What the winner had at a path of the page; None where the page has no such key."""
        node: Any = self.closed
        for key in path.split("."):
            node = node.get(key) if isinstance(node, Mapping) else None
        return node

    @cached_property
    def closed(self) -> Mapping[str, Any]:
        """The page's tree with the winner's values."""
        from nnopt_ray import reading
        from nnopt_ray.errors import UserError
        from nnopt_ray.experiment import plain

        try:
            page = reading.close(self.experiment, dict(self.params)) if self.params else self.experiment
        except UserError:  # a run of another version, whose values are none of this page
            page = self.experiment
        found: Mapping[str, Any] = plain(page.tree)
        return found

    def opened(self, path: str) -> tuple[str, Range, Any] | None:
        """(branch, range, the winner's value) of a searched path."""
        return next(((branch, opened, value) for at, branch, opened, value in self.taken if at == path), None)

    def line(self, path: str, *values: Any) -> Line | None:
        """The first of these values with which the page is valid, as its line; None for a path that is searched."""
        if self.opened(path) is not None:
            return None
        return proposed(self.experiment, self.params, path, *values)

    def fit(self, name: str) -> Fitted | None:
        """winner_train, winner_validation, winner_test or baseline_train, where it was measured and is a number."""
        found = self.measured.fits.get(name) if self.measured is not None else None
        return found if found is not None and math.isfinite(found.skill) else None

    def told(self, fitted: Fitted) -> str:
        """ "accuracy 93 %", "R² 0.71", "token accuracy 31 %"."""
        if self.task == "regression":
            return f"R² {number(fitted.score)}"
        return f"{'token accuracy' if self.task in LANGUAGE else 'accuracy'} {percent(fitted.score)}"


# --- numbers in words -------------------------------------------------------------------------------


def bare(metric: str) -> str:
    """val_loss → loss."""
    return metric.removeprefix("val_").removeprefix("train_")


def readable(metric: str) -> str:
    """val_roc_auc → "validation roc auc"."""
    return metric.replace("val_", "validation ").replace("train_", "training ").replace("_", " ")


def percent(share: float) -> str:
    """0.934 → "93 %", 0.004 → "0.4 %"; never rounded to all or nothing where it is neither."""
    if not math.isfinite(share):
        return "not defined"
    size = 100 * abs(share)
    decimals = 0 if 10 <= size <= 90 or size in (0, 100) or size > 110 else 1
    while decimals < 4 and round(size, decimals) in (0, 100) and size not in (0, 100):
        decimals += 1
    return f"{f'{100 * share:,.{decimals}f}'.removesuffix('.0')} %"


def number(value: float) -> str:
    """Three significant digits, no needless exponent."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        shown = np.format_float_positional(value, precision=3, fractional=False, trim="-")
        return f"{float(shown):,.0f}" if abs(value) >= 1000 else shown
    return f"{value:.3g}"


def plural(count: int, one: str, many: str = "") -> str:
    """1 trial, 3 trials."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def tidy(value: float) -> float:
    """Two significant digits, for a value on the page."""
    return float(f"{value:.2g}")
