"""Metrics of predicted numbers. Shapes as in metrics.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnopt_ray.evaluate.metrics import Metric, Mode, Resampler, drawn_mean


class _OverRows(Metric):
    """A mean over rows and targets of an error that a value has by itself."""

    mode: Mode = "min"
    tasks: tuple[str, ...] = ("regression",)

    def by_value(self, outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        """float64 [rows, outputs]."""
        raise NotImplementedError

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        return float(self.by_value(outputs.astype(np.float64), target).mean())

    def resampler(self, outputs: np.ndarray, target: np.ndarray) -> Resampler:
        errors = self.by_value(outputs.astype(np.float64), target).mean(axis=1)
        return lambda counts: drawn_mean(errors, counts)


class MeanAbsoluteError(_OverRows):
    """Mean absolute error, in the target's units."""

    def by_value(self, outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        errors: np.ndarray = np.abs(outputs - target)
        return errors


class MeanAbsolutePercentageError(_OverRows):
    """Mean of |error / true value|; 0.1 is ten per cent (scikit-learn's mean_absolute_percentage_error).

    Not defined where a true value is 0, and huge near it: smape suits such targets better.
    """

    def by_value(self, outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            errors: np.ndarray = np.where(target == 0, np.nan, np.abs((outputs - target) / target))
        return errors

    def why_undefined(self, target: np.ndarray, classes: Sequence[str]) -> str:
        zeros = int((target == 0).any(axis=1).sum())
        return f"the target is 0 in {zeros} rows" if zeros else super().why_undefined(target, classes)


class SymmetricMape(_OverRows):
    """Mean of 2 |error| / (|true value| + |predicted value|), from 0 to 2 (Makridakis 1993, as in the M4 competition).

    0 where both are 0.
    """

    def by_value(self, outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        size = np.abs(outputs) + np.abs(target)
        with np.errstate(invalid="ignore"):
            errors: np.ndarray = np.divide(
                2 * np.abs(outputs - target), size, out=np.zeros(size.shape), where=~(size == 0)
            )
        return errors


class RootMeanSquaredError(Metric):
    """Root of the mean squared error, in the target's units; the plain mean over several targets."""

    mode: Mode = "min"
    tasks: tuple[str, ...] = ("regression",)

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        return float(np.sqrt(np.square(outputs.astype(np.float64) - target).mean(axis=0)).mean())

    def resampler(self, outputs: np.ndarray, target: np.ndarray) -> Resampler:
        squared = np.square(outputs.astype(np.float64) - target)
        return lambda counts: np.mean([np.sqrt(drawn_mean(column, counts)) for column in squared.T], axis=0)


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
        spread = drawn_mean(np.square(centred), counts) - np.square(drawn_mean(centred, counts))
        # Whether one value only was drawn is asked of the values: the sums leave a rounding rest.
        drawn = counts > 0
        highest = np.where(drawn, true[:, None], -np.inf).max(axis=0)
        lowest = np.where(drawn, true[:, None], np.inf).min(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(highest == lowest, np.nan, 1 - drawn_mean(squared, counts) / spread)

    return r2
