"""A study without training: what the loop does with a judge, over values that a test makes up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnopt_ray.search.schedulers import Judge, Verdict

Value = Callable[[str, int], float]  # (trial, epochs done) -> objective
Call = tuple[str, tuple[Any, ...], Any]  # (method, arguments, answer)


@dataclass
class Played:
    """A study at its end. `calls` are those that move a judge, with what they answered, in order."""

    calls: list[Call] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)  # epochs trained
    status: dict[str, str] = field(default_factory=dict)
    decisions: dict[str, dict[int, float]] = field(default_factory=dict)  # trial -> epochs done -> value
    verdicts: list[tuple[str, int, Verdict]] = field(default_factory=list)

    @property
    def epochs(self) -> int:
        return sum(self.done.values())

    def among(self, status: str) -> list[str]:
        return [trial for trial, now in self.status.items() if now == status]


class Study:
    """`lanes` trials at a time, each epoch of a random one; some fail or end by themselves."""

    def __init__(
        self,
        judge: Judge,
        trials: int,
        epochs: int,
        value: Value,
        *,
        lanes: int = 1,
        order: np.random.Generator | None = None,
        fails: float = 0.0,
        ends: float = 0.0,
        params: Callable[[str], Mapping[str, Any]] = lambda trial: {},
    ) -> None:
        self.judge, self.trials, self.epochs, self.value, self.lanes = judge, trials, epochs, value, lanes
        self.order = order or np.random.default_rng(0)
        self.fails, self.ends = fails, ends
        self.new_params = params
        self.params: dict[str, Mapping[str, Any]] = {}
        self.played = Played()

    def play(self) -> Played:
        played = self.played
        while True:
            while len(played.among("running")) < self.lanes and self._begin():
                pass
            running = played.among("running")
            if not running:
                if not played.among("paused"):
                    return played
                self._give_up()
                continue
            self._epoch(running[int(self.order.integers(len(running)))])

    def call(self, method: str, *arguments: Any) -> Any:
        answer = getattr(self.judge, method)(*arguments)
        if answer or method in ("asked", "ended", "give_up"):
            self.played.calls.append((method, arguments, answer))
        return answer

    def _begin(self) -> bool:
        trial = self.call("promote")
        if trial is not None:
            assert self.played.status[trial] == "paused"
        elif len(self.played.status) < self.trials:
            trial = f"{len(self.played.status) + 1:04d}"
            self.played.done[trial], self.played.decisions[trial] = 0, {}
            self.params[trial] = self.new_params(trial)
            self.call("asked", trial)
        else:
            return False
        self.played.status[trial] = "running"
        return True

    def _give_up(self) -> None:
        for trial in self.call("give_up"):
            self._stop(trial)
        if self.played.among("paused"):
            assert self._begin(), "paused trials are left, and none is promoted"

    def _epoch(self, trial: str) -> None:
        before = self.played.done[trial]
        following = self.judge.next_decision(trial, before)
        assert following is None or before < following < self.epochs
        assert following == self.judge.next_decision(trial, before), "asking moves nothing"
        now = self.played.done[trial] = before + 1
        value = self.value(trial, now)
        chance = self.order.random()
        if chance < self.fails:
            self._over(trial, "failed", None)
        elif now == self.epochs or chance < self.fails + self.ends:
            self._over(trial, "finished", value)
        elif following == now:
            self.played.decisions[trial][now] = value
            self._act(trial, now, self.call("judge", trial, now, value, self.params[trial]))
        else:
            later = self.judge.next_decision(trial, now)
            assert later == following, "a decision that is not reached stays where it was"

    def _act(self, trial: str, now: int, verdict: Verdict) -> None:
        self.played.verdicts.append((trial, now, verdict))
        if verdict.kind == "stop":
            self._over(trial, "stopped", self.played.decisions[trial][now])
            return
        if verdict.kind == "copy":
            assert self.played.status[verdict.donor] in ("running", "paused")
            assert verdict.donor != trial
            assert not math.isnan(self.played.decisions[verdict.donor][verdict.donor_epochs])
            assert verdict.donor_epochs == max(self.played.decisions[verdict.donor])
            self.params[trial] = verdict.params
        if verdict.kind == "pause":
            self.played.status[trial] = "paused"
        self._drop()

    def _over(self, trial: str, status: str, value: float | None) -> None:
        self.played.status[trial] = status
        self.call("ended", trial, self.played.done[trial], value)
        self._drop()

    def _drop(self) -> None:
        for trial in self.call("dropped"):
            self._stop(trial)

    def _stop(self, trial: str) -> None:
        assert self.played.status[trial] == "paused"
        self._over(trial, "stopped", self.played.decisions[trial][self.played.done[trial]])


def replay(judge: Judge, calls: list[Call]) -> None:
    """The same calls of a fresh judge give the same answers."""
    for method, arguments, answer in calls:
        assert getattr(judge, method)(*arguments) == answer, (method, arguments)


def made_up(seed: int, nan: float = 0.0) -> Value:
    """Values that depend on trial and epoch alone, rounded so that ties come up; some are NaN."""

    def value(trial: str, done: int) -> float:
        draw = np.random.default_rng([seed, int(trial), done])
        return math.nan if draw.random() < nan else float(np.round(draw.normal(), 1))

    return value
