"""Nothing of validation and test part reaches what is learned: with every value and label there poisoned, each step,
balancer and check leaves bitwise the same training rows and the same learned preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_example import csv_page

from nnopt_ray.data import BALANCERS, CHECKS, STEPS
from nnopt_ray.data.prepare import prepare

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
    "check outliers that drops": {"steps": FILL, "quality": [{"type": "outliers", "action": "drop"}]},
}


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


@pytest.mark.parametrize("name", PAGES)
def test_poison_outside_the_training_part_changes_nothing_that_is_learned(name: str, tmp_path: Path) -> None:
    made = []
    for number, poisoned in enumerate((False, True)):
        page = csv_page(
            tmp_path / f"{number}.csv",
            text(poisoned),
            target="label",
            split={"type": "given", "column": "part"},
            **PAGES[name],
        )
        made.append(prepare(page, tmp_path / "cache"))
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


def test_every_step_is_poisoned() -> None:
    assert {name.split()[1] for name in PAGES if name.startswith("step")} == set(STEPS)
