"""Percentile bootstrap intervals over rows, and the paired one for the difference of two models.

The rows are drawn again with replacement, as many as there are, `resamples` times; an interval's ends
are percentiles of the metric over the resamples (Efron & Tibshirani 1993, "An Introduction to the
Bootstrap", chapter 13). It measures the chance in which rows the part holds, not the chance in training.
Of a large part groups of rows are drawn (see units.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nnopt_ray.evaluate.metrics import Metric
from nnopt_ray.evaluate.units import Units

# Resamples are measured in blocks of about this many counts (float64, 8 MB): ROC-AUC of 10 classes on
# 10,000 rows takes 1.5 s for 1000 resamples so, 1.8 s in blocks of four times as many, and no less in smaller ones.
BLOCK = 2**20

# A metric of a user's own is called with the rows of one resample after another: with so many rows in all, and with no
# fewer resamples than the second number. A call of numpy takes about 10 ns a row.
CALLED_ROWS = 2 * 10**7
CALLED_LEAST = 100
CALLED_S = 5.0  # seconds for one metric of one model, going by its last call


@dataclass(frozen=True)
class Gain:
    """How much better one model is than another on the same rows; positive is better, whatever the mode.

    `low` and `high` are NaN where no interval was asked for or none can be given.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resampled:
    """A metric over resamples, NaN where it is not defined.

    values: float64 [resamples]; of a metric that is called for each, fewer where there are many rows. by_class:
    float64 [classes, resamples], of the same resamples; None where it has no value for a class.
    """

    values: np.ndarray
    by_class: np.ndarray | None = None


def blocks(units: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Counts float64 [units, block of resamples]: how often each is drawn in each resample."""
    generator = np.random.default_rng(seed)
    size = max(1, min(resamples, BLOCK // units))
    for start in range(0, resamples, size):
        block = min(size, resamples - start)
        drawn = generator.integers(0, units, size=(block, units))
        drawn += np.arange(block)[:, None] * units
        counts = np.bincount(drawn.ravel(), minlength=block * units).reshape(block, units)
        yield np.ascontiguousarray(counts.T, dtype=np.float64)


def resamples_of(metric: Metric, rows: int, resamples: int) -> int:
    """How many of the resamples a metric is measured on: all, unless it has to be called for each."""
    if not metric.called or resamples <= CALLED_LEAST:
        return resamples
    in_time = int(CALLED_S / metric.seconds) if metric.seconds * resamples > CALLED_S else resamples
    return max(CALLED_LEAST, min(resamples, CALLED_ROWS // rows, in_time))


def resample(
    metrics: Mapping[str, Metric],
    outputs: np.ndarray,
    target: np.ndarray,
    *,
    resamples: int,
    seed: int,
    decided: np.ndarray | None = None,
) -> dict[str, Resampled]:
    """Each metric over the resamples.

    outputs and target as metrics take them; decided: outputs for metrics of the predicted class, where these are
    others. The same rows and seed draw the same resamples for every metric and every model, which is what makes a
    comparison paired.
    """
    if not resamples:
        return {name: Resampled(np.zeros(0)) for name in metrics}
    units = Units.of(len(target), seed)
    measures = [
        _Measure(
            metric,
            outputs if decided is None or not metric.of_decisions else decided,
            target,
            units,
            resamples_of(metric, len(target), resamples),
        )
        for metric in metrics.values()
    ]
    for counts in blocks(units.count, resamples, seed):
        for measure in measures:
            measure.add(counts)
    return {name: measure.resampled() for name, measure in zip(metrics, measures, strict=True)}


class _Measure:
    """One metric on its way through the blocks."""

    def __init__(self, metric: Metric, outputs: np.ndarray, target: np.ndarray, units: Units, resamples: int) -> None:
        self._metric, self._left = metric, resamples
        self._of_class = metric.class_resampler(outputs, target, units)
        follows = self._of_class is not None and metric.average(np.zeros((outputs.shape[1], 1))) is not None
        self._whole = None if follows else metric.resampler(outputs, target, units)
        self._values: list[np.ndarray] = []
        self._by_class: list[np.ndarray] = []

    def add(self, counts: np.ndarray) -> None:
        counts = counts[:, : self._left]
        if not counts.size:
            return
        self._left -= counts.shape[1]
        if self._of_class is not None:
            self._by_class.append(self._of_class(counts))
        found = self._whole(counts) if self._whole is not None else self._metric.average(self._by_class[-1])
        assert found is not None
        self._values.append(found)

    def resampled(self) -> Resampled:
        by_class = np.concatenate(self._by_class, axis=1) if self._by_class else None
        return Resampled(np.concatenate(self._values), by_class)


def interval(values: np.ndarray, confidence: float) -> tuple[float, float] | None:
    """Ends of the middle `confidence` of a metric's values over resamples.

    Undefined values are left out; None where fewer than half are defined.
    """
    defined = values[~np.isnan(values)]
    if len(values) == 0 or 2 * len(defined) < len(values):
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(defined, (tail, 1 - tail))
    return float(low), float(high)


def gain(
    mode: Literal["min", "max"],
    one: float,
    other: float,
    one_resampled: np.ndarray,
    other_resampled: np.ndarray,
    confidence: float,
) -> Gain:
    """How much better `one` is than `other`, with the interval of the difference.

    Both were measured on the same resamples: what makes a row easy for both cancels, so the interval is
    narrower than two intervals side by side suggest.
    """
    sign = 1.0 if mode == "max" else -1.0
    both = min(len(one_resampled), len(other_resampled))  # the first ones are the same resamples
    one_resampled, other_resampled = one_resampled[:both], other_resampled[:both]
    low, high = interval(sign * (one_resampled - other_resampled), confidence) or (float("nan"), float("nan"))
    return Gain(sign * (one - other), low, high)
