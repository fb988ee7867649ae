"""Metrics of predicted numbers. Shapes as in metrics.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnopt_ray.evaluate.metrics import Given, Metric, Mode
from nnopt_ray.evaluate.units import Resampler, Units


class _OverRows(Metric):
    """A mean over rows and targets of an error that a value has by itself."""

    mode: Mode = "min"
    tasks: tuple[str, ...] = ("regression",)

    def by_value(self, outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        """float64 [rows, outputs]."""
        raise NotImplementedError

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        return float(self.by_value(outputs.astype(np.float64), target).mean())

    def resampler(self, outputs: np.ndarray, target: np.ndarray, units: Units | None = None) -> Resampler:
        return (units or Units(len(target))).mean(self.by_value(outputs.astype(np.float64), target).mean(axis=1))


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


class MeanAbsoluteScaledError(_OverRows):
    """Mean absolute error of a forecast in units of that of the naive one (MASE, Hyndman & Koehler 2006, "Another look
    at measures of forecast accuracy").

    The unit is the mean absolute change of the series from one time point to the next within the training part. Below
    1: better than saying the last value, one step ahead; far steps are harder than that. Over all steps of the horizon.
    """

    of_series = True

    def __init__(self, naive_error: float | None = None) -> None:
        self._unit = naive_error

    def given(self, data: Given) -> Metric:
        return type(self)(data.naive_error)

    def by_value(self, outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        errors: np.ndarray = np.abs(outputs - target) / (self._unit or np.nan)
        return errors

    def why_undefined(self, target: np.ndarray, classes: Sequence[str]) -> str:
        return (
            "the series does not change in the training part"
            if self._unit == 0
            else super().why_undefined(target, classes)
        )


class RootMeanSquaredError(Metric):
    """Root of the mean squared error, in the target's units; the plain mean over several targets."""

    mode: Mode = "min"
    tasks: tuple[str, ...] = ("regression",)

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        return float(np.sqrt(np.square(outputs.astype(np.float64) - target).mean(axis=0)).mean())

    def resampler(self, outputs: np.ndarray, target: np.ndarray, units: Units | None = None) -> Resampler:
        units = units or Units(len(target))
        squares = [units.mean(column) for column in np.square(outputs.astype(np.float64) - target).T]
        return lambda counts: np.mean([np.sqrt(square(counts)) for square in squares], axis=0)


class R2(Metric):
    """Coefficient of determination: 1 is perfect, 0 is no better than the mean of these rows.

    The plain mean over several targets. NaN when the target is constant on the rows, where
    scikit-learn's r2_score gives 0 or 1 by convention.
    """

    mode: Mode = "max"
    tasks: tuple[str, ...] = ("regression",)

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        return float(self.resampler(outputs, target)(np.ones((len(target), 1)))[0])

    def resampler(self, outputs: np.ndarray, target: np.ndarray, units: Units | None = None) -> Resampler:
        units = units or Units(len(target))
        columns = [_determination(said, true, units) for said, true in zip(outputs.T, target.T, strict=True)]
        return lambda counts: np.mean([column(counts) for column in columns], axis=0)

    def why_undefined(self, target: np.ndarray, classes: Sequence[str]) -> str:
        return (
            "the target is constant here"
            if (np.ptp(target, axis=0) == 0).any()
            else super().why_undefined(target, classes)
        )


def _determination(said: np.ndarray, true: np.ndarray, units: Units) -> Resampler:
    """counts → R² of one target on each resample; both [rows]."""
    true = true.astype(np.float64)
    centred = true - true.mean()
    squared, from_mean, of_mean = (units.mean(each) for each in (np.square(said - true), np.square(centred), centred))
    constant = bool(np.ptp(true) == 0)

    def r2(counts: np.ndarray) -> np.ndarray:
        spread = from_mean(counts) - np.square(of_mean(counts))
        same = np.full(counts.shape[1], constant)
        if units.group is None:
            # Whether one value only was drawn is asked of the values: the sums leave a rounding rest.
            drawn = counts > 0
            highest = np.where(drawn, true[:, None], -np.inf).max(axis=0)
            same = highest == np.where(drawn, true[:, None], np.inf).min(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(same, np.nan, 1 - squared(counts) / spread)

    return r2
