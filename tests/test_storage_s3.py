"""Runs at a real S3 server, by HTTP: moto's. Needs `moto[server]` and `s3fs`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnopt_ray.rundir import read_json, read_lines

pytest.importorskip("moto")
pytest.importorskip("s3fs")
pytestmark = pytest.mark.slow

PAGE = """
name: digits
objective: minimize val_loss
data: {source: {type: sklearn, name: digits}, steps: [scale]}
model: {type: mlp, widths: [256, 256]}
train: {epochs: 60, checkpoint: {every: 1}, optimizer: {type: adam, lr: 0.001}}
"""
PARENT = "s3://bucket/runs"


class Server:
    def __init__(self, folder: Path) -> None:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        command = [sys.executable, "-m", "moto.server", "-p", str(self.port)]
        with (folder / "moto.log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        self.environment = {
            **os.environ,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        made = "import fsspec; fsspec.filesystem('s3').mkdir('bucket')"
        for _ in range(60):
            time.sleep(0.5)
            if subprocess.run([sys.executable, "-c", made], env=self.environment, capture_output=True).returncode == 0:
                return
        raise AssertionError((folder / "moto.log").read_text())

    def nnopt(self, machine: Path, *words: str) -> subprocess.Popen[str]:
        """The program on a machine, which is a cache and a current directory of its own."""
        machine.mkdir(exist_ok=True)
        environment = {**self.environment, "NNOPT_CACHE": str(machine / "cache")}
        command = [sys.executable, "-m", "nnopt_ray", *words]
        return subprocess.Popen(
            command, cwd=machine, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("server"))
    yield found
    found.process.send_signal(signal.SIGCONT)
    found.process.kill()
    found.process.wait()


@pytest.fixture
def page(tmp_path: Path) -> str:
    (tmp_path / "digits.yaml").write_text(PAGE)
    return str(tmp_path / "digits.yaml")


def working(machine: Path) -> Path:
    return next((machine / "cache/at-url/s3/bucket/runs").glob("digits-*"))


def wait_for_epoch(machine: Path, epoch: int) -> str:
    """→ the URL of the run that trains there."""
    for _ in range(600):
        time.sleep(0.1)
        for history in (machine / "cache").glob("at-url/s3/bucket/runs/digits-*/trials/0001/history.jsonl"):
            if sum(1 for _ in read_lines(history)) > epoch:
                return f"{PARENT}/{history.parents[2].name}"
    raise AssertionError(f"epoch {epoch} did not come")


def test_a_killed_run_goes_on_on_another_machine(server: Server, page: str, tmp_path: Path) -> None:
    whole = server.nnopt(tmp_path / "whole", "run", page, "--out", "runs")
    said, _ = whole.communicate(timeout=300)
    reference = tmp_path / "whole" / said.splitlines()[-1]
    first = server.nnopt(tmp_path / "first", "run", page, "--set", "train.epochs=60", "--out", PARENT)
    url = wait_for_epoch(tmp_path / "first", 5)
    time.sleep(3)  # the first sending is over
    first.kill()
    first.communicate()
    second = server.nnopt(tmp_path / "second", "resume", url)
    said, _ = second.communicate(timeout=300)
    assert second.returncode == 0, said
    assert said.splitlines()[-1] == url
    again = working(tmp_path / "second")
    # How much was sent before the kill is chance; that the end is the unbroken run's is not.
    assert (again / "best/model.safetensors").read_bytes() == (reference / "best/model.safetensors").read_bytes()
    assert read_json(again / "result.json")["test"] == read_json(reference / "result.json")["test"]


def test_a_server_that_is_silent_for_a_while_costs_nothing(server: Server, page: str, tmp_path: Path) -> None:
    process = server.nnopt(tmp_path / "first", "run", page, "--out", PARENT)
    url = wait_for_epoch(tmp_path / "first", 2)
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(25)
    server.process.send_signal(signal.SIGCONT)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert said.splitlines()[-1] == url
    looked = server.nnopt(tmp_path / "second", "ls", PARENT)
    told, _ = looked.communicate(timeout=120)
    assert any(url in line and "finished" in line for line in told.splitlines()), told


def test_ctrl_c_sends_what_was_done(server: Server, page: str, tmp_path: Path) -> None:
    process = server.nnopt(tmp_path / "first", "run", page, "--set", "train.epochs=2000", "--out", PARENT)
    url = wait_for_epoch(tmp_path / "first", 5)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert f"nnopt resume {url}" in said
    shown = server.nnopt(tmp_path / "second", "show", url)
    told, _ = shown.communicate(timeout=120)
    assert "interrupted" in told, told


@pytest.mark.parametrize("out", ["s3://no-such-bucket/runs", "s3://Not_A_Bucket!/runs"])
def test_a_wrong_bucket_is_one_sentence_before_training(server: Server, page: str, tmp_path: Path, out: str) -> None:
    process = server.nnopt(tmp_path / "first", "run", page, "--out", out)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert len(said.splitlines()) == 1, said
    assert f"{out} cannot be written: " in said


NODES = """
import sys, time
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for cache in sys.argv[1:]:
    cluster.add_node(num_cpus=1, env_vars={"NNOPT_CACHE": cache})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
POPULATION = """
name: digits
objective: minimize val_loss
data: {source: {type: sklearn, name: digits}, steps: [scale]}
model: {type: mlp, widths: [64], dropout: {uniform: [0, 0.5]}}
train: {epochs: 40, batch_size: 16, optimizer: {type: adam, lr: {log: [1.0e-4, 1.0e-1]}}}
search:
  {trials: 6, method: random, reproducible: true, concurrency: 4, scheduler: {type: pbt, perturbation_interval: 4}}
"""


@pytest.mark.ray
def test_nodes_without_a_folder_in_common_search_by_the_store(server: Server, tmp_path: Path) -> None:
    """A reproducible population over two nodes, whose driver is killed and goes on on another machine, ends bit for bit
    as one that ran through on one machine in a folder."""
    (tmp_path / "digits.yaml").write_text(POPULATION)
    page = str(tmp_path / "digits.yaml")
    said, _ = server.nnopt(tmp_path / "plain", "run", page, "--out", "runs").communicate(timeout=300)
    reference = tmp_path / "plain" / said.splitlines()[-1]
    command = [sys.executable, "-c", NODES, str(tmp_path / "node-1"), str(tmp_path / "node-2")]
    environment = {**server.environment, "RAY_USAGE_STATS_ENABLED": "0"}
    ray = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert ray.stdout is not None
        address = ray.stdout.readline().strip()
        first = server.nnopt(tmp_path / "first", "run", page, "--out", PARENT, "--address", address)
        journals = tmp_path / "first/cache/at-url/s3/bucket/runs"
        for _ in range(1200):
            time.sleep(0.1)
            journal = next(journals.glob("digits-*/journal.jsonl"), None)
            if journal is not None and sum(event["event"] == "result" for event in read_lines(journal)) > 8:
                break
        time.sleep(3)
        first.kill()
        first.communicate()
        url = f"{PARENT}/{next(journals.glob('digits-*')).name}"
        second = server.nnopt(tmp_path / "second", "resume", url, "--address", address)
        said, _ = second.communicate(timeout=400)
    finally:
        ray.communicate(timeout=60)  # the end of its input is its end
    assert second.returncode == 0, said
    again = working(tmp_path / "second")
    assert read_json(again / "result.json")["test"] == read_json(reference / "result.json")["test"]
    for trial in (reference / "trials").iterdir():
        ours, theirs = ([(line["epoch"], line["val_loss"]) for line in read_lines(folder / "history.jsonl")]
                        for folder in (trial, again / "trials" / trial.name))  # fmt: skip
        assert ours == theirs, trial.name
    assert any(event["event"] == "copied" for event in read_lines(again / "journal.jsonl"))
    for node in ("node-1", "node-2"):
        assert list((tmp_path / node).glob("*/manifest.json")), f"{node} has no copy of the data"
