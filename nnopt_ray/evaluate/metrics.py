"""Metrics: how good predictions are. Values equal scikit-learn's; each knows its direction and its tasks.

Shapes, everywhere in this file:

    outputs  float [rows, outputs]   classification: a logit per class; regression: values in the user's units
    target   int64 [rows]            classification: class indices
             float [rows, outputs]   regression: values in the user's units
    counts   float64 [units, resamples]  how often each unit was drawn in each bootstrap resample (see units.py)

A value that is not defined (ROC-AUC without both classes) is NaN, and `why_undefined` says why. So is every
metric of classes where a logit is not finite: the largest of them would be some class's all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nnopt_ray import tables
from nnopt_ray.data.types import LANGUAGE
from nnopt_ray.errors import UserError
from nnopt_ray.evaluate.units import Resampler, Units

Mode = Literal["min", "max"]


@dataclass(frozen=True)
class Given:
    """What a metric may take from the page and its training part.

    positive: of two classes the index of the one that is looked for. naive_error: the mean absolute change of a
    series from one time point to the next within the training part, in the user's units; None where there is no
    series.
    """

    positive: int = 1
    naive_error: float | None = None


class Metric:
    """Base of all metrics: `mode` says which end is better, `tasks` which tasks it measures.

    A subclass writes `__call__`. `resampler` may be written too, for speed: the base class calls the
    metric once per resample.
    """

    mode: Mode
    tasks: tuple[str, ...]
    called: bool = False  # once for each resample, as nobody knows more of it
    seconds: float = 0.0  # that the last call took, where it is called so
    of_series: bool = False  # it measures forecasts only
    of_decisions: bool = False  # it looks at the predicted class only, which the page's threshold decides

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        raise NotImplementedError(f"{type(self).__name__} must define __call__(outputs, target).")

    def resampler(self, outputs: np.ndarray, target: np.ndarray, units: Units | None = None) -> Resampler:
        """A function that gives the metric over the units (without any, the rows) drawn as often as `counts` say."""
        units = units or Units(len(target))

        def resampled(counts: np.ndarray) -> np.ndarray:
            drawn = (units.drawn(column) for column in counts.T)
            return np.array([self(outputs[rows], target[rows]) for rows in drawn])

        return resampled

    def given(self, data: Given) -> Metric:
        """The metric for this data; itself, where it needs nothing of it."""
        return self

    def class_resampler(self, outputs: np.ndarray, target: np.ndarray, units: Units | None = None) -> Resampler | None:
        """counts → [classes, resamples]: the metric of each class, NaN where it has none; None where it has no value
        for a class."""
        return None

    def average(self, by_class: np.ndarray) -> np.ndarray | None:
        """[resamples] from [classes, resamples], where the metric follows from its values for the classes."""
        return None

    def why_undefined(self, target: np.ndarray, classes: Sequence[str]) -> str:
        """Half a sentence that says why the value on these rows is NaN."""
        return "its value is not a number"


class Loss(Metric):
    """The page's training loss, mean over rows, in the units of training.

    As the loss belongs to the page, the metric is made with `mean(outputs, target)` and with
    `by_unit(outputs, target, units)`, which gives each unit's loss, summed over its rows, and what its rows count in
    the mean (class weights), both float64 [units]. Without them it only tells mode and tasks.
    """

    mode: Mode = "min"
    tasks: tuple[str, ...] = ("classification", "regression", *LANGUAGE)

    def __init__(
        self,
        mean: Callable[[np.ndarray, np.ndarray], float] | None = None,
        by_unit: Callable[[np.ndarray, np.ndarray, Units], tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> None:
        self._mean, self._by_unit = mean, by_unit

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        if self._mean is None:
            raise ValueError("the loss belongs to a page: make the metric as Loss(mean, by_unit).")
        return float(self._mean(outputs, target))

    def resampler(self, outputs: np.ndarray, target: np.ndarray, units: Units | None = None) -> Resampler:
        if self._by_unit is None:
            return super().resampler(outputs, target, units)
        sums, weights = self._by_unit(outputs, target, units or Units(len(target)))
        return lambda counts: (sums @ counts) / (weights @ counts)


def softmax(logits: np.ndarray) -> np.ndarray:
    """float64 [rows, classes]: probabilities; NaN in a row with a logit that is not finite."""
    logits = np.where(np.isfinite(logits).all(axis=1, keepdims=True), logits, np.nan)
    odds = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = odds / odds.sum(axis=1, keepdims=True)
    return probabilities


# --- by name ------------------------------------------------------------------------------------


def bare(name: str) -> str:
    """The metric's own name: `val_f1` → `f1`, `train_loss` → `loss`."""
    for prefix in ("cv_val_", "val_", "train_"):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def metric_for(name: str) -> Metric:
    """The metric that `f1`, `val_f1` or `val_my_pkg.metrics:Mine` names.

    Raises PartError when there is none.
    """
    found = bare(name)
    metric: Metric = tables.find("metric", found)()
    if found in tables.table("metric"):
        return metric
    own: Metric = tables.load("nnopt_ray.evaluate.own:Own")(metric, found)
    return own


def direction(name: str) -> Mode:
    """Which end of a metric is better, `min` or `max`. Raises PartError when there is none of this name."""
    found: Any = tables.find("metric", bare(name))
    mode: Mode = found.mode
    return mode


def for_task(task: str) -> list[str]:
    """Names of all metrics that measure predictions of this task.

    Without `loss`, which needs the page's loss and is always measured, and without those of forecasts only.
    """
    found = {name: tables.find("metric", name) for name in tables.table("metric") if name != "loss"}
    return [name for name, metric in found.items() if task in metric.tasks and not metric.of_series]


def chosen(names: tuple[str, ...] | Literal["auto"], objective: str, task: str) -> dict[str, Metric]:
    """The metrics that a run measures beside the loss, by name, the objective's among them.

    `names` is evaluate.metrics of the page, in which `auto` stands for all that fit, `objective` its metric
    (`val_f1`). Raises PartError for an
    unknown one, UserError for one that does not measure this task.
    """
    listed = ("auto",) if names == "auto" else names
    wanted = [one for name in listed for one in (for_task(task) if name == "auto" else [bare(name)])]
    found: dict[str, Metric] = {}
    for name in dict.fromkeys([*wanted, bare(objective)]):
        metric = metric_for(name)
        if task not in metric.tasks:
            place = "objective" if name == bare(objective) else "evaluate.metrics"
            raise UserError(
                f"{place}: '{name}' measures {' and '.join(metric.tasks)}, and this data is {task}. "
                f"Take one of: loss, {', '.join(for_task(task))}."
            )
        if not isinstance(metric, Loss):
            found[name] = metric
    return found
