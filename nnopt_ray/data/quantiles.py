"""The quantile transform: numbers become their ranks among the training rows, as scikit-learn's QuantileTransformer.

So that its numbers are those, also where values are equal or beyond the training part, its rules are followed: ranks
are interpolated from both sides and averaged, and a normal output ends at the quantiles of 1e-7.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

BOUND = 1e-7  # scikit-learn's BOUNDS_THRESHOLD

Output = Literal["uniform", "normal"]


def learned(values: np.ndarray, count: int) -> list[float]:
    """The values at `count` evenly spaced ranks (fewer where there are fewer values); values: float64, none missing."""
    if not len(values):
        return [0.0, 0.0]
    ranks = 100 * np.linspace(0, 1, max(2, min(count, len(values))))  # rounded as scikit-learn rounds them
    # Rounding may put a percentile below the one before it.
    found: list[float] = np.maximum.accumulate(np.percentile(values, ranks)).tolist()
    return found


def transformed(values: np.ndarray, quantiles: list[float], output: Output) -> np.ndarray:
    """float64 [rows], NaN where missing → ranks of 0 to 1, or for `normal` the normal distribution's values there."""
    known = np.array(quantiles)
    ranks = np.linspace(0, 1, len(known))
    if output == "normal":
        low, high = values - BOUND < known[0], values + BOUND > known[-1]
    else:
        low, high = values == known[0], values == known[-1]
    # Where several ranks have one value, each side gives another of them; their mean is taken.
    made = 0.5 * (np.interp(values, known, ranks) - np.interp(-values, -known[::-1], -ranks[::-1]))
    made[high], made[low] = 1.0, 0.0
    made[np.isnan(values)] = np.nan
    if output == "normal":
        from scipy.special import ndtri

        bound = BOUND - np.spacing(1)
        made = np.clip(ndtri(made), ndtri(bound), ndtri(1 - bound))
    return np.asarray(made, dtype=np.float64)


__all__ = ["Output", "learned", "transformed"]
