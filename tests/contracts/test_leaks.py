"""Nothing of validation and test part reaches what is learned: with every value and label there poisoned, each step,
balancer and check leaves bitwise the same training rows and the same learned preprocessing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from data_example import csv_page

from nnopt_ray import tables
from nnopt_ray.data import BALANCERS, CHECKS, STEPS
from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.types import Dataset

ROWS = 160
WORDS = ("amber", "blue", "cyan", "dun")
# What the other steps of a page are beside the one in question: every page ends in numbers.
FILL = [{"type": "impute", "indicator": True}, {"type": "scale"}, {"type": "encode"}]
PAGES: dict[str, dict[str, Any]] = {
    **{f"step {name}": {"steps": FILL} for name in STEPS if name not in ("tokenize", "clean_text")},
    "step tokenize": {"steps": [{"type": "tokenize", "columns": ["word"]}], "ignore": ["a", "b"]},
    "step clean_text": {"steps": [{"type": "clean_text", "lowercase": True}, *FILL]},
    "step scale quantile": {"steps": [FILL[0], {"type": "scale", "method": "quantile"}, FILL[2]]},
    "step encode embedding": {"steps": [*FILL[:2], {"type": "encode", "method": "embedding"}]},
    "step encode target": {"steps": [FILL[0], {"type": "encode", "method": "target"}, FILL[1]]},
    **{f"balance {name}": {"steps": FILL, "balance": name} for name in BALANCERS if name != "smotenc"},
    "balance smotenc": {
        "steps": [*FILL[:2], {"type": "encode", "method": "embedding"}],
        "balance": "smotenc",
    },
    # Checks look across parts on purpose (a copy of a test row is no training row); here no row has one.
    **{f"check {name}": {"steps": FILL, "quality": [name]} for name in CHECKS if name != "label_errors"},
}
COLUMN_FAULTS = ("constant", "identifiers", "leaks")
# Faults planted in the training part, and keys by which each check finds them in labels that follow from nothing.
FINDS: dict[str, dict[str, Any]] = {
    "label_errors": {"filter_by": "predicted_neq_given", "most": 1.0, "share": 0.3},
    "missing": {"rows": 0.3},
    "constant": {"share": 0.9},
    "identifiers": {"share": 0.4},
}
REPAIRS = [
    (name, action)
    for name in CHECKS
    for action in get_args(tables.keys("check", name).model_fields["action"].annotation)
    if action != "report"
]


def text(poisoned: bool) -> str:
    random = np.random.default_rng(5)
    lines = ["part,a,b,word,label"]
    for row in range(ROWS):
        part = ("train", "train", "validation", "test")[row % 4]
        a, b = random.normal(50, 9), random.normal()
        word, label = WORDS[random.integers(0, 4)], "x" if random.random() < 0.3 else "y"
        gap = random.random() < 0.15
        if poisoned and part != "train":
            a, b, word, label = a * 1e4 + 7, -b * 50, f"poison{row % 3}", "y" if label == "x" else "x"
        lines.append(f"{part},{'' if gap else repr(float(a))},{float(b)!r},{word},{label}")
    return "\n".join(lines)


def same_training_part(text: Callable[[bool], str], keys: dict[str, Any], folder: Path) -> tuple[Dataset, Dataset]:
    """The data of a page without and with poison: training rows and learned states were seen to be the same."""
    made = []
    for number, poisoned in enumerate((False, True)):
        page = csv_page(
            folder / f"{number}.csv",
            text(poisoned),
            target="label",
            split={"type": "given", "column": "part"},
            **keys,
        )
        made.append(prepare(page, folder / "cache"))
    clean, other = made
    assert clean.key != other.key
    assert not np.array_equal(clean.test.target, other.test.target)
    np.testing.assert_array_equal(clean.train.target, other.train.target)
    np.testing.assert_array_equal(clean.train.source_rows, other.train.source_rows)
    for one, two in zip(clean.train.inputs, other.train.inputs, strict=True):
        np.testing.assert_array_equal(one, two)
    learned = [json.loads((each.folder / "preprocessing.json").read_text(encoding="utf-8")) for each in made]
    assert learned[0]["steps"] == learned[1]["steps"]
    assert learned[0]["inputs"] == learned[1]["inputs"]
    return clean, other


def planted(poisoned: bool, columns: bool) -> str:
    """The same rows with faults in the training part: copies, contradictions, an outlier; or columns of faults."""
    lines = text(poisoned).split("\n")
    if columns:
        head, *rows = lines
        found = [f"{head},same,key,copy"]
        for row, line in enumerate(rows):
            train = line.startswith("train")
            label = line.rsplit(",", 1)[1]
            same, key = (2 if row == 4 else 1, f"k{row // 2}") if train or not poisoned else (row, "k")
            found.append(f"{line},{same},{key},{label}")
        return "\n".join(found)
    lines[9] = lines[5]
    lines[13] = ",".join([*lines[6].split(",")[:-1], "x" if lines[6].endswith("y") else "y"])
    part, a, b, word, label = lines[10].split(",")
    lines[14] = ",".join([part, a, repr(float(b) + 1e-9), word, label])
    lines[17] = f"train,200.0,0.5,blue,{label}"
    lines[18] = lines[6]
    return "\n".join(lines)


@pytest.mark.parametrize(("name", "action"), REPAIRS)
def test_poison_outside_the_training_part_changes_no_repair(name: str, action: str, tmp_path: Path) -> None:
    check = {"type": name, "action": action, **FINDS.get(name, {})}
    page = {"steps": FILL, "quality": [check]}
    made = same_training_part(lambda poisoned: planted(poisoned, name in COLUMN_FAULTS), page, tmp_path)
    audits = [(each.folder / "audit.csv").read_text(encoding="utf-8").splitlines()[1:] for each in made]
    repaired = [[line for line in audit if line.split(",")[1] in ("train", "")] for audit in audits]
    assert repaired[0], "nothing was repaired, so nothing was tried"
    assert [line.split(",")[:3] for line in repaired[0]] == [line.split(",")[:3] for line in repaired[1]]


@pytest.mark.parametrize("name", PAGES)
def test_poison_outside_the_training_part_changes_nothing_that_is_learned(name: str, tmp_path: Path) -> None:
    same_training_part(text, PAGES[name], tmp_path)


def test_every_step_is_poisoned() -> None:
    assert {name.split()[1] for name in PAGES if name.startswith("step")} == set(STEPS)
