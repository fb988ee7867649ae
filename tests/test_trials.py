"""trials.parquet and what is told of trials that gave nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from nnopt_ray import pipeline, reading
from nnopt_ray.cli import main
from nnopt_ray.cli.showing import by_cause
from nnopt_ray.results import TrialRow
from nnopt_ray.rundir import RunDir, write_json
from nnopt_ray.trials import no_value, read_table, write_table


def row(number: int, reason: str = "all epochs done", cause: str = "", value: float | None = None) -> TrialRow:
    status = "finished" if value is not None else "failed"
    metrics = {} if value is None else {"val_loss": value, "val_accuracy": 1 - value}
    return TrialRow(
        f"{number:04d}", status, reason, {"train.l1": 0.5 * number}, 2, None, 0.1, value, metrics, cause=cause  # type: ignore[arg-type]
    )  # fmt: skip


NAN = "the training loss became nan in epoch {}, step 1 (learning rate {}). Lower train.optimizer.lr."
FAILED = [
    row(1, value=0.25),
    *(row(n, NAN.format(n, f"{n}.5e-{n}"), "not-a-number") for n in range(2, 15)),
    row(15, "out of memory: 3 GiB", "memory"),
    row(16, value=0.125),
]


def test_the_table_keeps_causes(tmp_path: Path) -> None:
    write_table(tmp_path / "trials.parquet", FAILED)
    assert read_table(tmp_path / "trials.parquet") == FAILED


def test_a_table_that_was_written_before_causes_were_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trials.parquet"
    write_table(path, FAILED)
    pq.write_table(pq.read_table(path).drop_columns(["cause"]), path)
    assert read_table(path) == [replace(row, cause="") for row in FAILED]


@pytest.mark.parametrize("cause", ["not-a-number", ""])
def test_one_cause_with_other_numbers_is_told_once(cause: str) -> None:
    rows = [row(n, NAN.format(n, f"{n}.5e-{n}"), cause) for n in range(1, 41)]
    assert no_value(rows, "val_loss") == (
        "no trial gave a value for val_loss. In all 40 trials (0001 for one): the training loss became nan in epoch 1, "
        "step 1 (learning rate 1.5e-1). Lower train.optimizer.lr."
    )


def test_the_commonest_causes_are_told() -> None:
    many = [row(n, f"fault {'abcde'[n % 5] * (n % 5 + 1)}") for n in range(1, 18)]
    told = no_value([*many, *FAILED[1:15]], "val_f1")
    assert told.startswith(
        "no trial gave a value for val_f1. In 13 of 31 trials (0002 for one): the training loss became nan"
    )
    assert told.endswith("4 other reasons are in trials.parquet.")
    assert no_value([], "val_f1") == "no trial gave a value for val_f1: none was run."
    assert no_value([row(7, "x")], "val_f1") == "no trial gave a value for val_f1. In trial 0007: x."


# --- what `show` and `ls` tell ------------------------------------------------------------------

PAGE = """\
objective: [minimize val_loss, maximize val_accuracy]
data: {source: {type: sklearn, name: wine}}
model: mlp
train: {l1: {uniform: [0, 9]}}
search: {method: random}
"""


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    (tmp_path / "page.yaml").write_text(PAGE)
    run = pipeline.begin(reading.load(tmp_path / "page.yaml"), tmp_path / "runs")
    write_table(run.trials_table, [*FAILED, replace(row(17, "at a rung", value=0.5), status="paused")])
    return run


def test_failures_are_grouped_by_cause() -> None:
    found = by_cause(FAILED[::-1])
    assert list(found) == ["not-a-number", "memory"]
    assert found["not-a-number"] == [f"{n:04d}" for n in range(2, 15)]


def test_show_tells_causes_objectives_and_who_is_paused(folder: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.code(["show", str(folder.root)]) == 0
    out = capsys.readouterr().out
    assert "val_accuracy" in out.splitlines()[0]
    first = out.splitlines()[1].split()
    assert first[:4] == ["0016", "finished", "0.125", "0.875"], "best first, each objective in its column"
    assert [line.split()[:2] for line in out.splitlines() if line.startswith("0017")] == [["0017", "paused"]]
    assert out.splitlines()[-2].startswith("13 failed, the loss became not a number: 0002, 0003, ")
    assert out.splitlines()[-2].endswith("0011, ...")
    assert out.splitlines()[-1] == "1 failed, out of memory: 0015"
    assert main.code(["show", str(folder.root), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["failures"]["memory"] == ["0015"]
    assert {line["trial"]: line["status"] for line in told["trials"]}["0017"] == "paused"
    assert {line["cause"] for line in told["trials"]} == {"", "memory", "not-a-number"}


def test_ls_names_every_objective(folder: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    result = {
        "status": "finished",
        "objective": {"metric": "val_loss", "mode": "min"},
        "best": {"metrics": {"val_loss": 0.125}},
        "trials": {"total": 17},
        "seconds": 1.0,
    }
    for objectives, words in (
        ({}, "minimize val_loss"),
        (
            {"objectives": [{"metric": "val_loss", "mode": "min"}, {"metric": "val_accuracy", "mode": "max"}]},
            "minimize val_loss, maximize val_accuracy",
        ),
    ):
        write_json(folder.result, {**result, **objectives})
        assert main.code(["ls", str(folder.root.parent), "--json"]) == 0
        (line,) = json.loads(capsys.readouterr().out)["runs"]
        assert (line["objective"], line["value"]) == (words, 0.125)
