"""The source `numpy`: arrays in .npz or .npy files, columns, images or sequences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from nnopt_ray.data.files import digest, files, reading, suffix
from nnopt_ray.data.sources import Source
from nnopt_ray.data.table import IMAGE, LARGEST, Sequences, Table, quoted
from nnopt_ray.errors import DataError
from nnopt_ray.experiment import Beside


class Numpy(Source):
    """NumPy arrays: one .npz file that holds both, or two .npy files.

    x is [rows, features] (columns x0, x1, ...), [rows, height, width] or images with channels; y is
    [rows] or [rows, 1]. The target has no name of its own: `data.target` may call it as it likes. With
    `kind: sequence` x is [rows, length, channels], or [rows, length] of one channel. Pickled arrays are refused.

    Keys:
        path: the .npz file, relative to the page; without it x and y are files.
        x: the name of the array in the .npz file, or a .npy file.
        y: the same for the target.
        kind: what x of three dimensions is: images [rows, height, width], or sequences [rows, length, channels].
        lengths: of sequences, the array [rows] (or .npy file) with the steps that each has; what follows is ignored.
        layout: of images with channels: channels_first [rows, channels, height, width] or channels_last.
    """

    def __init__(
        self,
        *,
        path: Annotated[str, Beside()] | None = None,
        x: Annotated[str, Beside()] = "x",
        y: Annotated[str, Beside()] = "y",
        kind: Literal["image", "sequence"] = "image",
        lengths: Annotated[str, Beside()] | None = None,
        layout: Literal["channels_first", "channels_last"] = "channels_first",
    ) -> None:
        self.path = path
        self.x = x
        self.y = y
        self.kind = kind
        self.lengths = lengths
        self.layout = layout

    def _places(self, base: Path) -> list[Path]:
        if self.path is not None:
            return files(self.path, base, (), "data.source.path")
        if suffix(self.x) != ".npy" or suffix(self.y) != ".npy":
            raise DataError("data.source: numpy needs `path` (a .npz file), or `x` and `y` as two .npy files.")
        places = files(self.x, base, (), "data.source.x") + files(self.y, base, (), "data.source.y")
        return places + (files(self.lengths, base, (), "data.source.lengths") if self.lengths is not None else [])

    def fingerprint(self, base: Path) -> str:
        places = self._places(base)
        return " ".join(digest([place], base) for place in places)

    def read(self, base: Path) -> Table:
        import pyarrow as pa

        places = self._places(base)
        x, y = self._load(places, "x", self.x), self._load(places, "y", self.y)
        origin = " and ".join(str(place) for place in places)
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.ndim != 1:
            raise DataError(f"data.source.y: {origin}: y has the shape {y.shape}; it must be [rows] or [rows, 1].")
        if self.lengths is not None and self.kind != "sequence":
            raise DataError("data.source.lengths: images have no lengths. Add kind: sequence, or take it away.")
        if len(x) != len(y):
            raise DataError(
                f"data.source: {origin}: x has {len(x)} rows and y has {len(y)}; they must be the same rows."
            )
        lengths = None if self.lengths is None else self._load(places, "lengths", self.lengths)
        table = self.unlabelled(x, lengths, origin)
        columns = {name: table.columns.column(name) for name in table.names}
        return replace(table, columns=pa.table({**columns, "target": _target(y)}), target="target")

    def unlabelled(self, x: np.ndarray, lengths: np.ndarray | None, origin: str) -> Table:
        """The rows of x without a target. lengths: of sequences, where they differ."""
        import pyarrow as pa

        if x.ndim < 2 or x.ndim > 4:
            raise DataError(
                f"data.source.x: {origin}: x has the shape {x.shape}; it must be [rows, features], "
                "[rows, height, width] or [rows, channels, height, width]."
            )
        if self.kind == "sequence":
            return Table(origin, pa.table({}), sequences=self._sequences(x, lengths, origin))
        if x.ndim == 2:
            columns = {f"x{number}": pa.array(np.ascontiguousarray(x[:, number])) for number in range(x.shape[1])}
            return Table(origin, pa.table(columns))
        return Table(origin, pa.table({}), images=self._images(x, origin))

    def _load(self, places: list[Path], key: str, name: str) -> np.ndarray:
        place = places[0] if self.path is not None else places[("x", "y", "lengths").index(key)]
        cure = "Save plain arrays with numpy.save or numpy.savez; pickled objects are not read."
        # Opened here, as np.load leaves a file of its own open when it fails.
        with reading("NumPy", place, cure), place.open("rb") as file:
            head = file.read(6)
            file.seek(0)
            if head == b"\x93NUMPY" and self.path is not None:
                raise DataError(
                    f"data.source.path: {place} is a single array; give it as x, and y beside it, without path."
                )
            if head == b"\x93NUMPY":
                array: np.ndarray = np.load(file, allow_pickle=False)
            elif not head.startswith(b"PK"):
                raise ValueError("it holds no NumPy arrays")
            elif self.path is None:
                raise DataError(f"data.source.{key}: {place} is a .npz file; give it as path.")
            else:
                with np.load(file, allow_pickle=False) as arrays:
                    if name not in arrays.files:
                        held = quoted(arrays.files)
                        raise DataError(f"data.source.{key}: {place} holds no array '{name}'; it holds {held}.")
                    array = arrays[name]
        if array.dtype.kind not in {"x": "biuf", "y": "biufU", "lengths": "iu"}[key]:
            needed = {"x": "numbers", "y": "numbers or text", "lengths": "whole numbers"}[key]
            raise DataError(f"data.source.{key}: {place} holds {array.dtype}; {needed} are needed.")
        return array

    def _sequences(self, x: np.ndarray, given: np.ndarray | None, origin: str) -> Sequences:
        if x.ndim > 3 or 0 in x.shape[1:]:
            raise DataError(
                f"data.source.x: {origin}: x has the shape {x.shape}; sequences are [rows, length, channels] or "
                "[rows, length]."
            )
        values = (x[:, :, None] if x.ndim == 2 else x).astype(np.float64)
        lengths = np.full(len(x), x.shape[1], dtype=np.int64)
        if given is not None:
            if given.shape != (len(x),):
                raise DataError(
                    f"data.source.lengths: {origin}: the array has the shape {given.shape}; x has {len(x)} rows."
                )
            lengths = given.astype(np.int64)
        infinite = int((np.abs(values) > np.float64(LARGEST)).any(axis=(1, 2)).sum())
        if infinite:
            raise DataError(
                f"data.source: {origin}: {infinite} of the sequences hold infinite numbers. Repair or leave them out."
            )
        return Sequences(values, lengths, tuple(f"x{number}" for number in range(values.shape[2])))

    def _images(self, x: np.ndarray, origin: str) -> np.ndarray:
        """[rows, channels, height, width]"""
        images = x[:, None] if x.ndim == 3 else x
        if x.ndim == 4 and self.layout == "channels_last":
            images = np.moveaxis(x, 3, 1)
        elif x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
            raise DataError(
                f"data.source: {origin}: images of shape {x.shape[1:]} would have {x.shape[1]} channels. "
                "Add to data.source: layout: channels_last"
            )
        if 0 in images.shape[1:]:
            raise DataError(f"data.source: {origin}: images of shape {x.shape[1:]} hold no pixel.")
        if images.dtype.kind == "f" and not (np.abs(images) <= np.float64(LARGEST)).all():
            bad = int((~(np.abs(images) <= np.float64(LARGEST))).reshape(len(images), -1).any(axis=1).sum())
            raise DataError(
                f"data.source: {origin}: {bad} of the {IMAGE}s hold values that are not finite. "
                "Repair or leave them out."
            )
        return images


def _target(y: np.ndarray) -> Any:
    """As an Arrow array; [rows]."""
    import pyarrow as pa

    return pa.array(y) if y.dtype.kind != "f" else pa.array(y.astype(np.float64))
