"""The whole cluster of a search is lost: the program ends with a sentence, and another cluster ends the search."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest
from fault_example import judge_whole, table
from ray_example import OwnCluster, Program, results, unhurried_page, wait_for, without_sleep

import nnopt_ray as nn
from nnopt_ray.errors import ClusterLost
from nnopt_ray.rundir import read_lines
from nnopt_ray.search import cluster
from nnopt_ray.search.cluster import RaySession


def write_page(folder: Path, sleep: float, workers: int = 1) -> Path:
    """Trials of several workers are fewer, as each has an epoch by itself."""
    search = {"trials": 10 if workers == 1 else 4, "reproducible": True}
    return unhurried_page(folder, sleep, search, resources={"workers": workers})


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found in /proc")
@pytest.mark.timeout(600)  # groups of workers take half a minute to start, three times
@pytest.mark.parametrize("workers", [1, 2])
def test_a_search_whose_cluster_is_gone_is_ended_by_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    page, out = write_page(tmp_path, 0.03 if workers == 1 else 0.2, workers), tmp_path / "out"
    trials, known = (10, 60) if workers == 1 else (4, 30)
    monkeypatch.chdir(tmp_path)
    with OwnCluster(nodes=1, head_cpus=1) as first:
        program = Program(tmp_path, "run", str(page), "--out", str(out), "--address", first.address)
        wait_for(lambda: results(out) >= known, program)
        assert program.runs()
        first.kill()
        began = time.monotonic()
    code, said, errors = program.ended()
    took_s = time.monotonic() - began
    (run,) = out.iterdir()
    assert code == 1, said + errors
    (sentence,) = errors.splitlines()
    assert sentence.startswith(f"nnopt: the Ray cluster at {first.address} is gone: its head has not answered for ")
    assert sentence.endswith(f"nnopt resume {run}")
    assert json.loads((run / "ended.json").read_text())["status"] == "failed"
    assert took_s < 58, "Ray itself ends the process after 60 s, with words of its own"
    before = results(out)
    assert before < 20 * trials
    with OwnCluster(nodes=2) as second:
        code, said, errors = Program(tmp_path, "resume", str(run), "--address", second.address).ended()
    assert code == 0, said + errors
    ended = nn.open_run(run)
    judge_whole(ended)
    assert ended.result["trials"] == {"total": trials, "finished": trials, "stopped": 0, "failed": 0}
    write_page(tmp_path, 0.0, workers)
    undisturbed = nn.run(nn.load(page), tmp_path / "undisturbed")
    assert without_sleep(table(ended)) == without_sleep(table(undisturbed))
    print(f"\nthe sentence came after {took_s:.0f} s; {before} epochs were there")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found in /proc")
def test_a_network_that_workers_train_together_goes_on_on_another_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = json.loads(write_page(tmp_path, sleep=0.1).read_text())
    del tree["search"]
    tree |= {"train": {"epochs": 20, "batch_size": 32}, "resources": {"workers": 2}}
    (tmp_path / "page.yaml").write_text(json.dumps(tree))
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"

    def epochs() -> list[dict[str, object]]:
        lines = [line for file in out.glob("*/trials/0001/history.jsonl") for line in read_lines(file)]
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]

    with OwnCluster(nodes=2) as first:
        program = Program(tmp_path, "run", "page.yaml", "--out", str(out), "--address", first.address)
        wait_for(lambda: len(epochs()) >= 5, program)
        assert program.runs()
        first.kill()
    code, said, errors = program.ended()
    (run,) = out.iterdir()
    assert code == 1, said + errors
    assert f"nnopt: the Ray cluster at {first.address} is gone" in errors
    assert errors.splitlines()[-1].endswith(f"nnopt resume {run}")
    before = epochs()
    assert 5 <= len(before) < 20
    with OwnCluster(nodes=2) as second:
        code, said, errors = Program(tmp_path, "resume", str(run), "--address", second.address).ended()
        assert code == 0, said + errors
        assert [line["epoch"] for line in epochs()] == list(range(20))
        assert epochs()[: len(before)] == before
        tree["model"]["sleep"] = 0.0
        (tmp_path / "page.yaml").write_text(json.dumps(tree))
        ended, out = epochs(), tmp_path / "undisturbed"
        undisturbed = Program(tmp_path, "run", "page.yaml", "--out", str(out), "--address", second.address)
        assert undisturbed.ended()[0] == 0
    assert epochs() == ended


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(cluster, "LOST_S", 0.2)


def session_of(head: socket.socket, folder: Path) -> RaySession:
    session = RaySession("10.0.0.1:6379", nn.load(write_page(folder, sleep=0.0)).resources, None, at_once=False)
    session._head = head.getsockname()
    return session


def listening(at: tuple[str, int] = ("127.0.0.1", 0)) -> socket.socket:
    return socket.create_server(at)


def ask_until(session: RaySession, deadline: float) -> None:
    while time.monotonic() < deadline:
        assert not session.answers()
        time.sleep(0.01)


def test_a_head_that_is_gone_is_given_up_in_time(tmp_path: Path, quick: None) -> None:
    assert cluster.LOST_S < 60
    with listening() as head:
        session = session_of(head, tmp_path)
        assert session.answers()
    began = time.monotonic()
    with pytest.raises(ClusterLost, match=r"^the Ray cluster at 10\.0\.0\.1:6379 is gone: its head has not answered"):
        ask_until(session, began + 10)
    assert time.monotonic() - began >= 0.2
    assert session.lost


def test_a_head_that_comes_back_is_not_given_up(tmp_path: Path, quick: None) -> None:
    head = listening()
    session = session_of(head, tmp_path)
    at = head.getsockname()
    for _ in range(3):
        head.close()
        for _ in range(cluster.LOOKS - 1):
            assert not session.answers()
        time.sleep(0.1)
        head = listening(at)
        assert session.answers()
        time.sleep(0.15)
    head.close()
    assert not session.lost
