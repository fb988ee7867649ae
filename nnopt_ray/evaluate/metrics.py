"""Metrics: how good predictions are. Values equal scikit-learn's; each knows its direction and its tasks.

Shapes, everywhere in this file:

    outputs  float [rows, outputs]   classification: a logit per class; regression: values in the user's units
    target   int64 [rows]            classification: class indices
             float [rows, outputs]   regression: values in the user's units
    counts   float64 [rows, resamples]   how often each row was drawn in each bootstrap resample

A value that is not defined (ROC-AUC without both classes) is NaN, and `why_undefined` says why. So is every
metric of classes where a logit is not finite: the largest of them would be some class's all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from nnopt_ray import tables
from nnopt_ray.data.types import LANGUAGE
from nnopt_ray.errors import UserError

Mode = Literal["min", "max"]
Resampler = Callable[[np.ndarray], np.ndarray]  # counts [rows, resamples] → values float64 [resamples]


class Metric:
    """Base of all metrics: `mode` says which end is better, `tasks` which tasks it measures.

    A subclass writes `__call__`. `resampler` may be written too, for speed: the base class calls the
    metric once per resample.
    """

    mode: Mode
    tasks: tuple[str, ...]

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        raise NotImplementedError(f"{type(self).__name__} must define __call__(outputs, target).")

    def resampler(self, outputs: np.ndarray, target: np.ndarray) -> Resampler:
        """A function that gives the metric over the rows drawn as often as its `counts` say."""
        rows = np.arange(len(target))

        def resampled(counts: np.ndarray) -> np.ndarray:
            drawn = (np.repeat(rows, times.astype(np.int64)) for times in counts.T)
            return np.array([self(outputs[index], target[index]) for index in drawn])

        return resampled

    def why_undefined(self, target: np.ndarray, classes: Sequence[str]) -> str:
        """Half a sentence that says why the value on these rows is NaN."""
        return "its value is not a number"


class Loss(Metric):
    """The page's training loss, mean over rows, in the units of training.

    As the loss belongs to the page, the metric is made with `mean(outputs, target)` and with
    `by_row(outputs, target)`, which gives each row's loss and what the row counts in the mean (class
    weights). Without them it only tells mode and tasks.
    """

    mode: Mode = "min"
    tasks: tuple[str, ...] = ("classification", "regression", *LANGUAGE)

    def __init__(
        self,
        mean: Callable[[np.ndarray, np.ndarray], float] | None = None,
        by_row: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> None:
        self._mean, self._by_row = mean, by_row

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        if self._mean is None:
            raise ValueError("the loss belongs to a page: make the metric as Loss(mean, by_row).")
        return float(self._mean(outputs, target))

    def resampler(self, outputs: np.ndarray, target: np.ndarray) -> Resampler:
        if self._by_row is None:
            return super().resampler(outputs, target)
        losses, weights = self._by_row(outputs, target)
        return lambda counts: ((losses * weights) @ counts) / (weights @ counts)


# --- classification -----------------------------------------------------------------------------


def softmax(logits: np.ndarray) -> np.ndarray:
    """float64 [rows, classes]: probabilities; NaN in a row with a logit that is not finite."""
    logits = np.where(np.isfinite(logits).all(axis=1, keepdims=True), logits, np.nan)
    odds = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = odds / odds.sum(axis=1, keepdims=True)
    return probabilities


def _row_log_loss(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """float64 [rows]: -log of the probability of the true class, exact also where it underflows."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    loss: np.ndarray = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(target)), target]
    return loss


def _summed(classes: np.ndarray, rows: np.ndarray, outputs: int) -> Resampler:
    """counts → [outputs, resamples]: how often rows of each class were drawn, of the rows that are marked."""
    from scipy import sparse

    index = np.flatnonzero(rows)
    member = sparse.csr_array((np.ones(len(index)), (classes[index], index)), shape=(outputs, len(classes)))

    def summed(counts: np.ndarray) -> np.ndarray:
        sums: np.ndarray = member @ counts
        return sums

    return summed


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 0 where `below` is 0."""
    ratio: np.ndarray = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return ratio


class _FromTallies(Metric):
    """A metric that depends on the confusion matrix's diagonal and margins only."""

    mode: Mode = "max"
    tasks: tuple[str, ...] = ("classification",)

    def from_tallies(self, right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """[resamples] from three tallies [classes, resamples]: a class's rows recognised, its rows, its predictions."""
        raise NotImplementedError

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        if not np.isfinite(outputs).all():
            return math.nan
        predicted = outputs.argmax(axis=1)
        lists = (target[predicted == target], target, predicted)
        tallies = (np.bincount(each, minlength=outputs.shape[1]).astype(np.float64)[:, None] for each in lists)
        return float(self.from_tallies(*tallies)[0])

    def resampler(self, outputs: np.ndarray, target: np.ndarray) -> Resampler:
        classes = outputs.shape[1]
        predicted = outputs.argmax(axis=1)
        every = np.ones(len(target), dtype=bool)
        right = _summed(target, predicted == target, classes)
        true, said = _summed(target, every, classes), _summed(predicted, every, classes)
        return lambda counts: self.from_tallies(right(counts), true(counts), said(counts))


def _macro(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mean over the classes that are present, NaN where none is; both [classes, resamples]."""
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = (values * present).sum(axis=0) / present.sum(axis=0)
    return mean


class Accuracy(_FromTallies):
    """Share of rows whose largest logit is the true class's."""

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        return float((outputs.argmax(axis=1) == target).mean()) if np.isfinite(outputs).all() else math.nan

    def from_tallies(self, right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        share: np.ndarray = right.sum(axis=0) / true.sum(axis=0)
        return share


class BalancedAccuracy(_FromTallies):
    """Mean over the classes of the share of each class's rows that were recognised.

    Classes without a row are left out (scikit-learn's balanced_accuracy_score).
    """

    def from_tallies(self, right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        return _macro(_ratio(right, true), true > 0)


class Precision(_FromTallies):
    """Mean over the classes of the share of rows predicted as a class that are of it (macro average).

    0 for a class that is never predicted; classes that neither occur nor are predicted are left out
    (scikit-learn's precision_score, average="macro", zero_division=0).
    """

    def from_tallies(self, right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        return _macro(_ratio(right, predicted), (true > 0) | (predicted > 0))


class Recall(_FromTallies):
    """Mean over the classes of the share of a class's rows that were recognised (macro average).

    0 for a class that is predicted but has no row; classes that neither occur nor are predicted are
    left out (scikit-learn's recall_score, average="macro", zero_division=0).
    """

    def from_tallies(self, right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        return _macro(_ratio(right, true), (true > 0) | (predicted > 0))


class F1(_FromTallies):
    """Mean over the classes of the harmonic mean of precision and recall (macro average).

    0 for a class of which no row was recognised; classes that neither occur nor are predicted are
    left out (scikit-learn's f1_score, average="macro", zero_division=0).
    """

    def from_tallies(self, right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        return _macro(_ratio(2 * right, true + predicted), (true > 0) | (predicted > 0))


class LogLoss(Metric):
    """Mean of -log(probability of the true class), natural logarithm, from the logits without clipping."""

    mode: Mode = "min"
    tasks: tuple[str, ...] = ("classification",)

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        return float(_row_log_loss(outputs, target).mean()) if np.isfinite(outputs).all() else math.nan

    def resampler(self, outputs: np.ndarray, target: np.ndarray) -> Resampler:
        losses = _row_log_loss(outputs, target)
        return lambda counts: _drawn_mean(losses, counts)


class RocAuc(Metric):
    """Area under the ROC curve: how often a row of a class ranks above a row of another, ties half.

    Two classes: by the difference of the logits. More: each class against the rest by its
    probability, then the plain mean (scikit-learn's roc_auc_score, multi_class="ovr",
    average="macro"). NaN when a class has no row.
    """

    mode: Mode = "max"
    tasks: tuple[str, ...] = ("classification",)

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        if not np.isfinite(outputs).all():
            return math.nan
        return float(self.resampler(outputs, target)(np.ones((len(target), 1)))[0])

    def resampler(self, outputs: np.ndarray, target: np.ndarray) -> Resampler:
        if outputs.shape[1] == 2:
            return _area(outputs[:, 1].astype(np.float64) - outputs[:, 0], target == 1)
        areas = [_area(probability, target == index) for index, probability in enumerate(softmax(outputs).T)]
        return lambda counts: np.mean([area(counts) for area in areas], axis=0)

    def why_undefined(self, target: np.ndarray, classes: Sequence[str]) -> str:
        absent = [name for index, name in enumerate(classes) if not (target == index).any()]
        if not absent:
            return super().why_undefined(target, classes)
        return f"class {', '.join(repr(name) for name in absent)} has no row here"


def _area(score: np.ndarray, positive: np.ndarray) -> Resampler:
    """counts → [resamples]: the share of (positive, negative) pairs in which the positive scores higher, ties half.

    With every row sorted by score once, a resample is two weighted sums (Mann & Whitney's U).
    """
    order = np.argsort(score, kind="stable")
    score, positive = score[order], positive[order]
    first = np.flatnonzero(positive)
    # For each positive row: how many rows, and how many positives, lie below its tie and up to the tie's end.
    rows_below, rows_up_to = (np.searchsorted(score, score[first], side) for side in ("left", "right"))
    positives_up_to_row = np.append(0, np.cumsum(positive))
    positives_below, positives_up_to = positives_up_to_row[rows_below], positives_up_to_row[rows_up_to]
    positive_rows = order[first]

    def area(counts: np.ndarray) -> np.ndarray:
        drawn = counts[positive_rows]
        rows, positives = _running(counts[order]), _running(drawn)
        negatives = rows[rows_below] - positives[positives_below] + rows[rows_up_to] - positives[positives_up_to]
        pairs = positives[-1] * (rows[-1] - positives[-1])
        with np.errstate(invalid="ignore"):
            share: np.ndarray = np.einsum("ij,ij->j", drawn, negatives) / 2 / pairs
        return share

    return area


def _running(counts: np.ndarray) -> np.ndarray:
    """[rows + 1, resamples]: sums of the first 0, 1, ... rows."""
    sums = np.zeros((len(counts) + 1, counts.shape[1]))
    np.cumsum(counts, axis=0, out=sums[1:])
    return sums


# --- regression ---------------------------------------------------------------------------------


def _drawn_mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[resamples]: the mean of `values` [rows] over the rows as often as drawn."""
    mean: np.ndarray = (values @ counts) / counts.sum(axis=0)
    return mean


class MeanAbsoluteError(Metric):
    """Mean absolute error, in the target's units."""

    mode: Mode = "min"
    tasks: tuple[str, ...] = ("regression",)

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        return float(np.abs(outputs.astype(np.float64) - target).mean())

    def resampler(self, outputs: np.ndarray, target: np.ndarray) -> Resampler:
        errors = np.abs(outputs.astype(np.float64) - target).mean(axis=1)
        return lambda counts: _drawn_mean(errors, counts)


class RootMeanSquaredError(Metric):
    """Root of the mean squared error, in the target's units; the plain mean over several targets."""

    mode: Mode = "min"
    tasks: tuple[str, ...] = ("regression",)

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        return float(np.sqrt(np.square(outputs.astype(np.float64) - target).mean(axis=0)).mean())

    def resampler(self, outputs: np.ndarray, target: np.ndarray) -> Resampler:
        squared = np.square(outputs.astype(np.float64) - target)
        return lambda counts: np.mean([np.sqrt(_drawn_mean(column, counts)) for column in squared.T], axis=0)


class R2(Metric):
    """Coefficient of determination: 1 is perfect, 0 is no better than the mean of these rows.

    The plain mean over several targets. NaN when the target is constant on the rows, where
    scikit-learn's r2_score gives 0 or 1 by convention.
    """

    mode: Mode = "max"
    tasks: tuple[str, ...] = ("regression",)

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        return float(self.resampler(outputs, target)(np.ones((len(target), 1)))[0])

    def resampler(self, outputs: np.ndarray, target: np.ndarray) -> Resampler:
        columns = [_determination(said, true) for said, true in zip(outputs.T, target.T, strict=True)]
        return lambda counts: np.mean([column(counts) for column in columns], axis=0)

    def why_undefined(self, target: np.ndarray, classes: Sequence[str]) -> str:
        return (
            "the target is constant here"
            if (np.ptp(target, axis=0) == 0).any()
            else super().why_undefined(target, classes)
        )


def _determination(said: np.ndarray, true: np.ndarray) -> Resampler:
    """counts → R² of one target on each resample; both [rows]."""
    true = true.astype(np.float64)
    squared = np.square(said - true)
    centred = true - true.mean()

    def r2(counts: np.ndarray) -> np.ndarray:
        spread = _drawn_mean(np.square(centred), counts) - np.square(_drawn_mean(centred, counts))
        # Whether one value only was drawn is asked of the values: the sums leave a rounding rest.
        drawn = counts > 0
        highest = np.where(drawn, true[:, None], -np.inf).max(axis=0)
        lowest = np.where(drawn, true[:, None], np.inf).min(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(highest == lowest, np.nan, 1 - _drawn_mean(squared, counts) / spread)

    return r2


# --- by name ------------------------------------------------------------------------------------


def bare(name: str) -> str:
    """The metric's own name: `val_f1` → `f1`, `train_loss` → `loss`."""
    for prefix in ("val_", "train_"):
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def metric_for(name: str) -> Metric:
    """The metric that `f1`, `val_f1` or `val_my_pkg.metrics:Mine` names.

    Raises PartError when there is none.
    """
    metric: Metric = tables.find("metric", bare(name))()
    return metric


def direction(name: str) -> Mode:
    """Which end of a metric is better, `min` or `max`. Raises PartError when there is none of this name."""
    found: Any = tables.find("metric", bare(name))
    mode: Mode = found.mode
    return mode


def for_task(task: str) -> list[str]:
    """Names of all metrics that measure predictions of this task.

    Without `loss`, which needs the page's loss and is always measured.
    """
    return [name for name in tables.table("metric") if name != "loss" and task in tables.find("metric", name).tasks]


def chosen(names: tuple[str, ...] | Literal["auto"], objective: str, task: str) -> dict[str, Metric]:
    """The metrics that a run measures beside the loss, by name, the objective's among them.

    `names` is evaluate.metrics of the page, `objective` its metric (`val_f1`). Raises PartError for an
    unknown one, UserError for one that does not measure this task.
    """
    wanted = for_task(task) if names == "auto" else [bare(name) for name in names]
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
