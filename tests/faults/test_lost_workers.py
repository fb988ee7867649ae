"""Workers that die with several trials at once, nodes that come and go, and Ray joining in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_example import judge_whole, table

import nnopt_ray as nn
from nnopt_ray import rundir
from nnopt_ray.errors import RunFailed
from nnopt_ray.results import Epoch
from nnopt_ray.rundir import RunDir
from nnopt_ray.search import seats
from nnopt_ray.search.deaths import LOST_WORKER_TRIES, NODE_DIES_S, EarlyDeaths, guilty_of
from nnopt_ray.search.trial import Trial

pytestmark = pytest.mark.ray

PARTS = '''
import os, time
import torch

class Deadly(torch.nn.Module):
    """A network that ends its process in its second epoch, where `deadly` is above one half."""

    def __init__(self, shapes, *, deadly: float = 0.0, sleep: float = 0.0, width: int = 16):
        super().__init__()
        self.deadly, self.sleep = deadly, sleep
        self.hidden = torch.nn.Linear(shapes.features, width)
        self.layer = torch.nn.Linear(width, shapes.outputs)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        if self.training:
            time.sleep(self.sleep)
            self.steps += 1
            if self.deadly > 0.5 and self.steps > 5:
                os._exit(3)
        return self.layer(torch.relu(self.hidden(x.flatten(1))))

class Mortal(torch.nn.Module):
    """A network whose process ends in the second epoch that it trains there."""

    def __init__(self, shapes):
        super().__init__()
        self.layer = torch.nn.Linear(shapes.features, shapes.outputs)
        self.batches = 0

    def forward(self, x):
        if self.training:
            self.batches += 1
            if self.batches > 5:
                os._exit(3)
        return self.layer(x.flatten(1))
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "deadly_parts.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def one_ray() -> Iterator[None]:
    import logging

    import ray

    ray.init(address="local", include_dashboard=False, num_cpus=1, logging_level=logging.ERROR, log_to_driver=False)
    yield
    ray.shutdown()


def write_page(folder: Path, **changes: Any) -> Path:
    tree: dict[str, Any] = {
        "name": "lost",
        "seed": 5,
        "data": {"source": {"type": "sklearn", "name": "iris"}, "steps": ["scale"]},
        "model": {"type": "deadly_parts:Deadly"},
        "train": {"epochs": 6, "batch_size": 32, "optimizer": {"type": "adam", "lr": {"log": [1e-3, 1e-1]}}},
        "search": {"method": "random", "trials": 6},
        "evaluate": {"bootstrap": 0},
    }
    path = folder / "page.yaml"
    path.write_text(json.dumps({**tree, **changes}))
    return path


class Noting(nn.Watch):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


@pytest.mark.slow
@pytest.mark.parametrize("reproducible", [False, True])
def test_of_trials_that_die_together_only_the_cause_fails(here: Path, one_ray: None, reproducible: bool) -> None:
    listed = [{"model.deadly": float(n == 2), "train.optimizer.lr": 10 ** (-1 - n / 3)} for n in range(6)]
    page = write_page(
        here,
        model={"type": "deadly_parts:Deadly"},
        train={"epochs": 6, "batch_size": 32},
        search={
            "method": "manual", "trials": listed, "reproducible": reproducible,
            "scheduler": {"type": "asha", "form": "promote", "reduction_factor": 2} if reproducible else "none",
        },
        resources={} if reproducible else {"fuse": "always", "lanes": 4},
    )  # fmt: skip
    run = nn.run(nn.load(page), here / "out")
    rows = run.trials.set_index("trial")
    assert list(rows.index[rows["status"] == "failed"]) == ["0003"]
    assert rows.loc["0003", "cause"] == "worker"
    judge_whole(run)


def test_deaths_count_only_while_a_trial_gets_no_further(tmp_path: Path) -> None:
    run, trial, other = RunDir(tmp_path), Trial("0001", {}), Trial("0002", {})
    history = run.trial("0001").history
    history.parent.mkdir(parents=True)
    for epoch in range(5):  # each time after an epoch more in its folder
        assert guilty_of([trial], run) == []
        rundir.append(history, json.dumps(Epoch(epoch, {}, 0.1, 0.0, 1.0).line()) + "\n")
    assert guilty_of([trial], run) == []
    rundir.write_text(history, "".join(history.read_text().splitlines(keepends=True)[:2]))  # no checkpoint had the rest
    for _ in range(4):  # each time after one more that the study has heard of
        trial.values.append(0.0)
        assert guilty_of([trial], run) == []
    assert guilty_of([trial, other], run) == []
    assert guilty_of([trial], run) == [trial], "three deaths after the same epoch, two of them alone"
    assert guilty_of([other], run) == []
    assert guilty_of([other], run) == [other]


@pytest.mark.slow
def test_a_worker_that_dies_in_every_other_epoch_costs_the_trial_nothing(here: Path, one_ray: None) -> None:
    """As on machines that are taken away at any time: more deaths than a trial that stands still is given."""
    page = write_page(
        here,
        model={"type": "deadly_parts:Mortal"},
        train={
            "epochs": 8, "batch_size": 32, "checkpoint": {"every": 1},
            "optimizer": {"type": "adam", "lr": {"log": [1e-3, 1e-1]}},
        },
        search={"method": "random", "trials": 1},
        resources={"fuse": "never"},
    )  # fmt: skip
    watch = Noting()
    run = nn.run(nn.load(page), here / "out", watch=watch)
    judge_whole(run)
    assert run.result["trials"] == {"total": 1, "finished": 1, "stopped": 0, "failed": 0}
    died = [note for note in watch.notes if note.startswith("The worker of trial 0001 died")]
    assert len(died) > LOST_WORKER_TRIES, watch.notes


@pytest.mark.parametrize("on_cluster", [False, True])
def test_workers_that_never_get_as_far_as_a_trial_end_the_search(on_cluster: bool) -> None:
    now = 0.0
    deaths = EarlyDeaths(lambda: now)
    deaths.on_cluster = on_cluster
    for _ in range(20):  # seldom enough that others work between
        assert "crashed" in deaths.died("crashed")
        deaths.worked()
        now += 60
    for _ in range(LOST_WORKER_TRIES - 1):
        deaths.died("crashed")
    if on_cluster:  # those of one node, that Ray takes to be alive for a while
        for _ in range(8):
            now += NODE_DIES_S / 10
            deaths.died("crashed")
        now += NODE_DIES_S
    with pytest.raises(RunFailed, match=r"before they have taken up any trial \(crashed\)"):
        deaths.died("crashed")


def when(happened: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Do something, in a thread, as soon as something has happened."""

    def wait() -> None:
        deadline = time.monotonic() + 100
        while not happened() and time.monotonic() < deadline:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def results(out: Path) -> int:
    journals = list(out.glob("*/journal.jsonl"))
    return sum(event["event"] == "result" for event in rundir.read_lines(journals[0])) if journals else 0


def workers() -> list[int]:
    """Processes of this process's Ray that train."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            mine = f"\0NNOPT_TEST={os.getpid()}\0".encode() in b"\0" + (folder / "environ").read_bytes()
            if mine and (folder / "cmdline").read_text().startswith("ray::Worker"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found in /proc")
def test_a_worker_killed_with_all_its_lanes_loses_none(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All workers are killed, twice, while they hold four trials each."""
    monkeypatch.setenv("NNOPT_TEST", str(os.getpid()))
    page = write_page(
        here,
        model={"type": "deadly_parts:Deadly", "sleep": 0.005},
        resources={"fuse": "always", "lanes": 4},
        search={"method": "random", "trials": 8, "scheduler": {"type": "asha", "reduction_factor": 2}},
        train={"epochs": 12, "batch_size": 32, "optimizer": {"type": "adam", "lr": {"log": [1e-3, 1e-1]}}},
    )

    def kill() -> None:
        for process in workers():
            os.kill(process, signal.SIGKILL)

    watch = Noting()
    threads = [when(lambda after=after: results(here / "out") >= after, kill) for after in (6, 24)]  # type: ignore[misc]
    run = nn.run(nn.load(page), here / "out", watch=watch)
    for thread in threads:
        thread.join()
    assert any("checkpoint" in note for note in watch.notes), watch.notes
    judge_whole(run)
    assert run.result["trials"]["failed"] == 0


@pytest.mark.slow
def test_ray_joins_in_the_middle_and_nothing_is_repeated(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write_page(
        here,
        # So many that the search outlasts the start of Ray on a quick machine too.
        model={"type": "mlp", "widths": [32, 32]},
        train={
            "epochs": 2000, "batch_size": 8, "optimizer": {"type": "adam", "lr": {"log": [1e-3, 1e-1]}},
        },
        search={"method": "random", "trials": 6, "reproducible": True},
    )  # fmt: skip
    monkeypatch.setattr(seats, "RAY_WORTH_S", 0.01)
    watch = Noting()
    run = nn.run(nn.load(page), here / "out", watch=watch)
    assert any("Ray's workers are there" in note for note in watch.notes), watch.notes
    judge_whole(run)
    told = re.search(r"this process trained ([\d,]+) of ([\d,]+) epochs", run.result["decided"]["workers"])
    assert told, run.result["decided"]
    by_itself, everywhere = (int(number.replace(",", "")) for number in told.groups())
    assert 0 < by_itself <= everywhere == 6 * 2000
    monkeypatch.setattr(seats, "RAY_WORTH_S", 1e9)
    assert table(nn.run(nn.load(page), here / "alone")) == table(run)


CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
print(cluster.address, flush=True)
nodes = []
for line in sys.stdin:
    if line.strip() == "add":
        nodes.append(cluster.add_node(num_cpus=1))
    elif line.strip() == "remove":
        cluster.remove_node(nodes[0], allow_graceful=False)
    else:
        break
cluster.shutdown()
"""


class OwnCluster:
    """A Ray cluster of another process, to which nodes can be added."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()

    def do(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.communicate("end\n", timeout=60)


@pytest.mark.slow
def test_a_node_that_comes_gets_work_and_one_that_goes_takes_nothing_with_it(here: Path) -> None:
    out = here / "out"
    page = write_page(
        here,
        model={"type": "deadly_parts:Deadly", "sleep": 0.02},
        train={"epochs": 30, "batch_size": 32, "optimizer": {"type": "adam", "lr": {"log": [1e-3, 1e-1]}}},
        search={"method": "random", "trials": 16},
        resources={"fuse": "never"},
    )

    def started() -> set[int]:
        journal = RunDir(next(out.iterdir())).journal
        return {event["worker"] for event in rundir.read_lines(journal) if event["event"] == "started"}

    cluster = OwnCluster()
    try:
        coming = when(lambda: results(out) >= 5, lambda: cluster.do("add"))
        going = when(lambda: results(out) >= 10 and len(started()) >= 2, lambda: cluster.do("remove"))
        watch = Noting()
        run = nn.run(nn.load(page), out, address=cluster.address, watch=watch)
        coming.join()
        going.join()
        assert len(started()) >= 2, watch.notes
        judge_whole(run)
        assert run.result["trials"] == {"total": 16, "finished": 16, "stopped": 0, "failed": 0}
    finally:
        cluster.close()
