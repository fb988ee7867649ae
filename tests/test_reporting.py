"""The report of a run that goes on, was interrupted, or failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nnopt_ray as nn
from nnopt_ray import reading, reporting
from nnopt_ray.errors import Interrupted, RunFailed
from nnopt_ray.pipeline import Watch
from nnopt_ray.report.facts import Facts, facts_from_folder
from nnopt_ray.results import Epoch
from nnopt_ray.rundir import RunDir
from nnopt_ray.runs import Run


def page(**train: Any) -> nn.Experiment:
    return reading.from_tree(
        {
            "name": "iris",
            "data": {"source": {"type": "sklearn", "name": "iris"}},
            "model": {"type": "mlp", "widths": [8]},
            "train": {"epochs": 4} | train,
            "evaluate": {"bootstrap": 20},
        }
    )


class Looking(Watch):
    """Reads the report in each epoch, before that epoch's own rewriting."""

    def __init__(self, parent: Path) -> None:
        self.parent, self.epochs, self.seen, self.notes = parent, 0, [""], [""]

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def epoch(self, epoch: Epoch) -> None:
        self.epochs += 1
        found = list(self.parent.glob("iris-*/report.html"))
        self.seen.append(found[0].read_text() if found else "")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNOPT_CACHE", str(tmp_path / "cache"))


def head(text: str) -> str:
    return text[text.index("<header>") : text.index("</header>")]


def test_the_report_is_rewritten_while_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "EVERY_S", 0.0)
    monkeypatch.setattr(reporting, "SHARE", 1e9)
    watch = Looking(tmp_path)
    done = nn.run(page(), out=tmp_path, watch=watch)
    assert "The run is going on: 1 of at most 4\xa0epochs" in head(watch.seen[2])
    assert "The run is going on: 3 of at most 4\xa0epochs" in head(watch.seen[4])
    last = head((done.path / "report.html").read_text())
    assert "finished" in last
    assert "going on" not in last


def interrupted(tmp_path: Path) -> Run:
    watch = Looking(tmp_path)
    with pytest.raises(Interrupted):
        nn.run(page(), out=tmp_path, watch=watch, should_stop=lambda: watch.epochs == 2)
    return nn.open_run(next(tmp_path.glob("iris-*")))


def test_an_interrupted_run_has_a_report_until_it_is_resumed(tmp_path: Path) -> None:
    run = interrupted(tmp_path)
    text = head((run.path / "report.html").read_text())
    assert "The run was interrupted: 2 of at most 4\xa0epochs" in text
    assert f"nnopt resume {run.path}" in text
    assert nn.resume(run.path).finished
    assert "interrupted" not in head((run.path / "report.html").read_text())
    assert not RunDir(run.path).ended.exists()
    assert facts_from_folder(RunDir(run.path)).resumed == (2,)


def test_a_failed_run_has_a_report_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(RunFailed) as error:
        nn.run(page(optimizer={"type": "sgd", "lr": 1e30}), out=tmp_path)
    text = head(next(tmp_path.glob("iris-*/report.html")).read_text())
    assert "failed" in text
    assert str(error.value)[1:60] in text


def test_a_report_that_cannot_be_written_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnopt_ray.report import write

    original = write.write

    def broken(run: RunDir, facts: Facts) -> None:
        if not run.result.is_file():
            raise ZeroDivisionError("no")
        original(run, facts)

    monkeypatch.setattr(reporting, "EVERY_S", 0.0)
    monkeypatch.setattr(write, "write", broken)
    watch = Looking(tmp_path)
    assert nn.run(page(), out=tmp_path, watch=watch).finished
    assert [note for note in watch.notes if "report.html" in note] == [
        "report.html cannot be kept fresh: ZeroDivisionError('no'). The run is not touched by it."
    ]


@pytest.mark.parametrize(("cost_s", "times"), [(0.1, 20), (6.0, 2)])
def test_reports_take_their_share_of_the_time_and_no_more(
    cost_s: float, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes of epochs of a second each."""
    now = 0.0

    def write(self: reporting.Reported) -> None:
        nonlocal now
        now += cost_s
        self.written += 1

    monkeypatch.setattr(reporting.Reported, "_write", write)
    reported = reporting.Reported(Watch(), RunDir(tmp_path), clock=lambda: now)
    while now < 600:
        now += 1
        reported.epoch(Epoch(0, {}, 0.1, 1.0, 1.0))
    assert times - 1 <= reported.written <= times
