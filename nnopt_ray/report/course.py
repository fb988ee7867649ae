"""How a search went, read from its journal: who trained what and when, what was taken over, what was resumed."""

from __future__ import annotations

import math
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
class Presence:
    """A worker that could train, from when to when, in seconds of the search. Numbers of workers begin anew with each
    process that takes a search up. `told`: the journal says so; an older one leaves it to the stints: from the first
    to the end of the last."""

    worker: int
    begin_s: float
    end_s: float
    node: str = ""
    here: bool = False  # the process of the search itself
    told: bool = True


@dataclass(frozen=True)
class Takeover:
    """A trial went on with weights and values that another had."""

    trial: str
    donor: str
    epochs: int  # it had done itself
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Course:
    """`confirming`: (trainings, epochs) of the confirmation. `resumed`: how often the search was taken up again.
    `resumed_at`, `extended_at`: how many trials had been asked for then."""

    stints: tuple[Stint, ...] = ()
    presences: tuple[Presence, ...] = ()
    takeovers: tuple[Takeover, ...] = ()
    pauses: int = 0
    promotions: int = 0
    resumed: int = 0
    resumed_at: tuple[int, ...] = ()
    extended_at: tuple[int, ...] = ()
    confirming: tuple[int, int] = (0, 0)

    @property
    def seconds(self) -> float:
        return max((stint.end_s for stint in self.stints), default=0.0)


@dataclass(frozen=True)
class Worked:
    """What one worker did, in seconds: `there_s` it could train, `busy_s` of them it had at least one trial. `idle_s`
    is the rest: before its first trial, between two, and after its last."""

    worker: int
    node: str
    here: bool
    begin_s: float
    there_s: float
    busy_s: float
    before_s: float
    between_s: float
    after_s: float
    trials: int
    epochs: int
    told: bool

    @property
    def idle_s(self) -> float:
        return self.before_s + self.between_s + self.after_s


Span = tuple[float, float]


def merged(spans: Iterable[Span], gap: float = 0.0) -> list[Span]:
    """Spans that overlap, or are no more than `gap` apart, as one; in their order."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1] + gap:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((begin, end))
    return found


def between(there: Iterable[Span], busy: list[Span]) -> list[Span]:
    """What of `there` is left without `busy`, whose spans do not overlap and stand in order."""
    left = []
    for begin, end in there:
        at = begin
        for first, last in busy:
            if last > at and first < end:
                if first > at:
                    left.append((at, first))
                at = max(at, last)
        if at < end:
            left.append((at, end))
    return left


def worked(course: Course) -> tuple[Worked, ...]:
    """Each worker's time, in the order of their numbers."""
    found = []
    for number in sorted({each.worker for each in course.presences} | {each.worker for each in course.stints}):
        mine = [each for each in course.presences if each.worker == number]
        stints = [stint for stint in course.stints if stint.worker == number]
        there = merged((each.begin_s, each.end_s) for each in mine)
        idle = between(there, merged((stint.begin_s, stint.end_s) for stint in stints))
        there_s = sum(end - begin for begin, end in there)
        idle_s = sum(end - begin for begin, end in idle)
        first = min((stint.begin_s for stint in stints), default=math.inf)
        last = max((stint.end_s for stint in stints), default=math.inf)
        before_s = sum(end - begin for begin, end in idle if end <= first)
        after_s = sum(end - begin for begin, end in idle if begin >= last)
        found.append(
            Worked(
                worker=number,
                node=" or ".join(dict.fromkeys(each.node for each in mine if each.node)),
                here=bool(mine) and all(each.here for each in mine),
                begin_s=there[0][0] if there else first,
                there_s=there_s,
                busy_s=there_s - idle_s,
                before_s=before_s,
                between_s=idle_s - before_s - after_s,
                after_s=after_s,
                trials=len({stint.trial for stint in stints}),
                epochs=sum(stint.last - stint.first + 1 for stint in stints if stint.last is not None),
                told=all(each.told for each in mine),
            )
        )
    return tuple(found)


# What an event of the journal leaves a trial as; `ended` says it itself.
LEFT_AS: dict[str, Status] = {"asked": "pending", "paused": "paused", "promoted": "pending", "laid_down": "pending"}


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
        self._presences: list[Presence] = []
        self._there: dict[
            int, tuple[float, str, bool]
        ] = {}  # worker → since when, node, whether it is the search itself
        self._seen: dict[int, list[float]] = {}  # in this process: worker → when trials were begun and ended there
        self._epochs: dict[str, int] = {}
        self._takeovers: list[Takeover] = []
        self._confirming: set[str] = set()
        self._counts = {"paused": 0, "promoted": 0, "resumed": 0}
        self._asked = 0
        self._at: dict[str, list[int]] = {"resumed": [], "extended": []}
        self._began: float | None = None
        self._last = self._gaps = 0.0

    def take(self, event: Mapping[str, Any]) -> None:
        kind, trial = event.get("event", ""), event.get("trial", "")
        if kind == "resumed":
            self._all_leave()
            self._gaps += max(0.0, event.get("t", self._last) - self._last)
        self._last = event.get("t", self._last)
        if self._began is None:
            self._began = self._last
        if kind in self._counts:
            self._counts[kind] += 1
        if kind in self._at:
            self._at[kind].append(self._asked)
        self._asked += kind == "asked" and not event.get("confirms")
        if kind == "worker":
            self._worker(event)
        elif kind == "asked" and event.get("confirms"):
            self._confirming.add(trial)
        elif kind == "started" and "t" in event:
            self._close(trial)
            self._open[trial] = (event["worker"], self._now(), event["epoch"])
        elif kind == "result":
            self._epochs[trial] = max(self._epochs.get(trial, 0), event["epoch"] + 1)
        elif kind == "copied":
            epochs = self._epochs.get(trial, 0)
            self._takeovers.append(Takeover(trial, event["donor"], epochs, event["params"]))
        elif kind in ("paused", "ended", "laid_down"):
            self._close(trial)

    def _worker(self, event: Mapping[str, Any]) -> None:
        number = event["worker"]
        self._leaves(number)
        if event["state"] == "ready":
            self._there[number] = self._now(), event.get("node", ""), bool(event.get("here"))

    def _leaves(self, number: int) -> None:
        for name in [name for name, (worker, _, _) in self._open.items() if worker == number]:
            self._close(name)
        if number in self._there:
            since, node, here = self._there.pop(number)
            self._presences.append(Presence(number, round(since, 3), round(self._now(), 3), node, here))
            self._seen.pop(number, None)

    def _all_leave(self) -> None:
        """The process that led the search is no more."""
        for name in list(self._open):
            self._close(name)
        for number in list(self._there):
            self._leaves(number)
        for number, times in self._seen.items():
            self._presences.append(Presence(number, min(times), max(times), told=False))
        self._seen.clear()

    def _now(self) -> float:
        return self._last - (self._began or 0.0) - self._gaps

    def _close(self, trial: str) -> None:
        if trial in self._open:
            worker, since, first = self._open.pop(trial)
            done = self._epochs.get(trial, 0)
            last = done - 1 if done > first else None
            self._stints.append(Stint(trial, worker, round(since, 3), round(self._now(), 3), first, last))
            self._seen.setdefault(worker, []).extend((round(since, 3), round(self._now(), 3)))

    def course(self) -> Course:
        self._all_leave()
        epochs = sum(self._epochs.get(trial, 0) for trial in self._confirming)
        return Course(
            stints=tuple(sorted(self._stints, key=lambda stint: (stint.begin_s, stint.trial))),
            presences=tuple(sorted(self._presences, key=lambda each: (each.worker, each.begin_s))),
            takeovers=tuple(self._takeovers),
            pauses=self._counts["paused"],
            promotions=self._counts["promoted"],
            resumed=self._counts["resumed"],
            resumed_at=tuple(self._at["resumed"]),
            extended_at=tuple(self._at["extended"]),
            confirming=(len(self._confirming), epochs),
        )
