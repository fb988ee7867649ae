"""What people see of a run that is under way, broken off, or made with parts that talk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nnopt_ray as nn
from nnopt_ray import holding, pipeline, reading
from nnopt_ray.cli import main
from nnopt_ray.cli.console import Screen
from nnopt_ray.results import TrialRow
from nnopt_ray.rundir import RunDir
from nnopt_ray.trials import write_table

PAGE = """\
name: looked-at
data: {source: {type: sklearn, name: wine}, steps: [scale]}
model: {type: mlp, widths: [4]}
train: {epochs: 3}
evaluate: {bootstrap: 20}
"""

TALKS = """
import sys, torch
print("talks when imported")

class Talks(torch.nn.Module):
    def __init__(self, shapes):
        super().__init__()
        self.layer = torch.nn.Linear(shapes.features, shapes.outputs)

    def forward(self, x):
        print("talks when called")
        return self.layer(x)
"""


def in_program(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "nnopt_ray", *words], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)  # fmt: skip


def test_a_part_that_prints_leaves_json_alone(tmp_path: Path) -> None:
    (tmp_path / "talking_part.py").write_text(TALKS)
    (tmp_path / "page.yaml").write_text(PAGE.replace("{type: mlp, widths: [4]}", "'talking_part:Talks'"))
    for words in (["check", "page.yaml"], ["run", "page.yaml"], ["check", "page.yaml", "--set", "train.epochs=0"]):
        done = in_program(tmp_path, *words, "--json")
        assert isinstance(json.loads(done.stdout), dict), words
        assert "talks when imported" in done.stderr
    assert "talks when imported" in in_program(tmp_path, "check", "page.yaml").stdout


@pytest.fixture
def begun(tmp_path: Path) -> RunDir:
    """A run folder with one trial that has trained two epochs and is not over."""
    (tmp_path / "page.yaml").write_text(PAGE)
    run = pipeline.begin(reading.load(tmp_path / "page.yaml"), tmp_path / "runs")
    left: list[int] = []

    def stop() -> bool:
        left.append(1)
        return len(left) >= 2

    dataset = pipeline.placed(pipeline.prepared(nn.open_run(run.root).experiment), run, nn.Watch())
    with pytest.raises(nn.Interrupted):
        pipeline.run_single(nn.open_run(run.root).experiment, run, dataset, nn.Watch(), stop)
    return run


def test_a_run_that_is_not_over_is_listed_as_what_it_is(begun: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    def line() -> dict[str, object]:
        assert main.code(["ls", str(begun.root.parent), "--json"]) == 0
        found: dict[str, object] = json.loads(capsys.readouterr().out)["runs"][0]
        return found

    assert (line()["status"], line()["trials"]) == ("not finished", 1)
    with holding.holding(begun):
        assert line()["status"] == "running"
    assert line()["status"] == "not finished"


def test_show_tells_of_a_run_that_has_no_table_yet(begun: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.code(["show", str(begun.root), "--json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["trials"]
    assert (line["trial"], line["status"], line["epochs"]) == ("0001", "interrupted", 2)
    assert line["value"] > 0
    assert main.code(["show", str(begun.root), "1"]) == 0, "an id needs no leading zeros"
    assert "val_loss" in capsys.readouterr().out
    shutil.rmtree(begun.trials)
    assert main.code(["show", str(begun.root)]) == 2
    assert "has begun" in capsys.readouterr().err


def test_a_trial_of_a_dead_run_is_not_shown_as_running(begun: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(begun.trials_table, [row("0001", "running"), row("0002", "finished")])

    def shown() -> list[str]:
        assert main.code(["show", str(begun.root), "--json"]) == 0
        return sorted(line["status"] for line in json.loads(capsys.readouterr().out)["trials"])

    assert shown() == ["finished", "interrupted"]
    with holding.holding(begun):
        assert shown() == ["finished", "running"]


def test_a_finished_run_without_a_report_gets_it_by_resume(begun: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    """As after a disk that was full at the very end."""
    nn.resume(begun.root)
    begun.report.unlink()
    before = begun.result.read_bytes()
    assert main.code(["resume", str(begun.root)]) == 0
    assert "its report is built now" in capsys.readouterr().err
    assert begun.report.is_file()
    assert begun.result.read_bytes() == before
    assert main.code(["resume", str(begun.root)]) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_a_run_folder_that_cannot_be_written_is_named(begun: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    begun.lock.unlink(missing_ok=True)
    begun.lock.mkdir()  # nothing else stops root from writing
    assert main.code(["resume", str(begun.root)]) == 2
    assert f"{begun.root} cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("model=resnet", "takes one image per row"),
        ("train.from={run: nowhere}", "there is no folder 'nowhere'"),
        pytest.param(
            "resources.gpus_per_worker=1",
            "sees no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU"),
        ),
    ],
)
def test_what_cannot_be_run_leaves_no_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.yaml").write_text(PAGE)
    assert main.code(["run", "page.yaml", "--set", change]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def row(trial: str, status: str) -> TrialRow:
    return TrialRow(trial, status, "", {}, 2, 1, 0.1, 0.5, {}, ())  # type: ignore[arg-type]


def test_a_resumed_search_counts_what_was_over_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.yaml").write_text(PAGE.replace("[4]", "[{int: [4, 8]}]"))
    screen = Screen(reading.load(tmp_path / "page.yaml"))
    screen.begin(total=10, workers=2, over={"finished": 3, "stopped": 2, "failed": 1})
    screen.trial(row("0007", "finished"), row("0007", "finished"))
    told = " ".join(str(cell) for column in screen._table().columns for cell in column.cells)
    assert "6 of 10 done, 0 running, 2 stopped early, 1 failed" in told
    assert "in trial 0007" in told


def test_public_names_are_offered_for_completion() -> None:
    assert set(nn.__all__) <= set(dir(nn))
