"""The contract of every scheduler: its judge can be replayed, leaves nobody waiting, and keeps its budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_example import Study, made_up, replay

from nnopt_ray import tables
from nnopt_ray.experiment import Range
from nnopt_ray.search import SCHEDULERS
from nnopt_ray.search.schedulers import Scheduler, Space

SPACE: Space = (
    ("model.width", Range("choice", (8, 16))),
    ("train.optimizer.lr", Range("log", (1e-4, 1e-1))),
    ("model.dropout", Range("uniform", (0.1, 0.5))),
)
FORMS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in SCHEDULERS),
    ("asha", {"grace_period": 2, "reduction_factor": 1.5}),
    ("asha", {"form": "promote"}),
    ("asha", {"form": "promote", "reduction_factor": 2, "grace_period": 2}),
    ("asha", {"form": "promote", "reduction_factor": 1.2}),
    ("hyperband", {"reduction_factor": 2}),
    ("hyperband", {"reduction_factor": 2.5}),
    ("median", {"grace_period": 2, "min_samples_required": 1}),
    ("pbt", {"perturbation_interval": 1, "quantile_fraction": 0.5}),
]
IDS = [f"{name} {keys}" for name, keys in FORMS]


def made(name: str, keys: dict[str, Any]) -> Scheduler:
    scheduler = tables.find("scheduler", name)(**keys)
    assert isinstance(scheduler, Scheduler)
    return scheduler


def point(trial: str) -> dict[str, Any]:
    draw = np.random.default_rng(int(trial))
    width = int(draw.choice([8, 16]))
    return {
        "model.width": width,
        "train.optimizer.lr": 10 ** draw.uniform(-4, -1),
        "model.dropout": draw.uniform(0.1, 0.5),
    }


@pytest.mark.parametrize(("name", "keys"), FORMS, ids=IDS)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    trials=st.integers(1, 40),
    epochs=st.integers(1, 20),
    lanes=st.integers(1, 8),
    mode=st.sampled_from(["min", "max"]),
    faults=st.tuples(*[st.sampled_from([0.0, 0.05, 0.3])] * 3),
)
def test_a_study_ends_and_can_be_replayed(
    name: str,
    keys: dict[str, Any],
    seed: int,
    trials: int,
    epochs: int,
    lanes: int,
    mode: str,
    faults: tuple[float, ...],
) -> None:
    """`Study` checks what each answer must be: who is promoted or dropped waits, a donor is alive, and so on."""
    scheduler = made(name, keys)
    fails, ends, nan = faults
    order = np.random.default_rng(seed)
    study = Study(
        scheduler.start(mode, epochs, seed, SPACE), trials, epochs, made_up(seed, nan),
        lanes=lanes, order=order, fails=fails, ends=ends, params=point,
    )  # fmt: skip
    played = study.play()
    assert set(played.status.values()) <= {"finished", "stopped", "failed"}
    assert len(played.status) == trials
    replay(scheduler.start(mode, epochs, seed, SPACE), played.calls)
    least, most = scheduler.budget(trials, epochs)
    if fails == 0:
        assert played.epochs <= most
    if fails == ends == 0:
        assert least <= played.epochs


@pytest.mark.parametrize(("name", "keys"), FORMS, ids=IDS)
def test_a_search_is_extended_after_its_end(name: str, keys: dict[str, Any]) -> None:
    scheduler = made(name, keys)
    study = Study(scheduler.start("min", 9, 0, SPACE), 20, 9, made_up(1), lanes=3, params=point)
    study.play()
    study.trials = 45
    played = study.play()
    assert len(played.status) == 45
    assert set(played.status.values()) <= {"finished", "stopped"}
    replay(scheduler.start("min", 9, 0, SPACE), played.calls)


@pytest.mark.parametrize(("name", "keys"), FORMS, ids=IDS)
def test_nan_is_worse_than_any_number(name: str, keys: dict[str, Any]) -> None:
    """A third of the trials measures nothing but NaN, the rest very bad values; none of the third gets further."""

    def value(trial: str, done: int) -> float:
        return float("nan") if int(trial) % 3 == 0 else 1e30 + int(trial) * 1e25

    for mode, sign in (("min", 1), ("max", -1)):
        judge = made(name, keys).start(mode, 8, 0, SPACE)
        played = Study(judge, 48, 8, lambda t, d, sign=sign: sign * value(t, d), lanes=4, params=point).play()  # type: ignore[misc]
        bad = [done for trial, done in played.done.items() if int(trial) % 3 == 0]
        good = [done for trial, done in played.done.items() if int(trial) % 3]
        if name not in ("none", "pbt"):
            assert np.mean(bad) < np.mean(good)
        copies = {trial for trial, _, verdict in played.verdicts if verdict.kind == "copy"}
        assert all(verdict.kind != "copy" or int(verdict.donor) % 3 for _, _, verdict in played.verdicts)
        assert name != "pbt" or copies & {trial for trial in played.done if int(trial) % 3 == 0}


EXTREMES = [
    ("asha", {}, "falling", "rising"),
    ("asha", {"reduction_factor": 2, "grace_period": 3}, "falling", "rising"),
    ("asha", {"form": "promote"}, "falling", "rising"),
    ("asha", {"form": "promote", "reduction_factor": 2.5}, "falling", "rising"),
    ("asha", {"form": "promote", "reduction_factor": 1.2}, "falling", "rising"),
    ("median", {"grace_period": 2}, "falling", "rising"),
]


@pytest.mark.parametrize(("name", "keys", "cheap", "dear"), EXTREMES)
@pytest.mark.parametrize("trials", [1, 2, 3, 4, 7, 20, 50])
@pytest.mark.parametrize("epochs", [1, 4, 9, 10, 30])
def test_the_budget_is_reached_at_both_ends(
    name: str, keys: dict[str, Any], cheap: str, dear: str, trials: int, epochs: int
) -> None:
    """Trial after trial on one lane: each worse than those before it, and each better."""
    slope = {"falling": -1.0, "rising": 1.0}
    scheduler = made(name, keys)
    spent = [
        Study(scheduler.start("max", epochs, 0), trials, epochs, lambda t, d, s=slope[way]: s * int(t)).play().epochs  # type: ignore[misc]
        for way in (cheap, dear)
    ]
    assert tuple(spent) == scheduler.budget(trials, epochs)
