"""Categories by the mean of the target: scikit-learn's numbers, no row told its own target, later steps, new rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from data_example import amounts, classes, csv_page, mixed, page
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import TargetEncoder

from nnopt_ray.data import target_encoding
from nnopt_ray.data.encode import Encode
from nnopt_ray.data.frame import Frame, Numeric, Text
from nnopt_ray.data.prepare import apply, prepare
from nnopt_ray.data.table import Table
from nnopt_ray.data.target import Target
from nnopt_ray.errors import DataError

WORDS = ("amber", "blue", "cyan", "dun", "ecru")
SMOOTH: list[Any] = ["auto", 0.0, 3.5]


def drawn(kind: str, seed: int, rows: int = 90) -> tuple[Frame, np.ndarray, Target]:
    """Words with gaps and numbers that are codes; the training rows in no order; the target of all rows."""
    random = np.random.default_rng(seed)
    word = random.integers(-1, len(WORDS), rows)
    zone = random.integers(0, 4, rows).astype(float)
    features = {"word": Text(word, WORDS, "word"), "zone": Numeric(zone, "zone")}
    train = random.permutation(rows)[: 2 * rows // 3]
    if kind == "amounts":
        return Frame(features), train, amounts(100 * word + random.normal(0, 30, rows))
    count = {"two classes": 2, "four classes": 4}[kind]
    codes = (random.integers(0, count, rows) + (word == 1)) % count
    codes[train[:count]] = np.arange(count)  # each class is met
    return Frame(features), train, classes(codes)


def as_scikit_learn(frame: Frame) -> np.ndarray:
    word, zone = frame.features["word"], frame.features["zone"]
    assert isinstance(word, Text)
    assert isinstance(zone, Numeric)
    named = [None if code < 0 else word.words[code] for code in word.codes]
    return np.array([named, [str(int(value)) for value in zone.values]], dtype=object).T


def values(frame: Frame) -> np.ndarray:
    found = [feature.values for feature in frame.features.values() if isinstance(feature, Numeric)]
    assert len(found) == len(frame.features)
    return np.stack(found, axis=1)


@pytest.mark.parametrize("smooth", SMOOTH)
@pytest.mark.parametrize("kind", ["two classes", "four classes", "amounts"])
@given(seed=st.integers(0, 10_000), count=st.integers(2, 7))
@settings(max_examples=15, deadline=None)
def test_numbers_are_scikit_learns(kind: str, smooth: Any, seed: int, count: int) -> None:
    frame, train, target = drawn(kind, seed)
    known = target.take(train)
    step = Encode(method="target", smooth=smooth, folds=count, columns=("word", "zone"))
    state = json.loads(json.dumps(step.fit_to_target(frame, train, known)))
    fold = target_encoding.folds(known, count, seed)
    divided = [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(count)]
    reference = TargetEncoder(
        smooth=smooth, cv=divided, target_type="continuous" if kind == "amounts" else "auto"
    )  # its own folds would be drawn otherwise
    column = as_scikit_learn(frame)
    inside = reference.fit_transform(column[train], known.values)
    outside = np.setdiff1d(np.arange(len(column)), train)
    made = step.transform_training(frame, train, known, state, seed)
    np.testing.assert_allclose(values(made)[train], inside, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(values(made)[outside], reference.transform(column[outside]), rtol=1e-9, atol=1e-9)
    again = step.transform(frame, state)
    np.testing.assert_allclose(values(again), reference.transform(column), rtol=1e-9, atol=1e-9)
    assert list(made.features) == list(again.features)
    one = {"four classes": ["word=c0", "word=c1", "word=c2", "word=c3"]}.get(kind, ["word"])
    assert list(made.features) == [*one, *(name.replace("word", "zone") for name in one)]


def test_by_hand() -> None:
    """a: 1, 3, 8 and b: 4 have the mean 4; with one row of it added a is (12 + 4) / 4 and b is (4 + 4) / 2."""
    frame = Frame({"w": Text(np.array([0, 0, 0, 1, 2, -1]), ("a", "b", "new"), "w")})
    target = amounts([1.0, 3.0, 8.0, 4.0])
    step = Encode(method="target", smooth=2.0)
    state = step.fit_to_target(frame, np.arange(4), target)
    assert values(step.transform(frame, state))[:, 0].tolist() == [4.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    target = amounts([1.0, 3.0, 8.0, 0.0])  # the mean is 3: (12 + 2 * 3) / 5 and (0 + 2 * 3) / 3
    state = step.fit_to_target(frame, np.arange(4), target)
    assert values(step.transform(frame, state))[:, 0].tolist() == [3.6, 3.6, 3.6, 2.0, 3.0, 3.0]


@given(seed=st.integers(0, 10_000), row=st.integers(0, 59), smooth=st.sampled_from(SMOOTH))
@settings(max_examples=40, deadline=None)
def test_no_training_row_is_told_its_own_target(seed: int, row: int, smooth: Any) -> None:
    frame, train, target = drawn("amounts", seed)
    step = Encode(method="target", smooth=smooth, columns=("word", "zone"))
    made = []
    for poison in (0.0, 1e7):
        known = target.take(train)
        known.values[row] += poison
        state = step.fit_to_target(frame, train, known)
        made.append(values(step.transform_training(frame, train, known, state, 4)))
    np.testing.assert_array_equal(made[0][train[row]], made[1][train[row]])
    others = np.setdiff1d(np.arange(90), train)
    assert (made[0][others] != made[1][others]).any()  # and it reaches those that may see it


@pytest.mark.parametrize("smooth", SMOOTH)
def test_no_training_row_is_told_its_own_class(smooth: Any) -> None:
    """The folds, which are drawn by class, being the same."""
    random = np.random.default_rng(2)
    positions, fold = random.integers(-1, 5, 60), random.integers(0, 5, 60)
    clean = classes(random.integers(0, 3, 60))
    before = target_encoding.out_of_fold(positions, 5, clean, smooth, fold)
    for row in range(60):
        other = classes(np.where(np.arange(60) == row, (clean.values + 1) % 3, clean.values))
        after = target_encoding.out_of_fold(positions, 5, other, smooth, fold)
        differ = np.any(np.array(before) != np.array(after), axis=0)
        assert not differ[fold == fold[row]].any()
        assert differ.any()  # and those that may see it do


@given(codes=st.lists(st.integers(0, 3), min_size=2, max_size=80), count=st.integers(2, 9), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_folds_are_even_in_rows_and_in_each_class(codes: list[int], count: int, seed: int) -> None:
    target = classes(codes)
    fold = target_encoding.folds(target, count, seed)
    for rows in (np.ones(len(codes), dtype=bool), *(target.values == number for number in range(4))):
        sizes = np.bincount(fold[rows], minlength=count)
        assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(fold, target_encoding.folds(target, count, seed))


def test_folds_follow_from_the_seed() -> None:
    target = amounts(np.arange(50))
    assert (target_encoding.folds(target, 5, 0) != target_encoding.folds(target, 5, 1)).any()


def churn(folder: Path, **changed: Any) -> Any:
    data: dict[str, Any] = {
        "target": "churn",
        "steps": ["impute", {"type": "encode", "method": "target"}, "scale"],
        **changed,
    }
    place = folder / "rows.parquet"
    pa.parquet.write_table(mixed(800), place)
    return prepare(page({"type": "parquet", "path": str(place)}, **data), folder / "cache")


def test_a_later_step_learns_from_what_the_training_rows_became(tmp_path: Path) -> None:
    dataset = churn(tmp_path)
    place = dataset.feature_names.index("city")
    city = dataset.train.inputs[0][:, place]
    assert city.mean() == pytest.approx(0.0, abs=1e-5)
    assert city.std() == pytest.approx(1.0, abs=1e-5)
    assert len(np.unique(city)) > 10  # five categories in five folds
    assert len(np.unique(dataset.test.inputs[0][:, place])) == 5


def test_new_rows_are_encoded_by_the_whole_training_part(tmp_path: Path) -> None:
    dataset = churn(tmp_path)
    table = mixed(800).drop_columns(["churn"])
    found = apply(dataset.folder, Table("new rows", table))[0]
    np.testing.assert_array_equal(found[dataset.test.source_rows], dataset.test.inputs[0])
    np.testing.assert_array_equal(found[dataset.validation.source_rows], dataset.validation.inputs[0])
    assert (found[dataset.train.source_rows] != dataset.train.inputs[0]).any()
    strange = table.set_column(table.column_names.index("city"), "city", pa.array(["Ulm"] * 800))
    state = json.loads((dataset.folder / "preprocessing.json").read_text(encoding="utf-8"))["steps"]
    scale = state[2]["learned"]["columns"]["city"]
    mean = dataset.train.target.mean()
    ulm = apply(dataset.folder, Table("new rows", strange))[0][:, dataset.feature_names.index("city")]
    np.testing.assert_allclose(ulm, (mean - scale["center"]) / scale["scale"], rtol=1e-5)


def test_the_folds_follow_from_the_seed_of_the_split(tmp_path: Path) -> None:
    lines = ["part,word,label", *(f"{'train' if n % 3 else 'validation' if n % 2 else 'test'},w{n % 5},{n * 7 % 11 % 2}"
                                  for n in range(120))]  # fmt: skip
    made = [
        prepare(
            csv_page(
                tmp_path / "rows.csv",
                "\n".join(lines),
                target="label",
                split={"type": "given", "column": "part", "seed": seed},
                steps=[{"type": "encode", "method": "target"}],
            ),
            tmp_path / folder,
        )
        for seed, folder in ((0, "a"), (0, "b"), (1, "c"))
    ]
    np.testing.assert_array_equal(made[0].train.inputs[0], made[1].train.inputs[0])
    assert (made[0].train.inputs[0] != made[2].train.inputs[0]).any()
    np.testing.assert_array_equal(made[0].test.inputs[0], made[2].test.inputs[0])


def test_what_cannot_be_encoded_so_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="smooth and folds of encode go with method: target alone"):
        Encode(smooth=1.0)
    with pytest.raises(DataError, match="smooth and folds of encode go with method: target alone"):
        Encode(method="ordinal", folds=3)
    frame, _, target = drawn("two classes", 0)
    step = Encode(method="target")
    one = np.arange(1)
    with pytest.raises(DataError, match="needs two training rows or more"):
        step.transform_training(frame, one, target.take(one), step.fit_to_target(frame, one, target.take(one)), 0)
    many = Target("label", "classification", np.arange(90) % 30, tuple(f"c{number}" for number in range(1500)))
    with pytest.raises(DataError, match="would make 3000 columns, one for each of 1500 classes and 2 columns"):
        Encode(method="target", columns=("word", "zone")).fit_to_target(frame, np.arange(90), many)
    with pytest.raises(DataError, match=r"encode names no column there is: 'citty'\. Did you mean 'city'"):
        churn(tmp_path, steps=["impute", {"type": "encode", "method": "target", "columns": ["citty"]}])


def test_windows_and_language_tasks_have_no_target_for_it(tmp_path: Path) -> None:
    encode = {"type": "encode", "method": "target"}
    weeks = "\n".join(["week,shop,sold", *(f"{week},{'ab'[week % 2]},{week * 7 % 13}" for week in range(120))])
    source = csv_page(
        tmp_path / "weeks.csv", weeks, target="sold", window={"length": 5, "order": "week"}, steps=["scale", encode]
    )
    said = "learns from the target, a class or a number for each row, which windows and language tasks do not have"
    with pytest.raises(DataError, match=said):
        prepare(source, tmp_path / "cache")
    texts = "\n".join(["text", *(f"word{n % 7} and word{n % 5}" for n in range(60))])
    source = csv_page(
        tmp_path / "texts.csv", texts, target="text", task="language_modelling", steps=["tokenize", encode]
    )
    with pytest.raises(DataError, match=said):
        prepare(source, tmp_path / "cache")
