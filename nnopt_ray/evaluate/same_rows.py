"""Prepared rows that are exactly the same in two parts: what is learned from and then asked about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nnopt_ray.data.types import Dataset, Rows
from nnopt_ray.evaluate.probe import evenly

WORDS = 64  # 4-byte words of a row that are compared first; what agrees in them is compared whole
# Of a part at most; of a larger one rows spread evenly over it serve. Half a second on one core.
READ_BYTES, READ_WORDS = 256 << 20, 2**22
COMPARED = 2_000  # pairs that are compared whole; of more, the share among these is taken for all
COUNTED_ROWS = 2048  # on which it is counted how often two rows have the same value
# Columns that depend on each other agree together: the chance that all do is taken as if half of them did alone.
DEPENDENT = 0.5


@dataclass(frozen=True)
class Copies:
    """rows: part (validation, test) → rows that are a training row too; looked_at: part → rows that were compared.

    learned: the share of the training rows that they were compared with.
    chance: the share that is expected to be so where columns have few values.
    first: (number in the source, number in the source of the training row that is the same, part).
    """

    rows: Mapping[str, int]
    looked_at: Mapping[str, int]
    learned: float
    chance: float
    first: tuple[tuple[int, int, str], ...]


def copies(dataset: Dataset, named: int = 5) -> Copies | None:
    """None without training rows or inputs."""
    train, width = dataset.train, _width(dataset.train)
    if not len(train) or not width:
        return None
    words = np.sort(np.random.default_rng(0).choice(width, min(width, WORDS), replace=False))
    kept = _looked_at(train)
    hashes = _hashes(_words(train, kept, words))
    order = np.argsort(hashes, kind="stable")
    found: dict[str, int] = {}
    looked_at = {"train": len(kept)}
    first: list[tuple[int, int, str]] = []
    for part, rows in (("validation", dataset.validation), ("test", dataset.test)):
        asked = _looked_at(rows)
        looked_at[part] = len(asked)
        pairs = _pairs(hashes[order], order, _hashes(_words(rows, asked, words)))
        compared = [pairs[at] for at in evenly(len(pairs), COMPARED)] if pairs else []
        same = [(asked[one], kept[other]) for one, other in compared if _same(rows, asked[one], train, kept[other])]
        found[part] = round(len(same) * len(pairs) / len(compared)) if compared else 0
        first += [(int(rows.source_rows[one]), int(train.source_rows[other]), part) for one, other in same[:named]]
    return Copies(found, looked_at, len(kept) / len(train), _chance(train, words), tuple(first[:named]))


def _width(rows: Rows) -> int:
    """4-byte words of the inputs of one row."""
    return sum(int(np.prod(array.shape[1:])) * array.itemsize // 4 for array in rows.inputs)


def _looked_at(rows: Rows) -> np.ndarray:
    width = max(1, _width(rows))
    most = min(READ_BYTES // (4 * width), READ_WORDS // min(width, WORDS))
    return evenly(len(rows), max(1, most)) if len(rows) else np.zeros(0, dtype=np.int64)


def _words(rows: Rows, chosen: np.ndarray, words: np.ndarray) -> np.ndarray:
    """uint32 [chosen, words]: these words of these rows, counted through all inputs."""
    pieces, begin = [], 0
    whole = len(chosen) == len(rows)
    for array in rows.inputs:
        width = int(np.prod(array.shape[1:])) * array.itemsize // 4
        own = words[(words >= begin) & (words < begin + width)] - begin
        flat = np.asarray(array).reshape(len(array), -1).view(np.uint32)
        pieces.append(flat[:, own] if whole else flat[chosen][:, own])
        begin += width
    return np.concatenate(pieces, axis=1)


def _hashes(words: np.ndarray) -> np.ndarray:
    """uint64 [rows]: a sum of products with random odd numbers, which is even over all words (Dietzfelbinger 1996)."""
    drawn: np.ndarray = np.random.default_rng(1).integers(0, 2**62, size=(words.shape[1],))
    factors: np.ndarray = (2 * drawn + 1).astype(np.uint64)
    found = np.zeros(len(words), dtype=np.uint64)
    for at in range(words.shape[1]):
        mixed = (words[:, at].astype(np.uint64) + np.uint64(at + 1)) * factors[at]
        found += mixed ^ (mixed >> np.uint64(29))
    return found


def _chance(train: Rows, words: np.ndarray) -> float:
    """The share of rows for which another one is the same by chance, 1 at most; copies themselves are not counted."""
    seen = np.unique(_words(train, evenly(len(train), COUNTED_ROWS), words), axis=0)
    if len(seen) < 2:
        return 1.0
    logs = 0.0
    for at in range(seen.shape[1]):
        _, counts = np.unique(seen[:, at], return_counts=True)
        pairs = float((counts * (counts - 1)).sum())
        if not pairs:
            return 0.0
        logs += math.log(pairs / (len(seen) * (len(seen) - 1)))
    return min(1.0, len(train) * math.exp(DEPENDENT * logs))


def _pairs(known: np.ndarray, order: np.ndarray, asked: np.ndarray) -> list[tuple[int, int]]:
    """(row asked about, training row) with equal hashes, the first training row of each."""
    at = np.searchsorted(known, asked)
    hits = np.flatnonzero((at < len(known)) & (known[np.minimum(at, len(known) - 1)] == asked))
    return [(int(row), int(order[at[row]])) for row in hits]


def _same(rows: Rows, one: int, train: Rows, other: int) -> bool:
    pairs = zip(rows.inputs, train.inputs, strict=True)
    return all(np.array_equal(ours[one], theirs[other]) for ours, theirs in pairs)


__all__ = ["Copies", "copies"]
