"""Bootstrap intervals: they hold the truth as often as they say, and the same seed gives the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from nnopt_ray.evaluate import intervals
from nnopt_ray.evaluate.intervals import gain, interval, resample
from nnopt_ray.evaluate.metrics import Metric, for_task, metric_for


def logits(right: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Two logits a row that give the true class where `right`."""
    return np.eye(2)[np.where(right, target, 1 - target)]


def drawn(metric: Metric, outputs: np.ndarray, target: np.ndarray, seed: int, resamples: int = 400) -> np.ndarray:
    return resample({"it": metric}, outputs, target, resamples=resamples, seed=seed)["it"].values


def test_accuracys_interval_holds_the_truth_95_times_in_100() -> None:
    generator = np.random.default_rng(11)
    accuracy, held = metric_for("accuracy"), 0
    for trial in range(400):
        target = generator.integers(0, 2, 300)
        outputs = logits(generator.random(300) < 0.8, target)
        low, high = interval(drawn(accuracy, outputs, target, trial), 0.95)
        held += low <= 0.8 <= high
    # 400 trials at 0.95 have a standard error of 1.1 points; percentiles of 300 rows run about a point low.
    assert 0.915 <= held / 400 <= 0.98


def test_rmses_interval_holds_the_truth_90_times_in_100() -> None:
    generator = np.random.default_rng(12)
    rmse, held = metric_for("rmse"), 0
    for trial in range(300):
        target = generator.normal(size=(250, 1)) * 5
        outputs = target + 2 * generator.normal(size=(250, 1))
        low, high = interval(drawn(rmse, outputs, target, trial), 0.90)
        held += low <= 2 <= high
    assert 0.85 <= held / 300 <= 0.95


def test_the_gains_interval_holds_the_truth_and_is_paired() -> None:
    """Two models that fail on mostly the same rows: the difference is known better than either accuracy."""
    generator = np.random.default_rng(13)
    accuracy, held, width, alone = metric_for("accuracy"), 0, [], []
    for trial in range(300):
        target = generator.integers(0, 2, 300)
        hard, luck = generator.random(300) < 0.3, generator.random(300) < 0.2
        one, other = logits(~hard, target), logits(~hard & ~luck, target)  # accuracies 0.7 and 0.56
        first, second = (drawn(accuracy, each, target, trial) for each in (one, other))
        found = gain("max", accuracy(one, target), accuracy(other, target), first, second, 0.95)
        held += found.low <= 0.14 <= found.high
        width.append(found.high - found.low)
        alone.append(np.subtract(*interval(first, 0.95)[::-1]))
    assert 0.91 <= held / 300 <= 0.985
    assert np.mean(width) < 0.8 * np.mean(alone)


def test_a_gain_is_positive_where_the_first_is_better_whatever_the_mode() -> None:
    target = np.random.default_rng(1).normal(size=(80, 1))
    near, far = target + 0.1, target + np.linspace(1, 2, 80)[:, None]
    for name in ("mae", "r2"):
        metric = metric_for(name)
        draws = [drawn(metric, each, target, 3) for each in (near, far)]
        found = gain(metric.mode, metric(near, target), metric(far, target), *draws, 0.95)
        assert found.low > 0
        assert found.low <= found.value <= found.high
        same = gain(metric.mode, metric(far, target), metric(far, target), draws[1], draws[1], 0.95)
        assert (same.value, same.low, same.high) == (0, 0, 0)


def test_scipys_percentile_bootstrap_gives_the_same_interval() -> None:
    generator = np.random.default_rng(14)
    target = generator.normal(size=(500, 1))
    outputs = target + generator.standard_t(4, size=(500, 1))
    ours = interval(drawn(metric_for("mae"), outputs, target, 1, resamples=4000), 0.95)
    theirs = scipy_bootstrap(
        (np.abs(outputs - target)[:, 0],), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    # Two draws of 4000 resamples: their ends differ by chance, by a few per cent of the interval's width.
    assert ours == pytest.approx(tuple(theirs), abs=0.08 * (theirs.high - theirs.low))


def test_every_row_is_drawn_as_often_as_any_other() -> None:
    counts = np.concatenate(list(intervals.blocks(37, 5000, seed=3)), axis=1)
    assert counts.shape == (37, 5000)
    assert (counts.sum(axis=0) == 37).all()
    # A count is binomial(37, 1/37): variance 36/37. The mean of 5000 has a standard error of 0.014.
    assert np.abs(counts.mean(axis=1) - 1).max() < 0.06
    assert np.abs(counts.var(axis=1) - 36 / 37).max() < 0.12


def test_same_seed_same_interval_whatever_the_blocks_and_the_other_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(4)
    outputs, target = generator.normal(size=(60, 3)), generator.integers(0, 3, 60)
    metrics = {name: metric_for(name) for name in for_task("classification")}
    together = resample(metrics, outputs, target, resamples=50, seed=9)
    assert all(one.values.shape == (50,) for one in together.values())
    monkeypatch.setattr(intervals, "BLOCK", 60 * 7)
    for name, metric in metrics.items():
        alone = resample({name: metric}, outputs, target, resamples=50, seed=9)[name].values
        np.testing.assert_allclose(alone, together[name].values, rtol=1e-12)
    other = resample(metrics, outputs, target, resamples=50, seed=10)
    assert not np.array_equal(other["accuracy"].values, together["accuracy"].values)


def test_undefined_resamples_are_left_out() -> None:
    target = np.array([0] * 30 + [1])  # the only row of class 1 is in about 63 of 100 resamples
    outputs = np.random.default_rng(5).normal(size=(31, 2))
    values = drawn(metric_for("roc_auc"), outputs, target, 1)
    assert 0.2 < np.isnan(values).mean() < 0.5
    low, high = interval(values, 0.95)
    assert 0 <= low <= high <= 1


def test_no_interval_where_most_resamples_are_undefined_or_none_was_drawn() -> None:
    assert interval(np.array([math.nan, math.nan, 0.5]), 0.95) is None
    assert interval(np.zeros(0), 0.95) is None
    found = gain("max", 0.9, 0.8, np.zeros(0), np.zeros(0), 0.95)
    assert found.value == pytest.approx(0.1)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
