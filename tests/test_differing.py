"""What differs between pages, in lines that can be read."""

from __future__ import annotations

from typing import Any

from nnopt_ray import reading

DATA: dict[str, Any] = {"source": {"type": "sklearn", "name": "digits"}}


def between(*changes: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    pages = [reading.from_tree({"name": str(at), "data": DATA, "model": "mlp"} | one) for at, one in enumerate(changes)]
    return reading.differences(pages)


def test_the_same_page_by_another_name_differs_in_nothing() -> None:
    assert between({}, {}) == {}


def test_values_ranges_and_parts_stand_as_on_a_page() -> None:
    found = between(
        {"train": {"optimizer": {"type": "sgd", "lr": 0.1, "momentum": 0.5}, "epochs": 3}},
        {"train": {"optimizer": {"type": "adam", "lr": {"log": [1e-4, 0.1]}}, "clip_norm": 1.0}},
    )
    assert found == {
        "train.epochs": ("3", "20"),
        "train.optimizer": ("sgd", "adam"),
        "train.optimizer.lr": ("0.1", "{log: [0.0001, 0.1]}"),
        "train.optimizer.momentum": ("0.5", "-"),  # adam's own keys are all the default
        "train.clip_norm": ("null", "1.0"),
        "search.trials": ("null", "20"),  # of a search
    }


def test_a_list_of_parts_is_its_names_and_the_keys_that_differ() -> None:
    found = between(
        {"data": DATA | {"quality": ["missing", {"type": "outliers", "action": "fix"}], "steps": ["scale"]}},
        {"data": DATA | {"quality": [{"type": "missing", "action": "drop"}], "steps": ["impute", "scale"]}},
        {"data": DATA | {"quality": ["missing"], "steps": ["impute", {"type": "scale", "method": "robust"}]}},
    )
    assert found.pop("data.steps") == ("[scale]", "[impute, scale]", "[impute, scale]")
    assert found == {
        "data.quality": ("[missing, outliers]", "[missing]", "[missing]"),
        "data.quality.missing.action": ("report", "drop", "report"),
        "data.quality.outliers.action": ("fix", "-", "-"),
        "data.steps.scale.method": ("standard", "standard", "robust"),
    }


def test_a_choice_beside_one_of_its_options() -> None:
    choice = {"choice": [{"type": "adam", "lr": 0.01}, {"type": "sgd", "momentum": {"uniform": [0.5, 0.9]}}]}
    found = between({"train": {"optimizer": choice}}, {"train": {"optimizer": {"type": "sgd", "lr": 0.01}}})
    assert found["train.optimizer"] == ("{choice: [adam, sgd]}", "sgd")
    assert found["train.optimizer=sgd.momentum"] == ("{uniform: [0.5, 0.9]}", "-")
    assert "train.optimizer=sgd.nesterov" not in found


def test_the_same_part_twice_in_a_list() -> None:
    two = [{"type": "random_crop", "padding": 1}, {"type": "random_crop", "padding": 2}]
    found = between({"data": DATA | {"augment": two}}, {"data": DATA | {"augment": [two[0], two[0]]}})
    assert found == {"data.augment.random_crop#2.padding": ("2", "1")}
