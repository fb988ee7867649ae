"""What a scheduler left out, by hand; the validation curve; and the report's numbers as tables."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import pytest
import report_example as example
from scipy import stats

from nnopt_ray import reading, rundir
from nnopt_ray.evaluate import importance as importances
from nnopt_ray.evaluate.savings import savings
from nnopt_ray.report import insight
from nnopt_ray.report.blocks import Plot
from nnopt_ray.report.conduct import risk, savings_of
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.validation_curve import validation_curve
from nnopt_ray.results import Epoch, TrialRow


def row(name: str, status: Any, curve: list[float], seconds: float = 1.0, **params: Any) -> TrialRow:
    history = tuple(Epoch(at, {"val_loss": value}, 0.1, 1.0, seconds) for at, value in enumerate(curve))
    value = None if status == "failed" else min(curve)
    return TrialRow(name, status, "", params, len(curve), 0, seconds * len(curve), value, {}, history)


def test_what_was_left_out_by_hand() -> None:
    rows = [
        row("a", "finished", [3.0, 2.0, 1.0, 0.5]),
        row("b", "stopped", [4.0, 3.9], seconds=2.0),  # 2 epochs left, at 2 s
        row("c", "stopped", [5.0, 3.0], seconds=0.5),  # 2 left, at 0.5 s; it fell by 2.0, faster than a and d
        row("d", "stopped", [3.5, 2.9, 2.8]),  # 1 left, at 1 s
        row("e", "failed", [9.0]),
    ]
    found = savings(rows, "val_loss", "min", lambda each: 4)
    assert (found.whole, found.trained, found.stopped, found.left) == (20, 12, 3, 5)
    assert found.left_s == 2 * 2.0 + 2 * 0.5 + 1
    assert (found.rung, found.both, found.agreed) == (2, 1, None)
    assert (found.stopped_there, found.faster) == (2, 1)
    none = savings(rows[:1], "val_loss", "min", lambda each: 4)
    assert (none.rung, none.left, none.left_s) == (None, 0, 0.0)


def test_ranks_at_the_stop_and_at_the_end_agree_as_scipy_has_it() -> None:
    ends = [0.5, 0.4, 0.9, 0.1, 0.3, 0.7, 0.2, 0.8, 0.6]
    early = [1.5, 1.6, 1.9, 1.2, 1.1, 1.4, 1.3, 1.8, 1.7]
    rows = [row(f"{i}", "finished", [9.0, a, b]) for i, (a, b) in enumerate(zip(early, ends, strict=True))]
    found = savings([*rows, row("x", "stopped", [9.0, 2.0])], "val_loss", "min", lambda each: 3)
    assert found.both == 9
    assert found.agreed == pytest.approx(stats.spearmanr(early, ends).statistic)
    assert found.low is not None
    assert found.high is not None
    assert -1 < found.low < (found.agreed or 0) < found.high < 1
    higher = [
        row(each.trial, each.status, [-epoch.metrics["val_loss"] for epoch in each.history])
        for each in [*rows, row("x", "stopped", [9.0, 2.0])]
    ]
    assert savings(higher, "val_loss", "max", lambda each: 3).agreed == pytest.approx(found.agreed)


def test_the_report_says_what_stopping_risks() -> None:
    facts = example.classification()
    assert "(Spearman)" in risk(facts)
    whole = tuple(each for each in facts.rows if each.status != "stopped")
    assert risk(replace(facts, rows=whole)) == ""


# --- the validation curve ---------------------------------------------------------------------------


def curve(points: list[tuple[Any, float, float]], opened: Any, metric: str = "val_loss") -> Plot | None:
    page = reading.from_tree(
        {
            "data": {"source": {"type": "sklearn", "name": "digits"}},
            "objective": f"{'minimize' if metric == 'val_loss' else 'maximize'} {metric}",
            "model": {"type": "mlp", "dropout": opened},
            "search": {"method": "grid"},
        }
    )
    rows = tuple(
        TrialRow(
            f"{i}", "finished", "", {"model.dropout": x}, 3, 1, 1.0, v, {"train_loss": t, metric: v, "val_loss": v}
        )
        for i, (x, t, v) in enumerate(points)
    )
    return validation_curve(Facts(page, rows=rows))


GRID = {"choice": [0.0, 0.1, 0.2, 0.3, 0.4]}


def test_left_of_the_best_underfits_and_right_overfits_where_the_data_say_so() -> None:
    bend = curve([(0.0, 2.0, 2.1), (0.1, 1.0, 1.2), (0.2, 0.5, 0.8), (0.3, 0.2, 1.0), (0.4, 0.1, 1.6)], GRID)
    assert bend is not None
    assert "at 0.2; left of it the network underfits" in bend.caption
    assert "right of it the network overfits" in bend.caption
    go.Figure(json.loads(re.sub(r'"--[a-z0-9]+"', '"#123456"', json.dumps(bend.figure))))
    assert [trace["name"] for trace in bend.figure["data"]] == ["training", "validation", "best"]
    assert (bend.figure["data"][2]["x"], bend.figure["data"][2]["y"]) == ([2.0], [0.8])
    level = curve([(0.0, 0.5, 0.81), (0.1, 0.5, 0.8), (0.2, 0.5, 0.8001), (0.3, 0.5, 0.8), (0.4, 0.9, 1.6)], GRID)
    assert level is not None
    assert "left of it" not in level.caption
    assert "right of it the network underfits" in level.caption
    edge = curve([(0.0, 0.5, 0.8), (0.1, 0.6, 0.9), (0.2, 0.7, 1.0)], GRID)
    assert edge is not None
    assert "an end of what was tried" in edge.caption


def test_trials_of_one_value_are_one_point_and_options_have_no_sides() -> None:
    both = curve([(0.0, 1.0, 2.0), (0.0, 3.0, 4.0), (0.1, 1.0, 1.5), (0.2, 1.0, 1.2)], GRID)
    assert both is not None
    assert both.figure["data"][1]["y"] == [3.0, 1.5, 1.2]
    assert both.figure["data"][0]["y"] == [2.0, 1.0, 1.0]
    assert curve([(0.0, 1.0, 2.0), (0.1, 1.0, 1.0)], GRID) is None
    assert curve([(0.0, float("nan"), 2.0)] * 4, GRID) is None
    assert validation_curve(example.classification()) is None  # several values are open
    named = example.page(search=False, model={"type": "mlp", "activation": {"choice": ["relu", "tanh", "gelu"]}})
    rows = tuple(
        TrialRow(f"{i}", "finished", "", {"model.activation": x}, 3, 1, 1.0, 1.0, {"train_loss": 1.0, "val_loss": v})
        for i, (x, v) in enumerate([("relu", 3.0), ("tanh", 1.0), ("gelu", 2.0)])
    )
    found = validation_curve(Facts(named, rows=rows))
    assert found is not None
    assert "at tanh" in found.caption
    assert "of it the network" not in found.caption


# --- tables -----------------------------------------------------------------------------------------


def test_tables_have_the_numbers_of_the_report() -> None:
    facts = example.classification()
    found = importances.of(facts.experiment, facts.rows, "val_loss", "min")
    told = json.loads(json.dumps(rundir.finite({"objectives": [found.to_json()]})))
    facts = replace(facts, evaluated={"importance": told})
    table = insight.importance(facts)
    assert list(table["share"]) == [share.share for group in found.groups for share in group.shares]
    assert set(insight.marginals(facts)["branch"]) <= set(table["branch"])
    slices = insight.slices(facts)
    assert slices.groupby("branch").size()["train.optimizer"] == len(facts.rows)
    failed = {each.trial for each in facts.rows if each.status == "failed"}
    assert set(slices[slices["score"].isna()]["trial"]) == failed
    assert len(insight.timeline(facts)) == len(facts.course.stints)
    assert insight.workers(facts)["idle_s"].isna().all()  # the example's journal does not tell
    assert insight.savings(facts)["left"].item() == savings_of(facts).left
    assert insight.optimism(facts)["trials"].item() == len(found.values)
    empty = Facts(facts.experiment)
    for name in ("importance", "marginals", "slices", "timeline", "workers", "optimism"):
        assert getattr(insight, name)(empty).empty
