"""Categories as the mean of the target among their rows, the training rows by cross-fitting.

The meaning is that of scikit-learn's TargetEncoder (its user guide, "Target Encoder"; Micci-Barreca, A preprocessing
scheme for high-cardinality categorical attributes in classification and prediction problems, SIGKDD Explorations 2001,
equations 3 to 7). A category's number is drawn towards the mean of all, the more the fewer rows it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from nnopt_ray.data.target import Target
from nnopt_ray.errors import DataError
from nnopt_ray.machine import derived_seed

Smooth = Literal["auto"] | float


def labels(target: Target) -> tuple[str, ...]:
    """One for each column that is made of a column: the classes where there are more than two, else the empty one."""
    return target.classes if len(target.classes) > 2 else ("",)


def _outputs(target: Target) -> Iterator[np.ndarray]:
    """Behind each label, what is averaged: float64 [rows]; of two classes whether a row is of the second."""
    if target.task == "regression":
        yield target.values.astype(np.float64)
        return
    for number in range(len(target.classes)) if len(target.classes) > 2 else (1,):
        yield (target.values == number).astype(np.float64)


def learned(positions: np.ndarray, size: int, target: Target, smooth: Smooth) -> list[list[float]]:
    """For each label the numbers of `size` categories and, last, that of all others: the mean of these rows.

    positions: int64 [rows], each row's category, -1 where it is none of them.
    """
    return [_means(positions, size, values, smooth).tolist() for values in _outputs(target)]


def _means(positions: np.ndarray, size: int, values: np.ndarray, smooth: Smooth) -> np.ndarray:
    """float64 [size + 1]; a category without rows has the mean of all."""
    mean = float(np.mean(values))
    met = positions >= 0
    where, values_met = positions[met], values[met]
    counts = np.bincount(where, minlength=size).astype(np.float64)
    sums = np.bincount(where, values_met, minlength=size)
    with np.errstate(divide="ignore", invalid="ignore"):
        if smooth == "auto":
            # Empirical Bayes: the variance of the target within the category against that among all rows.
            means = sums / counts
            within = np.bincount(where, (values_met - means[where]) ** 2, minlength=size) / counts
            among = float(np.var(values)) * counts
            trust = among / (among + within)
            found = trust * means + (1 - trust) * mean
        else:
            found = (sums + smooth * mean) / (counts + smooth)
    return np.append(np.where(np.isnan(found), mean, found), mean)


def folds(target: Target, count: int, seed: int) -> np.ndarray:
    """int64 [rows]: the fold of each row. Folds differ by at most one row, and by one row of each class."""
    if len(target.values) < 2:
        raise DataError(
            "data.steps: encode with method: target needs two training rows or more, as no row is encoded by its own "
            "target. Give the training part more rows, or use another method."
        )
    order = np.random.default_rng(derived_seed(seed, "target encoding", "folds")).permutation(len(target.values))
    if target.task == "classification":
        order = order[np.argsort(target.values[order], kind="stable")]
    fold = np.empty(len(order), dtype=np.int64)
    fold[order] = np.arange(len(order)) % count
    return fold


def out_of_fold(positions: np.ndarray, size: int, target: Target, smooth: Smooth, fold: np.ndarray) -> list[np.ndarray]:
    """For each label the numbers of the rows, float64 [rows], each learned from the rows of the other folds alone."""
    found = []
    for values in _outputs(target):
        numbers = np.empty(len(positions))
        for number in np.unique(fold):
            held = fold == number
            numbers[held] = _means(positions[~held], size, values[~held], smooth)[positions[held]]
        found.append(numbers)
    return found


__all__ = ["Smooth", "folds", "labels", "learned", "out_of_fold"]
