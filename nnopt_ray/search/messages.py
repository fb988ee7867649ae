"""What a study and the crews that train for it say to each other, and how a fault is told."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnopt_ray.errors import NnoptError, NotANumber, RunFailed
from nnopt_ray.results import Epoch


@dataclass(frozen=True)
class Copy:
    """Weights and optimizer of another trial, as they were after so many of its epochs."""

    donor: str
    donor_epochs: int
    at: int  # after how many of its own epochs the trial takes them over


@dataclass(frozen=True)
class Order:
    """Train a trial until it has done `until` epochs (None: to its end); it is begun if it is not here yet."""

    trial: str
    params: Mapping[str, Any]
    until: int | None = None
    copy: Copy | None = None  # to be taken over first; `params` are those that it goes on with
    # What a copy gives it that was ordered before: its folder may have it, and the driver not know, after a kill.
    copied_params: Mapping[str, Any] | None = None
    place: int = 0  # in the logical order of a reproducible search


@dataclass(frozen=True)
class End:
    """A trial is over, or pauses: its state is written and its place is free."""

    trial: str
    reason: str = ""


@dataclass(frozen=True)
class Failure:
    """Why a trial failed. `kind`: not-a-number, memory, storage, part (the user's or ours)."""

    kind: str
    message: str  # one sentence


@dataclass
class Report:
    """What came of one trial: epochs done, resumed ones included the first time, and whether it is over."""

    trial: str
    epochs: list[Epoch] = field(default_factory=list)
    done: bool = False
    reason: str = ""
    failure: Failure | None = None
    ended: bool = False  # an End was carried out
    copied: int = 0  # the `at` of a Copy that was carried out
    parameters: int = 0


@dataclass(frozen=True)
class Answer:
    """What came of one call. `lanes`: how many trials there is place for, as far as was measured."""

    reports: tuple[Report, ...]
    notes: tuple[str, ...] = ()
    lanes: int = 1


@dataclass(frozen=True)
class Demand:
    """What there is to do, for choosing how to do it. `most`: lanes that would be of use to one worker."""

    most: int
    epochs: int  # left for one worker
    total: int = 1  # trials that the search asks for, from its first on
    width: int = 1  # of a reproducible search: rows of its packs


def is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


class ToldFailure(Exception):
    """What another process has told of its failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def failure_of(error: BaseException, own_place: str) -> Failure:
    """The cause, told apart: what is evidence about the point, what is not.

    `own_place`: where a part of the page's own stood, empty when there was none.
    """
    if isinstance(error, ToldFailure):
        return error.failure
    if isinstance(error, NotANumber):
        return Failure("not-a-number", str(error))
    if is_memory(error):
        return Failure("memory", f"out of memory: {error}")
    if isinstance(error, RunFailed):
        return Failure("storage", str(error))
    if isinstance(error, NnoptError):
        return Failure("part", str(error))
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = own_place or f"{Path(where.filename).name}:{where.lineno}"
    return Failure("part", f"{type(error).__name__}: {error} ({place})")
