"""Who trained how much of a search: this process, or Ray's workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from nnopt_ray.experiment import Resources
from nnopt_ray.results import Epoch
from nnopt_ray.search.messages import Answer, Report
from nnopt_ray.search.seat import LONGEST_WAIT_S, Seat
from nnopt_ray.search.seats import Seats
from nnopt_ray.search.trial import Trial

MANY = "2, as many as this machine holds"


def seats(hired: bool) -> Seats:
    nothing = cast(Any, None)
    page = cast(Any, SimpleNamespace(resources=Resources()))
    made = Seats(page, nothing, cast(Any, SimpleNamespace(address=None)), nothing, False, nothing)
    made._hired = hired
    made.decided["workers"] = MANY if hired else "1: this process, as Ray would have taken longer to start"
    return made


def seat(here: bool, **known: int) -> Seat:
    """One that holds these trials, of which so many epochs are known."""
    trials = {name: Trial(name, {}, values=[0.0] * epochs, alike="the same") for name, epochs in known.items()}
    return Seat(0, crew=cast(Any, object()) if here else None, trials=trials)


def answer(trial: str, first: int, last: int) -> Answer:
    return Answer(reports=(Report(trial, [Epoch(n, {}, 0.0, 0.0, 0.0, ()) for n in range(first, last)]),))  # type: ignore[arg-type]


def test_work_done_before_the_workers_came_is_told() -> None:
    made = seats(hired=True)
    made._tally.count([(seat(True, a=0, b=0), answer("a", 0, 10)), (seat(True, a=0, b=0), answer("b", 0, 6))])
    made._tally.count([(seat(False, b=6), answer("b", 0, 10))])  # a first report holds the epochs of before too
    said = made.told()["workers"]
    assert said.startswith(MANY)
    assert "16 of 20 epochs" in said
    assert "1 of 2 trials" in said


def test_workers_that_came_too_late_trained_nothing() -> None:
    made = seats(hired=True)
    made._tally.count([(seat(True, a=0), answer("a", 0, 10)), (seat(False, a=0), ValueError())])
    assert made.told()["workers"].startswith("1: this process")


@pytest.mark.parametrize("here", [True, False])
def test_one_kind_alone_needs_no_word(here: bool) -> None:
    made = seats(hired=not here)
    made._tally.count([(seat(here, a=0), answer("a", 0, 10))])
    assert made.told() == made.decided


def test_a_process_that_dies_before_it_is_ready_is_followed_later_each_time() -> None:
    waiting = seat(here=False)
    waits = []
    for _ in range(6):
        waiting.wait(100.0)
        waits.append(waiting.not_before - 100.0)
    assert waits == [1.0, 2.0, 4.0, LONGEST_WAIT_S, LONGEST_WAIT_S, LONGEST_WAIT_S]
