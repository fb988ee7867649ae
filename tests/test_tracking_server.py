"""MLflow with a server of its own, where `mlflow` itself is installed: NNOPT_TEST_MLFLOW names its command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

COMMAND = os.environ.get("NNOPT_TEST_MLFLOW", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COMMAND, reason="NNOPT_TEST_MLFLOW names no `mlflow` with a server"),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = int(found.getsockname()[1])
    store = ["--backend-store-uri", f"sqlite:///{tmp_path / 'm.db'}", "--artifacts-destination", str(tmp_path / "art")]
    process = subprocess.Popen([COMMAND, "server", "--port", str(port), *store], start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            break
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.5)
    yield url
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(folder: Path, server: str, trials: int = 3) -> subprocess.CompletedProcess[str]:
    page = {
        "name": "told",
        "data": {"source": {"type": "sklearn", "name": "iris"}},
        "model": {"type": "mlp"},
        "train": {"epochs": 4, "optimizer": {"type": "adam", "lr": {"log": [1e-3, 1e-1]}}},
        "search": {"method": "random", "trials": trials},
        "tracking": [{"type": "mlflow", "uri": server, "experiment": "flowers"}],
    }
    (folder / "page.yaml").write_text(json.dumps(page))
    words = [sys.executable, "-m", "nnopt_ray", "run", "page.yaml", "--json"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=200, check=False)


def asked(server: str, path: str, **body: Any) -> Any:
    request = urllib.request.Request(
        f"{server}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_a_server_has_the_run_its_trials_and_the_report(server: str, tmp_path: Path) -> None:
    done = run(tmp_path, server)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)  # and nothing of MLflow's own
    experiments = asked(server, "experiments/search", max_results=10)["experiments"]
    (place,) = [each["experiment_id"] for each in experiments if each["name"] == "flowers"]
    runs = asked(server, "runs/search", experiment_ids=[place])["runs"]
    named = {each["info"]["run_name"]: each for each in runs}
    assert set(named) == {Path(told["path"]).name, "0001", "0002", "0003"}
    assert {each["info"]["status"] for each in runs} == {"FINISHED"}
    losses = {m["key"]: m for m in named["0001"]["data"]["metrics"]}
    assert losses["val_loss"]["step"] == 3
    assert list((tmp_path / "art").rglob("report.html"))


def test_a_server_that_is_gone_costs_a_sentence(server: str, tmp_path: Path) -> None:
    gone = server[: server.rfind(":")] + ":9"
    done = run(tmp_path, gone)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"]
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("tracking: ")]
    assert "'mlflow' is switched off for this run" in sentence
