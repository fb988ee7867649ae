"""Contract of every kind of folds: each row is held out once (by time at most once), nothing is learned from what is
held out, and larger shares hold the smaller ones. Shares and sizes are those of scikit-learn's kinds."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_example import classes, page
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold, TimeSeriesSplit

from nnopt_ray import tables
from nnopt_ray.data import FOLDS
from nnopt_ray.data.folds import Folds, parts_of, settled
from nnopt_ray.data.split import PARTS
from nnopt_ray.data.table import Table
from nnopt_ray.errors import DataError
from nnopt_ray.tables import Part

ROWS = 203
KEYS: dict[str, dict[str, Any]] = {"grouped": {"group": "group"}, "time": {"column": "when"}}
TIMES = ("time",)


def data(rows: int = ROWS, count: int = 3, seed: int = 0, groups: int = 30) -> tuple[Table, Any]:
    random = np.random.default_rng(seed)
    columns = {"group": random.integers(0, groups, rows), "when": random.permutation(rows)}
    return Table("a table", pa.table(columns), None), classes(np.sort(random.integers(0, count, rows)))


def build(name: str, folds: int = 5, seed: int = 0, **more: Any) -> Folds:
    keys = {**KEYS.get(name, {}), "folds": folds, **({} if name in TIMES else {"seed": seed}), **more}
    chosen = Part(name, MappingProxyType({**({"repeats": 1} if name not in TIMES else {}), **keys}))
    chosen = settled(chosen, page({"type": "sklearn", "name": "digits"}).data, "classification")
    made: Folds = tables.build("fold", chosen)
    return made


def some_rows(seed: int = 0) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(ROWS)[:160]).astype(np.int64)


@pytest.mark.parametrize("name", FOLDS)
def test_every_row_is_held_out_once_and_never_learned_from_there(name: str) -> None:
    table, target = data()
    rows = some_rows()
    made = build(name, **({} if name in TIMES else {"repeats": 2})).divide(table, target, rows)
    held = np.concatenate([one for _, one in made])
    if name in TIMES:
        assert len(np.unique(held)) == len(held)
    else:
        np.testing.assert_array_equal(np.sort(held), np.repeat(rows, 2))
        firsts = [set(one.tolist()) for _, one in made[:5]]
        assert not all(set(one.tolist()) in firsts for _, one in made[5:]), "a repeat is drawn anew"
    for learned, out in made:
        assert not set(learned) & set(out)
        assert set(learned) | set(out) <= set(rows)
        assert len(learned) > 0
        assert len(out) > 0
        assert (np.diff(learned) > 0).all()
        assert (np.diff(out) > 0).all()


@pytest.mark.parametrize("name", FOLDS)
def test_the_same_seed_divides_the_same_way_and_the_epoch_is_chosen_by_rows_of_its_own(name: str) -> None:
    table, target = data()
    rows = some_rows()
    one, two = (build(name).divide(table, target, rows) for _ in range(2))
    for (a, b), (c, d) in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
    train, validation = build(name).inner(table, target, rows, 30)
    assert sorted([*train, *validation]) == rows.tolist()
    assert 20 <= len(validation) <= 40


@pytest.mark.parametrize("name", FOLDS)
def test_a_larger_share_holds_a_smaller_one(name: str) -> None:
    table, target = data()
    rows, kind, before = some_rows(), build(name), np.zeros(0)
    for wanted in (20, 40, 90, 160):
        now = kind.share(table, target, rows, wanted)
        assert set(before) <= set(now) <= set(rows)
        assert abs(len(now) - wanted) <= 10
        before = now
    np.testing.assert_array_equal(before, rows)


@given(
    counts=st.lists(st.integers(5, 60), min_size=2, max_size=6), folds=st.integers(2, 5), seed=st.integers(0, 10_000)
)
@settings(max_examples=40, deadline=None)
def test_stratified_folds_have_the_sizes_of_scikit_learns(counts: list[int], folds: int, seed: int) -> None:
    target = classes(np.repeat(np.arange(len(counts)), counts))
    rows = np.arange(len(target.values))
    made = build("stratified", folds, seed).divide(data()[0], target, rows)
    theirs = StratifiedKFold(folds, shuffle=True, random_state=seed % 1000).split(rows, target.values)
    assert sorted(len(held) for _, held in made) == sorted(len(held) for _, held in theirs)
    for code, count in enumerate(counts):
        shares = [int((target.values[held] == code).sum()) for _, held in made]
        assert max(shares) - min(shares) <= 1
        assert sum(shares) == count


@given(rows=st.integers(8, 200), folds=st.integers(2, 8), seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_k_folds_have_the_sizes_of_scikit_learns(rows: int, folds: int, seed: int) -> None:
    target = classes(np.arange(rows) % 2)
    made = build("k_fold", folds, seed).divide(data()[0], target, np.arange(rows))
    theirs = KFold(folds).split(np.arange(rows))
    assert sorted(len(held) for _, held in made) == sorted(len(held) for _, held in theirs)


@given(seed=st.integers(0, 10_000), folds=st.integers(2, 6), groups=st.integers(8, 40))
@settings(max_examples=30, deadline=None)
def test_groups_stay_whole_and_are_dealt_nearly_as_evenly_as_scikit_learn_does(
    seed: int, folds: int, groups: int
) -> None:
    table, target = data(seed=seed, groups=groups)
    group, rows = table.columns.column("group").to_numpy(), np.arange(ROWS)
    made = build("grouped", folds, seed).divide(table, target, rows)
    assert len(made) == folds
    for learned, held in made:
        assert not set(group[learned]) & set(group[held])
    theirs = max(len(held) for _, held in GroupKFold(folds).split(rows, groups=group))
    assert max(len(held) for _, held in made) <= theirs + np.bincount(group).max()


@given(rows=st.integers(12, 200), folds=st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_folds_by_time_are_those_of_scikit_learn_where_no_two_rows_are_of_one_time(rows: int, folds: int) -> None:
    when = np.random.default_rng(rows).permutation(rows)
    table = Table("a table", pa.table({"when": when}), None)
    made = build("time", folds).divide(table, classes(np.arange(rows) % 2), np.arange(rows))
    order = np.argsort(when)
    for (learned, held), (before, after) in zip(made, TimeSeriesSplit(folds).split(order), strict=True):
        np.testing.assert_array_equal(learned, np.sort(order[before]))
        np.testing.assert_array_equal(held, np.sort(order[after]))


def test_rows_of_one_time_are_never_torn_apart_and_a_gap_is_left_out() -> None:
    when = np.random.default_rng(4).integers(0, 25, ROWS)
    table = Table("a table", pa.table({"when": when}), None)
    for gap in (0, 2):
        for learned, held in build("time", 4, gap=gap).divide(table, classes(np.arange(ROWS) % 2), np.arange(ROWS)):
            assert when[learned].max() + gap < when[held].min()
            train, validation = build("time", 4).inner(table, classes(np.arange(ROWS) % 2), learned, 20)
            assert when[train].max() < when[validation].min()


@pytest.mark.parametrize("name", [name for name in FOLDS if name not in TIMES])
def test_all_folds_of_even_kinds_have_as_many_training_rows(name: str) -> None:
    table, target = data()
    if not build(name).even:
        pytest.skip("groups are of any size")
    split = dict(zip(PARTS, np.array_split(np.arange(ROWS), [120, 160]), strict=True))
    sizes = set()
    for number in range(1, 6):
        shown = page(
            {"type": "sklearn", "name": "digits"}, fold={"number": number, "of": {"type": name, **KEYS.get(name, {})}}
        )
        parts = parts_of(shown.data, table, target, split)
        assert not set(np.concatenate(list(parts.values()))) & set(split["test"])
        sizes.add(len(parts["train"]))
    assert len(sizes) == 1


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a class with fewer rows than folds": (
        {"name": "stratified", "target": [0] * 40 + [1] * 3},
        "evaluate.folds: the class 'c1' has 3 rows outside the test part, and each of 5 folds needs one. Use folds: 3, "
        "or write type: k_fold.",
    ),
    "groups fewer than folds": (
        {"name": "grouped", "target": [0, 1] * 20, "group": [0, 1, 2, 3] * 10},
        "evaluate.folds: 'group' has 4 different values outside the test part, and 5 folds need as many groups. Use "
        "folds: 4 at most.",
    ),
    "times fewer than folds": (
        {"name": "time", "target": [0, 1] * 20, "when": [0, 1, 2, 3] * 10},
        "evaluate.folds: 'when' has 4 different times outside the test part, and 5 folds need 6 at least. Use fewer "
        "folds.",
    ),
    "rows fewer than folds": (
        {"name": "k_fold", "target": [0, 1, 0]},
        "evaluate.folds: 3 rows are too few for 5 folds. Use fewer folds.",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_divided_is_refused_in_a_sentence(case: str) -> None:
    given_, sentence = BAD[case]
    target = classes(given_["target"])
    rows = len(target.values)
    columns = {"group": given_.get("group", range(rows)), "when": given_.get("when", range(rows))}
    table = Table("a table", pa.table({name: list(values) for name, values in columns.items()}), None)
    with pytest.raises(DataError) as told:
        build(given_["name"]).divide(table, target, np.arange(rows))
    assert str(told.value) == sentence
