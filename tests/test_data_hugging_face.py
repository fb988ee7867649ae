"""Folders that the library datasets wrote, read without it: held against what the library itself reads of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from data_example import page
from PIL import Image
from pyarrow import ipc

from nnopt_ray import tables
from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.table import Table, tidy
from nnopt_ray.errors import DataError

NAMES = ["cat", "dog", "cow"]


@pytest.fixture(scope="module", autouse=True)
def in_silence() -> Iterator[None]:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def made(rows: int, seed: int = 0, **more: Any) -> Any:
    """A Dataset with every kind of feature that is read."""
    random = np.random.default_rng(seed)
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "kind": datasets.ClassLabel(names=NAMES),
            "embedding": datasets.List(datasets.Value("float32"), length=3),
            "note": datasets.Value("string"),
            "weight": datasets.Value("float64"),
        }
    )
    content = {
        "photo": [Image.fromarray(random.integers(0, 256, (6, 5, 3)).astype(np.uint8)) for _ in range(rows)],
        "kind": [number % 3 for number in range(rows)],
        "embedding": random.random((rows, 3)).tolist(),
        "note": [f"note {number}" for number in range(rows)],
        "weight": [None, *random.random(rows - 1).tolist()],
    }
    return datasets.Dataset.from_dict({**content, **more}, features=features)


def read(base: Path, **keys: Any) -> Table:
    return tidy(tables.find("source", "hugging_face")(**{"path": "saved", **keys}).read(base))


def fingerprint(base: Path, **keys: Any) -> str:
    found: str = tables.find("source", "hugging_face")(**{"path": "saved", **keys}).fingerprint(base)
    return found


def refused(base: Path, **keys: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(base, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(found: Table, expected: Any) -> None:
    columns = found.columns.to_pydict()
    assert list(columns) == ["kind", "embedding_0", "embedding_1", "embedding_2", "note", "weight"]
    assert columns["kind"] == [NAMES[code] for code in expected["kind"]]
    assert np.stack([columns[f"embedding_{place}"] for place in range(3)], axis=1).tolist() == list(
        expected["embedding"]
    )
    assert columns["note"] == list(expected["note"])
    assert columns["weight"] == list(expected["weight"])
    assert found.images is not None
    np.testing.assert_array_equal(np.moveaxis(found.images, 1, 3), [np.asarray(photo) for photo in expected["photo"]])
    assert found.target == "kind"


@pytest.mark.parametrize("shards", [1, 3])
def test_a_dataset_is_what_the_library_reads(shards: int, tmp_path: Path) -> None:
    made(10).shuffle(seed=1).select(range(8)).save_to_disk(tmp_path / "saved", num_shards=shards)
    found = read(tmp_path)
    same(found, datasets.load_from_disk(tmp_path / "saved"))
    assert found.own_parts is None
    assert page({"type": "hugging_face", "path": str(tmp_path / "saved")}).data.split.type == "random"
    assert "without splits" in refused(tmp_path, splits=("train",))


def test_splits_are_the_parts(tmp_path: Path) -> None:
    whole = {"train": made(9), "test": made(5, 1), "unsupervised": made(4, 2)}
    datasets.DatasetDict(whole).save_to_disk(tmp_path / "saved")
    found = read(tmp_path)
    same(found, datasets.concatenate_datasets([whole["train"], whole["test"]]))
    assert found.own_parts is not None
    assert found.own_parts.tolist() == ["train"] * 9 + ["test"] * 5
    assert found.notes == ("Splits that are none of train, validation and test were left out: 'unsupervised'.",)
    same(read(tmp_path, splits=("unsupervised",)), whole["unsupervised"])
    assert read(tmp_path, splits=("train", "unsupervised")).own_parts is None
    assert "no split 'dev'; it has 'train', 'test', 'unsupervised'" in refused(tmp_path, splits=("dev",))
    source = {"type": "hugging_face", "path": str(tmp_path / "saved")}
    assert page(source).data.split.type == "given"
    assert page({**source, "splits": ["unsupervised"]}).data.split.type == "random"
    kept = {"steps": ["impute"], "ignore": ["note"]}
    dataset = prepare(page(source, **kept), tmp_path / "cache")
    assert dataset.summary.parts == {"train": 8, "validation": 1, "test": 5}
    assert dataset.classes == tuple(sorted(NAMES))


def test_the_fingerprint_follows_values_and_names(tmp_path: Path) -> None:
    seen = set()
    for number, kind in enumerate(([0, 1, 2], [0, 2, 1])):
        made(3, kind=kind).save_to_disk(tmp_path / f"{number}")
        seen.add(fingerprint(tmp_path, path=f"{number}"))
        made(3, kind=kind).save_to_disk(tmp_path / f"{number} again")
        assert fingerprint(tmp_path, path=f"{number} again") in seen
    info = tmp_path / "0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"cow"', '"bull"'))
    assert fingerprint(tmp_path, path="0") not in seen
    assert read(tmp_path, path="0").columns.column("kind").to_pylist() == ["cat", "dog", "bull"]


def test_missing_labels_are_missing(tmp_path: Path) -> None:
    made(4, kind=[0, -1, 2, None]).save_to_disk(tmp_path / "saved")
    assert read(tmp_path).columns.column("kind").to_pylist() == ["cat", None, "cow", None]


def test_broken_and_absent_images_are_named_by_split_and_row(tmp_path: Path) -> None:
    photos = [*made(6)["photo"][:4], {"bytes": b"?", "path": None}, None]
    datasets.DatasetDict(train=made(6), test=made(6, photo=photos)).save_to_disk(tmp_path / "saved")
    assert "row 4 of test (no image of a known format); row 5 of test (there is none)" in refused(tmp_path)
    found = read(tmp_path, corrupt="leave_out")
    assert found.rows == 10
    assert [row for row, _ in found.unread] == [10, 11]


def test_several_columns_of_images_need_a_choice(tmp_path: Path) -> None:
    first = made(3)
    masks = datasets.Dataset.from_dict({"mask": first["photo"][:]}, datasets.Features({"mask": datasets.Image()}))
    datasets.concatenate_datasets([first, masks], axis=1).save_to_disk(tmp_path / "saved")
    assert "several columns of images, 'photo', 'mask'. Add to data.source: image: photo" in refused(tmp_path)
    found = read(tmp_path, image="mask")
    same(found, first)
    assert found.notes == ("Column 'photo' (Image) is not read; the images are 'mask'.",)
    assert "is a column of Value" in refused(tmp_path, image="note")
    assert "Did you mean 'mask'?" in refused(tmp_path, image="maks")


def test_folders_that_save_to_disk_did_not_write_are_explained(tmp_path: Path) -> None:
    assert "is not there" in refused(tmp_path)
    (tmp_path / "saved").mkdir()
    assert "holds neither state.json nor dataset_dict.json" in refused(tmp_path)
    made(4).save_to_disk(tmp_path / "saved")
    state = (tmp_path / "saved" / "state.json").read_text()
    for broken, said in (("{", "cannot be read as a folder of datasets"), ("[]", "it holds no mapping")):
        (tmp_path / "saved" / "state.json").write_text(broken)
        assert said in refused(tmp_path)
    (tmp_path / "saved" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "away.arrow"}]}))
    assert "lacks 'away.arrow'" in refused(tmp_path)
    (tmp_path / "saved" / "state.json").write_text(state)
    data = next((tmp_path / "saved").glob("*.arrow"))
    data.write_bytes(data.read_bytes()[:-3000])
    assert "cannot be read as Arrow" in refused(tmp_path)


def test_splits_that_differ_are_named(tmp_path: Path) -> None:
    other = made(4).rename_column("weight", "mass")
    datasets.DatasetDict(train=made(4)).save_to_disk(tmp_path / "saved")
    other.save_to_disk(tmp_path / "saved" / "test")
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert "the splits 'train' and 'test' differ in the columns 'weight', 'mass'" in refused(tmp_path)


def test_what_older_versions_wrote_is_read(tmp_path: Path) -> None:
    """As datasets 1.x and 2.x: `Sequence` for a list, plain lists of one feature for those of any length."""
    folder = tmp_path / "saved"
    folder.mkdir()
    columns = pa.table({"x": pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2)), "y": [0, 1]})
    with ipc.new_stream(folder / "dataset.arrow", columns.schema) as stream:
        stream.write_table(columns)
    pair = {"feature": {"dtype": "int64", "id": None, "_type": "Value"}, "length": 2, "id": None, "_type": "Sequence"}
    label = {"num_classes": 2, "names": ["no", "yes"], "id": None, "_type": "ClassLabel"}
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"x": pair, "y": label}}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "dataset.arrow"}]}))
    assert read(tmp_path).columns.to_pydict() == {"x_0": [1, 3], "x_1": [2, 4], "y": ["no", "yes"]}
    (folder / "state.json").write_text(json.dumps({"_data_files": [], "_indices_data_files": [{"filename": "i"}]}))
    assert "old version of datasets, with indices" in refused(tmp_path)
