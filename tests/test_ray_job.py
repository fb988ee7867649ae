"""`ray job submit` and `nnopt submit` of a page to a real Ray head on this machine, with token authentication on."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ray_example import OwnCluster, free_port

pytestmark = pytest.mark.ray
REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Head:
    address: str
    gcs: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "NNOPT_RUNS": str(folder / "runs"),
    }
    environment.pop("RAY_ADDRESS", None)
    dashboard, gcs = free_port(), free_port()
    # A socket's path may have 107 characters, and pytest's folders are long.
    short = Path("/tmp") / f"nnopt-head-{os.getpid()}"
    options = {
        "port": gcs,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": free_port(),
        "num-cpus": 2,
        "temp-dir": short,
    }
    words = ["ray", "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for(address, token.read_text(), process, folder / "head.log")
        yield Head(address, f"127.0.0.1:{gcs}", environment)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            pass
        finally:
            os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
            shutil.rmtree(short, ignore_errors=True)


def wait_for(address: str, token: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    request = urllib.request.Request(f"{address}/api/version", headers={"Authorization": f"Bearer {token}"})
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                assert answer.status == 200
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    raise AssertionError(f"no job server: {log.read_text()[-2000:]}")


def submit(head: Head, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Submit and follow to the end; a head that has just started has no agent for jobs yet."""
    deadline = time.monotonic() + 90
    while True:
        done = subprocess.run(
            ["ray", "job", "submit", "--address", head.address, "--working-dir", ".", "--", *words],
            cwd=folder, env=head.environment, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


def test_a_page_runs_unchanged_inside_a_ray_job(head: Head, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "jobs", tmp_path / "jobs")
    done = submit(head, tmp_path, "nnopt", "run", "jobs/digits_search.yaml",
                  "--set", "search.trials=4", "--set", "train.epochs=5")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    runs = list(Path(head.environment["NNOPT_RUNS"]).iterdir())
    assert len(runs) == 1
    assert str(runs[0]) in done.stdout  # the run folder is absolute and survives the job's working directory
    result = json.loads((runs[0] / "result.json").read_text())
    assert result["trials"]["total"] == 4
    assert "Ray cluster" in result["decided"]["workers"]
    assert (runs[0] / "report.html").is_file()


def test_a_faulty_page_fails_the_job_and_names_the_place(head: Head, tmp_path: Path) -> None:
    page = (REPOSITORY / "jobs" / "digits_search.yaml").read_text().replace("optimizer:", "optimiser:")
    (tmp_path / "typo.yaml").write_text(page)
    done = submit(head, tmp_path, "nnopt", "run", "typo.yaml")
    assert done.returncode != 0
    assert "train.optimiser: unknown key. Did you mean 'optimizer'?" in done.stdout + done.stderr


OWN = """
import os
import time

import torch

from sizes_of_mine import WIDTH


class Net(torch.nn.Module):
    def __init__(self, shapes):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(shapes.features, WIDTH), torch.nn.Linear(WIDTH, shapes.outputs)
        )

    def forward(self, x):
        if self.training:
            time.sleep(0.001 if os.path.exists("HURRY") else 0.1)
        return self.layers(x)
"""
OWN_PAGE = """
name: own
data: {source: {type: csv, path: data/mine.csv}, target: y}
model: {type: "own_net:Net"}
train: {epochs: EPOCHS, batch_size: 8, checkpoint: {every: 1}}
evaluate: {bootstrap: 0}
"""


def write_own(folder: Path, epochs: int) -> None:
    (folder / "own_net.py").write_text(OWN.replace("HURRY", str(folder / "hurry")))
    (folder / "sizes_of_mine.py").write_text("WIDTH = 8\n")
    (folder / "data").mkdir()
    rows = [f"{i},{i % 7},{'yes' if i % 7 > 3 else 'no'}" for i in range(70)]
    (folder / "data" / "mine.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")
    (folder / "own.yaml").write_text(OWN_PAGE.replace("EPOCHS", str(epochs)))


def nnopt(head: Head, folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nnopt_ray", *words, "--address", head.address],
        cwd=folder, env={**head.environment, **variables}, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


def test_own_code_goes_along_and_a_stopped_job_goes_on_when_its_page_is_submitted_again(
    head: Head, tmp_path: Path
) -> None:
    write_own(tmp_path, epochs=60)
    done = nnopt(head, tmp_path, "submit", "own.yaml")
    assert done.returncode == 2
    assert "data/mine.csv" in done.stderr
    assert "--include data/mine.csv" in done.stderr

    done = nnopt(head, tmp_path, "submit", "own.yaml", "--include", "data")
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    assert nnopt(head, tmp_path, "submit", "own.yaml", "--include", "data").stdout.strip() == job, "queued twice"
    deadline = time.monotonic() + 120
    while "epoch  3" not in (log := nnopt(head, tmp_path, "logs", job).stdout):
        assert time.monotonic() < deadline, log
        time.sleep(0.5)
    assert nnopt(head, tmp_path, "stop", job[:-1]).returncode == 0
    assert nnopt(head, tmp_path, "logs", job, "--follow").returncode == 130

    (tmp_path / "hurry").touch()
    done = nnopt(head, tmp_path, "submit", "own.yaml", "--include", "data", "--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    run = Path(done.stdout.splitlines()[-1])
    assert (run / "result.json").is_file()
    epochs = [json.loads(line)["epoch"] for line in (run / "trials/0001/history.jsonl").read_text().splitlines()]
    assert epochs == list(range(60))
    assert str(run) in nnopt(head, tmp_path, "logs", job).stdout, "the second job has another run folder"
    listed = json.loads(nnopt(head, tmp_path, "jobs", "--json").stdout)["jobs"]
    assert next((one["state"], one["exit_code"]) for one in listed if one["name"] == "own") == ("succeeded", 0)
    assert {one["id"]: one["state"] for one in listed}[job] == "stopped"


def test_the_exit_code_is_the_jobs_own_and_a_missing_token_is_explained(head: Head, tmp_path: Path) -> None:
    write_own(tmp_path, epochs=1)
    nowhere = ["--set", "data.source.path=/nowhere/mine.csv"]
    done = nnopt(head, tmp_path, "submit", "own.yaml", "--follow", *nowhere)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "/nowhere/mine.csv" in done.stdout
    assert "failed with exit code 2" in done.stderr.splitlines()[-1]
    done = nnopt(head, tmp_path, "jobs", RAY_AUTH_MODE="disabled")
    assert done.returncode == 2
    assert "RAY_AUTH_MODE=token" in done.stderr
    done = nnopt(head, tmp_path, "submit", "own.yaml", *nowhere, "--set", "resources.gpus_per_worker=4")
    assert done.returncode == 2
    assert "4 GPUs" in done.stderr
    assert "2 CPUs and 0 GPUs" in done.stderr


def write_search(folder: Path) -> None:
    page = {
        "name": "here",
        "data": {"source": {"type": "sklearn", "name": "iris"}},
        "model": {"type": "mlp"},
        "train": {"epochs": 2, "optimizer": {"type": "adam", "lr": {"log": [1e-3, 1e-1]}}},
        "search": {"method": "random", "trials": 2},
    }
    (folder / "page.yaml").write_text(json.dumps(page))


def run_on(head: Head, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`nnopt run` of a search at the address of the cluster itself, of which nothing but that is known."""
    write_search(folder)
    (folder / "home").mkdir(exist_ok=True)
    environment = {key: value for key, value in head.environment.items() if not key.startswith("RAY_AUTH")}
    return subprocess.run(
        [sys.executable, "-m", "nnopt_ray", "run", "page.yaml", "--address", head.gcs], cwd=folder, check=False,
        env={**environment, "HOME": str(folder / "home"), **variables}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip


@pytest.mark.slow
def test_a_head_on_this_machine_gets_the_token_that_lies_here(head: Head, tmp_path: Path) -> None:
    done = run_on(head, tmp_path, RAY_AUTH_TOKEN_PATH=head.environment["RAY_AUTH_TOKEN_PATH"])
    assert done.returncode == 0, done.stdout + done.stderr


BOTH = """
import os, sys
import nnopt_ray as nn
import ray

def embedded():
    ray.init(address="local", include_dashboard=False, num_cpus=1, log_to_driver=False)
    assert os.environ.get("RAY_AUTH_MODE", "token") == "token"
    assert ray.get(ray.remote(lambda: 5).remote()) == 5
    ray.shutdown()

embedded()
nn.run(nn.load("page.yaml"), "runs", address=sys.argv[1])
nn.run(nn.load("page.yaml"), "runs")
embedded()
"""


@pytest.mark.slow
def test_a_cluster_without_a_token_serves_a_process_that_has_one(tmp_path: Path) -> None:
    """A notebook in which Ray was embedded before: Ray has set its mode then, and starts no actor with it elsewhere."""
    (tmp_path / "home").mkdir()
    write_search(tmp_path)
    (tmp_path / "both.py").write_text(BOTH)
    with OwnCluster(nodes=0, head_cpus=1, token=False) as nodes:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
        done = subprocess.run(
            [sys.executable, "both.py", nodes.address], cwd=tmp_path, capture_output=True, text=True, timeout=280,
            env={**environment, "HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPOSITORY)}, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_cluster_that_wants_a_token_says_so_at_once(head: Head, tmp_path: Path) -> None:
    done = run_on(head, tmp_path)
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()  # and nothing of Ray's own
    assert f"cannot reach the Ray cluster at {head.gcs}: it wants a token: set RAY_AUTH_MODE=token" in sentence
    (tmp_path / "other").write_text("0" * 64)
    done = run_on(head, tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(tmp_path / "other"))
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert "it takes another token than ours" in sentence
