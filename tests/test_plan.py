"""`nnopt plan`: what it says is what a run then does, and no branch of the space is left untried in silence."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nnopt_ray import assembly, reading, tables
from nnopt_ray.cli import main
from nnopt_ray.data.prepare import prepare
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment
from nnopt_ray.search import plan as planning
from nnopt_ray.search.plan import MOST_BRANCHES, epoch_budget, epoch_ends, trial_count
from nnopt_ray.search.trying import Tried, attempt, branches, extremes

LR = {"log": [1e-3, 1e-1]}
OPTIMIZERS = {
    "choice": [
        {"type": "adam", "lr": LR},
        {"type": "sgd", "lr": 0.1, "momentum": {"uniform": [0.0, 0.9]}},
        {"type": "rmsprop", "lr": 0.01},
    ]
}


class Any_(nn.Module):
    """Takes memory as told, and fails as told."""

    def __init__(self, shapes: Any, *, hidden: int = 4, fault: str = "", scale: float = 1.0) -> None:
        super().__init__()
        if fault == "memory":
            torch.empty(2**50)
        self.fault, self.scale = fault, scale
        self.first, self.second = nn.Linear(shapes.features, hidden), nn.Linear(hidden, shapes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.sigmoid(self.first(x))
        if self.fault == "raises":
            raise ArithmeticError("no forward today")
        if self.fault == "shape":
            hidden = hidden[:, 1:]
        out = self.second(hidden) * self.scale
        return out[:, :1] if self.fault == "outputs" else out


OWN = f"{__name__}:Any_"


def page(model: Any = None, search: Any = None, train: Any = None, **more: Any) -> Experiment:
    tree = {
        "data": {"source": {"type": "sklearn", "name": "wine"}, "steps": ["scale"]},
        "model": model or {"type": "mlp", "widths": [8]},
        "train": train or {"epochs": 4},
        **({"search": search} if search else {}),
        **more,
    }
    return reading.from_tree(tree)


def tried(experiment: Experiment, seconds: float = 0.0) -> list[Tried]:
    data, where = prepare(experiment), assembly.machine_for(experiment)
    return [attempt(experiment, data, where, branch, seconds) for branch in branches(experiment)]


# Trials and epochs


@pytest.mark.parametrize(
    ("search", "train", "trials", "exact", "least", "most"),
    [
        ({"method": "random", "trials": 7}, {"epochs": 4, "optimizer": OPTIMIZERS}, 7, True, 28, 28),
        ({"method": "random", "trials": 7, "timeout_s": 9}, {"optimizer": OPTIMIZERS}, 7, False, 140, 140),
        ({"method": "random", "trials": 7}, {"epochs": {"choice": [3, 9]}, "optimizer": OPTIMIZERS}, 7, True, 21, 63),
        ({"method": "grid"}, {"epochs": {"choice": [3, 9]}, "batch_size": {"int": [8, 9]}}, 4, True, 24, 24),
        ({"method": "grid"}, {"epochs": {"step": [3, 10, 3]}}, 3, True, 18, 18),
        ({"method": "grid", "trials": 2}, {"epochs": {"int": [3, 9]}}, 2, True, 7, 7),
        ({"method": "grid"}, {"batch_size": {"choice": [8, 16]}, "epochs": 5}, 2, True, 10, 10),
        (
            {"method": "manual", "trials": [{"train.epochs": 2}, {"train.batch_size": 8}]},
            {"epochs": 6},
            2,
            True,
            8,
            8,
        ),
        (
            {"method": "random", "trials": 5, "scheduler": {"type": "asha", "grace_period": 2}},
            {"epochs": 9, "optimizer": OPTIMIZERS},
            5,
            True,
            9 + 4 * 2,  # the first at each rung goes on, the others stop at the first one
            45,
        ),
        (
            {"method": "random", "trials": 5, "scheduler": {"type": "asha", "grace_period": 3}},
            {"epochs": {"int": [2, 9]}, "optimizer": OPTIMIZERS},
            5,
            True,
            10,
            45,
        ),
    ],
)
def test_trials_and_epochs_are_counted(
    search: Any, train: Any, trials: int, exact: bool, least: int, most: int
) -> None:
    experiment = page(search=search, train=train)
    assert trial_count(experiment) == (trials, exact)
    spent = epoch_budget(experiment, trials)
    assert (spent.least, spent.most) == (least, most)


def test_a_model_of_the_past_may_end_before_all_its_trials() -> None:
    experiment = page(search={"method": "bayesian", "trials": 6}, train={"optimizer": OPTIMIZERS})
    assert trial_count(experiment) == (6, False)


def test_a_single_training_is_one_trial() -> None:
    assert trial_count(page()) == (1, True)
    assert epoch_ends(page()) == (4, 4)
    assert epoch_budget(page(), 1).most == 4


@pytest.mark.parametrize("name", sorted(tables.table("scheduler")))
def test_the_budget_of_every_scheduler_goes_into_the_plan(name: str) -> None:
    train = {"epochs": 9, "optimizer": OPTIMIZERS}
    experiment = page(search={"method": "random", "trials": 12, "scheduler": name}, train=train)
    spent = epoch_budget(experiment, 12)
    assert 12 <= spent.least <= spent.most <= 12 * 9


# Branches

VALUES = st.deferred(
    lambda: (
        st.sampled_from([1, 2, 3])
        | st.builds(lambda low, n: {"int": [low, low + n]}, st.integers(1, 9), st.integers(1, 9))
        | st.just({"uniform": [0.25, 0.5]})
        | st.builds(
            lambda options: {"choice": options},
            st.lists(st.integers(1, 9), min_size=2, max_size=4, unique=True),
        )
    )
)


@given(VALUES, VALUES, VALUES, st.booleans())
@settings(max_examples=50, deadline=None)
def test_every_option_and_both_ends_of_every_range_are_tried(a: Any, b: Any, c: Any, nested: bool) -> None:
    from nnopt_ray.experiment import Range
    from nnopt_ray.search.trying import _closed, _moves

    def opened(node: Any) -> Any:
        if isinstance(node, dict) and len(node) == 1 and next(iter(node)) in ("int", "uniform", "choice"):
            kind, values = next(iter(node.items()))
            return Range(kind, tuple(opened(value) for value in values))
        return {key: opened(value) for key, value in node.items()} if isinstance(node, dict) else node

    part = {"choice": [{"type": "x", "b": b}, {"type": "y", "b": c}]} if nested else {"b": b}
    tree = opened({"a": a, "part": part})
    first = _closed(tree, {})
    ways = list(_moves(tree))
    found = [_closed(tree, way) for way in ways]
    assert first not in found
    assert len({json.dumps(point) for point in found}) == len(found)

    def ends(node: Any) -> set[Any]:
        if not isinstance(node, dict):
            return set()
        kind, values = next(iter(node.items()))
        return set(values) if kind == "choice" else {values[0], values[-1]}

    everything = [first, *found]
    assert ends(a) <= {point.get("a") for point in everything}
    for label, inside in (("x", b), ("y", c)) if nested else ((None, b),):
        within = [point for point in everything if point.get("part") == label]
        assert ends(inside) <= {point.get("part.b") for point in within}
    assert all(len(way) <= 2 for way in ways), "one value moves, inside the option that holds it"


def test_what_changes_shapes_is_tried_first() -> None:
    train = {"optimizer": OPTIMIZERS, "batch_size": {"choice": [8, 16]}}
    experiment = page({"type": "mlp", "widths": {"choice": [[4], [8]]}}, {"trials": 5}, train)
    moved = [list(branch.moved) for branch in branches(experiment)]
    assert moved[0] == []
    assert set(itertools.chain(*moved[1:3])) == {"model.widths", "train.batch_size"}


def test_the_largest_of_everything_is_tried_together() -> None:
    model = {"type": OWN, "hidden": {"choice": [9, 4, 50]}}
    experiment = page(model, {"trials": 5}, {"optimizer": OPTIMIZERS, "batch_size": {"choice": [16, 64, 8]}})
    found = tried(experiment)
    (largest, smallest) = extremes(experiment, found)
    assert largest.params["model.hidden"] == 50
    assert largest.params["train.batch_size"] == 64
    assert largest.params["train.optimizer"] == "adam"
    assert smallest.params["model.hidden"] == 4
    assert smallest.params["train.batch_size"] == 8
    assert smallest.params["train.optimizer"] in ("sgd", "rmsprop")
    assert (largest.together, smallest.together) == (True, True)


def test_trials_by_hand_are_the_branches() -> None:
    listed = [{"model.hidden": 3}, {"model.hidden": 5, "train.batch_size": 8}]
    experiment = page({"type": OWN}, {"method": "manual", "trials": listed})
    assert [branch.params for branch in branches(experiment)] == listed
    assert [each.parameters for each in tried(experiment)] == [3 * 13 + 3 + 3 * 3 + 3, 5 * 13 + 5 + 3 * 5 + 3]


def test_a_large_space_is_tried_in_part_and_says_so() -> None:
    model = {"type": OWN, "hidden": {"choice": list(range(2, 100))}}
    found = planning.plan(page(model, {"method": "grid"}))
    assert found.untried == 98 - MOST_BRANCHES
    assert any(f"{98 - MOST_BRANCHES} more branches were not tried" in note for note in found.notes)


# Parameters and memory


def test_memory_is_what_pen_and_paper_say() -> None:
    optimizers = {"choice": ["adam", {"type": "sgd", "momentum": 0.9}, {"type": "sgd", "momentum": 0.0}]}
    experiment = page({"type": OWN, "hidden": 5}, {"trials": 3}, {"batch_size": 32, "optimizer": optimizers})
    weights = 5 * 13 + 5 + 3 * 5 + 3
    # Kept for the backward pass, of 32 rows: the input [13], sigmoid's output [5] (that of the second layer's input
    # too), and of the loss the softmax [3] and the targets [1 of 8 bytes] with their weight (one number).
    # `* scale` keeps nothing, as a number has no gradient.
    kept = 32 * (13 + 5 + 3) * 4 + 32 * 8 + 4
    for found, slots in zip(tried(experiment), (2 * weights + 1, weights, 0), strict=True):
        assert found.fault == ""
        assert found.parameters == weights
        assert found.memory is not None
        assert (found.memory.weights, found.memory.gradient, found.memory.best) == (4 * weights,) * 3
        assert found.memory.optimizer == 4 * slots
        assert found.memory.activations == kept
        assert found.memory.total == 12 * weights + 4 * slots + kept


def test_activations_grow_with_the_batch_and_end_with_the_rows() -> None:
    experiment = page({"type": OWN}, {"trials": 3}, {"batch_size": {"choice": [16, 32, 4096, 8192]}})
    kept = [each.memory.activations for each in tried(experiment) if each.memory]
    assert kept[1] - 4 == 2 * (kept[0] - 4)
    assert kept[2] == kept[3]  # there are 115 rows in the training part


# Time


def test_a_whole_epoch_is_timed_where_it_fits() -> None:
    (found,) = tried(page(), seconds=0.5)
    assert found.steps == found.timed_steps == 2
    assert found.epoch_s is not None
    experiment = page()
    data, where = prepare(experiment), assembly.machine_for(experiment)
    from nnopt_ray.train.loop import Trainer

    trainer = Trainer(experiment, data, where, assembly.metrics_for(experiment, data))
    real = np.median([trainer.run_epoch().seconds for _ in range(4)])
    assert 0.1 < found.epoch_s / real < 10  # the same order: the machine is shared with other tests


def test_a_sample_of_an_epoch_is_scaled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnopt_ray.train.loop import Trainer

    real = Trainer.run_epoch

    def one_millisecond_a_row(self: Trainer) -> Any:
        from dataclasses import replace

        return replace(real(self), seconds=1e-3 * sum(self.sizes))

    monkeypatch.setattr(Trainer, "run_epoch", one_millisecond_a_row)
    experiment = page(train={"batch_size": 1, "epochs": 4})
    (found,) = tried(experiment, seconds=0.0)
    assert found.steps == 115
    assert found.timed_steps < 115
    assert found.epoch_s == pytest.approx(0.115)


def test_seconds_are_epochs_over_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning.os, "cpu_count", lambda: 4)
    search = {"method": "random", "trials": 6, "confirm": {"top": 2, "seeds": 3}}
    found = planning.plan(page({"type": OWN, "hidden": {"int": [4, 80]}}, search, {"epochs": 4}))
    timed = [each.epoch_s for each in found.tried if not each.branch.together and each.epoch_s]
    assert found.workers == found.at_once == 4
    assert found.seconds is not None
    assert found.seconds.most == found.seconds.least == pytest.approx(24 * np.mean(timed) / 4)
    assert found.confirm_epochs == 2 * 3 * 4
    assert found.confirm_s == pytest.approx(24 * np.mean(timed) / 4)


def test_workers_are_those_that_the_machine_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning.os, "cpu_count", lambda: 8)
    opened = {"type": OWN, "hidden": {"int": [4, 8]}}
    search = {"method": "random", "trials": 3, "concurrency": 2}
    few = planning.plan(page(opened, search, resources={"cpus_per_worker": 2}))
    assert (few.workers, few.at_once) == (3, 2)
    assert "this machine holds 4" in few.workers_why
    with pytest.raises(UserError, match="a worker needs 9 CPUs"):
        planning.plan(page(opened, search, resources={"cpus_per_worker": 9}))


def test_lanes_are_said_as_far_as_they_are_known() -> None:
    opened, search = {"type": OWN, "hidden": {"int": [4, 8]}}, {"method": "random", "trials": 3}
    for resources, count in (({}, None), ({"fuse": "never"}, 1), ({"lanes": 5}, 5)):
        assert planning.lanes_of(page(opened, search, resources=resources)).count == count
    assert planning.lanes_of(page()).count == 1


def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_machine_bytes", lambda where: 1000)
    assert any("there are 0.0 GiB" in note for note in planning.plan(page()).notes)


# Faults


@pytest.mark.parametrize(
    ("fault", "code", "sentence"),
    [
        ("raises", 2, "ArithmeticError: no forward today (test_plan.py:"),
        ("shape", 2, "mat1 and mat2 shapes cannot be multiplied"),
        ("outputs", 2, "must return one tensor of shape [rows, outputs]"),
        ("memory", 1, "there is not enough memory for one batch (it asked for "),
    ],
)
def test_a_branch_that_cannot_be_trained_is_named_and_the_others_are_planned(
    fault: str, code: int, sentence: str
) -> None:
    experiment = page({"type": OWN, "fault": {"choice": ["", fault]}}, {"method": "grid"})
    found = planning.plan(experiment)
    (bad,) = found.faults
    assert bad.branch.moved == {"model.fault": fault}
    assert sentence in bad.fault
    assert found.exit_code == bad.exit_code == code
    assert found.seconds is not None
    assert [each.fault for each in found.tried].count("") == 1


def test_a_fault_of_ours_is_not_told_as_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnopt_ray.train.loop import Trainer

    def broken(self: Trainer) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(Trainer, "run_epoch", broken)
    with pytest.raises(ZeroDivisionError):
        planning.plan(page())


def test_a_point_that_diverges_is_no_fault_while_others_train() -> None:
    experiment = page({"type": OWN, "scale": {"choice": [1.0, 1e38]}}, {"method": "grid"})
    found = planning.plan(experiment)
    assert found.faults == ()
    assert [bool(each.diverged) for each in found.tried][:2] == [False, True]
    alone = planning.plan(page({"type": OWN, "scale": 1e38}))
    assert alone.exit_code == 1
    assert "learning rate" in alone.faults[0].fault


def test_a_model_that_is_fitted_directly_has_no_time() -> None:
    found = planning.plan(page({"type": "baseline"}))
    assert found.faults == ()
    assert found.seconds is None
    assert "fitted directly" in found.tried[0].note


def test_a_branch_that_prepares_its_data_otherwise_gets_its_own() -> None:
    tree = {
        "data": {
            "source": {"type": "sklearn", "name": "wine"},
            "steps": [{"type": "scale", "method": {"choice": ["standard", "minmax"]}}],
        },
        "model": {"type": "mlp", "widths": [4]},
        "search": {"method": "grid"},
    }
    found = planning.plan(reading.from_tree(tree))
    assert [each.fault for each in found.tried] == ["", ""]


# At the command line

Nnopt = Callable[..., tuple[int, str, str]]

PAGE = f"""\
name: small
data: {{source: {{type: sklearn, name: wine}}, steps: [scale]}}
model: {{type: "{OWN}", hidden: {{step: [4, 28, 4]}}}}
train: {{epochs: 9, early_stopping: {{patience: 3}}}}
search: {{method: random, trials: 6, scheduler: {{type: asha, grace_period: 3}}}}
"""


@pytest.fixture
def nnopt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Nnopt:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.yaml").write_text(PAGE)

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main.code(list(words))
        return code, *capfd.readouterr()

    return run


def test_the_plan_in_words(nnopt: Nnopt, tmp_path: Path) -> None:
    code, out, err = nnopt("plan", "page.yaml")
    assert (code, err) == (0, "")
    said = {line[:12].strip(): line[12:] for line in out.splitlines() if line[:1].isalpha()}
    assert said["trials"] in ("6 (random)", "at most 6 (random)")
    assert said["epochs"] == "24 to 54 in all, as asha decides"
    assert said["parameters"] == "71 to 479"
    assert said["lanes"] == "chosen by measuring at the start"
    assert "Early stopping may end a training sooner" in said["note"]
    assert [path.name for path in tmp_path.iterdir()] == ["page.yaml"], "a plan leaves nothing behind"
    assert "ray" not in sys.modules or not sys.modules["ray"].is_initialized()


def test_the_plan_of_a_single_training(nnopt: Nnopt) -> None:
    _, out, _ = nnopt("plan", "page.yaml", "--set", "model.hidden=4")
    words = [line.split()[0] for line in out.splitlines()]
    assert words[:5] == ["data", "epochs", "tried", "overfits", "parameters"]
    assert "workers" not in words


def test_the_plan_as_json(nnopt: Nnopt) -> None:
    code, out, _ = nnopt("plan", "page.yaml", "--json")
    said = json.loads(out)
    assert (code, said["ok"], said["faults"]) == (0, True, [])
    assert said["epochs"] == {"least": 9 + 5 * 3, "most": 54}
    assert [branch["parameters"] for branch in said["branches"]] == [71, 479]
    memory = said["branches"][0]["memory"]
    assert memory["total"] == sum(number for name, number in memory.items() if name != "total")
    assert math.isfinite(said["seconds"]["most"])


def test_faults_of_a_plan_are_lines_and_an_exit_code(nnopt: Nnopt) -> None:
    words = ("plan", "page.yaml", "--set", "model.fault={choice: ['', raises]}")
    code, out, err = nnopt(*words)
    assert code == 2
    assert "parameters  71 to 479" in out
    (line,) = err.splitlines()
    assert line.startswith("page.yaml: with fault=raises: ArithmeticError: no forward today (test_plan.py:")
    code, out, err = nnopt(*words, "--json")
    said = json.loads(out)
    assert (code, said["ok"], said["exit_code"]) == (2, False, 2)
    assert said["error"] == line
    assert said["faults"][0]["branch"] == {"model.fault": "raises"}


def test_one_fault_of_many_branches_is_one_line(nnopt: Nnopt) -> None:
    code, _, err = nnopt("plan", "page.yaml", "--set", "model.fault=raises")
    (line,) = err.splitlines()
    assert code == 2
    assert line.startswith("page.yaml: with the first of everything (and 1 more): ArithmeticError")


def test_a_page_at_fault_is_not_planned(nnopt: Nnopt) -> None:
    code, out, err = nnopt("plan", "page.yaml", "--set", "train.epochs=-1")
    assert (code, out) == (2, "")
    assert "train.epochs" in err
