"""Which test rows are explained by themselves: some that are right, some that are wrong, the most confidently wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from nnopt_ray.evaluate.decision import Decision, decided
from nnopt_ray.machine import derived_seed

AS_IS = Decision()
About = Literal["most confidently wrong", "wrong", "right", "largest error", "drawn by lot", "asked for"]


@dataclass(frozen=True)
class Example:
    """A row of the test part.

    row: its place there; source_row: its number in the source. true, predicted: classes, or numbers in the user's
    units (of a forecast the means over its steps). probability: of the predicted class, None of numbers.
    """

    row: int
    source_row: int
    about: About
    true: str
    predicted: str
    probability: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def chosen(
    outputs: np.ndarray,
    target: np.ndarray,
    source_rows: np.ndarray,
    classes: tuple[str, ...],
    seed: int,
    each: int = 3,
    decision: Decision = AS_IS,
) -> tuple[Example, ...]:
    """At most `each` rows of each kind, drawn by lot but for the extremes. Of classes the right ones are of different
    classes as far as there are; of numbers there are the largest errors, and rows drawn by lot.

    outputs: logits [rows, classes], or numbers in the user's units [rows, outputs]; target: class indices, or numbers;
    decision: from the logits to what is said.
    """
    draws = np.random.default_rng(derived_seed(seed, "examples"))
    order = draws.permutation(len(target))
    found: list[tuple[About, np.ndarray]] = []
    if classes:
        shares, said = decided(outputs, decision)
        sure = np.nan_to_num(shares)[np.arange(len(said)), said]
        wrong = order[(said != target)[order]]
        worst = wrong[np.argsort(-sure[wrong], kind="stable")][:each]
        others = wrong[~np.isin(wrong, worst)]
        right = order[(said == target)[order]]
        _, first = np.unique(target[right], return_index=True)
        spread = right[np.sort(first)]
        right = np.concatenate([spread, right[~np.isin(right, spread)]])
        found = [("most confidently wrong", worst), ("wrong", others[:each]), ("right", right[:each])]
    else:
        off = np.nan_to_num(np.abs(outputs - target).mean(axis=1), nan=np.inf)
        worst = order[np.argsort(-off[order], kind="stable")][:each]
        found = [("largest error", worst), ("drawn by lot", order[~np.isin(order, worst)][:each])]
    return tuple(
        described(int(row), about, outputs, target, source_rows, classes, decision)
        for about, rows in found
        for row in rows
    )


def described(
    row: int,
    about: About,
    outputs: np.ndarray,
    target: np.ndarray | None,
    source_rows: np.ndarray,
    classes: tuple[str, ...],
    decision: Decision = AS_IS,
) -> Example:
    """One row as an example; target: None where nobody knows it, `true` is empty then."""
    place = int(source_rows[row])
    if not classes:
        true = "" if target is None else f"{target[row].mean():.6g}"
        return Example(row, place, about, true, f"{outputs[row].mean():.4g}")
    shares, said = decided(outputs[row : row + 1], decision)
    true = "" if target is None else classes[int(target[row])]
    return Example(row, place, about, true, classes[int(said[0])], float(np.nan_to_num(shares)[0, said[0]]))


def as_written(examples: tuple[Example, ...], values: Mapping[str, list[Any]] | None) -> list[dict[str, str]]:
    """Of each example column → its value as a reader takes it in; empty where the source was not read again."""
    if values is None:
        return [{} for _ in examples]
    return [{name: written(of[place]) for name, of in values.items()} for place in range(len(examples))]


def written(value: Any) -> str:
    """A value of the source in words: 1.5, no, 2024-03-01, missing."""
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


__all__ = ["About", "Example", "as_written", "chosen", "described", "written"]
