"""How a search went, read from its journal: who trained what and when, what was taken over, what was resumed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nnopt_ray.results import Status


@dataclass(frozen=True)
class Stint:
    """A trial in training on one worker, without a break. Seconds count the work on the search, without the
    time between an interruption and its resume; epochs count from 0, `last` is None when none was done."""

    trial: str
    worker: int
    begin_s: float
    end_s: float
    first: int
    last: int | None


@dataclass(frozen=True)
class Takeover:
    """A trial went on with weights and values that another had."""

    trial: str
    donor: str
    epochs: int  # it had done itself
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Course:
    """`confirming`: (trainings, epochs) of the confirmation. `resumed`: how often the search was taken up again."""

    stints: tuple[Stint, ...] = ()
    takeovers: tuple[Takeover, ...] = ()
    pauses: int = 0
    promotions: int = 0
    resumed: int = 0
    confirming: tuple[int, int] = (0, 0)

    @property
    def seconds(self) -> float:
        return max((stint.end_s for stint in self.stints), default=0.0)


# What an event of the journal leaves a trial as; `ended` says it itself.
LEFT_AS: dict[str, Status] = {"asked": "pending", "paused": "paused", "promoted": "pending"}


def status_of(event: Mapping[str, Any]) -> Status:
    """The status of a trial from the latest that its journal says of it."""
    if event.get("event") == "ended":
        status: Status = event["status"]
        return status
    return LEFT_AS.get(event.get("event", ""), "running")


def course_of(events: Iterable[Mapping[str, Any]]) -> Course:
    """The course that the events of a journal tell."""
    reading = _Reading()
    for event in events:
        reading.take(event)
    return reading.course()


class _Reading:
    def __init__(self) -> None:
        self._stints: list[Stint] = []
        self._open: dict[str, tuple[int, float, int]] = {}  # trial → worker, since when, from which epoch
        self._epochs: dict[str, int] = {}
        self._takeovers: list[Takeover] = []
        self._confirming: set[str] = set()
        self._counts = {"paused": 0, "promoted": 0, "resumed": 0}
        self._began: float | None = None
        self._last = self._gaps = 0.0

    def take(self, event: Mapping[str, Any]) -> None:
        kind, trial = event.get("event", ""), event.get("trial", "")
        if kind == "resumed":
            for name in list(self._open):
                self._close(name)
            self._gaps += max(0.0, event.get("t", self._last) - self._last)
        self._last = event.get("t", self._last)
        if self._began is None:
            self._began = self._last
        if kind in self._counts:
            self._counts[kind] += 1
        if kind == "asked" and event.get("confirms"):
            self._confirming.add(trial)
        elif kind == "started" and "t" in event:
            self._close(trial)
            self._open[trial] = (event["worker"], self._now(), event["epoch"])
        elif kind == "result":
            self._epochs[trial] = max(self._epochs.get(trial, 0), event["epoch"] + 1)
        elif kind == "copied":
            epochs = self._epochs.get(trial, 0)
            self._takeovers.append(Takeover(trial, event["donor"], epochs, event["params"]))
        elif kind in ("paused", "ended"):
            self._close(trial)

    def _now(self) -> float:
        return self._last - (self._began or 0.0) - self._gaps

    def _close(self, trial: str) -> None:
        if trial in self._open:
            worker, since, first = self._open.pop(trial)
            done = self._epochs.get(trial, 0)
            last = done - 1 if done > first else None
            self._stints.append(Stint(trial, worker, round(since, 3), round(self._now(), 3), first, last))

    def course(self) -> Course:
        for trial in list(self._open):
            self._close(trial)
        epochs = sum(self._epochs.get(trial, 0) for trial in self._confirming)
        return Course(
            stints=tuple(sorted(self._stints, key=lambda stint: (stint.begin_s, stint.trial))),
            takeovers=tuple(self._takeovers),
            pauses=self._counts["paused"],
            promotions=self._counts["promoted"],
            resumed=self._counts["resumed"],
            confirming=(len(self._confirming), epochs),
        )
