"""The check `leaks`: columns that tell the target by themselves, as what is written down after the fact does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data.frame import Feature, Numeric, Text, yaml_word
from nnopt_ray.data.out_of_fold import draw, folds, groups_of
from nnopt_ray.data.quality import Check, Examined, Finding, Repair
from nnopt_ray.errors import DataError
from nnopt_ray.machine import derived_seed

MOST_ROWS = 10_000  # training rows that are looked at, drawn by lot
MOST_VALUES, FEWEST_ROWS = 2_000_000, 1_000  # of more values than this in all, fewer rows, but not below so many
FOLDS = 4
LEAF = 3  # rows of a leaf of the tree on one column
CERTAIN = 0.001  # of a link between missing values and the target, over all columns: the chance that there is none
SAME = 1 - 1e-9  # correlation of a column that is the target in other units


class Leaks(Check):
    """Columns that alone tell the target suspiciously well, those that are a copy of it, and those whose missing
    values tell it; judged on the training rows.

    A decision tree on the one column (of categories: what is most frequent there) is scored on the rows of a fold that
    it was not fitted on, as the predictive power score does (Wetschoreck et al. 2020). The score of classes is balanced
    accuracy with guessing at 0 and always right at 1; of amounts it is R². Free texts, images and sequences are not
    looked at. A column may rightly tell the target: ask whether its value is known when a prediction is needed.

    Keys:
        action: report; drop the columns.
        threshold: score from which on a column is suspicious.
        missing_threshold: the same of its missing values: by how much their share in a class differs from that
            elsewhere (Youden's J); of amounts R².
    """

    def __init__(
        self,
        *,
        action: Literal["report", "drop"] = "report",
        threshold: Annotated[float, Field(gt=0, le=1)] = 0.97,
        missing_threshold: Annotated[float, Field(gt=0, le=1)] = 0.5,
    ) -> None:
        self.action = action
        self.threshold = threshold
        self.missing_threshold = missing_threshold

    def examine(self, data: Examined) -> tuple[Finding, ...]:
        rows, seed = data.parts["train"], derived_seed(data.seed, "leaks")
        most = min(MOST_ROWS, max(FEWEST_ROWS, MOST_VALUES // max(1, len(data.readings))))
        thinned = len(rows) > most
        if thinned:
            rows = np.sort(draw(seed, "thinned").choice(rows, most, replace=False))
        target = data.target.values[rows]
        if len(np.unique(target)) < 2:
            return ()
        scored = Scored(data, rows, target, seed, thinned)
        found = []
        by_origin: dict[str, list[Feature]] = {}
        for feature in data.features.values():
            by_origin.setdefault(feature.origin, []).append(_of(feature, rows))
        for name, made in by_origin.items():
            finding = self._finding(data, scored, name, made, len(by_origin))
            if finding is not None:
                found.append(finding)
        return tuple(found)

    def _finding(self, data: Examined, scored: Scored, name: str, made: list[Feature], columns: int) -> Finding | None:
        measured: dict[str, float | int | bool | str] = {"rows": len(scored.rows)}
        target = data.target.name
        if scored.is_copy(made[0]):
            measured["copy"] = True
            told = f"Column '{name}' is a copy of the target '{target}'"
        elif (score := scored.score(made, self.threshold)) >= self.threshold:
            measured["score"] = score
            how = f"{scored.told(score)} on rows it was not learned from"
            told = f"Column '{name}' alone tells the target '{target}': {how}"
        else:
            gap, where = scored.missing(made[0], CERTAIN / columns)
            if gap < self.missing_threshold:
                return None
            measured["missing"] = gap
            told = f"Where column '{name}' has no value tells of the target '{target}'{where}"
        drawn = f" (of {len(scored.rows):,} training rows drawn by lot)" if scored.thinned else ""
        cure = f"data.ignore: [{yaml_word(name)}]  (unless it is known before the target is)"
        repairs = (Repair(-1, "column dropped", told, name),) if self.action == "drop" else ()
        return Finding(
            "leaks",
            f"{told}{drawn}.",
            severity="high",
            columns=(name,),
            measured=measured,
            repairs=repairs,
            cure="" if repairs else cure,
        )


@dataclass(frozen=True, eq=False)
class Scored:
    """The training rows that are looked at, and how well a column tells their target."""

    data: Examined
    rows: np.ndarray
    target: np.ndarray
    seed: int
    thinned: bool

    @property
    def classes(self) -> int:
        """How many the target has; 0 of amounts."""
        return len(self.data.target.classes)

    def is_copy(self, feature: Feature) -> bool:
        """Whether each value stands for one class and each class for one value; or it is the amount in other units."""
        if self.classes:
            values = feature.values if isinstance(feature, Numeric) else _codes(feature)
            if np.isnan(values).any():
                return False
            pairs = len(np.unique(np.stack([values, self.target]), axis=1).T)
            return pairs == len(np.unique(values)) == len(np.unique(self.target))
        if not isinstance(feature, Numeric) or np.isnan(feature.values).any() or np.ptp(feature.values) == 0:
            return False
        scaled = [(x - x.mean()) / (np.abs(x - x.mean()).max() or 1.0) for x in (feature.values, self.target)]
        return bool(abs(np.corrcoef(*scaled)[0, 1]) >= SAME)

    @cached_property
    def fold(self) -> np.ndarray | None:
        """int64 [rows]; None where there are fewer groups than folds."""
        labels = self.target if self.classes else np.zeros(len(self.target), dtype=np.int64)
        try:
            return folds(labels, groups_of(self.data, self.rows), FOLDS, self.seed)
        except DataError:
            return None

    def score(self, made: list[Feature], least: float = -np.inf) -> float:
        """0 is guessing, 1 is always right; on rows of a fold by what was learned from the others.

        -inf: not scored, or less than `least`, which most columns are known to be after the first fold.
        """
        text = made[0]
        if self.fold is None or (isinstance(text, Text) and text.free):
            return -np.inf
        said = self.target.astype(np.float64)  # as if the folds to come were all right
        found = 1.0
        for number in range(FOLDS):
            held = self.fold == number
            said[held] = self._of_text(text, held) if isinstance(text, Text) else self._of_numbers(made, held)
            found = self._scored(said)
            if found < least:
                return -np.inf
        return found

    def _scored(self, said: np.ndarray) -> float:
        """scikit-learn's balanced_accuracy_score(adjusted=True), or r2_score."""
        if not self.classes:
            spread = ((self.target - self.target.mean()) ** 2).sum()
            return float(1 - ((said - self.target) ** 2).sum() / spread)
        there = np.unique(self.target)
        recall = np.mean([(said[self.target == label] == label).mean() for label in there])
        return float((recall - 1 / len(there)) / (1 - 1 / len(there)))

    def _of_numbers(self, made: list[Feature], held: np.ndarray) -> np.ndarray:
        from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

        matrix = np.stack([feature.values for feature in made if isinstance(feature, Numeric)], axis=1)
        matrix = np.clip(matrix, -1e30, 1e30)  # trees work in float32
        random = derived_seed(self.seed, "tree") % 2**32
        tree = (
            DecisionTreeClassifier(min_samples_leaf=LEAF, class_weight="balanced", random_state=random)
            if self.classes
            else DecisionTreeRegressor(min_samples_leaf=LEAF, random_state=random)
        )
        return np.asarray(tree.fit(matrix[~held], self.target[~held]).predict(matrix[held]), dtype=np.float64)

    def _of_text(self, text: Text, held: np.ndarray) -> np.ndarray:
        """Of each category the class that is most over-represented there, or the mean; of new ones a guess."""
        codes = text.codes + 1  # missing is a category
        learned, size = ~held, len(text.words) + 1
        if not self.classes:
            sums = np.bincount(codes[learned], weights=self.target[learned], minlength=size)
            counts = np.bincount(codes[learned], minlength=size)
            mean = np.where(counts > 0, sums / np.maximum(counts, 1), self.target[learned].mean())
            return np.asarray(mean[codes[held]])
        counted = np.zeros((size, self.classes))
        np.add.at(counted, (codes[learned], self.target[learned]), 1.0)
        shares = counted / np.maximum(counted.sum(axis=0), 1)
        shares[counted.sum(axis=1) == 0] = counted.sum(axis=0)
        return np.asarray(shares.argmax(axis=1)[codes[held]], dtype=np.float64)

    def told(self, score: float) -> str:
        if not self.classes:
            return f"R² {score:.3f}"
        guess = 1 / len(np.unique(self.target))
        return f"balanced accuracy {guess + score * (1 - guess):.3f}, where guessing has {guess:.3g},"

    def missing(self, feature: Feature, certain: float) -> tuple[float, str]:
        """How much the missing values tell, and of what; 0 where it may be chance (`certain`: that of being so)."""
        from scipy import stats

        gaps = np.isnan(feature.values if isinstance(feature, Numeric) else _codes(feature))
        if gaps.all() or not gaps.any():
            return 0.0, ""
        if not self.classes:
            found = stats.pearsonr(gaps.astype(np.float64), self.target)
            share = float(found.statistic**2)
            return (share, f" (R² {share:.3f})") if found.pvalue < certain else (0.0, "")
        best, said = 0.0, ""
        for label in np.unique(self.target):
            of_class = self.target == label
            inside, outside = gaps[of_class].mean(), gaps[~of_class].mean()
            if abs(inside - outside) > best:
                counts = [[(gaps & one).sum(), (~gaps & one).sum()] for one in (of_class, ~of_class)]
                if stats.fisher_exact(counts).pvalue < certain:
                    best = float(abs(inside - outside))
                    name = self.data.target.classes[int(label)]
                    said = f" (missing in {inside:.1%} of the class '{name}' and in {outside:.1%} of the others)"
        return best, said


def _of(feature: Feature, rows: np.ndarray) -> Feature:
    """The feature of these rows."""
    if isinstance(feature, Numeric):
        return replace(feature, values=feature.values[rows])
    assert isinstance(feature, Text)  # the other kinds are made by steps
    return replace(feature, codes=feature.codes[rows])


def _codes(feature: Feature) -> np.ndarray:
    """float64 [rows], NaN where missing."""
    assert isinstance(feature, Text)
    return np.where(feature.codes < 0, np.nan, feature.codes)


__all__ = ["Leaks"]
