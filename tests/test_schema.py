"""`nnopt schema`: valid JSON Schema, true to what reading takes and refuses; jsonschema is the judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from bad_pages import DATA, FAULTS

from nnopt_ray import reading, tables
from nnopt_ray.cli.main import code
from nnopt_ray.experiment import plain
from nnopt_ray.reading import yaml_text
from nnopt_ray.reading.places import Places
from nnopt_ray.reading.schema import schema

JOBS = sorted((Path(__file__).parent.parent / "jobs").rglob("*.yaml"))

GOOD = [
    DATA + "model: mlp\n",
    DATA + "model: my_pkg.nets:Net\ntrain: {optimizer: {type: 'a.b:C', anything: [1]}}\n",
    DATA
    + "model: {type: mlp, widths: [8, {int: [1, 9]}], dropout: {uniform: [0, 0.5]}, norm: {choice: [none, batch]}}\n",
    DATA + "model: {choice: [mlp, {type: resnet, depth: {choice: [8, 14]}}]}\n",
    DATA
    + "model: mlp\ntrain: {early_stopping: {choice: [null, {patience: {int: [1, 3]}}]}, clip_norm: {log: [0.1, 1]}}\n",
    DATA + "model: mlp\ntrain: {from: runs/first}\n",
    DATA + "model: mlp\ntrain: {from: {run: runs/first, epoch: 3}}\n",
    DATA + "model: mlp\ntrain:\nsearch: {method: manual, trials: [{seed: 1}, {seed: 2}]}\n",
    DATA + "model: {type: mlp, widths: {choice: [[8], [8, 8]]}}\nseed: {int: [1, 3]}\n",
    "data: {source: {type: csv, path: x}, split: {test: 0.1}, steps: [{choice: [scale, encode]}]}\nmodel: mlp\n",
]
# Faults that only `nnopt check` can know: rules between keys, limits of ranges, the text itself.
BEYOND = {
    "twice", "octal", "octal cure", "merge", "tag", "own tag", "own alias", "huge", "digits", "list as key",
    "no module", "no class", "not our kind", "constructor", "float for int",
    "exponents", "upside down", "infinite", "step", "step back", "same options", "same parts",
    "low end", "high end", "between", "in a list", "in an option",
    "direction", "no direction", "no prefix", "train loss", "no metric", "no objective", "task", "loss", "monitor",
    "plateau", "evaluate", "grid", "listed", "not listed", "grace", "nan", "inf", "half a character",
    "pbt too late", "pbt of nothing", "pbt by a model", "pbt by hand", "hyperband of one bracket", "late median",
    "grace of trials by hand", "one point", "one point by grid", "one point of words", "equal ends", "confirm nothing",
    "confirm more than there are", "confirm more than listed", "confirm more than points",
    "reproducible by the clock", "lanes that may not be", "two averages", "late average", "nowhere to anneal",
    "a form of nothing", "compiled lanes",
    "no tokens", "two tokenizers", "windows at random",
}  # fmt: skip


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return schema()


@pytest.fixture(scope="module")
def judge(made: dict[str, Any]) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(made)


def tree(text: str) -> Any:
    return yaml_text.read(text, Places("page"))


def test_it_is_a_json_schema(made: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    jsonschema.Draft202012Validator.check_schema(made)
    assert code(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(made))


def test_every_part_and_every_key_stands_in_it(made: dict[str, Any]) -> None:
    for room in set(tables.ROOMS) - {"metric"}:  # metrics are named by words, not chosen by `type`
        options = json.dumps([made["$defs"].get(room), made["$defs"].get(f"{room}.fixed")])
        for name in tables.table(room):
            assert f'"const": "{name}"' in options
            for key in tables.keys(room, name).model_fields:
                assert f'"{key}": {{' in options


@pytest.mark.parametrize("job", JOBS, ids=[job.name for job in JOBS])
def test_every_job_fits_as_written_and_as_resolved(job: Path, judge: jsonschema.Draft202012Validator) -> None:
    judge.validate(tree(job.read_text()))
    judge.validate(plain(reading.load(job).tree))


@pytest.mark.parametrize("text", GOOD)
def test_what_reading_takes_fits(text: str, judge: jsonschema.Draft202012Validator) -> None:
    judge.validate(tree(text))
    if "my_pkg" not in text:
        judge.validate(plain(reading.from_tree(tree(text)).tree))


@pytest.mark.parametrize(
    "name", [name for name, text, _ in FAULTS if name not in BEYOND and text.startswith(("data", "model"))]
)
def test_what_reading_refuses_for_its_shape_does_not_fit(name: str, judge: jsonschema.Draft202012Validator) -> None:
    text = next(text for other, text, _ in FAULTS if other == name)
    if isinstance(tree(text), dict):
        assert not judge.is_valid(tree(text))


def test_beyond_is_short_of_nothing() -> None:
    assert {name for name, _, _ in FAULTS} >= BEYOND
