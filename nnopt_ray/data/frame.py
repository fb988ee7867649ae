"""What the steps work on: features in columns, and the image.

A feature is one of four: Numeric (floats, NaN where missing), Text (words behind codes, -1 where
missing), Codes (indices for an embedding, never missing; only the step `encode` makes them) and Tokens (a text
that the step `tokenize` has read).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from nnopt_ray.data.scaled_images import Array, ScaledImages, whole
from nnopt_ray.data.table import IMAGE, SEQUENCE, Sequences, hint, quoted
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
    """codes: int64 [rows] into words, -1 where missing. The order of words means nothing.

    free: these are texts to be read, not names of categories.
    """

    codes: np.ndarray
    words: tuple[str, ...]
    origin: str
    free: bool = False


@dataclass(frozen=True, eq=False)
class Codes:
    """values: int64 [rows], each in 0..cardinality-1; code 0 stands for every category not met in training."""

    values: np.ndarray
    cardinality: int
    origin: str


@dataclass(frozen=True, eq=False)
class Tokens:
    """flat: int32 [tokens] of all rows one behind the other; those of row r are flat[starts[r]:starts[r + 1]].

    starts: int64 [rows + 1]. Each token is in 0..cardinality-1. As an input a row has `length` tokens; framed: the
    first one is `first` ([CLS]), and `last` ([SEP]) follows the text.
    """

    flat: np.ndarray
    starts: np.ndarray
    length: int
    cardinality: int
    padding: int
    unknown: int
    first: int
    last: int
    mask: int
    framed: bool
    origin: str

    @property
    def sizes_inside(self) -> np.ndarray:
        """int64 [rows]: tokens of each row, without its frame."""
        sizes: np.ndarray = np.diff(self.starts)
        return sizes

    @property
    def sizes(self) -> np.ndarray:
        """int64 [rows]: tokens of each row with its frame."""
        return self.sizes_inside + 2 * self.framed

    def count_of(self, token: int, rows: np.ndarray) -> int:
        """How often a token stands in these rows."""
        before = np.concatenate([[0], np.cumsum(self.flat == token)])
        return int((before[self.starts[rows + 1]] - before[self.starts[rows]]).sum())

    def rows(self) -> np.ndarray:
        """int64 [rows, length]: cut at the end, or filled up."""
        filled = np.full((len(self.starts) - 1, self.length), self.padding, dtype=np.int64)
        room = self.length - 2 * self.framed
        for row, (start, end) in enumerate(zip(self.starts[:-1], self.starts[1:], strict=True)):
            inside = self.flat[start : min(end, start + room)]
            if self.framed:
                filled[row, 0], filled[row, len(inside) + 1] = self.first, self.last
            filled[row, self.framed : len(inside) + self.framed] = inside
        return filled


Feature = Numeric | Text | Codes | Tokens


class LazyFeatures(Mapping[str, Feature]):
    """Features of more rows than memory holds: each is made when it is asked for, and only the last column's are kept.

    light: the same features without rows, for what can be told without them.
    """

    def __init__(self, light: Mapping[str, Feature]) -> None:
        self.light = light
        self._last: tuple[str, dict[str, Feature]] = ("", {})

    @abstractmethod
    def group(self, origin: str) -> dict[str, Feature]:
        """All features made from a column of the source, with all rows."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> dict[str, Feature]:
        """All features, with the rows from start up to stop."""

    def __getitem__(self, name: str) -> Feature:
        origin = self.light[name].origin
        if name not in self._last[1]:
            self._last = ("", {})  # freed before the next is made
            self._last = (origin, self.group(origin))
        return self._last[1][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.light)

    def __len__(self) -> int:
        return len(self.light)


def light(features: Mapping[str, Feature]) -> Mapping[str, Feature]:
    """Features for what can be told without their rows, which may be left out."""
    return features.light if isinstance(features, LazyFeatures) else features


@dataclass(frozen=True, eq=False)
class Frame:
    """Features by name, in order, and the image [rows, channels, height, width] or the sequences of each row.

    scaled_images: the images instead, for steps that take them so.

    For messages: `dropped` says why a source column or feature is no longer here, `doubts` what is odd about
    one that is.
    """

    features: Mapping[str, Feature]
    image: np.ndarray | None = None
    dropped: Mapping[str, str] = field(default_factory=dict)
    doubts: Mapping[str, str] = field(default_factory=dict)
    sequences: Sequences | None = None
    scaled_images: ScaledImages | None = None

    @property
    def pictures(self) -> ScaledImages | None:
        """The images, whichever way they are held."""
        return self.scaled_images if self.image is None else ScaledImages(self.image)

    def images_by_rows(self) -> Frame:
        """The same with the images held as `scaled_images`."""
        return replace(self, image=None, scaled_images=self.pictures)

    def images_as_array(self) -> Frame:
        """The same with the images held as `image`."""
        images = self.pictures
        return replace(self, image=None if images is None else images.array(), scaled_images=None)

    @property
    def light(self) -> Mapping[str, Feature]:
        """The features for what can be told without their rows, which may be left out."""
        return light(self.features)

    def sequences_of(self, columns: Iterable[str] | None) -> Sequences | None:
        """The sequences, where `columns` names them (or nothing)."""
        return self.sequences if columns is None or SEQUENCE in columns else None

    def with_features(self, features: Mapping[str, Feature]) -> Frame:
        return replace(self, features=features)

    def select(self, columns: Iterable[str] | None, step: str) -> tuple[list[str], bool]:
        """The features that `columns` names (all, when None), and whether the image is among them.

        A name is a feature or a source column, which stands for all that was made from it; sequences are had by
        `sequences_of`. Raises DataError for a name that is none of these.
        """
        if columns is None:
            return list(self.features), self.pictures is not None
        chosen: list[str] = []
        with_image = False
        known = list(dict.fromkeys([*(feature.origin for feature in self.light.values()), *self.features]))
        for name in columns:
            found = [key for key, feature in self.light.items() if name in (key, feature.origin)]
            if name == IMAGE and self.pictures is not None and not found:
                with_image = True
            elif name == SEQUENCE and self.sequences is not None and not found:
                continue
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


@dataclass(frozen=True, eq=False)
class Gathered:
    """What is wrong with rows that are assembled some at a time: feature → missing values, and (origin) what has
    them; names of the features that float32 cannot hold."""

    missing: dict[str, int] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    large: dict[str, None] = field(default_factory=dict)

    def look(self, frame: Frame) -> None:
        for name, feature in frame.features.items():
            if isinstance(feature, Numeric):
                count = int(np.isnan(feature.values).sum())
                if count:
                    self.missing[name] = self.missing.get(name, 0) + count
                    self.origins[name] = feature.origin

    def refuse(self) -> None:
        """Raises DataError where something was wrong."""
        missing: dict[str, int] = {}
        for name, count in self.missing.items():
            missing[self.origins[name]] = max(count, missing.get(self.origins[name], 0))
        _refuse_missing(missing)
        if self.large:
            large = list(self.large)
            raise DataError(
                f"numbers in {quoted(large)} are too large for float32 (3.4e38). "
                f"Add to data.steps: - {{type: scale, columns: [{', '.join(large)}]}}"
            )


def assemble(frame: Frame, gathered: Gathered | None = None) -> tuple[tuple[Layout, ...], tuple[np.ndarray, ...]]:
    """The inputs of the network in their order (image, sequence, lengths, tokens, table, categories), over all rows.

    Raises DataError, with the line to add to the page, for text that no step encoded and for missing
    values that no step filled; and for numbers that float32 cannot hold. The last two are for `gathered` to raise
    where it is given, as these are not all rows then.
    """
    layouts, arrays = assemble_by_rows(frame, gathered)
    return layouts, whole(arrays)


def assemble_by_rows(frame: Frame, gathered: Gathered | None = None) -> tuple[tuple[Layout, ...], tuple[Array, ...]]:
    """The same, but the images are not looked at: rows of them are made, and refused, when they are taken."""
    _refuse_text(frame)
    seen = Gathered() if gathered is None else gathered
    seen.look(frame)
    if gathered is None:
        seen.refuse()
        _refuse_gaps(frame)
    layouts: list[Layout] = []
    arrays: list[Array] = []
    images = frame.pictures
    if images is not None:
        layouts.append(Layout(Input("image", images.shape[1:]), ()))
        arrays.append(images)
    if frame.sequences is not None:
        found = _sequence_inputs(frame.sequences)
        layouts += [layout for layout, _ in found]
        arrays += [array for _, array in found]
    for name, feature in frame.features.items():
        if isinstance(feature, Tokens):
            tokens = Input("tokens", (feature.length,), (feature.cardinality,), feature.padding)
            layouts.append(Layout(tokens, (name,)))
            arrays.append(feature.rows())
    numeric = {name: feature for name, feature in frame.features.items() if isinstance(feature, Numeric)}
    if numeric:
        with np.errstate(over="ignore"):
            table = np.stack([feature.values for feature in numeric.values()], axis=1).astype(np.float32)
        large = [name for name, values in zip(numeric, table.T, strict=True) if not np.isfinite(values).all()]
        seen.large.update(dict.fromkeys(large))
        if gathered is None:
            seen.refuse()
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


def _sequence_inputs(sequences: Sequences) -> list[tuple[Layout, np.ndarray]]:
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(sequences.values, dtype=np.float32)
    if not np.isfinite(values).all():
        raise DataError(
            "numbers in the sequences are too large for float32 (3.4e38). Add to data.steps: - {type: scale}"
        )
    made = [(Layout(Input("sequence", values.shape[1:]), sequences.channels), values)]
    if sequences.differ:
        made.append((Layout(Input("lengths", ()), ()), sequences.lengths.astype(np.int64)))
    return made


def _refuse_text(frame: Frame) -> None:
    texts = {feature.origin: feature for feature in frame.features.values() if isinstance(feature, Text)}
    cures = []
    for free, cure in ((True, "type: tokenize"), (False, "type: encode, method: one_hot")):
        named = ", ".join(yaml_word(name) for name, feature in texts.items() if feature.free == free)
        if named:
            cures.append(f"- {{{cure}, columns: [{named}]}}")
    if cures:
        kind = "free text" if all(feature.free for feature in texts.values()) else "text"
        raise DataError(
            f"{_columns(list(texts))} {kind}, which a network cannot read. "
            f"Add to data.steps: {'  and: '.join(cures)}  "
            "or list what is not to be learned from in data.ignore."
            + "".join(f" '{name}' {frame.doubts[name]}." for name in list(texts)[:8] if name in frame.doubts)
        )


def _refuse_gaps(frame: Frame) -> None:
    """Of sequences."""
    if frame.sequences is None:
        return
    gaps = np.isnan(frame.sequences.values).sum(axis=(0, 1))
    holey = [f"'{name}' ({n})" for name, n in zip(frame.sequences.channels, gaps, strict=True) if n]
    if holey:
        raise DataError(
            f"values are missing in the sequences, in {', '.join(holey[:8])}, and no step fills them. "
            "Add to data.steps: - {type: impute, columns: [sequence]}"
        )


def _refuse_missing(missing: Mapping[str, int]) -> None:
    """missing: column → missing values."""
    if missing:
        listed = ", ".join(yaml_word(name) for name in missing)
        told = ", ".join(f"'{name}' ({count})" for name, count in list(missing.items())[:8])
        told += f" and {len(missing) - 8} more columns" if len(missing) > 8 else ""
        raise DataError(
            f"values are missing in {told}, and no step fills them. "
            f"Add to data.steps: - {{type: impute, strategy: median, columns: [{listed}]}}"
        )


def _columns(names: list[str]) -> str:
    return f"column {quoted(names)} is" if len(names) == 1 else f"columns {quoted(names)} are"


def yaml_word(name: str) -> str:
    """A column's name as it can stand in a YAML flow list."""
    plain = name.replace("_", "").replace("-", "").isalnum() and not name[0].isdigit() and name[0] != "-"
    return name if plain else '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
