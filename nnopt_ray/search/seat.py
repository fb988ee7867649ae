"""One process that trains, as a study sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nnopt_ray.search.crew import Crew
from nnopt_ray.search.messages import End, Order
from nnopt_ray.search.trial import Trial

LONGEST_WAIT_S = 8.0  # between processes of one seat that die before they are ready


@dataclass(eq=False)
class Seat:
    """What it is to do, and which trials it has. `actor` is None for this process, which has `crew`."""

    number: int
    actor: Any = None
    node: str = ""  # as its machine is called
    crew: Crew | None = None
    lanes: int = 1
    measured: bool = False
    preparing: bool = False
    careful: bool = False  # one trial at a time, as several died here together
    trials: dict[str, Trial] = field(default_factory=dict)
    ending: set[str] = field(default_factory=set)
    orders: dict[str, Order] = field(default_factory=dict)
    ends: list[End] = field(default_factory=list)
    to_measure: Mapping[str, Any] | None = None
    died_early: int = 0  # processes here in a row that died before they were ready
    not_before: float = 0.0  # monotonic seconds at which the next one is started

    @property
    def free(self) -> int:
        if self.to_measure is not None:
            return 0
        if self.careful:  # a trial that is still there would be one of two to die
            return 1 - len(self.trials)
        return self.lanes - len(self.trials) + len(self.ending)

    def measure(self, params: Mapping[str, Any]) -> None:
        """Find out first how trials like this one are trained here."""
        self.to_measure, self.measured = params, True

    def put(self, trial: Trial, order: Order) -> None:
        self.trials[trial.id] = trial
        self.orders[trial.id] = order

    def end(self, trial: Trial, end: End) -> None:
        """The trial is written down and leaves with the next call."""
        self.orders.pop(trial.id, None)
        self.ending.add(trial.id)
        self.ends.append(end)

    def keep(self, trial: Trial) -> None:
        """The trial stays after all. Where its end is on the way already, it comes back when that has come."""
        if any(end.trial == trial.id for end in self.ends):
            self.ends = [end for end in self.ends if end.trial != trial.id]
            self.ending.discard(trial.id)

    def leave(self, trial: Trial) -> None:
        self.trials.pop(trial.id, None)
        self.orders.pop(trial.id, None)
        self.ending.discard(trial.id)

    def wait(self, now: float) -> None:
        """One more process has died before it was ready: the next one comes later each time."""
        self.not_before = now + min(LONGEST_WAIT_S, 2.0**self.died_early)
        self.died_early += 1

    def vacate(self) -> list[Trial]:
        """The process is gone: all its trials are without a place."""
        trials = list(self.trials.values())
        self.trials, self.orders, self.ends, self.ending = {}, {}, [], set()
        self.to_measure = None
        return trials

    def handed(self) -> tuple[tuple[Order, ...], tuple[End, ...]]:
        orders, ends = tuple(self.orders.values()), tuple(self.ends)
        self.orders, self.ends = {}, []
        return orders, ends
