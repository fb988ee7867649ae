"""A Ray cluster of processes of its own, whose nodes can be added and killed, and a program that works on it."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import nnopt_ray as nn
from nnopt_ray import rundir
from nnopt_ray.results import Epoch, TrialRow


@contextmanager
def embedded(cpus: int) -> Iterator[None]:
    """A Ray of this process for several tests; what runs in it uses a Ray that is there already."""
    import ray

    ray.init(address="local", include_dashboard=False, num_cpus=cpus, logging_level=logging.ERROR, log_to_driver=False)
    yield
    ray.shutdown()


class Noting(nn.Watch):
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.epochs: list[int] = []
        self.rows: list[TrialRow] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch.epoch)

    def trial(self, row: TrialRow, best: TrialRow | None) -> None:
        self.rows.append(row)


UNHURRIED = """
import time, torch

class Unhurried(torch.nn.Module):
    def __init__(self, shapes, *, sleep: float = 0.0):
        super().__init__()
        self.sleep = sleep
        self.layer = torch.nn.Linear(shapes.features, shapes.outputs)
        self.drop = torch.nn.Dropout(0.2)

    def forward(self, x):
        if self.training:
            time.sleep(self.sleep)
        return self.layer(self.drop(x.flatten(1)))
"""


def unhurried_page(folder: Path, sleep: float, search: dict[str, Any], epochs: int = 20, **more: Any) -> Path:
    """A page whose model sleeps at each of the four steps of an epoch."""
    (folder / "unhurried_parts.py").write_text(UNHURRIED)
    tree = {
        "name": "unhurried",
        "seed": 5,
        "data": {"source": {"type": "sklearn", "name": "iris"}, "steps": ["scale"]},
        "model": {"type": "unhurried_parts:Unhurried", "sleep": sleep},
        "train": {"epochs": epochs, "batch_size": 32, "optimizer": {"type": "adam", "lr": {"log": [1e-3, 1e-1]}}},
        "search": {"method": "random", **search},
        "evaluate": {"bootstrap": 0},
        **more,
    }
    (folder / "page.yaml").write_text(json.dumps(tree))
    return folder / "page.yaml"


def without_sleep(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{key: value for key, value in row.items() if "sleep" not in key} for row in rows]


NODES = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": int(sys.argv[1]), "include_dashboard": False})
print(cluster.address, flush=True)
for line in sys.stdin:
    node = cluster.add_node(num_cpus=1)
    print(next(one.process.pid for one in node.all_processes["raylet"]), flush=True)
cluster.shutdown()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def wait_until_it_listens(port: int, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nothing listens on {port}"
            time.sleep(0.2)


@contextmanager
def started_head(cpus: int) -> Iterator[str]:
    """A head with a dashboard by `ray start`, which makes it the machine's latest → its address."""
    port, dashboard = free_port(), free_port()
    words = ["--head", "--block", f"--num-cpus={cpus}", f"--port={port}", f"--dashboard-port={dashboard}"]
    words.append(f"--dashboard-agent-listen-port={free_port()}")
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", *words], start_new_session=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for each in (port, dashboard):
            wait_until_it_listens(each)
        yield f"127.0.0.1:{port}"
    finally:
        send(below(process.pid) | {process.pid}, signal.SIGKILL)
        process.wait()


def below(pid: int) -> set[int]:
    """The processes below one, from /proc."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):  # it ended meanwhile
            continue
    found: set[int] = set()
    while new := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= new
    return found


def train(processes: set[int]) -> set[int]:
    """Those of them that are Ray's workers."""
    found = set()
    for process in processes:
        try:
            if Path(f"/proc/{process}/cmdline").read_text().startswith("ray::Worker"):
                found.add(process)
        except OSError:
            continue
    return found


def send(processes: set[int], which: signal.Signals) -> None:
    for process in processes:
        try:
            os.kill(process, which)
        except ProcessLookupError:
            continue


class OwnCluster:
    """Head and nodes of one CPU each; all of it is killed when it is left."""

    def __init__(self, nodes: int, head_cpus: int = 0, token: bool = True) -> None:
        """token: whether it asks for the one that lies here, where Ray has been embedded in this process before."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({} if token else {"RAY_AUTH_MODE": "disabled"})
        self._process = subprocess.Popen(
            [sys.executable, "-c", NODES, str(head_cpus)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True, env=environment,
        )  # fmt: skip
        self.address = self._read()
        self.nodes = [self.add() for _ in range(nodes)]  # their raylets

    def __enter__(self) -> OwnCluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def add(self) -> int:
        """A new node → its raylet."""
        assert self._process.stdin is not None
        self._process.stdin.write("add\n")
        self._process.stdin.flush()
        return int(self._read())

    def workers(self) -> set[int]:
        return train(below(self._process.pid))

    def kill_node(self, raylet: int) -> None:
        send(below(raylet) | {raylet}, signal.SIGKILL)

    def kill(self) -> None:
        """Everything at once, as when the power fails."""
        send(below(self._process.pid) | {self._process.pid}, signal.SIGKILL)
        self._process.communicate()


class Program:
    """`nnopt WORDS` in a folder."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "nnopt_ray", *words], cwd=folder, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def runs(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> tuple[str, str]:
        """→ output and errors so far."""
        self._process.kill()
        return self._process.communicate()

    def ended(self, timeout_s: float = 300) -> tuple[int, str, str]:
        """Wait for it → exit code, output, errors."""
        out, err = self._process.communicate(timeout=timeout_s)
        return self._process.returncode, out, err


def wait_for(happened: Callable[[], bool], program: Program, timeout_s: float = 120) -> None:
    """Until something has happened, or the program has ended."""
    deadline = time.monotonic() + timeout_s
    while not happened() and program.runs():
        assert time.monotonic() < deadline, "what the test waits for did not happen"
        time.sleep(0.02)


def results(out: Path) -> int:
    """Epochs in the journal of the only run there."""
    journals = list(out.glob("*/journal.jsonl"))
    return sum(event["event"] == "result" for event in rundir.read_lines(journals[0])) if journals else 0
