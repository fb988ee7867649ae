"""Are the probabilities true? Reliability by bins of equal mass, and a temperature that makes them truer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nnopt_ray.evaluate import intervals
from nnopt_ray.evaluate.decision import Decision
from nnopt_ray.evaluate.metrics import Metric, softmax
from nnopt_ray.evaluate.probabilities import Brier, ExpectedCalibrationError, LogLoss

COOLEST, HOTTEST = 0.05, 20.0  # temperatures that are tried
FITTED_ROWS = 50_000  # of a larger validation part an even sample: one number needs no more
BINS = 10
ROWS_A_BIN = 20  # at least; with fewer, a share says next to nothing
HISTOGRAM = 20  # bins of equal width
MEASURED: Mapping[str, Metric] = {"log_loss": LogLoss(), "brier": Brier(), "ece": ExpectedCalibrationError()}


def fit_temperature(logits: np.ndarray, target: np.ndarray) -> tuple[float, str]:
    """The temperature whose logits have the smallest log loss on these rows (Guo et al. 2017, "On Calibration of
    Modern Neural Networks", section 4.2), and why it is not that, as a sentence; empty where it is.

    logits: float [rows, classes]. The loss is convex in 1 / temperature; its slope there is the mean of the expected
    logit less the true class's, and the root of that is sought. Largest logits stay the largest, and so does accuracy.
    """
    from scipy.optimize import brentq

    every = max(1, math.ceil(len(target) / FITTED_ROWS))
    said, true = logits[::every].astype(np.float64), target[::every]
    if not np.isfinite(said).all():
        return 1.0, "No temperature was fitted: outputs on the validation part are not finite."
    if (said.argmax(axis=1) == true).all():
        return 1.0, "No temperature was fitted: every validation row is recognised, so the surest would seem the best."
    own = said[np.arange(len(true)), true]

    def slope(inverse: float) -> float:
        return float(((softmax(said * inverse) * said).sum(axis=1) - own).mean())

    ends = slope(1 / HOTTEST), slope(1 / COOLEST)
    if max(map(abs, ends)) < 1e-12:  # the same logits for all classes in all rows
        return 1.0, "No temperature was fitted: no row's probabilities tell one class from another."
    if ends[0] >= 0:
        return HOTTEST, f"The temperature is at the end of what is tried, {HOTTEST:g}: guessing evenly is no worse."
    if ends[1] <= 0:
        return COOLEST, f"The temperature is at the end of what is tried, {COOLEST:g}."
    return 1 / float(brentq(slope, 1 / HOTTEST, 1 / COOLEST, xtol=1e-9)), ""


@dataclass(frozen=True)
class Bin:
    """Rows of nearly one probability: its mean, in what share of them it came true, and that share's interval."""

    said: float
    came_true: float
    low: float
    high: float
    rows: int

    @property
    def off(self) -> float:
        """By how much more was said than the interval allows; 0 where it allows it."""
        return self.said - self.high if self.said > self.high else min(0.0, self.said - self.low)


def wilson(hits: float, rows: int, confidence: float) -> tuple[float, float]:
    """The interval of a share (Wilson 1927), which has a width also where the share is 0 or 1."""
    from scipy.special import ndtri

    z = float(ndtri((1 + confidence) / 2))
    share, weight = hits / rows, z * z / rows
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / rows + weight / 4 / rows)
    return max(0.0, middle - half), min(1.0, middle + half)


def reliability(probability: np.ndarray, came_true: np.ndarray, confidence: float) -> tuple[Bin, ...]:
    """Up to 10 bins of as many rows each, from the least probable up; both [rows]. Equal ones are never parted."""
    number = max(1, min(BINS, len(probability) // ROWS_A_BIN))
    edges = np.unique(np.quantile(probability, np.arange(1, number) / number, method="higher"))
    found = np.searchsorted(edges, probability, side="right")
    rows = np.bincount(found, minlength=len(edges) + 1)
    said = np.bincount(found, weights=probability, minlength=len(rows))
    hits = np.bincount(found, weights=came_true, minlength=len(rows))
    return tuple(
        Bin(float(said[i] / n), float(hits[i] / n), *wilson(float(hits[i]), int(n), confidence), rows=int(n))
        for i, n in enumerate(rows)
        if n
    )


def what_is_said(logits: np.ndarray, target: np.ndarray, positive: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(probability, whether it came true), both [rows]: of two classes that of the positive one, of more that of the
    predicted one."""
    probabilities = softmax(logits)
    if positive is not None:
        return probabilities[:, positive], target == positive
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == target


def calibration(
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: tuple[str, ...],
    positive: int | None,
    applied: bool,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """evaluation/calibration.json of a model's (logits, target) on both parts, before and after a temperature that was
    fitted to the first; empty where outputs are not finite."""
    if not all(np.isfinite(logits).all() for logits, _ in (validation, test)):
        return {}
    temperature, note = fit_temperature(*validation)
    logits, target = test
    forms = {"before": logits, "after": Decision(temperature).logits(logits)}
    resampled = {
        form: intervals.resample(MEASURED, said, target, resamples=resamples, seed=seed) for form, said in forms.items()
    }
    found: dict[str, Any] = {
        "applied": applied,
        "temperature": temperature,
        "note": note,
        "of": None if positive is None else classes[positive],
        "confidence": confidence,
        "rows": {"validation": len(validation[1]), "test": len(target)},
        "validation_log_loss": {
            "before": LogLoss()(*validation),
            "after": LogLoss()(Decision(temperature).logits(validation[0]), validation[1]),
        },
        "metrics": {},
    }
    for name, metric in MEASURED.items():
        values = {form: metric(said, target) for form, said in forms.items()}
        drawn = {form: resampled[form][name].values for form in forms}
        found["metrics"][name] = {
            **values,
            "intervals": {form: intervals.interval(drawn[form], confidence) for form in forms},
            "gain": asdict(
                intervals.gain(
                    metric.mode, values["after"], values["before"], drawn["after"], drawn["before"], confidence
                )
            ),
        }
    for form, said in forms.items():
        probability, came_true = what_is_said(said, target, positive)
        bins = reliability(probability, came_true, confidence)
        counts, _ = np.histogram(probability, bins=HISTOGRAM, range=(0, 1))
        found[form] = {
            "bins": [asdict(one) for one in bins],
            "histogram": counts.tolist(),
            "sentence": sentence(bins, found["of"]),
        }
    return found


def sentence(bins: tuple[Bin, ...], of: str | None) -> str:
    """Where what is said is farthest from what came true, if chance does not explain it."""
    worst = max(bins, key=lambda one: abs(one.off) * math.sqrt(one.rows))
    if not worst.off:
        return "No bin is farther from the truth than chance explains."
    said, true, low, high = (f"{100 * value:.3g} %" for value in (worst.said, worst.came_true, worst.low, worst.high))
    if of is None:
        return f"Where it says {said}, it is right in {true} ({low} to {high}, {worst.rows:,} rows)."
    return f"Where it says {said} for {of!r}, {true} of the rows are {of!r} ({low} to {high}, {worst.rows:,} rows)."
