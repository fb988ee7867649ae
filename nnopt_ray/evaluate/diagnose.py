"""The door of the diagnosis: a case → what is wrong with the run, the worst first. The one place that judges.

The rules stand in DIAGNOSES of this room, a function each: a case → its findings, () where it looked and found
nothing, None where this run cannot have the fault or does not say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from nnopt_ray import tables
from nnopt_ray.evaluate import DIAGNOSES
from nnopt_ray.evaluate.diagnosis import SEVERITIES, Case, Diagnosis, Found, Severity

Rule = Callable[[Case], Found]

# What follows from what: where the cause was found too, the consequence is told after all others, as low,
# and without a line of the page.
CAUSES: Mapping[str, tuple[str, ...]] = {
    "underfit": (
        "learning_rate_too_high", "learning_rate_too_low", "still_improving", "stopped_too_early", "class_imbalance",
        "gradient_vanishing", "dead_units", "unscaled_inputs",
    ),
    "dead_units": ("learning_rate_too_high", "unscaled_inputs"),
    "exploding_activations": ("learning_rate_too_high", "unscaled_inputs"),
    "gradient_explosion": ("learning_rate_too_high", "unscaled_inputs"),
    "learning_rate_too_high": ("unscaled_inputs",),
    "still_improving": ("learning_rate_too_low",),
    "class_never_predicted": (
        "class_imbalance", "learning_rate_too_high", "learning_rate_too_low", "gradient_vanishing", "still_improving",
    ),
    "class_imbalance": ("learning_rate_too_low", "learning_rate_too_high", "gradient_vanishing"),
    "no_better_than_baseline": (
        "learning_rate_too_high", "learning_rate_too_low", "underfit", "overfit", "still_improving",
        "stopped_too_early",
    ),
    "test_far_from_validation": ("copies_across_parts",),
    "bad_calibration": (
        "overfit", "underfit", "label_noise", "still_improving", "learning_rate_too_low", "learning_rate_too_high",
        "test_far_from_validation",
    ),
    "overfit": ("test_far_from_validation", "learning_rate_too_high", "dead_units"),
    "label_noise": ("test_far_from_validation", "overfit"),
    "trials_failed": ("loss_not_a_number",),
}  # fmt: skip


@dataclass(frozen=True)
class Diagnosed:
    """found: the worst first. looked_for: the names of the rules that could be asked of this run."""

    found: tuple[Diagnosis, ...]
    looked_for: tuple[str, ...]

    def to_json(self, case: Case) -> dict[str, Any]:
        """What evaluation/diagnosis.json holds: the findings, what was looked for, and what was measured for them."""
        return {
            "found": [each.to_json() for each in self.found],
            "looked_for": list(self.looked_for),
            "measured": asdict(case.measured) if case.measured is not None else None,
        }


@cache
def rules() -> Mapping[str, Rule]:
    """Name → rule, as DIAGNOSES has them."""
    return {name: tables.load(place) for name, place in DIAGNOSES.items()}


def diagnose(case: Case) -> Diagnosed:
    """Ask every rule."""
    found: list[Diagnosis] = []
    asked = []
    for name, rule in rules().items():
        said = rule(case)
        if said is not None:
            asked.append(name)
            found += [replace(each, name=name) for each in said]
    names = {each.name for each in found}
    judged = [_following(each, names) for each in found]
    judged.sort(key=lambda each: (bool(each.follows), SEVERITIES.index(each.severity)))
    return Diagnosed(tuple(judged), tuple(asked))


def _following(each: Diagnosis, names: set[str]) -> Diagnosis:
    cause = next((cause for cause in CAUSES.get(each.name, ()) if cause in names), "")
    low: Severity = "low"
    # Two changes at once would hide which of them helped.
    return replace(each, follows=cause, severity=low, line=None) if cause else each


def in_words(name: str) -> str:
    """learning_rate_too_high → "learning rate too high"."""
    return name.replace("_", " ")
