"""Parts that differ, and parts that do not: at the stated chance of a false alarm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from checks_example import examined
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, ks_2samp
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from nnopt_ray.data.drift import Drift, compared, holm, told_apart
from nnopt_ray.data.views import View

ROWS = 900


def columns(seed: int, rows: int = ROWS) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "when": np.arange(rows),
        "a": random.normal(size=rows),
        "b": random.normal(size=rows),
        "gaps": pa.array(random.normal(size=rows), mask=random.random(rows) < 0.2),
        "city": random.choice(["Aachen", "Bonn", "Celle"], rows),
        "y": random.integers(0, 2, rows),
    }


TIME = {"type": "time", "column": "when"}
LATE = np.arange(ROWS) > 0.8 * ROWS  # the test part


def shifted(kind: str) -> dict[str, Any]:
    made, random = columns(0), np.random.default_rng(1)
    match kind:
        case "mean":
            made["a"] = made["a"] + LATE
        case "deviation":
            made["a"] = made["a"] * np.where(LATE, 3, 1)
        case "category":
            made["city"] = np.where(LATE & (random.random(ROWS) < 0.5), "Celle", made["city"])
        case "new category":
            made["city"] = np.where(LATE & (random.random(ROWS) < 0.3), "Dresden", made["city"])
        case "missing":
            made["gaps"] = pa.array(random.normal(size=ROWS), mask=random.random(ROWS) < np.where(LATE, 0.6, 0.2))
        case "together":  # each column is as it was; that they go together is new
            made["b"] = np.where(LATE, made["a"] + random.normal(0, 0.1, ROWS), made["b"])
        case "target":
            made["y"] = np.where(LATE & (random.random(ROWS) < 0.7), 1, made["y"])
    return made


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        ("mean", "a"),
        ("deviation", "a"),
        ("category", "city"),
        ("new category", "city"),
        ("missing", "missing 'gaps'"),
        ("together", ""),
        ("target", "the target 'y'"),
    ],
)
def test_a_planted_shift_of_the_test_part_is_found(kind: str, column: str) -> None:
    (finding,) = Drift().examine(examined(shifted(kind), split=TIME))
    assert finding.measured["part"] == "test"
    named = [
        name.strip("'") if name.count("'") == 2 and name[0] == "'" else name for name in finding.measured["columns"]
    ]
    assert named == ([column] if column else [])
    assert (finding.measured["p"] < 0.01) == (kind not in ("target", "missing") or finding.measured["auc"] > 0.6)


def test_parts_that_do_not_differ_are_said_to_at_most_as_often_as_stated() -> None:
    """60 divisions by lot, at a level of 20 %: with 0.2 as the true chance more than 20 alarms have one of 0.4 %."""
    alarms = 0
    for seed in range(60):
        data = examined(columns(seed, 300), split={"type": "random", "stratify": False}, seed=seed)
        alarms += bool(Drift(alpha=0.2).examine(data))
    print(f"false alarms in {alarms} of 60 divisions at alpha 0.2")
    assert alarms <= 20


def test_digits_by_lot_do_not_drift_and_brighter_ones_do() -> None:
    source = load_digits()
    assert not Drift().examine(examined({"y": source.target}, images=source.images[:, None]))
    late = np.arange(len(source.target)) > 0.8 * len(source.target)
    images = np.where(late[:, None, None], np.minimum(source.images * 1.2, 16), source.images)
    when = np.arange(len(late))
    data = examined({"when": when, "y": source.target}, images=images[:, None], split=TIME)
    found = Drift().examine(data)
    assert any(finding.measured["part"] == "test" and finding.columns == ("image",) for finding in found)


def test_the_column_that_divides_is_left_out() -> None:
    assert not Drift().examine(examined(columns(0), split=TIME))
    given = columns(0) | {"part": np.where(LATE, "test", "train")}
    del given["when"]
    assert not Drift().examine(examined(given, split={"type": "given", "column": "part"}))


def test_rows_of_a_group_count_once() -> None:
    """60 people of 30 rows each, which are like each other: as rows they differ from part to part, as people not."""
    alarms: dict[str, int] = {"grouped": 0, "rows": 0}
    for seed in range(6):
        random = np.random.default_rng(seed)
        who = np.repeat(np.arange(100), 20)
        made = {f"x{place}": (random.normal(size=100)[who] + 0.1 * random.normal(size=2000)) for place in range(3)}
        people = made | {"who": [f"p{number}" for number in who], "y": random.integers(0, 2, 2000)}
        data = examined(people, split={"type": "grouped", "group": "who", "test": 0.3, "validation": 0.3}, seed=seed)
        alarms["grouped"] += len(Drift().examine(data))
        part = np.full(2000, "train", dtype=object)
        for name in ("validation", "test"):
            part[data.parts[name]] = name
        same = examined({**made, "y": people["y"], "part": part.astype(str)}, split={"type": "given", "column": "part"})
        alarms["rows"] += len(Drift().examine(same))
    assert alarms["grouped"] == 0
    assert alarms["rows"] >= 6


def test_too_few_rows_say_nothing() -> None:
    assert not Drift().examine(examined(columns(0, 60) | {"a": np.where(np.arange(60) > 48, 9.0, 0.0)}, split=TIME))


def test_a_column_is_compared_as_scipy_does() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(size=500), random.normal(0.2, 1, 300)
    gaps = other.copy()
    gaps[::7] = np.nan
    found, expected = compared(one, gaps, categorical=False), ks_2samp(one, gaps[np.isfinite(gaps)], method="asymp")
    assert (found.effect, found.p) == (expected.statistic, expected.pvalue)
    one, other = random.integers(0, 4, 500) * 1.0, random.integers(0, 3, 300) * 1.0
    counts = np.array([[np.sum(sample == value) for value in range(4)] for sample in (one, other)])
    expected = chi2_contingency(counts, correction=False)
    found = compared(one, other, categorical=True)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.effect == pytest.approx(np.sqrt(expected.statistic / 800))  # Cramer's V of two rows


def test_the_auc_is_that_of_pairs_within_a_half() -> None:
    random = np.random.default_rng(0)
    other = np.repeat([0, 1], [400, 200])
    matrix = random.normal(size=(600, 1)) + 3.0 * other[:, None]
    view = View(matrix, ("a",), ("a",), np.zeros(1, dtype=bool), np.ones(1, dtype=bool))
    found = told_apart(view, other, None, np.ones(600, dtype=bool), 0)
    # Of a single column that is shifted the trees can learn no better order than its own.
    assert found.auc == pytest.approx(roc_auc_score(other, matrix[:, 0]), abs=0.02)
    assert found.low < found.auc < found.high
    assert found.p < 1e-20


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_holm_rejects_what_its_adjusted_p_values_say(p: list[float], level: float) -> None:
    named = {str(place): value for place, value in enumerate(p)}
    ordered, adjusted, largest = sorted(named, key=lambda name: named[name]), {}, 0.0
    for place, name in enumerate(ordered):
        largest = max(largest, (len(p) - place) * named[name])
        adjusted[name] = largest
    expected = {name for name in ordered if adjusted[name] <= level}
    close = {name for name in ordered if abs(adjusted[name] - level) < 1e-12}
    assert set(holm(named, level)) ^ expected <= close
