"""The contract of every search method: what it asks fits the page, it ends, and it is reproducible."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnopt_ray import reading, tables
from nnopt_ray.experiment import Experiment
from nnopt_ray.search import SEARCHERS
from nnopt_ray.search.searchers import Asker
from nnopt_ray.search.space import Params

OPEN: dict[str, Any] = {
    "seed": 3,
    "data": {"source": {"type": "sklearn", "name": "digits"}},
    "model": {"type": "mlp", "dropout": {"step": [0.0, 0.4, 0.2]}},
    "train": {
        "batch_size": {"choice": [16, 32]},
        "optimizer": {
            "choice": [
                {"type": "adam", "lr": {"choice": [0.001, 0.01]}},
                {"type": "sgd", "lr": 0.1, "momentum": {"choice": [0.0, 0.5, 0.9]}},
            ]
        },
    },
}
GRID_SIZE = 3 * 2 * (2 + 3)


def page(method: str, trials: Any = 12) -> Experiment:
    if method == "manual":
        tree = {**OPEN, "model": "mlp", "train": {}}
        listed = [{"train.batch_size": size, "model.dropout": 0.1} for size in (16, 64)] + [{"train.optimizer": "sgd"}]
        return reading.from_tree({**tree, "search": {"method": "manual", "trials": listed}})
    return reading.from_tree({**OPEN, "search": {"method": method, "trials": trials}})


def start(experiment: Experiment) -> Asker:
    asker = tables.build("method", experiment.search.method).start(experiment)
    assert isinstance(asker, Asker)
    return asker


def goodness(point: Params) -> float:
    """A closed form to search on: best at dropout 0.2, adam, lr 0.01, batch 32."""
    return (
        abs(point.get("model.dropout", 0) - 0.2)
        + (point.get("train.batch_size") == 16)
        + (point.get("train.optimizer") != "adam")
        + abs(math.log10(point.get("train.optimizer.lr", 0.1)) + 2)
    )


def play(asker: Asker, order_seed: int) -> tuple[list[Params], list[tuple[str, str, float | None]]]:
    """Up to four trials in flight, ended in random order; some fail. → what was asked, and the journal."""
    draw = np.random.default_rng(order_seed)
    flying: list[tuple[str, Params]] = []
    asked: list[Params] = []
    journal: list[tuple[str, str, float | None]] = []
    while True:
        while len(flying) < 4:
            name = f"{len(asked) + 1:04d}"
            found = asker.ask(name)
            if found is None:
                break
            asked.append(found)
            flying.append((name, found))
            journal.append(("ask", name, None))
        if not flying:
            return asked, journal
        name, point = flying.pop(int(draw.integers(len(flying))))
        value = None if draw.random() < 0.1 else goodness(point)
        asker.tell(name, value, failed=value is None)
        journal.append(("tell", name, value))


@pytest.mark.parametrize("method", SEARCHERS)
def test_what_is_asked_closes_the_page_and_ends(method: str) -> None:
    experiment = page(method)
    asker = start(experiment)
    asked, _ = play(asker, 0)
    assert len(asked) == asker.total == (3 if method == "manual" else 12)
    for point in asked:
        closed = reading.close(experiment, point)
        assert not closed.space
    assert asker.ask("9999") is None


@pytest.mark.parametrize("method", SEARCHERS)
def test_a_fresh_asker_told_the_same_asks_the_same(method: str) -> None:
    experiment = page(method)
    asked, journal = play(start(experiment), 5)
    again = start(experiment)
    points = iter(asked)
    for kind, name, value in journal:
        if kind == "ask":
            assert again.ask(name) == next(points)
        else:
            again.tell(name, value, failed=value is None)


def test_grid_runs_each_combination_once() -> None:
    asker = start(page("grid", None))
    assert asker.total == GRID_SIZE
    asked, _ = play(asker, 1)
    assert len({repr(sorted(point.items())) for point in asked}) == GRID_SIZE


def test_bayesian_beats_random_on_a_closed_form() -> None:
    """Over ten seeds, 40 trials each, the median of the best values (Bergstra et al. 2011's own comparison)."""
    tree = {
        **OPEN,
        "model": {"type": "mlp", "dropout": {"uniform": [0.0, 0.9]}},
        "train": {"optimizer": {"type": "adam", "lr": {"log": [1e-5, 1e-1]}}, "epochs": {"int": [1, 50]}},
    }

    def value(point: Params) -> float:
        rate = math.log10(point["train.optimizer.lr"])
        return (point["model.dropout"] - 0.3) ** 2 * 5 + (rate + 3) ** 2 + (point["train.epochs"] - 20) ** 2 / 100

    best: dict[str, list[float]] = {"random": [], "bayesian": []}
    for method, found in best.items():
        for seed in range(10):
            asker = start(reading.from_tree({**tree, "seed": seed, "search": {"method": method, "trials": 40}}))
            values = []
            for number in range(40):
                point = asker.ask(str(number))
                assert point is not None
                values.append(value(point))
                asker.tell(str(number), values[-1], failed=False)
            found.append(min(values))
    assert np.median(best["bayesian"]) < 0.5 * np.median(best["random"])


def test_evidence_from_elsewhere_steers_a_fresh_search() -> None:
    """Results carried over count as if they had been asked: the model of past trials is used at once."""
    tree = {**OPEN, "model": "mlp", "train": {"optimizer": {"type": "adam", "lr": {"log": [1e-5, 1e-1]}}}}
    experiment = reading.from_tree({**tree, "search": {"method": "bayesian", "trials": 60}})
    asker = start(experiment)
    for exponent in np.linspace(-5, -1, 40):
        asker.evidence({"train.optimizer.lr": float(10**exponent)}, abs(exponent + 3))
    asked = [asker.ask(str(i)) for i in range(12)]
    near = [abs(math.log10(point["train.optimizer.lr"]) + 3) < 1 for point in asked if point]
    assert sum(near) >= 9  # at random: 6 of 12


def test_methods_are_found_without_importing_ray(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys; from nnopt_ray import tables; [tables.keys('method', m) for m in tables.table('method')]; " \
           "[tables.keys('scheduler', m) for m in tables.table('scheduler')]; print('ray' in sys.modules)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "False"
