"""The program, cut off as users and machines do it: kill -9 at random moments, Ctrl-C once and twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nnopt_ray.rundir import read_lines

pytestmark = pytest.mark.ray

PARTS = """
import time, torch

class Slow(torch.nn.Module):
    def __init__(self, shapes):
        super().__init__()
        self.layer = torch.nn.Linear(shapes.features, shapes.outputs)
        self.drop = torch.nn.Dropout(0.2)

    def forward(self, x):
        if self.training:
            time.sleep(0.004)
        return self.layer(self.drop(x.flatten(1)))
"""

PAGE = """
name: cut
seed: 11
data: {source: {type: sklearn, name: iris}, steps: [scale]}
model: {type: slow_parts:Slow}
train: {epochs: 12, batch_size: 8, checkpoint: {every: 1}, optimizer: {type: adam, lr: LR}}
SEARCH
evaluate: {bootstrap: 50}
"""
BEST = Path("best") / "model.safetensors"
SEARCH = "search: {method: bayesian, trials: 10, scheduler: {type: asha, grace_period: 3, reduction_factor: 2}}"


def program(folder: Path, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "nnopt_ray", *words],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def write_page(folder: Path, search: bool) -> None:
    (folder / "slow_parts.py").write_text(PARTS)
    page = PAGE.replace("LR", "{log: [1e-3, 1e-1]}" if search else "0.01").replace("SEARCH", SEARCH if search else "")
    (folder / "page.yaml").write_text(page)


def until_epochs(run: Path, epochs: int, process: subprocess.Popen[str]) -> None:
    """Wait until the run has trained so many epochs in all, or has ended."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if sum(1 for file in run.glob("trials/*/history.jsonl") for _ in read_lines(file)) >= epochs:
            return
        time.sleep(0.02)


def only_run(folder: Path, process: subprocess.Popen[str]) -> Path:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = [path for path in (folder / "runs").glob("*") if (path / "resolved.yaml").is_file()]
        if found:
            return found[0]
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("no run folder appeared")


def histories(run: Path) -> dict[str, list[dict[str, object]]]:
    return {
        file.parent.name: [{k: v for k, v in line.items() if k != "seconds"} for line in read_lines(file)]
        for file in sorted(run.glob("trials/*/history.jsonl"))
    }


def test_a_single_run_killed_at_random_moments_ends_as_the_unbroken_one(tmp_path: Path) -> None:
    write_page(tmp_path, search=False)
    unbroken = program(tmp_path, "run", "page.yaml", "--json", "--out", "unbroken")
    out, err = unbroken.communicate(timeout=200)
    assert unbroken.returncode == 0, err
    expected = json.loads(out)
    draw = random.Random(1)
    process = program(tmp_path, "run", "page.yaml")
    run = only_run(tmp_path, process)
    for after in sorted(draw.sample(range(1, 12), 3)):
        until_epochs(run, after, process)
        time.sleep(draw.random() * 0.1)
        process.kill()
        process.communicate()
        process = program(tmp_path, "resume", str(run))
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == str(run)
    assert histories(run) == histories(Path(expected["path"]))
    told = json.loads((run / "result.json").read_text())
    assert told["test"] == expected["test"]
    weights, unbroken_weights = load_file(run / BEST), load_file(Path(expected["path"]) / BEST)
    assert weights.keys() == unbroken_weights.keys()
    assert all(torch.equal(weights[name], unbroken_weights[name]) for name in weights)


@pytest.mark.slow
def test_a_search_whose_driver_is_killed_twice_goes_on(tmp_path: Path) -> None:
    write_page(tmp_path, search=True)
    process = program(tmp_path, "run", "page.yaml")
    run = only_run(tmp_path, process)
    for after in (8, 30):
        until_epochs(run, after, process)
        process.kill()
        process.communicate()
        process = program(tmp_path, "resume", str(run))
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, out + err
    events = list(read_lines(run / "journal.jsonl"))
    assert [e["trial"] for e in events if e["event"] == "asked"] == [f"{i:04d}" for i in range(1, 11)]
    assert sorted(e["trial"] for e in events if e["event"] == "ended") == [f"{i:04d}" for i in range(1, 11)]
    results = [(e["trial"], e["epoch"]) for e in events if e["event"] == "result"]
    assert len(results) == len(set(results))
    assert "no longer suggests" not in out
    for trial, lines in histories(run).items():
        ended = next(e for e in events if e["event"] == "ended" and e["trial"] == trial)
        assert [line["epoch"] for line in lines] == list(range(ended["epochs"]))
        assert min(line["val_loss"] for line in lines) == ended["value"]  # type: ignore[type-var]


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_keeps_everything_and_says_how_to_resume(tmp_path: Path, times: int) -> None:
    write_page(tmp_path, search=True)
    process = program(tmp_path, "run", "page.yaml")
    run = only_run(tmp_path, process)
    until_epochs(run, 20, process)
    for _ in range(times):
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        time.sleep(0.05)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert f"nnopt resume {run}" in err
    assert "Traceback" not in err
    again = program(tmp_path, "resume", str(run))
    out, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert "Resuming:" in out
    assert json.loads((run / "result.json").read_text())["trials"]["total"] == 10


@pytest.mark.slow
def test_a_sigterm_ends_a_search_on_workers_as_ctrl_c_does(tmp_path: Path) -> None:
    """As Ray's jobs, Slurm and Kubernetes send it. The epoch under way takes longer than 3 s, when Ray would abort."""
    write_page(tmp_path, search=True)
    parts = (tmp_path / "slow_parts.py").read_text().replace("time.sleep(0.004)", "time.sleep(0.4)")
    (tmp_path / "slow_parts.py").write_text(parts)
    process = program(tmp_path, "run", "page.yaml", "--set", "resources.in_process=never")
    run = only_run(tmp_path, process)
    until_epochs(run, 2, process)
    process.terminate()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert f"nnopt resume {run}" in err
