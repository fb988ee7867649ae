"""Contract of every check: clean data stays as it is, the test part keeps every bit, a report changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pytest
from data_example import table

from nnopt_ray import tables
from nnopt_ray.data import CHECKS, repairs
from nnopt_ray.data.columns import recognise
from nnopt_ray.data.quality import Check, Examined, Finding
from nnopt_ray.data.target import Target
from nnopt_ray.experiment import Data

ROWS = 400
PART = tables.Part


def build(name: str, **keys: Any) -> Check:
    made: Check = tables.find("check", name)(**keys)
    return made


def part(name: str, **keys: Any) -> tables.Part:
    return PART(name, tables.MappingProxyType(keys))


def actions(name: str) -> tuple[str, ...]:
    hints = get_type_hints(tables.find("check", name).__init__)
    return get_args(hints["action"])


def columns(seed: int = 0) -> dict[str, Any]:
    """Three numbers and a word, of which nothing is wrong, and a target that follows from them."""
    random = np.random.default_rng(seed)
    x = np.clip(random.normal(size=(ROWS, 3)), -2.5, 2.5)  # further out is what `outliers` looks for
    word = np.array(["a", "b", "c"])[random.integers(0, 3, ROWS)]
    return {"x": x[:, 0], "y": x[:, 1], "z": x[:, 2], "word": word}


LABELS = (np.asarray(columns()["x"]) + np.asarray(columns()["y"]) > 0).astype(np.int64)


def examined(found: Mapping[str, Any], labels: np.ndarray | None = None) -> Examined:
    """These columns divided in the order of their rows: 240 train, 60 validation, 100 test."""
    given = table({name: pa.array(values) for name, values in found.items()})
    readings, _ = recognise(given, given.names)
    labels = LABELS if labels is None else labels
    rows = np.arange(given.rows)
    parts = {"train": rows[:240], "validation": rows[240:300], "test": rows[300:]}
    data = Examined(given, readings, Target("label", "classification", labels, ("no", "yes")), parts, rows + 7)
    steps = (part("impute"), part("scale"), part("encode"))
    return repairs.ready(Data(source=part("sklearn"), split=part("random"), steps=steps), data)


def clean() -> Examined:
    return examined(columns())


def planted(name: str) -> Examined:
    """Data with the fault that a check looks for, in the training part and in the others."""
    found, random = columns(), np.random.default_rng(1)
    match name:
        case "missing":
            gaps = random.random(ROWS) < 0.7
            found["y"] = pa.array(found["y"], mask=gaps)
            for column in ("x", "z", "word"):
                found[column] = pa.array(found[column], mask=np.isin(np.arange(ROWS), [5, 50, 250, 350]))
        case "constant":
            found["flat"] = np.where(np.isin(np.arange(ROWS), [350, 360]), "up", "down")
            found["copy"] = found["z"]
        case "identifiers":
            found["key"] = [f"row {number}" for number in random.permutation(ROWS)]
            found["code"] = random.permutation(10 * ROWS)[:ROWS] * 7
        case "conflicts":
            for column, values in found.items():
                found[column] = np.concatenate([values[:30], values[:30], values[:30], values[90:]])
                found[column][[250, 260, 310, 320]] = found[column][[245, 245, 305, 305]]
            labels = np.array(clean().target.values)
            labels[:90] = np.repeat([1, 0, 1], 30)
            labels[[250, 310]] = 1 - labels[[245, 305]]
            return examined(found, labels)
        case "duplicates" | "drop_duplicates" | "near_duplicates":
            labels = np.array(clean().target.values)
            for column in (*found.values(), labels):
                column[10:30], column[30:40] = column[310:330], column[250:260]  # of the test and validation part
                column[50:60], column[241], column[391] = column[60:70], column[242], column[392]
            if name == "near_duplicates":
                found["x"] = found["x"] * (1 + 1e-6 * np.arange(ROWS))
            return examined(found, labels)
        case "outliers":
            found["x"][[10, 20, 245, 310]] = 40.0, -30.0, 50.0, 60.0
        case "label_errors":
            wrong = (np.abs(found["x"] + found["y"]) > 1) & (random.random(ROWS) < 0.1)
            return examined(found, np.where(wrong, 1 - LABELS, LABELS))
        case "imbalance":
            return examined(found, (found["x"] > 1.7).astype(np.int64))
        case "leaks":
            found["after"] = np.where(LABELS == 1, "left", "stayed")
            found["since"] = pa.array(found["x"].copy(), mask=(LABELS == 1) & (random.random(ROWS) < 0.9))
        case "drift":
            found["z"][300:] += 2.0
            found["y"][240:300] *= 4.0
    return examined(found)


def same(one: Examined, other: Examined) -> None:
    assert one.table.columns.equals(other.table.columns)
    np.testing.assert_array_equal(one.target.values, other.target.values)
    assert one.readings == other.readings
    for name in one.parts:
        np.testing.assert_array_equal(one.parts[name], other.parts[name])


def as_said(findings: tuple[Finding, ...]) -> list[Any]:
    return [(f.sentence, f.rows.tolist(), f.sure.tolist(), f.columns, f.measured, f.repairs) for f in findings]


@pytest.mark.parametrize("name", CHECKS)
def test_clean_data_stay_as_they_are(name: str) -> None:
    for action in actions(name):
        seen = repairs.examined([part(name, action=action)], clean())
        same(seen.data, clean())
        assert not seen.audit
        assert not seen.found
        assert seen.notes == (f"Nothing was found by {name} (data.quality).",)


@pytest.mark.parametrize("name", CHECKS)
def test_a_fault_is_found_reported_and_repaired_outside_the_test_part(name: str) -> None:
    before = planted(name)
    reported = repairs.examined([part(name, action="report")] if "report" in actions(name) else [], before)
    same(reported.data, before)
    assert not reported.audit
    for action in actions(name):
        seen = repairs.examined([part(name, action=action)], before)
        assert seen.found
        assert all(found.check and found.sentence.endswith(".") for found in seen.found)
        if action != "report":
            assert seen.audit
        for kept in ("validation", "test"):
            np.testing.assert_array_equal(seen.data.parts[kept], before.parts[kept])
        outside = np.concatenate([before.parts["validation"], before.parts["test"]])
        assert seen.data.table.take(outside).columns.equals(before.table.take(outside).columns)
        np.testing.assert_array_equal(seen.data.target.values[outside], before.target.values[outside])


@pytest.mark.parametrize("name", CHECKS)
def test_the_same_data_and_seed_give_the_same(name: str) -> None:
    for action in actions(name):
        first, again = (as_said(build(name, action=action).examine(planted(name))) for _ in range(2))
        assert first == again


@pytest.mark.parametrize("name", CHECKS)
def test_labels_of_the_test_part_and_its_values_decide_nothing(name: str) -> None:
    before = planted(name)
    labels = before.target.values.copy()
    labels[before.parts["test"]] = 1 - labels[before.parts["test"]]
    poisoned = replace(before, target=replace(before.target, values=labels))
    wild = {c: before.table.columns.column(c).to_pylist() for c in before.table.names}
    for row in before.parts["test"]:
        for values in wild.values():
            values[row] = f"word {row}" if isinstance(values[0], str) else 1e6 + float(row) ** 2
    for action in actions(name):
        first, second = (repairs.examined([part(name, action=action)], d) for d in (before, poisoned))
        assert first.audit == second.audit
    alone = {c: [v if r < 300 else None for r, v in enumerate(values)] for c, values in wild.items()}
    for action in actions(name):
        ways = [examined({c: pa.array(v) for c, v in way.items()}) for way in (wild, alone)]
        audits = [repairs.examined([part(name, action=action)], data).audit for data in ways]
        assert audits[0] == audits[1]
