"""What the report says of what a search learned: importance in words, slices of every kind of range."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import report_example as example

from nnopt_ray import reading, rundir
from nnopt_ray.evaluate import importance
from nnopt_ray.experiment import Experiment
from nnopt_ray.report.blocks import Plot, Row, Section, Text
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.learned import learned
from nnopt_ray.report.slices import DRAWN, slices
from nnopt_ray.results import TrialRow


def judged(facts: Facts) -> Facts:
    """With what evaluation/importance.json would say."""
    found = [importance.of(facts.experiment, facts.rows, m, mode) for mode, m in facts.experiment.objectives]
    told = json.loads(json.dumps(rundir.finite({"objectives": [each.to_json() for each in found]})))
    return replace(facts, evaluated={"importance": told})


def plots(section: Section) -> list[Plot]:
    found: list[Plot] = []
    for block in section.blocks:
        found += (
            [block]
            if isinstance(block, Plot)
            else [p for p in block.blocks if isinstance(p, Plot)]
            if isinstance(block, Row)
            else []
        )
    return found


def judge(plot: Plot) -> Any:
    """What plotly makes of it; raises on a wrong name, type or value."""
    return go.Figure(json.loads(re.sub(r'"--[a-z0-9]+"', '"#123456"', json.dumps(plot.figure))))


def text(section: Section) -> str:
    return " ".join(block.text for block in section.blocks if isinstance(block, Text))


def test_a_search_says_which_values_matter_and_on_what_that_rests() -> None:
    section = learned(judged(example.classification()))
    assert section is not None
    said = text(section)
    assert "come from train.optimizer.lr (of whichever option)" in said
    assert "compared by their best validation loss within" in said
    assert "left out" in said
    for plot in plots(section):
        judge(plot)
        assert plot.caption
        assert plot.figure["layout"]["xaxis"]["title"]["text"]


def test_without_the_file_or_with_a_damaged_one_the_points_are_still_shown() -> None:
    facts = example.classification()
    for told in ({}, {"importance": None}, {"importance": {"objectives": "?"}}):
        section = learned(replace(facts, evaluated=told))
        assert section is not None
        assert any(plot.title == "model.dropout" for plot in plots(section))
        assert "come from" not in text(section)
    assert learned(example.regression()) is None


TREE: dict[str, Any] = {"data": {"source": {"type": "sklearn", "name": "digits"}}, "model": {"type": "mlp"}}
RANGES: dict[str, Any] = {
    "uniform": {"uniform": [0.0, 0.5]},
    "log": {"log": [1e-4, 1e-1]},
    "step": {"step": [0.0, 0.5, 0.1]},
    "choice": {"choice": [0.0, 0.1, 0.4]},
}
WHOLE = {"int": {"int": [4, 64]}, "log_int": {"log_int": [4, 256]}}


def of(experiment: Experiment, count: int = 40, seed: int = 0, **more: Any) -> Facts:
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        params = example.draw(experiment, random)
        params = {k: int(v) if isinstance(v, float) and "batch_size" in k else v for k, v in params.items()}
        place = float(np.mean([len(str(value)) for value in params.values()]))
        rows.append(TrialRow(f"{number:04d}", "finished", "", params, 3, 1, 1.0, place + random.random(), {}, **more))
    return Facts(experiment, rows=tuple(rows))


@pytest.mark.parametrize("kind", [*RANGES, "int", "log_int"])
def test_a_slice_of_every_kind_of_range(kind: str) -> None:
    opened = {"train": {"batch_size": WHOLE[kind]}} if kind in WHOLE else {}
    model = {"type": "mlp", **({"dropout": RANGES[kind]} if kind in RANGES else {})}
    facts = of(reading.from_tree(TREE | {"search": {"trials": 40}, "model": model} | opened))
    facts = replace(facts, rows=(*facts.rows[:-1], replace(facts.rows[-1], status="failed", value=None)))
    ((_, plot),) = slices(facts, None)
    figure = judge(plot)
    assert plot.figure["layout"]["xaxis"].get("type", "linear") == ("log" if "log" in kind else "linear")
    points = next(trace for trace in figure.data if trace.name == "trials")
    assert sorted(points.y) == sorted(row.value for row in facts.rows if row.value is not None)
    assert len(points.x) == 39
    star = next(trace for trace in figure.data if trace.name == "the winner")
    assert star.y[0] == min(points.y)
    cross = next(trace for trace in figure.data if trace.name == "failed")
    assert cross.y[0] > max(points.y)
    if kind == "choice":
        assert list(figure.layout.xaxis.ticktext) == ["0.0", "0.1", "0.4"]
        assert all(abs(x - round(x)) <= 0.25 for x in points.x)


def test_values_under_one_path_are_drawn_together_and_by_option_where_there_are_enough() -> None:
    facts = of(example.page(), 120)
    found = importance.of(facts.experiment, facts.rows, "val_loss", "min")
    titles = [plot.title for _, plot in slices(facts, found)]
    assert "train.optimizer.lr, whichever option" in titles
    assert "train.optimizer.momentum of sgd" in titles
    enough = [g.under[0][1] for g in found.groups if g.under and g.shares]
    rates = [title for title in titles if title.startswith("train.optimizer.lr of")]
    assert rates == [f"train.optimizer.lr of {name}" for name in enough]


def test_many_trials_are_thinned_and_the_best_kept() -> None:
    facts = of(example.page(), 2000)
    drawn = [plot for _, plot in slices(facts, None)]
    best = min(row.value for row in facts.rows if row.value is not None)
    for plot in drawn:
        points = next(trace for trace in plot.figure["data"] if trace["name"] == "trials")
        assert len(points["x"]) <= DRAWN
        assert plot.title.startswith("train.optimizer.momentum") or min(points["y"]) == best
    assert "of 2,000 trials are drawn" in drawn[0].caption
    assert sum(len(json.dumps(plot.figure)) for plot in drawn) < 500_000


def test_trials_listed_by_hand_have_slices_too() -> None:
    listed = [{"train.optimizer.lr": rate, "model.dropout": 0.1} for rate in (0.001, 0.01, 0.1)]
    page = reading.from_tree(TREE | {"search": {"method": "manual", "trials": listed}})
    rows = tuple(TrialRow(f"{i}", "finished", "", point, 3, 1, 1.0, 1.0 + i, {}) for i, point in enumerate(listed))
    found = slices(Facts(page, rows=rows), None)
    assert [plot.title for _, plot in found] == ["train.optimizer.lr"]
    assert found[0][1].figure["layout"]["xaxis"]["type"] == "log"
    section = learned(judged(Facts(page, rows=rows)))
    assert section is not None
    assert "3 trials have a value" in text(section)
