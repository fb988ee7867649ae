"""From which probability on the positive one of two classes is predicted: aims, and what each cut gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

Share = Annotated[float, Field(gt=0, lt=1)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Cuts:
    """Every division of some rows that a threshold can make, the lowest threshold first.

    thresholds: float64 [cuts]; found, false_alarms: int64 [cuts], rows that are predicted positive there and are, or
    are not; positives, negatives: rows in all.
    """

    thresholds: np.ndarray
    found: np.ndarray
    false_alarms: np.ndarray
    positives: int
    negatives: int

    @property
    def precision(self) -> np.ndarray:
        """0 where nothing is predicted."""
        share: np.ndarray = self.found / np.maximum(self.found + self.false_alarms, 1)
        return share

    @property
    def recall(self) -> np.ndarray:
        share: np.ndarray = self.found / self.positives
        return share

    @property
    def f1(self) -> np.ndarray:
        mean: np.ndarray = 2 * self.found / (self.found + self.false_alarms + self.positives)
        return mean

    @property
    def balanced_accuracy(self) -> np.ndarray:
        mean: np.ndarray = (self.recall + 1 - self.false_alarms / self.negatives) / 2
        return mean


def cuts_of(probability: np.ndarray, positive: np.ndarray) -> Cuts | None:
    """All cuts of rows with these probabilities of the positive class, both [rows]; None where one class is missing.

    Between two probabilities that occur the threshold is 0.5, where that lies between them, else halfway.
    """
    positives = int(positive.sum())
    if positives in (0, len(positive)):
        return None
    order = np.argsort(-probability)
    sorted_, hits = probability[order], np.cumsum(positive[order])
    last = np.append(np.flatnonzero(np.diff(sorted_)), len(order) - 1)  # of the rows of one probability
    upper = sorted_[last]  # the lowest that is predicted positive
    below = np.append(upper[1:], 0.0)
    found, predicted = hits[last], last + 1
    if upper[0] < 1:  # a cut above all
        upper, below = np.append(1.0, upper), np.append(upper[0], below)
        found, predicted = np.append(0, found), np.append(0, predicted)
    halfway = (upper + below) / 2
    halfway = np.where((below < 0.5) & (upper >= 0.5), 0.5, halfway)
    thresholds = np.where(halfway > below, halfway, upper)  # neighbours among floats have nothing between them
    return Cuts(thresholds[::-1], found[::-1], (predicted - found)[::-1], positives, len(positive) - positives)


class Aim:
    """Base of all: `ranks` says which cut is better. Among equals the threshold nearest to 0.5 is taken."""

    def ranks(self, cuts: Cuts) -> tuple[np.ndarray, ...]:
        """Arrays [cuts], the larger the better; a later one decides where those before it are equal."""
        raise NotImplementedError

    def choose(self, cuts: Cuts) -> float:
        far = np.abs(cuts.thresholds - 0.5)
        best = np.lexsort((cuts.thresholds, far, *(-rank for rank in reversed(self.ranks(cuts)))))[0]
        return float(cuts.thresholds[best])

    def missed(self, cuts: Cuts) -> str:
        """A sentence where no cut gives what is asked for."""
        return ""


class At(Aim):
    """A threshold given by hand.

    Keys:
        probability: from which the positive class is predicted; 0.5 predicts the more probable class.
    """

    def __init__(self, *, probability: Share = 0.5) -> None:
        self.probability = probability

    def choose(self, cuts: Cuts) -> float:
        return self.probability


class F1(Aim):
    """The largest F1 of the positive class."""

    def __init__(self) -> None:
        pass

    def ranks(self, cuts: Cuts) -> tuple[np.ndarray, ...]:
        return (cuts.f1,)


class BalancedAccuracy(Aim):
    """The largest mean of the shares of both classes that are recognised; Youden's J is largest there too."""

    def __init__(self) -> None:
        pass

    def ranks(self, cuts: Cuts) -> tuple[np.ndarray, ...]:
        return (cuts.balanced_accuracy,)


class Precision(Aim):
    """The largest recall at which enough of the rows predicted positive are.

    Keys:
        at_least: the share of them that must be.
    """

    def __init__(self, *, at_least: Share) -> None:
        self.at_least = at_least

    def ranks(self, cuts: Cuts) -> tuple[np.ndarray, ...]:
        enough = cuts.precision >= self.at_least
        return np.where(enough, 1 + cuts.recall, cuts.precision), cuts.precision, cuts.recall

    def missed(self, cuts: Cuts) -> str:
        best = float(cuts.precision.max())
        if best >= self.at_least:
            return ""
        return f"No threshold gives a precision of {self.at_least:g} on the validation part; this one gives the most."


class Recall(Aim):
    """The largest precision at which enough of the positive rows are found.

    Keys:
        at_least: the share of them that must be.
    """

    def __init__(self, *, at_least: Share) -> None:
        self.at_least = at_least

    def ranks(self, cuts: Cuts) -> tuple[np.ndarray, ...]:
        return (cuts.recall >= self.at_least).astype(np.float64), cuts.precision, cuts.recall


class Cost(Aim):
    """The smallest cost of the rows that are predicted wrong.

    Keys:
        false_positive: of a row that is predicted positive and is not.
        false_negative: of a positive row that is not found.
    """

    def __init__(self, *, false_positive: Price = 1.0, false_negative: Price = 1.0) -> None:
        self.false_positive, self.false_negative = false_positive, false_negative

    def ranks(self, cuts: Cuts) -> tuple[np.ndarray, ...]:
        cost = self.false_positive * cuts.false_alarms + self.false_negative * (cuts.positives - cuts.found)
        return (-cost,)
