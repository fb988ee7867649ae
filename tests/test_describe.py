"""`nnopt describe` and `nnopt check`: what they print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bad_pages import DATA

from nnopt_ray import reading, tables
from nnopt_ray.cli.main import code
from nnopt_ray.errors import PartError, UserError
from nnopt_ray.experiment import Experiment
from nnopt_ray.reading.describing import describe
from nnopt_ray.reading.keys import explanations, keys_of, words

PARTS = [(room, name) for room in tables.ROOMS for name in tables.table(room)]
OPENED = DATA + "model: {type: mlp, dropout: {uniform: [0, 0.5]}}\ntrain: {optimizer: {choice: [adam, {type: sgd}]}}\n"


def test_without_a_name_it_shows_all_there_is() -> None:
    text = describe()
    for key in keys_of(Experiment):
        assert f"\n  {key.name} " in text
    for room, name in PARTS:
        assert room in text
        assert name in text


@pytest.mark.parametrize(("room", "name"), PARTS)
def test_every_part_explains_itself_and_every_key(room: str, name: str) -> None:
    """A key without a line under `Keys:` would be a key that nobody explains."""
    model = tables.keys(room, name)
    assert (tables.find(room, name).__doc__ or "").strip(), f"{room} {name} has no docstring"
    explained = explanations(model.__doc__ or "")
    assert set(explained) == set(model.model_fields)
    text = describe(room, name, width=200)
    for key in keys_of(model):
        assert key.about in text
        assert f"{key.words[:1].upper()}{key.words[1:]}." in text


@pytest.mark.parametrize("width", [30, 60, 100])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    texts = [describe(width=width), describe("train", width=width), describe("optimizer", width=width)]
    texts += [describe(room, name, width=width) for room, name in PARTS]
    lines = [line for text in texts for line in text.splitlines()]
    assert [line for line in lines if len(line) > width and " " in line.strip()] == []


def test_sections_keys_and_parts_are_found_by_path() -> None:
    assert "patience" in describe("train.early_stopping")
    assert describe("train", "early_stopping") == describe("train.early_stopping")
    assert describe("train.optimizer") == describe("optimizer")
    assert describe("train.optimizer", "sgd") == describe("optimizer", "sgd")
    assert "at least 1. Default: 20." in describe("train.epochs")
    assert "No range here: it belongs to the machine." in " ".join(describe("train").split())
    assert "in_features" in describe("model", "torch.nn:Linear")
    with pytest.raises(UserError, match=r"no section and no room 'optimiser'. Did you mean 'optimizer'"):
        describe("optimiser")
    with pytest.raises(PartError, match="Did you mean 'adam'"):
        describe("optimizer", "adan")


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (tables.keys("model", "mlp"), {"dropout": "a number of at least 0 and below 1", "residual": "true or false"}),
        (tables.keys("optimizer", "adam"), {"lr": "a number of at least 0"}),
    ],
)
def test_types_in_words(hint: type[tables.Keys], expected: dict[str, str]) -> None:
    found = {key.name: key.words for key in keys_of(hint)}
    assert {name: found[name] for name in expected} == expected
    assert words(int | None) == "a whole number, or null"
    assert words(tuple[int, str]) == "a list of 2: a whole number, a word"


def test_check_prints_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.yaml"
    page.write_text(OPENED)
    assert (
        code(["check", str(page), "--set", "train.epochs=3", "--set", "train.optimizer.choice.1.lr={log: [0.1, 1]}"])
        == 0
    )
    out = capsys.readouterr().out
    assert out.splitlines()[0] == (
        f"# {page}: ok (a search over 3 values, 20 trials: model.dropout, train.optimizer, train.optimizer.lr)"
    )
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(out)
    assert reading.load(resolved).train.epochs == 3
    assert code(["check", str(page), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["name"], answer["search"]) == (True, "experiment", True)
    assert answer["space"][0] == {"path": "model.dropout", "range": {"uniform": [0.0, 0.5]}}
    assert answer["resolved"]["train"]["epochs"] == 20


def test_check_prints_every_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.yaml"
    page.write_text(DATA + "model: mlp\ntrain:\n  epochs: 0\n  optimiser: adam\n")
    assert code(["check", str(page)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"{page}:4:11: train.epochs: must be a whole number of at least 1; it is 0.",
        f"{page}:5:3: train.optimiser: unknown key. Did you mean 'optimizer'?",
    ]
    assert code(["check", str(page), "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert [(fault["line"], fault["column"], fault["path"]) for fault in answer["faults"]] == [
        (4, 11, "train.epochs"),
        (5, 3, "train.optimiser"),
    ]
