"""Metrics of the order in which rows are put by their probability. Shapes as in metrics.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from nnopt_ray.evaluate.metrics import Metric, Mode, Resampler, softmax


class _Area(Metric):
    """A metric of each class against the rest; `one` is that of one class."""

    mode: Mode = "max"
    tasks: tuple[str, ...] = ("classification",)
    one: Callable[[np.ndarray, np.ndarray], Resampler]

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        if not np.isfinite(outputs).all():
            return math.nan
        return float(self.resampler(outputs, target)(np.ones((len(target), 1)))[0])

    def resampler(self, outputs: np.ndarray, target: np.ndarray) -> Resampler:
        areas = [type(self).one(score, target == index) for index, score in class_scores(outputs)]
        return lambda counts: np.mean([area(counts) for area in areas], axis=0)

    def by_class(self, outputs: np.ndarray, target: np.ndarray) -> list[float]:
        """The value of each class against the rest; NaN for a class without rows, and where there is no other."""
        scores = dict(class_scores(outputs)) if outputs.shape[1] > 2 else {0: _odds(outputs, 0), 1: _odds(outputs, 1)}
        every = np.ones((len(target), 1))
        return [float(type(self).one(score, target == index)(every)[0]) for index, score in scores.items()]

    def why_undefined(self, target: np.ndarray, classes: Sequence[str]) -> str:
        absent = [name for index, name in enumerate(classes) if not (target == index).any()]
        if not absent:
            return super().why_undefined(target, classes)
        return f"class {', '.join(repr(name) for name in absent)} has no row here"


def _odds(outputs: np.ndarray, positive: int) -> np.ndarray:
    odds: np.ndarray = outputs[:, positive].astype(np.float64) - outputs[:, 1 - positive]
    return odds


def class_scores(outputs: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """What rows are ranked by, for each class that is ranked: of two classes the second, by the logits' difference."""
    return [(1, _odds(outputs, 1))] if outputs.shape[1] == 2 else list(enumerate(softmax(outputs).T))


def area(score: np.ndarray, positive: np.ndarray) -> Resampler:
    """counts → [resamples]: the share of (positive, negative) pairs in which the positive scores higher, ties half.

    With every row sorted by score once, a resample is two weighted sums (Mann & Whitney's U).
    """
    order = np.argsort(score, kind="stable")
    score, positive = score[order], positive[order]
    first = np.flatnonzero(positive)
    # For each positive row: how many rows, and how many positives, lie below its tie and up to the tie's end.
    rows_below, rows_up_to = (np.searchsorted(score, score[first], side) for side in ("left", "right"))
    positives_up_to_row = np.append(0, np.cumsum(positive))
    positives_below, positives_up_to = positives_up_to_row[rows_below], positives_up_to_row[rows_up_to]
    positive_rows = order[first]

    def share_of(counts: np.ndarray) -> np.ndarray:
        drawn = counts[positive_rows]
        rows, positives = running(counts[order]), running(drawn)
        negatives = rows[rows_below] - positives[positives_below] + rows[rows_up_to] - positives[positives_up_to]
        pairs = positives[-1] * (rows[-1] - positives[-1])
        with np.errstate(invalid="ignore"):
            share: np.ndarray = np.einsum("ij,ij->j", drawn, negatives) / 2 / pairs
        return share

    return share_of


def running(counts: np.ndarray) -> np.ndarray:
    """[rows + 1, resamples]: sums of the first 0, 1, ... rows."""
    sums = np.zeros((len(counts) + 1, counts.shape[1]))
    np.cumsum(counts, axis=0, out=sums[1:])
    return sums


def average_precision(score: np.ndarray, positive: np.ndarray) -> Resampler:
    """counts → [resamples]: the precision at each score that occurs, weighted by the recall gained there.

    Rows of one score count together. NaN where no positive row is drawn, or no other.
    """
    order = np.argsort(-score, kind="stable")
    score, positive = score[order], positive[order]
    ends = np.append(np.flatnonzero(np.diff(score)), len(score) - 1) + 1  # behind the rows of one score

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


class RocAuc(_Area):
    """Area under the ROC curve: how often a row of a class ranks above a row of another, ties half.

    Two classes: by the difference of the logits. More: each class against the rest by its
    probability, then the plain mean (scikit-learn's roc_auc_score, multi_class="ovr",
    average="macro"). NaN when a class has no row.
    """

    one = staticmethod(area)


class PrAuc(_Area):
    """Average precision: the area under the precision-recall curve as a sum of steps, not of trapezoids.

    Two classes: of the second one (in sorted order), so name the rare class to come last, or read the table of the
    classes. More: each class against the rest, then the plain mean (scikit-learn's average_precision_score,
    average="macro"). Guessing has the share of the class. NaN when a class has no row.
    """

    one = staticmethod(average_precision)
