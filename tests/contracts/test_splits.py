"""Contract of every split: parts that never overlap, cover all rows, and follow from the seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_example import amounts, classes, table
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_ray import tables
from nnopt_ray.data import SPLITS
from nnopt_ray.data.split import PARTS, Given, Grouped, Random, Split, Time
from nnopt_ray.data.table import Table
from nnopt_ray.errors import DataError

ROWS = 300
KEYS: dict[str, dict[str, Any]] = {
    "random": {},
    "grouped": {"group": "group"},
    "time": {"column": "when"},
    "given": {"column": "part"},
}


def example(seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    columns = {
        "group": random.integers(0, 40, ROWS),
        "when": random.integers(0, 120, ROWS),
        "part": np.array(["Train", "val", "TEST"])[random.integers(0, 3, ROWS)].tolist(),
    }
    return table(columns), classes(random.integers(0, 3, ROWS))


def build(name: str, **keys: Any) -> Split:
    made: Split = tables.find("split", name)(**{**KEYS[name], **keys})
    return made


@pytest.mark.parametrize("name", SPLITS)
def test_parts_cover_every_row_once(name: str) -> None:
    for seed in range(5):
        parts = build(name).divide(*example(seed))
        assert tuple(parts) == PARTS
        assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(ROWS))
        for rows in parts.values():
            assert rows.dtype == np.int64
            assert len(rows) > 0
            assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize("name", SPLITS)
def test_the_same_call_divides_the_same_way(name: str) -> None:
    first, second = (build(name).divide(*example()) for _ in range(2))
    for part in PARTS:
        np.testing.assert_array_equal(first[part], second[part])


@pytest.mark.parametrize("name", ["random", "grouped"])
def test_another_seed_divides_otherwise(name: str) -> None:
    first, second = (build(name, seed=seed).divide(*example()) for seed in (1, 2))
    assert not np.array_equal(first["test"], second["test"])


@given(
    counts=st.lists(st.integers(2, 60), min_size=2, max_size=8).filter(lambda counts: sum(counts) >= 20),
    seed=st.integers(0, 10_000),
    validation=st.sampled_from([0.1, 0.15, 0.25]),
    test=st.sampled_from([0.1, 0.2, 0.3]),
)
@settings(max_examples=60, deadline=None)
def test_stratified_shares_are_met_to_within_a_row(
    counts: list[int], seed: int, validation: float, test: float
) -> None:
    target = classes(np.repeat(np.arange(len(counts)), counts))
    rows = len(target.values)
    parts = Random(validation=validation, test=test, seed=seed).divide(table({"x": np.zeros(rows)}), target)
    for code, count in enumerate(counts):
        held = {part: int((target.values[parts[part]] == code).sum()) for part in PARTS}
        assert held["train"] >= 1
        assert abs(held["test"] - count * round(rows * test) / rows) <= 1 + 1e-9
        # Drawn from what the test part left over, hence a row's rounding twice.
        assert abs(held["validation"] - count * round(rows * validation) / rows) <= 2
    roomy = all(count >= 10 for count in counts)
    assert not roomy or (len(parts["test"]), len(parts["validation"])) == (round(rows * test), round(rows * validation))


def test_unstratified_shares_are_exact() -> None:
    target = amounts(np.arange(ROWS) / 7)
    parts = Random(validation=0.1, test=0.3).divide(table({"x": np.zeros(ROWS)}), target)
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 180, "validation": 30, "test": 90}


def test_a_regression_target_is_stratified_by_tenths_when_asked() -> None:
    target = amounts(np.random.default_rng(3).normal(size=ROWS))
    parts = Random(stratify=True, seed=5).divide(table({"x": np.zeros(ROWS)}), target)
    tenth = np.searchsorted(np.quantile(target.values, np.linspace(0, 1, 11)[1:-1]), target.values, side="right")
    np.testing.assert_array_equal(np.bincount(tenth[parts["test"]]), [6] * 10)


@given(sizes=st.lists(st.integers(1, 40), min_size=3, max_size=30), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_no_group_stands_in_two_parts(sizes: list[int], seed: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    rows = table({"g": groups, "x": np.zeros(len(groups))})
    parts = Grouped(group="g", seed=seed).divide(rows, amounts(np.arange(len(groups))))
    held = [set(groups[parts[part]].tolist()) for part in PARTS]
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]
    assert all(held)


def test_groups_meet_the_shares_when_they_are_small() -> None:
    groups = np.repeat(np.arange(200), 5)
    parts = Grouped(group="g", validation=0.2, test=0.2, seed=1).divide(table({"g": groups}), amounts(groups))
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 600, "validation": 200, "test": 200}


def test_groups_do_not_depend_on_the_order_of_rows() -> None:
    groups = np.repeat(np.arange(50), 4)
    turned = np.random.default_rng(0).permutation(len(groups))
    straight, shuffled = (
        Grouped(group="g", seed=2).divide(table({"g": order}), amounts(order)) for order in (groups, groups[turned])
    )
    assert set(groups[straight["test"]]) == set(groups[turned][shuffled["test"]])


@given(times=st.lists(st.integers(0, 25), min_size=20, max_size=200), seed=st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_the_past_trains_and_ties_stay_together(times: list[int], seed: int) -> None:
    when = np.array(times)
    rows = table({"when": when, "x": np.zeros(len(when))})
    if len(set(times)) < 3:
        with pytest.raises(DataError, match="different times"):
            Time(column="when").divide(rows, amounts(when))
        return
    parts = Time(column="when").divide(rows, amounts(when))
    assert when[parts["train"]].max() < when[parts["validation"]].min()
    assert when[parts["validation"]].max() < when[parts["test"]].min()


def test_time_reads_dates_written_as_text() -> None:
    days = [f"{day:02}.{month:02}.2021" for month in range(1, 11) for day in range(1, 11)]
    turned = np.random.default_rng(0).permutation(100)
    rows = table({"when": [days[position] for position in turned]})
    parts = Time(column="when").divide(rows, amounts(np.arange(100)))
    assert turned[parts["train"]].max() < turned[parts["validation"]].min()
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 65, "validation": 15, "test": 20}


@pytest.mark.parametrize(
    ("split", "columns", "target", "said"),
    [
        (Random(), {"x": [1, 2, 3]}, [0, 1, 0], "3 rows are too few"),
        (Random(), {"x": range(30)}, [0] * 29 + [1], "'c1' has a single row"),
        (Grouped(group="g"), {"g": [1, 2] * 20}, [0, 1] * 20, "2 different values"),
        (Grouped(group="g"), {"g": [1, None, 3] * 10}, [0, 1, 1] * 10, "missing in 10 rows"),
        (Grouped(group="gg"), {"g": [1, 2] * 20}, [0, 1] * 20, "no column 'gg'"),
        (Time(column="t"), {"t": ["a", "b"] * 20}, [0, 1] * 20, "holds no times"),
        (Time(column="t"), {"t": [1, None] * 20}, [0, 1] * 20, "missing in 20 rows"),
        (Given(column="p"), {"p": ["train", "holdout"] * 20}, [0, 1] * 20, "'holdout'"),
        (Given(column="p"), {"p": ["train", "val"] * 20}, [0, 1] * 20, "test part has no rows"),
        (Given(), {"p": ["train", "val"] * 20}, [0, 1] * 20, "does not divide its rows itself"),
        (Given(column="p"), {"p": ["train", None] * 20}, [0, 1] * 20, "missing in 20 rows"),
    ],
)
def test_what_cannot_be_divided_is_refused(split: Split, columns: dict[str, Any], target: list[int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        split.divide(table({name: list(values) for name, values in columns.items()}), classes(target))


@pytest.mark.parametrize("part", [Random, Grouped, Time])
def test_shares_that_leave_no_rows_to_train_on_are_refused(part: Any) -> None:
    needed = {Random: {}, Grouped: {"group": "g"}, Time: {"column": "t"}}[part]
    with pytest.raises(DataError, match="below 1"):
        part(validation=0.6, test=0.4, **needed)


def test_a_given_test_set_stays_whole_and_validation_is_drawn_from_the_training_rows() -> None:
    part = np.array(["train"] * 200 + ["test"] * 50)
    codes = np.arange(250) % 10 // 9  # one row in ten
    rows = Table("arrays", pa.table({"x": np.zeros(250)}), own_parts=part)
    parts = Given(validation=0.2, seed=4).divide(rows, classes(codes))
    assert parts["test"].tolist() == list(range(200, 250))
    assert [len(parts[name]) for name in PARTS] == [160, 40, 50]
    assert codes[parts["validation"]].sum() == 4
    assert codes[parts["train"]].sum() == 16
    assert not set(parts["train"].tolist()) & set(parts["validation"].tolist())
    as_column = table({"p": part.tolist()})
    again = Given(column="p", validation=0.2, seed=4).divide(as_column, classes(codes))
    assert all((parts[name] == again[name]).all() for name in PARTS)
    other = Given(validation=0.2, seed=5).divide(rows, classes(codes))
    assert other["validation"].tolist() != parts["validation"].tolist()
