"""What the data room hands on: shapes, parts, the prepared data set, what was seen in the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

Task = Literal["classification", "regression", "language_modelling", "masked_language_modelling"]

LANGUAGE: tuple[Task, ...] = ("language_modelling", "masked_language_modelling")
CODES = ("categories", "tokens", "lengths")  # kinds of input that are int64
IGNORED = -100  # a position of a language target at which nothing is asked (torch's ignore_index)


@dataclass(frozen=True)
class Input:
    """One tensor of a batch. `shape` is that of one row.

    kind "table": float32 [columns]; "image": float32 [channels, height, width];
    "categories": int64 [columns], codes for embeddings, `cardinalities[i]` codes in column i;
    "tokens": int64 [length], `cardinalities[0]` codes in all; the rest of a shorter text is `padding`;
    "sequence": float32 [length, channels], the rest of a shorter one is 0;
    "lengths": int64 [], steps of the sequence beside it, where they differ from row to row.
    """

    kind: Literal["table", "image", "categories", "tokens", "sequence", "lengths"]
    shape: tuple[int, ...]
    cardinalities: tuple[int, ...] = ()
    padding: int = 0


@dataclass(frozen=True)
class Shapes:
    """What a model is built from. A model is called with one tensor per input, in this order.

    It returns float32 [rows, outputs]: a logit per class, or a value per target (of a forecast: a value per step
    of the horizon). Two classes are two logits. Of a language task it returns float32 [rows, length, outputs], a
    logit for each of `outputs` tokens at each position: what comes next, or what was there before it was masked.
    """

    task: Task
    inputs: tuple[Input, ...]
    outputs: int

    @property
    def is_language(self) -> bool:
        """Whether the target is a token at each position of the input."""
        return self.task in LANGUAGE

    def returned(self, rows: int) -> tuple[int, ...]:
        """The shape of what a model returns for so many rows."""
        return (rows, *(self.inputs[0].shape if self.is_language else ()), self.outputs)

    @property
    def features(self) -> int:
        """Numbers in one row of the first input (0 when it holds codes)."""
        return prod(self.inputs[0].shape) if self.inputs[0].kind not in CODES else 0

    @property
    def tokens(self) -> Input | None:
        """The text, when it is the only input."""
        return self.inputs[0] if len(self.inputs) == 1 and self.inputs[0].kind == "tokens" else None

    @property
    def sequence(self) -> tuple[int, int] | None:
        """(length, channels) when the first input is a sequence; "lengths" may follow it."""
        first = self.inputs[0]
        return (first.shape[0], first.shape[1]) if first.kind == "sequence" else None

    @property
    def categories(self) -> tuple[int, ...]:
        """Cardinalities of the categorical columns; empty when there are none."""
        return next((i.cardinalities for i in self.inputs if i.kind == "categories"), ())

    @property
    def image(self) -> tuple[int, int, int] | None:
        """(channels, height, width) when the first input is an image."""
        first = self.inputs[0]
        return (first.shape[0], first.shape[1], first.shape[2]) if first.kind == "image" else None


@dataclass(frozen=True)
class Rows:
    """One part of the data, memory-mapped.

    inputs: one array per input of Shapes, [rows, *shape], float32 or int64.
    target: int64 [rows] (class index), float32 [rows, outputs] (in the scaled units of training), or of a
        language task int64 [rows, length] (token, or IGNORED).
    source_rows: int64 [rows], the row's number in the source, from 0; -1 for a training row that data.balance made.
    """

    inputs: tuple[np.ndarray, ...]
    target: np.ndarray
    source_rows: np.ndarray

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class Column:
    """What was recognised about one column of the source."""

    name: str
    kind: Literal["numeric", "categorical", "boolean", "date", "image", "text", "sequence", "target", "dropped"]
    missing: int
    distinct: int
    note: str = ""  # why it was dropped, how a date is read, ...


@dataclass(frozen=True)
class Found:
    """What a check of data.quality found.

    rows: how many; first_rows: the surest of them, (number in the source, how sure from 0 to 1). measured: the numbers
    behind the sentence. repaired: what was done (dropped, relabelled, changed, column dropped) → how often.
    cure: what to write on the page about it; empty where nothing was left to do.
    """

    check: str
    action: str
    severity: Literal["high", "middle", "low"]
    sentence: str
    rows: int = 0
    first_rows: tuple[tuple[int, float], ...] = ()
    columns: tuple[str, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    repaired: Mapping[str, int] = field(default_factory=dict)
    cure: str = ""


@dataclass(frozen=True)
class DataSummary:
    """What was seen in the data and done to it: data/summary.json."""

    source: str
    rows: int
    task: Task
    target: str
    columns: tuple[Column, ...]
    parts: Mapping[str, int]  # train, validation, test → rows
    class_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # part → class → rows
    balanced: str = ""  # the balancer of the training part, whose rows are then counted as they are after it
    checked: tuple[str, ...] = ()  # the checks of data.quality that ran
    quality: tuple[Found, ...] = ()  # what they found
    notes: tuple[str, ...] = ()  # sentences for the user, e.g. "3 rows have no target and were left out."

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> DataSummary:
        """What summary.json holds."""
        quality = (
            {**one, "columns": tuple(one["columns"]), "first_rows": tuple(map(tuple, one["first_rows"]))}
            for one in said.get("quality", ())
        )
        lists: dict[str, Any] = {
            "columns": tuple(Column(**column) for column in said["columns"]),
            "checked": tuple(said.get("checked", ())),
            "quality": tuple(Found(**one) for one in quality),
            "notes": tuple(said["notes"]),
        }
        return cls(**{**said, **lists})


@dataclass(frozen=True)
class Dataset:
    """A prepared data set: folder of the store, its content key, and the three parts.

    target_mean, target_scale: float64 [outputs]; a prediction p is p * target_scale + target_mean in
    the user's units (0 and 1 for classification).
    """

    folder: Path
    key: str
    shapes: Shapes
    train: Rows
    validation: Rows
    test: Rows
    classes: tuple[str, ...]
    target_mean: np.ndarray
    target_scale: np.ndarray
    feature_names: tuple[str, ...]  # of the first table input, after the steps; empty for images
    summary: DataSummary
    reused: bool = False  # taken from the cache
    streamed: bool = False  # prepared just now without all of it in memory

    def user_units(self, values: np.ndarray) -> np.ndarray:
        """[rows, outputs] of training units → the user's units (regression)."""
        restored: np.ndarray = values * self.target_scale + self.target_mean
        return restored


PreprocessingState = dict[str, Any]  # JSON: what a fitted step saves
