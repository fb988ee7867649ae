"""Images from files: what is read of each format, what becomes of broken ones, where labels and parts come from."""

from __future__ import annotations

import csv
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_example import page
from PIL import Image

from nnopt_ray import tables
from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.table import Table, tidy
from nnopt_ray.errors import DataError, RunFailed

RANDOM = np.random.default_rng(5)
COLOURS = RANDOM.integers(0, 256, (12, 7, 3)).astype(np.uint8)  # height, width, channels
SHADES = RANDOM.integers(0, 256, (12, 7)).astype(np.uint8)


def read(base: Path, **keys: Any) -> Table:
    return tidy(tables.find("source", "image_folder")(**{"path": "images", **keys}).read(base))


def fingerprint(base: Path, **keys: Any) -> str:
    found: str = tables.find("source", "image_folder")(**{"path": "images", **keys}).fingerprint(base)
    return found


def refused(base: Path, **keys: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(base, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def put(base: Path, name: str, pixels: np.ndarray, **options: Any) -> Path:
    place = base / "images" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(place, **options)
    return place


def pixels(table: Table) -> np.ndarray:
    assert table.images is not None
    return table.images


def labels(base: Path, *rows: tuple[Any, ...]) -> str:
    with (base / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return "labels.csv"


@pytest.mark.parametrize("suffix", ["png", "PNG", "bmp", "tif", "tiff", "webp"])
def test_lossless_formats_give_back_every_pixel(suffix: str, tmp_path: Path) -> None:
    put(tmp_path, f"a/colours.{suffix}", COLOURS, **({"lossless": True} if suffix == "webp" else {}))
    found = read(tmp_path)
    assert found.columns.to_pydict() == {"label": ["a"]}
    np.testing.assert_array_equal(pixels(found), np.moveaxis(COLOURS, 2, 0)[None])
    assert isinstance(found.images, np.memmap)


def test_gif_gives_its_first_frame_and_jpeg_what_pillow_decodes(tmp_path: Path) -> None:
    first = Image.fromarray(SHADES)
    place = tmp_path / "images" / "a" / "moving.gif"
    place.parent.mkdir(parents=True)
    first.save(place, save_all=True, append_images=[Image.fromarray(255 - SHADES)])
    np.testing.assert_array_equal(pixels(read(tmp_path, channels=1))[0, 0], SHADES)
    place.unlink()
    place = put(tmp_path, "a/photo.jpg", COLOURS)
    np.testing.assert_array_equal(pixels(read(tmp_path))[0], np.moveaxis(np.asarray(Image.open(place)), 2, 0))


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [  # EXIF 2.3, tag 0x0112: where row 0 and column 0 of what is stored lie in the picture
        (1, SHADES), (2, SHADES[:, ::-1]), (3, SHADES[::-1, ::-1]), (4, SHADES[::-1]),
        (5, SHADES.T), (6, SHADES[::-1].T), (7, SHADES[::-1, ::-1].T), (8, SHADES.T[::-1]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("bits", [8, 16])
def test_the_orientation_of_the_camera_is_followed(
    orientation: int, upright: np.ndarray, bits: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # 16 bits: the upper byte counts.
    stored = SHADES if bits == 8 else SHADES.astype(np.uint16) * 256 + 77
    put(tmp_path, "a/turned.png", stored, exif=exif)
    np.testing.assert_array_equal(pixels(read(tmp_path))[0, 0], upright)


def test_channels_follow_the_files_or_the_page(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", SHADES)
    assert pixels(read(tmp_path)).shape == (1, 1, 12, 7)
    assert pixels(read(tmp_path, channels=3)).shape == (1, 3, 12, 7)
    put(tmp_path, "a/2.png", np.dstack([COLOURS, SHADES]))  # with transparency, which is dropped
    found = pixels(read(tmp_path))
    np.testing.assert_array_equal(found[0], np.stack([SHADES] * 3))
    np.testing.assert_array_equal(found[1], np.moveaxis(COLOURS, 2, 0))
    weights = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    np.testing.assert_allclose(pixels(read(tmp_path, channels=1))[1, 0], COLOURS @ weights, atol=1)


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", np.full((8, 8), 200, np.uint8))
    put(tmp_path, "a/2.png", np.full((8, 8), 200, np.uint8))
    wide = np.full((8, 16), 200, np.uint8)
    wide[:, :4] = 50
    put(tmp_path, "b/wide.png", wide)
    said = refused(tmp_path)
    assert "2 different sizes (height x width): 8 x 8 (2), 8 x 16 (1)" in said
    assert "size: [8, 8]" in said
    stretched = pixels(read(tmp_path, size=(8, 8)))[2, 0]
    assert (stretched[:, 0] == 50).all()  # 4 of 16 columns are 2 of 8
    assert (stretched[:, 3:] == 200).all()
    assert (pixels(read(tmp_path, size=(8, 8), resize="crop"))[2] == 200).all()  # the outer 4 columns are gone
    padded = pixels(read(tmp_path, size=16, resize="pad"))[2, 0]  # a square
    assert (padded[:4] == 0).all()
    assert (padded[12:] == 0).all()
    np.testing.assert_array_equal(padded[4:12], wide)


def broken(base: Path) -> None:
    for number in range(4):
        put(base, f"a/{number}.png", SHADES + number)
    content = (base / "images/a/0.png").read_bytes()
    (base / "images/a/1.png").write_bytes(content[:60])
    (base / "images/a/2b.jpg").write_bytes(b"")
    (base / "images/a/2c.png").write_bytes(b"<html>not found</html>")


def test_broken_images_are_named_and_never_dropped_in_silence(tmp_path: Path) -> None:
    broken(tmp_path)
    said = refused(tmp_path)
    assert "3 of 6 images cannot be read" in said
    for name in ("a/1.png (image file is truncated", "a/2b.jpg (no image", "a/2c.png (no image"):
        assert name in said
    for number in range(20):
        (tmp_path / f"images/a/more{number:02}.png").write_bytes(b"?")
    assert "23 of 26" in refused(tmp_path)
    assert "; and 13 more. Repair them, or add to data.source: corrupt: leave_out" in refused(tmp_path)


def test_broken_images_that_are_left_out_stand_in_note_and_audit(tmp_path: Path) -> None:
    broken(tmp_path)
    for number in range(8):
        put(tmp_path, f"b/{number}.png", SHADES + 9 * number)
    found = read(tmp_path, corrupt="leave_out")
    assert found.rows == 11
    np.testing.assert_array_equal(pixels(found)[:, 0, 0, 0], [
        Image.open(place).getpixel((0, 0)) for place in sorted((tmp_path / "images").rglob("*.png"))
        if place.name not in ("1.png", "2c.png") or place.parent.name == "b"
    ])  # fmt: skip
    source = {"type": "image_folder", "path": str(tmp_path / "images"), "corrupt": "leave_out"}
    dataset = prepare(page(source, split={"validation": 0.2, "test": 0.2}), tmp_path / "cache")
    assert dataset.summary.notes[0].startswith("3 images cannot be read and were left out: a/1.png (image file is")
    rows = list(csv.DictReader((dataset.folder / "audit.csv").read_text().splitlines()))
    assert [row["source_row"] for row in rows] == ["1", "3", "4"]  # of a/0, a/1, a/2, a/2b, a/2c, a/3, b/...
    assert rows[1]["reason"].startswith("a/2b.jpg: ")
    numbers = [rows.source_rows for rows in (dataset.train, dataset.validation, dataset.test)]
    assert sorted(np.concatenate(numbers).tolist()) == [0, 2, 5, *range(6, 14)]


def test_folders_above_the_classes_are_the_parts(tmp_path: Path) -> None:
    for part, count in (("train", 8), ("val", 3), ("test", 4)):
        for number in range(count):
            put(tmp_path, f"{part}/{'ab'[number % 2]}/{number}.png", SHADES + RANDOM.integers(0, 99, (12, 7), np.uint8))
    found = read(tmp_path)
    assert found.own_parts is not None
    assert found.own_parts.tolist() == ["test"] * 4 + ["train"] * 8 + ["validation"] * 3
    assert set(found.columns.column("label").to_pylist()) == {"a", "b"}
    source = {"type": "image_folder", "path": str(tmp_path / "images")}
    assert page(source).data.split.type == "given"
    assert prepare(page(source), tmp_path / "cache").summary.parts == {"train": 8, "validation": 3, "test": 4}
    shutil.rmtree(tmp_path / "images" / "test")  # as ImageNet comes: a test part is drawn
    assert prepare(page(source), tmp_path / "cache").summary.parts == {"train": 6, "validation": 3, "test": 2}
    shutil.rmtree(tmp_path / "images" / "val")  # one folder divides nothing, and is no class
    assert page(source).data.split.type == "random"
    assert set(read(tmp_path).columns.column("label").to_pylist()) == {"a", "b"}


def test_labels_come_from_a_table(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path, f"00{number}.png", SHADES + 10 * number)
    named = labels(
        tmp_path, ("file", "label", "place"), ("002", 1.5, "sea"), ("000.png", 2.5, "hill"), ("./003", 3, "")
    )
    found = read(tmp_path, labels=named)
    assert found.columns.to_pydict() == {"label": [1.5, 2.5, 3.0], "place": ["sea", "hill", None]}
    np.testing.assert_array_equal(pixels(found)[:, 0], [SHADES + 20, SHADES, SHADES + 30])
    assert found.notes == (f"No row of labels.csv names 1 image of {tmp_path / 'images'}, left out therefore.",)
    (tmp_path / "labels.csv").rename(tmp_path / "images" / "labels.csv")  # beside the images
    assert read(tmp_path, labels=named).rows == 3
    labels(tmp_path, ("id", "kind"), ("002", 7))
    assert read(tmp_path, labels=named, file_column="id", label_column="kind").columns.to_pydict() == {"kind": [7]}
    assert "no column 'name'" in refused(tmp_path, labels=named, file_column="name", label_column="kind")
    assert "data.source.label_column" in refused(tmp_path, labels=named, file_column="id")
    labels(tmp_path, ("file", "label"), ("000.png", 1), ("9.png", 2), ("", 2))
    assert "names 2 images that are not in" in refused(tmp_path, labels=named)


def test_the_fingerprint_follows_pixels_classes_and_labels(tmp_path: Path) -> None:
    place = put(tmp_path, "a/1.png", SHADES)
    put(tmp_path, "b/2.png", SHADES)
    seen = [fingerprint(tmp_path)]
    os.utime(place, ns=(1, 1))
    assert fingerprint(tmp_path) == seen[0]
    place.rename(place.with_name("3.png"))
    seen.append(fingerprint(tmp_path))
    put(tmp_path, "a/3.png", SHADES + 1)
    seen.append(fingerprint(tmp_path))
    for label in (1, 2):
        labels(tmp_path, ("file", "label"), ("a/3.png", label))
        seen.append(fingerprint(tmp_path, labels="labels.csv"))
    assert len(set(seen)) == len(seen)


def test_images_are_decoded_once(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", SHADES)
    first, again = read(tmp_path).images, read(tmp_path).images
    assert isinstance(first, np.memmap)
    assert isinstance(again, np.memmap)
    assert first.filename == again.filename
    other = read(tmp_path, size=(4, 4)).images
    assert isinstance(other, np.memmap)
    assert other.filename != first.filename


def test_folders_without_images_or_classes_are_explained(tmp_path: Path) -> None:
    assert "is not there" in refused(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.txt").write_text("?")
    assert "holds no image (.png" in refused(tmp_path)
    assert "is a file" in refused(tmp_path, path="images/a.txt")
    put(tmp_path, "1.png", SHADES)
    put(tmp_path, "a/2.png", SHADES)
    assert "1 of 2 images of" in refused(tmp_path)
    assert "labels: FILE.csv" in refused(tmp_path)
    put(tmp_path, ".cache/3.png", SHADES)
    put(tmp_path, "__MACOSX/a/4.png", SHADES)
    (tmp_path / "images" / "1.png").unlink()
    (tmp_path / "images" / "a" / "5.heic").write_bytes(b"?")
    found = read(tmp_path)
    assert found.rows == 1
    assert found.notes == ("Images of other formats were left out: 1 in .heic. Convert them to PNG or JPEG.",)
    Image.fromarray(np.ones((3, 3), np.float32)).save(tmp_path / "images" / "a" / "6.tiff")
    assert "pixels of 32 bits" in refused(tmp_path)


def test_a_full_disk_is_no_broken_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a/1.png", SHADES)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("NNOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RunFailed, match="No space left"):
        read(tmp_path, corrupt="leave_out")
    assert not list((tmp_path / "cache" / "images").iterdir())
