"""Intervals of classes and of large parts: exact where rows are drawn, near enough where groups of them are."""

from __future__ import annotations

import gc
import math
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from scipy.special import softmax
from scipy.stats import binomtest
from test_evaluate import dataset_of

from nnopt_ray import reading
from nnopt_ray.data.types import Dataset
from nnopt_ray.evaluate import intervals, ranking, units
from nnopt_ray.evaluate.by_class import all_or_none
from nnopt_ray.evaluate.evaluate import page_loss, score
from nnopt_ray.evaluate.intervals import interval, resample
from nnopt_ray.evaluate.metrics import Given, Metric, for_task, metric_for
from nnopt_ray.evaluate.units import Units
from nnopt_ray.train.losses import CrossEntropy, Loss

TASKS = ("classification", "regression")


def page(**sections: Any) -> Any:
    data = {"source": {"type": "sklearn", "name": "digits"}}
    return reading.from_tree({"data": data, "model": "mlp", "seed": 3, **sections})


def sample(task: str, rows: int, outputs: int, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    if task == "regression":
        true = draw.normal(5, 2, size=(rows, outputs))
        return true + draw.standard_t(5, size=(rows, outputs)), true
    true = draw.choice(outputs, rows, p=np.arange(1, outputs + 1) / sum(range(outputs + 1)))
    said = draw.normal(size=(rows, outputs)).astype(np.float32)
    said[np.arange(rows), true] += 1.0
    return (np.round(2 * said) / 2 if ties else said), true


# --- groups of rows -----------------------------------------------------------------------------


def test_groups_are_of_one_size_and_hold_each_row_once() -> None:
    made = Units.of(12_345, seed=1)
    assert made.group is not None
    assert np.ptp(np.bincount(made.group)) <= 1
    assert sorted(np.concatenate(made.members()).tolist()) == list(range(12_345))
    counts = np.zeros(made.count)
    counts[[3, 9]] = 2, 1
    members = made.members()
    assert sorted(made.drawn(counts)) == sorted([*members[3], *members[3], *members[9]])
    assert Units.of(units.DRAWN_SINGLY, seed=1).group is None


@pytest.mark.parametrize(("task", "name"), [(task, name) for task in TASKS for name in for_task(task)])
def test_a_metric_of_groups_is_the_metric_of_their_rows(task: str, name: str) -> None:
    """Exactly, but for the areas, which leave a term of the order 1 / rows."""
    metric = metric_for(name)
    for outputs in (2, 4):
        said, true = sample(task, 3000, outputs, ties=True)
        made = Units(40, np.random.default_rng(2).permutation(3000) % 40)
        counts = next(intervals.blocks(40, 25, seed=3))
        found = metric.resampler(said, true, made)(counts)
        exact = np.array([metric(said[rows], true[rows]) for rows in map(made.drawn, counts.T)])
        if name in ("roc_auc", "pr_auc"):
            assert np.sqrt(np.square(found - exact).mean()) < 0.1 * exact.std()
        else:
            assert found == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("task", "name"), [(task, name) for task in TASKS for name in for_task(task)])
def test_the_interval_of_a_large_part_is_that_of_its_rows(
    task: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, true = sample(task, 4000, 3)
    rows = resample({"it": metric_for(name)}, said, true, resamples=600, seed=1)["it"].values
    monkeypatch.setattr(units, "DRAWN_SINGLY", 1000)
    groups = resample({"it": metric_for(name)}, said, true, resamples=600, seed=1)["it"].values
    assert len(groups) == 600
    # Of 600 resamples a deviation is known to 3 %, of 1000 groups to 2 %: two such differ by 5 %, and 4 times that is
    # never met by chance.
    assert groups.std() == pytest.approx(rows.std(), rel=0.2)
    assert groups.mean() == pytest.approx(rows.mean(), abs=0.2 * rows.std())


def test_areas_without_positives_or_without_others_are_not_defined_in_groups_either() -> None:
    said, _ = sample("classification", 300, 2)
    made = Units(10, np.arange(300) % 10)
    for true in (np.zeros(300, np.int64), np.ones(300, np.int64)):
        for name in ("roc_auc", "pr_auc"):
            assert np.isnan(metric_for(name).resampler(said, true, made)(np.ones((10, 3)))).all()


def test_a_rare_class_that_was_not_drawn_leaves_a_gap() -> None:
    said, true = sample("classification", 200, 2)
    true[:] = 0
    true[:2] = 1
    made = Units(20, np.arange(200) % 20)
    counts = np.ones((20, 2))
    counts[:2, 1] = 0
    for name in ("roc_auc", "pr_auc"):
        assert np.isnan(metric_for(name).resampler(said, true, made)(counts)).tolist() == [False, True]


# --- the loss -----------------------------------------------------------------------------------


class Looped(CrossEntropy):
    """A loss of a user's own that changes the mean: what each row of cross entropy has is no longer its."""

    def __call__(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return super().__call__(outputs, target) * 2


LOSSES: list[tuple[str, Any]] = [
    ("classification", "auto"),
    ("classification", {"type": "cross_entropy", "label_smoothing": 0.2, "class_weights": "balanced"}),
    ("classification", {"type": "cross_entropy", "class_weights": [1.0, 5.0, 0.5]}),
    ("classification", {"type": f"{__name__}:Looped", "class_weights": [1.0, 5.0, 0.5]}),
    ("regression", "auto"),
    ("regression", "mae"),
    ("regression", {"type": "huber", "delta": 0.4}),
]


def dataset(task: str) -> Dataset:
    draw = np.random.default_rng(0)
    if task == "classification":
        return dataset_of(draw.normal(size=(200, 4)), np.arange(200) % 3, ("a", "b", "c"))
    return dataset_of(draw.normal(size=(200, 4)), draw.normal(5, 2, size=(200, 2)), (), scaled=True)


@pytest.mark.parametrize(("task", "loss"), LOSSES, ids=str)
def test_the_loss_of_a_row_is_that_of_a_batch_of_it(task: str, loss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said, true = sample(task, 60, 3 if task == "classification" else 2)
    metric = page_loss(page(train={"loss": loss}), dataset(task))
    found = metric._by_unit(said, true, Units(60))  # type: ignore[misc]
    for kind in (Loss, *Loss.__subclasses__()):
        monkeypatch.setattr(kind, "by_row", lambda *_: None)  # one call a row
    looped = metric._by_unit(said, true, Units(60))  # type: ignore[misc]
    np.testing.assert_allclose(found, looped, rtol=2e-6)
    counts = next(intervals.blocks(60, 5, seed=1))
    expected = [metric(said[rows], true[rows]) for rows in map(Units(60).drawn, counts.T)]
    assert metric.resampler(said, true)(counts) == pytest.approx(expected, rel=1e-5)
    groups = Units(7, np.arange(60) % 7)
    counts = next(intervals.blocks(7, 5, seed=1))
    expected = [metric(said[rows], true[rows]) for rows in map(groups.drawn, counts.T)]
    assert metric.resampler(said, true, groups)(counts) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("task", "loss"), LOSSES, ids=str)
def test_the_loss_of_outputs_that_a_temperature_made_float64(task: str, loss: Any) -> None:
    said, true = sample(task, 60, 3 if task == "classification" else 2)
    metric = page_loss(page(train={"loss": loss}), dataset(task))
    assert metric(said.astype(np.float64), true) == pytest.approx(metric(said.astype(np.float32), true), rel=1e-6)


# --- each class ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three() -> Dataset:
    draw = np.random.default_rng(1)
    return dataset_of(draw.normal(size=(900, 4)), draw.choice(3, 900, p=[0.6, 0.3, 0.1]), ("a", "b", "c"))


def test_each_class_has_scikit_learns_values_and_an_interval_around_them(three: Dataset) -> None:
    said, _ = sample("classification", len(three.test), 3)
    true = np.asarray(three.test.target)
    said[np.arange(len(true)), true] += 0.7
    found = score(said, three.test, three, page(), "test")
    p, r, f, n = sk.precision_recall_fscore_support(true, said.argmax(1), zero_division=0)
    shares = softmax(said.astype(np.float64), axis=1)
    for index, row in enumerate(found.per_class):
        assert (row["precision"], row["recall"], row["f1"], row["rows"]) == pytest.approx(
            (p[index], r[index], f[index], n[index])
        )
        assert row["roc_auc"] == pytest.approx(sk.roc_auc_score(true == index, shares[:, index]))
        assert row["pr_auc"] == pytest.approx(sk.average_precision_score(true == index, shares[:, index]))
        assert set(row["intervals"]) == {"precision", "recall", "f1", "roc_auc", "pr_auc"}
        for name, (low, high) in row["intervals"].items():
            assert low < row[name] < high, name


def test_the_averages_are_those_of_the_classes_in_every_resample(three: Dataset) -> None:
    said, true = sample("classification", 150, 3)
    for name in ("precision", "f1", "roc_auc", "pr_auc"):
        drawn = resample({name: metric_for(name)}, said, true, resamples=30, seed=1)[name]
        assert drawn.by_class is not None
        assert drawn.values == pytest.approx(drawn.by_class.mean(axis=0))


def test_a_class_of_one_row_or_none_says_so(three: Dataset) -> None:
    keep = np.flatnonzero(three.test.target != 1)[:60]
    first = np.flatnonzero(three.test.target == 2)[0]
    keep = np.append(keep[three.test.target[keep] != 2], first)
    rows = type(three.test)((three.test.inputs[0][keep],), three.test.target[keep], three.test.source_rows[keep])
    said, _ = sample("classification", len(keep), 3)
    found = score(said, rows, three, page(evaluate={"bootstrap": 50}), "test")
    many, none, one = found.per_class
    assert set(many["intervals"]) == {"precision", "recall", "f1", "roc_auc", "pr_auc"}
    assert (none["rows"], none["note"], none["intervals"]) == (0, "no test row", {})
    assert math.isnan(none["roc_auc"])
    assert (one["rows"], one["intervals"]) == (1, {})
    assert one["note"] == "one test row: it shows no interval"
    assert math.isnan(found.metrics["roc_auc"])


def test_no_interval_is_invented_where_none_is_asked_for(three: Dataset) -> None:
    said, _ = sample("classification", len(three.test), 3)
    found = score(said, three.test, three, page(evaluate={"bootstrap": 0}), "test")
    assert all(not row["intervals"] for row in found.per_class)


def test_classes_have_intervals_also_where_only_accuracy_is_measured(three: Dataset) -> None:
    said, _ = sample("classification", len(three.test), 3)
    found = score(said, three.test, three, page(evaluate={"metrics": ["accuracy"], "bootstrap": 40}), "test")
    assert set(found.intervals) == {"loss", "accuracy"}
    assert all(set(row["intervals"]) == {"precision", "recall", "f1"} for row in found.per_class)


@pytest.mark.parametrize("rows", [2, 5, 40])
def test_a_share_of_all_or_none_has_the_exact_interval(rows: int) -> None:
    for right in (0, rows):
        exact = binomtest(right, rows).proportion_ci(0.95, method="exact")
        assert all_or_none(rows, right == rows, 0.95) == pytest.approx((exact.low, exact.high))


def test_of_two_classes_pr_auc_is_that_of_the_one_that_is_looked_for() -> None:
    said, true = sample("classification", 200, 2)
    for positive in (0, 1):
        metric = metric_for("pr_auc").given(Given(positive))
        expected = sk.average_precision_score(true == positive, said[:, positive] - said[:, 1 - positive].astype(float))
        assert metric(said, true) == pytest.approx(expected)
        assert resample({"it": metric}, said, true, resamples=5, seed=1)["it"].values.shape == (5,)


def test_the_order_of_rows_is_kept_for_arrays_that_cannot_change_and_no_longer_than_they_live() -> None:
    said, true = sample("classification", 50, 3)
    assert ranking.rankings(said, true) is not ranking.rankings(said, true)
    for array in (said, true):
        array.setflags(write=False)
    assert ranking.rankings(said, true) is ranking.rankings(said, true)
    other = said.copy()
    assert ranking.rankings(other, true) is not ranking.rankings(said, true)
    del said
    gc.collect()
    assert not ranking._kept


# --- metrics that are called --------------------------------------------------------------------


class Median(Metric):
    mode = "min"
    tasks = ("regression",)

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        return float(np.median(np.abs(outputs - target)))


def test_a_metric_that_is_called_for_each_resample_is_measured_on_fewer_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(intervals, "CALLED_ROWS", 300 * 120)
    said, true = sample("regression", 300, 1)
    metrics = {"mine": metric_for(f"{__name__}:Median"), "mae": metric_for("mae")}
    drawn = resample(metrics, said, true, resamples=500, seed=1)
    assert (len(drawn["mine"].values), len(drawn["mae"].values)) == (120, 500)
    whole = resample({"mine": Median()}, said, true, resamples=120, seed=1)["mine"].values
    np.testing.assert_array_equal(drawn["mine"].values, whole)
    assert interval(drawn["mine"].values, 0.95) is not None
    few = resample(metrics, said[:10], true[:10], resamples=60, seed=1)
    assert len(few["mine"].values) == 60
