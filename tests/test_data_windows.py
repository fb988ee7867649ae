"""Forecasts: windows counted by hand, parts that follow in time, several series, new rows, what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from data_example import page
from sklearn.preprocessing import StandardScaler

from nnopt_ray import reading
from nnopt_ray.data.prepare import apply, prepare
from nnopt_ray.data.table import Table
from nnopt_ray.data.types import Dataset
from nnopt_ray.errors import DataError, PageError

PARTS = ("train", "validation", "test")


def sales(shops: int = 1, weeks: int = 120, seed: int = 0) -> pd.DataFrame:
    """Shops in random order of rows; a price beside what was sold."""
    random = np.random.default_rng(seed)
    made = []
    for shop in range(shops):
        week = np.arange(weeks)
        sold = 50 * (shop + 1) + 0.3 * week + 20 * np.sin(week / 4) + random.normal(0, 2, weeks)
        price = random.normal(9, 1, weeks)
        day = pd.Timestamp("2020-01-06") + pd.to_timedelta(7 * week, unit="D")
        made.append(pd.DataFrame({"week": day, "shop": f"shop{shop}", "price": price, "sold": sold}))
    return pd.concat(made).iloc[random.permutation(shops * weeks)].reset_index(drop=True)


def prepared(folder: Path, table: pd.DataFrame, steps: tuple[Any, ...] = (), **changed: Any) -> Dataset:
    table.to_csv(folder / "t.csv", index=False)
    data = {key: changed.pop(key) for key in ("split", "ignore", "scale_target", "target", "task") if key in changed}
    data = {"ignore": ["week"], "target": "sold", **data}
    window = {"length": 12, "horizon": 3, "order": "week", "by": ["shop"], **changed}
    source = {"type": "csv", "path": str(folder / "t.csv")}
    return prepare(page(source, window=window, steps=list(steps), **data), folder / "cache")


def parts_of(dataset: Dataset) -> dict[str, Any]:
    return {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}


def by_hand(table: pd.DataFrame, length: int, horizon: int, stride: int) -> dict[str, list[tuple[Any, Any, int]]]:
    """part → (numbers looked back on, what follows, row of its first step), from sorted rows and nothing else.

    All series have the same times, so that the parts of `split: time` are cut at whole weeks.
    """
    weeks = np.sort(table["week"].unique())
    rows = len(table)
    counts = table.groupby("week").size().to_numpy()
    edges = np.cumsum(counts)
    later = rows - round(0.2 * rows)
    cut = [int(np.argmin(np.abs(edges - wanted))) + 1 for wanted in (later - round(0.15 * rows), later)]
    part_of = {week: PARTS[int(np.searchsorted(cut, place, side="right"))] for place, week in enumerate(weeks)}
    found: dict[str, list[tuple[Any, Any, int]]] = {part: [] for part in PARTS}
    for _, series in table.groupby("shop"):
        ordered = series.sort_values("week")
        for start in range(0, len(ordered) - length - horizon + 1, stride):
            back, ahead = ordered.iloc[start : start + length], ordered.iloc[start + length : start + length + horizon]
            parts = {part_of[week] for week in ahead["week"]}
            if len(parts) == 1:
                numbers = back[["price", "sold"]].to_numpy()
                found[parts.pop()].append((numbers, ahead["sold"].to_numpy(), int(ahead.index[0])))
    return found


@pytest.mark.parametrize(("length", "horizon", "stride"), [(12, 3, 1), (5, 1, 1), (12, 4, 3), (1, 2, 2)])
@pytest.mark.parametrize("shops", [1, 3])
def test_windows_are_those_of_a_loop_over_sorted_rows(
    shops: int, length: int, horizon: int, stride: int, tmp_path: Path
) -> None:
    table = sales(shops)
    dataset = prepared(tmp_path, table, length=length, horizon=horizon, stride=stride)
    assert dataset.shapes.sequence == (length, 2)
    assert (dataset.shapes.task, dataset.shapes.outputs) == ("regression", horizon)
    assert dataset.target_mean.shape == dataset.target_scale.shape == (horizon,)
    for part, expected in by_hand(table, length, horizon, stride).items():
        rows = parts_of(dataset)[part]
        assert (rows.inputs[0].dtype, rows.target.dtype) == (np.float32, np.float32)
        np.testing.assert_allclose(rows.inputs[0], np.stack([back for back, _, _ in expected]), rtol=1e-6)
        ahead = np.stack([what for _, what, _ in expected])
        np.testing.assert_allclose(dataset.user_units(rows.target), ahead, rtol=1e-5)
        assert rows.source_rows.tolist() == [row for _, _, row in expected]
        assert dataset.summary.parts[part] == len(expected)


def test_steps_and_target_are_fitted_on_training_time_points(tmp_path: Path) -> None:
    table = sales(2)
    dataset = prepared(tmp_path, table, steps=("scale",))
    plain = prepared(tmp_path, table)
    last = table["week"][plain.train.source_rows].max() + pd.Timedelta(weeks=2)  # of the last training horizon
    training = table[table["week"] <= last]
    scaler = StandardScaler().fit(training[["price", "sold"]].to_numpy())
    for part in PARTS:
        raw = np.asarray(parts_of(plain)[part].inputs[0], dtype=np.float64)
        expected = scaler.transform(raw.reshape(-1, 2)).reshape(raw.shape)
        np.testing.assert_allclose(parts_of(dataset)[part].inputs[0], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dataset.target_mean, [training["sold"].mean()] * 3)
    np.testing.assert_allclose(dataset.target_scale, [training["sold"].std(ddof=0)] * 3)
    unscaled = prepared(tmp_path, table, scale_target=False)
    assert (unscaled.target_mean.tolist(), unscaled.target_scale.tolist()) == ([0.0] * 3, [1.0] * 3)


def test_changes_are_foretold_from_the_last_step_that_is_seen(tmp_path: Path) -> None:
    table = sales(2)
    level, change = prepared(tmp_path, table), prepared(tmp_path, table, foretell="change")
    assert change.key != level.key
    for part in PARTS:
        one, other = parts_of(level)[part], parts_of(change)[part]
        np.testing.assert_array_equal(one.inputs[0], other.inputs[0])
        seen = np.asarray(one.inputs[0])[:, -1, 1:]  # what was sold in the last week
        np.testing.assert_allclose(change.user_units(other.target) + seen, level.user_units(one.target), rtol=1e-4)
    np.testing.assert_allclose(change.train.target.mean(axis=0), np.zeros(3), atol=1e-5)
    np.testing.assert_allclose(change.train.target.std(axis=0), np.ones(3), rtol=1e-5)
    gone = table.index[table["week"] == "2020-06-01"]
    table.loc[gone, "sold"] = np.nan
    holey = prepared(tmp_path, table, steps=("impute",), foretell="change")
    after = pd.Timestamp("2020-06-08")
    for rows in parts_of(holey).values():
        assert np.isfinite(rows.target).all()
        assert after not in set(table["week"][rows.source_rows])


def test_what_comes_after_the_training_part_changes_nothing_in_it(tmp_path: Path) -> None:
    table = sales(2)
    first = prepared(tmp_path, table, steps=("impute", "scale"))
    last = table["week"][first.train.source_rows].max() + pd.Timedelta(weeks=2)
    changed = table.copy()
    after = changed["week"] > last
    changed.loc[after, "sold"] = 1e6
    changed.loc[after, "price"] = -1e6
    changed.loc[changed.index[after][:3], "price"] = np.nan
    second = prepared(tmp_path, changed, steps=("impute", "scale"))
    assert second.key != first.key
    np.testing.assert_array_equal(second.train.inputs[0], first.train.inputs[0])
    np.testing.assert_array_equal(second.train.target, first.train.target)
    saved = [json.loads((d.folder / "preprocessing.json").read_text()) for d in (first, second)]
    assert saved[0] == saved[1]


def test_missing_targets_are_never_foretold_and_can_be_filled_in_the_past(tmp_path: Path) -> None:
    table = sales()
    gone = table.index[table["week"] == "2020-06-01"][0]
    table.loc[gone, "sold"] = np.nan
    with pytest.raises(DataError, match="values are missing in 'sold'"):
        prepared(tmp_path, table)
    dataset = prepared(tmp_path, table, steps=("impute",))
    weeks = pd.DatetimeIndex(table["week"])
    for rows in parts_of(dataset).values():
        assert np.isfinite(rows.inputs[0]).all()
        assert np.isfinite(rows.target).all()
        first = weeks[rows.source_rows]
        assert not ((first <= weeks[gone]) & (first + pd.Timedelta(weeks=2) >= weeks[gone])).any()
    assert "The target is missing at 1 time points; no window foretells one of them." in dataset.summary.notes
    blind = prepared(tmp_path, table, past_target=False)
    assert blind.shapes.sequence == (12, 1)


def test_given_parts_and_whole_series_divide_too(tmp_path: Path) -> None:
    table = sales(5)
    grouped = prepared(tmp_path, table, split={"type": "grouped", "group": "shop"})
    shops = [set(table["shop"][rows.source_rows]) for rows in parts_of(grouped).values()]
    assert not shops[0] & shops[1] | shops[0] & shops[2] | shops[1] & shops[2]
    table["part"] = np.where(
        table["week"] < "2021-06-01", "train", np.where(table["week"] < "2021-11-01", "val", "test")
    )
    given = prepared(tmp_path, table, split={"type": "given", "column": "part"})
    for part, rows in parts_of(given).items():
        assert set(table["part"][rows.source_rows]) == {{"validation": "val"}.get(part, part)}
    table["part"] = np.where(table["week"] < "2021-06-01", "train", "test")
    with pytest.raises(DataError, match="no row is marked validation"):
        prepared(tmp_path, table, split={"type": "given", "column": "part"})
    # The test part first, the training part last: what training looks back on is never another part's.
    table["part"] = np.where(
        table["week"] > "2021-06-01", "train", np.where(table["week"] > "2020-12-01", "val", "test")
    )
    turned = prepared(tmp_path, table, split={"type": "given", "column": "part"})
    first = table["week"][turned.train.source_rows].min()
    assert first == table["week"][table["part"] == "train"].min() + pd.Timedelta(weeks=12)


def _three(train: pd.Series, validation: pd.Series) -> Any:
    """The part of each row: what the first holds of, the second of the rest, and what is left."""
    return np.where(train, "train", np.where(validation, "val", "test"))


def test_the_newest_window_of_each_series_is_what_new_rows_give(tmp_path: Path) -> None:
    table = sales(3)
    dataset = prepared(tmp_path, table, steps=("scale", {"type": "encode"}))
    first = table["week"][dataset.test.source_rows[-1]]
    before = table[table["week"] < first].drop(columns=["week"]).assign(week=table["week"])
    import pyarrow as pa

    (found,) = apply(dataset.folder, Table("new", pa.Table.from_pandas(before, preserve_index=False)))
    rows = [np.flatnonzero(dataset.test.source_rows == row)[0] for row in _firsts(table, first)]
    np.testing.assert_array_equal(found, dataset.test.inputs[0][rows])
    short = before[before["week"] > "2022-01-20"]
    with pytest.raises(DataError, match=r"the series 'shop0' has .* a forecast needs the last 12"):
        apply(dataset.folder, Table("new", pa.Table.from_pandas(short, preserve_index=False)))
    with pytest.raises(DataError, match="lacks the column 'shop'"):
        apply(dataset.folder, Table("new", pa.Table.from_pandas(before.drop(columns="shop"), preserve_index=False)))


def _firsts(table: pd.DataFrame, week: pd.Timestamp) -> list[int]:
    return [int(table.index[(table["shop"] == f"shop{n}") & (table["week"] == week)][0]) for n in range(3)]


def test_the_split_of_a_forecast_is_by_time(tmp_path: Path) -> None:
    data = {"source": {"type": "csv", "path": "t.csv"}, "window": {"length": 3, "order": "week"}}
    made = reading.from_tree({"data": data, "model": "mlp"})
    assert (made.data.split.type, made.data.split["column"]) == ("time", "week")
    with pytest.raises(PageError, match="windows overlap"):
        reading.from_tree({"data": {**data, "split": "random"}, "model": "mlp"})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"length": 118}, "has 120 time points, and a window of length 118 and horizon 3 needs 121. Make it shorter"),
        ({"horizon": 30}, "no window fits into the validation part: it has 18 time points .* needs 30 that follow"),
        ({"length": 90}, "no window fits into the train part: it has 78 time points in all, and a window needs 93"),
        ({"order": "weak"}, "data.window.order: .* has no column 'weak'. Did you mean 'week'"),
        ({"by": ["stop"]}, "data.window.by: .* has no column 'stop'. Did you mean 'shop'"),
        ({"order": "price", "by": ["week"]}, "has 1 time points"),
        ({"ignore": ["weak"]}, "data.ignore: .* has no column 'weak'"),
        ({"ignore": ["sold"]}, "data.ignore names the target 'sold'"),
        ({"target": "shop"}, "a forecast needs a target of numbers, 'shop', and it is string"),
        ({"task": "classification"}, "and data.task is classification"),
        ({"ignore": ["week", "price"], "past_target": False}, "no column is left to learn from"),
        ({"steps": ({"type": "encode", "method": "embedding", "columns": ["price"]},)}, "the steps made categories"),
    ],
)
def test_what_no_window_can_be_made_of_is_said(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        prepared(tmp_path, sales(), **changed)
    assert "\n" not in str(caught.value)


def test_times_that_stand_twice_and_gaps_are_said(tmp_path: Path) -> None:
    table = sales(2)
    with pytest.raises(DataError, match=r"two rows have the time 2020-01-06.* name in data.window.by the columns"):
        prepared(tmp_path, table, by=[], ignore=["week", "shop"])
    whole = prepared(tmp_path, table)
    assert not any("more time passes" in note for note in whole.summary.notes)
    holey = table[~table["week"].between("2020-05-01", "2020-05-20")].reset_index(drop=True)
    assert any("Between 2 neighbouring time points" in note for note in prepared(tmp_path, holey).summary.notes)
