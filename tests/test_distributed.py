"""One network trained by several workers that Ray Train starts: the same training, also when a worker is lost."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from ray_example import Noting, Program, started_head, wait_for

import nnopt_ray as nn
from nnopt_ray import assembly, reading
from nnopt_ray.results import Epoch

# Ray Data warns of its own defaults; Ray Train brings it in.
pytestmark = pytest.mark.filterwarnings("ignore:`use_.*` is deprecated")

PARTS = """
import os, time
import torch

class Slow(torch.nn.Module):
    def __init__(self, shapes, *, pids: str, wrong: bool = False):
        super().__init__()
        open(os.path.join(pids, str(os.getpid())), "w").close()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(shapes.features, 16), torch.nn.ReLU(), torch.nn.Linear(16, shapes.outputs + wrong)
        )

    def forward(self, x):
        if self.training:
            time.sleep(0.02)
        return self.layers(x)
"""
PAGE: dict[str, Any] = {
    "name": "together",
    "seed": 5,
    "data": {"source": {"type": "sklearn", "name": "iris"}, "steps": ["scale"]},
    "model": {"type": "slow_parts:Slow", "pids": "PIDS"},
    "train": {"epochs": 24, "batch_size": 8, "checkpoint": {"every": 1}, "optimizer": {"type": "adam", "lr": 0.01}},
    "evaluate": {"bootstrap": 0},
    "resources": {"workers": 2},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "slow_parts.py").write_text(PARTS)
    (tmp_path / "pids").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(PAGE).replace("PIDS", str(tmp_path / "pids")))
    return tmp_path


def workers(here: Path) -> set[int]:
    return {int(file.name) for file in (here / "pids").iterdir()} - {os.getpid()}


def run_with_a_lost_worker(here: Path, **said: Any) -> tuple[nn.Run, Noting]:
    """The page, one of whose workers is killed after five epochs."""

    def kill_one() -> None:
        while len(watch.epochs) < 5:
            if over.wait(0.05):
                return
        os.kill(max(workers(here)), signal.SIGKILL)

    watch, over = Noting(), threading.Event()
    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        run = nn.run(nn.load("page.yaml", set=said), here / "out", watch=watch)
    finally:
        over.set()
        killer.join()
    assert len(workers(here)) >= 3, "no worker was started anew"
    return run, watch


@pytest.mark.ray
def test_two_workers_are_one_and_a_lost_one_costs_nothing(here: Path) -> None:
    run, watch = run_with_a_lost_worker(here)
    assert any(note.startswith("Training goes on with epoch ") for note in watch.notes), watch.notes
    assert watch.epochs == list(range(24)), "an epoch was told twice or not at all"
    told = run.path / "trials" / "0001" / "history.jsonl"
    alone = nn.run(nn.load("page.yaml", set={"resources.workers": 1}), here / "out")
    mine = (alone.path / "trials" / "0001" / "history.jsonl").read_text().splitlines()
    for one, other in zip(map(yaml.safe_load, told.read_text().splitlines()), map(yaml.safe_load, mine), strict=True):
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=1e-3)
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)
    assert run.result["test"]["accuracy"] == alone.result["test"]["accuracy"]
    assert "2" in run.result["decided"]["workers"]


@pytest.mark.slow
@pytest.mark.ray
def test_it_is_stopped_and_goes_on(here: Path) -> None:
    watch = Noting()
    with pytest.raises(nn.Interrupted):
        nn.run(nn.load("page.yaml"), here / "out", watch=watch, should_stop=lambda: len(watch.epochs) >= 4)
    path = next((here / "out").iterdir())
    first = len(watch.epochs)
    assert first < 24
    again = Noting()
    run = nn.resume(path, watch=again)
    assert again.epochs == list(range(first, 24))
    assert run.finished


@pytest.mark.slow
@pytest.mark.ray
def test_a_fault_of_the_page_is_told_once_and_no_worker_is_started_anew(here: Path) -> None:
    with pytest.raises(nn.UserError, match="must return one tensor of shape"):
        nn.run(nn.load("page.yaml", set={"model.wrong": True}), here / "out")
    assert len(workers(here)) == 2


@pytest.mark.slow
@pytest.mark.ray
def test_more_workers_than_there_is_room_for_are_refused_with_what_there_is(here: Path) -> None:
    with pytest.raises(nn.UserError, match=r"asks for 500 workers.*embedded Ray"):
        nn.run(nn.load("page.yaml", set={"resources.workers": 500}), here / "out")


@pytest.mark.slow
@pytest.mark.ray
def test_when_a_node_is_lost_the_other_goes_on_alone(here: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    class Losing(Noting):
        def epoch(self, epoch: Epoch) -> None:
            super().epoch(epoch)
            if len(self.epochs) == 4:
                threading.Thread(target=cluster.remove_node, args=(node, False)).start()

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=1)
    watch = Losing()
    try:
        page = nn.load("page.yaml", set={"resources.workers": [1, 2]})
        run = nn.run(page, here / "out", address=cluster.address, watch=watch)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert watch.epochs == list(range(24))
    assert any(note.startswith("Training goes on with epoch ") for note in watch.notes), watch.notes
    assert run.result["decided"]["workers"].startswith("1 that trained the network together")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluate.folds": 3, "resources.batch": "per_worker"}, "resources.batch: evaluate.folds trains by the batch"),
        ({"evaluate.sizes": "auto", "resources.batch": "per_worker"}, "resources.batch: evaluate.sizes trains by the"),
        ({"resources.workers": [4, 2]}, r"resources.workers: the fewest come first: write \[2, 4\]"),
        ({"resources.workers": [1, 2], "resources.batch": "per_worker"}, "resources.batch: where the workers"),
        ({"resources.lr_scaling": "linear"}, "resources.lr_scaling: the batch does not grow"),
        ({"resources.workers": 0}, "resources.workers"),
    ],
)
def test_what_does_not_go_together_is_told_before_it_starts(here: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(nn.PageError, match=said):
        nn.load("page.yaml", set=changes)


@pytest.mark.parametrize(
    ("batch", "rule", "size", "lr"),
    [
        ("global", "none", 8, 0.01),
        ("per_worker", "none", 32, 0.01),
        ("per_worker", "linear", 32, 0.04),
        ("per_worker", "sqrt", 32, 0.02),
    ],
)
def test_the_batch_and_the_rate_of_four_workers(here: Path, batch: str, rule: str, size: int, lr: float) -> None:
    said = {"resources.workers": 4, "resources.batch": batch, "resources.lr_scaling": rule}
    made = assembly.scaled(reading.load("page.yaml", set=said), 4)
    assert made.train.batch_size == size
    assert made.train.optimizer["lr"] == pytest.approx(lr)
    alone = assembly.scaled(reading.load("page.yaml", set=said), 1)
    assert (alone.train.batch_size, alone.train.optimizer["lr"]) == (8, 0.01)


@pytest.mark.slow
@pytest.mark.ray
def test_a_network_that_is_cut_is_one_too_and_a_lost_worker_costs_nothing(here: Path) -> None:
    run, watch = run_with_a_lost_worker(here, **{"resources.fsdp": True})
    assert watch.epochs == list(range(24)), "an epoch was told twice or not at all"
    assert run.result["decided"]["fsdp"].startswith("74 of 131 trained weights each")  # 3 classes are cut into 2 and 1
    alone = nn.run(nn.load("page.yaml", set={"resources.workers": 1}), here / "out")
    for metric, value in alone.result["test"].items():
        assert run.result["test"][metric] == pytest.approx(value, rel=1e-3), metric
    flower = {
        "sepal length (cm)": [5.1],
        "sepal width (cm)": [3.5],
        "petal length (cm)": [1.4],
        "petal width (cm)": [0.2],
    }
    said, expected = (nn.open_run(each.path).predict(pd.DataFrame(flower)) for each in (run, alone))
    pd.testing.assert_frame_equal(said, expected, rtol=1e-3)


@pytest.mark.ray
@pytest.mark.slow
def test_another_cluster_that_is_started_on_the_machine_takes_no_worker_away(here: Path) -> None:
    """Ray Train's cleaner asks the cluster that was started last for the training's controller, unless it is told not
    to, and takes one that does not know it at its word."""
    with started_head(cpus=2) as address:
        program = Program(here, "run", "page.yaml", "--out", "out", "--address", address)
        wait_for(lambda: any((here / "out").glob("*/trials/*/history.jsonl")), program)
        with started_head(cpus=0):
            code, said, errors = program.ended()
    assert code == 0, said + errors
    assert "lost" not in said + errors
    (path,) = (here / "out").iterdir()
    begun = (path / "trials" / "0001" / "resumed.jsonl").read_text().splitlines()
    assert len(begun) == 1, "its workers were started once"
