"""What the steps work on: features in columns, and the image.

A feature is one of three: Numeric (floats, NaN where missing), Text (words behind codes, -1 where
missing) and Codes (indices for an embedding, never missing). Only the step `encode` makes Codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from nnopt_ray.data.table import IMAGE, hint, quoted
from nnopt_ray.data.types import Input
from nnopt_ray.errors import DataError


@dataclass(frozen=True, eq=False)
class Numeric:
    """values: float64 [rows], NaN where missing. binary: it holds only 0 and 1 (a boolean, an indicator, one-hot)."""

    values: np.ndarray
    origin: str  # the source's column it was made from
    binary: bool = False


@dataclass(frozen=True, eq=False)
class Text:
    """codes: int64 [rows] into words, -1 where missing. The order of words means nothing."""

    codes: np.ndarray
    words: tuple[str, ...]
    origin: str


@dataclass(frozen=True, eq=False)
class Codes:
    """values: int64 [rows], each in 0..cardinality-1; code 0 stands for every category not met in training."""

    values: np.ndarray
    cardinality: int
    origin: str


Feature = Numeric | Text | Codes


@dataclass(frozen=True, eq=False)
class Frame:
    """Features by name, in order, and the image [rows, channels, height, width].

    For messages: `dropped` says why a source column or feature is no longer here, `doubts` what is odd about
    one that is.
    """

    features: Mapping[str, Feature]
    image: np.ndarray | None = None
    dropped: Mapping[str, str] = field(default_factory=dict)
    doubts: Mapping[str, str] = field(default_factory=dict)

    def with_features(self, features: Mapping[str, Feature]) -> Frame:
        return replace(self, features=features)

    def select(self, columns: Iterable[str] | None, step: str) -> tuple[list[str], bool]:
        """The features that `columns` names (all, when None), and whether the image is among them.

        A name is a feature or a source column, which stands for all that was made from it. Raises
        DataError for a name that is neither.
        """
        if columns is None:
            return list(self.features), self.image is not None
        chosen: list[str] = []
        with_image = False
        known = list(dict.fromkeys([*(feature.origin for feature in self.features.values()), *self.features]))
        for name in columns:
            found = [key for key, feature in self.features.items() if name in (key, feature.origin)]
            if name == IMAGE and self.image is not None and not found:
                with_image = True
            elif found:
                chosen += [key for key in found if key not in chosen]
            elif name in self.dropped:
                raise DataError(
                    f"data.steps: {step} names the column '{name}', which is left out: {self.dropped[name]}. "
                    f"Take it off the step's columns."
                )
            else:
                raise DataError(f"data.steps: {step} names no column there is: '{name}'.{hint(name, known)}")
        return chosen, with_image


@dataclass(frozen=True)
class Layout:
    """One input of the network with the names of its columns (empty for an image)."""

    input: Input
    names: tuple[str, ...]


def assemble(frame: Frame) -> tuple[tuple[Layout, ...], tuple[np.ndarray, ...]]:
    """The inputs of the network in their order (image, table, categories), over all rows.

    Raises DataError, with the line to add to the page, for text that no step encoded and for missing
    values that no step filled; and for numbers that float32 cannot hold.
    """
    _refuse_text(frame)
    _refuse_missing(frame)
    layouts: list[Layout] = []
    arrays: list[np.ndarray] = []
    if frame.image is not None:
        with np.errstate(over="ignore"):
            image = np.ascontiguousarray(frame.image, dtype=np.float32)
        if not np.isfinite(image).all():
            raise DataError(
                "the images hold values that are no finite float32 numbers. Repair or leave out those rows."
            )
        layouts.append(Layout(Input("image", image.shape[1:]), ()))
        arrays.append(image)
    numeric = {name: feature for name, feature in frame.features.items() if isinstance(feature, Numeric)}
    if numeric:
        with np.errstate(over="ignore"):
            table = np.stack([feature.values for feature in numeric.values()], axis=1).astype(np.float32)
        large = [name for name, values in zip(numeric, table.T, strict=True) if not np.isfinite(values).all()]
        if large:
            raise DataError(
                f"numbers in {quoted(large)} are too large for float32 (3.4e38). "
                f"Add to data.steps: - {{type: scale, columns: [{', '.join(large)}]}}"
            )
        layouts.append(Layout(Input("table", (table.shape[1],)), tuple(numeric)))
        arrays.append(table)
    codes = {name: feature for name, feature in frame.features.items() if isinstance(feature, Codes)}
    if codes:
        cardinalities = tuple(feature.cardinality for feature in codes.values())
        layouts.append(Layout(Input("categories", (len(codes),), cardinalities), tuple(codes)))
        arrays.append(np.stack([feature.values for feature in codes.values()], axis=1).astype(np.int64))
    if not layouts:
        why = "".join(f" '{name}': {reason}." for name, reason in list(frame.dropped.items())[:8])
        cure = " A step that names a column (columns: [...]) keeps one that looks like an identifier." if why else ""
        raise DataError(f"no column is left to learn from.{why}{cure}")
    return tuple(layouts), tuple(arrays)


def _refuse_text(frame: Frame) -> None:
    texts = list(dict.fromkeys(feature.origin for feature in frame.features.values() if isinstance(feature, Text)))
    if texts:
        listed = ", ".join(_yaml_word(name) for name in texts)
        raise DataError(
            f"{_columns(texts)} text, which a network cannot read. "
            f"Add to data.steps: - {{type: encode, method: one_hot, columns: [{listed}]}}  "
            "or list what is not to be learned from in data.ignore."
            + "".join(f" '{name}' {frame.doubts[name]}." for name in texts[:8] if name in frame.doubts)
        )


def _refuse_missing(frame: Frame) -> None:
    missing: dict[str, int] = {}
    for feature in frame.features.values():
        if isinstance(feature, Numeric):
            count = int(np.isnan(feature.values).sum())
            if count:
                missing[feature.origin] = max(count, missing.get(feature.origin, 0))
    if missing:
        listed = ", ".join(_yaml_word(name) for name in missing)
        told = ", ".join(f"'{name}' ({count})" for name, count in list(missing.items())[:8])
        told += f" and {len(missing) - 8} more columns" if len(missing) > 8 else ""
        raise DataError(
            f"values are missing in {told}, and no step fills them. "
            f"Add to data.steps: - {{type: impute, strategy: median, columns: [{listed}]}}"
        )


def _columns(names: list[str]) -> str:
    return f"column {quoted(names)} is" if len(names) == 1 else f"columns {quoted(names)} are"


def _yaml_word(name: str) -> str:
    """A column's name as it can stand in a YAML flow list."""
    plain = name.replace("_", "").replace("-", "").isalnum() and not name[0].isdigit() and name[0] != "-"
    return name if plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
