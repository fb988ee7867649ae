"""New images get the predictions that the run made of the same ones: from files, arrays and Pillow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from nnopt_ray import reading, runs
from nnopt_ray.cli.main import code
from nnopt_ray.errors import DataError, UserError
from nnopt_ray.rundir import RunDir
from nnopt_ray.serving.predictor import Predictor

ROWS = 60


def pixels() -> np.ndarray:
    return (load_digits().images[:ROWS] * 15).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of PNG files of 8 x 8 pixels."""
    root = tmp_path_factory.mktemp("images")
    for number, image in enumerate(pixels()):
        place = root / "pics" / f"class{number % 3}" / f"{number:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
    np.savez(root / "digits.npz", x=load_digits().images[:ROWS], y=load_digits().target[:ROWS] % 3)
    return root


def trained(folder: Path, name: str, source: str) -> RunDir:
    (folder / f"{name}.yaml").write_text(
        f"name: {name}\nobjective: minimize val_loss\ndata: {{source: {source}, target: y, steps: [scale]}}\n"
        "model: {type: mlp, widths: [8]}\ntrain: {epochs: 2}\nevaluate: {bootstrap: 0}\n"
    )
    return RunDir(runs.run(reading.load(folder / f"{name}.yaml"), folder).path)


@pytest.fixture(scope="module")
def as_they_are(folder: Path) -> RunDir:
    return trained(folder, "as_they_are", "{type: image_folder, path: pics}")


@pytest.fixture(scope="module")
def brought_to_one_size(folder: Path) -> RunDir:
    return trained(folder, "sized", "{type: image_folder, path: pics, size: 6, resize: pad}")


@pytest.fixture(scope="module")
def arrays(folder: Path) -> RunDir:
    return trained(folder, "arrays", "{type: numpy, path: digits.npz}")


def said(run: RunDir) -> pd.DataFrame:
    return pd.read_parquet(run.predictions).set_index("source_row").sort_index()


def check(found: pd.DataFrame, run: RunDir) -> None:
    expected = said(run)
    found = found.loc[expected.index]
    assert found["predicted"].tolist() == expected["predicted"].tolist()
    for name in (name for name in expected if name.startswith("p_")):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


@pytest.mark.parametrize("name", ["as_they_are", "brought_to_one_size"])
def test_a_folder_is_predicted_as_the_run_did(
    name: str, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(name)
    assert code(["predict", str(run.root), str(folder / "pics"), "-o", str(tmp_path / "out.parquet")]) == 0
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert found["file"].tolist() == sorted(str(place) for place in (folder / "pics").rglob("*.png"))
    check(found, run)


def test_files_in_an_order_of_ones_own_keep_it(as_they_are: RunDir, folder: Path, tmp_path: Path) -> None:
    places = sorted((folder / "pics").rglob("*.png"))[::-7]
    Predictor(as_they_are).write(places, tmp_path / "out.csv", chunk=4)
    found = pd.read_csv(tmp_path / "out.csv")
    assert found["file"].tolist() == [str(place) for place in places]
    every = sorted((folder / "pics").rglob("*.png"))
    found.index = pd.Index([every.index(place) for place in places])
    expected = said(as_they_are)
    shared = [row for row in found.index if row in expected.index]
    np.testing.assert_allclose(found.loc[shared, "p_class0"], expected.loc[shared, "p_class0"], atol=1e-6)


def test_one_broken_file_costs_its_own_row_alone(as_they_are: RunDir, folder: Path, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes((folder / "pics" / "class0" / "000.png").read_bytes())
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nhalf")
    told = Predictor(as_they_are).write(tmp_path, tmp_path / "out.csv")
    found = pd.read_csv(tmp_path / "out.csv")
    assert found["predicted"].isna().tolist() == [False, True, False]
    assert found["p_class0"].isna().tolist() == [False, True, False]
    assert "row 1: 1.png, " in " ".join(told.notes)


def test_another_size_is_treated_as_in_training(
    as_they_are: RunDir, brought_to_one_size: RunDir, tmp_path: Path
) -> None:
    Image.fromarray(np.full((20, 12), 90, np.uint8)).save(tmp_path / "large.png")
    with pytest.raises(DataError, match=r"has 20 x 12 pixels; the network learned from images of 8 x 8"):
        Predictor(as_they_are).write(tmp_path / "large.png", tmp_path / "out.csv")
    assert [place.name for place in tmp_path.iterdir()] == ["large.png"]
    assert Predictor(brought_to_one_size).write(tmp_path / "large.png", tmp_path / "out.csv").rows == 1


def test_python_takes_pillow_arrays_and_paths(as_they_are: RunDir, arrays: RunDir, folder: Path) -> None:
    every = sorted((folder / "pics").rglob("*.png"))
    run = runs.open_run(as_they_are.root)
    check(run.predict([Image.open(place) for place in every]), as_they_are)
    check(run.predict(folder / "pics"), as_they_are)
    check(run.predict(np.stack([np.asarray(Image.open(place)) for place in every])), as_they_are)
    check(runs.open_run(arrays.root).predict(load_digits().images[:ROWS]), arrays)
    one = run.predict(np.asarray(Image.open(every[0])))
    assert len(one) == 1


def test_arrays_in_files_are_predicted_as_the_run_did(arrays: RunDir, folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "new.npy", load_digits().images[:ROWS])
    for data in (tmp_path / "new.npy", folder / "digits.npz"):
        Predictor(arrays).write(data, tmp_path / "out.parquet", force=True, chunk=7)
        check(pd.read_parquet(tmp_path / "out.parquet"), arrays)


def test_image_files_in_other_units_than_training_are_refused(arrays: RunDir, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pixels are 0 to 16, and image files hold 0 to 255"):
        Predictor(arrays).write(folder / "pics", tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda place: place.mkdir(), "holds no file that ends in"),
        (lambda place: np.save(place.with_suffix(".npy"), np.zeros((3, 9, 9))), "the network learned from 1 x 8 x 8"),
        (lambda place: np.save(place.with_suffix(".npy"), np.zeros((0, 8, 8))), "has no rows"),
        (lambda place: place.with_suffix(".csv").write_text("a\n1\n"), "nobody knows how to read it"),
    ],
)
def test_what_are_no_images_is_one_sentence(as_they_are: RunDir, make: Any, told: str, tmp_path: Path) -> None:
    make(tmp_path / "new")
    (place,) = tmp_path.iterdir()
    with pytest.raises((DataError, UserError), match=told):
        Predictor(as_they_are).write(place, tmp_path / "out.csv")


def test_columns_of_images_cannot_be_kept(
    as_they_are: RunDir, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(as_they_are.root), str(folder / "pics"), "-o", str(tmp_path / "o.csv")]
    assert code([*words, "--keep", "file"]) == 2
    assert "--keep copies columns of a table" in capsys.readouterr().err
    assert code([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["columns"][:3] == ["row", "file", "predicted"]
