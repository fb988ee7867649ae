"""Contract of every balancer: it says what becomes of each training row, the same for the same seed, and its rows are
those that imbalanced-learn's own call gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from imblearn.over_sampling import ADASYN, SMOTE, SMOTENC, RandomOverSampler
from imblearn.under_sampling import RandomUnderSampler, TomekLinks

from nnopt_ray import tables
from nnopt_ray.data import BALANCERS
from nnopt_ray.data.balance import Balanced, Balancer, Training
from nnopt_ray.data.types import Input
from nnopt_ray.errors import DataError

COUNTS = (120, 30, 55)
COLUMNS = 4
DRAWING = [name for name in BALANCERS if name != "tomek"]
GROWING = ["smote", "smotenc", "adasyn", "over"]


def training(name: str, counts: tuple[int, ...] = COUNTS, seed: int = 0) -> Training:
    """Overlapping classes, in mixed order, of what this balancer reads: numbers, or numbers beside categories."""
    random = np.random.default_rng(seed)
    target = random.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    numbers = random.normal(target[:, None] * 0.7, 1.0, (len(target), COLUMNS)).astype(np.float32)
    inputs, arrays = [Input("table", (COLUMNS,))], [numbers]
    if name == "smotenc":
        inputs.append(Input("categories", (2,), (4, 6)))
        arrays.append(np.stack([random.integers(1, 4, len(target)), random.integers(0, 6, len(target))], axis=1))
    return Training(tuple(inputs), tuple(arrays), target, tuple("abc"[: len(counts)]))


def build(name: str, **keys: Any) -> Balancer:
    made: Balancer = tables.find("balance", name)(**keys)
    return made


def rows_of(found: Balanced, given: Training) -> tuple[np.ndarray, np.ndarray]:
    """All rows as one array of float64, and their classes: those kept, those repeated, those made."""
    stacked = np.hstack([array.astype(np.float64) for array in given.arrays])
    now = np.concatenate([found.kept, found.repeated])
    made = np.hstack([array.astype(np.float64) for array in found.made]) if found.made else stacked[:0]
    return np.vstack([stacked[now], made]), np.concatenate([given.target[now], found.made_target])


def original(name: str, strategy: Any, seed: int) -> Any:
    """imbalanced-learn's own, called as its documentation says."""
    match name:
        case "smote":
            return SMOTE(sampling_strategy=strategy, random_state=seed)
        case "smotenc":
            places = [COLUMNS, COLUMNS + 1]
            return SMOTENC(categorical_features=places, sampling_strategy=strategy, random_state=seed)
        case "adasyn":
            return ADASYN(sampling_strategy=strategy, random_state=seed)
        case "over":
            return RandomOverSampler(sampling_strategy=strategy, random_state=seed)
        case "under":
            return RandomUnderSampler(sampling_strategy=strategy, random_state=seed)
    assert name == "tomek"
    return TomekLinks(sampling_strategy="auto" if strategy == "auto" else "not minority")


def in_order(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    both = np.column_stack([x, y])
    sorted_rows: np.ndarray = both[np.lexsort(both.T)]
    return sorted_rows


@pytest.mark.parametrize("name", BALANCERS)
@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_rows_are_those_of_imbalanced_learn(name: str, seed: int) -> None:
    given = training(name)
    x, y = rows_of(build(name).balance(given, seed), given)
    stacked = np.hstack([array.astype(np.float64) for array in given.arrays])
    if name in ("smote", "adasyn"):  # they calculate in the precision of what they are given
        stacked = stacked.astype(np.float32)
    expected_x, expected_y = original(name, "auto", seed).fit_resample(stacked, given.target)
    expected_x = expected_x.astype(np.float32)  # as the network reads them
    assert len(y) != len(given.target)
    np.testing.assert_array_equal(in_order(x.astype(np.float32), y), in_order(expected_x, expected_y))


@pytest.mark.parametrize("name", DRAWING)
@pytest.mark.parametrize("ratio", [0.4, 0.75])
def test_a_ratio_of_two_classes_is_that_of_imbalanced_learn(name: str, ratio: float) -> None:
    given = training(name, (150, 25))
    _, y = rows_of(build(name, ratio=ratio).balance(given, 3), given)
    stacked = np.hstack(given.arrays)
    _, expected = original(name, ratio, 3).fit_resample(stacked, given.target)
    np.testing.assert_array_equal(np.bincount(y), np.bincount(expected))
    if name != "adasyn":
        assert np.bincount(y).min() / np.bincount(y).max() == pytest.approx(ratio, abs=0.01)


@pytest.mark.parametrize("remove", ["not_minority", "majority", "all"])
def test_tomek_removes_what_imbalanced_learn_does(remove: str) -> None:
    given = training("tomek")
    found = build("tomek", remove=remove).balance(given, 0)
    expected = TomekLinks(sampling_strategy=remove.replace("_", " "))
    expected.fit_resample(given.arrays[0], given.target)
    assert found.kept.tolist() == expected.sample_indices_.tolist()
    left = np.bincount(given.target[found.kept])
    assert left[0] < COUNTS[0]
    assert (left[1] < COUNTS[1]) == (remove == "all")
    assert (left[2] < COUNTS[2]) == (remove != "majority")


@pytest.mark.parametrize("name", BALANCERS)
def test_every_row_is_accounted_for(name: str) -> None:
    given = training(name)
    found = build(name).balance(given, 1)
    for named in (found.kept, found.repeated, found.made_target):
        assert named.dtype == np.int64
    assert (np.diff(found.kept) > 0).all()
    if name in GROWING:
        assert found.kept.tolist() == list(range(len(given.target)))
        assert not np.isin(np.concatenate([given.target[found.repeated], found.made_target]), [0]).any()
    else:
        assert not len(found.repeated)
        assert not len(found.made_target)
    for array, like in zip(found.made, given.arrays, strict=bool(found.made)):
        assert (array.dtype, array.shape) == (like.dtype, (len(found.made_target), *like.shape[1:]))


@pytest.mark.parametrize("name", BALANCERS)
def test_the_seed_decides_and_what_is_given_stays(name: str) -> None:
    given = training(name)
    before = [array.copy() for array in (*given.arrays, given.target)]
    first, again, other = (rows_of(build(name).balance(given, seed), given) for seed in (5, 5, 6))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    if name in DRAWING:
        assert not np.array_equal(first[0], other[0])
    for array, copy in zip((*given.arrays, given.target), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("name", DRAWING)
def test_even_classes_stay_as_they_are(name: str) -> None:
    given = training(name, (40, 40))
    found = build(name).balance(given, 0)
    assert found.kept.tolist() == list(range(80))
    assert not len(found.repeated)
    assert not len(found.made_target)


def test_made_numbers_lie_between_rows_of_the_class_and_categories_are_met_ones() -> None:
    given = training("smotenc")
    found = build("smotenc", k_neighbors=3).balance(given, 0)
    for label in (1, 2):
        numbers, codes = (array[found.made_target == label] for array in found.made)
        own = [array[given.target == label] for array in given.arrays]
        assert (numbers >= own[0].min(axis=0)).all()
        assert (numbers <= own[0].max(axis=0)).all()
        for column in range(2):
            assert np.isin(codes[:, column], own[1][:, column]).all()


@pytest.mark.parametrize("name", ["over", "under"])
@pytest.mark.parametrize("kind", ["image", "tokens", "sequence"])
def test_over_and_under_take_every_kind_of_input(name: str, kind: Any) -> None:
    given = training(name)
    inputs = (Input(kind, (2, 3, 3)), Input("lengths", ()))
    others = Training(inputs, (np.zeros((len(given.target), 2, 3, 3)), given.target), given.target, given.classes)
    counts = np.bincount(rows_of_target(build(name).balance(others, 0), others))
    assert counts.tolist() == [max(COUNTS) if name == "over" else min(COUNTS)] * 3


def rows_of_target(found: Balanced, given: Training) -> np.ndarray:
    chosen: np.ndarray = given.target[np.concatenate([found.kept, found.repeated])]
    return chosen


@pytest.mark.parametrize("name", ["smote", "smotenc", "adasyn"])
@pytest.mark.parametrize(
    ("rows", "cure"), [(1, "Write over."), (4, "Set k_neighbors: 3, or write over."), (5, "k_neighbors: 4")]
)
def test_too_few_neighbors_are_said_with_the_cure(name: str, rows: int, cure: str) -> None:
    given = training(name, (60, rows))
    with pytest.raises(DataError, match=rf"'b' has {rows} training rows?\. .*{cure}"):
        build(name).balance(given, 0)
    if rows > 1:  # the cure is one
        build(name, k_neighbors=rows - 1).balance(given, 0)


@pytest.mark.parametrize(
    ("name", "kinds", "said"),
    [
        ("smote", ("image",), "a row is an image: write over or under."),
        ("smote", ("table", "categories"), "method: one_hot, or write smotenc."),
        ("tomek", ("categories",), "method: one_hot, or write over or under."),
        ("adasyn", ("sequence", "lengths"), "a row is a sequence and lengths: write over or under."),
        ("smotenc", ("table",), "a row is numbers. For numbers alone write smote"),
        ("smotenc", ("categories",), "Write over or under."),
        ("smotenc", ("tokens",), "a row is a text. Write over or under."),
    ],
)
def test_rows_without_distances_are_refused(name: str, kinds: tuple[Any, ...], said: str) -> None:
    target = training("over").target
    inputs = tuple(Input(kind, (2,)) for kind in kinds)
    given = Training(inputs, tuple(np.zeros((len(target), 2)) for _ in kinds), target, tuple("abc"))
    with pytest.raises(DataError) as error:
        build(name).balance(given, 0)
    assert said in str(error.value)


def test_adasyn_says_when_no_row_is_near_another_class() -> None:
    given = training("adasyn", (60, 20))
    apart = Training(
        given.inputs, (given.arrays[0] + 1000 * given.target[:, None].astype(np.float32),), given.target, given.classes
    )
    with pytest.raises(DataError, match=r"adasyn has nothing to go by .*Write smote\."):
        build("adasyn").balance(apart, 0)
