"""The check `label_errors`: rows whose label a model that never saw it does not believe."""

from __future__ import annotations

import warnings
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data.out_of_fold import Model, Said, out_of_fold, told
from nnopt_ray.data.quality import Check, Examined, Finding, Repair
from nnopt_ray.errors import DataError
from nnopt_ray.machine import derived_seed

Filter = Literal[
    "prune_by_noise_rate",
    "prune_by_class",
    "both",
    "confident_learning",
    "predicted_neq_given",
    "low_normalized_margin",
    "low_self_confidence",
]
LISTED = 1000  # rows whose labels stand in summary.json
ROWS_OF = {"train": "training rows", "validation": "validation rows", "test": "test rows"}
SEVERE = 0.05  # share of a part from which on much is learned wrongly


class LabelErrors(Check):
    """Rows that seem mislabelled, by confident learning (Northcutt, Jiang & Chuang 2021), as cleanlab computes it.

    A model is fitted without a fold of the training rows and says how likely each class is for the rows of that fold,
    until all rows are judged; the page's steps are fitted anew each time, and under `split: grouped` a group is in one
    fold. A row is found where the model is confident of another class than the one given. Validation and test rows are
    judged by a model fitted on the training part and are reported on, never changed. Classes with fewer training rows
    than folds are left alone. Where classes overlap, rows in between are found that nobody mislabelled: believe it as
    far as the model is right about the labels.

    Keys:
        action: report; drop the rows; relabel them with the likeliest class.
        folds: parts that the training rows are divided into.
        model: linear (logistic regression, of texts on TF-IDF), boosted (gradient-boosted trees), or page: the page's
            own network and training, a network a fold, ranges at their first value.
        filter_by: which rows are taken for errors, as in cleanlab's find_label_issues.
        rank_by: how sure a finding is: 1 - p(given class), or (1 + p(likeliest other) - p(given)) / 2.
        threshold: findings less sure than this are left out.
        share: of the rows found, the share that counts, the surest first.
        most: share of the training rows beyond which the page is refused; a class of which more is found keeps its
            rows, as a rare class that the model does not know looks like that.
        judged: parts whose labels are judged; only rows of the training part are ever dropped or relabelled.
    """

    libraries: ClassVar[tuple[str, ...]] = ("cleanlab", "scipy")

    def __init__(
        self,
        *,
        action: Literal["report", "drop", "relabel"] = "report",
        folds: Annotated[int, Field(ge=2, le=50)] = 5,
        model: Model = "linear",
        filter_by: Filter = "low_self_confidence",
        rank_by: Literal["self_confidence", "normalized_margin"] = "self_confidence",
        threshold: Annotated[float, Field(ge=0, le=1)] = 0.0,
        share: Annotated[float, Field(gt=0, le=1)] = 1.0,
        most: Annotated[float, Field(gt=0, le=1)] = 0.2,
        judged: Annotated[tuple[Literal["train", "validation", "test"], ...], Field(min_length=1)] = ("train",),
    ) -> None:
        self.action = action
        self.folds = folds
        self.model: Model = model
        self.filter_by = filter_by
        self.rank_by = rank_by
        self.threshold = threshold
        self.share = share
        self.most = most
        self.judged = judged
        self.asks_network = model == "page"

    def examine(self, data: Examined) -> tuple[Finding, ...]:
        if data.target.task != "classification":
            raise DataError(
                f"data.quality: label_errors judges classes, and the target '{data.target.name}' is read as amounts. "
                "Take it off, or set data.task: classification."
            )
        train, left_alone = self._judged(data)
        labels = data.target.values
        if len(np.unique(labels[train])) < 2:
            return ()
        seed = derived_seed(data.seed, "label_errors")
        found = []
        for part in self.judged:
            if part == "train":
                rows, said = train, out_of_fold(data, train, self.folds, self.model, seed)
            else:
                rows = data.parts[part][np.isin(labels[data.parts[part]], np.unique(labels[train]))]
                if not len(rows):
                    continue
                said = told(data, train, rows, self.model, derived_seed(seed, "all"))
            picked, sure = self.picked(labels[rows], said)
            if len(picked):
                found.append(self._finding(data, part, rows, said, picked, sure, left_alone))
        return tuple(found)

    def _judged(self, data: Examined) -> tuple[np.ndarray, list[str]]:
        """The training rows of classes with enough of them, and the names of the other classes."""
        train, target = data.parts["train"], data.target
        counts = np.bincount(target.values[train], minlength=len(target.classes))
        few = [name for name, count in zip(target.classes, counts, strict=True) if 0 < count < self.folds]
        return train[counts[target.values[train]] >= self.folds], few

    def picked(self, labels: np.ndarray, said: Said) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the rows found, the surest first, and how sure."""
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores

        there = np.flatnonzero(said.known)
        if len(np.unique(labels[there])) < 2:
            return there[:0], np.zeros(0)
        # cleanlab takes classes for 0 to K-1, each with rows.
        present, given = np.unique(labels[there], return_inverse=True)
        shares = said.probabilities[there][:, present]
        # Rows that are sure of a class none of these rows has are no error among these.
        shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of classes too small for it to flag rows in
            wrong = find_label_issues(given, shares, filter_by=self.filter_by, n_jobs=1)
            sure = 1 - get_label_quality_scores(given, shares, method=self.rank_by)
        flagged = np.flatnonzero(wrong & (sure >= self.threshold))
        flagged = flagged[np.argsort(-sure[flagged], kind="stable")]
        flagged = flagged[: int(np.ceil(len(flagged) * self.share))]
        return there[flagged], np.clip(sure[flagged], 0.0, 1.0)

    def _finding(
        self,
        data: Examined,
        part: str,
        rows: np.ndarray,
        said: Said,
        picked: np.ndarray,
        sure: np.ndarray,
        left_alone: list[str],
    ) -> Finding:
        names = data.target.classes
        given = [names[label] for label in data.target.values[rows[picked]]]
        likeliest = [names[label] for label in said.probabilities[picked].argmax(axis=1)]
        right = float((said.probabilities.argmax(axis=1) == data.target.values[rows]).mean())
        measured: dict[str, Any] = {
            "part": part,
            "judged": len(rows),
            "right": right,
            "model": self.model,
            "fitted_on": said.fitted,
            "given": given[:LISTED],
            "suggested": likeliest[:LISTED],
            "left_alone": left_alone,
        }
        first = (
            f"the surest is source row {int(data.source_rows[rows[picked[0]]])}, given as '{given[0]}', likely "
            f"'{likeliest[0]}' ({sure[0]:.2f} sure)"
        )
        many = f"{len(picked):,} of {len(rows):,} {ROWS_OF[part]} {'seems' if len(picked) == 1 else 'seem'} mislabelled"
        how = f"{self._how(part, said)}, right about {right:.1%} of the labels"
        sentence = f"{many} ({len(picked) / len(rows):.1%}; {how}); {first}."
        if left_alone:
            sentence += f" Classes with too few training rows to judge: {', '.join(map(repr, left_alone[:8]))}."
        repairs: tuple[Repair, ...] = ()
        too_many = len(picked) > self.most * len(rows)
        if too_many:
            if part == "train" and self.action != "report":
                raise self._too_many(len(picked) / len(rows), right)
            sentence += " So many say that this model cannot tell the classes apart, not that labels are wrong."
        else:
            kept = self._not_known(data, rows, picked) if part == "train" else {}
            if kept:
                told_of = ", ".join(f"{found:,} of the {of:,} of '{names[c]}'" for c, (found, of) in kept.items())
                sentence += f" Among them are {told_of}: classes that the model does not know, so they keep their rows."
            if part == "train" and self.action != "report":
                chosen = [n for n, label in enumerate(data.target.values[rows[picked]].tolist()) if label not in kept]
                repairs = self._repairs(
                    data, rows[picked[chosen]], [given[n] for n in chosen], [likeliest[n] for n in chosen], sure[chosen]
                )
        return Finding(
            "label_errors",
            sentence,
            "high" if len(picked) >= SEVERE * len(rows) else "middle",
            rows=rows[picked],
            sure=sure,
            columns=(data.target.name,),
            measured=measured,
            repairs=repairs,
            cure="" if part != "train" or too_many else self._cure,
        )

    def _not_known(self, data: Examined, rows: np.ndarray, picked: np.ndarray) -> dict[int, tuple[int, int]]:
        """Classes of which more than the share `most` is found → rows found, rows of the class."""
        labels, many = data.target.values[rows], len(data.target.classes)
        found, of = np.bincount(labels[picked], minlength=many), np.bincount(labels, minlength=many)
        return {int(c): (int(found[c]), int(of[c])) for c in np.flatnonzero(found > self.most * of)}

    @property
    def _cure(self) -> str:
        model = "" if self.model == "linear" else f", model: {self.model}"
        return f"data.quality: - {{type: label_errors{model}, action: drop}}  (look at the surest first)"

    def _too_many(self, share: float, right: float) -> DataError:
        return DataError(
            f"data.quality: label_errors would {self.action} {share:.1%} of the training rows, more than its `most` of "
            f"{self.most:.1%}. So many say that the model ({self.model}, right about {right:.1%} of the labels) cannot "
            "tell the classes apart: try another model, a threshold of 0.9, or action: report."
        )

    def _how(self, part: str, said: Said) -> str:
        model = {"linear": "logistic regression", "boosted": "boosted trees", "page": "the page's network"}[self.model]
        thinned = f" of {said.fitted:,} rows drawn by lot" if said.thinned else ""
        where = f"{self.folds} folds" if part == "train" else "fitted on the training part"
        return f"{model}{thinned}, {where}, {self.filter_by}"

    def _repairs(
        self, data: Examined, rows: np.ndarray, given: list[str], likeliest: list[str], sure: np.ndarray
    ) -> tuple[Repair, ...]:
        made = []
        for row, before, after, how_sure in zip(rows.tolist(), given, likeliest, sure.tolist(), strict=True):
            if self.action == "drop":
                why = f"given as '{before}', likely '{after}' ({how_sure:.3f} sure)"
                made.append(Repair(row, "dropped", why))
            elif before != after:  # some filters also find rows of which no other class is likelier
                why = f"{how_sure:.3f} sure"
                made.append(Repair(row, "relabelled", why, data.target.name, before, after))
        return tuple(made)
