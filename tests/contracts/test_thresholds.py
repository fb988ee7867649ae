"""Every aim of a threshold: the best of all cuts there are, found by trying each."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_ray import tables
from nnopt_ray.evaluate import THRESHOLDS
from nnopt_ray.evaluate.threshold import Aim, cuts_of
from nnopt_ray.tables import Part

Told = tuple[float, ...]  # larger is better, from the left


def shares(p: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall, and the share of the others that were left alone, as their definitions have them."""
    right = int((p & y).sum())
    return right / max(1, int(p.sum())), right / int(y.sum()), 1 - int((p & ~y).sum()) / int((~y).sum())


def _f1(p: np.ndarray, y: np.ndarray) -> Told:
    precision, recall, _ = shares(p, y)
    return (2 * precision * recall / (precision + recall) if recall else 0.0,)


def _balanced(p: np.ndarray, y: np.ndarray) -> Told:
    _, recall, alone = shares(p, y)
    return ((recall + alone) / 2,)


def _cost(p: np.ndarray, y: np.ndarray) -> Told:
    return (-(1.0 * (p & ~y).sum() + 7.0 * (~p & y).sum()),)


def _precision(p: np.ndarray, y: np.ndarray) -> Told:
    precision, recall, _ = shares(p, y)
    return (1, recall, precision) if precision >= 0.6 else (0, precision, recall)


def _recall(p: np.ndarray, y: np.ndarray) -> Told:
    precision, recall, _ = shares(p, y)
    return float(recall >= 0.8), precision, recall


CASES: list[tuple[str, dict[str, Any], Callable[[np.ndarray, np.ndarray], Told] | None]] = [
    ("at", {}, None),
    ("at", {"probability": 0.3}, None),
    ("f1", {}, _f1),
    ("balanced_accuracy", {}, _balanced),
    ("precision", {"at_least": 0.6}, _precision),
    ("recall", {"at_least": 0.8}, _recall),
    ("cost", {"false_negative": 7.0}, _cost),
]


def made(name: str, keys: dict[str, Any]) -> Aim:
    aim: Aim = tables.build("threshold", Part(name, MappingProxyType(keys)))
    return aim


def test_each_is_tried() -> None:
    assert {name for name, _, _ in CASES} == set(THRESHOLDS)


@pytest.mark.parametrize(("name", "keys", "judge"), CASES, ids=[f"{name} {keys}" for name, keys, _ in CASES])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), rows=st.integers(3, 30), digits=st.integers(1, 3))
def test_no_threshold_is_better(
    name: str, keys: dict[str, Any], judge: Callable[..., Told] | None, seed: int, rows: int, digits: int
) -> None:
    draw = np.random.default_rng(seed)
    positive = draw.random(rows) < 0.3
    positive[:2] = True, False
    probability = np.round(draw.beta(1 + positive, 2.0), digits)  # with ties, and with 0 and 1
    cuts = cuts_of(probability, positive)
    assert cuts is not None
    chosen = made(name, keys).choose(cuts)
    assert 0 <= chosen <= 1
    if judge is None:
        assert chosen == keys.get("probability", 0.5)
        return
    tried = np.unique(
        np.concatenate([probability, (probability[:, None] + probability).ravel() / 2, [0.0, 0.5, 0.9999]])
    )
    best = max(judge(probability >= cut, positive) for cut in tried)
    given = judge(probability >= chosen, positive)
    assert given == pytest.approx(best)
    # Of equals the nearest to 0.5.
    near = [cut for cut in cuts.thresholds if np.allclose(judge(probability >= cut, positive), best, atol=1e-12)]
    assert abs(chosen - 0.5) == pytest.approx(min(abs(cut - 0.5) for cut in near))
    if np.allclose(judge(probability >= 0.5, positive), best, atol=1e-12):
        assert chosen == 0.5


@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), rows=st.integers(3, 25))
def test_cuts_are_scikit_learns_curves(seed: int, rows: int) -> None:
    draw = np.random.default_rng(seed)
    positive = draw.random(rows) < 0.4
    positive[:2] = True, False
    probability = np.round(draw.random(rows), 2)
    cuts = cuts_of(probability, positive)
    assert cuts is not None
    assert (np.diff(cuts.thresholds) > 0).all()
    for cut, precision, recall, f1, balanced in zip(
        cuts.thresholds, cuts.precision, cuts.recall, cuts.f1, cuts.balanced_accuracy, strict=True
    ):
        said = probability >= cut
        assert precision == pytest.approx(sk.precision_score(positive, said, zero_division=0))
        assert recall == pytest.approx(sk.recall_score(positive, said))
        assert f1 == pytest.approx(sk.f1_score(positive, said, zero_division=0))
        assert balanced == pytest.approx(sk.balanced_accuracy_score(positive, said))
    assert len(cuts.thresholds) == len(np.unique(probability)) + (probability.max() < 1)


def test_neighbours_among_floats_are_told_apart() -> None:
    probability = np.array([0.3, np.nextafter(0.3, 1), 0.3])
    positive = np.array([False, True, False])
    cuts = cuts_of(probability, positive)
    assert cuts is not None
    assert ((probability >= made("f1", {}).choose(cuts)) == positive).all()


def test_without_both_classes_there_is_nothing_to_choose() -> None:
    assert cuts_of(np.array([0.1, 0.9]), np.array([True, True])) is None
    assert cuts_of(np.array([0.1, 0.9]), np.array([False, False])) is None


def test_a_precision_that_none_reaches_is_said() -> None:
    cuts = cuts_of(np.array([0.9, 0.8, 0.2, 0.1]), np.array([False, True, False, True]))
    assert cuts is not None
    aim = made("precision", {"at_least": 0.9})
    assert "No threshold gives a precision of 0.9" in aim.missed(cuts)
    assert aim.choose(cuts) in cuts.thresholds[cuts.precision == 0.5]
    assert not made("precision", {"at_least": 0.4}).missed(cuts)
