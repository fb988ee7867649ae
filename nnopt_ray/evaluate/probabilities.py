"""Metrics of the predicted probabilities. Shapes as in metrics.py."""

from __future__ import annotations

import math

import numpy as np

from nnopt_ray.evaluate.metrics import Metric, Mode, softmax
from nnopt_ray.evaluate.units import Resampler, Units

BINS = 15  # of equal width, as in Guo et al. 2017, "On Calibration of Modern Neural Networks"


def _row_log_loss(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """float64 [rows]: -log of the probability of the true class, exact also where it underflows."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    loss: np.ndarray = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(target)), target]
    return loss


class LogLoss(Metric):
    """Mean of -log(probability of the true class), natural logarithm, from the logits without clipping."""

    mode: Mode = "min"
    tasks: tuple[str, ...] = ("classification",)

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        return float(_row_log_loss(outputs, target).mean()) if np.isfinite(outputs).all() else math.nan

    def resampler(self, outputs: np.ndarray, target: np.ndarray, units: Units | None = None) -> Resampler:
        return (units or Units(len(target))).mean(_row_log_loss(outputs, target))


class Brier(Metric):
    """Mean squared distance of the probabilities from the truth, summed over the classes (Brier 1950); 0 to 2.

    Of two classes it is twice scikit-learn's brier_score_loss of the second.
    """

    mode: Mode = "min"
    tasks: tuple[str, ...] = ("classification",)

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        return float(self._by_row(outputs, target).mean()) if np.isfinite(outputs).all() else math.nan

    @staticmethod
    def _by_row(outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        distance = softmax(outputs)
        distance[np.arange(len(target)), target] -= 1.0
        squared: np.ndarray = np.square(distance).sum(axis=1)
        return squared

    def resampler(self, outputs: np.ndarray, target: np.ndarray, units: Units | None = None) -> Resampler:
        return (units or Units(len(target))).mean(self._by_row(outputs, target))


def confidence_bins(probability: np.ndarray, bins: int = BINS) -> np.ndarray:
    """int64 [rows]: the bin of each probability [rows]; bin b holds those above b/bins up to (b + 1)/bins, 0 the
    first one too."""
    edges = np.arange(1, bins) / bins
    found: np.ndarray = np.searchsorted(edges, probability, side="left")
    return found


class ExpectedCalibrationError(Metric):
    """How far the probability of the predicted class is from how often it is right (Naeini et al. 2015).

    The mean over 15 bins of equal width, by their rows, of |share right - mean probability| (Guo et al. 2017). It is
    above 0 by chance also where the probabilities are true, the more so the fewer rows there are.
    """

    mode: Mode = "min"
    tasks: tuple[str, ...] = ("classification",)

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        if not np.isfinite(outputs).all():
            return math.nan
        return float(self.resampler(outputs, target)(np.ones((len(target), 1)))[0])

    def resampler(self, outputs: np.ndarray, target: np.ndarray, units: Units | None = None) -> Resampler:
        units = units or Units(len(target))
        probability = softmax(outputs).max(axis=1)
        surplus = (outputs.argmax(axis=1) == target) - probability
        by_bin, rows = units.tally(confidence_bins(probability), BINS, surplus), units.rows_drawn(len(target))
        return lambda counts: np.abs(by_bin(counts)).sum(axis=0) / rows(counts)
