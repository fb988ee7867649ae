"""Trials of several workers: a search is the one that single processes do, whatever happens to its groups."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ray_example import Noting, embedded

import nnopt_ray as nn
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Resources
from nnopt_ray.search.cluster import Cluster

# Ray Data warns of its own defaults; Ray Train brings it in.
pytestmark = pytest.mark.filterwarnings("ignore:`use_.*` is deprecated")

PARTS = '''
import os, time
import torch

class Net(torch.nn.Module):
    """A small network, which may break on purpose in its fourth batch: everywhere, or in the second worker alone.

    Keys:
        pids: a folder that each process leaves its number in.
        breaks: where it raises; nan: its outputs are no numbers.
        sleep: seconds a batch.
    """

    def __init__(self, shapes, *, pids: str = "", breaks: str = "", sleep: float = 0.0):
        super().__init__()
        if pids:
            open(os.path.join(pids, str(os.getpid())), "w").close()
        self.breaks, self.sleep, self.batches = breaks, sleep, 0
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(shapes.features, 16), torch.nn.ReLU(), torch.nn.Linear(16, shapes.outputs)
        )

    def forward(self, x):
        if self.training:
            time.sleep(self.sleep)
            self.batches += 1
            second = torch.distributed.is_initialized() and torch.distributed.get_rank() == 1
            if self.batches > 3 and (self.breaks == "everywhere" or (self.breaks == "one" and second)):
                raise ValueError("broken on purpose")
            if self.batches > 3 and self.breaks == "nan":
                return self.layers(x) * float("nan")
        return self.layers(x)
'''


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    with embedded(2):
        yield


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "group_parts.py").write_text(PARTS)
    (tmp_path / "pids").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write_page(folder: Path, **changes: Any) -> Path:
    tree: dict[str, Any] = {
        "name": "groups",
        "seed": 5,
        "data": {"source": {"type": "sklearn", "name": "iris"}, "steps": ["scale"]},
        "model": {"type": "group_parts:Net", "pids": str(folder / "pids")},
        "train": {"epochs": 6, "batch_size": 8, "optimizer": {"type": "adam", "lr": {"log": [1e-3, 1e-1]}}},
        "search": {"method": "random", "trials": 4},
        "evaluate": {"bootstrap": 0},
        "resources": {"workers": 2},
    }
    path = folder / "page.yaml"
    path.write_text(json.dumps({**tree, **changes}))
    return path


def members(here: Path) -> set[int]:
    return {int(file.name) for file in (here / "pids").iterdir()} - {os.getpid()}


def the_same(run: nn.Run, alone: nn.Run) -> None:
    one, other = (each.trials.set_index("trial") for each in (run, alone))
    assert list(one.status) == list(other.status)
    assert list(one.epochs) == list(other.epochs)
    pd.testing.assert_series_equal(one["val_loss"], other["val_loss"], rtol=2e-3)
    assert run.result["best"]["trial"] == alone.result["best"]["trial"]
    assert run.result["test"]["loss"] == pytest.approx(alone.result["test"]["loss"], rel=2e-3)


def whole_journal(run: Path) -> None:
    """Each epoch of a trial stands in the journal once, and in its history."""
    told: dict[str, list[int]] = {}
    for line in (run / "journal.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "result":
            told.setdefault(event["trial"], []).append(event["epoch"])
    assert told
    for trial, epochs in told.items():
        assert epochs == list(range(len(epochs))), trial
        lines = (run / "trials" / trial / "history.jsonl").read_text().splitlines()
        assert [json.loads(each)["epoch"] for each in lines] == epochs, trial


@pytest.mark.ray
def test_a_search_by_a_group_is_that_of_single_processes(here: Path, one_ray: None) -> None:
    trials = [{"train.optimizer.lr": lr} for lr in (0.01, 0.03, 0.002)]
    trials[1:1] = [{"train.optimizer.lr": 0.01, "model.breaks": breaks} for breaks in ("everywhere", "nan")]
    page = write_page(here, search={"method": "manual", "trials": trials})
    run = nn.run(nn.load(page), here / "out")
    assert len(members(here)) == 2, "a group is started once"
    assert list(run.trials.status) == ["finished", "failed", "failed", "finished", "finished"]
    assert not (run.path / "trials" / ".ray_train").exists()
    assert run.result["decided"]["workers"].startswith("1 group of 2 workers that train a trial together")
    assert run.trials.reason[1] == "ValueError: broken on purpose (group_parts.py:29)"
    assert run.trials.reason[2].startswith("the training loss became nan in epoch 0, step 3")
    whole_journal(run.path)
    for row in run.trials[run.trials.status == "finished"].itertuples():
        page = nn.load(run.path / "trials" / row.trial / "page.yaml", set={"resources.workers": 1})
        alone = nn.run(page, here / "alone").trials.iloc[0]
        # Sums over two pieces of a batch differ in their last bits from one over the batch: see test_sharding.
        assert row.val_loss == pytest.approx(alone.val_loss, rel=2e-3)
        assert row.val_accuracy == alone.val_accuracy
        assert row.epochs == alone.epochs


@pytest.mark.slow
@pytest.mark.ray
def test_what_fails_in_one_worker_alone_is_a_failed_trial_and_the_others_go_on(here: Path, one_ray: None) -> None:
    trials = [{"train.optimizer.lr": 0.01}, {"model.breaks": "one"}, {"train.optimizer.lr": 0.02}]
    page = write_page(here, search={"method": "manual", "trials": trials}, train={"epochs": 6, "batch_size": 8})
    run = nn.run(nn.load(page), here / "out")
    assert list(run.trials.status) == ["finished", "failed", "finished"]
    assert run.trials.reason[1].startswith("ValueError: broken on purpose")
    assert "broken on purpose" in (run.path / "trials" / "0002" / "error.txt").read_text()
    assert len(members(here)) == 4, "the group is started anew, once"
    whole_journal(run.path)


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_worker_costs_no_epoch_and_no_finished_trial(here: Path, one_ray: None) -> None:
    page = write_page(here, train={"epochs": 8, "batch_size": 8, "checkpoint": {"every": 1}, "optimizer": "adam"})
    changes = {"train.optimizer.lr": {"log": [1e-3, 1e-1]}, "model.sleep": 0.03}
    watch, over = Noting(), threading.Event()

    def kill_one() -> None:
        while not (watch.rows and any((here / "out").glob("*/trials/0002/checkpoints/epoch-2.*"))):
            if over.wait(0.05):
                return
        os.kill(max(members(here)), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        run = nn.run(nn.load(page, set=changes), here / "out", watch=watch)
    finally:
        over.set()
        killer.join()
    assert any("of trial 0002 died" in note for note in watch.notes), watch.notes
    assert len(members(here)) == 4
    assert list(run.trials.status) == ["finished"] * 4
    whole_journal(run.path)
    alone = nn.run(nn.load(page, set={**changes, "model.sleep": 0.0, "resources.workers": 1}), here / "out")
    the_same(run, alone)


SCHEDULERS: dict[str, dict[str, Any]] = {
    "asha": {"type": "asha", "grace_period": 2, "reduction_factor": 2},
    "pbt": {"type": "pbt", "perturbation_interval": 2},
    "hyperband": {"type": "hyperband"},
    "median": {"type": "median"},
}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers_stop_pause_promote_and_copy(here: Path, one_ray: None, scheduler: str) -> None:
    search = {"method": "random", "trials": 6, "scheduler": SCHEDULERS[scheduler], "reproducible": True}
    page = write_page(here, search=search)
    run = nn.run(nn.load(page), here / "out")
    assert len(members(here)) == 2
    assert set(run.trials.status) <= {"finished", "stopped"}
    alone = nn.run(nn.load(page, set={"resources.workers": 1, "resources.fuse": "never"}), here / "out")
    the_same(run, alone)
    if scheduler != "pbt":
        assert min(run.trials.epochs) < 6
    else:
        assert (
            '"kind": "copy"' in (run.path / "journal.jsonl").read_text()
            or "copied" in (run.path / "journal.jsonl").read_text()
        )


@pytest.mark.slow
@pytest.mark.ray
def test_the_best_is_confirmed_and_folded_by_the_same_group(here: Path, one_ray: None) -> None:
    search = {"method": "random", "trials": 3, "confirm": {"top": 2, "seeds": 2}}
    page = write_page(here, search=search, evaluate={"bootstrap": 0, "folds": 3})
    run = nn.run(nn.load(page), here / "out")
    assert len(members(here)) == 2
    alone = nn.run(nn.load(page, set={"resources.workers": 1}), here / "out")
    the_same(run, alone)
    one, other = (json.loads((each.path / "evaluation" / "folds.json").read_text()) for each in (run, alone))
    for mine, theirs in zip(one["each"], other["each"], strict=True):
        assert mine["metrics"]["loss"] == pytest.approx(theirs["metrics"]["loss"], rel=2e-3)
    mine, theirs = (
        {line["trial"]: line["mean"] for line in each.result["confirm"]["contestants"]} for each in (run, alone)
    )
    assert mine == pytest.approx(theirs, rel=2e-3)


@pytest.mark.slow
@pytest.mark.ray
def test_it_is_stopped_and_goes_on(here: Path, one_ray: None) -> None:
    page = write_page(here)
    watch = Noting()
    changed = nn.load(page, set={"model.sleep": 0.01})
    with pytest.raises(nn.Interrupted):
        nn.run(changed, here / "out", watch=watch, should_stop=lambda: len(watch.rows) >= 2)
    path = next((here / "out").iterdir())
    run = nn.resume(path)
    assert list(run.trials.status) == ["finished"] * 4
    whole_journal(run.path)
    the_same(run, nn.run(nn.load(page, set={"resources.workers": 1}), here / "out"))


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_driver_loses_nothing(here: Path) -> None:
    page = write_page(here)
    command = [sys.executable, "-m", "nnopt_ray", "run", str(page), "--out", "out", "--set", "model.sleep=0.02"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 240
    while not any((here / "out").glob("*/trials/0002/history.jsonl")):
        assert time.monotonic() < until
        assert driver.poll() is None
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    path = next((here / "out").iterdir())
    run = nn.resume(path)
    assert list(run.trials.status) == ["finished"] * 4
    whole_journal(run.path)
    the_same(run, nn.run(nn.load(page, set={"resources.workers": 1}), here / "out"))


SEARCHED_BY_GROUPS = """
import json, logging, sys
from pathlib import Path
import ray
import nnopt_ray as nn

ray.init(address="local", include_dashboard=False, num_cpus=int(sys.argv[1]), logging_level=logging.ERROR,
         log_to_driver=False)
run = nn.run(nn.load("page.yaml"), Path("out"))
rows = run.trials.drop(columns=["seconds"]).to_dict("list")
print(json.dumps({"workers": run.result["decided"]["workers"], "rows": repr(rows)}))
"""


@pytest.mark.slow
@pytest.mark.ray
def test_two_groups_give_the_search_of_one_bit_for_bit(here: Path) -> None:
    """Where `search.reproducible` asks for it: which group is free first has no part in it."""
    scheduler = {"type": "asha", "grace_period": 2}
    write_page(here, search={"method": "bayesian", "trials": 8, "reproducible": True, "scheduler": scheduler})
    found = []
    for cpus in ("2", "4"):
        # In a process of its own, as Ray may be there already in this one.
        command = [sys.executable, "-W", "ignore", "-c", SEARCHED_BY_GROUPS, cpus]
        said = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=500, text=True).stdout
        found.append(json.loads(said.splitlines()[-1]))
    assert [each["workers"].split(" of ")[0] for each in found] == ["1 group", "2 groups"]
    assert found[0]["rows"] == found[1]["rows"]


def test_groups_are_counted_node_by_node() -> None:
    resources = Resources(workers=2, cpus_per_worker=2)
    assert Cluster(False, 12.0, 0.0, 4, ((3.0, 0.0),) * 4).seats(resources) == 2
    assert Cluster(True, 4.0, 0.0, 1).seats(resources) == 1
    with pytest.raises(UserError, match=r"asks for 2 workers of 2 CPUs.*holds 1\. Lower it"):
        Cluster(True, 3.0, 0.0, 1).seats(resources)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"resources.workers": [2, 4]}, r"resources.workers: the trials .* Write one number, 2 say"),
        ({"resources.workers": [1, 2]}, r"resources.workers: the trials .* Write one number, 2 say"),
        ({"resources.fsdp": True}, "resources.fsdp: a search trains its trials with whole"),
        ({"resources.lanes": 4}, "resources.lanes: several workers train one trial at a time"),
        ({"resources.fuse": "always"}, "resources.fuse: several workers train one trial at a time"),
        ({"evaluate.folds": 3, "evaluate.nested": True}, "evaluate.nested: a search inside each fold"),
        ({"resources.workers": {"choice": [1, 2]}}, "resources.workers: .*all trials of a search have as many"),
    ],
)
def test_what_does_not_fit_is_told_before_it_starts(here: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(nn.PageError, match=said):
        nn.load(write_page(here), set=changes)
