"""What a search says: each trial once in the log, on a screen as fast as it can be read, and how far it is."""

from __future__ import annotations

import io
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnopt_ray import reading
from nnopt_ray.cli import console
from nnopt_ray.cli.console import BURST, LINES_PER_S, PROGRESS_EVERY_S, Screen, duration
from nnopt_ray.errors import RunFailed, RunFolderError
from nnopt_ray.log import Logged, said, trial_line
from nnopt_ray.pipeline import Watch
from nnopt_ray.results import Epoch, Progress, TrialRow
from nnopt_ray.rundir import RunDir
from nnopt_ray.search.pace import Pace

SEARCH = {
    "data": {"source": {"type": "sklearn", "name": "wine"}},
    "model": "mlp",
    "train": {"epochs": 3, "optimizer": {"type": "adam", "lr": {"log": [1e-4, 1e-1]}}},
}


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def row(number: int, status: Any = "finished", value: float | None = 0.5) -> TrialRow:
    failed = status == "failed"
    reason = "the loss is not a number" if failed else ""
    params = {"train.optimizer.lr": 0.001 * number}
    return TrialRow(f"{number:04d}", status, reason, params, 3, 1, 0.1, None if failed else value, {}, ())


@pytest.fixture
def clock() -> Clock:
    return Clock()


def screen_of(clock: Clock) -> Screen:
    return Screen(reading.from_tree(SEARCH), clock=clock)


# --- the log ------------------------------------------------------------------------------------


class Counting(Watch):
    """Counts what is passed on to it."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def note(self, sentence: str) -> None:
        self.seen.append("note")

    def begin(self, total: int, workers: int, over: Any) -> None:
        self.seen.append("begin")

    def epoch(self, epoch: Epoch) -> None:
        self.seen.append("epoch")

    def progress(self, state: Progress) -> None:
        self.seen.append("progress")

    def trial(self, row: TrialRow, best: TrialRow | None) -> None:
        self.seen.append("trial")


def test_the_log_has_a_line_for_all_that_was_said_and_passes_it_on(tmp_path: Path) -> None:
    run, inner = RunDir(tmp_path), Counting()
    with Logged(inner, run, "val_loss", 3) as watch:
        watch.begin(total=500, workers=2, over={})
        watch.note("one\ntwo")
        for number in range(1, 501):
            watch.trial(row(number), row(1))
            watch.progress(Progress(total=500))
        watch.epoch(Epoch(0, {"val_loss": 0.25}, 0.1, 1.0, 0.1))
    lines = run.log.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  \S|^ {21}two$", line) for line in lines)
    assert [line[21:] for line in lines[:3]] == ["500 trials on 2 workers", "one", "two"]
    assert [line[21:31] for line in lines[3:503]] == [f"trial {number:04d}" for number in range(1, 501)]
    assert lines[503].endswith("epoch 0  val_loss 0.25  lr 0.1")
    assert lines[504][21:] == "done"
    assert {kind: inner.seen.count(kind) for kind in inner.seen} == {
        "begin": 1, "note": 1, "trial": 500, "progress": 500, "epoch": 1}  # fmt: skip


def test_a_resumed_run_goes_on_in_its_log(tmp_path: Path) -> None:
    run = RunDir(tmp_path)

    def cut_short() -> None:
        with Logged(Watch(), run, "val_loss", 3) as watch:
            watch.trial(row(1), None)
            raise RunFailed("the disk is full.")

    with pytest.raises(RunFailed):
        cut_short()
    with Logged(Watch(), run, "val_loss", 3) as watch:
        watch.begin(total=5, workers=1, over={"finished": 1})
    assert [line[21:] for line in run.log.read_text().splitlines()] == [
        trial_line(row(1), "val_loss", best=False), "the disk is full.",
        "5 trials on 1 worker, 1 of them over already", "done"]  # fmt: skip


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    RunDir(tmp_path).log.mkdir()
    with pytest.raises(RunFolderError, match=r"log\.txt cannot be written: Is a directory"):
        Logged(Watch(), RunDir(tmp_path), "val_loss", 3).__enter__()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_told_to_the_run_and_not_hidden_by_the_log(tmp_path: Path) -> None:
    RunDir(tmp_path).log.symlink_to("/dev/full")
    with (
        pytest.raises(OSError, match="No space left") as caught,
        Logged(Watch(), RunDir(tmp_path), "val_loss", 3) as watch,
    ):
        watch.note("x")
    assert caught.value.errno is not None, "a caller tells a full disk by it"


# --- the screen ---------------------------------------------------------------------------------


def test_a_slow_search_shows_every_trial(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    screen = screen_of(clock)
    for number in range(1, 101):
        clock.now += 1 / LINES_PER_S
        screen.trial(row(number), row(1))
    screen.close()
    assert len(capsys.readouterr().out.splitlines()) == 100


def test_a_fast_search_shows_what_can_be_read(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """10,000 trials in ten seconds, some of them failures, eight of them better than all before."""
    screen = screen_of(clock)
    best = row(1, value=1.0)
    better = {2**power for power in range(6, 14)}
    for number in range(1, 10_001):
        clock.now += 1e-3
        this = row(number, "failed" if number % 7 == 5 else "finished", value=1.0 / number)
        best = this if number in better else best
        screen.trial(this, best)
    screen.close()
    lines = capsys.readouterr().out.splitlines()
    room = 10 * LINES_PER_S + BURST
    assert len(lines) <= 2 * room + len(better) + 2
    shown = [line for line in lines if line.startswith("trial ")]
    assert better <= {int(line.split()[1]) for line in shown if line.endswith("best so far")}
    failed = sum("failed after" in line for line in shown)
    assert 0.8 * room <= failed <= room, "failures have room of their own"
    assert sum("faster than lines can be read" in line for line in lines) == 1
    assert lines[-1] == f"{10_000 - len(shown)} trials not shown here; log.txt has a line for each."


STATE = Progress(total=64, running=4, paused=3, finished=10, stopped=5, failed=1, epochs=200, epochs_per_s=35.21,
                 workers=2, lanes=16, lanes_filled=7, left_s=754.0, best=row(7, value=0.03215))  # fmt: skip


def test_away_from_a_terminal_a_line_now_and_then_tells_how_far_it_is(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = screen_of(clock)
    screen.begin(total=64, workers=2, over={})
    for _ in range(int(PROGRESS_EVERY_S * 10 * 3.5)):
        clock.now += 0.1
        screen.progress(STATE)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["64 trials on 2 workers"] + 3 * [
        "trials 16 of 64 done, 4 running, 3 paused, 5 stopped early, 1 failed; "
        "speed 2 workers, 7 of 16 lanes filled, 35.2 epochs/s, about 13 min left; "
        "best val_loss 0.03215 in trial 0007: lr=0.007"
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_a_table_stands_below_the_lines(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(console.sys, "stdout", terminal)
    screen = Screen(reading.from_tree(SEARCH), clock=clock)
    screen.begin(total=64, workers=2, over={"finished": 10, "stopped": 5, "failed": 1})
    screen.progress(STATE)
    for _ in range(1000):  # the table is for looking, no lines beside it
        clock.now += 1
        screen.progress(STATE)
    assert screen._live is not None
    screen._live.refresh()
    screen.trial(row(8), row(7, value=0.03215))
    screen.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    for words in (
        "trials  16 of 64 done, 4 running, 3 paused, 5 stopped early, 1 failed",
        "speed   2 workers, 7 of 16 lanes filled, 35.2 epochs/s, about 13 min left",
        "best    val_loss 0.03215 in trial 0007: lr=0.007",
    ):
        assert words in text
    assert text.count("trial 0008  val_loss 0.5") == 1


def test_what_is_not_known_is_not_shown() -> None:
    def told(state: Progress) -> str:
        return "; ".join(text for _, text in console._standing(state, "val_loss"))

    beginning = told(Progress(total=8, workers=1))
    assert beginning == "0 of 8 done, 0 running, 0 stopped early, 0 failed; 1 worker"
    assert "12,346 epochs/s" in told(replace(STATE, epochs_per_s=12345.6))


def test_a_duration_is_as_exact_as_an_estimate_deserves() -> None:
    told = {
        0.2: "0 s",
        89: "89 s",
        91: "2 min",
        3600: "60 min",
        12_060: "3 h 21 min",
        10_800: "3 h",
        200_000: "2 d 7 h",
    }
    assert {seconds: duration(seconds) for seconds in told} == told


def test_values_are_named_by_the_shortest_words_that_tell_them_apart() -> None:
    params = {"model.widths.0": 8, "train.optimizer": "adam", "train.optimizer.lr": 0.00012346, "train.schedule.lr": 1}
    assert said(params) == "widths.0=8 optimizer=adam optimizer.lr=0.0001235 schedule.lr=1"


# --- the pace -----------------------------------------------------------------------------------


def test_the_pace_is_that_of_late_and_the_rest_is_judged_by_epochs() -> None:
    pace = Pace()
    assert pace.seen(100, 20, 1000, 200, now=0.0) == (0.0, None), "an earlier process did these"
    for tenth in range(1, 1001):
        rate, left = pace.seen(100, 20, 1000 + 5 * tenth, 200, now=tenth / 10)
    assert rate == pytest.approx(50)
    assert left == 0.0, "trials of 10 epochs: more has been done than was to be expected"
    for tenth in range(1, 301):
        rate, left = pace.seen(1000, 700, 6000 + tenth, 7000, now=100 + tenth / 10)
    assert rate == pytest.approx(10), "the faster past is out of the window"
    assert left == pytest.approx((1000 * 10 - 6300) / 10)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 50)), max_size=60))
def test_a_pace_is_never_negative(steps: list[tuple[float, int]]) -> None:
    pace, now, epochs = Pace(), 0.0, 0
    for seconds, more in steps:
        now, epochs = now + seconds, epochs + more
        rate, left = pace.seen(50, min(50, epochs // 3), epochs, epochs // 2, now=now)
        assert rate >= 0
        assert left is None or left >= 0
