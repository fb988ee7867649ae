"""Metrics of the predicted class: how often each class is recognised. Shapes as in metrics.py."""

from __future__ import annotations

import math

import numpy as np

from nnopt_ray.evaluate.metrics import Metric, Mode
from nnopt_ray.evaluate.units import Resampler, Units


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 0 where `below` is 0."""
    ratio: np.ndarray = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return ratio


class _FromTallies(Metric):
    """A metric that depends on the confusion matrix's diagonal and margins only."""

    mode: Mode = "max"
    tasks: tuple[str, ...] = ("classification",)
    of_decisions = True

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

    def resampler(self, outputs: np.ndarray, target: np.ndarray, units: Units | None = None) -> Resampler:
        tallies = drawn_tallies(outputs, target, units or Units(len(target)))
        return lambda counts: self.from_tallies(*(tally(counts) for tally in tallies))


def drawn_tallies(outputs: np.ndarray, target: np.ndarray, units: Units) -> tuple[Resampler, Resampler, Resampler]:
    """Three times counts → [classes, resamples]: a class's rows recognised, its rows, its predictions."""
    classes, predicted = outputs.shape[1], outputs.argmax(axis=1)
    right = (predicted == target).astype(np.float64)
    return units.tally(target, classes, right), units.tally(target, classes), units.tally(predicted, classes)


class _OfEachClass(_FromTallies):
    """One that has a value for each class."""

    def of_class(self, right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """[classes, resamples] from the tallies; NaN for a class that the rows say nothing of."""
        raise NotImplementedError

    def class_resampler(self, outputs: np.ndarray, target: np.ndarray, units: Units | None = None) -> Resampler:
        tallies = drawn_tallies(outputs, target, units or Units(len(target)))
        return lambda counts: self.of_class(*(tally(counts) for tally in tallies))


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


class Precision(_OfEachClass):
    """Mean over the classes of the share of rows predicted as a class that are of it (macro average).

    0 for a class that is never predicted; classes that neither occur nor are predicted are left out
    (scikit-learn's precision_score, average="macro", zero_division=0).
    """

    def from_tallies(self, right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        return _macro(_ratio(right, predicted), (true > 0) | (predicted > 0))

    def of_class(self, right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        return np.where((true > 0) | (predicted > 0), _ratio(right, predicted), np.nan)


class Recall(_OfEachClass):
    """Mean over the classes of the share of a class's rows that were recognised (macro average).

    0 for a class that is predicted but has no row; classes that neither occur nor are predicted are
    left out (scikit-learn's recall_score, average="macro", zero_division=0).
    """

    def from_tallies(self, right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        return _macro(_ratio(right, true), (true > 0) | (predicted > 0))

    def of_class(self, right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        return np.where(true > 0, _ratio(right, true), np.nan)


class F1(_OfEachClass):
    """Mean over the classes of the harmonic mean of precision and recall (macro average).

    0 for a class of which no row was recognised; classes that neither occur nor are predicted are
    left out (scikit-learn's f1_score, average="macro", zero_division=0).
    """

    def from_tallies(self, right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        return _macro(_ratio(2 * right, true + predicted), (true > 0) | (predicted > 0))

    def of_class(self, right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        return np.where((true > 0) | (predicted > 0), _ratio(2 * right, true + predicted), np.nan)


class WeightedF1(_FromTallies):
    """Mean of the classes' F1, each weighted by its rows (scikit-learn's f1_score, average="weighted")."""

    def from_tallies(self, right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        mean: np.ndarray = (_ratio(2 * right, true + predicted) * true).sum(axis=0) / true.sum(axis=0)
        return mean


class MatthewsCorrelation(_FromTallies):
    """Correlation of true and predicted class over all cells of the confusion matrix (Gorodkin 2004).

    1 is perfect, 0 is guessing, also where one class is always said (scikit-learn's matthews_corrcoef).
    """

    def from_tallies(self, right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        rows = true.sum(axis=0)
        together = right.sum(axis=0) * rows - (true * predicted).sum(axis=0)
        spread = (rows**2 - (true**2).sum(axis=0)) * (rows**2 - (predicted**2).sum(axis=0))
        return _ratio(together, np.sqrt(spread))
