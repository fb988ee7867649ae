"""`ray job submit` of a page to a real Ray head on this machine, with token authentication on."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray
REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Head:
    address: str
    environment: dict[str, str]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


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
    dashboard = free_port()
    # A socket's path may have 107 characters, and pytest's folders are long.
    short = Path("/tmp") / f"nnopt-head-{os.getpid()}"
    options = {
        "port": free_port(),
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
        yield Head(address, environment)
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
