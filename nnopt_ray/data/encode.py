"""The step that turns categories into numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data import target_encoding
from nnopt_ray.data.frame import Codes, Feature, Frame, Numeric, Text
from nnopt_ray.data.steps import Step, as_text, free_name
from nnopt_ray.data.target import Target
from nnopt_ray.data.types import PreprocessingState
from nnopt_ray.errors import DataError

MOST_COLUMNS = 2000  # that one step may make; beyond it a table of floats outgrows its use


class Encode(Step):
    """Turn categories into numbers. The categories are those of the training part, in sorted order.

    one_hot: a 0/1 column NAME=CATEGORY each; a category not met in training is all zeros.
    ordinal: one column of 0, 1, 2, ...; a category not met in training is -1.
    embedding: an index for the embedding tables of the network; 0 is every category not met in training.
    target: the mean of the target among the training rows of the category, drawn towards the mean of all, as
    scikit-learn's TargetEncoder: one column for numbers and for two classes (how often the second), NAME=CLASS for each
    of more. A training row's is learned from the folds that it is not in, all other rows' from the whole training
    part; a category not met in training has the mean of all.
    A missing value that occurs in training is a category of its own, the last one.

    Keys:
        method: one_hot, ordinal, embedding or target.
        min_count: categories with fewer training rows are treated as not met in training.
        smooth: for target: auto (when left out), by the variance within the category and among all rows; or a number,
            as many rows of the mean of all are added to each category.
        folds: for target: into how many folds the training rows are divided, by class and by the split's seed; 5 when
            left out.
        columns: the columns to encode, also numbers that are codes; when left out all text columns but free text.
    """

    by_column = True
    images_by_rows = True

    def __init__(
        self,
        *,
        method: Literal["one_hot", "ordinal", "embedding", "target"] = "one_hot",
        min_count: Annotated[int, Field(ge=1)] = 1,
        smooth: Literal["auto"] | Annotated[float, Field(ge=0, le=1e9)] | None = None,
        folds: Annotated[int, Field(ge=2, le=100)] | None = None,
        columns: tuple[str, ...] | None = None,
    ) -> None:
        if method != "target" and (smooth, folds) != (None, None):
            raise DataError("data.steps: smooth and folds of encode go with method: target alone.")
        self.method = method
        self.min_count = min_count
        self.smooth: target_encoding.Smooth = "auto" if smooth is None else smooth
        self.folds = folds or 5
        self.columns = columns
        self.needs_target = method == "target"

    def fit(self, frame: Frame, rows: np.ndarray) -> PreprocessingState:
        names, with_image = frame.select(self.columns, "encode")
        if with_image and self.columns is not None:
            raise DataError("data.steps: encode works on columns, not on images. Take `image` off the step's columns.")
        if self.columns is not None and frame.sequences_of(self.columns) is not None:
            raise DataError("data.steps: encode works on columns, not on sequences. Take `sequence` off its columns.")
        learned: dict[str, Any] = {}
        for name in names:
            feature = frame.features[name]
            named = self.columns is not None
            if (isinstance(feature, Text) and (named or not feature.free)) or (named and isinstance(feature, Numeric)):
                learned[name] = self._learn(as_text(feature), rows)
        made = sum(len(entry["categories"]) for entry in learned.values())
        if self.method == "one_hot" and made > MOST_COLUMNS:
            largest = max(learned, key=lambda name: len(learned[name]["categories"]))
            raise DataError(
                f"data.steps: one_hot would make {made} columns, {len(learned[largest]['categories'])} of them from "
                f"'{largest}'; {MOST_COLUMNS} are allowed. Use method: embedding or target, or a larger min_count."
            )
        return {"method": self.method, "columns": learned}

    def fit_to_target(self, frame: Frame, rows: np.ndarray, target: Target) -> PreprocessingState:
        state = self.fit(frame, rows)
        labels = target_encoding.labels(target)
        made = len(labels) * len(state["columns"])
        if made > MOST_COLUMNS:
            raise DataError(
                f"data.steps: encode with method: target would make {made} columns, one for each of {len(labels)} "
                f"classes and {len(state['columns'])} columns; {MOST_COLUMNS} are allowed. Use method: embedding, or "
                "name fewer columns."
            )
        for name, learned in state["columns"].items():
            positions = _positions(as_text(frame.features[name]), learned)[rows]
            learned["labels"] = list(labels)
            learned["means"] = target_encoding.learned(positions, _size(learned), target, self.smooth)
        return state

    def _learn(self, feature: Text, rows: np.ndarray) -> dict[str, Any]:
        counts = np.bincount(feature.codes[rows] + 1, minlength=len(feature.words) + 1)
        known = [word for word, count in zip(feature.words, counts[1:], strict=True) if count >= self.min_count]
        return {"categories": sorted(known), "missing": bool(counts[0] >= self.min_count)}

    def transform(self, frame: Frame, state: PreprocessingState) -> Frame:
        made = {
            name: _encoded(name, as_text(frame.features[name]), learned, state["method"])
            for name, learned in state["columns"].items()
            if name in frame.features
        }
        return _put(frame, made)

    def transform_training(
        self, frame: Frame, rows: np.ndarray, target: Target, state: PreprocessingState, seed: int
    ) -> Frame:
        fold = target_encoding.folds(target, self.folds, seed)
        made = {}
        for name, learned in state["columns"].items():
            feature = as_text(frame.features[name])
            positions = _positions(feature, learned)[rows]
            inside = target_encoding.out_of_fold(positions, _size(learned), target, self.smooth, fold)
            made[name] = _encoded(name, feature, learned, "target")
            for (_, encoded), numbers in zip(made[name], inside, strict=True):
                assert isinstance(encoded, Numeric)  # and made here, so that it may be written to
                encoded.values[rows] = numbers
        return _put(frame, made)


def _put(frame: Frame, made: Mapping[str, list[tuple[str, Feature]]]) -> Frame:
    """Features in the place of those that they were made of."""
    features: dict[str, Feature] = {}
    for name, feature in frame.features.items():
        if name in made:
            taken = (set(frame.features) | set(features)) - {name}
            features |= {free_name(key, taken): value for key, value in made[name]}
        else:
            features[name] = feature
    return frame.with_features(features)


def _size(learned: Mapping[str, Any]) -> int:
    return len(learned["categories"]) + bool(learned["missing"])


def _positions(feature: Text, learned: Mapping[str, Any]) -> np.ndarray:
    """int64 [rows]: the place of each row's category among those learned, a missing one last; -1 where not met."""
    categories: list[str] = learned["categories"]
    place = {word: position for position, word in enumerate(categories)}
    of_missing = len(categories) if learned["missing"] else -1
    # One more entry at the end: the code of missing values, -1, looks it up.
    by_code = np.array([place.get(word, -1) for word in feature.words] + [of_missing], dtype=np.int64)
    positions: np.ndarray = by_code[feature.codes]
    return positions


def _encoded(name: str, feature: Text, learned: Mapping[str, Any], method: str) -> list[tuple[str, Feature]]:
    positions = _positions(feature, learned)
    if method == "embedding":
        return [(name, Codes(positions + 1, _size(learned) + 1, feature.origin))]
    if method == "ordinal":
        return [(name, Numeric(positions.astype(np.float64), feature.origin))]
    if method == "target":  # the last mean is for -1
        return [
            (f"{name}={label}" if label else name, Numeric(np.array(means)[positions], feature.origin))
            for label, means in zip(learned["labels"], learned["means"], strict=True)
        ]
    labels = [*learned["categories"], "(missing)"] if learned["missing"] else learned["categories"]
    return [
        (f"{name}={label}", Numeric((positions == position).astype(np.float64), feature.origin, binary=True))
        for position, label in enumerate(labels)
    ]


__all__ = ["Encode"]
