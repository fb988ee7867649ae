"""What a column is taken for, what a date becomes, and how the target is read."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from data_example import table
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_ray.data import dates
from nnopt_ray.data.columns import Reading, features, recognise, useless
from nnopt_ray.data.frame import Frame, Numeric, Text, assemble
from nnopt_ray.data.table import Table, tidy
from nnopt_ray.data.target import read_target
from nnopt_ray.errors import DataError


def reading(values: Any) -> Reading:
    (found,), empty = recognise(tidy(table({"c": values})), ["c"])
    assert not empty
    return found


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, None], "numeric"),
        ([1.5, float("nan")], "numeric"),
        ([Decimal("1.25"), Decimal("2")], "numeric"),
        ([datetime.time(1, 30), datetime.time(2)], "numeric"),
        ([datetime.timedelta(days=1), None], "numeric"),
        ([True, None, False], "boolean"),
        (["yes", "No", None], "boolean"),
        (["T", "f"], "boolean"),
        (["yes", "no", "maybe"], "categorical"),
        (["a", "b", " "], "categorical"),
        (pa.array(["x", "y", "x"]).dictionary_encode(), "categorical"),
        (pa.array(["x", "y"], pa.large_string()), "categorical"),
        ([datetime.date(2020, 1, 2), None], "date"),
        ([datetime.datetime(2020, 1, 2, 3, 4), None], "date"),
        (["2020-01-02", None, "2021-12-31"], "date"),
        (["2020-01-02 10:30", "2020-01-02 23:59:59.25"], "date"),
        (["2020-01-02T10:30Z", "2020-01-02T10:30+02:00"], "date"),
        (["2020/1/2", "2020/12/31"], "date"),
        (["2.1.2020", "31.12.2020"], "date"),
        (["02/01/2020", "31/12/2020"], "date"),
        (["01/02/2020", "12/31/2020"], "date"),
        (["2020-01-02", "2020-02-30"], "categorical"),  # no such day
        (["2020-01-02", "soon"], "categorical"),
        (["01/02/2020", "03/04/2020"], "categorical"),  # day or month first?
        (["2020-01-02T10:30Z", "2020-01-02T10:30"], "categorical"),  # one moment known, one not
    ],
)
def test_kinds(values: Any, kind: str) -> None:
    assert reading(values).kind == kind


def test_what_is_doubtful_is_said() -> None:
    assert "nothing tells day from month" in reading(["01/02/2020", "03/04/2020"]).doubt
    assert "but for '?'" in reading(["1", "2", "3.5", "?"]).doubt
    assert "missing: ['?']" in reading(["1", "2", "3.5", "?"]).doubt


def test_every_column_that_holds_no_values_or_no_numbers_is_named() -> None:
    rows = tidy(table({"hollow": pa.nulls(2), "lists": [[1], [2]], "bytes": [b"a", b"b"], "x": [1.0, float("inf")]}))
    with pytest.raises(DataError, match=r"'lists' \(list.*'bytes' \(binary\).*data\.ignore"):
        recognise(rows, rows.names)
    with pytest.raises(DataError, match=r"infinite numbers, .* in 'x' \(1\)"):
        recognise(rows, ["x"])
    assert recognise(rows, ["hollow"]) == ((), {"hollow": "every value is missing"})


@given(
    st.lists(
        st.one_of(st.none(), st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))),
        min_size=1,
        max_size=20,
    ).filter(any)
)
@settings(max_examples=100, deadline=None)
def test_the_numbers_of_dates_are_pandas(moments: list[datetime.datetime | None]) -> None:
    rows = tidy(table({"d": pa.array(moments, pa.timestamp("us"))}))
    (read,), _ = recognise(rows, ["d"])
    made = {name: feature.values for name, feature in features(rows, (read,)).items() if isinstance(feature, Numeric)}
    reference = pd.Series(pd.to_datetime(pd.Series(moments, dtype="datetime64[us]")))
    for part, values in (
        ("year", reference.dt.year),
        ("month", reference.dt.month),
        ("day_of_week", reference.dt.day_of_week),
        ("days", (reference - pd.Timestamp("1970-01-01")) / pd.Timedelta(days=1)),
    ):
        np.testing.assert_allclose(made[f"d.{part}"], values.to_numpy(float), rtol=1e-12, atol=1e-9)
    present = [moment for moment in moments if moment]
    with_time = any(moment.time() != datetime.time() for moment in present)
    assert ("d.hour" in made) == with_time
    if with_time:
        seconds = [
            np.nan if m is None else (m - datetime.datetime.combine(m, datetime.time())).total_seconds()
            for m in moments
        ]
        np.testing.assert_allclose(made["d.hour"] * 3600, seconds, atol=1e-3)


@given(st.lists(st.dates(datetime.date(1700, 1, 1), datetime.date(2200, 1, 1)), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_every_way_of_writing_a_date_means_the_same(days: list[datetime.date]) -> None:
    expected = [(day - datetime.date(1970, 1, 1)).days for day in days]
    writings = {
        dates.ISO: "{0.year:04}-{0.month:02}-{0.day:02}",
        "YYYY/MM/DD": "{0.year:04}/{0.month}/{0.day}",
        "DD.MM.YYYY": "{0.day:02}.{0.month}.{0.year:04}",
        "DD/MM/YYYY": "{0.day}/{0.month:02}/{0.year:04}",
        "MM/DD/YYYY": "{0.month}/{0.day}/{0.year:04}",
    }
    assert set(writings) == {dates.ISO, *dates.WRITTEN}
    for form, writing in writings.items():
        written = pa.chunked_array([[writing.format(day) for day in days]])
        assert form in dates.date_formats(written)
        np.testing.assert_array_equal(dates.days(written, form), expected)


def test_an_offset_from_utc_counts() -> None:
    found = dates.days(pa.chunked_array([["1970-01-02T00:00Z", "1970-01-02T00:00+06:00"]]), dates.ISO)
    assert found is not None
    assert found.tolist() == [1.0, 0.75]


# What is left out


def left_out(values: Any, name: str = "c", keep: frozenset[str] = frozenset(), train: int = 40) -> dict[str, str]:
    rows = tidy(table({name: values}))
    readings, _ = recognise(rows, [name])
    return useless(features(rows, readings), np.arange(train), rows.rows, keep)[0]


@pytest.mark.parametrize(
    ("name", "values", "dropped"),
    [
        ("row", list(range(60)), True),  # a counter
        ("row", list(range(500, 560))[::-1], True),
        ("customer_id", list(range(0, 6000, 100)), True),  # named like a key
        ("customerId", list(range(0, 6000, 100)), True),
        ("population", list(range(0, 6000, 100)), False),  # never repeats, yet no key
        ("paid", list(range(0, 6000, 100)), False),
        ("row", [number / 2 for number in range(60)], False),
        ("name", [f"someone {number}" for number in range(60)], True),
        ("city", ["Aachen", "Bonn"] * 30, False),
        ("same", [3] * 60, True),
        ("same", [3] * 40 + [4] * 20, True),  # does not vary in the training part
        ("gaps", [3, None] * 30, False),  # being missing may tell something
        ("late", [None] * 40 + [1, 2] * 10, True),
        ("date", [datetime.date(2020, 1, 1 + number % 28) for number in range(60)], False),
    ],
)
def test_identifiers_and_constants_are_left_out(name: str, values: Any, dropped: bool) -> None:
    assert (name in left_out(values, name)) == dropped


def test_a_column_that_a_step_names_stays() -> None:
    assert not left_out(list(range(60)), keep=frozenset({"c"}))
    assert left_out([None] * 40 + [1] * 20, keep=frozenset({"c"}))  # nothing to learn from all the same


def test_a_date_loses_only_what_does_not_vary() -> None:
    days = [datetime.date(2020, 1, 1 + number % 28) for number in range(60)]
    assert set(left_out(days)) == {"c.year", "c.month"}


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_rows_outside_the_training_part_do_not_decide_what_is_left_out(seed: int) -> None:
    random = np.random.default_rng(seed)
    train = random.integers(0, 100, 40) if seed % 2 else random.permutation(60)[:40]
    first, second = (np.concatenate([train, random.integers(0, 60, 20)]).tolist() for _ in range(2))
    assert left_out(first) == left_out(second)


# What the inputs need


def test_text_and_gaps_are_refused_with_the_line_to_add() -> None:
    word, gap = Text(np.array([0, 1]), ("a", "b"), "home town"), Numeric(np.array([1.0, np.nan]), "age")
    with pytest.raises(DataError, match=r'- \{type: encode, method: one_hot, columns: \["home town"\]\}'):
        assemble(Frame({"home town": word}))
    with pytest.raises(DataError, match=r"'age' \(1\).*- \{type: impute, strategy: median, columns: \[age\]\}"):
        assemble(Frame({"age": gap}))
    with pytest.raises(DataError, match="too large for float32"):
        assemble(Frame({"x": Numeric(np.array([1e39]), "x")}))
    with pytest.raises(DataError, match=r"no column is left.*'id': an identifier"):
        assemble(Frame({}, dropped={"id": "an identifier"}))


# The target


def target(values: Any, task: Any = "auto") -> Any:
    return read_target(tidy(table({"t": values})), "t", "t", task)


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["b", "a", "b"], "classification", ("a", "b")),
        ([True, False, True], "classification", ("false", "true")),
        ([0, 1, 1], "classification", ("0", "1")),
        ([0.0, 1.0, 1.0], "classification", ("0", "1")),
        ([10, 9, 2] * 10, "classification", ("2", "9", "10")),
        (list(range(30)), "regression", ()),
        ([1, 2, 3] * 4, "regression", ()),  # each only four times
        ([0.5, 1.5] * 20, "regression", ()),
        ([number / 8 for number in range(40)], "regression", ()),
    ],
)
def test_the_task_follows_from_the_target(values: Any, task: str, classes: tuple[str, ...]) -> None:
    found = target(values)
    assert (found.task, found.classes) == (task, classes)
    if classes:
        words = [str(value).lower() if isinstance(value, bool) else str(value).removesuffix(".0") for value in values]
        assert [found.classes[code] for code in found.values] == words
    else:
        np.testing.assert_array_equal(found.values, values)


def test_a_task_that_is_said_is_followed() -> None:
    assert target([0, 1, 1], "regression").task == "regression"
    assert target([1, 2, 3] * 4, "classification").classes == ("1", "2", "3")
    assert target([0.5, 1.5] * 20, "classification").classes == ("0.5", "1.5")


@pytest.mark.parametrize(
    ("values", "task", "said"),
    [
        (["a", "a"], "auto", "'t' is 'a' in every row"),
        ([2.5, 2.5], "auto", "'t' is 2.5 in every row"),
        ([1.0, float("inf"), 2.0], "auto", "infinite, or beyond 1e[+]150, in 1 rows"),
        (["1.5", "2", "n.a."], "regression", r"holds 'n\.a\.'"),
        ([number / 3 for number in range(60)], "classification", "too many for classes"),
        ([f"comment {number}" for number in range(60)], "auto", "too many for classes"),
        ([datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)], "auto", "is a date"),
        ([[1], [2]], "auto", "must be text, a boolean or a number"),
    ],
)
def test_a_target_that_cannot_be_predicted_is_refused(values: Any, task: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        target(values, task)


def test_names_are_trimmed_before_they_are_compared() -> None:
    rows = Table("a table", pa.table([[1], [2]], names=["a", " a "]))
    with pytest.raises(DataError, match="more than one column named 'a'"):
        tidy(rows)
