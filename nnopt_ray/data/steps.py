"""Preprocessing steps. Each learns from the training rows only and says what it learned as JSON."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data import quantiles
from nnopt_ray.data.frame import Codes, Feature, Frame, Numeric, Text, Tokens
from nnopt_ray.data.scaled_images import ScaledImages, Spread, spread_of, spreads
from nnopt_ray.data.table import Sequences, quoted
from nnopt_ray.data.target import Target
from nnopt_ray.data.types import PreprocessingState
from nnopt_ray.errors import DataError, PartError


class Step(ABC):
    """Contract of a step: `fit` learns, `transform` applies what was learned to any rows.

    `fit` sees the frame of all rows and the numbers of the training rows (int64 [rows]); it must look at
    no other. What it returns must survive JSON. `transform` gets that back, also in another process and
    on rows never seen, and returns a new frame with as many rows.

    reads_text: the columns it names are texts to be read, whatever they look like.
    by_column: it learns from each column of the source by itself, reading no two at once, and makes of each what it
        would make of it alone, of each row what it would make of it alone, in the same order; `transform` passes over
        what it learned of columns that are not there. Then data larger than memory can be prepared.
    images_by_rows: it takes images as `frame.scaled_images`, of which no scaled copy exists; without it they are the
        array `frame.image`. What a subclass takes it has to say anew.
    needs_target: it learns from the target, too, as its keys say. Then `fit_to_target` is called in place of `fit`, and
        `transform_training` in place of `transform` where it was fitted; it is prepared in memory.
    """

    reads_text: ClassVar[bool] = False
    by_column: ClassVar[bool] = False
    images_by_rows: ClassVar[bool] = False
    needs_target: bool = False

    @abstractmethod
    def fit(self, frame: Frame, rows: np.ndarray) -> PreprocessingState:
        """What was learned, as JSON."""

    @abstractmethod
    def transform(self, frame: Frame, state: PreprocessingState) -> Frame:
        """The frame after this step."""

    def fit_to_target(self, frame: Frame, rows: np.ndarray, target: Target) -> PreprocessingState:
        """What was learned, as JSON; target: of the training rows alone, in the order of `rows`."""
        raise PartError(f"data.steps: {type(self).__name__} says needs_target and has no fit_to_target.")

    def transform_training(
        self, frame: Frame, rows: np.ndarray, target: Target, state: PreprocessingState, seed: int
    ) -> Frame:
        """As `transform`, but no training row is told its own target; later steps learn from what comes out."""
        raise PartError(f"data.steps: {type(self).__name__} says needs_target and has no transform_training.")

    def fingerprint(self, base: Path) -> str:
        """A digest of the files that the step reads, paths being relative to `base`; empty when it reads none."""
        return ""

    def notes(self, frame: Frame, state: PreprocessingState, parts: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Sentences for the user about the frame after this step; parts: train, validation, test → rows."""
        return ()


class Impute(Step):
    """Fill missing values. Strategies as in scikit-learn's SimpleImputer.

    mean and median fill numbers and leave text alone (`encode` gives missing text a category of its
    own); most_frequent, the smallest of equally frequent, and constant fill both. Sequences are filled by
    channel, over all steps of the training part, and have no indicators.

    Keys:
        strategy: mean, median, most_frequent or constant.
        fill_value: for constant: a number fills numbers, a word fills text; without it 0 and "missing".
        indicator: add a 0/1 column NAME.missing for each filled column that lacks values in the training part.
        columns: the columns to fill, `sequence` for the sequences; all when left out.
    """

    by_column = True
    images_by_rows = True

    def __init__(
        self,
        *,
        strategy: Literal["mean", "median", "most_frequent", "constant"] = "mean",
        fill_value: float | str | None = None,
        indicator: bool = False,
        columns: tuple[str, ...] | None = None,
    ) -> None:
        self.strategy = strategy
        self.fill_value = fill_value
        self.indicator = indicator
        self.columns = columns

    def fit(self, frame: Frame, rows: np.ndarray) -> PreprocessingState:
        names, _ = frame.select(self.columns, "impute")
        fill: dict[str, float | str] = {}
        origins: dict[str, str] = {}
        for name in names:
            feature = frame.features[name]
            value = self._value(feature, rows)
            if value is not None:
                fill[name] = value
                if self.indicator and _missing(feature)[rows].any():
                    origins.setdefault(feature.origin, name)  # one for all that a date was made into
        taken = set(frame.features)
        indicators = {free_name(f"{origin}.missing", taken): name for origin, name in origins.items()}
        state: PreprocessingState = {"fill": fill, "indicators": indicators}
        sequences = frame.sequences_of(self.columns)
        if sequences is not None:
            state["sequence"] = [self._number(values, name) for name, values in _channels(sequences, rows)]
        return state

    def _value(self, feature: Feature, rows: np.ndarray) -> float | str | None:
        """What this feature is filled with; None when the strategy does not fit its kind."""
        if isinstance(feature, (Codes, Tokens)):
            return None
        if self.strategy == "constant":
            default: float | str = 0.0 if isinstance(feature, Numeric) else "missing"
            value = default if self.fill_value is None else self.fill_value
            return value if isinstance(value, str) == isinstance(feature, Text) else None
        if isinstance(feature, Text):
            if self.strategy != "most_frequent":
                return None
            codes = feature.codes[rows]
            counts = np.bincount(codes[codes >= 0], minlength=len(feature.words))
            if not counts.any():
                raise self._nothing(feature.origin)
            return min(word for word, count in zip(feature.words, counts, strict=True) if count == counts.max())
        return self._number(feature.values[rows], feature.origin)

    def _number(self, values: np.ndarray, name: str) -> float:
        """What is put for a missing number of these training values, some of which may be missing."""
        if self.strategy == "constant":
            return 0.0 if self.fill_value is None or isinstance(self.fill_value, str) else float(self.fill_value)
        values = values[~np.isnan(values)]
        if not len(values):
            raise self._nothing(name)
        if self.strategy == "mean":
            return float(np.mean(values))
        if self.strategy == "median":
            return float(np.median(values))
        found, counts = np.unique(values, return_counts=True)
        return float(found[np.argmax(counts)])

    def _nothing(self, name: str) -> DataError:
        return DataError(
            f"data.steps: impute with strategy {self.strategy} has nothing to learn '{name}' from: "
            "no training row has a value. Use strategy: constant, or list the column in data.ignore."
        )

    def transform(self, frame: Frame, state: PreprocessingState) -> Frame:
        features = dict(frame.features)
        for name, value in state["fill"].items():
            if name in features:
                features[name] = _filled(frame.features[name], value)
        for indicator, name in state["indicators"].items():
            if name not in frame.features:
                continue
            feature = frame.features[name]
            features[indicator] = Numeric(_missing(feature).astype(np.float64), feature.origin, binary=True)
        sequences = frame.sequences
        if "sequence" in state and sequences is not None:
            filled = np.where(np.isnan(sequences.values), np.array(state["sequence"]), sequences.values)
            sequences = replace(sequences, values=filled)
        return replace(frame, features=features, sequences=sequences)


def _missing(feature: Feature) -> np.ndarray:
    """bool [rows]"""
    if isinstance(feature, Codes):
        return np.zeros(len(feature.values), dtype=bool)
    assert not isinstance(feature, Tokens)  # fit gives no value for them
    gaps: np.ndarray = np.isnan(feature.values) if isinstance(feature, Numeric) else feature.codes < 0
    return gaps


def _filled(feature: Feature, value: float | str) -> Feature:
    gaps = _missing(feature)
    if isinstance(feature, Numeric):
        binary = feature.binary and value in (0.0, 1.0)
        return Numeric(np.where(gaps, float(value), feature.values), feature.origin, binary)
    assert isinstance(feature, Text)  # fit gives no value for codes
    words = feature.words if value in feature.words else (*feature.words, str(value))
    return Text(np.where(gaps, words.index(str(value)), feature.codes), words, feature.origin, feature.free)


class Scale(Step):
    """Shift and scale numbers: (x - center) / scale, as scikit-learn's StandardScaler, MinMaxScaler, RobustScaler;
    or put their ranks for them, as its QuantileTransformer.

    standard: mean 0, deviation 1. minmax: 0 to 1 over the training part (new rows may fall outside).
    robust: median 0, distance of the quartiles 1. quantile: the rank among the training rows, for columns of far
    values and skewed ones. What does not vary is only shifted. Missing values
    stay missing and are not learned from. Columns of 0 and 1 (booleans, indicators, one-hot) are left as
    they are unless named. Images are scaled by channel, over all pixels of the training part, and sequences
    over all of their steps.

    Keys:
        method: standard, minmax, robust or quantile.
        output: for quantile: normal, values of a normal distribution (when left out), or uniform, ranks of 0 to 1.
        n_quantiles: for quantile: ranks that are learned, 1000 when left out; between them it is interpolated.
        columns: the columns to scale, `image` for the images, `sequence` for the sequences; all of these when left out.
    """

    by_column = True
    images_by_rows = True

    def __init__(
        self,
        *,
        method: Literal["standard", "minmax", "robust", "quantile"] = "standard",
        output: quantiles.Output | None = None,
        n_quantiles: Annotated[int, Field(ge=2, le=100_000)] | None = None,
        columns: tuple[str, ...] | None = None,
    ) -> None:
        if method != "quantile" and (output or n_quantiles) is not None:
            raise DataError("data.steps: output and n_quantiles of scale go with method: quantile alone.")
        self.method = method
        self.output: quantiles.Output = output or "normal"
        self.n_quantiles = n_quantiles or 1000
        self.columns = columns

    def fit(self, frame: Frame, rows: np.ndarray) -> PreprocessingState:
        names, with_image = frame.select(self.columns, "scale")
        learned: dict[str, dict[str, Any]] = {}
        wrong: list[str] = []
        for name in names:
            feature = frame.features[name]
            if not isinstance(feature, Numeric):
                wrong.append(name)
            elif self.columns is not None or not feature.binary:
                values = feature.values[rows]
                values = values[~np.isnan(values)]
                if self.method == "quantile":
                    learned[name] = {"quantiles": quantiles.learned(values, self.n_quantiles), "output": self.output}
                else:
                    center, scale = self._learn(values)
                    learned[name] = {"center": center, "scale": scale}
        if wrong and self.columns is not None:
            raise DataError(
                f"data.steps: scale works on numbers, and {quoted(wrong)} holds categories. "
                "Take it off the step's columns, or put an encode step before."
            )
        state: PreprocessingState = {"columns": learned}
        if self.method == "quantile" and (with_image or frame.sequences_of(self.columns)):
            raise DataError(
                "data.steps: scale with method: quantile works on columns. Name them, and use another method for "
                "images and sequences."
            )
        images = frame.pictures
        if with_image and images is not None:
            assert self.method != "quantile"
            channels = [self._scaled_by(found) for found in spreads(images, rows, self.method)]
            state["image"] = {"center": [c for c, _ in channels], "scale": [s for _, s in channels]}
        sequences = frame.sequences_of(self.columns)
        if sequences is not None:
            channels = [self._learn(values[~np.isnan(values)]) for _, values in _channels(sequences, rows)]
            state["sequence"] = {"center": [c for c, _ in channels], "scale": [s for _, s in channels]}
        return state

    def _learn(self, values: np.ndarray) -> tuple[float, float]:
        """center and scale of these training values (float64 [rows], none missing)."""
        if not len(values):
            return 0.0, 1.0
        assert self.method != "quantile"
        return self._scaled_by(spread_of(values, self.method))

    def _scaled_by(self, found: Spread) -> tuple[float, float]:
        """center and scale; 1 for what does not vary."""
        eps = float(np.finfo(np.float64).eps)
        scale = found.spread
        if self.method == "standard":
            # Rounding leaves a constant column a deviation of about eps * mean; scikit-learn's bound
            # (_is_constant_feature) tells it from a real one.
            error = found.count * found.center * eps
            varies = found.spread > found.count * eps * found.spread + error * error
            scale = float(np.sqrt(found.spread))
        else:
            varies = found.spread >= 10 * eps  # scikit-learn's _handle_zeros_in_scale
        return found.center, scale if varies else 1.0

    def transform(self, frame: Frame, state: PreprocessingState) -> Frame:
        features = dict(frame.features)
        for name, learned in state["columns"].items():
            if name not in frame.features:
                continue
            feature = frame.features[name]
            assert isinstance(feature, Numeric)
            if "quantiles" in learned:
                ranks = quantiles.transformed(feature.values, learned["quantiles"], learned["output"])
                features[name] = Numeric(ranks, feature.origin)
                continue
            with np.errstate(over="ignore"):  # far outside the training part; the inputs are checked at the end
                features[name] = Numeric((feature.values - learned["center"]) / learned["scale"], feature.origin)
        image, images = frame.image, frame.scaled_images
        if "image" in state and image is not None:
            image = ScaledImages(image).scaled(**state["image"]).array()
        if "image" in state and images is not None:
            images = images.scaled(**state["image"])
        sequences = frame.sequences
        if "sequence" in state and sequences is not None:
            center, scale = (np.array(state["sequence"][key]) for key in ("center", "scale"))
            values = np.where(sequences.real[:, :, None], (sequences.values - center) / scale, 0.0)
            sequences = replace(sequences, values=values)
        return replace(frame, features=features, image=image, scaled_images=images, sequences=sequences)


def _channels(sequences: Sequences, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Each channel's name and its values at the steps that these rows have, float64 [steps], NaN where missing."""
    some = sequences.take(rows)
    there = some.real
    for number, name in enumerate(some.channels):
        yield name, some.values[:, :, number][there].astype(np.float64)


def free_name(name: str, taken: set[str]) -> str:
    """The name, with `_` added while another feature has it; it is taken from then on."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def as_text(feature: Feature) -> Text:
    """Numbers as words; whole numbers are written without a point."""
    if isinstance(feature, Text):
        return feature
    assert isinstance(feature, Numeric)
    gaps = np.isnan(feature.values)
    found, inverse = np.unique(feature.values[~gaps], return_inverse=True)
    codes = np.full(len(feature.values), -1, dtype=np.int64)
    codes[~gaps] = inverse
    words = tuple(str(int(value)) if value == np.floor(value) else repr(float(value)) for value in found)
    return Text(codes, words, feature.origin)
