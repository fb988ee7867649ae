"""Images of which no scaled copy exists: rows are scaled when they are taken, and learned from some at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from nnopt_ray.errors import DataError

BYTES_AT_ONCE = 1 << 25  # of the float64 that rows are scaled in
COUNTED_BITS = 16  # whole numbers of up to so many bits are counted, 512 KiB a channel


@dataclass(frozen=True, eq=False)
class ScaledImages:
    """source: [rows, channels, height, width], any real dtype. changes: center and scale of each channel, both float64
    [channels, 1, 1], in the order in which they are applied: x becomes float32((x - center) / scale).
    """

    source: np.ndarray
    changes: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    def __len__(self) -> int:
        return len(self.source)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def scaled(self, center: list[float], scale: list[float]) -> ScaledImages:
        """The same images with one more change; one number a channel."""
        change = (np.array(center)[:, None, None], np.array(scale)[:, None, None])
        return replace(self, changes=(*self.changes, change))

    def take(self, rows: np.ndarray | slice) -> np.ndarray:
        """These rows, in the source's dtype where nothing changes them, else float32."""
        return self._changed(self.source[rows])

    def _changed(self, values: np.ndarray) -> np.ndarray:
        for center, scale in self.changes:
            with np.errstate(over="ignore"):  # far outside the training part; the inputs are checked
                exact = values - center
                exact /= scale
                values = exact.astype(np.float32)
        return values

    def inputs(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """These rows as the network reads them, some at a time, float32. Raises DataError for a value that is none."""
        for some in self.pieces(rows):
            with np.errstate(over="ignore"):
                image = np.ascontiguousarray(self.take(some), dtype=np.float32)
            if not np.isfinite(image).all():
                raise DataError(
                    "the images hold values that are no finite float32 numbers. Repair or leave out those rows."
                )
            yield image

    def pieces(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The numbers of these rows, as many at a time as take BYTES_AT_ONCE."""
        at_once = max(1, BYTES_AT_ONCE // max(1, 8 * int(np.prod(self.shape[1:], dtype=np.int64))))
        for start in range(0, len(rows), at_once):
            yield rows[start : start + at_once]

    def array(self) -> np.ndarray:
        """All rows as `take` gives them; the source itself where nothing changes them."""
        if not self.changes:
            return self.source
        made = np.empty(self.shape, dtype=np.float32)
        for some in self.pieces(np.arange(len(self))):
            made[some] = self.take(some)
        return made

    def whole(self) -> np.ndarray:
        """All rows as the network reads them, float32. Raises DataError as `inputs` does."""
        made = np.empty(self.shape, dtype=np.float32)
        start = 0
        for piece in self.inputs(np.arange(len(self))):
            made[start : start + len(piece)] = piece
            start += len(piece)
        return made


Array = np.ndarray | ScaledImages


def whole(arrays: tuple[Array, ...]) -> tuple[np.ndarray, ...]:
    """Arrays with all rows of each. Raises DataError as `ScaledImages.inputs` does."""
    return tuple(array.whole() if isinstance(array, ScaledImages) else array for array in arrays)


Method = Literal["standard", "minmax", "robust"]


@dataclass(frozen=True)
class Spread:
    """What `scale` learns from: how many values there are, their center, and how far they spread, by its method.

    spread: variance, range, or distance of the quartiles.
    """

    count: int
    center: float
    spread: float


def spread_of(values: np.ndarray, method: Method) -> Spread:
    """Of float64 [values], at least one."""
    if method == "standard":
        return Spread(len(values), float(np.mean(values)), float(np.var(values)))
    if method == "minmax":
        low = np.min(values)
        return Spread(len(values), float(low), float(np.max(values) - low))
    low, center, high = np.percentile(values, (25, 50, 75))
    return Spread(len(values), float(center), float(high - low))


def spreads(images: ScaledImages, rows: np.ndarray, method: Method) -> list[Spread]:
    """Of each channel, over all pixels of these rows, at least one.

    Whole numbers of up to 16 bits are counted, and what follows from the counts is exact. Of others the sums of pieces
    are added, which is within 1e-12 of numpy's own; quartiles need a channel as a whole.
    """
    kind = images.source.dtype
    if not images.changes and (kind.kind in "iu" and 8 * kind.itemsize <= COUNTED_BITS):
        return [_of_counts(counts, int(np.iinfo(kind).min), method) for counts in _counted(images, rows)]
    if method == "standard":
        return _moments(images, rows)
    if method == "minmax":
        found = [(piece.min(axis=(0, 2, 3)), piece.max(axis=(0, 2, 3))) for piece in _float64(images, rows)]
        low, high = np.min([one for one, _ in found], axis=0), np.max([one for _, one in found], axis=0)
        count = _pixels(images, rows)
        return [Spread(count, float(first), float(last - first)) for first, last in zip(low, high, strict=True)]
    channels = range(images.shape[1])
    return [spread_of(_channel(images, rows, channel), method) for channel in channels]


def _pixels(images: ScaledImages, rows: np.ndarray) -> int:
    """Of one channel."""
    return len(rows) * int(np.prod(images.shape[2:], dtype=np.int64))


def _float64(images: ScaledImages, rows: np.ndarray) -> Iterator[np.ndarray]:
    for some in images.pieces(rows):
        yield images.take(some).astype(np.float64)


def _channel(images: ScaledImages, rows: np.ndarray, channel: int) -> np.ndarray:
    """float64 [pixels]"""
    return np.concatenate([images.take(some)[:, channel].ravel() for some in images.pieces(rows)]).astype(np.float64)


def _moments(images: ScaledImages, rows: np.ndarray) -> list[Spread]:
    """In two passes, as the square of the mean taken off the mean of squares loses what is left of large numbers."""
    count, axes = _pixels(images, rows), (0, 2, 3)
    mean = np.sum([piece.sum(axis=axes) for piece in _float64(images, rows)], axis=0) / count
    squares = []
    for piece in _float64(images, rows):
        piece -= mean[:, None, None]
        squares.append(np.square(piece, out=piece).sum(axis=axes))
    variance = np.sum(squares, axis=0) / count
    return [Spread(count, float(center), float(spread)) for center, spread in zip(mean, variance, strict=True)]


def _counted(images: ScaledImages, rows: np.ndarray) -> np.ndarray:
    """int64 [channels, values]: how often a channel has each number, the smallest of the dtype first."""
    info = np.iinfo(images.source.dtype)
    size = int(info.max) - int(info.min) + 1
    counts = np.zeros((images.shape[1], size), dtype=np.int64)
    for some in images.pieces(rows):
        piece = images.source[some]
        for channel in range(len(counts)):
            values = piece[:, channel].ravel().astype(np.intp)
            values -= int(info.min)
            counts[channel] += np.bincount(values, minlength=size)
    return counts


def _of_counts(counts: np.ndarray, smallest: int, method: Method) -> Spread:
    """counts[i]: how often the number smallest + i is there."""
    there = np.flatnonzero(counts)
    numbers = [int(place) + smallest for place in there]
    often = [int(count) for count in counts[there]]
    count = sum(often)
    if method == "standard":  # in Python's whole numbers, which have no bound
        total = sum(number * times for number, times in zip(numbers, often, strict=True))
        squares = sum(number**2 * times for number, times in zip(numbers, often, strict=True))
        return Spread(count, total / count, (count * squares - total**2) / count**2)
    if method == "minmax":
        return Spread(count, float(numbers[0]), float(numbers[-1] - numbers[0]))
    up_to = np.cumsum(often)

    def quantile(quarters: int) -> float:
        """Between the two numbers around its place, as np.percentile does; quarters of whole numbers are exact."""
        place, rest = divmod(quarters * (count - 1), 4)
        below, above = (numbers[int(np.searchsorted(up_to, at, "right"))] for at in (place, min(place + 1, count - 1)))
        return below + (above - below) * rest / 4

    return Spread(count, quantile(2), quantile(3) - quantile(1))


__all__ = ["Array", "Method", "ScaledImages", "Spread", "spread_of", "spreads", "whole"]
