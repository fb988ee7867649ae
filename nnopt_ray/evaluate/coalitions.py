"""SHAP values and LIME by what a network says when some of a row's features are there and the others are not.

coalitions  bool [coalitions, features], which features are there
values      float64 [rows, coalitions], what is said then
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from nnopt_ray.errors import UserError


@dataclass(frozen=True, eq=False)
class Coalitions:
    """present: bool [coalitions, features], neither empty nor whole; weights: float64 [coalitions], of sum 1.

    exact: these are all there are, so that no chance is in what follows from them.
    """

    present: np.ndarray
    weights: np.ndarray
    exact: bool


def shapley_kernel(features: int, most: int, seed: int) -> Coalitions:
    """Coalitions with the weights of Kernel SHAP (Lundberg & Lee 2017, arXiv:1705.07874, theorem 2).

    All of them where they are at most `most`. Else the sizes that weigh most, those of a few features and of all but a
    few, are there in full as far as they fit, and the weight of the others is shared by coalitions that are drawn in
    pairs with what they leave out (Covert & Lee 2021, arXiv:2012.01536). There are four for each feature at least: each
    by itself and all but it, which determine the values, and as many of the sizes between, which weigh more.
    """
    sizes = np.arange(1, features)
    total = (features - 1) / (sizes * (features - sizes))
    total = total / total.sum() if features > 1 else total
    found: list[np.ndarray] = []
    weights: list[float] = []
    left, done = max(most, 4 * features), 0
    for size in range(1, features // 2 + 1):
        both = (size, features - size) if size != features - size else (size,)
        if comb(features, size) * len(both) > left:
            break
        for one in both:
            share = float(total[one - 1]) / comb(features, one)
            for inside in combinations(range(features), one):
                row = np.zeros(features, dtype=bool)
                row[list(inside)] = True
                found.append(row)
                weights.append(share)
        left -= comb(features, size) * len(both)
        done = size
    exact = done == features // 2 or features == 1
    if not exact and left >= 2:
        drawn = _drawn(features, done, total, left, np.random.default_rng(seed))
        rest = 1.0 - sum(weights)
        every = sum(drawn.values())
        for key, times in drawn.items():
            found.append(np.frombuffer(key, dtype=bool))
            weights.append(rest * times / every)
    present = np.array(found, dtype=bool).reshape(len(found), features)
    shares = np.array(weights)
    return Coalitions(present, shares / shares.sum() if len(shares) else shares, exact)


def _drawn(features: int, done: int, total: np.ndarray, most: int, draws: np.random.Generator) -> Counter[bytes]:
    """Coalitions of the sizes beyond `done` at both ends → how often they were drawn."""
    inner = np.arange(done + 1, features - done)
    odds = total[inner - 1] / total[inner - 1].sum()
    drawn: Counter[bytes] = Counter()
    for size in draws.choice(inner, size=most // 2, p=odds):
        row = np.zeros(features, dtype=bool)
        row[draws.choice(features, size=size, replace=False)] = True
        drawn[row.tobytes()] += 1
        drawn[(~row).tobytes()] += 1
    return drawn


def shapley(values: np.ndarray, empty: np.ndarray, whole: np.ndarray, chosen: Coalitions) -> np.ndarray:
    """SHAP values float64 [rows, features], which add up to whole - empty.

    empty, whole: float64 [rows], what is said when no feature is there and when all are. They solve the weighted least
    squares of Kernel SHAP with that sum as a constraint (by its Lagrange multiplier).
    """
    present = chosen.present.astype(np.float64)
    gain = whole - empty
    if present.shape[1] == 1:
        only: np.ndarray = gain[:, None]
        return only
    weighted = present * chosen.weights[:, None]
    inverse = np.linalg.inv(present.T @ weighted)
    free = (values - empty[:, None]) @ weighted @ inverse
    solved: np.ndarray = free - inverse.sum(axis=0) * ((free.sum(axis=1) - gain) / inverse.sum())[:, None]
    return solved


def neighbours(features: int, samples: int, width: float, seed: int) -> Coalitions:
    """Coalitions as LIME draws them: how many features go is even among all numbers, and which is by lot; the weight is
    the square root of exp(-d² / w²), d the distance from the whole row, w the square root of the features times
    `width` (Ribeiro et al. 2016, arXiv:1602.04938; the kernel of their package, whose width is 0.75)."""
    draws = np.random.default_rng(seed)
    present = np.ones((samples, features), dtype=bool)
    for row in present[1:] if features else ():  # the first is the row as it is
        row[draws.choice(features, size=draws.integers(1, features + 1), replace=False)] = False
    gone = (~present).sum(axis=1)
    return Coalitions(present, np.sqrt(np.exp(-gone / (width**2 * max(features, 1)))), False)


def local_linear(values: np.ndarray, chosen: Coalitions, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """The weights float64 [rows, features] and intercepts [rows] of LIME's linear model, a weighted ridge regression.

    alpha: the ridge's penalty, not on the intercept. Raises UserError where the samples do not determine it.
    """
    weights, present = chosen.weights, chosen.present.astype(np.float64)
    means = weights @ present / weights.sum()
    middle = values @ weights / weights.sum()
    centred = present - means
    matrix = centred.T @ (centred * weights[:, None]) + alpha * np.eye(present.shape[1])
    if np.linalg.matrix_rank(matrix) < len(matrix):
        raise UserError(
            f"lime: {len(present):,} samples do not tell the part of {present.shape[1]:,} features. Give more samples."
        )
    slopes = (values - middle[:, None]) @ (centred * weights[:, None]) @ np.linalg.inv(matrix)
    return slopes, middle - slopes @ means


__all__ = ["Coalitions", "local_linear", "neighbours", "shapley", "shapley_kernel"]
