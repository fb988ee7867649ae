"""What a tracker is: a place elsewhere where the runs of many people, or of many programs, are looked at together."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nnopt_ray.errors import MissingExtra


@dataclass(frozen=True)
class Course:
    """The run that is followed. `search`: whether it has many trials; else the one training is the run itself."""

    name: str
    root: Path
    place: str  # its folder or URL, as users know it
    about: Mapping[str, str]
    page: Mapping[str, Any]  # dotted path → value of what the page says, ranges as they are written
    search: bool


@dataclass(frozen=True)
class Told:
    """How a run came out. scores: `test_accuracy`, `test_accuracy_low`, `baseline_accuracy`, ... → value."""

    status: str
    best_trial: str
    scores: Mapping[str, float]
    report: Path | None


class Tracker(ABC):
    """A part of the room `tracking`. Its calls come from one thread of its own, one after another.

    A tracker may raise anything and take any time: it is switched off, or left behind, and the run is not touched.
    """

    needs: ClassVar[tuple[str, str]] = ("", "")  # the package to import, and what pip calls it

    @classmethod
    def missing(cls, name: str) -> None:
        """Raises MissingExtra where its package is not installed; imports nothing."""
        package, install = cls.needs
        if package and importlib.util.find_spec(package) is None:
            raise MissingExtra(
                f"tracking: '{name}' needs the package {install}: pip install {install}, or pip install "
                "'nnopt-ray[track]' for all trackers."
            )

    @abstractmethod
    def open(self, course: Course, known: str) -> str:
        """Connect, and begin the run or go on with it. known: what this gave when the run began, else empty."""

    @abstractmethod
    def begin(self, trial: str, params: Mapping[str, Any], known: str) -> str:
        """Begin a trial, or go on with it. params: dotted path → value. Known as in `open`."""

    @abstractmethod
    def epochs(self, trial: str, epochs: Sequence[Mapping[str, float]]) -> None:
        """New epochs of a trial that has begun: each has `epoch` (from 0), the metrics, lr, grad_norm, seconds."""

    @abstractmethod
    def end(self, trial: str, status: str, reason: str, metrics: Mapping[str, float]) -> None:
        """A trial is over: finished, stopped or failed. metrics: of its best epoch."""

    @abstractmethod
    def settle(self) -> None:
        """Let what was handed over be where it belongs; called before it is written down as told."""

    @abstractmethod
    def close(self, told: Told) -> None:
        """The run ends here: finished, interrupted or failed."""
