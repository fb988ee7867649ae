"""Trackers are told what was trained, once, and whatever they do the run is not touched by it."""

from __future__ import annotations

import importlib.util
import json
import struct
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tracking_example
from typer.testing import CliRunner

import nnopt_ray as nn
from nnopt_ray import reading, tables
from nnopt_ray.cli.main import app
from nnopt_ray.errors import Interrupted, MissingExtra
from nnopt_ray.experiment import Experiment
from nnopt_ray.pipeline import Watch
from nnopt_ray.rundir import RunDir, read_lines
from nnopt_ray.tracking import TRACKERS, following
from nnopt_ray.tracking.following import flat
from nnopt_ray.tracking.tracker import Tracker

# Imports of these libraries and their own: not this project's to repair.
pytestmark = pytest.mark.filterwarnings("ignore")


class Heard(Watch):
    """Keeps the notes of a run, and asks it to stop after some epochs or trials."""

    def __init__(self, most: int = 10**9) -> None:
        self.notes: list[str] = []
        self.left = most

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def epoch(self, epoch: Any) -> None:
        self.left -= 1

    def trial(self, row: Any, best: Any) -> None:
        self.left -= 1


def page(*trackers: Any, search: bool = True, epochs: int = 3) -> Experiment:
    lr: Any = {"log": [1e-3, 1e-1]} if search else 0.01
    return reading.from_tree(
        {
            "name": "wine",
            "data": {"source": {"type": "sklearn", "name": "wine"}},
            "model": {"type": "mlp", "widths": [8]},
            "train": {"epochs": epochs, "optimizer": {"type": "adam", "lr": lr}},
            "search": {"method": "random", "trials": 3},
            "evaluate": {"bootstrap": 50},
            "tracking": list(trackers),
        }
    )


def own(name: str) -> str:
    return f"tracking_example:{name}"


def trained(run: nn.Run) -> Counter[tuple[str, int]]:
    trials = sorted((Path(run.path) / "trials").iterdir())
    return Counter((t.name, line["epoch"]) for t in trials for line in read_lines(t / "history.jsonl"))


@pytest.fixture(autouse=True)
def fresh() -> None:
    tracking_example.CALLS.clear()


def calls(kind: str) -> list[tuple[Any, ...]]:
    return [call[1:] for call in tracking_example.CALLS if call[0] == kind]


# ── what each of the table keeps, read back by its own reader ────────────────────────────────────────────


def tensorboard_losses(run: nn.Run, trial: str) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(Path(run.path) / "tensorboard" / trial))
    found.Reload()
    return {event.step: event.value for event in found.Scalars("val_loss")}


def mlflow_losses(run: nn.Run, trial: str) -> dict[int, float]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(Path(run.path).parent / "mlruns").as_uri())
    (place,) = [each.experiment_id for each in client.search_experiments() if each.name == "nnopt"]
    runs = {found.info.run_name: found for found in client.search_runs([place])}
    whole = runs.get(Path(run.path).name)
    assert whole is not None
    if len(run.trials) > 1:
        assert {found.data.tags.get("mlflow.parentRunId") for found in runs.values()} == {None, whole.info.run_id}
    assert whole.info.status == "FINISHED"
    assert whole.data.metrics["test_loss"] == pytest.approx(run.result["test"]["loss"])
    assert [file.path for file in client.list_artifacts(whole.info.run_id)] == ["report.html"]
    of_trial = runs[trial] if len(run.trials) > 1 else whole
    if len(run.trials) > 1:
        (value,) = run.trials.loc[run.trials.trial == trial, "param.train.optimizer.lr"]
        assert float(of_trial.data.params["train.optimizer.lr"]) == pytest.approx(value)
    return {at.step: at.value for at in client.get_metric_history(of_trial.info.run_id, "val_loss")}


def records(file: Path) -> list[Any]:
    """What an offline file of W&B holds. Its form is that of LevelDB's log: blocks of 32 KiB, and in them pieces of
    records, each behind a checksum (4 bytes), its length (2) and its place in the record (1: whole, 2 to 4: first,
    middle, last); https://github.com/google/leveldb/blob/main/doc/log_format.md."""
    from wandb.proto import wandb_internal_pb2

    content, at, parts, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return found


def whole_records(file: Path, timeout_s: float = 30) -> list[Any]:
    """Those of a file whose run has ended. W&B's own process writes it, and `finish` may return before it has."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    deadline = time.monotonic() + timeout_s
    while True:
        with suppress(DecodeError):
            found = records(file)
            if found and found[-1].WhichOneof("record_type") == "exit":
                return found
        assert time.monotonic() < deadline, f"{file} has no end"
        time.sleep(0.05)


def wandb_losses(run: nn.Run, trial: str) -> dict[int, float]:
    losses: dict[int, float] = {}
    for file in (Path(run.path) / "wandb").glob("offline-run-*/*.wandb"):
        of_file = whole_records(file)
        (began,) = {each.run.display_name for each in of_file if each.WhichOneof("record_type") == "run"}
        if len(run.trials) > 1 and began.split()[0] != trial:
            continue
        for record in of_file:
            if record.WhichOneof("record_type") == "history":
                row = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
                losses[int(row["_step"])] = json.loads(row["val_loss"])
    return losses


READERS = {"tensorboard": tensorboard_losses, "mlflow": mlflow_losses, "wandb": wandb_losses}


@pytest.mark.parametrize("search", [True, False])
@pytest.mark.parametrize("name", list(TRACKERS))
def test_a_tracker_keeps_every_epoch(tmp_path: Path, name: str, search: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(tables.find("tracker", name).needs[0])
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    heard = Heard()
    monkeypatch.setattr(following, "PATIENCE_S", 100.0)
    run = nn.run(page(name, search=search), tmp_path / "runs", watch=heard)
    assert not [note for note in heard.notes if "tracking" in note]
    for trial in run.trials.trial:
        history = read_lines(Path(run.path) / "trials" / trial / "history.jsonl")
        expected = {line["epoch"]: line["val_loss"] for line in history}
        assert READERS[name](run, trial) == pytest.approx(expected, rel=1e-6), trial


def test_of_the_table_each_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in TRACKERS:
        part: type[Tracker] = tables.find("tracker", name)
        with pytest.raises(MissingExtra, match=f"'{name}' needs the package {part.needs[1]}: pip install"):
            part.missing(name)
    written = tmp_path / "page.yaml"
    written.write_text("data: {source: {type: sklearn, name: wine}}\nmodel: mlp\ntracking: [wandb]\n")
    said = CliRunner().invoke(app, ["check", str(written)])
    assert isinstance(said.exception, MissingExtra)
    with pytest.raises(MissingExtra):
        nn.run(page("mlflow"), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


# ── what is told ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_search_is_told_whole(tmp_path: Path) -> None:
    run = nn.run(page(own("Recorded")), tmp_path)
    assert Counter((trial, epoch["epoch"]) for trial, epoch in calls("epoch")) == trained(run)
    assert {trial: params for trial, params, _ in calls("begin")} == {
        row.trial: {"train.optimizer.lr": row["param.train.optimizer.lr"]} for _, row in run.trials.iterrows()
    }
    assert {trial: status for trial, status, _ in calls("end")} == dict(
        zip(run.trials.trial, run.trials.status, strict=True)
    )
    ((told,),) = calls("close")
    assert told.status == "finished"
    assert told.best_trial == run.best["trial"]
    assert told.scores["test_accuracy"] == run.result["test"]["accuracy"]
    assert told.scores["test_accuracy_low"] == run.result["test_interval"]["accuracy"][0]
    ((course, known),) = calls("open")
    assert known == ""
    assert course.page["model.widths"] == [8] or course.page["model.widths"] == (8,)


@pytest.mark.parametrize("search", [True, False])
def test_a_resumed_run_goes_on_in_the_same_place(tmp_path: Path, search: bool) -> None:
    first = Heard(most=2)
    with pytest.raises(Interrupted):
        nn.run(
            page(own("Recorded"), search=search, epochs=6), tmp_path, watch=first, should_stop=lambda: first.left <= 0
        )
    assert calls("close")[0][0].status == "interrupted"
    (folder,) = tmp_path.iterdir()
    run = nn.resume(folder)
    assert Counter((trial, epoch["epoch"]) for trial, epoch in calls("epoch")) == trained(run)
    assert [known for _, known in calls("open")] == ["", "run-1"]
    again = Counter(trial for trial, _, _ in calls("begin"))
    assert all(known == f"id-{trial}" for trial, _, known in calls("begin")[len(again) :])
    assert sorted(trial for trial, *_ in calls("end")) == sorted(run.trials.trial)
    assert calls("close")[-1][0].status == "finished"


# ── whatever it does ──────────────────────────────────────────────────────────────────────────────────────


def test_one_that_raises_is_switched_off_and_told_once(tmp_path: Path) -> None:
    heard = Heard()
    run = nn.run(page(own("Broken"), own("Recorded")), tmp_path, watch=heard)
    (said,) = [note for note in heard.notes if "tracking" in note]
    assert "ConnectionError: no route to host" in said
    assert run.finished
    assert Counter((trial, epoch["epoch"]) for trial, epoch in calls("epoch")) == trained(run)  # the other's


def test_one_that_never_answers_does_not_hold_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PATIENCE_S", 0.3)
    heard = Heard()
    run = nn.run(page(own("Hanging"), search=False), tmp_path, watch=heard)
    tracking_example.NEVER.set()
    assert run.finished
    (said,) = [note for note in heard.notes if "tracking" in note]
    assert "left behind" in said


def test_a_number_that_is_none_is_left_out_and_a_password_too() -> None:
    assert following.numbers({"a": 1, "b": float("nan"), "c": None, "d": "x", "e": True}) == {"a": 1.0}
    told = dict(flat({"data": {"path": "https://me:secret@host/a.csv", "none": None, "steps": []}}))
    assert set(told) == {"data.path"}
    assert "secret" not in told["data.path"]


def test_where_a_journal_was_read_to(tmp_path: Path) -> None:
    from nnopt_ray.rundir import lines_from

    file = tmp_path / "journal.jsonl"
    assert lines_from(file, 0) == ([], 0)
    file.write_bytes(b'{"a": 1}\n{"a": 2')
    found, at = lines_from(file, 0)
    assert (found, at) == ([{"a": 1}], 9)
    file.write_bytes(b'{"a": 1}\n{"a": 2}\n')
    assert lines_from(file, at) == ([{"a": 2}], 18)
    assert RunDir(tmp_path).tracked("0-x").parent.name == "tracking"
