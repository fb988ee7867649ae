"""The best few over seeds: what is trained, and what is said of it, against scipy and by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nnopt_ray import reading, rundir
from nnopt_ray.experiment import Confirm
from nnopt_ray.results import Confirmation, TrialRow
from nnopt_ray.search.confirm import collected, contestants, planned, seeds, verdict

PAGE: dict[str, Any] = {
    "data": {"source": {"type": "sklearn", "name": "wine"}},
    "model": {"type": "mlp", "dropout": {"uniform": [0.0, 0.5]}},
    "search": {"method": "random", "trials": 5},
}


def row(trial: str, value: float | None, status: Any = "finished", **params: Any) -> TrialRow:
    return TrialRow(trial, status, "", params or {"x": trial}, 3, 2, 0.1, value, {})


ROWS = [row("0001", 0.5), row("0002", 0.2), row("0003", 0.3, "stopped"), row("0004", None, "failed"), row("0005", 0.2)]


# What is trained


def test_the_best_few_each_with_the_same_seeds_seed_by_seed() -> None:
    trials = planned(ROWS, "min", Confirm(top=3, seeds=2), seed=7)
    assert [trial.id for trial in trials] == ["0002-s1", "0005-s1", "0003-s1", "0002-s2", "0005-s2", "0003-s2"]
    assert [trial.seed for trial in trials] == [seed for seed in seeds(7, 2) for _ in range(3)]
    assert trials == planned(ROWS[::-1], "min", Confirm(top=3, seeds=2), seed=7), "the order of the rows says nothing"
    assert seeds(7, 5)[:2] == seeds(7, 2), "more seeds keep those that are there"
    assert len({*seeds(7, 5), *seeds(8, 5), 7, 8}) == 12


def test_the_best_are_the_largest_when_the_objective_is_maximized() -> None:
    assert [row.trial for row in contestants(ROWS, "max", 2)] == ["0001", "0003"]


def test_only_trials_with_a_value_are_confirmed_and_fewer_than_asked_will_do() -> None:
    odd = [row("0001", math.nan), row("0002", math.inf), row("0003", 1.0, "running"), row("0004", 0.4)]
    assert [trial.of_trial for trial in planned(odd, "min", Confirm(top=3, seeds=2), 0)] == ["0004", "0004"]
    assert planned([], "min", Confirm(), 0) == []


def test_trials_that_differ_in_their_seed_alone_are_confirmed_once() -> None:
    rows = [row("0001", 0.3, lr=0.1, seed=1), row("0002", 0.2, lr=0.1, seed=2), row("0003", 0.4, lr=0.2, seed=1)]
    trials = planned(rows, "min", Confirm(top=3, seeds=2), 0)
    assert [trial.of_trial for trial in trials] == ["0002", "0003"] * 2
    assert trials[0].params == {"lr": 0.1, "seed": seeds(0, 1)[0]}


@pytest.mark.parametrize("opened", [None, {"choice": [1, 2, 3]}, {"int": [0, 9]}])
def test_a_planned_training_makes_the_page_of_its_trial_with_another_seed_and_the_same_rows(opened: Any) -> None:
    searched = reading.from_tree(PAGE if opened is None else {**PAGE, "seed": opened})
    params = {"model.dropout": 0.25} if opened is None else {"seed": 2, "model.dropout": 0.25}
    (trial, _) = planned([row("0001", 0.5, **params)], "min", Confirm(top=2, seeds=2), searched.seed)
    before, after = (reading.close(searched, p) for p in (params, trial.params))
    assert after.seed == trial.seed
    assert after.data == before.data, "the split keeps its own seed"
    assert (after.model, after.train) == (before.model, before.train)


def test_values_are_collected_by_contestant_and_a_failed_training_is_nan() -> None:
    trials = planned(ROWS, "min", Confirm(top=2, seeds=2), 0)
    rows = [
        row("0005-s2", 0.4),
        row("0002-s1", 0.1),
        row("0005-s1", 0.3),
        row("0002-s2", 0.9, "failed"),
    ]
    found = collected(trials, rows)
    assert list(found) == ["0002", "0005"]
    assert found["0005"] == [0.3, 0.4]
    assert found["0002"][0] == 0.1
    assert math.isnan(found["0002"][1])


# What is said of it

NUMBERS = st.floats(-1e6, 1e6).map(lambda x: round(x, 6))
MODES = st.sampled_from(["min", "max"])


@given(st.integers(2, 8).flatmap(lambda n: st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=n, max_size=n)),
       MODES, st.sampled_from([0.8, 0.95, 0.99]))  # fmt: skip
def test_intervals_and_paired_comparisons_are_those_of_scipy(
    found: list[tuple[float, float, float]], mode: Any, confidence: float
) -> None:
    one, other, simple = (list(column) for column in zip(*found, strict=True))
    said = verdict({"a": one, "b": other}, simple, mode, confidence)
    by_name = {"a": one, "b": other, "baseline": simple}
    assert said.baseline is not None
    for contestant in (*said.contestants, said.baseline):
        values = by_name[contestant.trial]
        assert contestant.mean == pytest.approx(np.mean(values), abs=1e-9)
        assert contestant.sd == pytest.approx(np.std(values, ddof=1), abs=1e-9)
        if np.std(values) > 1e-7 * (1 + np.abs(values).max()):
            low, high = stats.t.interval(confidence, len(values) - 1, np.mean(values), stats.sem(values))
            assert (contestant.low, contestant.high) == pytest.approx((low, high), rel=1e-6, abs=1e-9)
    for comparison in (said.runner_up, said.over_baseline):
        assert comparison is not None
        ours, theirs = np.array(by_name[said.winner]), np.array(by_name[comparison.other])
        gains = theirs - ours if mode == "min" else ours - theirs
        assert comparison.gain == pytest.approx(gains.mean(), abs=1e-9)
        if gains.std() > 1e-7 * (1 + np.abs(found).max()):
            test = stats.ttest_rel(*((theirs, ours) if mode == "min" else (ours, theirs)))
            low, high = test.confidence_interval(confidence)
            assert comparison.p == pytest.approx(test.pvalue, rel=1e-5, abs=1e-12)
            assert (comparison.low, comparison.high) == pytest.approx((low, high), rel=1e-5, abs=1e-7)
            if abs(test.pvalue - (1 - confidence)) > 1e-6:
                assert comparison.tie == (test.pvalue > 1 - confidence), "an interval holds 0 as the test says"


def test_by_hand() -> None:
    said = verdict({"a": [0.10, 0.12, 0.14], "b": [0.15, 0.16, 0.20]}, None, "min", 0.95)
    first = said.contestants[0]
    assert (said.winner, first.trial) == ("a", "a")
    # t of 2 degrees of freedom is 4.3027; sd 0.02, so half of the width is 4.3027 * 0.02 / sqrt(3)
    assert (first.mean, first.sd) == pytest.approx((0.12, 0.02))
    assert (first.low, first.high) == pytest.approx((0.12 - 0.049683, 0.12 + 0.049683), abs=1e-6)
    # differences 0.05, 0.04, 0.06: mean 0.05, sd 0.01, half 0.024841; t = 8.660, two-sided p 0.01307
    assert said.runner_up is not None
    assert said.runner_up.gain == pytest.approx(0.05)
    assert (said.runner_up.low, said.runner_up.high) == pytest.approx((0.025159, 0.074841), abs=1e-6)
    assert said.runner_up.p == pytest.approx(0.01307, abs=1e-5)
    assert not said.runner_up.tie
    assert said.sentences == (
        "Trial a is the best of 2 over 3 seeds: the objective 0.12 on average (0.07032 to 0.1697).",
        "It is better than b, the runner-up, by 0.05 (0.02516 to 0.07484, paired over 3 seeds).",
    )


VALUES = st.lists(st.one_of(NUMBERS, st.just(math.nan), st.just(math.inf)), min_size=3, max_size=3)


@given(st.lists(VALUES, min_size=1, max_size=5), st.none() | VALUES, MODES)
def test_whatever_fails_a_verdict_comes_out_and_survives_json(
    values: list[list[float]], baseline: list[float] | None, mode: Any
) -> None:
    named = {f"{number:04d}": found for number, found in enumerate(values, start=1)}
    said = verdict(named, baseline, mode, 0.95)
    text = json.dumps(rundir.finite(said.to_json()), allow_nan=False)
    assert json.dumps(rundir.finite(Confirmation.from_json(json.loads(text)).to_json())) == text
    assert {contestant.trial for contestant in said.contestants} == set(named)
    if all(not math.isfinite(value) for found in values for value in found):
        assert said.winner == ""
        return
    first, sign = said.contestants[0], 1 if mode == "min" else -1
    assert said.winner == first.trial
    assert not math.isnan(first.mean)
    for contestant in said.contestants[1:]:
        assert first.failed <= contestant.failed
        if first.failed == contestant.failed:
            assert sign * first.mean <= sign * contestant.mean
    assert any(said.winner in sentence for sentence in said.sentences)
    assert "nan" not in " ".join(said.sentences)


@given(st.permutations(range(4)), st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=2, max_size=3))
def test_a_better_value_never_costs_the_win(order: Sequence[int], values: list[list[float]]) -> None:
    named = {str(number): found for number, found in enumerate(values)}
    winner = verdict(named, None, "min", 0.95).winner
    better = {**named, winner: [value - 1.0 for value in named[winner]]}
    assert verdict(better, None, "min", 0.95).winner == winner


def test_a_tie_is_called_one_and_both_are_named() -> None:
    said = verdict({"0001": [0.30, 0.20, 0.25], "0002": [0.24, 0.26, 0.22]}, None, "min", 0.95, "val_loss")
    assert said.winner == "0002"
    assert said.runner_up is not None
    assert said.runner_up.tie
    assert "The search had 0001 ahead." in said.sentences[0]
    assert said.sentences[1].startswith("0002 and 0001 are tied: ")
    assert said.sentences[1].endswith("0002 is named because its mean is the better one.")


def test_equal_values_are_a_tie_without_a_warning() -> None:
    said = verdict({"0001": [0.1] * 3, "0002": [0.1] * 3}, [0.1] * 3, "min", 0.95)
    assert said.winner == "0001"
    assert said.runner_up is not None
    assert said.over_baseline is not None
    assert (said.contestants[0].mean, said.contestants[0].sd) == (0.1, 0.0)
    for found in (said.runner_up, said.over_baseline):
        assert (found.gain, found.low, found.high, found.p, found.tie) == (0.0, 0.0, 0.0, 1.0, True)
    assert said.sentences[1].endswith("0001 is named because their means are equal, and the search had 0001 ahead.")


def test_a_difference_that_never_changes_is_none_of_chance() -> None:
    said = verdict({"0001": [1.0, 2.0, 3.0], "0002": [1.5, 2.5, 3.5]}, None, "min", 0.95)
    assert said.runner_up is not None
    assert (said.runner_up.low, said.runner_up.high, said.runner_up.p) == (0.5, 0.5, 0.0)
    assert not said.runner_up.tie


def test_who_fails_with_a_seed_stands_behind_who_does_not() -> None:
    values = {"0001": [0.1, 0.1, math.nan], "0002": [0.2, 0.21, 0.2]}
    said = verdict(values, None, "min", 0.95)
    assert said.winner == "0002"
    assert said.runner_up is not None
    assert said.runner_up.pairs == 2
    assert said.runner_up.gain == pytest.approx(-0.105)
    assert "0002 is named because 0001 failed with 1 of 3 seeds" in said.sentences[1]


def test_one_pair_is_too_few_to_compare() -> None:
    said = verdict({"0001": [0.1, math.nan], "0002": [math.nan, 0.2]}, [0.3, math.nan], "min", 0.95)
    assert said.winner == "0001"
    assert said.runner_up is not None
    assert (said.runner_up.pairs, said.runner_up.tie, said.runner_up.p) == (0, True, None)
    assert "cannot be told" in said.sentences[1]
    assert "too few to compare" in said.sentences[2]


def test_a_single_contestant_has_no_runner_up() -> None:
    said = verdict({"0001": [0.1, 0.2]}, [0.5, 0.7], "min", 0.9)
    assert said.runner_up is None
    assert said.sentences[0].startswith("Trial 0001 is the only trial to confirm over 2 seeds")
    assert said.sentences[1].startswith("It is better than the baseline by 0.45 (0.1343 to 0.7657, ")


def test_worse_than_the_baseline_is_said() -> None:
    said = verdict({"0001": [0.70, 0.71, 0.72]}, [0.8, 0.8, 0.8], "max", 0.95)
    assert said.sentences[1].startswith("It is worse than the baseline by 0.09 (0.065")
