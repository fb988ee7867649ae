"""Images are scaled by numpy's numbers, some rows at a time, into the store that numpy would write of all at once."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data_example import page
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from nnopt_ray.data import scaled_images
from nnopt_ray.data.frame import Frame
from nnopt_ray.data.prepare import apply, prepare
from nnopt_ray.data.scaled_images import Method, ScaledImages, spreads
from nnopt_ray.data.split import PARTS
from nnopt_ray.data.steps import Scale, Step
from nnopt_ray.data.table import Table
from nnopt_ray.data.types import Dataset, PreprocessingState
from nnopt_ray.errors import DataError

ROWS = 60
SHAPE = (ROWS, 3, 5, 4)


@pytest.fixture(autouse=True)
def _seven_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaled_images, "BYTES_AT_ONCE", 7 * 8 * 3 * 5 * 4)


def drawn(kind: str) -> np.ndarray:
    """With a constant channel, and one of large numbers that differ little."""
    random = np.random.default_rng(5)
    if kind == "bool":
        return random.random(SHAPE) < 0.3
    if kind[0] == "f":
        images = random.normal(-3, 20, SHAPE)
        images[:, 2] = 1e5 + random.random(SHAPE[2:])
    else:
        info = np.iinfo(kind)
        images = random.integers(info.min, info.max, SHAPE, endpoint=True, dtype=np.dtype(kind).newbyteorder("="))
        images[:, 2] = info.max - random.integers(0, 3, (ROWS, *SHAPE[2:]))
    images[:, 1] = 17
    return images.astype(kind)


KINDS = ["bool", "u1", "i1", "u2", ">i2", "i4", "f4", "f8"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["standard", "minmax", "robust"])
def test_what_is_learned_is_what_scikit_learn_learns_of_all_training_pixels(kind: str, method: Method) -> None:
    images = drawn(kind)
    train = np.random.default_rng(1).permutation(ROWS)[:41]
    learned = Scale(method=method).fit(Frame({}, images), train)["image"]
    for channel in range(3):
        pixels = images[train, channel].reshape(-1, 1).astype(np.float64)
        if method == "standard":
            standard = StandardScaler().fit(pixels)
            center, scale = standard.mean_[0], standard.scale_[0]
            np.testing.assert_allclose(learned["scale"][channel], pixels.std() or 1.0, rtol=1e-12)
        elif method == "minmax":
            fitted = MinMaxScaler().fit(pixels)
            center, scale = fitted.data_min_[0], fitted.data_range_[0] or 1.0
        else:
            robust = RobustScaler().fit(pixels)
            center, scale = robust.center_[0], robust.scale_[0]
        exact = method != "standard"
        np.testing.assert_allclose(learned["center"][channel], center, rtol=0 if exact else 1e-12)
        # scikit-learn's own variance is computed in batches of its own way.
        np.testing.assert_allclose(learned["scale"][channel], scale, rtol=0 if exact else 1e-9)


@given(
    images=arrays.arrays(
        st.sampled_from([np.uint8, np.int8, np.uint16, np.int16]),
        st.tuples(st.integers(1, 12), st.integers(1, 2), st.integers(1, 3), st.integers(1, 3)),
    )
)
@settings(max_examples=150, deadline=None)
def test_counts_lead_to_the_numbers_of_numpy(images: np.ndarray) -> None:
    rows = np.arange(len(images))
    found = {method: spreads(ScaledImages(images), rows, method) for method in ("standard", "minmax", "robust")}  # type: ignore[arg-type]
    for channel in range(images.shape[1]):
        pixels = images[:, channel].astype(np.float64).ravel()
        low, middle, high = np.percentile(pixels, (25, 50, 75))
        assert (found["robust"][channel].center, found["robust"][channel].spread) == (middle, high - low)
        assert (found["minmax"][channel].center, found["minmax"][channel].spread) == (pixels.min(), np.ptp(pixels))
        np.testing.assert_allclose(found["standard"][channel].center, pixels.mean(), rtol=1e-12, atol=1e-10)
        np.testing.assert_allclose(found["standard"][channel].spread, pixels.var(), rtol=1e-12)


def written(folder: Path, images: np.ndarray, steps: list[Any], **source: Any) -> Dataset:
    np.save(folder / "x.npy", images)
    np.save(folder / "y.npy", np.array(["a", "b", "c"])[np.arange(len(images)) % 3])
    read = {"type": "numpy", "x": str(folder / "x.npy"), "y": str(folder / "y.npy"), **source}
    return prepare(page(read, target="kind", steps=steps), folder / "cache")


def learned(dataset: Dataset, step: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """center and scale, [channels, 1, 1]"""
    said = json.loads((dataset.folder / "preprocessing.json").read_text())["steps"][step]["learned"]["image"]
    return np.array(said["center"])[:, None, None], np.array(said["scale"])[:, None, None]


def assert_holds(dataset: Dataset, expected: np.ndarray) -> None:
    """Each part is to the byte what numpy saves of these rows."""
    assert dataset.train.inputs[0].shape[0] > 14  # more than two pieces
    for part in PARTS:
        saved = io.BytesIO()
        np.save(saved, expected[getattr(dataset, part).source_rows].astype(np.float32))
        assert (dataset.folder / f"{part}.image.npy").read_bytes() == saved.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_the_store_is_to_the_byte_what_numpy_makes_of_all_at_once(kind: str, tmp_path: Path) -> None:
    images = drawn(kind)
    dataset = written(tmp_path, images, ["scale"])
    center, scale = learned(dataset)
    assert_holds(dataset, (images - center) / scale)


def test_images_that_nothing_scales_are_stored_as_they_are(tmp_path: Path) -> None:
    images = drawn("u1")
    assert_holds(written(tmp_path, np.moveaxis(images, 1, 3), [], layout="channels_last"), images)


def test_a_second_scale_works_on_what_the_first_made(tmp_path: Path) -> None:
    images = drawn("u1")
    dataset = written(tmp_path, images, ["scale", {"type": "scale", "method": "robust"}])
    (center, scale), (again, spread) = learned(dataset), learned(dataset, 1)
    once = ((images - center) / scale).astype(np.float32)
    pixels = once[dataset.train.source_rows, 0].astype(np.float64)
    assert (again[0], spread[0]) == (np.median(pixels), np.subtract(*np.percentile(pixels, (75, 25))))
    assert_holds(dataset, (once - again) / spread)


class Darker(Step):
    """Half of each value, off the mean of the training part."""

    def fit(self, frame: Frame, rows: np.ndarray) -> PreprocessingState:
        assert type(frame.image) is np.ndarray
        return {"mean": float(frame.image[rows].mean())}

    def transform(self, frame: Frame, state: PreprocessingState) -> Frame:
        assert type(frame.image) is np.ndarray
        return replace(frame, image=(frame.image - state["mean"]) / 2)


class Cut(Scale):
    """What scale makes, at most 1."""

    def transform(self, frame: Frame, state: PreprocessingState) -> Frame:
        made = super().transform(frame, state)
        assert made.image is not None
        return replace(made, image=np.minimum(made.image, 1))


def test_steps_of_ones_own_are_given_an_array(tmp_path: Path) -> None:
    images = drawn("u1")
    dataset = written(tmp_path, images, ["scale", f"{__name__}:Darker", f"{__name__}:Cut"])
    (center, scale), (again, spread) = learned(dataset), learned(dataset, 2)
    once = ((images - center) / scale).astype(np.float32)
    darker = (once - float(once[dataset.train.source_rows].mean())) / 2
    assert_holds(dataset, np.minimum(((darker - again) / spread).astype(np.float32), 1))
    rows = dataset.test.source_rows
    (made,) = apply(dataset.folder, Table("new", pa.table({}), images[rows]))
    np.testing.assert_array_equal(made, dataset.test.inputs[0])


def test_new_rows_are_scaled_as_those_of_the_store(tmp_path: Path) -> None:
    images = drawn("u1")
    dataset = written(tmp_path, images, ["scale"])
    rows = dataset.train.source_rows
    (made,) = apply(dataset.folder, Table("new", pa.table({}), images[rows]))
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, dataset.train.inputs[0])
    with pytest.raises(DataError, match="the images hold values that are no finite float32 numbers"):
        apply(dataset.folder, Table("new", pa.table({}), np.full((1, *SHAPE[1:]), np.inf)))


def test_values_that_float32_cannot_hold_are_refused_unless_scaled_and_nothing_is_left(tmp_path: Path) -> None:
    images = drawn("f8")
    images[:, 0] *= 1e39
    with pytest.raises(DataError, match="the images hold values that are no finite float32 numbers"):
        written(tmp_path, images, [])
    assert not list((tmp_path / "cache").iterdir())
    dataset = written(tmp_path, images, ["scale"])
    center, scale = learned(dataset)
    assert_holds(dataset, (images - center) / scale)


PEAK = """
import json, resource, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from data_example import page
from nnopt_ray.data.prepare import apply, prepare
from nnopt_ray.data.split import PARTS
from nnopt_ray.data.table import Table

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

folder = Path(sys.argv[1])
prepare(page({"type": "sklearn", "name": "digits"}, target="digit", steps=["scale"]), folder / "cache")  # imports
before = peak()
source = {"type": "numpy", "x": str(folder / "x.npy"), "y": str(folder / "y.npy")}
made = prepare(page(source, target="kind", steps=[{"type": "scale", "method": sys.argv[2]}]), folder / "cache")
prepared = peak()
(inputs,) = apply(made.folder, Table("new", pa.table({}), np.load(folder / "x.npy")))
print(json.dumps([prepared - before, peak() - before, inputs.nbytes]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["standard", "minmax", "robust"])
def test_beside_the_source_only_some_pieces_are_in_memory(method: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6000, 3, 96, 96), np.uint8)  # 158 MiB, 633 as float32
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "y.npy", np.array(["a", "b", "c"])[np.arange(len(images)) % 3])
    command = [sys.executable, "-c", PEAK, str(tmp_path), method]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    prepared, applied, size = json.loads(done.stdout)
    pieces = 5 * (1 << 25)
    assert prepared < images.nbytes + pieces
    assert applied < images.nbytes + size + pieces
