"""What a check sees of the rows without the page's steps: a matrix of numbers, a column or more for each input.

Nothing here is learned from one part and applied to another, so that no part looks strange for that alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nnopt_ray.data.frame import Numeric, Text
from nnopt_ray.data.table import IMAGE, SEQUENCE, Sequences, Table

if TYPE_CHECKING:
    from nnopt_ray.data.quality import Examined

CHUNK = 4096  # images that are made into float64 at a time
SIDE = 16  # pixels that an image is averaged down to, at most, each way
HASHED, LATENT = 4096, 32  # words of free texts, and the numbers they are made into (LSA; Deerwester et al. 1990)


@dataclass(frozen=True, eq=False)
class View:
    """matrix: float64 [rows, columns], NaN where missing; a category is its code.

    names: of the columns. origins: of the source column of each, `image` and `sequence` among them.
    categorical: bool [columns]. telling: bool [columns], those that say something by themselves, as pixels do not.
    """

    matrix: np.ndarray
    names: tuple[str, ...]
    origins: tuple[str, ...]
    categorical: np.ndarray
    telling: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def without(self, origins: set[str]) -> View:
        kept = np.array([origin not in origins for origin in self.origins], dtype=bool)
        names = tuple(name for name, stays in zip(self.names, kept, strict=True) if stays)
        left = tuple(origin for origin, stays in zip(self.origins, kept, strict=True) if stays)
        return View(self.matrix[:, kept], names, left, self.categorical[kept], self.telling[kept])


def numbers(data: Examined, rows: np.ndarray) -> View:
    """The columns that hold amounts: numbers and dates (as days), and of each image and sequence, channel by channel,
    its mean and deviation."""
    read = {reading.name: reading for reading in data.readings}
    columns: list[tuple[str, str, np.ndarray]] = []
    for name, feature in data.features.items():
        whole = feature.origin == name or name == f"{feature.origin}.days"
        if isinstance(feature, Numeric) and whole and read[feature.origin].kind in ("numeric", "date"):
            columns.append((name, feature.origin, feature.values[rows]))
    columns += _moments(_beside(data.table, rows))
    return _view(columns)


def everything(data: Examined, rows: np.ndarray, seed: int) -> View:
    """All that is learned from: numbers and booleans, categories, parts of dates, images averaged down to 16x16, texts
    by their words, sequences by what they hold. `seed`: below 2**32, what the view of texts depends on."""
    table = _beside(data.table, rows)
    columns: list[tuple[str, str, np.ndarray]] = []
    categories: set[str] = set()
    silent: set[str] = set()
    for name, feature in data.features.items():
        if isinstance(feature, Numeric):
            columns.append((name, feature.origin, feature.values[rows]))
        elif isinstance(feature, Text) and feature.free:
            made = [(f"{name}.{told}", feature.origin, values) for told, values in _text(feature, rows, seed)]
            columns += made
            silent |= {latent for latent, _, _ in made[1:]}
        elif isinstance(feature, Text):
            columns.append((name, feature.origin, np.where(feature.codes < 0, np.nan, feature.codes)[rows]))
            categories.add(name)
    if table.images is not None:
        small = _pooled(table.images)
        flat = small.reshape(len(small), -1)
        pixels = [(f"{IMAGE}.pixel_{place}", IMAGE, flat[:, place]) for place in range(flat.shape[1])]
        columns += pixels
        silent |= {name for name, _, _ in pixels}
    if table.sequences is not None:
        columns += _ends(table.sequences)
    columns += _moments(table)
    return _view(columns, categories, silent)


def _view(
    columns: list[tuple[str, str, np.ndarray]],
    categories: Collection[str] = (),
    silent: Collection[str] = (),
) -> View:
    names = tuple(name for name, _, _ in columns)
    matrix = np.stack([values for _, _, values in columns], axis=1).astype(np.float64) if columns else np.zeros((0, 0))
    return View(
        matrix,
        names,
        tuple(origin for _, origin, _ in columns),
        np.array([name in categories for name in names], dtype=bool),
        np.array([name not in silent for name in names], dtype=bool),
    )


def _beside(table: Table, rows: np.ndarray) -> Table:
    """These rows, without the columns."""
    return replace(table, columns=table.columns.select([])).take(rows)


def _moments(table: Table) -> list[tuple[str, str, np.ndarray]]:
    columns: list[tuple[str, str, np.ndarray]] = []
    if table.images is not None:
        for channel in range(table.images.shape[1]):
            moments = [
                _moments_of(table.images[start : start + CHUNK, channel]) for start in range(0, table.rows, CHUNK)
            ]
            mean, deviation = np.concatenate(moments, axis=1)
            of = f"{IMAGE}.{channel}" if table.images.shape[1] > 1 else IMAGE
            columns.append((f"{of}.mean", IMAGE, mean))
            columns.append((f"{of}.deviation", IMAGE, deviation))
    if table.sequences is not None:
        real = table.sequences.real
        for channel, name in enumerate(table.sequences.channels):
            values = np.where(real, table.sequences.values[:, :, channel].astype(np.float64), np.nan)
            there = np.isfinite(values)
            count = np.maximum(there.sum(axis=1), 1)
            mean = np.where(there, values, 0.0).sum(axis=1) / count
            spread = np.sqrt(np.where(there, (values - mean[:, None]) ** 2, 0.0).sum(axis=1) / count)
            empty = ~there.any(axis=1)
            columns.append((f"{name}.mean", SEQUENCE, np.where(empty, np.nan, mean)))
            columns.append((f"{name}.deviation", SEQUENCE, np.where(empty, np.nan, spread)))
        if table.sequences.differ:
            columns.append((f"{SEQUENCE}.length", SEQUENCE, table.sequences.lengths.astype(np.float64)))
    return columns


def _moments_of(pixels: np.ndarray) -> np.ndarray:
    """float64 [2, rows]: mean and deviation of each image of a channel, [rows, height, width]."""
    values = np.asarray(pixels, dtype=np.float64)
    return np.stack([values.mean(axis=(1, 2)), values.std(axis=(1, 2))])


def _ends(sequences: Sequences) -> list[tuple[str, str, np.ndarray]]:
    last = np.arange(len(sequences.values)), sequences.lengths - 1
    columns: list[tuple[str, str, np.ndarray]] = []
    for channel, name in enumerate(sequences.channels):
        columns.append((f"{name}.first", SEQUENCE, sequences.values[:, 0, channel]))
        columns.append((f"{name}.last", SEQUENCE, sequences.values[(*last, channel)]))
    return columns


def _pooled(images: np.ndarray) -> np.ndarray:
    """float64 [rows, channels, at most 16, at most 16]: means over blocks of pixels."""
    pooled = np.asarray(images, dtype=np.float64)
    for axis in (2, 3):
        size = pooled.shape[axis]
        if size > SIDE:
            starts = np.arange(SIDE) * size // SIDE
            lengths = np.diff(np.append(starts, size))
            shape = [1, 1, 1, 1]
            shape[axis] = SIDE
            pooled = np.add.reduceat(pooled, starts, axis=axis) / lengths.reshape(shape)
    return pooled


def _text(feature: Text, rows: np.ndarray, seed: int) -> list[tuple[str, np.ndarray]]:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    codes = feature.codes[rows]
    present = codes >= 0
    texts = ["" if code < 0 else feature.words[code] for code in codes.tolist()]
    length = np.array([len(text) for text in texts], dtype=np.float64)
    found = [("length", np.where(present, length, np.nan))]
    counts = HashingVectorizer(n_features=HASHED, alternate_sign=False, norm=None).transform(texts)
    size = min(LATENT, len(texts) - 1)
    if counts.nnz and size > 0:
        latent = TruncatedSVD(size, random_state=seed).fit_transform(TfidfTransformer().fit_transform(counts))
        found += [(f"topic_{number}", latent[:, number]) for number in range(latent.shape[1])]
    return found
