"""A search that is cut off wherever it writes, several times, and resumed: nothing is lost, nothing is done twice."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from fault_example import SCHEDULERS, Killed, cut, judge_whole, page, run_with_cuts

import nnopt_ray as nn
from nnopt_ray.rundir import RunDir
from nnopt_ray.search import journal as journals

QUICK = ("asha promote", "pbt")  # schedulers of the default run; the others in the long form
RESOURCES = ("fuse: always, lanes: 4", "fuse: never", "fuse: always, lanes: 8", "fuse: auto")


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))])
@pytest.mark.parametrize(
    "scheduler", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in SCHEDULERS]
)
def test_a_search_cut_anywhere_ends_whole(tmp_path: Path, scheduler: str, seed: int) -> None:
    draw = random.Random(seed)
    method = draw.choice(["random", "bayesian"]) if scheduler != "pbt" else "random"
    experiment = page(
        tmp_path, scheduler, method, every=draw.choice([1, 3, "auto"]), resources=draw.choice(RESOURCES),
        more=draw.choice(["reproducible: false", "confirm: {top: 2, seeds: 2}"]),
    )  # fmt: skip
    run, cuts = run_with_cuts(experiment, tmp_path / "out", [draw.randrange(1, 200) for _ in range(4)])
    assert cuts
    judge_whole(run)
    assert run.result["trials"]["total"] == 8


def test_the_best_weights_are_never_older_than_the_state(tmp_path: Path) -> None:
    """Cut between the two files of a checkpoint, a trial that need not train any more would keep older ones."""
    experiment = page(tmp_path, "asha promote", resources="fuse: never")
    for at in range(1, 60, 7):
        out = tmp_path / str(at)
        with pytest.raises(Killed), cut(at):
            nn.run(experiment, out)
        for trial in out.glob("*/trials/*/checkpoints"):
            states = list(trial.glob("epoch-*.safetensors"))
            assert not states or (trial / "best.safetensors").is_file(), at


def lines_until(journal: Path, kind: str) -> bytes:
    """A journal's content up to the last event of a kind, that one included."""
    found = journal.read_bytes().splitlines(keepends=True)
    last = max(index for index, line in enumerate(found) if f'"event": "{kind}"'.encode() in line)
    return b"".join(found[: last + 1])


@pytest.mark.parametrize(("scheduler", "kind"), [("asha promote", "gave_up"), ("asha", "stop"), ("hyperband", "pause")])
def test_what_was_decided_and_not_done_is_done(tmp_path: Path, scheduler: str, kind: str) -> None:
    run = nn.run(page(tmp_path, scheduler), tmp_path / "out")
    folder = RunDir(run.path)
    before = run.trials.drop(columns="seconds", errors="ignore")
    folder.journal.write_bytes(lines_until(folder.journal, kind))
    folder.result.unlink()
    again = nn.resume(run.path)
    judge_whole(again)
    if kind == "gave_up":
        after = again.trials.drop(columns="seconds", errors="ignore")
        assert after.equals(before), "trials that a process before trained keep their metrics and their reasons"


@pytest.mark.parametrize("torn", [1, 7, 40])
def test_a_torn_last_line_never_happened(tmp_path: Path, torn: int) -> None:
    experiment = page(tmp_path, "asha", resources="fuse: always, lanes: 4")
    with pytest.raises(Killed), cut(90):
        nn.run(experiment, tmp_path / "out")
    (folder,) = (tmp_path / "out").iterdir()
    journal = RunDir(folder).journal
    journal.write_bytes(journal.read_bytes()[:-torn])
    judge_whole(nn.resume(folder))


def test_other_resources_are_no_other_training(tmp_path: Path) -> None:
    experiment = page(tmp_path, "pbt", resources="fuse: never")
    with pytest.raises(Killed), cut(150):
        nn.run(experiment, tmp_path / "out")
    (folder,) = (tmp_path / "out").iterdir()
    notes: list[str] = []

    class Noting(nn.Watch):
        def note(self, sentence: str) -> None:
            notes.append(sentence)

    run = nn.resume(folder, set=["resources.fuse=always", "resources.lanes=4"], watch=Noting())
    assert not [note for note in notes if "anew" in note]
    judge_whole(run)


def test_a_search_without_any_value_ends_early(tmp_path: Path) -> None:
    experiment = page(tmp_path, resources="fuse: always, lanes: 4")
    spoiled: dict[str, Any] = {"train.optimizer.lr": {"log": [1e30, 1e35]}, "search.trials": 200}
    experiment = nn.load(tmp_path / "page.yaml", set=spoiled)
    with pytest.raises(nn.RunFailed, match=r"2\d trials have failed, and none gave a value for val_loss.*--set"):
        nn.run(experiment, tmp_path / "out")
    (folder,) = (tmp_path / "out").iterdir()
    ended = [event for event in journals.read(RunDir(folder).journal) if event["event"] == "ended"]
    assert len(ended) < 30
    run = nn.resume(folder, trials=26, set=["train.optimizer.lr={log: [1.0e-3, 0.3]}"])
    assert run.best["metrics"]["val_loss"] < 1
    ended = [event for event in journals.read(RunDir(folder).journal) if event["event"] == "ended"]
    assert ended[-1]["status"] == "finished"


def test_too_little_memory_for_lanes_is_enough_for_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnopt_ray.train.lanes import Pack

    own, calls = Pack.run_epoch, []

    def hungry(self: Pack, *arguments: Any, **keys: Any) -> Any:
        calls.append(self.width)
        found = own(self, *arguments, **keys)
        if len(calls) == 3:  # in the middle of an epoch, as far as the trials can tell
            raise MemoryError("no room for the gradients")
        return found

    monkeypatch.setattr(Pack, "run_epoch", hungry)
    notes: list[str] = []

    class Noting(nn.Watch):
        def note(self, sentence: str) -> None:
            notes.append(sentence)

    run = nn.run(page(tmp_path, resources="fuse: always, lanes: 4"), tmp_path / "out", watch=Noting())
    assert len(calls) == 3
    assert [note for note in notes if "one at a time from now on" in note and "out of memory" in note]
    judge_whole(run)
    assert run.result["trials"]["finished"] == 8
    page(tmp_path, resources="fuse: never")
    alone = nn.run(nn.load(tmp_path / "page.yaml"), tmp_path / "alone")
    assert list(run.trials["value"]) == pytest.approx(list(alone.trials["value"]), rel=1e-4)
