"""Studies on a real Ray: rows, journal, failures, lost workers, interruption and resume."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_example import Noting, embedded

import nnopt_ray as nn
from nnopt_ray import holding, reading, rundir
from nnopt_ray.report.course import course_of, worked
from nnopt_ray.rundir import RunDir
from nnopt_ray.search import study

pytestmark = pytest.mark.ray

PARTS = '''
import os, resource, signal, time
import torch

class Moody(torch.nn.Module):
    """A network that misbehaves on demand."""

    def __init__(self, shapes, *, mood: str = "good", mark: str = ""):
        super().__init__()
        if mood == "broken":
            raise ValueError("this network cannot be built")
        if mood == "broken deeper":
            self.register_buffer("no.dots", None)
        self.mood, self.mark = mood, mark
        self.layer = torch.nn.Linear(shapes.features, shapes.outputs)

    def forward(self, x):
        out = self.layer(x.flatten(1))
        if self.training and self.mood == "nan":
            return out * float("nan")
        if self.training and self.mood == "slow":
            time.sleep(0.02)
        if self.training and self.mood == "fills the disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
        if self.mood == "dies":
            os._exit(1)
        if self.mood == "leaves":
            raise SystemExit(4)
        if self.mood == "dies once" and not os.path.exists(self.mark):
            open(self.mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return out
'''


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """One embedded Ray for the tests of this file; studies use a Ray that is there already."""
    with embedded(2):
        yield


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "moody_parts.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_page(folder: Path, **changes: Any) -> Path:
    tree: dict[str, Any] = {
        "name": "study",
        "seed": 5,
        "data": {"source": {"type": "sklearn", "name": "iris"}, "steps": ["scale"]},
        "model": {"type": "moody_parts:Moody"},
        "train": {"epochs": 6, "batch_size": 32, "optimizer": {"type": "adam", "lr": {"log": [1e-3, 1e-1]}}},
        "search": {"method": "random", "trials": 8},
        "evaluate": {"bootstrap": 50},
    }
    path = folder / "page.yaml"
    path.write_text(json.dumps({**tree, **changes}))
    return path


def events(run: nn.Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in rundir.read_lines(RunDir(run.path).journal) if event["event"] == kind]


def test_a_search_ends_in_a_whole_run_folder(here: Path) -> None:
    run = nn.run(nn.load(write_page(here)), here / "out")
    folder = RunDir(run.path)
    assert run.result["trials"] == {"total": 8, "finished": 8, "stopped": 0, "failed": 0}
    assert run.result["epochs_trained"] == 48
    table = run.trials
    assert list(table["trial"]) == [f"{i:04d}" for i in range(1, 9)]
    assert run.best["trial"] == table.loc[table["value"].idxmin(), "trial"]
    assert table["param.train.optimizer.lr"].between(1e-3, 1e-1).all()
    for path in (folder.page, folder.resolved, folder.environment, folder.report, folder.best_model, folder.scores):
        assert path.is_file(), path
    assert not list(run.path.rglob("*.pkl"))
    assert not list(run.path.rglob("*.part"))
    # A worker is a process, and trials share it.
    assert len({event["worker"] for event in events(run, "started")}) <= 2


def test_the_time_of_two_workers_is_busy_or_idle(here: Path) -> None:
    page = write_page(
        here, model={"type": "moody_parts:Moody", "mood": "slow"}, search={"method": "random", "trials": 16}
    )
    run = nn.run(nn.load(page), here / "out")
    folder = RunDir(run.path)
    course = course_of(rundir.read_lines(folder.journal))
    found = worked(course)
    assert len(found) == 2  # 16 trials of 0.3 s: time enough for one that is late
    assert sum(each.trials for each in found) == 16
    assert sum(each.epochs for each in found) == run.result["epochs_trained"]
    gone = {event["worker"]: event["t"] for event in events(run, "worker") if event["state"] == "gone"}
    came = {event["worker"]: event["t"] for event in events(run, "worker") if event["state"] == "ready"}
    for each in found:
        assert each.busy_s + each.idle_s == pytest.approx(gone[each.worker] - came[each.worker], abs=0.01)
        # What the workers themselves measured of their epochs fits into the time that they were busy.
        lines = {
            stint.trial: list(rundir.read_lines(folder.trial(stint.trial).history))
            for stint in course.stints
            if stint.worker == each.worker
        }
        trained_s = sum(line["seconds"] for found in lines.values() for line in found)
        # A worker that was late, on a busy machine, may find that the other has done everything.
        assert 0 < trained_s < each.busy_s or trained_s == each.busy_s == each.trials == 0
    assert "The 2 workers had a trial in training" in folder.report.read_text()


def test_a_trial_run_alone_gives_the_same_numbers(here: Path) -> None:
    run = nn.run(nn.load(write_page(here)), here / "out")
    best = RunDir(run.path).trial(run.best["trial"])
    alone = nn.run(nn.load(best.page), here / "alone")
    told = [{k: v for k, v in line.items() if k != "seconds"} for line in rundir.read_lines(best.history)]
    again = RunDir(alone.path).trial("0001").history
    assert [{k: v for k, v in line.items() if k != "seconds"} for line in rundir.read_lines(again)] == told
    assert alone.result["test"] == run.result["test"]


def test_failed_trials_are_rows_with_their_reasons(here: Path) -> None:
    page = write_page(
        here,
        model={"type": "moody_parts:Moody", "mood": {"choice": ["good", "broken", "broken deeper", "nan"]}},
        search={"method": "grid"},
        train={"epochs": 3},
    )
    run = nn.run(nn.load(page), here / "out")
    table = run.trials.set_index("param.model.mood")
    assert table.loc["good", "status"] == "finished"
    assert table.loc["broken", "status"] == table.loc["nan", "status"] == "failed"
    assert "this network cannot be built" in table.loc["broken", "reason"]
    assert "train.optimizer.lr" in table.loc["nan", "reason"]
    assert "(moody_parts.py:" in table.loc["broken deeper", "reason"], "the user's own line, not the library's"
    assert math.isnan(table.loc["nan", "value"])
    assert run.result["trials"]["failed"] == 3
    assert "ValueError" in RunDir(run.path).trial(table.loc["broken", "trial"]).error.read_text()


def test_the_same_fault_three_times_ends_the_study_with_one_sentence(here: Path) -> None:
    page = write_page(here, model={"type": "moody_parts:Moody", "mood": "broken"})
    from ray.actor import ActorHandle

    with pytest.raises(nn.RunFailed, match=r"3 trials in a row failed in the same way.*cannot be built") as failed:
        nn.run(nn.load(page), here / "out")
    # A handle that is forgotten while Ray ends, in its thread, ends this process too.
    assert failed.value.__traceback__ is not None
    assert not [each for each in gc.get_objects() if type(each) is ActorHandle]


@pytest.mark.slow
def test_workers_that_always_die_end_the_study_too(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "LOST_WORKER_TRIES", 1)
    page = write_page(here, model={"type": "moody_parts:Moody", "mood": "dies"})
    with pytest.raises(nn.RunFailed, match=r"3 trials in a row failed in the same way.*its process was killed"):
        nn.run(nn.load(page), here / "out")


def test_a_full_disk_ends_the_study_with_one_sentence(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The worker's system refuses every write beyond 500 bytes."""
    page = write_page(here, model={"type": "moody_parts:Moody", "mood": "fills the disk"})
    with pytest.raises(nn.RunFailed, match=r"cannot write .*/trials/0.*File too large"):
        nn.run(nn.load(page), here / "out")
    gc.collect()  # Ray tells of an answer that nobody took when it is forgotten
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed
    assert "Unhandled" not in printed


def test_a_part_that_exits_is_a_failed_trial_and_its_worker_goes_on(here: Path) -> None:
    mood = {"choice": ["good", "leaves"]}
    page = write_page(here, model={"type": "moody_parts:Moody", "mood": mood}, search={"method": "grid"}, train={})
    table = nn.run(nn.load(page), here / "out").trials.set_index("param.model.mood")
    assert table.loc["good", "status"] == "finished"
    assert table.loc["leaves", "reason"].startswith("SystemExit: 4 (moody_parts.py:")


def test_a_study_without_any_value_says_why(here: Path) -> None:
    page = write_page(
        here, model={"type": "moody_parts:Moody", "mood": "nan"}, search={"method": "random", "trials": 2}
    )
    with pytest.raises(nn.RunFailed, match=r"no trial gave a value for val_loss.*became nan"):
        nn.run(nn.load(page), here / "out")


def test_a_killed_worker_costs_its_trial_nothing(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mark = here / "killed"
    page = write_page(here, model={"type": "moody_parts:Moody", "mood": "dies once", "mark": str(mark)})
    watch = Noting()
    run = nn.run(nn.load(page), here / "out", watch=watch)
    assert mark.exists()
    assert run.result["trials"]["finished"] == 8
    assert any("goes on from its checkpoint" in note for note in watch.notes)
    assert "raylet" not in "".join(capfd.readouterr())  # standard output may be promised to JSON
    undisturbed = nn.run(nn.load(page), here / "again")
    assert list(run.trials["value"]) == list(undisturbed.trials["value"])


@pytest.mark.parametrize(
    ("method", "stop_after"),
    [
        ("random", 1),
        pytest.param("bayesian", 4, marks=pytest.mark.slow),
        pytest.param("random", 4, marks=pytest.mark.slow),
        pytest.param("bayesian", 1, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_study_goes_on_and_repeats_nothing(here: Path, method: str, stop_after: int) -> None:
    search = {"method": method, "trials": 8, "scheduler": {"type": "asha", "grace_period": 2, "reduction_factor": 2}}
    experiment = nn.load(write_page(here, search=search))
    watch = Noting()
    with pytest.raises(nn.Interrupted) as interrupted:
        nn.run(experiment, here / "out", watch=watch, should_stop=lambda: len(watch.rows) >= stop_after)
    path = next((here / "out").iterdir())
    assert f"nnopt resume {path}" in str(interrupted.value)
    assert stop_after <= len(watch.rows) < 8
    run = nn.resume(path)
    assert run.result["trials"]["total"] == 8
    ended = [event["trial"] for event in events(run, "ended")]
    assert sorted(ended) == [f"{i:04d}" for i in range(1, 9)]
    asked = [event["trial"] for event in events(run, "asked")]
    assert asked == [f"{i:04d}" for i in range(1, 9)]
    per_trial = [(e["trial"], e["epoch"]) for e in events(run, "result")]
    assert len(per_trial) == len(set(per_trial))
    for row in run.trials.itertuples():
        lines = list(rundir.read_lines(RunDir(path).trial(row.trial).history))
        assert [line["epoch"] for line in lines] == list(range(row.epochs))
    assert nn.resume(path).result == run.result
    # The time of both processes, and not the time between them.
    times = [event["t"] for event in rundir.read_lines(RunDir(path).journal)]
    (again,) = [event["t"] for event in events(run, "resumed")]
    first = max(t for t in times if t < again) - times[0]
    assert run.result["seconds"] >= first + (times[-1] - again)


def test_a_trial_never_goes_on_from_the_training_of_another(here: Path) -> None:
    """A power cut may take the journal's last second and leave the folders of the trials that it told of."""
    experiment = nn.load(write_page(here))
    watch = Noting()
    with pytest.raises(nn.Interrupted):
        nn.run(experiment, here / "out", watch=watch, should_stop=lambda: len(watch.rows) >= 4)
    folder = RunDir(next((here / "out").iterdir()))
    first, second = folder.trial("0001").root, folder.trial("0002").root
    first.rename(folder.trials / "aside")
    second.rename(first)
    (folder.trials / "aside").rename(second)
    folder.journal.write_bytes(folder.journal.read_bytes().splitlines(keepends=True)[0])
    watch = Noting()
    run = nn.resume(folder.root, watch=watch)
    assert sum("another trial's training" in note for note in watch.notes) == 2
    undisturbed = nn.run(experiment, here / "again")
    assert list(run.trials["value"]) == list(undisturbed.trials["value"])


def test_a_page_that_changed_is_refused(here: Path) -> None:
    experiment = nn.load(write_page(here))
    watch = Noting()
    with pytest.raises(nn.Interrupted):
        nn.run(experiment, here / "out", watch=watch, should_stop=lambda: len(watch.rows) >= 2)
    path = next((here / "out").iterdir())
    other = reading.load(path / "resolved.yaml", set={"train.optimizer.lr": {"log": [1e-3, 1.0]}})
    rundir.write_text(path / "resolved.yaml", reading.dump(other))
    with pytest.raises(nn.UserError, match="belongs to another page"):
        nn.resume(path)


def test_a_run_folder_in_use_names_its_holder(here: Path) -> None:
    from nnopt_ray import pipeline

    experiment = nn.load(write_page(here))
    folder = pipeline.begin(experiment, here / "out")
    with holding.holding(folder), pytest.raises(nn.RunFolderError, match=r"in use by process \d+"):
        nn.resume(folder.root)


def test_a_search_over_the_preparation_keeps_the_winners_own(here: Path) -> None:
    """Encodings change the shapes: the model in best/ goes with the data in best/data."""
    import torch

    rows = [f"{i % 7},{'abcdefg'[i % 7]},{'yes' if i % 7 > 3 else 'no'}" for i in range(140)]
    (here / "rows.csv").write_text("\n".join(["x,kind,y", *rows]) + "\n")
    page = write_page(
        here,
        data={
            "source": {"type": "csv", "path": "rows.csv"},
            "target": "y",
            "steps": [{"type": "encode", "method": {"choice": ["ordinal", "one_hot"]}}],
        },
        model={"type": "mlp", "widths": [4]},
        train={"epochs": 4},
        search={"method": "grid"},
    )
    run = nn.run(nn.load(page), here / "out")
    won = run.best["values"]["data.steps.0.method"]
    columns = {"ordinal": 2, "one_hot": 8}[won]
    assert run.model()(torch.zeros(3, columns)).shape == (3, 2)
    assert len(run.trials) == 2
