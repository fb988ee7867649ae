"""The source `idx`: arrays written by hand as the format says, its own test set, damaged files; a real set if there."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_example import page

from nnopt_ray.data.idx import Idx
from nnopt_ray.data.prepare import prepare
from nnopt_ray.errors import DataError

KINDS = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
FASHION = Path("/usr/share/datasets/fashion-mnist")


def idx(array: np.ndarray) -> bytes:
    """The bytes of an array as the format's description has them."""
    head = struct.pack(">BBBB", 0, 0, KINDS[array.dtype.str[1:]], array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write(folder: Path, packed: bool = False, kind: str = "u1", classes: int = 4) -> dict[str, np.ndarray]:
    """The four files; the arrays that they hold."""
    random = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    held = {}
    for name, rows in (("train", 120), ("t10k", 40)):
        x = random.integers(0, 120, (rows, 5, 6)).astype(kind)
        y = (np.arange(rows) % classes).astype("u1")
        held |= {f"{name}-images-idx3-ubyte": x, f"{name}-labels-idx1-ubyte": y}
    for name, array in held.items():
        content = idx(array)
        (folder / f"{name}{'.gz' * packed}").write_bytes(gzip.compress(content) if packed else content)
    return held


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_arrays_come_back_as_written(packed: bool, kind: str, tmp_path: Path) -> None:
    held = write(tmp_path, packed, kind)
    read = Idx(path=".").read(tmp_path)
    assert read.images is not None
    assert read.own_parts is not None
    expected = np.concatenate([held["train-images-idx3-ubyte"], held["t10k-images-idx3-ubyte"]])
    np.testing.assert_array_equal(read.images[:, 0], expected)
    assert read.images.dtype.isnative
    assert read.own_parts.tolist() == ["train"] * 120 + ["test"] * 40
    assert read.columns.column("target").to_pylist()[:5] == ["0", "1", "2", "3", "0"]


def test_its_own_test_set_is_the_test_part_unless_the_page_says_otherwise(tmp_path: Path) -> None:
    write(tmp_path / "set")
    source = {"type": "idx", "path": str(tmp_path / "set"), "classes": ["coat", "bag", "boot", "hat"]}
    experiment = page(source)
    assert experiment.data.split.type == "given"
    dataset = prepare(experiment, tmp_path / "cache")
    assert dataset.summary.parts == {"train": 102, "validation": 18, "test": 40}
    assert dataset.test.source_rows.tolist() == list(range(120, 160))
    assert dataset.classes == ("bag", "boot", "coat", "hat")
    assert dataset.shapes.image == (1, 5, 6)
    otherwise = prepare(page(source, split={"type": "random", "test": 0.5}), tmp_path / "cache")
    assert otherwise.summary.parts["test"] == 80
    said = "The source says itself which rows are train and test; data.split: given would keep that."
    assert said in otherwise.summary.notes
    assert said not in dataset.summary.notes


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    write(tmp_path)
    before = Idx(path=".").fingerprint(tmp_path)
    assert Idx(path=".").fingerprint(tmp_path) == before
    file = tmp_path / "t10k-labels-idx1-ubyte"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert Idx(path=".").fingerprint(tmp_path) != before


TRAIN = "train-images-idx3-ubyte"


def _other(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: (d / TRAIN).unlink(), f"lacks '{TRAIN}' \\(or the same with .gz\\)"),
        (lambda d: _other(d, TRAIN, b"P5 28 28"), "begins with the bytes 50 35 20 32, where an IDX file has 00 00"),
        (lambda d: _other(d, TRAIN, b""), "begins with the bytes \\(none\\)"),
        (lambda d: _other(d, TRAIN, b"\0\0\x08\x03\0\0"), "ends within its head"),
        (lambda d: _other(d, TRAIN, (d / TRAIN).read_bytes()[:-7]), "holds 120 x 5 x 6 numbers, 3,600 bytes, and"),
        (lambda d: _other(d, TRAIN, (d / TRAIN).read_bytes() + b"x"), "and holds more than that"),
        (lambda d: _other(d, TRAIN, b"\0\0\x08\x03" + b"\xff" * 12 + b"\0"), "bytes, and holds 1"),
        (lambda d: _other(d, TRAIN, (d / "train-labels-idx1-ubyte").read_bytes()), "Were images and labels swapped"),
        (lambda d: _other(d, TRAIN, idx(np.zeros((7, 5, 6), "u1"))), "holds 7 images and .* 120 labels"),
        (lambda d: _other(d, TRAIN, idx(np.zeros((120, 5, 7), "u1"))), "shape \\(1, 5, 7\\), those of the test set"),
        (lambda d: _other(d, f"mnist-{TRAIN}", b"\0"), "two files of the train images"),
    ],
)
def test_a_damaged_set_is_explained(damage: Any, said: str, tmp_path: Path) -> None:
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=said) as caught:
        Idx(path=".").read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_torn_archive_and_too_few_names_are_explained(tmp_path: Path) -> None:
    write(tmp_path, packed=True)
    with pytest.raises(DataError, match=r"classes names 2 labels, 0 to 1, and train-labels.* holds 2, 3"):
        Idx(path=".", classes=("a", "b")).read(tmp_path)
    file = tmp_path / f"{TRAIN}.gz"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(DataError, match="cannot be read as gzip"):
        Idx(path=".").read(tmp_path)
    with pytest.raises(DataError, match="idx needs the folder"):
        Idx(path="nowhere").read(tmp_path)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Fashion-MNIST does not lie on this machine")
def test_fashion_mnist_is_what_its_paper_says() -> None:
    """Xiao, Rasul and Vollgraf 2017, section 2: 60,000 and 10,000 images of 28 x 28, 7,000 of each class."""
    read = Idx(path=str(FASHION)).read(Path("/"))
    assert read.images is not None
    assert read.images.shape == (70_000, 1, 28, 28)
    _, counts = np.unique(read.columns.column("target").to_numpy(), return_counts=True)
    assert counts.tolist() == [7_000] * 10
