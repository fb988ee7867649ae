"""Cross-validation: what the scores of all folds say together, of a winner and of the baseline beside it.

Folds share most of their training rows, so their scores are not independent, and the deviation of their mean is larger
than sd / sqrt(folds). Nadeau & Bengio (2003), "Inference for the Generalization Error", Machine Learning 52, section
3.2 and equation 9: the variance of the mean of J scores is taken as (1/J + held out / learned from) * sd^2, and the
interval is Student's with J - 1 degrees of freedom. Of repeated folds J counts all (Bouckaert & Frank 2004).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any, Literal

Mode = Literal["min", "max"]


@dataclass(frozen=True)
class FoldScores:
    """One fold: what was measured once, on the rows that it holds out, by the weights of its best epoch.

    trial: its folder in trials/. rows: learned (train), validation (which chose the epoch) and held_out.
    failed: why the training gave nothing; metrics are empty then. values: of a nested search what it chose.
    """

    number: int
    trial: str
    rows: Mapping[str, int]
    epochs: int = 0
    best_epoch: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    baseline: Mapping[str, float] = field(default_factory=dict)
    failed: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Mean:
    """Of the scores of `folds` folds. sd: their sample deviation; low, high: the corrected interval of the mean, both
    None with fewer than two."""

    mean: float
    folds: int
    sd: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Folded:
    """A cross-validation. `metric` is the objective's without `val_`; gains are paired by fold, positive where the
    winner is better than the baseline, whatever the mode."""

    kind: str
    folds: int
    repeats: int
    metric: str
    modes: Mapping[str, Mode]
    confidence: float
    nested: bool
    of_trial: str  # empty where each fold has a search of its own
    each: tuple[FoldScores, ...]
    winner: Mapping[str, Mean]
    baseline: Mapping[str, Mean]
    gains: Mapping[str, Mean]
    sentences: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def brief(self) -> dict[str, Any]:
        """What result.json says of it."""
        told = ("kind", "folds", "repeats", "nested", "metric", "confidence")
        means = {part: {name: asdict(mean) for name, mean in getattr(self, part).items()} for part in PARTS}
        return {name: getattr(self, name) for name in told} | means

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Folded:
        """From what `to_json` gave; JSON has no NaN and keeps it as null."""
        means = {
            part: {name: Mean(**{**mean, "mean": _number(mean["mean"])}) for name, mean in found[part].items()}
            for part in PARTS
        }
        each = tuple(
            FoldScores(**{**one, **{k: {n: _number(v) for n, v in one[k].items()} for k in ("metrics", "baseline")}})
            for one in found["each"]
        )
        return cls(**{**found, **means, "each": each, "sentences": tuple(found["sentences"])})


PARTS = ("winner", "baseline", "gains")


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def corrected(scores: Sequence[float], ratio: float, confidence: float) -> Mean:
    """Mean, deviation and interval of scores over folds; those that are not finite are left out.

    ratio: rows held out / rows learned from. confidence: of the interval, between 0 and 1.
    """
    numbers = [score for score in scores if math.isfinite(score)]
    if not numbers:
        return Mean(math.nan, 0)
    mean = numbers[0] if len(set(numbers)) == 1 else fmean(numbers)
    if len(numbers) < 2:
        return Mean(mean, 1)
    from scipy.special import stdtrit

    sd = stdev(numbers)
    count = len(numbers)
    half = float(stdtrit(count - 1, (1 + confidence) / 2)) * math.sqrt(1 / count + ratio) * sd
    return Mean(mean, count, sd, mean - half, mean + half)


def summed_up(
    each: Sequence[FoldScores],
    modes: Mapping[str, Mode],
    metric: str,
    confidence: float,
    of: tuple[str, int, int],
    nested: bool,
    of_trial: str,
    searched: bool,
) -> Folded:
    """All folds together. of: kind, folds and repeats. searched: whether the values were chosen by a search."""
    done = [one for one in each if not one.failed]
    ratios = [one.rows["held_out"] / (one.rows["train"] + one.rows["validation"]) for one in done]
    ratio = fmean(ratios) if ratios else 0.0
    names = list(dict.fromkeys(name for one in done for name in one.metrics))

    def of_all(value: Any) -> dict[str, Mean]:
        return {name: corrected([value(one, name) for one in done], ratio, confidence) for name in names}

    def gain(one: FoldScores, name: str) -> float:
        sign = 1.0 if modes[name] == "max" else -1.0
        return sign * (one.metrics[name] - one.baseline.get(name, math.nan))

    kind, folds, repeats = of
    found = Folded(
        kind=kind,
        folds=folds,
        repeats=repeats,
        metric=metric,
        modes={name: modes[name] for name in names},
        confidence=confidence,
        nested=nested,
        of_trial=of_trial,
        each=tuple(each),
        winner=of_all(lambda one, name: one.metrics[name]),
        baseline=of_all(lambda one, name: one.baseline.get(name, math.nan)),
        gains=of_all(gain),
    )
    return Folded(**{**vars(found), "sentences": _sentences(found, searched)})


def _sentences(found: Folded, searched: bool) -> tuple[str, ...]:
    said = []
    if found.nested:
        said.append(
            "Each fold had a search of its own, so nothing that was chosen has seen the rows that it is measured on. "
            "What is measured is the page with its search, not one network."
        )
    elif searched:
        said.append(
            f"The values of trial {found.of_trial} were chosen by rows that are held out here, so these scores are a "
            "little too kind. evaluate.nested: true searches anew inside each fold."
        )
    failed = [one for one in found.each if one.failed]
    if failed:
        said.append(f"{len(failed)} of {len(found.each)} folds failed and are left out: {failed[0].failed}")
    undefined = [name for name, mean in found.winner.items() if mean.folds < len(found.each) - len(failed)]
    if undefined:
        said.append(f"Not defined in every fold, and left out there: {', '.join(undefined)}.")
    if found.kind == "time":
        said.append(
            "Later folds have more to learn from than earlier ones, so the deviation holds that too, and the interval "
            "is a rough one."
        )
    return tuple(said)


__all__ = ["FoldScores", "Folded", "Mean", "corrected", "summed_up"]
