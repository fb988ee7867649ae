"""Clusters on which there is no place for a while: others have it, or the nodes are gone and come back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fault_example import judge_whole, table
from ray_example import OwnCluster, Program, below, send, unhurried_page, wait_for

import nnopt_ray as nn
from nnopt_ray.rundir import read_lines

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found in /proc"),
]
TOGETHER = {"resources": {"workers": 2}}
KINDS: dict[str, tuple[bool, dict[str, Any]]] = {
    "a search": (True, {"resources": {"fuse": "never"}}),
    "a search of groups": (True, TOGETHER),
    "a network of two workers": (False, TOGETHER),
}
HOLDS = """
import logging, sys, time
import ray

ray.init(address=sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)

@ray.remote(num_cpus=1)
class Other:
    def there(self):
        return True

others = [Other.remote()]
print(ray.get(others[0].there.remote()), flush=True)
time.sleep(1000)
"""


def page_of(folder: Path, kind: str, sleep: float, epochs: int) -> Path:
    search, more = KINDS[kind]
    page = unhurried_page(folder, sleep, {"trials": 3}, epochs=epochs, **more)
    tree = json.loads(page.read_text())
    if not search:
        tree["train"]["optimizer"]["lr"] = 0.01
        del tree["search"]
    page.write_text(json.dumps(tree))
    return page


def nodes_for(kind: str) -> int:
    return KINDS[kind][1]["resources"].get("workers", 1)


def epochs_in(out: Path) -> int:
    return sum(1 for file in out.glob("*/trials/*/history.jsonl") for _ in read_lines(file))


@pytest.mark.parametrize("kind", KINDS)
def test_a_node_that_is_gone_and_comes_back_costs_a_line(kind: str, tmp_path: Path) -> None:
    page = page_of(tmp_path, kind, 0.3, epochs=12)
    with OwnCluster(nodes=nodes_for(kind)) as cluster:
        program = Program(tmp_path, "run", str(page), "--out", "out", "--address", cluster.address)
        wait_for(lambda: epochs_in(tmp_path / "out") >= 3, program)
        cluster.kill_node(cluster.nodes[0])
        time.sleep(40)  # longer than Ray needs to notice it, and than workers may die before they have any trial
        assert program.runs()
        cluster.add()
        code, said, errors = program.ended()
    print(f"\n{said}{errors}")
    assert code == 0, said + errors
    assert (said + errors).count("Nodes are gone, and the Ray cluster of") == 1
    assert (said + errors).count("one that comes within 10 minutes is taken") == 1
    (path,) = (tmp_path / "out").iterdir()
    run = nn.open_run(path)
    if run.experiment.is_search:
        judge_whole(run)
    assert "s for places on the cluster" in run.result["decided"]["waited"]
    undisturbed = Program(tmp_path, "run", str(page_of(tmp_path, kind, 0.0, epochs=12)), "--out", "undisturbed")
    code, said, errors = undisturbed.ended()
    assert code == 0, said + errors
    (other_path,) = (tmp_path / "undisturbed").iterdir()
    for row, other in zip(table(run), table(nn.open_run(other_path)), strict=True):
        assert row["val_loss"] == pytest.approx(other["val_loss"], rel=1e-6)
        assert row["epochs"] == other["epochs"] == 12


@pytest.mark.parametrize("kind", KINDS)
def test_where_others_have_the_place_a_run_waits_and_can_be_stopped(kind: str, tmp_path: Path) -> None:
    page = page_of(tmp_path, kind, 0.02, epochs=3)
    with OwnCluster(nodes=nodes_for(kind)) as cluster:
        other = subprocess.Popen(
            [sys.executable, "-c", HOLDS, cluster.address], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "True"
        program = Program(tmp_path, "run", str(page), "--out", "out", "--address", cluster.address)
        time.sleep(50)
        assert program.runs()
        os.kill(program.pid, signal.SIGINT)
        code, said, errors = program.ended(timeout_s=20)
        print(f"\n{said}{errors}")
        assert code == 130
        free = nodes_for(kind) - 1
        assert f"No worker is there after 30 s: {free} of {free + 1} CPUs of the cluster are free." in said + errors
        (path,) = (tmp_path / "out").iterdir()
        program = Program(tmp_path, "resume", str(path), "--address", cluster.address)
        time.sleep(15)
        assert epochs_in(tmp_path / "out") == 0
        send(below(other.pid) | {other.pid}, signal.SIGKILL)
        other.communicate()
        code, said, errors = program.ended()
    assert code == 0, said + errors
    assert set(nn.open_run(path).trials.epochs) == {3}
