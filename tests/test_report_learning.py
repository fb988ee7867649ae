"""Learning curves: what happened stands where it happened, for one epoch as for ten thousand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import report_example as example

from nnopt_ray.report.blocks import Fold, Plot, Section, Table, Text
from nnopt_ray.report.course import Course, Takeover
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.learning import POINTS, ROWS, events, learning
from nnopt_ray.report.write import html
from nnopt_ray.results import Epoch


def trained(values: list[float], happened: dict[int, str], **more: Any) -> Facts:
    """A single training with these validation losses."""
    told = {at: (said,) for at, said in happened.items()}
    history = tuple(
        Epoch(at, {"train_loss": value / 2, "val_loss": value}, 0.1, 2.0 * (at % 2), 0.1, told.get(at, ()))
        for at, value in enumerate(values)
    )
    found = example.classification(experiment=example.page(search=False))
    best = min(range(len(values)), key=lambda at: values[at])
    row = replace(found.rows[0], history=history, epochs=len(history), best_epoch=best, value=values[best])
    return replace(found, rows=(row,), history=history, result=None, **more)


def section(facts: Facts) -> Section:
    found = learning(facts)
    assert found is not None
    return found


def traces(facts: Facts) -> dict[str, dict[str, Any]]:
    plot = next(block for block in section(facts).blocks if isinstance(block, Plot))
    return {trace["name"]: trace for trace in plot.figure["data"]}


def test_every_event_stands_on_the_curve_at_its_epoch() -> None:
    happened = {2: "learning rate 0.1 → 0.05", 4: "early stop"}
    facts = trained([0.9, 0.5, 0.7, 0.6, 0.8], happened, resumed=(3,), checkpoints=(3, 4))
    found = traces(facts)
    assert (found["learning rate cut"]["x"], found["learning rate cut"]["y"]) == ([2], [0.7])
    assert (found["early stop"]["x"], found["early stop"]["y"]) == ([4], [0.8])
    assert (found["resumed"]["x"], found["resumed"]["y"]) == ([3], [0.6])
    assert found["checkpoint kept"]["x"] == [3, 4]
    assert (found["best epoch"]["x"], found["best epoch"]["y"]) == ([1], [0.5])


def test_weights_of_another_trial_are_an_event_of_the_epoch_they_came_before() -> None:
    facts = trained([0.9, 0.5, 0.7], {})
    trial = facts.rows[0].trial
    course = Course(takeovers=(Takeover(trial, "0007", 2, {}), Takeover("0009", "0008", 1, {})))
    assert events(replace(facts, course=course)) == {2: ["went on with the weights of trial 0007"]}


def test_one_epoch_is_told_in_numbers() -> None:
    text, sentence, table = section(trained([0.5], {})).blocks
    assert isinstance(text, Text)
    assert isinstance(sentence, Text)
    assert sentence.text == "One epoch: 0.2500 in training, 0.5000 in validation."
    assert isinstance(table, Table)
    assert len(table.rows) == 1


def test_ten_thousand_epochs_are_thinned_and_lose_neither_best_nor_events() -> None:
    values = [1 / (1 + at) + (at > 5001) for at in range(10_000)]
    facts = trained(values, {7003: "learning rate 0.1 → 0.05"})
    found = traces(facts)
    x = found["validation"]["x"]
    assert len(x) <= POINTS + 2
    assert {0, 5001, 9999} <= set(x)
    assert found["learning rate cut"]["x"] == [7003]
    fold = section(facts).blocks[-1]
    assert isinstance(fold, Fold)
    table = fold.blocks[0]
    assert isinstance(table, Table)
    shown = {row[0].text for row in table.rows}
    assert len(shown) <= ROWS + 3
    assert {"0", "5001", "7003", "9999"} <= shown
    assert f"{10_000 - len(shown):,}" in table.caption
    assert len(html(facts)) < 6e6


def test_the_norm_that_gradients_are_clipped_to_is_drawn_and_counted() -> None:
    facts = trained([0.9, 0.5, 0.7, math.nan], {})
    clipping = example.page(search=False, train={"clip_norm": 1.5})
    row = next(block for block in section(replace(facts, experiment=clipping)).blocks if block.kind == "row")
    rate = next(block for block in row.blocks if isinstance(block, Plot) and block.id == "rate")
    assert "above clip_norm, 1.5, in 2 of 4\xa0epochs" in rate.caption
    assert next(t for t in rate.figure["data"] if t["name"] == "clip_norm")["y"] == [1.5] * 4
