"""Predictions for new rows are those that the run made of the same rows, whatever the file and the chunks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyarrow import feather

from nnopt_ray import reading, runs
from nnopt_ray.cli.main import code
from nnopt_ray.errors import DataError, UserError
from nnopt_ray.rundir import RunDir
from nnopt_ray.serving.predictor import Predictor

ROWS = 240


def customers() -> pd.DataFrame:
    random = np.random.default_rng(0)
    age = random.integers(18, 90, ROWS).astype(float)
    age[::11] = np.nan
    return pd.DataFrame(
        {
            "age": age,
            "city": random.choice(["Bern", "Basel", "Zug"], ROWS),
            "since": [f"2024-{1 + row % 12:02d}-{1 + row % 28:02d}" for row in range(ROWS)],
            "spent": np.round(random.lognormal(3, 1, ROWS), 2),
            "left": random.choice(["no", "yes", "maybe"], ROWS),
        }
    )


@pytest.fixture(scope="module", params=["left", "spent"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[runs.Run, pd.DataFrame, str]:
    folder, frame, target = tmp_path_factory.mktemp(request.param), customers(), request.param
    frame.to_csv(folder / "customers.csv", index=False, sep=";")
    (folder / "page.yaml").write_text(
        "objective: minimize val_loss\n"
        f"data:\n  source: {{type: csv, path: customers.csv, delimiter: ';'}}\n  target: {target}\n"
        "  steps: [{type: impute, indicator: true}, scale, encode]\n"
        "model: {type: mlp, widths: [8]}\ntrain: {epochs: 2}\nevaluate: {bootstrap: 0}\n"
    )
    return runs.run(reading.load(folder / "page.yaml"), folder), frame, target


def csv(frame: pd.DataFrame, place: Path) -> None:
    frame.to_csv(place, index=False, sep=";")


def parquet(frame: pd.DataFrame, place: Path) -> None:
    frame.to_parquet(place, row_group_size=50)


def arrow(frame: pd.DataFrame, place: Path) -> None:
    feather.write_feather(frame, place)


FORMATS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    "new.csv": csv,
    "new.csv.gz": csv,
    "new.parquet": parquet,
    "new.feather": arrow,
}
READ: dict[str, Callable[[Any], pd.DataFrame]] = {
    ".csv": pd.read_csv,
    ".parquet": pd.read_parquet,
    ".feather": pd.read_feather,
}


def said_by_the_run(run: runs.Run) -> pd.DataFrame:
    return pd.read_parquet(RunDir(run.path).predictions).set_index("source_row").sort_index()


def check(found: pd.DataFrame, said: pd.DataFrame) -> None:
    found = found.set_index("row").loc[said.index]
    for name in (name for name in said if name.startswith("p_") or name == "predicted"):
        if said[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], said[name], rtol=1e-5, atol=1e-6)
        else:
            assert (found[name] == said[name]).all()


@pytest.mark.parametrize("written", READ)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_in_and_out_gives_what_the_run_said(
    run: tuple[runs.Run, pd.DataFrame, str], name: str, written: str, tmp_path: Path
) -> None:
    done, frame, target = run
    FORMATS[name](frame.drop(columns=target), tmp_path / name)
    assert code(["predict", str(done.path), str(tmp_path / name), "-o", str(tmp_path / f"out{written}")]) == 0
    found = READ[written](tmp_path / f"out{written}")
    assert found["row"].tolist() == list(range(ROWS))
    check(found, said_by_the_run(done))


@pytest.mark.parametrize("chunk", [1, 7, 100, ROWS])
def test_chunks_change_nothing(run: tuple[runs.Run, pd.DataFrame, str], chunk: int, tmp_path: Path) -> None:
    done, frame, target = run
    parquet(frame, tmp_path / "new.parquet")  # with the target, which is not looked at
    predictor = Predictor(RunDir(done.path))
    told = predictor.write(tmp_path / "new.parquet", tmp_path / "out.parquet", (target, "city"), chunk=chunk)
    assert told.rows == ROWS
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert found["city"].tolist() == frame["city"].tolist()
    assert found[target].tolist() == frame[target].tolist()
    check(found, said_by_the_run(done))


def test_a_data_frame_keeps_its_index(run: tuple[runs.Run, pd.DataFrame, str]) -> None:
    done, frame, target = run
    said = said_by_the_run(done)
    some = frame.drop(columns=target).loc[said.index[::-1]]
    found = runs.open_run(done.path).predict(some)
    assert found.index.tolist() == some.index.tolist()
    check(found.rename_axis("row").reset_index(), said)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda frame: frame.drop(columns="age"), "lacks the column 'age'"),
        (lambda frame: frame.rename(columns={"age": "alter"}), "lacks the column 'age', and has 'alter', which"),
        (lambda frame: frame.rename(columns={"age": "Age "}), r"Did you mean 'Age' for 'age'\?"),
        (lambda frame: frame.assign(age="old"), "'age' should be numeric and (is|holds 'old' in row 0, and 239 more)"),
        (lambda frame: frame[:0], "has no rows"),
    ],
)
@pytest.mark.parametrize("name", ["new.csv", "new.parquet", "new.feather"])
def test_rows_unlike_the_training_data_are_told_before_anything_is_written(
    run: tuple[runs.Run, pd.DataFrame, str], name: str, change: Any, told: str, tmp_path: Path
) -> None:
    done, frame, target = run
    if target != "left":
        return
    FORMATS[name](change(frame), tmp_path / name)
    with pytest.raises(DataError, match=told if name != "new.csv" or told != "has no rows" else "no rows"):
        Predictor(RunDir(done.path)).write(tmp_path / name, tmp_path / "out.parquet")
    assert [place.name for place in tmp_path.iterdir()] == [name]


def test_a_fault_in_a_later_chunk_leaves_nothing_behind(
    run: tuple[runs.Run, pd.DataFrame, str], tmp_path: Path
) -> None:
    done, frame, _ = run
    frame = frame.astype({"age": str}).replace({"age": {"nan": None}})
    frame.loc[200, "age"] = "old"
    parquet(frame, tmp_path / "new.parquet")
    with pytest.raises(DataError, match="'age' should be numeric"):
        Predictor(RunDir(done.path)).write(tmp_path / "new.parquet", tmp_path / "out.csv", chunk=50)
    assert [place.name for place in tmp_path.iterdir()] == ["new.parquet"]


def test_what_is_there_stays_unless_force_says_otherwise(
    run: tuple[runs.Run, pd.DataFrame, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done, frame, _ = run
    csv(frame, tmp_path / "new.csv")
    (tmp_path / "out.csv").write_text("mine")
    words = ["predict", str(done.path), str(tmp_path / "new.csv"), "-o", str(tmp_path / "out.csv")]
    assert code(words) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "out.csv").read_text() == "mine"
    assert code([*words, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == ROWS
    assert len(pd.read_csv(tmp_path / "out.csv")) == ROWS


@pytest.mark.parametrize(
    ("data", "out", "keep", "told"),
    [
        ("new.csv", "out.xlsx", (), "predictions are written as"),
        ("new.csv", "there/out.csv", (), "there is no folder"),
        ("new.csv", "../" * 2, (), "predictions are written as"),
        (__file__, "out.csv", (), "nobody knows how to read it"),
        ("gone.csv", "out.csv", (), "there is no file"),
        ("new.csv", "out.csv", ("ctiy",), "Did you mean 'city'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    run: tuple[runs.Run, pd.DataFrame, str], data: str, out: str, keep: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    done, frame, _ = run
    csv(frame, tmp_path / "new.csv")
    with pytest.raises((UserError, DataError), match=told):
        Predictor(RunDir(done.path)).write(tmp_path / data, tmp_path / out, keep)
    assert [place.name for place in tmp_path.iterdir()] == ["new.csv"]
