"""How much the winner's validation score flatters it because it was picked as the best of many.

Each trial's value is its true one and some chance. The best of n equally good ones has, of normal chance with deviation
s, s * E(n) of it, where E(n) is the mean of the largest of n standard normal values (an order statistic: David &
Nagaraja 2003, "Order Statistics", section 3.2). Trials are not equally good; only those that chance could have put in
front compete: those no further behind than REACH * s. Of simulated searches (10 to 300 trials, all equally good, or
with normal or skewed true values up to 10 s apart) the mean found so is within 35 % of the true one (test_optimism.py);
with a reach of 2 it is 20 % short where all are equal, with one of 2.8 up to 49 % too large where they differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

REACH = 2.4


@dataclass(frozen=True)
class Optimism:
    """In the metric's units. gap: by how much the validation score is better than the test's; negative: it is worse.

    noise: deviation of a trial's value by chance, `source`: of training (over the seeds of search.confirm) or of which
    rows the validation part holds. contenders: trials that chance could have put in front, the winner among them.
    expected: what picking the best of them adds on average; most: the same, were all trials equally good. lucky: the
    winner's value in the search against its mean over other seeds, where it was confirmed.
    """

    gap: float
    noise: float
    source: Literal["seeds", "rows"]
    trials: int
    contenders: int
    expected: float
    most: float
    lucky: float | None = None


def expected_best(count: int) -> float:
    """The mean of the largest of `count` independent standard normal values."""
    if count < 2:
        return 0.0
    from scipy import integrate, special

    def weighed(x: float) -> float:
        density = math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
        return x * count * density * float(special.ndtr(x)) ** (count - 1)

    return float(integrate.quad(weighed, -10.0, 10.0, points=[0.0, math.sqrt(2 * math.log(count))])[0])


def optimism(
    values: Sequence[float],
    picked: float,
    test: float,
    mode: str,
    noise: float,
    source: Literal["seeds", "rows"],
    mean: float | None = None,
) -> Optimism:
    """values: the objective of every trial that could have been picked. picked, test: the winner's on the validation
    and the test part. mean: of the winner over other seeds."""
    sign = 1.0 if mode == "max" else -1.0
    best = max(sign * value for value in values)
    near = sum(sign * value >= best - REACH * noise for value in values)
    return Optimism(
        gap=sign * (picked - test),
        noise=noise,
        source=source,
        trials=len(values),
        contenders=near,
        expected=noise * expected_best(near),
        most=noise * expected_best(len(values)),
        lucky=None if mean is None else sign * (picked - mean),
    )
