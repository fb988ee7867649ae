"""The check `imbalance`: classes with far fewer training rows than others."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data.quality import Check, Examined, Finding
from nnopt_ray.data.target import class_counts

NAMED = 8


class Imbalance(Check):
    """Classes of the training part that are rare beside the largest one: what their shares are, what accuracy says
    then, and what to write on the page. Nothing is changed.

    Keys:
        action: report, and nothing else.
        ratio: rows of the largest class for one of the smallest, from which on it is worth saying.
    """

    def __init__(self, *, action: Literal["report"] = "report", ratio: Annotated[float, Field(gt=1)] = 5.0) -> None:
        self.action = action
        self.ratio = ratio

    def examine(self, data: Examined) -> tuple[Finding, ...]:
        if data.target.task != "classification":
            return ()
        counts = class_counts(data.target, data.parts["train"])
        there = {name: count for name, count in counts.items() if count}
        largest, smallest = max(there, key=lambda name: there[name]), min(there, key=lambda name: there[name])
        ratio = there[largest] / there[smallest]
        if ratio < self.ratio:
            return ()
        rows = sum(there.values())
        rare = sorted((name for name in there if there[largest] / there[name] >= self.ratio), key=lambda n: there[n])
        told = ", ".join(f"'{name}' {there[name]:,} rows ({there[name] / rows:.2g})" for name in rare[:NAMED])
        guess = there[largest] / rows
        sentence = (
            f"The training part has {there[largest]:,} rows of the class '{largest}', {ratio:.3g} times those of the "
            f"smallest: {told}{f' and {len(rare) - NAMED} more' if len(rare) > NAMED else ''}. Always saying "
            f"'{largest}' has an accuracy of {guess:.3g} and a balanced accuracy of {1 / len(there):.3g}."
        )
        cure = (
            "objective: maximize val_balanced_accuracy, and train.loss: {type: cross_entropy, class_weights: balanced} "
            "or data.balance: over"
        )
        measured = {
            "shares": {name: count / rows for name, count in there.items()},
            "ratio": ratio,
            "accuracy_of_the_largest": guess,
            "effective_classes": float(np.exp(_entropy(np.array(list(there.values())) / rows))),
        }
        return (Finding("imbalance", sentence, columns=(data.target.name,), measured=measured, cure=cure),)


def _entropy(shares: np.ndarray) -> float:
    return float(-(shares * np.log(shares)).sum())
