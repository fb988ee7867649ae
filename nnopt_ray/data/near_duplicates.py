"""Rows that are nearly the same: images that look it, texts of nearly the same words, numbers that hardly differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data import image_hashes, shingles
from nnopt_ray.data.duplicates import findings
from nnopt_ray.data.frame import Numeric, Text
from nnopt_ray.data.likeness import Copies, Likeness, copies, exact_items
from nnopt_ray.data.quality import Check, Examined, Finding, Repaired
from nnopt_ray.errors import DataError
from nnopt_ray.machine import derived_seed

Share = Annotated[float, Field(gt=0, le=1)]
GRID = 3  # columns by which rows are laid on a grid; the others are compared where these agree
SAMPLED = 10_000  # rows by which columns are chosen for it
TOGETHER = 2_000_000  # pairs that are compared at a time
ODD = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93], dtype=np.uint64)
MOST_PAIRS = 20_000_000


class NearDuplicates(Check):
    """Rows that are nearly the same. A report leaves those that are exactly the same to `duplicates`; drop takes both.

    Images are compared where there are any, else texts, else numbers: images by imagehash's perceptual hash and the
    correlation of their small grey versions, texts (in lower case) by the Jaccard index of their runs of characters,
    candidates for which MinHash finds, numbers column by column, where all that is no number is the same.

    Of rows that are alike one stays: one of the test part, else of the validation part, else the first; and all that go
    are like one that stays. A training row that is like a test row is a copy whatever its target; within a part rows of
    other classes stay.

    Keys:
        action: drop leaves out every copy.
        parts: the parts whose rows may be dropped.
        similarity: texts: least Jaccard index of the runs of characters of two.
        shingle: texts: characters of a run.
        bits: images: so many of the 64 bits of two hashes may differ.
        correlation: images: least correlation of the pixels of two, at 32 x 32 in grey.
        tolerance: numbers: by so many standard deviations of the training part a column may differ.
    """

    libraries: ClassVar[tuple[str, ...]] = ("datasketch", "imagehash", "pillow", "scipy")
    language: ClassVar[bool] = True

    def __init__(
        self,
        *,
        action: Literal["report", "drop"] = "report",
        parts: Repaired = ("train",),
        similarity: Share = 0.8,
        shingle: Annotated[int, Field(ge=1, le=20)] = 5,
        bits: Annotated[int, Field(ge=0, le=16)] = 6,
        correlation: Share = 0.99,
        tolerance: Annotated[float, Field(gt=0, le=1)] = 0.001,
    ) -> None:
        self.action = action
        self.parts = parts
        self.similarity = similarity
        self.shingle = shingle
        self.bits = bits
        self.correlation = correlation
        self.tolerance = tolerance

    def examine(self, data: Examined) -> tuple[Finding, ...]:
        likeness, how = self._likeness(data)
        classes = data.target.task == "classification"
        label = data.target.values if classes else np.zeros(data.table.rows, dtype=np.int64)
        found = copies(likeness, data, self.parts, label)
        if self.action == "report":
            found = _not_exact(found, likeness.item)
        told = findings("near_duplicates", f"{how} as", found.found, data, self.action, self.parts)
        return (*told, *_unlike(found, data, how))

    def _likeness(self, data: Examined) -> tuple[Likeness, str]:
        """Which rows are alike, and how, in words."""
        table = data.table
        if table.images is not None:
            items, first = _numbered(exact_items(data, tuple(reading.name for reading in data.readings)))
            known = np.intersect1d(data.train, first)
            places = np.searchsorted(first, known) if len(known) else np.arange(len(first))
            images = table.images if len(first) == table.rows else table.images[first]
            pairs, similarity = image_hashes.alike(images, self.bits, self.correlation, places)
            return Likeness(items, pairs, similarity), "nearly the same (by image)"
        texts = [f for f in data.features.values() if isinstance(f, Text) and (f.free or _is_text(data, f.origin))]
        if texts:
            items, different = _joined(texts)
            seed = derived_seed(data.seed, "near_duplicates") % 2**32
            pairs, similarity = shingles.alike(different, self.shingle, self.similarity, seed)
            return Likeness(items, pairs, similarity), "nearly the same (by text)"
        items, first = _numbered(exact_items(data))
        return Likeness(items, *self._near_numbers(data, first)), "nearly the same (by numbers)"

    def _near_numbers(self, data: Examined, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of these rows (by their places) that are the same but for small differences of numbers."""
        values, same = _scaled(data)
        values = values[rows]
        # Values that all lie further apart than the tolerance, as whole numbers do, must be the same.
        apart = np.array([_gap(column) > self.tolerance for column in values.T], dtype=bool)
        found = near_rows(values[:, ~apart], _grouped([*same[rows].T, *values[:, apart].T]), self.tolerance)
        differ = np.abs(values[found[:, 0]] - values[found[:, 1]]).max(axis=1, initial=0.0)
        return found, 1 - differ  # in standard deviations, of which the tolerance is at most one


def _is_text(data: Examined, name: str) -> bool:
    return any(reading.name == name and reading.kind == "text" for reading in data.readings)


def _numbered(items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The items in ascending order of their first rows, and those rows."""
    _, first, numbered = np.unique(items, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[numbered.ravel()], first[order]


def _joined(texts: list[Text]) -> tuple[np.ndarray, list[str]]:
    """int64 [rows], and the different texts that they number: all text columns, in lower case, single spaces."""
    tidied = [[" ".join(word.lower().split()) for word in text.words] + [""] for text in texts]  # -1: missing
    numbers: dict[str, int] = {}
    rows = zip(*(text.codes.tolist() for text in texts), strict=True)
    items = [
        numbers.setdefault("\n".join(words[code] for words, code in zip(tidied, codes, strict=True)), len(numbers))
        for codes in rows
    ]
    return np.array(items, dtype=np.int64), list(numbers)


def _scaled(data: Examined) -> tuple[np.ndarray, np.ndarray]:
    """Numbers, float64 [rows, columns], in standard deviations of the training part, 0 where missing; and what must be
    the same, int64 [rows, columns]: words, and which numbers are missing."""
    numbers: list[np.ndarray] = []
    same: list[np.ndarray] = [np.zeros(data.table.rows, dtype=np.int64)]
    found: Mapping[str, Numeric | Text] = {n: f for n, f in data.features.items() if isinstance(f, (Numeric, Text))}
    for feature in found.values():
        if isinstance(feature, Text):
            same.append(feature.codes)
        elif feature.binary:
            same.append(np.nan_to_num(feature.values, nan=-1.0).astype(np.int64))
        else:
            numbers.append(feature.values)
            same.append(np.isnan(feature.values).astype(np.int64))
    sequences = data.table.sequences
    if sequences is not None:
        flat = sequences.values.reshape(data.table.rows, -1).astype(np.float64)
        numbers += list(flat.T)
        same += [sequences.lengths, *np.isnan(flat).T.astype(np.int64)]
    values = np.stack(numbers, axis=1) if numbers else np.zeros((data.table.rows, 0))
    with np.errstate(all="ignore"):
        deviation = np.nanstd(values[data.train], axis=0) if values.shape[1] else np.ones(0)
    deviation = np.where(np.isfinite(deviation) & (deviation > 0), deviation, 1.0)
    return np.nan_to_num(values) / deviation, np.stack(same, axis=1)


def _gap(column: np.ndarray) -> float:
    """Between the two nearest different values."""
    return float(np.diff(np.unique(column)).min(initial=np.inf))


def _grouped(columns: list[np.ndarray]) -> np.ndarray:
    """int64 [rows]: the same number for rows that are the same in all columns."""
    group = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        different, codes = np.unique(column, return_inverse=True)
        if len(different) > 1:
            _, group = np.unique(group * len(different) + codes, return_inverse=True)
    return group


def near_rows(values: np.ndarray, group: np.ndarray, tolerance: float) -> np.ndarray:
    """int64 [pairs, 2], the smaller first: rows of one group that differ by at most the tolerance in each column.

    values: float64 [rows, columns]; group: int64 [rows]. Rows are laid on a grid whose cells are as wide as the
    tolerance, by the columns of the most different values; such rows lie in one cell or in two that touch.
    """
    rows, width = values.shape
    if not width or rows < 2:
        return np.zeros((0, 2), dtype=np.int64)
    distinct = [len(np.unique(values[:SAMPLED, column])) for column in range(width)]
    chosen = np.argsort(distinct, kind="stable")[::-1][:GRID]
    cells = np.clip(np.floor(values[:, chosen] / tolerance), -(2.0**62), 2.0**62).astype(np.int64).astype(np.uint64)
    # A cell's name is linear in its place, modulo 2**64: that of a neighbour is a constant away. Names that two cells
    # share cost a comparison.
    names = cells @ ODD[: len(chosen)] + group.astype(np.uint64) * ODD[-1]
    order = np.argsort(names, kind="stable")
    ordered = names[order]
    found, count = [np.zeros(0, dtype=np.int64)], 0
    for step in product((-1, 0, 1), repeat=len(chosen)):
        if step < (0,) * len(chosen):  # the pair is met from its other row
            continue
        away = names + np.array(step, dtype=np.int64).astype(np.uint64) @ ODD[: len(chosen)]
        begins, ends = (np.searchsorted(ordered, away, side) for side in ("left", "right"))
        for one, other in _beside(begins, ends):
            other = order[other]
            good = (one < other) if not any(step) else (one != other)
            good &= group[one] == group[other]
            one, other = one[good], other[good]
            good = (np.abs(values[one] - values[other]) <= tolerance).all(axis=1)
            found.append(np.minimum(one, other)[good] * rows + np.maximum(one, other)[good])
            count += len(found[-1])
            _refuse_many(count, tolerance)
    codes = np.unique(np.concatenate(found))
    return np.stack([codes // rows, codes % rows], axis=1)


def _beside(begins: np.ndarray, ends: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(row, place) for each place from begins[row] to before ends[row], some millions at a time."""
    sizes = ends - begins
    batch = np.cumsum(sizes) // TOGETHER
    for rows in np.split(np.arange(len(sizes)), np.flatnonzero(np.diff(batch)) + 1):
        counted = sizes[rows]
        one = np.repeat(rows, counted)
        within = np.arange(len(one)) - np.repeat(np.cumsum(counted) - counted, counted)
        yield one, np.repeat(begins[rows], counted) + within


def _refuse_many(count: int, tolerance: float) -> None:
    if count > MOST_PAIRS:
        raise DataError(
            f"data.quality: near_duplicates finds more than {MOST_PAIRS:,} pairs of rows that differ by at most "
            f"{tolerance:g} deviations: with so few columns that says nothing. Set a smaller one, or take it away."
        )


def _not_exact(found: Copies, item: np.ndarray) -> Copies:
    """Without rows that are exactly like the one that stays."""
    return Copies(
        tuple(copy for copy in found.found if item[copy.row] != item[copy.of]),
        tuple(pair for pair in found.unlike if item[pair[0]] != item[pair[1]]),
    )


def _unlike(found: Copies, data: Examined, how: str) -> list[Finding]:
    """Rows of one part that are alike and have different classes: told, never dropped."""
    if not found.unlike:
        return []
    rows = np.unique(np.array(found.unlike, dtype=np.int64))
    return [
        Finding(
            "near_duplicates",
            f"{len(rows):,} rows are {how} as another of their part, and of different classes: {data.named(rows)}. "
            "They stay; one class of each may be wrong.",
            rows=rows,
            sure=np.full(len(rows), 0.5),
            measured={
                "in_parts": data.count(rows),
                "pairs": [[int(data.source_rows[row]) for row in pair] for pair in found.unlike[:1000]],
            },
        )
    ]


__all__ = ["NearDuplicates"]
