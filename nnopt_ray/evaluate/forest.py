"""Functional ANOVA on a random forest: which inputs a function's differences come from.

Hutter, Hoos & Leyton-Brown 2014, "An Efficient Approach for Assessing Hyperparameter Importance": a regression tree
is constant on boxes, so the mean of its prediction over all other inputs (the marginal) and the variance of that mean
are sums over its leaves. The meaning, and the numbers, are those of optuna's FanovaImportanceEvaluator with the same
forest; that one walks each tree once for every threshold in Python , here
a marginal is one cumulative sum over the ends of the boxes (0.03 s).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

TREES = 64  # as optuna


@dataclass(frozen=True)
class Boxes:
    """The leaves of one tree over the unit cube: what it predicts, and the box where. low, high [leaves, inputs]."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def volume(self) -> np.ndarray:
        size: np.ndarray = np.prod(self.high - self.low, axis=1)
        return size

    @property
    def mean(self) -> float:
        return float(self.value @ self.volume)

    @property
    def variance(self) -> float:
        return float((self.value - self.mean) ** 2 @ self.volume)


def fit(x: np.ndarray, y: np.ndarray, seed: int, trees: int = TREES, least: int = 1, told: bool = False) -> Any:
    """A random forest of regression trees, each grown on a bootstrap sample until a leaf has `least` rows.

    x: float64 [rows, inputs] in the unit cube. y: float64 [rows]. told: `oob_score_` is R² of each row as foretold by
    the trees that did not learn from it; every row needs one, so it takes TREES of them.
    """
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(
        n_estimators=trees, min_samples_leaf=least, random_state=seed % 2**32, oob_score=_explained if told else False
    )
    return forest.fit(x, y)


def _explained(y: np.ndarray, said: np.ndarray) -> float:
    from sklearn.metrics import r2_score

    return float(r2_score(y, said))


def boxes(tree: Any, inputs: int) -> Boxes:
    """The leaves of a fitted tree of scikit-learn."""
    nodes = tree.tree_
    low, high = np.zeros((nodes.node_count, inputs)), np.ones((nodes.node_count, inputs))
    # A node's children come after it.
    for node in range(nodes.node_count):
        left, right, split = nodes.children_left[node], nodes.children_right[node], nodes.feature[node]
        if left < 0:
            continue
        for child in (left, right):
            low[child], high[child] = low[node], high[node]
        high[left, split] = low[right, split] = nodes.threshold[node]
    leaves = nodes.children_left < 0
    return Boxes(nodes.value[leaves, 0, 0].astype(np.float64), low[leaves], high[leaves])


def marginal(leaves: Boxes, feature: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean prediction as a step function of one input, over all values of the others.

    → (ends [steps + 1] from 0 to 1, values [steps])
    """
    width = leaves.high[:, feature] - leaves.low[:, feature]
    share = leaves.volume / width  # of the other inputs' cube
    ends, place = np.unique(np.concatenate([leaves.low[:, feature], leaves.high[:, feature]]), return_inverse=True)
    count = len(leaves.value)
    jumps = np.zeros(len(ends))
    np.add.at(jumps, place[:count], leaves.value * share)
    np.subtract.at(jumps, place[count:], leaves.value * share)
    return ends, np.cumsum(jumps)[:-1]


def main_variance(leaves: Boxes, feature: int) -> float:
    """Of the marginal: the part of the tree's variance that one input alone makes."""
    ends, values = marginal(leaves, feature)
    return float(np.clip((values - leaves.mean) ** 2 @ np.diff(ends), 0.0, None))


def pair_variance(leaves: Boxes, one: int, other: int) -> float:
    """The variance of the marginal of two inputs together, their own parts included."""
    share = leaves.volume / np.prod(leaves.high[:, [one, other]] - leaves.low[:, [one, other]], axis=1)
    count, weight = len(leaves.value), leaves.value * share
    grids = [
        np.unique(np.concatenate([leaves.low[:, at], leaves.high[:, at]]), return_inverse=True) for at in (one, other)
    ]
    jumps = np.zeros([len(ends) for ends, _ in grids])
    for sign, first, second in ((1, 0, 0), (-1, 0, 1), (-1, 1, 0), (1, 1, 1)):
        rows, columns = (
            place[corner * count : (corner + 1) * count]
            for (_, place), corner in zip(grids, (first, second), strict=True)
        )
        np.add.at(jumps, (rows, columns), sign * weight)
    values = np.cumsum(np.cumsum(jumps, axis=0), axis=1)[:-1, :-1]
    (ends, _), (across, _) = grids
    return float(np.diff(ends) @ (values - leaves.mean) ** 2 @ np.diff(across))


def on_grid(leaves: Boxes, feature: int, at: np.ndarray) -> np.ndarray:
    """The marginal at these places of the unit interval."""
    ends, values = marginal(leaves, feature)
    steps: np.ndarray = values[np.clip(np.searchsorted(ends, at, side="right") - 1, 0, len(values) - 1)]
    return steps
