"""A metric that a page brings itself: from the page to the report, and what is said where it is at fault."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import nnopt_ray as nn
from nnopt_ray import reading, tables
from nnopt_ray.errors import PageError, PartError
from nnopt_ray.evaluate import intervals
from nnopt_ray.evaluate.intervals import gain, resample
from nnopt_ray.evaluate.metrics import Metric, chosen, metric_for

MINE = '''
import numpy as np
from nnopt_ray.evaluate.metrics import Metric, softmax


class Profit(Metric):
    mode = "max"
    tasks = ("classification",)

    def __call__(self, outputs, target):
        called = softmax(outputs)[:, 1] > 0.3
        return (5 * (called & (target == 1)) - called).mean()


class Decided(Metric):
    """Share predicted positive."""
    mode = "max"
    tasks = ("classification",)
    of_decisions = True

    def __call__(self, outputs, target):
        return outputs.argmax(axis=1).mean()


class NoMode(Metric):
    tasks = ("classification",)

    def __call__(self, outputs, target):
        return 0.0


class NoTasks(Metric):
    mode = "min"

    def __call__(self, outputs, target):
        return 0.0


class NoCall(Metric):
    mode = "min"
    tasks = ("regression",)


class Needs(Profit):
    def __init__(self, price):
        self.price = price


class Raises(Profit):
    def __call__(self, outputs, target):
        raise ValueError("no idea")


class Rows(Profit):
    def __call__(self, outputs, target):
        return target * 1.0


class Words(Profit):
    def __call__(self, outputs, target):
        return "good"


class Sometimes(Profit):
    """Not without a row of class 1 among the first three."""
    def __call__(self, outputs, target):
        return 1 / int(target[:3].sum())


def profit(outputs, target):
    return 1.0
'''

PAGE = """
objective: maximize val_own_scores_xyz:Profit
data: {source: {type: csv, path: rows.csv}, target: y, steps: [scale]}
model: {type: mlp, widths: [16]}
train:
  epochs: 3
  optimizer: {type: adam, lr: 0.02}
  early_stopping: {monitor: "val_own_scores_xyz:Profit", patience: 5}
evaluate:
  bootstrap: 150
  threshold: 0.2
  metrics: [auto, "own_scores_xyz:Profit", "own_scores_xyz:Decided", "own_scores_xyz:Raises"]
"""
NAME = "own_scores_xyz:{}".format


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_scores_xyz.py").write_text(MINE)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(400, 3))
    y = np.where(draw.random(400) < 1 / (1 + np.exp(1.5 - 2 * x[:, 0])), "yes", "no")
    pd.DataFrame(x, columns=list("abc")).assign(y=y).to_csv(folder / "rows.csv", index=False)
    (folder / "page.yaml").write_text(PAGE)
    sys.path.append(str(folder))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return Path(nn.run(nn.load(folder / "page.yaml"), out=folder / "runs").path)


def test_it_drives_the_training_and_is_measured_with_its_interval(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    assert result["objective"] == {"metric": f"val_{NAME('Profit')}", "mode": "max"}
    history = [json.loads(line) for line in (run / "trials/0001/history.jsonl").read_text().splitlines()]
    values = [epoch[f"val_{NAME('Profit')}"] for epoch in history]
    assert result["best"]["epoch"] == int(np.argmax(values))
    said = pd.read_parquet(run / "evaluation/predictions.parquet").query("part == 'test'")
    called = said["p_yes"] > 0.3
    profit = (5 * (called & (said["true"] == "yes")) - called).mean()
    assert result["test"][NAME("Profit")] == pytest.approx(profit)
    low, high = result["test_interval"][NAME("Profit")]
    assert low < profit < high
    assert result["test"][NAME("Decided")] == pytest.approx((said["p_yes"] >= 0.2).mean())
    assert "Profit" in (run / "report.html").read_text()
    assert {"accuracy", "roc_auc"} <= set(result["test"])


def test_one_that_fails_at_the_end_does_not_lose_the_run(run: Path) -> None:
    scores = json.loads((run / "evaluation/scores.json").read_text())["winner"]["test"]
    assert scores["metrics"][NAME("Raises")] is None
    assert any("failed: ValueError: no idea (own_scores_xyz.py:" in note for note in scores["notes"])


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (
            "minimize val_own_scores_xyz:Profit",
            "is better when it is larger: write 'maximize val_own_scores_xyz:Profit'",
        ),
        ("val_own_scores_xyz:Profit", "must say the direction: 'maximize val_own_scores_xyz:Profit'"),
        ("maximize own_scores_xyz:Profit", "begins with val_: 'maximize val_own_scores_xyz:Profit'"),
        ("maximize val_own_scores_xyz:NoMode", 'does not say which end is better: write mode = "max"'),
        ("maximize val_own_scores_xyz:NoTasks", "does not say what it measures"),
        ("maximize val_own_scores_xyz:NoCall", "has no __call__"),
        ("maximize val_own_scores_xyz:Needs", "its __init__ needs price"),
        ("maximize val_own_scores_xyz:profit", "must be a subclass of nnopt_ray.evaluate.metrics.Metric"),
        ("maximize val_own_scores_xyz:Gone", "has no 'Gone'"),
        ("maximize val_own_nowhere_xyz:Gone", "cannot import 'own_nowhere_xyz'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_started(folder: Path, objective: str, said: str) -> None:
    with pytest.raises(PageError) as refused:
        reading.load(folder / "page.yaml", {"objective": objective})
    assert said in str(refused.value)
    metric = objective.split()[-1].removeprefix("val_")
    if "direction" in said or "val_:" in said or "larger" in said:
        return
    for path, value in (("evaluate.metrics", [metric]), ("train.early_stopping.monitor", f"val_{metric}")):
        with pytest.raises(PageError) as refused:
            reading.load(folder / "page.yaml", {path: value})
        assert said in str(refused.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Raises", r"the metric 'own_scores_xyz:Raises' failed: ValueError: no idea \(own_scores_xyz.py:\d+\)\."),
        ("Rows", r"must return one number, and returned a ndarray of shape \(4,\)"),
        ("Words", "must return one number, and returned a str"),
    ],
)
def test_a_fault_in_it_is_told_with_its_place(folder: Path, name: str, said: str) -> None:
    with pytest.raises(PartError, match=said):
        metric_for(NAME(name))(np.zeros((4, 2)), np.array([0, 1, 1, 0]))


def test_where_it_is_not_defined_on_drawn_rows_the_resample_is_left_out(folder: Path) -> None:
    said, true = np.zeros((30, 2)), np.arange(30) % 2
    drawn = resample({"it": metric_for(NAME("Sometimes"))}, said, true, resamples=60, seed=1)["it"].values
    assert 0 < np.isnan(drawn).sum() < 30


def test_a_slow_one_is_measured_on_fewer_resamples_and_compared_on_those_of_both(folder: Path) -> None:
    metric = metric_for(NAME("Profit"))
    metric.seconds = 0.02
    assert intervals.resamples_of(metric, 100, 1000) == 250
    assert intervals.resamples_of(metric, 10**6, 1000) == intervals.CALLED_LEAST
    assert intervals.resamples_of(metric_for("f1"), 10**6, 1000) == 1000
    values = np.random.default_rng(0).normal(size=500)
    assert gain("max", 1, 0, values, values[:200] - 1, 0.9).low == pytest.approx(1)


def test_auto_in_a_list_is_all_that_fit(folder: Path) -> None:
    found = chosen(("auto", NAME("Profit")), "val_loss", "classification")
    assert list(found) == [*chosen("auto", "val_loss", "classification"), NAME("Profit")]
    assert list(chosen((NAME("Profit"),), "val_loss", "classification")) == [NAME("Profit")]
    own = tables.own_parts({"objective": "maximize val_a.b:C", "evaluate": {"metrics": ["auto", "d:E", "f1"]}})
    assert list(own) == ["a.b:C", "d:E"]


def test_in_a_search_it_is_a_column_like_any_other(folder: Path) -> None:
    changed = {"train.optimizer.lr": {"choice": [0.01, 0.03]}, "search.method": "grid", "resources.fuse": "never"}
    run = nn.run(nn.load(folder / "page.yaml", set=changed), out=folder / "runs")
    assert list(run.trials["status"]) == ["finished", "finished"]
    assert run.trials[f"val_{NAME('Profit')}"].max() == run.result["best"]["metrics"][f"val_{NAME('Profit')}"]


def test_the_base_class_says_what_to_write() -> None:
    with pytest.raises(NotImplementedError, match="must define __call__"):
        Metric()(np.zeros((1, 2)), np.zeros(1))
