"""Features that lie on disk: all rows of a few columns, or some rows of all columns, are in memory at a time.

The steps are those of data in memory. A step that is `by_column` learns from one feature after the other; what it makes
of a column is made again each time that a later step asks for it, which costs less than keeping it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnopt_ray.data.columns import Reading, features
from nnopt_ray.data.frame import Feature, Frame, Gathered, LazyFeatures, Numeric, Text, assemble
from nnopt_ray.data.steps import Step
from nnopt_ray.data.table import Table
from nnopt_ray.data.types import PreprocessingState

ROWS_AT_ONCE = 1 << 16


class Spooled(LazyFeatures):
    """The features of a table, each written to a file of `folder` as it is made."""

    def __init__(self, table: Table, readings: tuple[Reading, ...], folder: Path) -> None:
        self._files: dict[str, Path] = {}
        self._words: dict[str, tuple[str, ...]] = {}
        light: dict[str, Feature] = {}  # arrays of their own: a slice would keep the whole
        for reading in readings:
            for name, feature in features(table, (reading,)).items():
                assert isinstance(feature, (Numeric, Text))
                self._files[name] = folder / f"{len(light)}.raw"
                if isinstance(feature, Text):
                    feature.codes.tofile(self._files[name])
                    self._words[name] = feature.words
                    light[name] = replace(feature, codes=np.empty(0, np.int64), words=())
                else:
                    feature.values.tofile(self._files[name])
                    light[name] = replace(feature, values=np.empty(0))
        super().__init__(light)

    def without(self, names: Mapping[str, str]) -> Spooled:
        """These features but those of `names`."""
        fewer = object.__new__(Spooled)
        fewer._files = self._files
        fewer._words = {name: words for name, words in self._words.items() if name not in names}
        LazyFeatures.__init__(fewer, {name: each for name, each in self.light.items() if name not in names})
        return fewer

    def group(self, origin: str) -> dict[str, Feature]:
        return {name: self._read(name, 0, -1) for name, each in self.light.items() if each.origin == origin}

    def rows(self, start: int, stop: int) -> dict[str, Feature]:
        return {name: self._read(name, start, stop - start) for name in self.light}

    def _read(self, name: str, start: int, count: int) -> Feature:
        light = self.light[name]
        if isinstance(light, Text):
            codes = np.fromfile(self._files[name], np.int64, count, offset=8 * start)
            return replace(light, codes=codes, words=self._words[name])
        assert isinstance(light, Numeric)
        return replace(light, values=np.fromfile(self._files[name], np.float64, count, offset=8 * start))


class Changed(LazyFeatures):
    """What a step that is `by_column` makes of features."""

    def __init__(self, before: LazyFeatures, step: Step, state: PreprocessingState) -> None:
        self._before, self._step, self._state = before, step, state
        super().__init__(self._made(before.light))

    def _made(self, given: Mapping[str, Feature]) -> dict[str, Feature]:
        return dict(self._step.transform(Frame(given), self._state).features)

    def group(self, origin: str) -> dict[str, Feature]:
        # By their order: a name that another column's feature has, too, ends differently among all features.
        made = self._made(self._before.group(origin))
        names = [name for name, each in self.light.items() if each.origin == origin]
        return dict(zip(names, made.values(), strict=True))

    def rows(self, start: int, stop: int) -> dict[str, Feature]:
        return self._made(self._before.rows(start, stop))


class Pieces:
    """The inputs of all rows in their order, some rows at a time. Iterating raises DataError as `assemble` does."""

    def __init__(self, frame: Frame, rows: int) -> None:
        assert isinstance(frame.features, LazyFeatures)
        self._frame, self._features, self._rows = frame, frame.features, rows

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        gathered = Gathered()
        for start in range(0, self._rows, ROWS_AT_ONCE):
            some = self._features.rows(start, min(start + ROWS_AT_ONCE, self._rows))
            _, arrays = assemble(self._frame.with_features(some), gathered)
            if not gathered.missing:
                yield arrays
        gathered.refuse()


__all__ = ["Changed", "Pieces", "Spooled"]
