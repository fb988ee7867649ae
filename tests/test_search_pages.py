"""What a page may ask of a search: objectives, methods and start points, each fault in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nnopt_ray import reading
from nnopt_ray.errors import PageError

PAGE = """\
data: {source: {type: sklearn, name: digits}}
model: {type: mlp, dropout: {uniform: [0, 0.5]}}
train:
  batch_size: {choice: [16, 32]}
  optimizer:
    choice:
      - {type: adam, lr: {log: [1e-4, 1e-1]}}
      - {type: sgd, lr: {log: [1e-3, 1.0]}, momentum: {uniform: [0.0, 0.9]}}
"""


def faults(text: str, tmp_path: Path) -> list[str]:
    file = tmp_path / "p.yaml"
    file.write_text(text)
    try:
        reading.load(file)
    except PageError as error:
        return [str(fault).removeprefix(f"{file}:") for fault in error.faults]
    return []


GOOD = [
    "objective: [minimize val_loss]",
    "objective: [minimize val_loss, minimize parameters, minimize seconds, maximize val_accuracy]",
    "search: {method: gp}\nobjective: [minimize val_loss, minimize parameters]",
    "search: {trials: 3, start: [{}, {train.optimizer: adam}, {train.optimizer.lr: 0.01, model.dropout: 0}]}",
    "search: {start: [{train.optimizer: sgd, train.optimizer.lr: 0.5}]}",
]
BAD = [
    ("objective: []", "9:12: objective: names nothing. An example: [minimize val_loss, minimize parameters]."),
    (
        "objective: minimize parameters",
        "no epoch measures parameters. Put a metric first: [minimize val_loss, minimize",
    ),
    ("objective: [minimize seconds, minimize val_loss]", "9:13: objective.0: early stopping and the best epoch follow"),
    ("objective: [minimize val_loss, maximize seconds]", "9:32: objective.1: seconds are a cost: write 'minimize sec"),
    ("objective: [minimize val_loss, minimize val_loss]", "objective.1: 'minimize val_loss' stands there twice. Rem"),
    ("objective: [minimize val_loss, minimize parameter]", "no metric gives 'parameter'. Did you mean 'parameters'?"),
    (
        "objective: [minimize val_loss, minimize seconds]\nsearch: {reproducible: true}",
        "9:12: objective: seconds differ from run to run, and search.reproducible promises the same search every time.",
    ),
    (
        "objective: [minimize val_loss, minimize parameters]\nsearch: {method: bohb}",
        "10:18: search.method: 'bohb' searches for one objective, and the page names 2. Name one, or choose a method "
        "that takes several: manual, grid, random, quasi_random, bayesian, gp.",
    ),
    (
        "search: {method: cma_es}",
        "6:5: train.optimizer: cma_es searches numbers, and this is a choice of what has no ord",
    ),
    (
        "search: {start: [{model.dropout: 0.1}, {train.batch_size: 64}]}",
        "9:59: search.start.1: train.batch_size: 64 is",
    ),
    (
        "search: {start: [{model.dropout: 0.7}]}",
        "0.7 is not in uniform [0.0, 0.5], which the page opens here. Give a val",
    ),
    ("search: {start: [{train.batch_size: '16'}]}", "'16' is not in choice [16, 32]"),
    ("search: {start: [{train.optimizer: lion}]}", "'lion' is not in choice [adam, sgd]"),
    (
        "search: {start: [{train.optimizer.momentum: 0.5}]}",
        "train.optimizer.momentum: is open where train.optimizer is sgd and not elsewhere. Give train.optimizer beside",
    ),
    (
        "search: {start: [{train.optimizer: adam, train.optimizer.momentum: 0.5}]}",
        "train.optimizer.momentum: is not open where train.optimizer is 'adam'. Leave it out, or take another option.",
    ),
    ("search: {start: [{train.optimizer.lr: 0.5}]}", "0.5 is not in log [0.0001, 0.1], which the page opens here."),
    ("search: {start: [{train.epochs: 3}]}", "train.epochs: is not opened on the page. Open it with a range, or leave"),
    (
        "search: {start: [{model.dropuot: 0.1}]}",
        "model.dropuot: is no value of the page. Did you mean 'model.dropout'?",
    ),
    (
        "search: {trials: 1, start: [{}, {}]}",
        "2 points are to be tried first, and search.trials is 1. Raise search.tri",
    ),
]


@pytest.mark.parametrize("lines", GOOD)
def test_what_is_allowed(lines: str, tmp_path: Path) -> None:
    assert faults(f"{PAGE}{lines}\n", tmp_path) == []


@pytest.mark.parametrize(("lines", "sentence"), BAD)
def test_each_fault_is_one_sentence_with_its_place(lines: str, sentence: str, tmp_path: Path) -> None:
    found = faults(f"{PAGE}{lines}\n", tmp_path)
    assert len(found) == 1
    assert sentence in found[0]


def test_a_single_number_is_too_little_for_cma_es(tmp_path: Path) -> None:
    page = "data: {source: {type: sklearn, name: digits}}\nmodel: {type: mlp, dropout: {uniform: [0, 1]}}\n"
    found = faults(f"{page}search: {{method: cma_es}}\n", tmp_path)
    assert [text for text in found if "cma_es needs at least two opened numbers" in text]


def test_start_points_of_trials_by_hand_are_checked_as_trials_by_hand(tmp_path: Path) -> None:
    page = "data: {source: {type: sklearn, name: digits}}\nmodel: mlp\n"
    search = "search: {method: manual, trials: [{train.epochs: 3}], start: [{train.epochs: 2}, {train.epochs: 0}]}\n"
    assert faults(page + search, tmp_path) == [
        "3:97: search.start.1: train.epochs: must be a whole number of at least 1; it is 0."
    ]


def test_a_closed_page_has_nothing_to_start_from(tmp_path: Path) -> None:
    page = "data: {source: {type: sklearn, name: digits}}\nmodel: mlp\nsearch: {start: [{train.epochs: 3}]}\n"
    found = faults(page, tmp_path)
    assert any("train.epochs: the page opens no value, so there is nothing to start from." in text for text in found)


def test_objectives_by_mode_and_metric_the_first_of_them_leading() -> None:
    tree: dict[str, Any] = {"data": {"source": {"type": "sklearn", "name": "digits"}}, "model": "mlp"}
    one = reading.from_tree(tree)
    assert one.objectives == (("min", "val_loss"),)
    several = reading.from_tree({**tree, "objective": ["maximize val_accuracy", "minimize parameters"]})
    assert several.objectives == (("max", "val_accuracy"), ("min", "parameters"))
    assert (several.mode, several.metric) == ("max", "val_accuracy")
    assert reading.from_tree(several.tree).objectives == several.objectives
