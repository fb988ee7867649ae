"""Whether a speed-up costs accuracy: a faster training to a worse network is no gain.

With several seeds each size is held against the first one by the differences with the same seed: their mean, and its
Student interval. With one seed nothing tells a difference from chance, and that is said instead of praise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

Judged = Literal["held", "fell", "unknown", "same"]


@dataclass(frozen=True)
class Score:
    """A size's objective against the first size's. gain: positive is better, whatever the mode; its interval is None
    with fewer than two seeds that both have. judged: same (equal with every seed), held (no difference that its
    interval tells from chance, or a gain), fell (worse, beyond chance), unknown (one seed, and not the same or better).
    """

    judged: Judged
    gain: float
    low: float | None
    high: float | None


def compared(
    first: Sequence[float], other: Sequence[float], mode: Literal["min", "max"], confidence: float
) -> Score | None:
    """The objective of two sizes with the same seeds, in their order; NaN where a training has none. None: no pair."""
    sign = 1.0 if mode == "max" else -1.0
    gains = [sign * (b - a) for a, b in zip(first, other, strict=False) if math.isfinite(a) and math.isfinite(b)]
    if not gains:
        return None
    mean = fmean(gains)
    if all(gain == 0 for gain in gains):
        return Score("same", 0.0, None, None)
    if len(gains) < 2:
        return Score("held" if mean > 0 else "unknown", mean, None, None)
    from scipy.special import stdtrit

    half = float(stdtrit(len(gains) - 1, (1 + confidence) / 2)) * stdev(gains) / math.sqrt(len(gains))
    return Score("fell" if mean + half < 0 else "held", mean, mean - half, mean + half)
