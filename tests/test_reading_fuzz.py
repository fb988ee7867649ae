"""Thousands of broken pages: never anything but a PageError with sentences in it, or a good Experiment."""

from __future__ import annotations

import copy
import random
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnopt_ray import reading
from nnopt_ray.errors import PageError
from nnopt_ray.experiment import Experiment, plain
from nnopt_ray.reading import yaml_text
from nnopt_ray.reading.places import Places
from nnopt_ray.reading.ranges import KINDS

GOOD = """\
name: fuzz
objective: maximize val_f1
data:
  source: {type: sklearn, name: digits}
  steps: [{type: scale, method: minmax}]
model: {type: mlp, widths: [8, {int: [1, 9]}], dropout: {uniform: [0, 0.5]}}
train:
  epochs: 4
  optimizer:
    choice: [{type: adam, lr: {log: [1e-4, 1e-1]}}, {type: sgd, momentum: 0.5}]
  early_stopping: {patience: 2}
search: {method: bayesian, trials: 4, scheduler: {type: asha, grace_period: 2}}
"""
PIECES = [*"{}[]:,-?&*!|>'\"%@`#~<= \n\t\0\x7f\u2028", "- ", ": ", "\n  ", "<<: ", "*a", "&a ", "!!", "---\n", "..."]
PIECES += ["010", "1e999", ".nan", "null", "true", "yes", "1e-3", "-1", "0", "''", "é", "\\u", "\ufeff", "\ud800"]
PIECES += [f"{{{kind}: [1, 2]}}" for kind in KINDS] + ["{choice: []}", "{choice: [a, a]}", "{log: [-1, x]}"]


def judge(act: Callable[[], Experiment]) -> bool:
    """True for a good page; a fault must be a sentence, and the whole must be printable."""
    fault: PageError | None = None
    try:
        page = act()
    except PageError as error:
        fault = error
    if fault is not None:
        assert fault.faults
        assert all(one.message.strip() for one in fault.faults)
        for ours in ("Input should", "object at 0x", "BROKEN", "<class"):
            assert ours not in str(fault)
        str(fault).encode("utf-8")
        return False
    assert isinstance(page, Experiment)
    assert isinstance(page.space, tuple)
    assert (page.metric, page.mode) != ("", "")
    return True


def mutations(count: int, seed: int) -> Iterator[bytes]:
    """The good page with one to three blows: bytes, pieces, lines, words."""
    for number in range(count):
        dice = random.Random(seed * 1_000_003 + number)
        text = GOOD
        for _ in range(dice.choice([1, 1, 1, 2, 3])):
            lines = text.splitlines(keepends=True) or [""]
            at = dice.randrange(len(text) + 1)
            row = dice.randrange(len(lines))
            match dice.randrange(7):
                case 0:
                    text = text[:at] + dice.choice(PIECES) + text[at:]
                case 1:
                    text = text[:at] + text[at + dice.randrange(1, 6) :]
                case 2:
                    text = text[:at] + dice.choice(string.printable) + text[at + 1 :]
                case 3:
                    text = "".join(lines[:row] + lines[row + 1 :])
                case 4:
                    text = "".join([*lines[:row], dice.choice(lines), *lines[row:]])
                case 5:
                    text = "".join([*lines[:row], " " * dice.randrange(4), *lines[row:]])
                case 6:
                    words = text.split(" ")
                    words[dice.randrange(len(words))] = dice.choice([*PIECES, *words])
                    text = " ".join(words)
        content = text.encode("utf-8", "surrogatepass")
        if dice.random() < 0.05:
            at = dice.randrange(len(content) + 1)
            content = content[:at] + bytes([dice.randrange(256)]) + content[at:]
        yield content


def test_broken_texts(tmp_path: Path) -> None:
    page = tmp_path / "page.yaml"
    page.write_text(GOOD)
    assert judge(lambda: reading.load(page)), "the page that is broken must be good itself"
    good = 0
    for content in mutations(1000, seed=1):
        page.write_bytes(content)
        good += judge(lambda: reading.load(page))
    assert 50 < good < 700, "most blows break it, not all"


VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    2**70,
    0.5,
    -0.0,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
    "auto",
]
VALUES += [
    "adam",
    "mlp",
    "1e-3",
    "val_f1",
    "os:system",
    ":",
    "a:",
    [],
    {},
    [[]],
    [None],
    {"": 1},
    {"type": "sgd"},
    "é" * 99,
]
VALUES += [{kind: values} for kind in KINDS for values in ([], [1, 2], [2, 1], [0.1, 0.5], [1, 5, 2], ["a", None], 3)]
VALUES += [{"choice": [{"type": "adam"}, {"type": "sgd", "lr": {"log": [1e-3, 1]}}, None]}, {"type": {"choice": ["a"]}}]


def ways(node: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield way
    if isinstance(node, dict):
        for key in node:
            yield from ways(node[key], (*way, key))
    elif isinstance(node, list):
        for index, item in enumerate(node):
            yield from ways(item, (*way, index))


def test_broken_trees() -> None:
    """Every place of the resolved page in turn takes every kind of value."""
    whole = plain(reading.from_tree(yaml_text.read(GOOD, Places("good"))).tree)
    dice = random.Random(2)
    good = total = 0
    for way in [way for way in ways(whole) if way]:
        for value in dice.sample(VALUES, 10):
            tree = copy.deepcopy(whole)
            node = tree
            for step in way[:-1]:
                node = node[step]
            node[way[-1]] = copy.deepcopy(value)
            total += 1
            good += judge(lambda tree=tree: reading.from_tree(tree))  # type: ignore[misc]
    assert total > 700
    assert 20 < good < total / 2


def test_broken_settings(tmp_path: Path) -> None:
    page = tmp_path / "page.yaml"
    page.write_text(GOOD)
    dice = random.Random(3)
    paths = [".".join(map(str, way)) for way in ways(yaml_text.read(GOOD, Places("good"))) if way]
    for _ in range(250):
        path = dice.choice([*paths, "", ".", "a..b", "data.steps.99999999999999999999", "model.widths.-1", "é"])
        path += dice.choice(["", "", ".x", ".0", "."])
        judge(lambda path=path: reading.load(page, set=[f"{path}={dice.choice(PIECES)}"]))  # type: ignore[misc]
        judge(lambda path=path: reading.load(page, set={path: dice.choice(VALUES)}))  # type: ignore[misc]


def test_broken_trials() -> None:
    page = reading.from_tree(yaml_text.read(GOOD, Places("good")))
    dice = random.Random(4)
    paths = [path for path, _ in page.space] + ["train.l1", "model", "nothing", "train.optimizer.momentum", ""]
    for _ in range(400):
        params = {path: dice.choice(VALUES) for path in dice.sample(paths, 6)}
        judge(lambda params=params: reading.close(page, params))  # type: ignore[misc]


names = st.sampled_from(
    [*"ab", "type", "choice", "log", "data", "model", "train", "search", "source", "trials", "epochs"]
)
leaves = st.sampled_from(VALUES) | st.text(max_size=5)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5), max_leaves=15
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(names, trees, max_size=6))
def test_random_trees(tree: dict[str, Any]) -> None:
    judge(lambda: reading.from_tree(tree))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from([*"{}[]:,-?&*!|>'\"%@#~<= \n\tab01."]), max_size=60))
def test_random_texts(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.yaml"
    page.write_text(text)
    with pytest.raises(PageError):
        reading.load(page)
