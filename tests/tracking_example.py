"""Trackers of a page's own: one that keeps what it is told, one that raises, one that never answers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from nnopt_ray.tracking.tracker import Course, Told, Tracker

CALLS: list[tuple[Any, ...]] = []
NEVER = threading.Event()


class Recorded(Tracker):
    """Keeps what it is told in CALLS."""

    def open(self, course: Course, known: str) -> str:
        CALLS.append(("open", course, known))
        return "run-1"

    def begin(self, trial: str, params: Mapping[str, Any], known: str) -> str:
        CALLS.append(("begin", trial, dict(params), known))
        return f"id-{trial}"

    def epochs(self, trial: str, epochs: Sequence[Mapping[str, float]]) -> None:
        CALLS.extend(("epoch", trial, dict(epoch)) for epoch in epochs)

    def end(self, trial: str, status: str, reason: str, metrics: Mapping[str, float]) -> None:
        CALLS.append(("end", trial, status, dict(metrics)))

    def settle(self) -> None:
        """Nothing is on its way."""

    def close(self, told: Told) -> None:
        CALLS.append(("close", told))


class Broken(Recorded):
    """A server that went away."""

    def epochs(self, trial: str, epochs: Sequence[Mapping[str, float]]) -> None:
        raise ConnectionError("no route to host")


class Hanging(Recorded):
    """A server that takes a call and never answers."""

    def open(self, course: Course, known: str) -> str:
        NEVER.wait()
        return ""
