"""Every metric of the table: equal to scikit-learn's, and resampled as if the rows had been drawn."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from nnopt_ray import tables
from nnopt_ray.data.types import Task
from nnopt_ray.errors import PartError, UserError
from nnopt_ray.evaluate import METRICS
from nnopt_ray.evaluate.metrics import Given, Loss, Metric, bare, chosen, direction, for_task, metric_for


def _classes(outputs: np.ndarray) -> np.ndarray:
    return outputs.argmax(axis=1)


def _auc(outputs: np.ndarray, target: np.ndarray) -> float:
    p = softmax(outputs.astype(np.float64), axis=1)
    return sk.roc_auc_score(target, p[:, 1]) if p.shape[1] == 2 else sk.roc_auc_score(target, p, multi_class="ovr")


def _log_loss(outputs: np.ndarray, target: np.ndarray) -> float:
    p = softmax(outputs.astype(np.float64), axis=1)
    return sk.log_loss(target, p, labels=range(outputs.shape[1]))


def _pr_auc(outputs: np.ndarray, target: np.ndarray) -> float:
    p = softmax(outputs.astype(np.float64), axis=1)
    true = np.eye(outputs.shape[1])[target]
    if outputs.shape[1] == 2:
        return float(sk.average_precision_score(target, outputs[:, 1].astype(np.float64) - outputs[:, 0]))
    return float(sk.average_precision_score(true, p, average="macro"))


def _brier(outputs: np.ndarray, target: np.ndarray) -> float:
    p = softmax(outputs.astype(np.float64), axis=1)
    return sk.brier_score_loss(target, p, labels=range(outputs.shape[1]), scale_by_half=False)


def _ece(outputs: np.ndarray, target: np.ndarray) -> float:
    """By hand, bin by bin, as Guo et al. 2017 write it."""
    p = softmax(outputs.astype(np.float64), axis=1)
    surest, total = p.max(axis=1), 0.0
    for number in range(15):
        inside = (surest > number / 15) & (surest <= (number + 1) / 15)
        if inside.any():
            right = (p.argmax(axis=1) == target)[inside]
            total += inside.mean() * abs(right.mean() - surest[inside].mean())
    return total


def _smape(outputs: np.ndarray, target: np.ndarray) -> float:
    pairs = zip(outputs.astype(np.float64).ravel(), target.ravel(), strict=True)
    return float(np.mean([2 * abs(o - t) / (abs(o) + abs(t)) if o or t else 0.0 for o, t in pairs]))


def _macro(of: Callable[..., float]) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda outputs, target: of(target, _classes(outputs), average="macro", zero_division=0)


SKLEARN: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda o, t: sk.accuracy_score(t, _classes(o)),
    "balanced_accuracy": lambda o, t: sk.balanced_accuracy_score(t, _classes(o)),
    "precision": _macro(sk.precision_score),
    "recall": _macro(sk.recall_score),
    "f1": _macro(sk.f1_score),
    "weighted_f1": lambda o, t: sk.f1_score(t, _classes(o), average="weighted", zero_division=0),
    "mcc": lambda o, t: sk.matthews_corrcoef(t, _classes(o)),
    "roc_auc": _auc,
    "pr_auc": _pr_auc,
    "log_loss": _log_loss,
    "brier": _brier,
    "ece": _ece,
    "mae": lambda o, t: sk.mean_absolute_error(t, o),
    "rmse": lambda o, t: sk.root_mean_squared_error(t, o),
    "r2": lambda o, t: sk.r2_score(t, o),
    "mape": lambda o, t: sk.mean_absolute_percentage_error(t, o),
    "smape": _smape,
    "mase": lambda o, t: sk.mean_absolute_error(t, o) / 2.5,
}
# The loss has no counterpart: it is the page's, see test_evaluate.py.
COMPARED = [name for name in METRICS if name in SKLEARN]


def test_every_metric_is_compared_somewhere() -> None:
    """Those of texts in test_language.py."""
    assert set(METRICS) - set(COMPARED) == {"loss", "perplexity", "token_accuracy"}


def made(name: str) -> Metric:
    return metric_for(name).given(Given(naive_error=2.5))


def reference(name: str, outputs: np.ndarray, target: np.ndarray) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of absent classes; its value is what counts
        return float(SKLEARN[name](outputs, target))


def sample(task: str, seed: int, rows: int, outputs: int, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    said = generator.normal(size=(rows, outputs)).astype(np.float32)
    if task == "regression":
        return said * 10.0, said * 9.0 + generator.normal(size=(rows, outputs))
    target = generator.integers(0, outputs, rows)
    said[np.arange(rows), target] += generator.uniform(0, 3)
    return (np.round(said) if ties else said), target


@pytest.mark.parametrize("name", METRICS)
class TestMetric:
    def test_says_mode_and_tasks(self, name: str) -> None:
        metric = made(name)
        assert metric.mode in ("min", "max")
        assert metric.tasks
        assert set(metric.tasks) <= set(get_args(Task))
        assert inspect.getdoc(type(metric))
        assert not tables.keys("metric", name).model_fields
        assert direction(f"val_{name}") == metric.mode

    def test_better_is_in_the_direction_it_says(self, name: str) -> None:
        metric = made(name)
        if isinstance(metric, Loss):
            metric = Loss(lambda outputs, target: float(np.abs(outputs - target).mean()))
        for task in set(metric.tasks) & {"classification", "regression"}:
            outputs, target = sample(task, 3, 60, 3)
            perfect = np.eye(3)[target] * 9 if task == "classification" else target
            if name == "loss":
                target = perfect
            better, worse = metric(perfect, target), metric(outputs, target)
            assert better < worse if metric.mode == "min" else better > worse


@pytest.mark.parametrize("name", COMPARED)
class TestAgainstScikitLearn:
    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(
        seed=st.integers(0, 10_000),
        rows=st.integers(2, 200),
        outputs=st.integers(2, 6),
        ties=st.booleans(),
    )
    def test_equal(self, name: str, seed: int, rows: int, outputs: int, ties: bool) -> None:
        metric = made(name)
        task = metric.tasks[0]
        said, target = sample(task, seed, rows, 1 + seed % 2 if task == "regression" else outputs, ties)
        value = metric(said, target)
        assert type(value) is float
        if name in ("roc_auc", "pr_auc") and len(np.unique(target)) < outputs:
            assert math.isnan(value)
            return
        assert value == pytest.approx(reference(name, said, target), rel=1e-9, abs=1e-12)

    def test_resampled_is_the_metric_on_the_drawn_rows(self, name: str) -> None:
        """Counting each row as often as it was drawn gives what the drawn rows give."""
        metric = made(name)
        for outputs in (1, 3) if "regression" in metric.tasks else (2, 4):
            said, target = sample(metric.tasks[0], 7, 50, outputs, ties=True)
            drawn = np.random.default_rng(1).integers(0, 50, size=(30, 50))
            counts = np.stack([np.bincount(d, minlength=50) for d in drawn], axis=1).astype(np.float64)
            fast = metric.resampler(said, target)(counts)
            assert fast == pytest.approx([metric(said[d], target[d]) for d in drawn], nan_ok=True, rel=1e-9)
            assert fast == pytest.approx(Metric.resampler(metric, said, target)(counts), nan_ok=True, rel=1e-9)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_outputs_that_are_not_finite_give_no_good_value(self, name: str, bad: float) -> None:
        """A diverged network must not look like a good one, and numpy's warnings must not reach the user."""
        metric = made(name)
        said, target = sample(metric.tasks[0], 5, 40, 3)
        said[4, 1] = bad
        value = metric(said, target)
        assert not math.isfinite(value)
        assert not (metric.mode == "max" and value > 0)
        assert not (metric.mode == "min" and value < 0)

    def test_does_not_change_what_it_is_given(self, name: str) -> None:
        metric = made(name)
        said, target = sample(metric.tasks[0], 5, 40, 3)
        before = said.copy(), target.copy()
        for array in (said, target):
            array.setflags(write=False)  # memory-mapped targets are read-only
        metric(said, target)
        metric.resampler(said, target)(np.ones((40, 3)))
        np.testing.assert_array_equal(said, before[0])
        np.testing.assert_array_equal(target, before[1])


def test_a_class_without_a_row_that_is_predicted_counts_as_scikit_learn_counts_it() -> None:
    said = np.eye(4)[[0, 1, 3, 3, 1, 0]] * 2
    target = np.array([0, 1, 1, 0, 1, 0])  # 2 neither occurs nor is predicted; 3 is predicted only
    for name in ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "log_loss"):
        assert made(name)(said, target) == pytest.approx(reference(name, said, target)), name
    assert metric_for("recall")(said, target) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_roc_auc_says_which_class_is_absent() -> None:
    said, target = np.random.default_rng(0).normal(size=(9, 3)), np.array([0, 1] * 4 + [0])
    metric = metric_for("roc_auc")
    assert math.isnan(metric(said, target))
    assert metric.why_undefined(target, ("cat", "dog", "owl")) == "class 'owl' has no row here"


def test_roc_auc_of_saturated_logits_still_ranks() -> None:
    """Probabilities of 1.0 and 1.0 tie; the logits 50 and 90 do not."""
    said = np.array([[0.0, 50.0], [0.0, 90.0], [0.0, 60.0], [0.0, 95.0]])
    assert metric_for("roc_auc")(said, np.array([0, 1, 0, 1])) == 1.0


def test_log_loss_is_exact_where_the_probability_underflows() -> None:
    assert metric_for("log_loss")(np.array([[2000.0, 0.0]]), np.array([1])) == 2000.0


def test_r2_of_a_constant_target_is_not_defined() -> None:
    metric, target = metric_for("r2"), np.full((5, 1), 3.1)
    assert math.isnan(metric(np.arange(5.0)[:, None], target))
    assert metric.why_undefined(target, ()) == "the target is constant here"


def test_names() -> None:
    assert [bare(n) for n in ("val_f1", "train_loss", "f1", "val_my.mod:X")] == ["f1", "loss", "f1", "my.mod:X"]
    assert {name for task in get_args(Task) for name in for_task(task)} | {"loss", "mase"} == set(METRICS)
    assert "loss" not in for_task("regression")
    assert (direction("val_loss"), direction("val_r2")) == ("min", "max")
    with pytest.raises(PartError, match=r"unknown metric 'acuracy'\. Did you mean 'accuracy'"):
        metric_for("val_acuracy")


def test_chosen() -> None:
    assert list(chosen("auto", "val_loss", "regression")) == ["mae", "rmse", "r2", "mape", "smape"]
    assert list(chosen(("f1", "val_f1"), "val_accuracy", "classification")) == ["f1", "accuracy"]
    with pytest.raises(
        UserError, match=r"^evaluate.metrics: 'mae' measures regression, and this data is classification"
    ):
        chosen(("mae",), "val_loss", "classification")
    with pytest.raises(UserError, match=r"^objective: 'f1' measures classification, and this data is regression"):
        chosen("auto", "val_f1", "regression")


def test_the_loss_needs_its_page() -> None:
    with pytest.raises(ValueError, match="Loss\\(mean, by_unit\\)"):
        metric_for("loss")(np.zeros((2, 2)), np.zeros(2, np.int64))


class Median(Metric):
    """A user's own metric: median absolute error."""

    mode = "min"
    tasks = ("regression",)

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        return float(np.median(np.abs(outputs - target)))


def test_a_metric_of_ones_own_needs_no_more_than_call() -> None:
    said, target = sample("regression", 1, 30, 1)
    drawn = np.random.default_rng(2).integers(0, 30, size=(8, 30))
    counts = np.stack([np.bincount(d, minlength=30) for d in drawn], axis=1).astype(np.float64)
    mine = metric_for(f"val_{__name__}:Median")
    assert mine.resampler(said, target)(counts) == pytest.approx([mine(said[d], target[d]) for d in drawn])
