"""What to try next, from runs that never were: each rule that needs no network, line by line of the page."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import report_example as example
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nnopt_ray import reading
from nnopt_ray.evaluate.diagnose_fit import risen
from nnopt_ray.evaluate.page_line import Line, edge, replaced, wider
from nnopt_ray.experiment import Experiment, Range, plain
from nnopt_ray.report.diagnosed import advice
from nnopt_ray.report.facts import Facts, Gain
from nnopt_ray.results import Epoch, TrialRow


def searched(opened: dict[str, Any], path: str, best: Any, **more: Any) -> Facts:
    """Eight finished trials of a page with one opened path; the better, the nearer to `best`."""
    experiment = opened_page(path, opened)
    near = more.pop("near", [best] * 8)
    rows = tuple(
        TrialRow(f"{i:04d}", "finished", "", {path: value}, 20, 10, 1.0, 0.5 + 0.01 * i, {"val_loss": 0.5 + 0.01 * i})
        for i, value in enumerate(near)
    )
    return finished(experiment, rows, **more)


def finished(experiment: Experiment, rows: tuple[TrialRow, ...], **more: Any) -> Facts:
    """A finished run whose best trial is the first; only what `more` holds is known beside the trials."""
    told = example.classification(2, example.page(search=False)).result
    assert told is not None
    result = replace(told, best_trial=rows[0].trial, best_values=rows[0].params)
    return Facts(experiment, result, rows, **more)


def opened_page(path: str, opened: Any) -> Experiment:
    tree: dict[str, Any] = {
        "data": {"source": {"type": "sklearn", "name": "digits"}},
        "model": {"type": "mlp"},
        "train": {"optimizer": {"type": "sgd"}},
        "search": {"method": "random", "trials": 8},
    }
    node = tree
    *inner, last = path.split(".")
    for step in inner:
        node = node.setdefault(step, {})
    node[last] = opened
    return reading.from_tree(tree)


@pytest.mark.parametrize(
    ("path", "opened", "best", "line"),
    [
        ("train.optimizer.lr", {"log": [1e-4, 1e-1]}, 0.09, "lr: {log: [0.0001, 1.0]}   # in train.optimizer"),
        ("train.optimizer.lr", {"log": [1e-4, 1e-1]}, 1.1e-4, "lr: {log: [1.0e-05, 0.1]}   # in train.optimizer"),
        ("train.batch_size", {"choice": [16, 32, 64]}, 64, "batch_size: {choice: [16, 32, 64, 128]}   # in train"),
        ("train.batch_size", {"choice": [16, 32, 64]}, 16, "batch_size: {choice: [8, 16, 32, 64]}   # in train"),
        ("train.epochs", {"int": [10, 50]}, 50, "epochs: {int: [10, 90]}   # in train"),
        ("train.epochs", {"step": [10, 50, 10]}, 50, "epochs: {step: [10, 90, 10]}   # in train"),
        # dropout must stay below 1 and not below 0: less is proposed, or nothing
        ("model.dropout", {"uniform": [0.1, 0.5]}, 0.5, "dropout: {uniform: [0.1, 0.9]}   # in model"),
        ("model.dropout", {"uniform": [0.2, 0.7]}, 0.7, "dropout: {uniform: [0.2, 0.95]}   # in model"),
        ("model.dropout", {"uniform": [0.0, 0.5]}, 0.0, None),
        ("train.optimizer.momentum", {"uniform": [0.5, 0.99]}, 0.99, None),
    ],
)
def test_a_best_value_at_the_edge_brings_a_wider_range(
    path: str, opened: dict[str, Any], best: Any, line: str | None
) -> None:
    found = [item for item in advice(searched(opened, path, best)) if item.title == f"Widen {path}"]
    assert [item.page for item in found] == ([] if line is None else [line])
    if line is not None:  # the line, put where it says, makes a valid page with the best value inside
        again = opened_page(path, yaml.safe_load(line)[path.rpartition(".")[2]])
        assert edge(again.space[0][1], best) == 0 or opened == {"choice": [16, 32, 64]}


def test_a_line_in_a_choice_says_which() -> None:
    optimizer = {"choice": [{"type": "adam"}, {"type": "sgd", "lr": {"log": [1e-3, 1e-1]}}]}
    experiment = opened_page("train.optimizer", optimizer)
    values = {"train.optimizer": "sgd", "train.optimizer.lr": 0.1}
    rows = tuple(TrialRow(f"{i}", "finished", "", values, 20, 10, 1.0, 1.0 + i, {}) for i in range(5))
    found = advice(finished(experiment, rows))
    assert found[0].page == "lr: {log: [0.001, 1.0]}   # in train.optimizer, choice sgd"


@pytest.mark.parametrize(
    ("widths", "best", "line"),
    [
        ([{"int": [4, 32]}, 8], 32, "widths: [{int: [4, 60]}, 8]   # in model"),
        ([16, {"choice": [8, 16, 32]}], 8, "widths: [16, {choice: [4, 8, 16, 32]}]   # in model"),
    ],
)
def test_a_value_in_a_list_brings_the_line_of_the_list(widths: list[Any], best: int, line: str) -> None:
    path = f"model.widths.{next(i for i, value in enumerate(widths) if isinstance(value, dict))}"
    experiment = opened_page("model.widths", widths)
    rows = tuple(TrialRow(f"{i}", "finished", "", {path: best}, 20, 10, 1.0, 1.0 + i, {}) for i in range(5))
    assert [item.page for item in advice(finished(experiment, rows)) if item.title == f"Widen {path}"] == [line]


def test_a_seed_is_no_value_to_widen() -> None:
    found = advice(searched({"choice": [1, 2, 3]}, "seed", 3, near=[3, 3, 3, 3, 3]))
    assert not [item for item in found if item.title.startswith("Widen")]


def test_one_lucky_trial_at_the_edge_is_no_advice() -> None:
    near = [0.099, 0.001, 0.002, 0.001, 0.002, 0.003, 0.004, 0.001]
    found = advice(searched({"log": [1e-4, 1e-1]}, "train.optimizer.lr", 0.099, near=near))
    assert not [item for item in found if item.title.startswith("Widen")]


@given(
    st.sampled_from(["uniform", "log"]), st.floats(1e-6, 10), st.floats(1.5, 1e4), st.sampled_from([1, -1]),
    st.sampled_from([1.0, 0.5, 0.25]),
)  # fmt: skip
def test_a_wider_range_holds_the_old_one(kind: Any, low: float, factor: float, end: int, share: float) -> None:
    opened = Range(kind, (low, low * factor))
    found = wider(opened, end, share)
    assert found is not None
    assert found.values[0] <= low
    assert found.values[1] >= low * factor
    assert found.values != opened.values
    assert edge(found, opened.values[1 if end > 0 else 0]) == 0


def curve(values: list[float], train: list[float] | None = None) -> tuple[Epoch, ...]:
    pairs = zip(values, train or values, strict=True)
    return tuple(Epoch(i, {"train_loss": t, "val_loss": v}, 0.1, 1.0, 0.1) for i, (v, t) in enumerate(pairs))


def trained(values: list[float], epochs: int, train: list[float] | None = None) -> Facts:
    experiment = example.page(search=False, train={"epochs": epochs})
    best = int(np.argmin(values))
    history = curve(values, train)
    row = TrialRow("0001", "finished", "all epochs done", {}, len(values), best, 1.0, values[best], {}, history)
    return finished(experiment, (row,), history=history)


def test_still_falling_at_the_end_brings_more_epochs() -> None:
    falling = [1 / (epoch + 1) ** 0.3 for epoch in range(20)]
    assert [item.page for item in advice(trained(falling, 20))] == ["epochs: 40   # in train"]
    assert advice(trained(falling, 40)) == ()  # stopped by something else, before its last epoch
    flat = [1.0, 0.1, *(0.1 - 1e-6 * epoch for epoch in range(18))]
    assert advice(trained(flat, 20)) == ()  # best at the end, but by nothing


def test_a_rising_validation_loss_is_called_overfitting() -> None:
    falling = [1 / (epoch + 1) for epoch in range(20)]
    rising = [1.0, 0.6, 0.4, 0.3, *(0.3 + 0.02 * epoch for epoch in range(16))]
    found = advice(trained(rising, 20, falling))
    assert [item.title for item in found] == ["Regularise more"]
    one_spike = [*falling[:-1], 0.5]
    assert risen(falling, falling) is None
    assert risen(rising, rising) is None  # training gets worse too: that is no overfitting
    assert risen(falling, one_spike) is None
    assert risen([math.nan, *falling], [1.0, *rising]) is not None


def test_a_run_that_is_not_better_than_its_baseline_says_so_first() -> None:
    found = replace(example.classification(), gains={"loss": Gain("loss", 0.01, -0.1, 0.1)})
    assert advice(found)[0].title.startswith("Look at data")


def test_a_new_best_at_the_end_of_a_search_brings_more_trials() -> None:
    found = searched({"uniform": [0.1, 0.9]}, "model.dropout", 0.5)
    better = tuple(replace(row, trial=str(i), value=1.0 - i / 100) for i, row in enumerate([*found.rows, *found.rows]))
    titles = [item.title for item in advice(replace(found, rows=better))]
    assert "Search longer" in titles
    assert "Search longer" not in [item.title for item in advice(replace(found, rows=better[::-1]))]


def test_every_line_for_the_page_is_valid_where_it_says() -> None:
    for found in (
        example.classification(),
        example.classification(2, example.page(search=False)),
        example.regression(),
    ):
        for item in advice(found):
            if item.page:
                text, _, place = item.page.partition("   # in ")
                ((key, value),) = yaml.safe_load(text).items()
                path = f"{place}.{key}".replace(", choice ", "=")
                reading.from_tree(plain(replaced(found.experiment.tree, path, value)))


def test_a_page_line_reads_back() -> None:
    line = Line("train.optimizer.lr", "train.optimizer.lr", Range("log", (1e-5, 0.1))).text
    assert yaml.safe_load(line) == {"lr": {"log": [1e-5, 0.1]}}
