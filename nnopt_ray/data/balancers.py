"""The balancers, by imbalanced-learn (Lemaître, Nogueira & Aridas 2017): rows made, repeated or left out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data.balance import Balanced, Balancer, Training
from nnopt_ray.errors import DataError

Share = Annotated[float, Field(gt=0, le=1)]
Neighbors = Annotated[int, Field(ge=1)]


class _Enlarging(Balancer):
    """Brings each smaller class to `ratio` of the largest."""

    ratio: float

    def _wanted(self, counts: np.ndarray) -> dict[int, int]:
        """class → rows that it is to have, for those that are to grow."""
        aim = int(counts.max() * self.ratio)
        return {label: aim for label, count in enumerate(counts.tolist()) if 0 < count < aim}


class Over(_Enlarging):
    """Rows of the smaller classes repeated, drawn at random; for every kind of input.

    Keys:
        ratio: rows that each smaller class is to have, as a share of the largest's.
    """

    def __init__(self, *, ratio: Share = 1.0) -> None:
        self.ratio = ratio

    def balance(self, training: Training, seed: int) -> Balanced:
        from imblearn.over_sampling import RandomOverSampler

        rows = len(training.target)
        sampler = RandomOverSampler(sampling_strategy=self._wanted(training.counts), random_state=seed)
        sampler.fit_resample(np.arange(rows)[:, None], training.target)
        return Balanced(np.arange(rows), np.asarray(sampler.sample_indices_[rows:], dtype=np.int64))


class Under(Balancer):
    """Rows of the larger classes left out, drawn at random; for every kind of input.

    Keys:
        ratio: rows of the smallest class, as a share of what each larger one keeps.
    """

    def __init__(self, *, ratio: Share = 1.0) -> None:
        self.ratio = ratio

    def balance(self, training: Training, seed: int) -> Balanced:
        from imblearn.under_sampling import RandomUnderSampler

        counts = training.counts
        aim = int(counts[counts > 0].min() / self.ratio)
        wanted = {label: aim for label, count in enumerate(counts.tolist()) if count > aim}
        sampler = RandomUnderSampler(sampling_strategy=wanted, random_state=seed)
        sampler.fit_resample(np.arange(len(training.target))[:, None], training.target)
        return Balanced(np.sort(sampler.sample_indices_).astype(np.int64))


class Smote(_Enlarging):
    """Rows between a row and one of its nearest of the same class (SMOTE; Chawla, Bowyer, Hall & Kegelmeyer 2002).

    For tables of numbers; columns of two values, as one-hot ones, get values in between.

    Keys:
        ratio: rows that each smaller class is to have, as a share of the largest's.
        k_neighbors: nearest rows of the class that one of is drawn.
    """

    def __init__(self, *, ratio: Share = 1.0, k_neighbors: Neighbors = 5) -> None:
        self.ratio = ratio
        self.k_neighbors = k_neighbors

    def balance(self, training: Training, seed: int) -> Balanced:
        from imblearn.over_sampling import SMOTE

        x = _numbers(training, "smote")
        wanted = self._wanted(training.counts)
        _check_neighbors(training, wanted, self.k_neighbors, "smote")
        sampler = SMOTE(sampling_strategy=wanted, random_state=seed, k_neighbors=self.k_neighbors)
        return _made(training, *_resampled(sampler, x, training.target))


class SmoteNc(_Enlarging):
    """SMOTE for numbers beside categories (SMOTE-NC; Chawla et al. 2002, section 6.1).

    Numbers lie between those of two rows, a category is the most frequent one among the neighbors. The categories are
    those that `encode` with method: embedding made.

    Keys:
        ratio: rows that each smaller class is to have, as a share of the largest's.
        k_neighbors: nearest rows of the class that one of is drawn, and that vote for the categories.
    """

    def __init__(self, *, ratio: Share = 1.0, k_neighbors: Neighbors = 5) -> None:
        self.ratio = ratio
        self.k_neighbors = k_neighbors

    def balance(self, training: Training, seed: int) -> Balanced:
        from imblearn.over_sampling import SMOTENC

        kinds = training.kinds
        if kinds != ("table", "categories"):
            cure = "Write over or under."
            if kinds == ("table",):
                cure = "For numbers alone write smote; encode with method: embedding makes categories."
            raise DataError(
                f"data.balance: smotenc is for numbers beside categories, and a row is {_told(kinds)}. {cure}"
            )
        numbers, codes = training.arrays
        wanted = self._wanted(training.counts)
        _check_neighbors(training, wanted, self.k_neighbors, "smotenc")
        width = numbers.shape[1]
        places = list(range(width, width + codes.shape[1]))
        sampler = SMOTENC(places, sampling_strategy=wanted, random_state=seed, k_neighbors=self.k_neighbors)
        # float64 holds both a float32 and every code exactly.
        x = np.hstack([numbers.astype(np.float64), codes.astype(np.float64)])
        found, target = _resampled(sampler, x, training.target)
        rows = len(training.target)
        made = found[rows:, :width].astype(np.float32), found[rows:, width:].astype(np.int64)
        return Balanced(np.arange(rows), made=made, made_target=target[rows:])


class Adasyn(_Enlarging):
    """As SMOTE, with more new rows where the neighbors are of other classes (ADASYN; He, Bai, Garcia & Li 2008).

    The classes become even only nearly, as the rows made from each are rounded.

    Keys:
        ratio: rows that each smaller class is to have, as a share of the largest's.
        k_neighbors: nearest rows that are looked at.
    """

    def __init__(self, *, ratio: Share = 1.0, k_neighbors: Neighbors = 5) -> None:
        self.ratio = ratio
        self.k_neighbors = k_neighbors

    def balance(self, training: Training, seed: int) -> Balanced:
        from imblearn.over_sampling import ADASYN

        x = _numbers(training, "adasyn")
        wanted = self._wanted(training.counts)
        _check_neighbors(training, wanted, self.k_neighbors, "adasyn")
        sampler = ADASYN(sampling_strategy=wanted, random_state=seed, n_neighbors=self.k_neighbors)
        try:
            found = _resampled(sampler, x, training.target)
        except (RuntimeError, ValueError) as error:  # the only two that it raises of data that was checked
            raise DataError(
                f"data.balance: adasyn has nothing to go by ({' '.join(str(error).split())}). Write smote."
            ) from error
        return _made(training, *found)


class Tomek(Balancer):
    """Rows left out of Tomek links: two rows of different classes, each the other's nearest (Tomek 1976).

    It clears the border between classes and hardly changes their shares. For tables of numbers.

    Keys:
        remove: not_minority keeps the smallest class whole; majority takes from the largest alone; all takes both rows.
    """

    def __init__(self, *, remove: Literal["not_minority", "majority", "all"] = "not_minority") -> None:
        self.remove = remove

    def balance(self, training: Training, seed: int) -> Balanced:
        from imblearn.under_sampling import TomekLinks

        x = _numbers(training, "tomek")
        sampler = TomekLinks(sampling_strategy=self.remove.replace("_", " "))
        sampler.fit_resample(x, training.target)
        return Balanced(np.asarray(sampler.sample_indices_, dtype=np.int64))


def _told(kinds: tuple[str, ...]) -> str:
    names = {"table": "numbers", "image": "an image", "tokens": "a text", "sequence": "a sequence"}
    return " and ".join(names.get(kind, kind) for kind in kinds)


def _numbers(training: Training, name: str) -> np.ndarray:
    """The one input of a table of numbers, float32 [rows, columns]. Raises DataError where rows are other than that.

    Distances between the pixels of two images say little of what they show, and a mixture of them shows neither.
    """
    kinds = training.kinds
    if kinds == ("table",):
        return training.arrays[0]
    cure = "write over or under"
    if "categories" in kinds and set(kinds) <= {"table", "categories"}:
        cure = "encode the categories with method: one_hot, or " + ("write smotenc" if "table" in kinds else cure)
    raise DataError(
        f"data.balance: {name} measures distances between rows of numbers, and a row is {_told(kinds)}: {cure}."
    )


def _check_neighbors(training: Training, wanted: dict[int, int], k_neighbors: int, name: str) -> None:
    for label in wanted:
        rows = int(training.counts[label])
        if rows > k_neighbors:
            continue
        fewer = f"Set k_neighbors: {rows - 1}, or write over." if rows > 1 else "Write over."
        raise DataError(
            f"data.balance: {name} draws from {k_neighbors} neighbors of the same class, and the class "
            f"{training.classes[label]!r} has {rows} training row{'s' * (rows != 1)}. {fewer}"
        )


def _resampled(sampler: Any, x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(over="ignore", invalid="ignore"):  # what becomes infinite is refused by `balanced`
        found, labels = sampler.fit_resample(x, target)
    return np.asarray(found), np.asarray(labels, dtype=np.int64)


def _made(training: Training, found: np.ndarray, target: np.ndarray) -> Balanced:
    """imbalanced-learn gives the rows that were there, then those it made."""
    rows = len(training.target)
    return Balanced(np.arange(rows), made=(found[rows:].astype(np.float32),), made_target=target[rows:])
