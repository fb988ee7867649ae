"""The driver of a search is killed: no worker trains on without it, and the trials under way go on unharmed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nnopt_ray as nn

PAGE = """\
name: searched
seed: 5
data:
  source: {type: sklearn, name: wine}
  steps: [scale]
model: {type: mlp, widths: [32, 32], norm: batch, dropout: 0.3}
train:
  epochs: 120
  batch_size: 16
  optimizer: {type: adam, lr: {log: [1e-4, 1e-1]}}
  schedule: {type: reduce_on_plateau, patience: 4}
  checkpoint: {every: 7, keep: 2}
search: {method: random, trials: 6}
evaluate: {bootstrap: 50}
resources: {in_process: never, fuse: never}  # batch norm in lanes is equal to a tolerance only
"""


def start(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """The program, its output in output.txt."""
    with open(folder / "output.txt", "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "nnopt_ray", *words],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def wait_for(happened: Callable[[], bool], running: subprocess.Popen[bytes], timeout_s: float = 120) -> None:
    """Until something has happened or the program has ended."""
    deadline = time.monotonic() + timeout_s
    while not happened() and running.poll() is None:
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.005)


def kill(running: subprocess.Popen[bytes]) -> None:
    running.send_signal(signal.SIGKILL)
    running.wait(30)


def lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of JSON lines; a killed writer may leave half a last one."""
    whole = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in whole if line.endswith("\n")]


def history(trial: Path) -> list[dict[str, Any]]:
    """The epochs of a trial without their wall-clock time."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines(trial / "history.jsonl")]


def workers(pid: int) -> set[int]:
    """The Ray workers below a process that train, from /proc; empty where there is none (macOS)."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_text()
        except (OSError, IndexError):  # it ended meanwhile
            continue
    below: set[int] = set()
    while new := {child for child, parent in parents.items() if parent in below | {pid}} - below:
        below |= new
    return {process for process in below if names.get(process, "").startswith("ray::Worker")}


def running_still(processes: set[int]) -> set[int]:
    """Those that have not ended; one that has and waits for its parent's notice (Z) has."""
    stats = {process: Path(f"/proc/{process}/stat") for process in processes}
    return {p for p, stat in stats.items() if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"}


@pytest.mark.ray
def test_a_killed_search_leaves_no_worker_and_its_cut_trials_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.yaml").write_text(PAGE)
    monkeypatch.chdir(tmp_path)
    running = start(tmp_path, "run", "page.yaml", "--out", "runs")

    def over() -> list[str]:
        journals = list(tmp_path.glob("runs/*/journal.jsonl"))
        return [e["trial"] for e in lines(journals[0]) if e["event"] == "ended"] if journals else []

    wait_for(lambda: len(over()) >= 2, running)
    below = workers(running.pid)
    kill(running)
    finished_before = over()
    assert 2 <= len(finished_before) < 6, (tmp_path / "output.txt").read_text()
    (folder,) = (tmp_path / "runs").iterdir()
    before = {trial: (folder / "trials" / trial / "history.jsonl").read_bytes() for trial in finished_before}
    # Ray's own idle agents take a minute to notice; a worker that trained on would write where a resume writes.
    assert below or not Path("/proc").exists()
    deadline = time.monotonic() + 20
    while alive := running_still(below):
        assert time.monotonic() < deadline, f"still there: {alive}"
        time.sleep(0.05)

    resumed = start(tmp_path, "resume", str(folder))
    assert resumed.wait(200) == 0, (tmp_path / "output.txt").read_text()
    assert "Traceback" not in (tmp_path / "output.txt").read_text()
    assert len(over()) == len(set(over())) == 6
    assert {t: (folder / "trials" / t / "history.jsonl").read_bytes() for t in before} == before
    run = nn.open_run(folder)
    assert run.result["trials"] == {"total": 6, "finished": 6, "stopped": 0, "failed": 0}
    assert run.result["epochs_trained"] == 6 * 120
    # A trial that was cut in two is the trial that ran through.
    cut = next(trial for trial in sorted(over()) if trial not in finished_before)
    alone = nn.run(nn.load(folder / "trials" / cut / "page.yaml"), out=tmp_path / "alone")
    assert history(folder / "trials" / cut) == history(alone.path / "trials/0001")
