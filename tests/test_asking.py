"""How many workers a cluster that grows by itself is asked for; and a real autoscaler that brings them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_example import judge_whole
from hypothesis import given
from hypothesis import strategies as st
from ray_example import Program, below, free_port, send, unhurried_page, wait_until_it_listens

import nnopt_ray as nn
from nnopt_ray.launch.ray_jobs import JobServer, too_small
from nnopt_ray.search.asking import AT_ONCE, WORTH_S, enough, to_ask

SECONDS = st.none() | st.floats(0, 1e7)


@given(workers=st.integers(0, 1000), waiting=st.integers(-10, 10_000), left_s=SECONDS)
def test_no_more_is_asked_for_than_trials_wait_and_at_most_as_many_again(
    workers: int, waiting: int, left_s: float | None
) -> None:
    asked = to_ask(workers, waiting, left_s)
    assert 0 <= asked <= max(AT_ONCE, workers)
    assert asked <= max(0, waiting) or not asked


@given(workers=st.integers(1, 1000), waiting=st.integers(1, 10_000), left_s=SECONDS)
def test_what_is_asked_for_is_of_use(workers: int, waiting: int, left_s: float | None) -> None:
    asked = to_ask(workers, waiting, left_s)
    if left_s is None or left_s <= WORTH_S:
        assert asked == 0
    else:
        assert asked > 0
        assert left_s * workers / (workers + asked) >= WORTH_S * workers / (workers + 1) * 0.99
    if asked:
        assert not enough(waiting, left_s), "what is asked for is not taken back at once"


def test_a_cluster_without_a_worker_is_asked_for_one() -> None:
    assert to_ask(0, 100, None) == 1
    assert to_ask(0, 0, None) == 0


class Growing:
    """A head without CPUs; its autoscaler may start two nodes of one CPU here, by Ray's own stand-in for a cloud."""

    def __init__(self, folder: Path) -> None:
        types = {
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        }
        port, dashboard = free_port(), free_port()
        self.address, self.job_server = f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}"
        provider = {
            "type": "fake_multinode", "gcs_address": self.address, "head_node_id": HEAD, "use_node_id_as_ip": True,
            "disable_node_updaters": True, "disable_launch_config_check": True,
        }  # fmt: skip
        tree = {
            "cluster_name": "growing", "max_workers": 2, "provider": provider, "available_node_types": types,
            "head_node_type": "ray.head.default", "idle_timeout_minutes": 0.1, "upscaling_speed": 100,
            "docker": {}, "auth": {}, "file_mounts": {}, "cluster_synced_files": [], "initialization_commands": [],
            "setup_commands": [], "head_setup_commands": [], "worker_setup_commands": [],
            "head_start_ray_commands": [], "worker_start_ray_commands": [],
        }  # fmt: skip
        (folder / "autoscaler.json").write_text(json.dumps(tree))
        environment = {
            **os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "OMP_NUM_THREADS": "1",
            "RAY_NODE_TYPE_NAME": "ray.head.default", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
        }  # fmt: skip
        words = ["--head", "--block", f"--port={port}", "--num-cpus=0", f"--dashboard-port={dashboard}"]
        words.append(f"--autoscaling-config={folder / 'autoscaler.json'}")
        self._log = (folder / "head.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *words], env=environment, stdout=self._log,
            stderr=self._log, start_new_session=True,
        )  # fmt: skip
        for each in (port, dashboard):
            wait_until_it_listens(each)

    def kill(self) -> None:
        send(below(self._process.pid) | {self._process.pid}, signal.SIGKILL)
        self._process.wait()
        self._log.close()


HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[Growing]:
    (tmp_path / "head").mkdir()
    cluster = Growing(tmp_path / "head")
    yield cluster
    cluster.kill()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found in /proc")
def test_a_cluster_of_no_worker_grows_with_a_search(
    growing: Growing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = unhurried_page(tmp_path, 0.3, {"trials": 12}, epochs=15, resources={"fuse": "never"})
    program = Program(tmp_path, "run", str(page), "--out", "out", "--address", growing.address)
    code, said, errors = program.ended(timeout_s=500)
    print(f"\n{said}{errors}")
    assert code == 0, said + errors
    (run,) = (tmp_path / "out").iterdir()
    judge_whole(nn.open_run(run))
    started = {e["worker"] for e in judge_whole(nn.open_run(run)) if e["event"] == "started"}
    assert len(started) == 2, "and the second when there was enough to do"
    assert "No node of the cluster has room for a worker yet" in said + errors
    assert (said + errors).count("has come, on") == 2


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found in /proc")
@pytest.mark.parametrize("search", [False, True])
def test_a_cluster_of_no_worker_grows_for_workers_that_train_together(
    growing: Growing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    rate = {"log": [1e-3, 1e-1]} if search else 0.01
    page = unhurried_page(tmp_path, 0.05, {"trials": 2} if search else {}, epochs=3, resources={"workers": 2})
    tree = json.loads(page.read_text())
    tree["train"]["optimizer"]["lr"] = rate
    if not search:
        del tree["search"]
    page.write_text(json.dumps(tree))
    deadline, server = time.monotonic() + 60, JobServer(growing.job_server)
    while not (seen := server.seen()).nodes:  # a head that has just started tells of none
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert seen.grows, "what `nnopt submit` goes by; the stand-in itself takes no jobs"
    assert too_small(seen, nn.load(page)) is not None
    program = Program(tmp_path, "run", str(page), "--address", growing.address, "--out", "out")
    code, said, errors = program.ended(timeout_s=500)
    print(f"\n{said}{errors}")
    assert code == 0, said + errors
    assert "No node of the cluster has room for a worker yet" in said + errors
    (run,) = (tmp_path / "out").iterdir()
    assert list(nn.open_run(run).trials.epochs) == [3] * (2 if search else 1)
    assert "2 " in nn.open_run(run).result["decided"]["workers"]
