"""The score against the number of training rows, and what more rows would bring.

Scores of networks over the number n of training rows are well described by a power law a * n^-b + c (Hestness et al.
2017, "Deep Learning Scaling is Predictable, Empirically"; Viering & Loog 2022, "The Shape of Learning Curves"). It is
fitted to the validation scores of all sizes and seeds by least squares, and its uncertainty is that of the same fit to
seeds drawn anew with replacement within each size. It says nothing of rows of another kind than those that are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np

DRAWS = 200
LEAST_SIZES = 4  # a law of three numbers is not tried by fewer
EXPLAINED = 0.8  # of the variance between sizes, by a law that is believed
MISSED = 0.5  # of what it foretells for twice the rows, by which a law that is believed misses the largest size
STEEPEST = 3.0  # the largest exponent that is looked for


@dataclass(frozen=True)
class Size:
    """values: the objective with each seed, NaN where that training failed; mean: NaN where all did."""

    share: float
    rows: int
    values: tuple[float, ...]
    mean: float
    sd: float | None = None


@dataclass(frozen=True)
class Law:
    """a * rows^-b + c of the objective (of its negative where it is maximized), and its value at twice the rows."""

    a: float
    b: float
    c: float
    explained: float
    doubled: float
    low: float
    high: float


@dataclass(frozen=True)
class Sized:
    """metric: the objective's, of the validation part. law: None where the scores follow none."""

    metric: str
    mode: Literal["min", "max"]
    confidence: float
    of_trial: str
    sizes: tuple[Size, ...]
    law: Law | None
    sentence: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Sized:
        """From what `to_json` gave; JSON has no NaN and keeps it as null."""
        sizes = tuple(
            Size(**{**one, "values": tuple(map(_number, one["values"])), "mean": _number(one["mean"])})
            for one in found["sizes"]
        )
        return cls(**{**found, "sizes": sizes, "law": None if found["law"] is None else Law(**found["law"])})


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def size(share: float, rows: int, values: Sequence[float]) -> Size:
    numbers = [value for value in values if math.isfinite(value)]
    mean = fmean(numbers) if numbers else math.nan
    return Size(share, rows, tuple(values), mean, stdev(numbers) if len(numbers) > 1 else None)


def summed_up(
    sizes: Sequence[Size], metric: str, mode: Literal["min", "max"], confidence: float, of_trial: str, seed: int
) -> Sized:
    """seed: what the draws of seeds follow from."""
    law = fitted(sizes, mode, confidence, seed)
    return Sized(metric, mode, confidence, of_trial, tuple(sizes), law, _sentence(sizes, law, metric, mode))


def fitted(sizes: Sequence[Size], mode: Literal["min", "max"], confidence: float, seed: int) -> Law | None:
    """The law that the scores follow; None for fewer than four sizes, or where it does not describe them,
    the largest above all."""
    known = [one for one in sizes if math.isfinite(one.mean)]
    if len({one.rows for one in known}) < LEAST_SIZES:
        return None
    sign = 1.0 if mode == "min" else -1.0
    rows = np.array([float(one.rows) for one in known])
    means = sign * np.array([one.mean for one in known])
    floor = _floor(np.concatenate([one.values for one in known]), mode)
    found = _fit(rows, means, floor)
    if found is None:
        return None
    spread = float(((means - means.mean()) ** 2).sum())
    explained = 1 - float(((_law(rows, *found) - means) ** 2).sum()) / spread if spread > 0 else 0.0
    if explained < EXPLAINED:
        return None
    if _misses(known, sign, found):
        return None
    most = 2 * float(rows.max())
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS):
        again = sign * np.array([fmean(_drawn(one, random)) for one in known])
        fit = _fit(rows, again, floor)
        if fit is not None:
            drawn.append(float(_law(np.array([most]), *fit)[0]))
    value = sign * float(_law(np.array([most]), *found)[0])
    ends = sorted(sign * np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])) if drawn else [value, value]
    return Law(*found, explained, value, min(float(ends[0]), value), max(float(ends[1]), value))


def _misses(known: Sequence[Size], sign: float, found: tuple[float, float, float]) -> bool:
    """Whether the law is so far from the scores of the largest size that it cannot tell what comes beyond it.

    Scores that fall steeply at first make least squares a law of the small sizes.
    """
    last = max(known, key=lambda one: one.rows)
    at, beyond = _law(np.array([last.rows, 2.0 * last.rows]), *found)
    noise = 0.0 if last.sd is None else 2 * last.sd / math.sqrt(sum(map(math.isfinite, last.values)))
    return abs(float(at) - sign * last.mean) > max(MISSED * float(at - beyond), noise)


def _drawn(one: Size, random: np.random.Generator) -> list[float]:
    numbers = [value for value in one.values if math.isfinite(value)]
    return [numbers[place] for place in random.integers(0, len(numbers), len(numbers))]


def _law(rows: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    found: np.ndarray = a * rows**-b + c
    return found


def _floor(values: np.ndarray, mode: Literal["min", "max"]) -> float:
    """What no number of rows goes below: losses and errors not below 0, scores that are at most 1 not above it."""
    known = values[np.isfinite(values)]
    if mode == "min":
        return 0.0 if (known >= 0).all() else -math.inf
    return -1.0 if (known <= 1).all() else -math.inf


def _fit(rows: np.ndarray, values: np.ndarray, floor: float) -> tuple[float, float, float] | None:
    """Least squares: for each exponent a and c follow from a line, so that only the exponent is looked for."""
    from scipy.optimize import minimize_scalar

    scale = float(rows.min())  # so that powers stay near 1

    def line(b: float) -> tuple[float, float, float]:
        x = (rows / scale) ** -b
        spread = float(((x - x.mean()) ** 2).sum())
        slope = float(((x - x.mean()) * (values - values.mean())).sum()) / spread if spread > 0 else 0.0
        slope = max(0.0, slope)  # more rows do no harm
        base = float(values.mean() - slope * x.mean())
        if base < floor:
            base, slope = floor, max(0.0, float((x * (values - floor)).sum() / (x * x).sum()))
        return float(((slope * x + base - values) ** 2).sum()), slope, base

    best = minimize_scalar(lambda b: line(b)[0], bounds=(0.01, STEEPEST), method="bounded")
    _, slope, base = line(float(best.x))
    if slope <= 0:
        return None
    return slope * scale ** float(best.x), float(best.x), base


def _sentence(sizes: Sequence[Size], law: Law | None, metric: str, mode: Literal["min", "max"]) -> str:
    last = max(sizes, key=lambda one: one.rows)
    if law is None:
        return (
            f"{metric} does not follow a power law over these {len(sizes)} sizes, so what more training rows would "
            "bring cannot be told from them."
        )
    between = f"{law.low:.4g} to {law.high:.4g}"
    at = (1.0 if mode == "min" else -1.0) * float(_law(np.array([float(last.rows)]), law.a, law.b, law.c)[0])
    return (
        f"With twice the training rows, {2 * last.rows:,} in place of {last.rows:,}, {metric} would come from "
        f"{at:.4g} (measured: {last.mean:.4g}) to about {law.doubled:.4g} ({between}), if it goes on as it did."
    )


__all__ = ["Law", "Size", "Sized", "fitted", "size", "summed_up"]
