"""Notes of `nnopt check`: what is no fault of a page, and its writer should know."""

from __future__ import annotations

from typing import Any

import pytest

from nnopt_ray import reading


def page(loss: Any, objective: str = "minimize val_loss", **more: Any) -> Any:
    tree = {"data": {"source": {"type": "sklearn", "name": "wine"}}, "model": "mlp", "objective": objective}
    search = {"trials": 4, **more.get("search", {})}
    train = {"loss": loss, "optimizer": {"type": "adam", "lr": {"log": [1e-4, 1e-2]}}}
    return reading.from_tree({**tree, "train": train, "search": search})


SMOOTHED = {"type": "cross_entropy", "label_smoothing": {"uniform": [0, 0.2]}}
WEIGHTED = {"type": "cross_entropy", "class_weights": {"choice": ["none", "balanced"]}}
CHOSEN = {"choice": [{"type": "cross_entropy"}, {"type": "cross_entropy", "label_smoothing": 0.1}]}


@pytest.mark.parametrize("loss", [SMOOTHED, WEIGHTED, CHOSEN])
def test_losses_of_different_meaning_are_not_compared_in_silence(loss: Any) -> None:
    (note,) = reading.notes(page(loss))
    assert "train.loss" in note
    for better in ("maximize val_accuracy", "minimize val_log_loss"):
        assert better in note
        assert reading.notes(page(loss, better)) == ()  # what it suggests is a page without the note


def test_of_numbers_another_measure_is_named() -> None:
    huber = {"type": "huber", "delta": {"uniform": [0.5, 2.0]}}
    (note,) = reading.notes(page(huber))
    assert "minimize val_mae" in note
    assert reading.notes(page(huber, "minimize val_mae")) == ()


def test_one_loss_for_all_is_no_matter() -> None:
    assert reading.notes(page({"type": "cross_entropy", "label_smoothing": 0.1})) == ()
    assert reading.notes(page("auto")) == ()


def test_trials_listed_by_hand_too() -> None:
    tree = {
        "data": {"source": {"type": "sklearn", "name": "wine"}},
        "model": "mlp",
        "train": {"loss": "cross_entropy"},
        "search": {
            "method": "manual",
            "trials": [{"train.loss.label_smoothing": 0.0}, {"train.loss.label_smoothing": 0.2}],
        },
    }
    (note,) = reading.notes(reading.from_tree(tree))
    assert "train.loss.label_smoothing" in note
