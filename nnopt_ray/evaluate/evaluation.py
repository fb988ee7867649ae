"""What an evaluation comes to, by value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from nnopt_ray.data.types import Task
from nnopt_ray.evaluate.decision import Decision
from nnopt_ray.evaluate.intervals import Gain
from nnopt_ray.results import Part, Scores


@dataclass(frozen=True)
class Predictions:
    """What the winner said about one part. outputs: as `predict` gives them.

    target: int64 [rows] class indices or [rows, length] tokens, or float64 [rows, outputs] in the user's units.
    """

    source_rows: np.ndarray
    target: np.ndarray
    outputs: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """Winner and baseline measured on the same rows.

    `gains` are on the test part, a metric each, positive where the winner is better. `metric` is the
    objective's, without `val_`. `baseline_type` tells the kind too: "baseline (linear)". `decision`: of classes, how
    the winner's outputs become probabilities and a class. `found`: file of evaluation/ → what stands in it.
    """

    task: Task
    metric: str
    mode: Literal["min", "max"]
    confidence: float
    resamples: int
    winner: Mapping[Part, Scores]
    baseline: Mapping[Part, Scores]
    baseline_type: str
    gains: Mapping[str, Gain]
    predictions: Mapping[Part, Predictions]
    decision: Decision = field(default_factory=Decision)
    found: Mapping[str, Any] = field(default_factory=dict)

    @property
    def winner_test(self) -> Scores:
        return self.winner["test"]

    @property
    def baseline_test(self) -> Scores:
        return self.baseline["test"]

    @property
    def gain(self) -> Gain:
        """On the objective's metric."""
        return self.gains[self.metric]
