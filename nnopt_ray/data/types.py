"""What the data room hands on: shapes, parts, the prepared data set, what was seen in the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Input:
    """One tensor of a batch. `shape` is that of one row.

    kind "table": float32 [columns]; "image": float32 [channels, height, width];
    "categories": int64 [columns], codes for embeddings, `cardinalities[i]` codes in column i.
    """

    kind: Literal["table", "image", "categories"]
    shape: tuple[int, ...]
    cardinalities: tuple[int, ...] = ()


@dataclass(frozen=True)
class Shapes:
    """What a model is built from. A model is called with one tensor per input, in this order.

    It returns float32 [rows, outputs]: a logit per class, or a value per target. Two classes are
    two logits.
    """

    task: Task
    inputs: tuple[Input, ...]
    outputs: int

    @property
    def features(self) -> int:
        """Numbers in one row of the first input (0 when there are only categories)."""
        return prod(self.inputs[0].shape) if self.inputs[0].kind != "categories" else 0

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
    target: int64 [rows] (class index) or float32 [rows, outputs] (in the scaled units of training).
    source_rows: int64 [rows], the row's number in the source, from 0.
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
    kind: Literal["numeric", "categorical", "boolean", "date", "image", "target", "dropped"]
    missing: int
    distinct: int
    note: str = ""  # why it was dropped, how a date is read, ...


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
    notes: tuple[str, ...] = ()  # sentences for the user, e.g. "3 rows have no target and were left out."


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

    def user_units(self, values: np.ndarray) -> np.ndarray:
        """[rows, outputs] of training units → the user's units (regression)."""
        restored: np.ndarray = values * self.target_scale + self.target_mean
        return restored


PreprocessingState = dict[str, Any]  # JSON: what a fitted step saves
