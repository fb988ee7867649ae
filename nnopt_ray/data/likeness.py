"""Which rows are the same or alike, and which of them are copies of another that stays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from nnopt_ray.data.frame import Feature, Numeric, Text
from nnopt_ray.data.quality import Examined

CHUNK = 4096  # rows that are laid side by side at a time
PARTS_IN_ORDER = (2, 1, 0)  # of like rows one of the test part stays, else of the validation part


def _no_pairs() -> np.ndarray:
    return np.zeros((0, 2), dtype=np.int64)


def _no_similarity() -> np.ndarray:
    return np.zeros(0, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Likeness:
    """item: int64 [rows]; rows of one item are the same. pairs: int64 [pairs, 2], two items that are alike, each pair
    once, with their similarity, float64 [pairs], below 1 as a rule."""

    item: np.ndarray
    pairs: np.ndarray = field(default_factory=_no_pairs)
    similarity: np.ndarray = field(default_factory=_no_similarity)

    def neighbours(self) -> dict[int, list[tuple[float, int]]]:
        """item → (similarity, other item), the most similar first."""
        found: dict[int, list[tuple[float, int]]] = {}
        for (one, other), similarity in zip(self.pairs.tolist(), self.similarity.tolist(), strict=True):
            found.setdefault(one, []).append((similarity, other))
            found.setdefault(other, []).append((similarity, one))
        for near in found.values():
            near.sort(key=lambda entry: (-entry[0], entry[1]))
        return found


@dataclass(frozen=True)
class Copy:
    """A row that is like one that stays."""

    row: int
    of: int
    similarity: float
    across: bool  # they lie in different parts


@dataclass(frozen=True)
class Copies:
    """found: rows like one that stays. unlike: rows of one part that are alike, with another target: (row, other)."""

    found: tuple[Copy, ...]
    unlike: tuple[tuple[int, int], ...]


def copies(likeness: Likeness, data: Examined, parts: tuple[str, ...], label: np.ndarray) -> Copies:
    """Which rows would go so that no two that are left are alike.

    parts: those whose rows may go; all others stay, and come first. Of the rest one of the test part stays, else one
    of the validation part, else the first. Rows of one part are copies only where `label` [rows] is equal, too; between
    parts labels are not looked at, so that those of the test part have no say. Each copy is like a row that stays
    itself, and no chain of small differences takes a row away.
    """
    may_go = data.within(parts)
    neighbours = likeness.neighbours()
    crowded = np.bincount(likeness.item[data.part_of >= 0], minlength=int(likeness.item.max()) + 1) > 1
    crowded[list(neighbours)] = True
    rows = np.flatnonzero(crowded[likeness.item] & (data.part_of >= 0))
    order = np.lexsort((rows, -data.part_of[rows], may_go[rows]))
    stays: dict[int, dict[int, dict[float, int]]] = {}  # item → part → label → the first row that stays
    found: list[Copy] = []
    unlike: list[tuple[int, int]] = []
    for row in rows[order].tolist():
        item, part, own = int(likeness.item[row]), int(data.part_of[row]), label[row].item()
        copy, other = None, None
        for similarity, near in [(1.0, item), *neighbours.get(item, ())]:
            there = stays.get(near, {})
            across = next((first for p in PARTS_IN_ORDER if p != part for first in there.get(p, {}).values()), None)
            same = there.get(part, {}).get(own)
            if across is not None or same is not None:
                of = across if across is not None else same
                assert of is not None
                copy = Copy(row, of, similarity, across is not None)
                break
            if other is None:
                other = next(iter(there.get(part, {}).values()), None)
        if copy is not None:
            found.append(copy)
        elif other is not None:
            unlike.append((row, other))
        if copy is None or not may_go[row]:
            stays.setdefault(item, {}).setdefault(part, {}).setdefault(own, row)
    found.sort(key=lambda copy: (-copy.similarity, not copy.across, copy.row))
    return Copies(tuple(found), tuple(sorted(unlike)))


def exact_items(data: Examined, ignored: tuple[str, ...] = ()) -> np.ndarray:
    """int64 [rows]: the same number for rows that are the same in all that is learned from but the `ignored` columns.

    Rows are compared by digests of 128 bits.
    """
    features = [feature for feature in data.features.values() if feature.origin not in ignored]
    numbers: dict[bytes, int] = {}
    items = [numbers.setdefault(digest, len(numbers)) for digest in _digests(data, features)]
    return np.array(items, dtype=np.int64)


def _digests(data: Examined, features: list[Feature]) -> Iterator[bytes]:
    table = data.table
    for start in range(0, table.rows, CHUNK):
        rows = slice(start, min(start + CHUNK, table.rows))
        laid = laid_out(features, rows)
        for place, row in enumerate(range(rows.start, rows.stop)):
            digest = hashlib.blake2b(laid[place].tobytes(), digest_size=16)
            if table.images is not None:
                digest.update(np.ascontiguousarray(table.images[row]).tobytes())
            if table.sequences is not None:
                digest.update(np.ascontiguousarray(table.sequences.values[row]).tobytes())
                digest.update(int(table.sequences.lengths[row]).to_bytes(8, "little"))
            yield digest.digest()


def laid_out(features: list[Feature], rows: slice) -> np.ndarray:
    """float64 [rows, features]: numbers as they are (one zero, one NaN), words as their codes."""
    laid = np.zeros((rows.stop - rows.start, len(features)))
    for place, feature in enumerate(features):
        if isinstance(feature, Numeric):
            laid[:, place] = feature.values[rows] + 0.0  # -0.0 becomes 0.0
        else:
            assert isinstance(feature, Text)
            laid[:, place] = feature.codes[rows]
    laid[np.isnan(laid)] = np.nan  # one of the many bit patterns
    return laid


__all__ = ["Copies", "Copy", "Likeness", "copies", "exact_items", "laid_out"]
