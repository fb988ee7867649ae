"""New images: files, arrays and MNIST's files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nnopt_ray.data.arrays import Numpy
from nnopt_ray.data.files import reading
from nnopt_ray.data.idx import array_of
from nnopt_ray.data.pixels import OTHER_SIZE, Shaping, decode_some
from nnopt_ray.data.pixels import SUFFIXES as OF_FILES
from nnopt_ray.data.table import IMAGE, Table
from nnopt_ray.errors import DataError, UserError
from nnopt_ray.serving.piece import Piece, cut
from nnopt_ray.serving.trained import Trained

RESIZING = ("image_folder", "hugging_face")  # sources with a `size` that images are brought to
ARRAYS, IDX = (".npy", ".npz"), ("ubyte", "ubyte.gz")
SUFFIXES = (*OF_FILES, *(suffix.upper() for suffix in OF_FILES), *ARRAYS, *IDX)
BYTES_AT_ONCE = 1 << 25  # of the float32 images of a piece
DARK = 64  # images of files whose brightest training pixel is below were learned from in other units than 0 to 255
LOOKED_AT = 256  # training images that tell the units


def pieces(places: list[Path], trained: Trained, chunk: int) -> Iterator[Piece]:
    """The images of files in their order, those of an array in its order. Raises DataError."""
    if trained.preprocessing.readings:
        told = ", ".join(repr(reading.name) for reading in trained.preprocessing.readings)
        raise UserError(
            f"{trained.root} learned from images and the columns {told} together. Files of images hold no columns: "
            "predict such rows in Python, by the network itself (`run.model()`)."
        )
    shape = _shape(trained)
    chunk = max(1, min(chunk, BYTES_AT_ONCE // (4 * int(np.prod(shape)))))
    for kind, group in groupby(places, key=_kind):
        if kind == "files":
            yield from _files(list(group), trained, shape, chunk)
            continue
        for place in group:
            images = array_of(place) if kind == "idx" else array(place, trained, "x")
            yield from cut(table(images, trained, str(place)), chunk)


def _kind(place: Path) -> str:
    name = place.name.lower()
    if name.endswith(IDX):
        return "idx"
    return "arrays" if name.endswith(ARRAYS) else "files"


def _shape(trained: Trained) -> tuple[int, int, int]:
    channels, height, width = trained.preprocessing.image_shape or (0, 0, 0)
    return channels, height, width


def shaping(trained: Trained) -> Shaping:
    """How images come to one shape: as the source that was learned from says; one without `size` takes one size."""
    keys = trained.source.keys
    if trained.source.type in RESIZING:
        return Shaping.of(keys["size"], keys["resize"])
    return Shaping()


def _files(places: list[Path], trained: Trained, shape: tuple[int, int, int], chunk: int) -> Iterator[Piece]:
    import pyarrow as pa

    refuse_other_units(trained, "image files")
    if shape[0] not in (1, 3):
        raise UserError(f"image files have 1 or 3 channels, and {shape[0]} were learned from. Give arrays (.npy).")
    how = shaping(trained)
    for start in range(0, len(places), chunk):
        some = places[start : start + chunk]

        def opened(number: int, some: list[Path] = some) -> BinaryIO:
            return some[number].open("rb")

        images, faults = decode_some(len(some), opened, shape, how)
        refuse_other_sizes({str(some[number]): why for number, why in faults.items()}, shape, trained)
        names = pa.array([str(place) for place in some], pa.string())
        told = {number: f"{some[number].name}, {why}" for number, why in faults.items()}
        yield Piece(Table(str(some[0].parent), pa.table({}), images=images), {"file": names}, told)


def refuse_other_sizes(faults: dict[str, str], shape: tuple[int, int, int], trained: Trained) -> None:
    """Raises DataError where images have another size and training brought them to none."""
    other = {name: why.removeprefix(OTHER_SIZE) for name, why in faults.items() if why.startswith(OTHER_SIZE)}
    sized = trained.source.type in RESIZING
    if other:
        name, size = next(iter(other.items()))
        more = f", and {len(other) - 1:,} more are of another size" if len(other) > 1 else ""
        raise DataError(
            f"{name} has {size}{more}; the network learned from images of {shape[1]} x {shape[2]} (height x width), "
            "which its data source took as they were. Bring new images to that size as you brought those."
            + (f" Trained with size: [{shape[1]}, {shape[2]}], data.source would bring new ones, too." if sized else "")
        )


def refuse_other_units(trained: Trained, what: str) -> None:
    """Raises DataError where the training images, as the source gave them, did not have pixels of 0 to 255."""
    if trained.source.type in (*RESIZING, "idx"):
        return
    images = np.asarray(trained.dataset.train.inputs[0][:LOOKED_AT], dtype=np.float64)
    for part, state in reversed(trained.preprocessing.steps):
        if part.type == "scale" and "image" in state:
            center, scale = (np.array(state["image"][key])[:, None, None] for key in ("center", "scale"))
            images = images * scale + center
    low, high = np.round(images.min(), 4) + 0.0, images.max()
    if high < DARK:
        raise DataError(
            f"the network learned from images whose pixels are {low:.3g} to {high:.3g}, and {what} "
            "hold 0 to 255. Give the images as an array in the units of training (.npy, uint8 or float)."
        )


def array(place: Path, trained: Trained, key: str) -> np.ndarray:
    """The array of a .npy file, or of a .npz file that of the training source's name, or its only one."""
    name = str(trained.source.keys.get(key) or key) if trained.source.type == "numpy" else key
    cure = "Save plain arrays with numpy.save or numpy.savez; pickled objects are not read."
    with reading("NumPy", place, cure), place.open("rb") as file:
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            if found.dtype.kind not in "biuf":
                raise ValueError(f"it holds {found.dtype}, and numbers are needed")
            return found
        with found as arrays:
            wanted = name if name in arrays.files else arrays.files[0] if len(arrays.files) == 1 else None
            if wanted is None:
                raise ValueError(f"it holds the arrays {', '.join(arrays.files)}, none of them {name!r}")
            chosen: np.ndarray = arrays[wanted]
            if chosen.dtype.kind not in "biuf":
                raise ValueError(f"it holds {chosen.dtype}, and numbers are needed")
            return chosen


def table(images: np.ndarray, trained: Trained, origin: str) -> Table:
    """Images as an array: [rows, height, width], [rows, channels, height, width], with the channels last where that
    alone fits, or one image alone. Raises DataError for another shape."""
    channels, height, width = shape = _shape(trained)
    if images.shape in (shape, (height, width)):
        images = images.reshape(1, *shape) if images.size == np.prod(shape) else images
    elif images.shape == (height, width, channels):
        images = images[None]
    if images.ndim == 4 and images.shape[1:] != shape and images.shape[1:] == (height, width, channels):
        images = np.moveaxis(images, 3, 1)
    if images.ndim not in (3, 4) or (images[:, None] if images.ndim == 3 else images).shape[1:] != shape:
        raise DataError(
            f"{origin}: {IMAGE}s of shape {images.shape} were given; the network learned from {channels} x {height} x "
            f"{width} (channels x height x width): give [rows, {channels}, {height}, {width}]."
        )
    if not len(images):
        raise DataError(f"{origin} has no rows.")
    return Numpy(x="x.npy", y="y.npy").unlabelled(images, None, origin)


__all__ = ["SUFFIXES", "array", "pieces", "refuse_other_sizes", "refuse_other_units", "shaping", "table"]
