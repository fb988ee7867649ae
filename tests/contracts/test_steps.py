"""Contract of every step: it learns from the training rows alone, what it learned survives JSON, and the
numbers are scikit-learn's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.preprocessing import (
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

from nnopt_ray import tables
from nnopt_ray.data import STEPS
from nnopt_ray.data.encode import Encode
from nnopt_ray.data.frame import Codes, Feature, Frame, Numeric, Text, Tokens, assemble
from nnopt_ray.data.steps import Impute, Scale, Step
from nnopt_ray.errors import DataError

# Every way in which each step can be asked to work.
WAYS: list[tuple[str, dict[str, Any]]] = [
    *(("impute", {"strategy": strategy, "indicator": indicator})
      for strategy in ("mean", "median", "most_frequent", "constant") for indicator in (False, True)),
    *(("scale", {"method": method}) for method in ("standard", "minmax", "robust")),
    *(("scale", {"method": "quantile", "output": output, "n_quantiles": 7, "columns": ("a", "b", "same")})
      for output in ("normal", "uniform")),
    *(("encode", {"method": method, "min_count": count})
      for method in ("one_hot", "ordinal", "embedding") for count in (1, 3)),
    *(("tokenize", {"method": method, "vocabulary_size": 20 if method != "bpe" else 270, "columns": ("word",)})
      for method in ("wordpiece", "bpe", "sentencepiece", "characters", "words")),
    ("clean_text", {}),
    ("clean_text", {"lowercase": True, "html": True, "numbers": "0", "columns": ("word",)}),
    ("tokenize", {"method": "words", "vocabulary_size": 20, "length": 3, "special_tokens": False}),
]  # fmt: skip
WORDS = ("amber", "blue", "cyan", "dun")


def frame(rows: int, seed: int) -> Frame:
    """Numbers with gaps, a whole-numbered column, a boolean, a constant, words with gaps, and images."""
    random = np.random.default_rng(seed)
    gaps = random.random(rows) < 0.2
    features: dict[str, Feature] = {
        "a": Numeric(np.where(gaps, np.nan, random.normal(50, 9, rows)), "a"),
        "b": Numeric(random.integers(0, 4, rows).astype(float), "b"),
        "flag": Numeric(random.integers(0, 2, rows).astype(float), "flag", binary=True),
        "same": Numeric(np.full(rows, 0.1), "same"),
        "word": Text(random.integers(-1, len(WORDS), rows), WORDS, "word"),
    }
    return Frame(features, image=random.integers(0, 17, (rows, 2, 3, 3)).astype(np.uint8))


def build(name: str, keys: Mapping[str, Any]) -> Step:
    made: Step = tables.find("step", name)(**keys)
    return made


def arrays(given: Frame) -> dict[str, np.ndarray]:
    def values(feature: Feature) -> np.ndarray:
        if isinstance(feature, Tokens):
            return feature.rows()
        return feature.codes if isinstance(feature, Text) else feature.values

    found = {name: values(feature) for name, feature in given.features.items()}
    return found if given.image is None else {**found, "image": given.image}


def assert_same(one: Frame, other: Frame) -> None:
    first, second = arrays(one), arrays(other)
    assert list(first) == list(second)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_every_step_of_the_table_is_tried() -> None:
    assert {name for name, _ in WAYS} == set(STEPS)


@pytest.mark.parametrize(("name", "keys"), WAYS)
@given(seed=st.integers(0, 10_000), rows=st.integers(12, 60))
@settings(max_examples=10, deadline=None)
def test_rows_outside_the_training_part_change_nothing_learned(
    name: str, keys: dict[str, Any], seed: int, rows: int
) -> None:
    random = np.random.default_rng(seed)
    here, elsewhere = frame(rows, seed), frame(rows, seed + 1)
    train = np.sort(random.permutation(rows)[: rows // 2 + 3])
    inside = np.zeros(rows, dtype=bool)
    inside[train] = True
    mixed: dict[str, Feature] = {}
    for key, feature in here.features.items():
        other = elsewhere.features[key]
        if isinstance(feature, Text):
            assert isinstance(other, Text)
            # Words that the training part does not have, in another order.
            words = (*reversed(WORDS), "new")
            codes = np.where(inside, np.where(feature.codes < 0, -1, 3 - feature.codes), (other.codes + 2) % 5)
            mixed[key] = Text(codes, words, key)
        else:
            assert isinstance(feature, Numeric)
            assert isinstance(other, Numeric)
            mixed[key] = Numeric(np.where(inside, feature.values, other.values * 100), key, feature.binary)
    assert here.image is not None
    assert elsewhere.image is not None
    image = np.where(inside[:, None, None, None], here.image, elsewhere.image + 100)
    step = build(name, keys)
    assert step.fit(here, train) == step.fit(Frame(mixed, image), train)


@pytest.mark.parametrize(("name", "keys"), WAYS)
def test_what_was_learned_survives_json_and_rows_are_handled_one_by_one(name: str, keys: dict[str, Any]) -> None:
    whole = frame(50, seed=3)
    learned = build(name, keys).fit(whole, np.arange(30))
    restored = json.loads(json.dumps(learned, allow_nan=False))
    done = build(name, keys).transform(whole, restored)
    assert_same(done, build(name, keys).transform(whole, learned))
    some = np.array([41, 3, 3, 17])
    alone = build(name, keys).transform(_take(whole, some), restored)
    for key, values in arrays(done).items():
        np.testing.assert_array_equal(arrays(alone)[key], values[some])


def _take(given: Frame, rows: np.ndarray) -> Frame:
    def taken(feature: Feature) -> Feature:
        if isinstance(feature, Text):
            return Text(feature.codes[rows], feature.words, feature.origin)
        assert isinstance(feature, Numeric)
        return Numeric(feature.values[rows], feature.origin, feature.binary)

    assert given.image is not None
    return Frame({name: taken(feature) for name, feature in given.features.items()}, given.image[rows])


@pytest.mark.parametrize(("name", "keys"), WAYS)
def test_a_step_leaves_what_it_was_given_untouched(name: str, keys: dict[str, Any]) -> None:
    given_frame = frame(40, seed=8)
    before = {key: values.copy() for key, values in arrays(given_frame).items()}
    step = build(name, keys)
    step.transform(given_frame, step.fit(given_frame, np.arange(25)))
    for key, values in arrays(given_frame).items():
        np.testing.assert_array_equal(values, before[key])


@pytest.mark.parametrize("name", STEPS)
def test_columns_restrict_a_step(name: str) -> None:
    keys: dict[str, Any] = {"columns": ("word",) if name in ("encode", "tokenize", "clean_text") else ("a",)}
    whole = frame(40, seed=5)
    step = build(name, keys)
    done = step.transform(whole, step.fit(whole, np.arange(30)))
    untouched = [key for key in whole.features if key not in keys["columns"]]
    for key in untouched:
        assert done.features[key] is whole.features[key]
    with pytest.raises(DataError, match="'bb'"):
        build(name, {"columns": ("bb",)}).fit(whole, np.arange(30))


# Numbers, against scikit-learn

NUMBERS = st.lists(
    st.one_of(st.floats(-1e6, 1e6), st.just(float("nan")), st.integers(-5, 5).map(float)), min_size=8, max_size=40
).filter(lambda values: sum(np.isfinite(values[:5])) > 0)


def one(values: list[float]) -> tuple[Frame, np.ndarray, np.ndarray]:
    column = np.array(values)
    return Frame({"x": Numeric(column, "x")}), column[:, None], np.arange(5)


@pytest.mark.parametrize(
    ("method", "reference"), [("standard", StandardScaler), ("minmax", MinMaxScaler), ("robust", RobustScaler)]
)
@given(values=NUMBERS)
@settings(max_examples=60, deadline=None)
def test_scaled_numbers_are_scikit_learns(method: Any, reference: Any, values: list[float]) -> None:
    whole, column, train = one(values)
    step = Scale(method=method)
    done = step.transform(whole, step.fit(whole, train)).features["x"]
    assert isinstance(done, Numeric)
    expected = reference().fit(column[train]).transform(column)[:, 0]
    np.testing.assert_allclose(done.values, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("output", ["normal", "uniform"])
@pytest.mark.parametrize("count", [3, 1000])
@given(values=NUMBERS)
@settings(max_examples=60, deadline=None)
def test_ranks_are_scikit_learns(output: Any, count: int, values: list[float]) -> None:
    whole, column, train = one(values)
    step = Scale(method="quantile", output=output, n_quantiles=count)
    done = step.transform(whole, step.fit(whole, train)).features["x"]
    assert isinstance(done, Numeric)
    ranks = int(min(count, np.isfinite(column[train]).sum()))
    if ranks < 2:  # scikit-learn's one quantile says nothing of values beyond it
        return
    present = column[train][np.isfinite(column[train])][:, None]
    reference = QuantileTransformer(n_quantiles=ranks, output_distribution=output, subsample=None)
    expected = reference.fit(present).transform(column)[:, 0]
    np.testing.assert_allclose(done.values, expected, rtol=1e-9, atol=1e-12)


def test_keys_of_ranks_are_refused_elsewhere() -> None:
    with pytest.raises(DataError, match="go with method: quantile alone"):
        Scale(method="robust", output="normal")
    with pytest.raises(DataError, match="works on columns"):
        Scale(method="quantile").fit(frame(30, seed=0), np.arange(20))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9 + 0.1, -3e-20])
def test_what_does_not_vary_is_only_shifted(value: float) -> None:
    whole, column, train = one([value] * 12)
    for method, reference in (("standard", StandardScaler), ("minmax", MinMaxScaler), ("robust", RobustScaler)):
        step = Scale(method=method)  # type: ignore[arg-type]
        done = step.transform(whole, step.fit(whole, train)).features["x"]
        assert isinstance(done, Numeric)
        np.testing.assert_allclose(done.values, reference().fit_transform(column)[:, 0], atol=1e-9)
        assert (np.abs(done.values) < 1e-6).all()


@pytest.mark.parametrize("method", ["standard", "minmax", "robust"])
def test_images_are_scaled_by_channel(method: Any) -> None:
    whole = frame(40, seed=1)
    assert whole.image is not None
    step = Scale(method=method, columns=("image",))
    done = step.transform(whole, step.fit(whole, np.arange(25))).image
    assert done is not None
    assert done.dtype == np.float32
    reference = {"standard": StandardScaler, "minmax": MinMaxScaler, "robust": RobustScaler}[method]
    for channel in range(2):
        pixels = whole.image[:, channel].astype(float)
        fitted = reference().fit(pixels[:25].reshape(-1, 1))
        expected = fitted.transform(pixels.reshape(-1, 1)).reshape(pixels.shape)
        np.testing.assert_allclose(done[:, channel], expected, rtol=1e-5, atol=1e-6)


def test_zeros_and_ones_are_scaled_only_when_named() -> None:
    whole = frame(40, seed=1)
    for columns, touched in ((None, False), (("flag",), True)):
        step = Scale(columns=columns)
        done = step.transform(whole, step.fit(whole, np.arange(25)))
        assert (done.features["flag"] is not whole.features["flag"]) == touched


@pytest.mark.parametrize("strategy", ["mean", "median", "most_frequent", "constant"])
@given(values=NUMBERS)
@settings(max_examples=60, deadline=None)
def test_filled_numbers_are_scikit_learns(strategy: Any, values: list[float]) -> None:
    whole, column, train = one(values)
    step = Impute(strategy=strategy, indicator=True)
    done = step.transform(whole, step.fit(whole, train))
    filled = done.features["x"]
    assert isinstance(filled, Numeric)
    expected = SimpleImputer(strategy=strategy).fit(column[train]).transform(column)[:, 0]
    np.testing.assert_allclose(filled.values, expected, rtol=1e-12)
    gaps = MissingIndicator(error_on_new=False).fit(column[train]).transform(column)
    assert ("x.missing" in done.features) == bool(gaps.shape[1])
    if gaps.shape[1]:
        indicator = done.features["x.missing"]
        assert isinstance(indicator, Numeric)
        np.testing.assert_array_equal(indicator.values, gaps[:, 0].astype(float))


# Words, against scikit-learn


def spoken(words: list[str | None]) -> tuple[Frame, np.ndarray, np.ndarray]:
    known = sorted({word for word in words if word is not None}, reverse=True)
    codes = np.array([-1 if word is None else known.index(word) for word in words])
    whole = Frame({"w": Text(codes, tuple(known), "w")})
    return whole, np.array(words, dtype=object)[:, None], np.arange(6)


WORD_LISTS = st.lists(st.sampled_from(["a", "b", "ä", "10", "9", None]), min_size=8, max_size=30)


@given(words=WORD_LISTS)
@settings(max_examples=80, deadline=None)
def test_one_hot_columns_are_scikit_learns(words: list[str | None]) -> None:
    whole, column, train = spoken(words)
    step = Encode(method="one_hot")
    done = step.transform(whole, step.fit(whole, train))
    expected = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(column[train])
    found = np.stack([feature.values for feature in done.features.values() if isinstance(feature, Numeric)], axis=1)
    np.testing.assert_array_equal(found, _quiet(expected.transform, column))
    labels = [f"w={'(missing)' if word is None else word}" for word in expected.categories_[0]]
    assert list(done.features) == labels


@given(words=WORD_LISTS)
@settings(max_examples=80, deadline=None)
def test_ordinal_and_embedding_codes_are_scikit_learns(words: list[str | None]) -> None:
    whole, column, train = spoken(words)
    reference = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    expected = reference.fit(column[train]).transform(column)[:, 0]
    known = len(reference.categories_[0])
    if any(word is None for word in words[:6]):  # ours gives missing words a category of their own, the last
        expected = np.where([word is None for word in words], known - 1, expected)
    step = Encode(method="ordinal")
    ordinal = step.transform(whole, step.fit(whole, train)).features["w"]
    assert isinstance(ordinal, Numeric)
    np.testing.assert_array_equal(ordinal.values, expected)
    step = Encode(method="embedding")
    codes = step.transform(whole, step.fit(whole, train)).features["w"]
    assert isinstance(codes, Codes)
    assert codes.cardinality == known + 1
    np.testing.assert_array_equal(codes.values, expected + 1)


def _quiet(call: Any, column: np.ndarray) -> np.ndarray:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of every unknown category
        return np.asarray(call(column))


def test_rare_categories_count_as_not_met() -> None:
    whole, _, _ = spoken(["a"] * 5 + ["b"] * 2 + ["c"])
    step = Encode(method="embedding", min_count=2)
    done = step.transform(whole, step.fit(whole, np.arange(8))).features["w"]
    assert isinstance(done, Codes)
    assert done.cardinality == 3
    assert done.values.tolist() == [1] * 5 + [2] * 2 + [0]


def test_numbers_that_are_codes_can_be_encoded() -> None:
    whole = Frame({"zone": Numeric(np.array([3.0, 1.0, np.nan, 2.5]), "zone")})
    step = Encode(columns=("zone",))
    assert list(step.transform(whole, step.fit(whole, np.arange(4))).features) == [
        "zone=1", "zone=2.5", "zone=3", "zone=(missing)",
    ]  # fmt: skip


def test_names_made_by_steps_never_collide() -> None:
    features: dict[str, Feature] = {
        "a": Text(np.array([0, 1]), ("b=c", "d"), "a"),
        "a=b": Text(np.array([0, 1]), ("c", "d"), "a=b"),
        "a=d": Numeric(np.array([5.0, 6.0]), "a=d"),
        "n": Numeric(np.array([np.nan, 1.0]), "n"),
        "n.missing": Numeric(np.array([7.0, 8.0]), "n.missing"),
    }
    whole = Frame(features)
    for step in (Encode(), Impute(indicator=True)):
        whole = step.transform(whole, step.fit(whole, np.arange(2)))
    _, (table,) = assemble(whole)
    assert table.shape == (2, 8)
    named = {name: feature.values.tolist() for name, feature in whole.features.items() if isinstance(feature, Numeric)}
    assert len(named) == 8
    assert named["a=d"] == [5.0, 6.0]
    assert named["n.missing"] == [7.0, 8.0]


def test_text_is_filled_by_the_most_frequent_word_and_by_a_constant() -> None:
    whole, column, train = spoken(["b", "b", "a", "a", None, "c", None, "z"])
    for keys, expected in (
        ({"strategy": "most_frequent"}, "a"),
        ({"strategy": "constant"}, "missing"),
        ({"strategy": "constant", "fill_value": "none"}, "none"),
    ):
        step = Impute(**keys)  # type: ignore[arg-type]
        done = step.transform(whole, step.fit(whole, train)).features["w"]
        assert isinstance(done, Text)
        assert [done.words[code] for code in done.codes] == [word or expected for word in column[:, 0]]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (Scale(columns=("word",)), "works on numbers, and 'word'"),
        (Encode(columns=("image",)), "not on images"),
        (Impute(columns=("gone",)), "left out: it is constant"),
        (Impute(columns=("hollow",)), "nothing to learn 'hollow' from"),
        (Encode(columns=("many",)), "would make 2400 columns"),
    ],
)
def test_what_a_step_cannot_do_is_said(step: Step, said: str) -> None:
    rows = 2400
    whole = frame(rows, seed=0)
    features: dict[str, Feature] = {
        **whole.features,
        "hollow": Numeric(np.full(rows, np.nan), "hollow"),
        "many": Text(np.arange(rows), tuple(map(str, range(rows))), "many"),
    }
    with pytest.raises(DataError, match=said):
        step.fit(Frame(features, whole.image, dropped={"gone": "it is constant"}), np.arange(rows))
