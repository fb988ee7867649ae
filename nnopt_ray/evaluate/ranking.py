"""Metrics of the order in which rows are put by their probability. Shapes as in metrics.py."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nnopt_ray.evaluate.metrics import Given, Metric, Mode, softmax
from nnopt_ray.evaluate.units import Resampler, Units


class Ranked:
    """Rows put in order by what they are scored for one class, those of the class being positive."""

    def __init__(self, score: np.ndarray, positive: np.ndarray) -> None:
        self.order = np.argsort(score)  # rows of one score count together, so their order is of no account
        self.positive = positive[self.order]
        ends = np.flatnonzero(np.diff(score[self.order])) + 1
        self.starts = np.append(0, ends)  # of each tie
        self.ends = np.append(ends, len(score))

    @cached_property
    def tie(self) -> np.ndarray:
        """int64 [rows]: the tie that each row of the order is in."""
        return np.repeat(np.arange(len(self.ends)), self.ends - self.starts)

    @cached_property
    def positives(self) -> np.ndarray:
        """int64 [rows + 1]: how many positives are among the first 0, 1, ... rows of the order."""
        return np.append(0, np.cumsum(self.positive))

    @cached_property
    def is_positive(self) -> np.ndarray:
        """bool [rows], in their own order."""
        found = np.empty(len(self.order), dtype=bool)
        found[self.order] = self.positive
        return found

    def of_rows(self, values: np.ndarray) -> np.ndarray:
        """float64 [rows]: the value of each tie for its rows, in their own order."""
        found = np.empty(len(self.order))
        found[self.order] = values[self.tie]
        return found


@dataclass(frozen=True)
class Nearly:
    """An area as a function of sums over the drawn rows. values: each float64 [rows]; finish: from their sums, each
    [resamples], to [resamples]."""

    values: tuple[np.ndarray, ...]
    finish: Callable[..., np.ndarray]


class Area(Metric):
    """A metric of each class against the rest; `one` is that of one class, `near` what it is nearly, for many rows."""

    mode: Mode = "max"
    tasks: tuple[str, ...] = ("classification",)
    one: Callable[[Ranked], Resampler]
    near: Callable[[Ranked], Nearly]

    def __init__(self, positive: int = 1) -> None:
        """positive: of two classes the one that is ranked."""
        self._positive = positive

    def given(self, data: Given) -> Metric:
        return type(self)(data.positive)

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        if not np.isfinite(outputs).all():
            return math.nan
        return float(self.average(self.by_class(outputs, target)[:, None])[0])

    def by_class(self, outputs: np.ndarray, target: np.ndarray) -> np.ndarray:
        """float64 [classes]: each class against the rest; NaN for a class without rows, and where there is no other."""
        every = np.ones((len(target), 1))
        return np.array([type(self).one(ranked)(every)[0] for ranked in rankings(outputs, target)])

    def class_resampler(self, outputs: np.ndarray, target: np.ndarray, units: Units | None = None) -> Resampler:
        units = units or Units(len(target))
        classes = rankings(outputs, target)
        if units.group is None:
            areas = [type(self).one(ranked) for ranked in classes]
            return lambda counts: np.stack([area(counts) for area in areas])
        sums, finishes = [], []
        for ranked in classes:  # one after another, as the values of all rows take room
            near = type(self).near(ranked)
            sums.append(np.stack([units.sums(values) for values in near.values]))
            finishes.append(near.finish)
        together, places = np.concatenate(sums), np.cumsum([len(each) for each in sums])[:-1]

        def nearly(counts: np.ndarray) -> np.ndarray:
            drawn = np.split(together @ counts, places)  # one product of matrices for all classes
            return np.stack([finish(*totals) for finish, totals in zip(finishes, drawn, strict=True)])

        return nearly

    def average(self, by_class: np.ndarray) -> np.ndarray:
        value: np.ndarray = by_class[self._positive] if len(by_class) == 2 else by_class.mean(axis=0)
        return value

    def resampler(self, outputs: np.ndarray, target: np.ndarray, units: Units | None = None) -> Resampler:
        by_class = self.class_resampler(outputs, target, units)
        return lambda counts: self.average(by_class(counts))

    def why_undefined(self, target: np.ndarray, classes: Sequence[str]) -> str:
        absent = [name for index, name in enumerate(classes) if not (target == index).any()]
        if not absent:
            return super().why_undefined(target, classes)
        return f"class {', '.join(repr(name) for name in absent)} has no row here"


@dataclass(frozen=True)
class _Kept:
    outputs: weakref.ref[np.ndarray]
    target: weakref.ref[np.ndarray]
    ranked: list[Ranked]


_kept: list[_Kept] = []  # at most one


def rankings(outputs: np.ndarray, target: np.ndarray) -> list[Ranked]:
    """The order of the rows for each class: of two classes by the difference of the logits, else by probability.

    What was found last is kept for arrays that cannot be written to, as long as they live: two metrics and their
    intervals ask for it, and sorting a million rows takes 0.3 s for each class.
    """
    if _kept and _kept[0].outputs() is outputs and _kept[0].target() is target:
        return _kept[0].ranked
    if outputs.shape[1] == 2:
        odds = outputs[:, 1].astype(np.float64) - outputs[:, 0]
        scores = [-odds, odds]
    else:
        scores = list(softmax(outputs).T)
    ranked = [Ranked(score, target == index) for index, score in enumerate(scores)]
    _kept.clear()
    if not outputs.flags.writeable and not target.flags.writeable:
        _kept.append(_Kept(weakref.ref(outputs, _forget), weakref.ref(target, _forget), ranked))
    return ranked


def _forget(_: object) -> None:
    _kept.clear()


def area(ranked: Ranked) -> Resampler:
    """counts [rows, resamples] → [resamples]: the share of (positive, negative) pairs in which the positive scores
    higher, ties half.

    With every row sorted by score once, a resample is two weighted sums (Mann & Whitney's U).
    """
    first = np.flatnonzero(ranked.positive)
    # For each positive row: how many rows, and how many positives, lie below its tie and up to the tie's end.
    rows_below, rows_up_to = ranked.starts[ranked.tie[first]], ranked.ends[ranked.tie[first]]
    positives_below, positives_up_to = ranked.positives[rows_below], ranked.positives[rows_up_to]
    positive_rows = ranked.order[first]

    def share_of(counts: np.ndarray) -> np.ndarray:
        drawn = counts[positive_rows]
        rows, positives = running(counts[ranked.order]), running(drawn)
        negatives = rows[rows_below] - positives[positives_below] + rows[rows_up_to] - positives[positives_up_to]
        pairs = positives[-1] * (rows[-1] - positives[-1])
        with np.errstate(invalid="ignore"):
            share: np.ndarray = np.einsum("ij,ij->j", drawn, negatives) / 2 / pairs
        return share

    return share_of


def nearly_area(ranked: Ranked) -> Nearly:
    """The area over drawn units, but for a term of the order 1 / rows.

    Each row has its share of the pairs that it is in (the placements of DeLong, DeLong & Clarke-Pearson 1988,
    Biometrics 44); the resample's area is the mean of the positives' plus that of the negatives' less the area.
    """
    positives, negatives = int(ranked.positives[-1]), len(ranked.order) - int(ranked.positives[-1])
    if not positives or not negatives:
        return _undefined(len(ranked.order))
    up_to, below = ranked.positives[ranked.ends], ranked.positives[ranked.starts]
    negatives_share = (ranked.starts - below + ranked.ends - up_to) / 2 / negatives  # below a positive of this tie
    positives_share = 1 - (below + up_to) / 2 / positives  # above a negative of this tie
    positive = ranked.is_positive
    of_positives = np.where(positive, ranked.of_rows(negatives_share), 0.0)
    of_negatives = np.where(positive, 0.0, ranked.of_rows(positives_share))
    whole = of_positives.sum() / positives

    def finish(above: np.ndarray, first: np.ndarray, below: np.ndarray, other: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            share: np.ndarray = above / first + below / other - whole
        return share

    return Nearly((of_positives, positive, of_negatives, ~positive), finish)


def _undefined(rows: int) -> Nearly:
    return Nearly((np.zeros(rows),), lambda drawn: np.full(len(drawn), math.nan))


def running(counts: np.ndarray) -> np.ndarray:
    """[rows + 1, resamples]: sums of the first 0, 1, ... rows."""
    sums = np.zeros((len(counts) + 1, counts.shape[1]))
    np.cumsum(counts, axis=0, out=sums[1:])
    return sums


def average_precision(ranked: Ranked) -> Resampler:
    """counts [rows, resamples] → [resamples]: the precision at each score that occurs, weighted by the recall gained
    there.

    Rows of one score count together. NaN where no positive row is drawn, or no other.
    """
    order, positive = ranked.order[::-1], ranked.positive[::-1]
    ends = len(order) - ranked.starts[::-1]  # behind the rows of one score

    def precision_of(counts: np.ndarray) -> np.ndarray:
        drawn = counts[order]
        rows = running(drawn)[ends]
        right = running(drawn * positive[:, None])[np.append(0, ends)]
        precision = np.divide(right[1:], rows, out=np.zeros_like(rows), where=rows > 0)
        total = np.where(right[-1] < rows[-1], right[-1], np.nan)  # nothing is put in order where there is no other
        with np.errstate(invalid="ignore"):
            value: np.ndarray = (np.diff(right, axis=0) * precision).sum(axis=0) / total
        return value

    return precision_of


def nearly_average_precision(ranked: Ranked) -> Nearly:
    """The average precision over drawn units, but for a term of the order 1 / rows.

    It is the mean over the drawn positives of the precision at their score. How that precision moves with what else is
    drawn is taken by its derivative: a row counts, at each positive i that does not score higher, with (1 - precision
    of i) / rows up to i where it is positive and with -precision of i / rows up to i where it is not.
    """
    positives = int(ranked.positives[-1])
    if not positives or positives == len(ranked.order):
        return _undefined(len(ranked.order))
    rows = len(ranked.order) - ranked.starts  # of this tie's score or higher
    right = positives - ranked.positives[ranked.starts]
    precision = right / rows
    here = ranked.positives[ranked.ends] - ranked.positives[ranked.starts]  # positives of each tie
    gained = np.cumsum(here / rows)  # over all ties of this score or lower
    lost = np.cumsum(here * precision / rows)
    positive = ranked.is_positive
    own = np.where(positive, ranked.of_rows(precision), 0.0)
    moved = np.where(positive, ranked.of_rows(gained - lost), ranked.of_rows(-lost))

    def finish(own: np.ndarray, moved: np.ndarray, first: np.ndarray, other: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            value: np.ndarray = own / first + moved / positives
        return np.where(other > 0, value, np.nan)

    return Nearly((own, moved, positive, ~positive), finish)


class RocAuc(Area):
    """Area under the ROC curve: how often a row of a class ranks above a row of another, ties half.

    Two classes: by the difference of the logits. More: each class against the rest by its
    probability, then the plain mean (scikit-learn's roc_auc_score, multi_class="ovr",
    average="macro"). NaN when a class has no row.
    """

    one = staticmethod(area)
    near = staticmethod(nearly_area)


class PrAuc(Area):
    """Average precision: the area under the precision-recall curve as a sum of steps, not of trapezoids.

    Two classes: of the positive one (evaluate.positive of the page). More: each class against the rest, then the
    plain mean (scikit-learn's average_precision_score, average="macro"). Guessing has the share of the class. NaN
    when a class has no row.
    """

    one = staticmethod(average_precision)
    near = staticmethod(nearly_average_precision)
