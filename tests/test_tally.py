"""Who trained what, and whether a worker is told to be slow."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

import nnopt_ray as nn
from nnopt_ray.results import Epoch
from nnopt_ray.search.messages import Answer, Report
from nnopt_ray.search.seat import Seat
from nnopt_ray.search.tally import ENOUGH, SLOW, Tally
from nnopt_ray.search.trial import Trial

PAGE = {
    "name": "tally",
    "data": {"source": {"type": "sklearn", "name": "iris"}},
    "model": {"type": "mlp", "widths": {"choice": [[8], [512, 512]]}},
    "train": {"epochs": 50, "optimizer": {"type": "adam", "lr": {"log": [1e-3, 1e-1]}}},
    "search": {"method": "random", "trials": 9},
}


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def tally(tmp_path: Path, said: list[str]) -> Tally:
    (tmp_path / "page.yaml").write_text(json.dumps(PAGE))
    return Tally(nn.load(tmp_path / "page.yaml"), said.append)


names = (f"{n:04d}" for n in itertools.count(1))


def seat(number: int, lanes: int = 1, widths: tuple[int, ...] = (8,)) -> Seat:
    """A worker that has trials of this shape, which differ in what a lane has for itself."""
    found = Seat(number, node=f"host-{number}", lanes=lanes)
    for _ in range(lanes):
        trial = Trial(next(names), {"model.widths": list(widths), "train.optimizer.lr": number / 10})
        found.trials[trial.id] = trial
    return found


def trains(tally: Tally, seat: Seat, seconds: float, epochs: int = 1, lanes: int = 0) -> None:
    """As the study hears it: a report, and then the ledger knows. `seconds` of a round of so many lanes, 0: all."""
    live = list(seat.trials.values())[: lanes or None]
    for _ in range(epochs):
        seconds += 1e-9  # no two rounds take the same
        told = [Report(t.id, [Epoch(len(t.values), {}, 0.1, 0.0, seconds / len(live))]) for t in live]
        tally.count([(seat, Answer(tuple(told)))])
        for trial in live:
            trial.values.append(0.0)


def test_a_worker_that_is_much_slower_is_told_once(tally: Tally, said: list[str]) -> None:
    quick, slow = seat(1), seat(2)
    for _ in range(9):
        trains(tally, quick, 0.1)
        trains(tally, slow, 1.0)
    (sentence,) = said
    assert sentence.startswith("Worker 2 on host-2 takes 10 times as long for an epoch as the others (1 s, they 0.1 s)")


def test_one_slow_epoch_is_no_slow_worker(tally: Tally, said: list[str]) -> None:
    one, other = seat(1), seat(2)
    for n in range(20):
        trains(tally, one, 0.1 * SLOW * 0.9)
        trains(tally, other, 5.0 if n % 5 == 0 else 0.1)
    assert said == []


@pytest.mark.parametrize(("lanes", "widths"), [(8, (8,)), (1, (512, 512))], ids=["wider packs", "larger networks"])
def test_more_work_is_no_slowness(tally: Tally, said: list[str], lanes: int, widths: tuple[int, ...]) -> None:
    """Only epochs of the same shape, as many in a step, are compared."""
    small, large = seat(1), seat(2, lanes, widths)
    for _ in range(9):
        trains(tally, small, 0.1)
        trains(tally, large, 3.0)
    assert said == []


def test_a_worker_is_compared_when_there_is_enough_to_compare(tally: Tally, said: list[str]) -> None:
    quick, slow = seat(1), seat(2)
    trains(tally, slow, 1.0, epochs=1 + ENOUGH)  # of a trial's first report on a worker part may be another's
    trains(tally, quick, 0.1, epochs=1 + ENOUGH - 1)
    trains(tally, slow, 1.0)
    assert said == []
    trains(tally, quick, 0.1)
    trains(tally, slow, 1.0)
    assert len(said) == 1


def test_epochs_of_so_little_work_that_calls_are_most_of_it_are_not_judged(tally: Tally, said: list[str]) -> None:
    quick, slow = seat(1), seat(2)
    for _ in range(9):
        trains(tally, quick, 0.001)
        trains(tally, slow, 0.05)
    assert said == []


def test_lanes_that_wait_while_others_train_make_no_worker_slow(tally: Tally, said: list[str]) -> None:
    full, waiting = seat(1, lanes=8), seat(2, lanes=8)
    for seconds in (0.8, 0.1):  # seconds of a round follow from the lanes that are in it
        lanes = round(8 * seconds / 0.8)
        trains(tally, full, 0.8, epochs=7)
        trains(tally, waiting, seconds, epochs=7, lanes=lanes)
    assert said == []


def test_a_slow_pack_is_told(tally: Tally, said: list[str]) -> None:
    quick, slow = seat(1, lanes=8), seat(2, lanes=8)
    for _ in range(7):
        trains(tally, quick, 0.2, lanes=5)
        trains(tally, slow, 2.0, lanes=5)
    assert len(said) == 1
    assert "10 times as long for an epoch as the others (2 s, they 0.2 s)" in said[0]


def test_a_new_process_in_a_seat_is_not_held_to_be_as_slow_as_the_last_one(tally: Tally, said: list[str]) -> None:
    quick, slow = seat(1), seat(2)
    trains(tally, slow, 1.0, epochs=7)
    tally.begins(slow)
    trains(tally, slow, 0.1, epochs=1)
    for _ in range(7):
        trains(tally, quick, 0.1)
        trains(tally, slow, 0.1)
    assert said == []
