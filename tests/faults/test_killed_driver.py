"""The program is killed with SIGKILL, at moments that nobody chose, and goes on from its run folder."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import nnopt_ray as nn

SINGLE = """\
name: single
seed: 5
data:
  source: {type: sklearn, name: wine}
  steps: [scale]
model: {type: mlp, widths: [32, 32], norm: batch, dropout: 0.3}
train:
  epochs: 120
  batch_size: 16
  optimizer: {type: adam, lr: 0.003}
  schedule: {type: reduce_on_plateau, patience: 4}
  checkpoint: {every: 7, keep: 2}
evaluate: {bootstrap: 50}
"""

SEARCH = (
    SINGLE.replace("single", "searched").replace("lr: 0.003", "lr: {log: [1e-4, 1e-1]}")
    + "search: {method: random, trials: 6}\n"
)


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


def descendants(pid: int) -> set[int]:
    """All processes below one, from /proc; empty where there is none (macOS)."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
    found: set[int] = set()
    while new := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= new
    return found


def test_a_training_killed_again_and_again_is_the_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.yaml"
    page.write_text(SINGLE)
    monkeypatch.chdir(tmp_path)
    unbroken = nn.run(nn.load(page), out=tmp_path / "unbroken")
    chance = random.Random(20261122)
    running = start(tmp_path, "run", "page.yaml", "--out", "broken")
    kills = 0
    while True:
        folders = list((tmp_path / "broken").glob("*/resolved.yaml"))
        moment = chance.randint(1, 40) + (len(history(folders[0].parent / "trials/0001")) if folders else 0)
        wait_for(
            lambda m=moment: any(len(lines(f)) >= m for f in tmp_path.glob("broken/*/trials/0001/history.jsonl")),
            running,
        )  # type: ignore[misc]
        if running.poll() is not None:
            break
        kill(running)
        kills += 1
        (folder,) = (tmp_path / "broken").iterdir()
        running = start(tmp_path, "resume", str(folder))
        # The resumed run writes its history anew, shorter by what came after the last checkpoint.
        time.sleep(chance.random())
    output = (tmp_path / "output.txt").read_text()
    assert running.returncode == 0, output
    assert kills >= 2
    assert "Traceback" not in output
    (folder,) = (tmp_path / "broken").iterdir()
    assert history(folder / "trials/0001") == history(unbroken.path / "trials/0001")
    broken, whole = load_file(folder / "best/model.safetensors"), load_file(unbroken.path / "best/model.safetensors")
    assert broken.keys() == whole.keys()
    assert all(broken[name].tobytes() == whole[name].tobytes() for name in whole)
    assert nn.open_run(folder).result["test"] == unbroken.result["test"]


@pytest.mark.ray
def test_a_killed_search_goes_on_repeats_nothing_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.yaml").write_text(SEARCH)
    monkeypatch.chdir(tmp_path)
    running = start(tmp_path, "run", "page.yaml", "--out", "runs")

    def over() -> list[str]:
        journals = list(tmp_path.glob("runs/*/journal.jsonl"))
        return [e["trial"] for e in lines(journals[0]) if e["event"] == "ended"] if journals else []

    wait_for(lambda: len(over()) >= 2, running)
    below = descendants(running.pid)
    kill(running)
    finished_before = over()
    assert 2 <= len(finished_before) < 6, (tmp_path / "output.txt").read_text()
    (folder,) = (tmp_path / "runs").iterdir()
    before = {trial: (folder / "trials" / trial / "history.jsonl").read_bytes() for trial in finished_before}
    deadline = time.monotonic() + 60
    while alive := {pid for pid in below if Path(f"/proc/{pid}").exists()}:
        assert time.monotonic() < deadline, f"left behind: {alive}"
        time.sleep(0.2)

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
