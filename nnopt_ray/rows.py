"""The section `data` of a page: where the rows come from, how they are divided and prepared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from nnopt_ray.section import Count, Fixed, InRoom, Section, by_default
from nnopt_ray.tables import Part

SPLIT_WHY = "trials can only be compared on the same rows"


class Window(Section):
    """Rows are points in time: windows of them are learned from, the target of the next ones is foretold."""

    length: Count = Field(description="time points that a forecast looks back on")
    horizon: Count = Field(default=1, description="time points that are foretold, an output of the network each")
    stride: Count = Field(default=1, description="time points from one window to the next")
    order: str = Field(description="the column that says when: dates, timestamps or numbers")
    by: tuple[str, ...] = Field(
        default=(), description="columns that tell several series apart; no window crosses them"
    )
    past_target: bool = Field(default=True, description="the target's own past is learned from")
    foretell: Literal["level", "change"] = Field(
        default="level",
        description="the target itself, or its change from the last time point that is seen, for series that rise or "
        "fall beyond what was learned from",
    )


class Fold(Section):
    """One fold of a cross-validation; a run writes it on the page of each."""

    number: Count = Field(description="which one, counted from 1; repeats follow one another")
    held_out: Literal["test", "validation"] = Field(
        default="test",
        description="the part that the fold is: test, which is measured once, the epoch being chosen by others; or "
        "validation, as in a search by cv_val_METRIC",
    )
    of: Annotated[Part, InRoom("fold")] = Field(description="how the rows are divided")


class Data(Section):
    """Where the rows come from, how they are divided and prepared."""

    source: Annotated[Part, InRoom("source"), Fixed(SPLIT_WHY)] = Field(description="where the rows come from")
    target: Annotated[str, Fixed(SPLIT_WHY)] = Field(
        default="target", description="the column to predict; language tasks need none"
    )
    task: Annotated[
        Literal["auto", "classification", "regression", "language_modelling", "masked_language_modelling"],
        Fixed(SPLIT_WHY),
    ] = Field(
        default="auto",
        description="what is predicted; auto tells classes from numbers by the target column; language_modelling: the "
        "next token of a text; masked_language_modelling: tokens that were masked (both need a tokenize step)",
    )
    masks: Annotated[Count, Fixed(SPLIT_WHY)] = Field(
        default=4, description="masked_language_modelling: how often the training text is there, masked differently"
    )
    ignore: Annotated[tuple[str, ...], Fixed(SPLIT_WHY)] = Field(default=(), description="columns not to learn from")
    split: Annotated[Part, InRoom("split"), Fixed(SPLIT_WHY)] = Field(
        default=by_default("random"),
        description="training, validation and test part; `given` where the source has a test set of its own (idx)",
    )
    fold: Annotated[Fold | None, Fixed("evaluate.folds goes through all of them")] = Field(
        default=None, description="one fold of the rows outside the test part, in place of the split's parts"
    )
    train_share: Annotated[Annotated[float, Field(gt=0, le=1)] | None, Fixed(SPLIT_WHY)] = Field(
        default=None, description="learn from this share of the training rows alone, classes in their shares"
    )
    window: Annotated[Window | None, Fixed(SPLIT_WHY)] = Field(
        default=None, description="forecasting: windows of time points, divided by time (`split: time` is the default)"
    )
    quality: Annotated[tuple[Part, ...], InRoom("check")] = Field(
        default=(),
        description="what is looked for in the data, behind the split: found, reported, and repaired in the training "
        "part where an action says so",
    )
    steps: Annotated[tuple[Part, ...], InRoom("step")] = Field(
        default=(), description="preprocessing in this order; what it needs to know is fitted on the training part only"
    )
    balance: Annotated[Part | None, InRoom("balance")] = Field(
        default=None,
        description="classification: even out the classes of the training part, after the steps; the draws follow "
        "from the seed of the split",
    )
    augment: Annotated[tuple[Part, ...], InRoom("augmentation")] = Field(
        default=(), description="changes by chance to the rows of each training batch, in this order, behind the steps"
    )
    scale_target: bool = Field(
        default=True,
        description="regression: train on a target of mean 0 and deviation 1; scores stay in the user's units",
    )

    @property
    def preparation(self) -> Data:
        """What the prepared data follows from: pages that are equal in it share it."""
        return self.model_copy(update={"augment": ()}) if self.augment else self
