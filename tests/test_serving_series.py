"""Texts, sequences and forecasts: new rows in files get the predictions that the run made of the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nnopt_ray import reading, rundir, runs
from nnopt_ray.errors import DataError, UserError
from nnopt_ray.rundir import RunDir
from nnopt_ray.serving.predictor import Predictor

WORDS = ["red", "green", "blue", "old", "new", "slow", "fast", "car", "tree", "house"]


def trained(folder: Path, data: str, model: str = "{type: mlp, widths: [8]}") -> RunDir:
    (folder / "page.yaml").write_text(
        f"objective: minimize val_loss\ndata: {data}\nmodel: {model}\n"
        "train: {epochs: 1}\nevaluate: {bootstrap: 0}\n"
    )
    return RunDir(runs.run(reading.load(folder / "page.yaml"), folder).path)


def said(run: RunDir) -> pd.DataFrame:
    return pd.read_parquet(run.predictions).set_index("source_row").sort_index()


def check(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    found = found.loc[expected.index]
    for name in (name for name in expected if name.startswith(("p_", "predicted"))):
        if expected[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
        else:
            assert (found[name] == expected[name]).all()


def predicted(run: RunDir, data: Path | Sequence[Path], folder: Path, **keys: Any) -> pd.DataFrame:
    Predictor(run).write(data, folder / "out.parquet", force=True, **keys)
    return pd.read_parquet(folder / "out.parquet")


# Texts


@pytest.fixture(scope="module")
def texts() -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, 6)) for _ in range(90)]


@pytest.fixture(scope="module")
def of_texts(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("texts")
    frame = pd.DataFrame({"review": texts, "stars": ["good" if "red" in text else "bad" for text in texts]})
    frame.to_csv(folder / "reviews.csv", index=False)
    data = "{source: {type: csv, path: reviews.csv}, target: stars, steps: [{type: tokenize, columns: [review]}]}"
    return trained(folder, data, "{type: bert, depth: 1, width: 8, heads: 2}")


def test_texts_come_as_tables_lines_files_and_lists(of_texts: RunDir, texts: list[str], tmp_path: Path) -> None:
    expected = said(of_texts)
    pd.DataFrame({"review": texts}).to_csv(tmp_path / "new.csv", index=False)
    check(predicted(of_texts, tmp_path / "new.csv", tmp_path, chunk=20), expected)
    (tmp_path / "new.txt").write_text("\n".join(texts) + "\n")
    check(predicted(of_texts, tmp_path / "new.txt", tmp_path, chunk=20), expected)
    (tmp_path / "each").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "each" / f"{number:03d}.txt").write_text(text + "\n")
    found = predicted(of_texts, tmp_path / "each", tmp_path)
    assert found["file"][3].endswith("003.txt")
    check(found, expected)
    check(runs.open_run(of_texts.root).predict(texts), expected)


def test_the_decision_of_the_run_is_applied(of_texts: RunDir, texts: list[str]) -> None:
    before = runs.open_run(of_texts.root).predict(texts)
    place = of_texts.decision
    threshold = float(before["p_good"].quantile(0.8))
    rundir.write_json(place, {"temperature": 2.0, "threshold": threshold, "positive": 1})
    try:
        after = runs.open_run(of_texts.root).predict(texts)
    finally:
        place.unlink()
    odds = (before["p_good"] / before["p_bad"]) ** 0.5  # of logits that were halved
    np.testing.assert_allclose(after["p_good"], odds / (1 + odds), atol=1e-6)
    assert after["predicted"].tolist() == np.where(after["p_good"] >= threshold, "good", "bad").tolist()


def test_a_line_without_text_is_a_row_without_a_prediction(of_texts: RunDir, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("red car\n\n  \nblue tree\n")
    told = Predictor(of_texts).write(tmp_path / "new.txt", tmp_path / "out.csv")
    found = pd.read_csv(tmp_path / "out.csv")
    assert found["predicted"].isna().tolist() == [False, True, True, False]
    assert told.notes == (
        "2 rows cannot be read (row 1: it is empty; row 2: it is empty).",
        "2 rows of 4 without a prediction: its place is empty.",
    )


# Sequences


@pytest.fixture(scope="module")
def walks() -> pd.DataFrame:
    random = np.random.default_rng(1)
    lengths = random.integers(3, 7, 60)
    ids = np.repeat([f"walk{number}" for number in range(60)], lengths)
    steps = np.concatenate([np.arange(length) for length in lengths])
    label = np.repeat(random.choice(["up", "down"], 60), lengths)
    noise = random.normal(size=(len(ids), 2))
    return pd.DataFrame({"walk": ids, "second": steps, "x": noise[:, 0], "y": noise[:, 1], "label": label})


def test_sequences_in_long_form(walks: pd.DataFrame, tmp_path: Path) -> None:
    walks.to_csv(tmp_path / "walks.csv", index=False)
    source = "{type: sequences, path: walks.csv, id: walk, order: second, label: label}"
    run = trained(tmp_path, f"{{source: {source}, steps: [scale]}}", "{type: rnn, width: 4}")
    fresh = walks.drop(columns="label").assign(temperature=20.0)
    fresh.to_parquet(tmp_path / "new.parquet")
    found = predicted(run, tmp_path / "new.parquet", tmp_path, chunk=7)
    assert found["walk"].tolist() == walks["walk"].unique().tolist()
    check(found, said(run))
    check(runs.open_run(run.root).predict(fresh.drop(columns="temperature")), said(run))
    fresh.rename(columns={"second": "Second"}).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(DataError, match=r"lacks the column 'second'. Did you mean 'Second' for 'second'\?"):
        predicted(run, tmp_path / "new.csv", tmp_path)


def test_sequences_in_wide_form_and_as_arrays(tmp_path: Path) -> None:
    values = np.random.default_rng(2).normal(size=(80, 5))
    frame = pd.DataFrame(values, columns=[f"x_{step}" for step in range(5)]).assign(label=["a", "b"] * 40)
    frame.to_csv(tmp_path / "walks.csv", index=False)
    source = "{type: wide_sequences, path: walks.csv, label: label}"
    run = trained(tmp_path, f"{{source: {source}, steps: [scale]}}", "{type: rnn, width: 4}")
    frame.drop(columns="label").to_csv(tmp_path / "new.csv", index=False)
    check(predicted(run, tmp_path / "new.csv", tmp_path), said(run))
    np.save(tmp_path / "new.npy", values)
    check(predicted(run, tmp_path / "new.npy", tmp_path, chunk=9), said(run))


# Forecasts


def series() -> pd.DataFrame:
    days = pd.date_range("2024-01-31", periods=90, freq="ME")
    found = []
    for number, shop in enumerate(["Bern", "Zug"]):
        sold = 50 * number + np.arange(90) + 10 * np.sin(np.arange(90) / 3 + number)
        found.append(pd.DataFrame({"month": days.strftime("%Y-%m-%d"), "shop": shop, "sold": np.round(sold, 3)}))
    return pd.concat(found, ignore_index=True)


@pytest.fixture(scope="module", params=["level", "change"])
def of_sales(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp(request.param)
    series().to_csv(folder / "sales.csv", index=False)
    window = f"{{length: 6, horizon: 3, order: month, by: [shop], foretell: {request.param}}}"
    return trained(
        folder, f"{{source: {{type: csv, path: sales.csv}}, target: sold, window: {window}, steps: [scale]}}"
    )


def test_a_forecast_follows_the_last_row_of_each_series(of_sales: RunDir, tmp_path: Path) -> None:
    rows = series()
    expected = said(of_sales)
    expected = expected[expected["part"] == "test"]
    first = expected.index[expected.index >= 90][0]  # of Zug, the first step that a window of the test part foretold
    known = pd.concat([rows[:80], rows[90:first]])
    known.sample(frac=1, random_state=0).to_csv(tmp_path / "new.csv", index=False)
    told = Predictor(of_sales).write(tmp_path / "new.csv", tmp_path / "out.csv")
    found = pd.read_csv(tmp_path / "out.csv")
    assert found["shop"].tolist() == ["Bern"] * 3 + ["Zug"] * 3
    assert found["step"].tolist() == [1, 2, 3] * 2
    assert found["month"][:3].tolist() == rows["month"][80:83].tolist()  # the last days of months
    assert found["month"][3:].tolist() == rows["month"][first : first + 3].tolist()
    wanted = expected.loc[first, ["predicted_0", "predicted_1", "predicted_2"]].to_numpy(dtype=float)
    if "change" in str(of_sales.root):
        wanted = wanted + rows["sold"][first - 1]
    np.testing.assert_allclose(found["predicted"][3:], wanted, rtol=1e-5)
    assert "The time points are a month apart, at its end; so are those that are foretold." in told.notes


def test_series_that_are_too_short_or_have_gaps_have_no_forecast(of_sales: RunDir, tmp_path: Path) -> None:
    rows = series()
    few = pd.concat([rows[:4].assign(shop="Chur"), rows[:20], rows[90:110]])
    few.loc[108, "sold"] = np.nan
    found = runs.open_run(of_sales.root)
    with pytest.warns(
        UserWarning, match="The series 'Chur' has 4 time points, and a forecast needs the last 6"
    ) as warned:
        frame = found.predict(few)
    assert frame.groupby("shop")["predicted"].count().to_dict() == {"Bern": 3, "Chur": 0, "Zug": 0}
    assert "'sold' has no number in 1 row" in " ".join(str(one.message) for one in warned)


@pytest.mark.parametrize(
    ("times", "following", "told"),
    [
        (pd.date_range("2024-02-05", periods=9, freq="W-MON"), ["2024-04-08", "2024-04-15"], "7 days apart"),
        (pd.date_range("2024-05-01", periods=9, freq="MS"), ["2025-02-01", "2025-03-01"], "a month apart"),
        (pd.bdate_range("2024-05-06", periods=10), ["2024-05-20", "2024-05-21"], "from Monday to Friday"),
        (pd.date_range("2024-05-01", periods=9, freq="h"), ["2024-05-01 09:00", "2024-05-01 10:00"], "1 hour apart"),
        (pd.Series([2001, 2002, 2003, 2004, 2006, 2007]), [2008, 2009], "1 apart as a rule, with 1 gaps of 5"),
    ],
)
def test_the_times_of_the_steps_go_on_as_those_before(times: Any, following: list[Any], told: str) -> None:
    import pyarrow as pa

    from nnopt_ray.data.table import Table
    from nnopt_ray.serving.forecast import _interval

    column = pa.array(pd.Series(times))
    table = Table("made", pa.table({"when": column}))
    interval = _interval(table, "when", [np.arange(len(times))])
    after = interval.after(column[-1:] if hasattr(column, "take") else column, 2)
    expected = following if isinstance(following[0], int) else [pd.Timestamp(one) for one in following]
    assert [one if isinstance(one, int) else pd.Timestamp(one) for one in after.to_pylist()] == expected
    assert after.type == column.type
    assert told in interval.sentence


def test_a_language_model_says_how_probable_it_finds_texts(tmp_path: Path) -> None:
    import torch

    from nnopt_ray.data import tokenizer

    (tmp_path / "text.txt").write_text("\n".join(" ".join(WORDS) for _ in range(40)))
    steps = "steps: [{type: tokenize, method: characters, length: 16}]"
    data = f"{{source: {{type: text_lines, path: text.txt}}, task: language_modelling, {steps}}}"
    run = trained(tmp_path, data, "{type: gpt, depth: 1, width: 8, heads: 2, dropout: 0.0}")
    (tmp_path / "new.txt").write_text("red car\n\nold slow green tree house\n")
    found = predicted(run, tmp_path / "new.txt", tmp_path)
    words = tokenizer.load(run.data / "preprocessing.json", lowercase=False)
    stream = [*next(words.encode(["red car"])).tolist(), words.special["[SEP]"]]
    logits = runs.open_run(run.root).model()(torch.tensor([stream[:-1]]))
    expected = torch.nn.functional.cross_entropy(logits[0], torch.tensor(stream[1:])).item()
    assert found["log_loss"][0] == pytest.approx(expected, rel=1e-5)
    assert found["perplexity"][0] == pytest.approx(np.exp(expected), rel=1e-5)
    assert found["tokens"].tolist()[::2] == [len("red car"), len("old slow green tree house")]
    assert np.isnan(found["perplexity"][1])


def test_masked_tokens_are_no_task_for_new_texts(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n".join(" ".join(WORDS) for _ in range(40)))
    steps = "steps: [{type: tokenize, method: words, length: 16}]"
    data = f"{{source: {{type: text_lines, path: text.txt}}, task: masked_language_modelling, {steps}}}"
    run = trained(tmp_path, data, "{type: bert, depth: 1, width: 8, heads: 2}")
    with pytest.raises(UserError, match="predicts tokens that are masked"):
        Predictor(run)
