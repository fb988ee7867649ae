"""What a scheduler left out by stopping trials early, and how far what it saw there foretold their end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nnopt_ray.results import TrialRow

LEAST = 8  # trials of which a rank correlation is told


@dataclass(frozen=True)
class Savings:
    """whole: epochs of all trials, had each trained to its limit; trained: that were. left: of the stopped trials,
    left_s: the seconds of training these would have taken, at each trial's own pace.

    rung: epochs after which the first was stopped. agreed: Spearman's correlation of the best value until then and
    the one at the end, over the `both` trials that ended by themselves later; low, high: its 95 % interval. None where
    there are too few. faster: of the `stopped_there` trials that were stopped at the rung, those that improved faster
    in the second half of their epochs than the median of the others that came there.
    """

    whole: int
    trained: int
    stopped: int
    left: int
    left_s: float
    rung: int | None = None
    both: int = 0
    agreed: float | None = None
    low: float | None = None
    high: float | None = None
    stopped_there: int = 0
    faster: int = 0


def savings(rows: Sequence[TrialRow], metric: str, mode: str, limit: Callable[[TrialRow], int]) -> Savings:
    """limit: the epochs that a trial may train."""
    stopped = [row for row in rows if row.status == "stopped"]
    left = [(row, max(0, limit(row) - row.epochs)) for row in stopped]
    pace = [(row.seconds / row.epochs if row.epochs else 0.0, epochs) for row, epochs in left]
    counts = {
        "whole": sum(limit(row) for row in rows),
        "trained": sum(row.epochs for row in rows),
        "stopped": len(stopped),
        "left": sum(epochs for _, epochs in left),
    }
    left_s = sum(seconds * epochs for seconds, epochs in pace)
    begun = [row.epochs for row in stopped if row.epochs]
    if not begun:
        return Savings(**counts, left_s=left_s)
    rung, sign = min(begun), 1.0 if mode == "min" else -1.0
    curves = {row.trial: [sign * epoch.metrics.get(metric, math.nan) for epoch in row.history] for row in rows}
    went_on = [row for row in rows if row.status == "finished" and len(curves[row.trial]) > rung]
    early = [min(curves[row.trial][:rung]) for row in went_on]
    late = [min(curves[row.trial]) for row in went_on]
    agreed, low, high = _spearman(early, late)
    there = [row for row in stopped if row.epochs == rung and len(curves[row.trial]) >= rung]
    beyond = [row for row in rows if row.status != "failed" and len(curves[row.trial]) > rung]
    speeds = sorted(_falls(curves[row.trial][:rung]) for row in beyond)
    middle = speeds[len(speeds) // 2] if speeds else math.inf
    return Savings(
        **counts,
        left_s=left_s,
        rung=rung,
        both=len(went_on),
        agreed=agreed,
        low=low,
        high=high,
        stopped_there=len(there),
        faster=sum(_falls(curves[row.trial][:rung]) > middle for row in there) if rung > 1 else 0,
    )


def _falls(curve: Sequence[float]) -> float:
    """By what an objective to be minimized fell in the second half of these epochs; NaN compares as no fall."""
    return curve[max(0, len(curve) // 2 - 1)] - curve[-1]


def _spearman(one: Sequence[float], other: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Rank correlation with a 95 % interval by Fisher's z (Bonett & Wright 2000, Psychometrika 65: its deviation is
    sqrt((1 + r²/2) / (n - 3)))."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(pairs) < LEAST or len({a for a, _ in pairs}) < 2 or len({b for _, b in pairs}) < 2:
        return None, None, None
    from scipy import stats

    found = float(stats.spearmanr([a for a, _ in pairs], [b for _, b in pairs]).statistic)
    at = math.atanh(max(-0.999999, min(0.999999, found)))
    half = 1.96 * math.sqrt((1 + found**2 / 2) / (len(pairs) - 3))
    return found, math.tanh(at - half), math.tanh(at + half)
