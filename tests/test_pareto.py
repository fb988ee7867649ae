"""Several objectives: the front against brute force, and which trials are on it."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_ray.evaluate.pareto import front, objective_values, pareto
from nnopt_ray.results import TrialRow

numbers = st.one_of(st.integers(0, 4).map(float), st.floats(allow_nan=True, allow_infinity=True))
tables_ = st.integers(1, 4).flatmap(
    lambda width: st.tuples(
        st.lists(st.tuples(*[numbers] * width), max_size=25),
        st.tuples(*[st.sampled_from(["min", "max"])] * width),
    )
)


def dominates(a: tuple[float, ...], b: tuple[float, ...], modes: tuple[str, ...]) -> bool:
    """The definition: nowhere worse, somewhere better (Deb 2001, definition 2.5)."""
    better = [x < y if mode == "min" else x > y for x, y, mode in zip(a, b, modes, strict=True)]
    worse = [x > y if mode == "min" else x < y for x, y, mode in zip(a, b, modes, strict=True)]
    return any(better) and not any(worse)


@settings(max_examples=300, deadline=None)
@given(tables_)
def test_the_front_is_what_the_definition_says(drawn: tuple[list[tuple[float, ...]], tuple[str, ...]]) -> None:
    rows, modes = drawn
    whole = [row for row in rows if not any(map(math.isnan, row))]
    for row, on in zip(rows, front(rows, modes), strict=True):
        expected = row in whole and not any(dominates(other, row, modes) for other in whole)
        assert on == expected


def test_equal_rows_are_on_the_front_together_and_one_objective_leaves_the_best() -> None:
    assert front([(1.0, 2.0), (1.0, 2.0), (2.0, 2.0)], ["min", "min"]) == [True, True, False]
    assert front([(3.0,), (1.0,), (2.0,)], ["max"]) == [True, False, False]
    assert front([], ["min"]) == []


def row(
    trial: str, status: str = "finished", value: float | None = 1.0, seconds: float = 1.0, size: int = 10
) -> TrialRow:
    return TrialRow(trial, status, "", {}, 3, 1, seconds, value, {"val_loss": 9.0, "parameters": size})  # type: ignore[arg-type]


def test_only_finished_trials_are_on_the_front_best_by_the_first_objective_first() -> None:
    objectives = [("min", "val_loss"), ("min", "parameters")]
    rows = [
        row("large", value=0.1, size=1000),
        row("small", value=0.5, size=10),
        row("beaten", value=0.6, size=500),
        row("stopped", status="stopped", value=0.2, size=1),
        row("failed", status="failed", value=None, size=1),
    ]
    assert [(found.trial, values) for found, values in pareto(rows, objectives)] == [
        ("large", (0.1, 1000.0)),
        ("small", (0.5, 10.0)),
    ]


def test_an_objective_that_is_missing_leaves_a_trial_without_values() -> None:
    assert objective_values(row("a", seconds=2.5), [("min", "val_loss"), ("min", "seconds")]) == (1.0, 2.5)
    assert objective_values(row("a"), [("min", "val_loss"), ("max", "val_accuracy")]) is None
