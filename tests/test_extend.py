"""A search that goes on with more trials or other ranges, after its end and in its middle, with every scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fault_example import SCHEDULERS, Killed, cut, judge_whole, page

import nnopt_ray as nn
from nnopt_ray import rundir
from nnopt_ray.rundir import RunDir

WIDER = "train.optimizer.lr={log: [1.0e-4, 1.0]}"
NARROWER = "train.optimizer.lr={log: [1.0e-2, 0.1]}"
METHODS = {"hyperband": "bohb", "asha": "bayesian", "asha promote": "cma_es", "median": "quasi_random"}


class Noting(nn.Watch):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


def ended(run: Path) -> dict[str, Any]:
    return {e["trial"]: e for e in rundir.read_lines(RunDir(run).journal) if e["event"] == "ended"}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_finished_search_goes_on(tmp_path: Path, scheduler: str) -> None:
    run = nn.run(page(tmp_path, scheduler, METHODS.get(scheduler, "random")), tmp_path / "out")
    for times, ranges in enumerate([(), (WIDER,), (NARROWER,)], start=2):
        before, watch = ended(run.path), Noting()
        run = nn.resume(run.path, trials=5 + 3 * times, set=ranges, watch=watch)
        judge_whole(run)
        after = ended(run.path)
        assert {trial: after[trial] for trial in before} == before, "what has ended is not touched"
        assert len(after) == 5 + 3 * times
        assert "longer suggests" not in " ".join(watch.notes)
        assert any(f"measured for the {times}" in note for note in watch.notes), watch.notes
    lr = run.trials["param.train.optimizer.lr"].iloc[-3:]
    if scheduler != "pbt":
        assert lr.between(1e-2, 0.1).all()


@pytest.mark.parametrize("reproducible", [pytest.param("false", marks=pytest.mark.slow), "true"])
@pytest.mark.parametrize("scheduler", ["none", "hyperband", "pbt"])
def test_an_interrupted_search_goes_on_with_more(tmp_path: Path, scheduler: str, reproducible: str) -> None:
    experiment = page(tmp_path, scheduler, more=f"reproducible: {reproducible}")
    for at, ranges in ((50, ()), (110, (WIDER,)), (170, (NARROWER,))):
        out = tmp_path / str(at)
        with pytest.raises(Killed), cut(at):
            nn.run(experiment, out)
        (folder,) = out.iterdir()
        before = ended(folder)
        run = nn.resume(folder, trials=10, set=ranges)
        judge_whole(run)
        after = ended(folder)
        assert {trial: after[trial] for trial in before} == before
        assert len(after) == 10


def test_fewer_trials_and_other_ranges_hold_from_now_on(tmp_path: Path) -> None:
    """A method that learns nothing could be asked for all of its trials at once: they would be of the old page."""
    experiment = nn.load(page_of(tmp_path), set={"search.trials": 100})
    with pytest.raises(Killed), cut(120):
        nn.run(experiment, tmp_path / "out")
    (folder,) = (tmp_path / "out").iterdir()
    begun = len({e["trial"] for e in rundir.read_lines(RunDir(folder).journal) if e["event"] == "asked"})
    run = nn.resume(folder, trials=begun + 4, set=[NARROWER])
    judge_whole(run)
    assert len(run.trials) == begun + 4 < 20
    assert run.trials["param.train.optimizer.lr"].iloc[begun:].between(1e-2, 0.1).all()


def page_of(folder: Path) -> Path:
    page(folder, resources="fuse: always, lanes: 4")
    return folder / "page.yaml"


def test_an_extension_that_was_cut_off_is_healed(tmp_path: Path) -> None:
    """The journal has been told, and the page not written."""
    run = nn.run(page(tmp_path, "asha"), tmp_path / "out")
    folder = RunDir(run.path)
    before = folder.resolved.read_bytes(), folder.result.read_bytes(), folder.report.read_bytes()
    nn.resume(run.path, trials=10)
    lines = folder.journal.read_bytes().splitlines(keepends=True)
    (at,) = [index for index, line in enumerate(lines) if b'"event": "extended"' in line]
    folder.journal.write_bytes(b"".join(lines[: at + 1]))
    for path, content in zip((folder.resolved, folder.result, folder.report), before, strict=True):
        path.write_bytes(content)
    assert len(judge_whole(nn.resume(run.path))) > at
    assert len(nn.open_run(run.path).trials) == 10


def test_the_places_of_a_reproducible_search_stay(tmp_path: Path) -> None:
    with pytest.raises(Killed), cut(60):
        nn.run(page(tmp_path, more="reproducible: true, concurrency: 3"), tmp_path / "out")
    (folder,) = (tmp_path / "out").iterdir()
    with pytest.raises(nn.UserError, match=r"search.concurrency: it was 3.*with 2 it would be another"):
        nn.resume(folder, set=["search.concurrency=2"])
    assert len(nn.resume(folder).trials) == 8
