"""Runs that are ill in one way each, and healthy ones: tiny tables and networks, trained for real.

ILL: name of a diagnosis → its example. HEALTHY: what no diagnosis may speak of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from nnopt_ray import reading, runs
from nnopt_ray.data.types import Shapes
from nnopt_ray.report import diagnosed
from nnopt_ray.report import write as report
from nnopt_ray.report.facts import Facts
from nnopt_ray.rundir import RunDir
from nnopt_ray.train.losses import CrossEntropy
from nnopt_ray.train.schedules import Schedule

Tree = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """A page without its source, and the table that it is about, or the name of a set of scikit-learn's."""

    tree: Tree
    data: pd.DataFrame | str


def moons(rows: int = 800, seed: int = 0, noise: float = 0.15, **more: Any) -> pd.DataFrame:
    """Two classes on half circles that no line divides."""
    random = np.random.default_rng(seed)
    angle, label = random.uniform(0, np.pi, rows), random.integers(0, 2, rows)
    x = np.where(label, 1 - np.cos(angle), np.cos(angle)) + noise * random.normal(size=rows)
    y = np.where(label, 0.5 - np.sin(angle), np.sin(angle)) + noise * random.normal(size=rows)
    return pd.DataFrame({"x": x, "y": y, "target": np.where(label, "inner", "outer"), **more})


def tree(**sections: Any) -> Tree:
    """A page that suits `moons`; what is given replaces keys of its sections."""
    page: Tree = {
        "name": "case",
        "data": {"steps": ["scale"], "split": {"validation": 0.2, "test": 0.3}},
        "model": {"type": "mlp", "widths": [32, 32]},
        "train": {
            "epochs": 20,
            "batch_size": 32,
            "optimizer": {"type": "adam", "lr": 0.01},
            "early_stopping": {"patience": 8},
        },
        "evaluate": {"bootstrap": 100},
    }
    for name, keys in sections.items():
        page[name] = {**page.get(name, {}), **keys} if isinstance(keys, Mapping) else keys
    return page


def run(made: Made, folder: Path) -> tuple[RunDir, Facts]:
    """Train and conclude it in this process, as `nnopt run` does → its run folder and what the report knows."""
    folder.mkdir(parents=True, exist_ok=True)
    page = {**made.tree, "data": dict(made.tree["data"])}
    if isinstance(made.data, str):
        page["data"]["source"] = {"type": "sklearn", "name": made.data}
    else:
        made.data.to_csv(folder / "rows.csv", index=False)
        page["data"]["source"] = {"type": "csv", "path": str(folder / "rows.csv")}
    experiment = reading.from_tree(page)
    done = RunDir(runs.run(experiment, folder / "runs").path)
    return done, report.facts_from_folder(done)


def found(facts: Facts) -> list[str]:
    return [each.name for each in diagnosed.findings(facts)]


class Deep(nn.Module):
    """Twelve layers with sigmoids, as networks were before anyone knew better."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        sizes = [shapes.features, *[16] * 12]
        self.layers = nn.Sequential(*(m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.Sigmoid())))
        self.head = nn.Linear(16, shapes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.head(self.layers(x))
        return said


class Dead(nn.Module):
    """Most hidden units have a bias that no row overcomes."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(shapes.features, 64), nn.Linear(64, shapes.outputs)
        with torch.no_grad():
            self.hidden.bias[12:] = -100.0

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.head(torch.relu(self.hidden(x)))
        return said


class Loud(nn.Module):
    """A layer whose weights are so large that thousands come out, which the next one takes back."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(shapes.features, 32), nn.Linear(32, shapes.outputs)
        with torch.no_grad():
            self.hidden.weight.mul_(2e4)
            self.hidden.bias.mul_(2e4)

    def forward(self, x: Tensor) -> Tensor:
        said: Tensor = self.head(torch.relu(self.hidden(x)) / 2e4)
        return said


class Images(nn.Module):
    """A small convolutional network."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        assert shapes.image is not None
        channels, height, width = shapes.image
        self.seen = nn.Conv2d(channels, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.head = nn.Linear(12 * (height // 2) * (width // 2), shapes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.norm(self.seen(x))), 2)
        said: Tensor = self.head(x.flatten(1))
        return said


class Shy(nn.Module):
    """Computes nothing where its gradient is asked for in evaluation."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.head = nn.Linear(shapes.features, shapes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not self.training:
            raise ValueError("not while you look")
        said: Tensor = self.head(x)
        return said


class Touchy(CrossEntropy):
    """Takes no outputs that are the same for every row."""

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        if len(outputs) > 1 and bool((outputs == outputs[0]).all()):
            raise ValueError("no two rows are alike")
        return super().__call__(outputs, target)


class Spike(Schedule):
    """A rate that is a thousand times too high in the fifth epoch."""

    def factor(self, step: int, steps_per_epoch: int, steps: int) -> float:
        return 1000.0 if step // steps_per_epoch == 4 else 1.0


def own(name: str) -> str:
    return f"diagnose_example:{name}"


def line(rows: int = 600, noise: float = 1.5, seed: int = 1) -> pd.DataFrame:
    """An amount that is a sum of columns and noise: nothing that a network could add."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 4))
    told = {f"x{i}": x[:, i] for i in range(4)}
    return pd.DataFrame({**told, "target": x @ [3.0, -2.0, 1.0, 0.5] + noise * random.normal(size=rows)})


def curve(rows: int = 900, seed: int = 2) -> pd.DataFrame:
    """An amount that follows a wave, which no line fits."""
    random = np.random.default_rng(seed)
    x = random.uniform(-3, 3, size=(rows, 2))
    return pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "target": np.sin(x[:, 0]) + 0.1 * random.normal(size=rows)})


def blobs(counts: Mapping[str, int], far: float, seed: int = 3) -> pd.DataFrame:
    """Classes around points that are so far from each other."""
    random = np.random.default_rng(seed)
    pieces = [
        pd.DataFrame({"x": random.normal(far * at, 1, rows), "y": random.normal(0, 1, rows), "target": name})
        for at, (name, rows) in enumerate(counts.items())
    ]
    return pd.concat(pieces).sample(frac=1, random_state=seed)


def flipped(data: pd.DataFrame, share: float) -> pd.DataFrame:
    """The same with some classes made wrong, by lot."""
    random = np.random.default_rng(5)
    other = {"inner": "outer", "outer": "inner"}
    wrong = random.random(len(data)) < share
    return data.assign(target=np.where(wrong, data["target"].map(other), data["target"]))


def copied(data: pd.DataFrame, share: float) -> pd.DataFrame:
    return pd.concat([data, data.sample(frac=share, random_state=6)]).sample(frac=1, random_state=7)


def later(rows: int = 900) -> pd.DataFrame:
    """The last third of the days is another world."""
    data = moons(rows)
    data["day"] = np.arange(rows)
    data.loc[data["day"] > 0.7 * rows, "y"] *= -1
    return data


def search(train: Mapping[str, Any] | None = None, **keys: Any) -> Tree:
    found = tree(train={"epochs": 4, "early_stopping": None, "batch_size": 64, **(train or {})})
    found["resources"] = {"fuse": "never"}
    return {**found, "search": {"method": "random", "trials": 6, **keys}}


def wide() -> Made:
    """Sixty rows of twenty columns, three of which say something, and a thousand units."""
    random = np.random.default_rng(8)
    x = random.normal(size=(240, 20))
    label = np.where(x[:, 0] + x[:, 1] + random.normal(size=240) > 0, "yes", "no")
    data = pd.DataFrame({f"x{i}": x[:, i] for i in range(20)} | {"target": label})
    page = tree(model={"widths": [1000]}, train={"early_stopping": None, "epochs": 40})
    page["data"]["split"] = {"validation": 0.3, "test": 0.45}
    return Made(page, data)


def shadowed() -> pd.DataFrame:
    """Three classes, of which the columns tell no difference between the last two."""
    data = blobs({"a": 300, "b": 600}, far=3)
    second = (data["target"] == "b") & (np.arange(len(data)) % 3 == 0)
    return data.assign(target=np.where(second, "c", data["target"]))


NEAR = [{"train.optimizer.lr": rate} for rate in (8e-4, 9e-4, 9.5e-4, 1e-3)]
RATES = [{"train.optimizer.lr": rate} for rate in (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 1e-2)]

ILL: dict[str, Callable[[], Made]] = {
    "learning_rate_too_high": lambda: Made(tree(train={"optimizer": {"type": "adam", "lr": 10.0}}), moons()),
    "learning_rate_too_low": lambda: Made(tree(train={"optimizer": {"type": "adam", "lr": 1e-7}}), moons()),
    "loss_not_a_number": lambda: Made(
        search({"optimizer": {"type": "sgd", "lr": {"log": [1e-3, 1e3]}}, "epochs": 12}, trials=14), line()
    ),
    "still_improving": lambda: Made(tree(train={"epochs": 1, "early_stopping": None, "optimizer": "adam"}), moons()),
    "stopped_too_early": lambda: Made(
        tree(train={"optimizer": "adam", "early_stopping": {"patience": 1, "min_delta": 0.1}}), moons()
    ),
    "gradient_explosion": lambda: Made(
        tree(train={"schedule": {"type": own("Spike")}, "early_stopping": None, "epochs": 12}), curve()
    ),
    "gradient_vanishing": lambda: Made({**tree(), "model": {"type": own("Deep")}}, moons()),
    "dead_units": lambda: Made({**tree(), "model": {"type": own("Dead")}}, moons()),
    "exploding_activations": lambda: Made({**tree(), "model": {"type": own("Loud")}}, moons()),
    "target_leak": lambda: Made(tree(), moons().assign(result=lambda d: (d["target"] == "inner") * 2.0 + 1)),
    "copies_across_parts": lambda: Made(tree(), copied(moons(), 0.2)),
    "class_imbalance": lambda: Made(tree(), blobs({"usual": 1470, "rare": 30}, far=1.5)),
    "class_never_predicted": lambda: Made(tree(), shadowed()),
    "label_noise": lambda: Made(tree(), flipped(moons(1500), 0.15)),
    "unscaled_inputs": lambda: Made(tree(data={"steps": []}), moons().assign(x=lambda d: d["x"] * 1000)),
    "unrepaired_data": lambda: Made(tree(data={"quality": ["label_errors"]}), flipped(moons(800), 0.15)),
    "underfit": lambda: Made(tree(train={"optimizer": {"type": "adamw", "lr": 0.01, "weight_decay": 20.0}}), moons()),
    "overfit": wide,
    "no_better_than_baseline": lambda: Made(
        search({"optimizer": {"type": "adam", "lr": {"log": [0.003, 0.01]}}, "epochs": 12}, trials=3), line()
    ),
    "test_far_from_validation": lambda: Made(
        tree(data={"split": {"type": "time", "column": "day", "validation": 0.2, "test": 0.25}, "ignore": ["day"]}),
        later(),
    ),
    "bad_calibration": lambda: Made(tree(train={"loss": {"type": "cross_entropy", "label_smoothing": 0.6}}), moons()),
    "trials_failed": lambda: Made(search({"accumulate": {"choice": [1, 2, 500]}}), moons()),
    "best_at_the_edge": lambda: Made(
        search({"optimizer": {"type": "adam", "lr": {"log": [1e-5, 1e-3]}}}, start=NEAR, trials=8), moons()
    ),
    "search_not_settled": lambda: Made(
        search({"optimizer": {"type": "adam", "lr": {"log": [1e-6, 1e-1]}}}, trials=10, start=RATES), moons()
    ),
    "seeds_disagree": lambda: Made(
        search({"optimizer": {"type": "adam", "lr": {"log": [0.03, 0.1]}}}, trials=3, confirm={"top": 2, "seeds": 3}),
        line(200),
    ),
    "winner_within_noise": lambda: Made(
        {**search({"epochs": 12}), "model": {"type": "mlp", "dropout": {"uniform": [0.0, 0.1]}}}, moons()
    ),
    "validation_too_small": lambda: Made(tree(data={"split": {"validation": 0.02, "test": 0.3}}), moons()),
}

HEALTHY: dict[str, Callable[[], Made]] = {
    "digits": lambda: Made(tree(train={"epochs": 20}), "digits"),
    "images": lambda: Made({**tree(), "model": {"type": own("Images")}}, "digits"),
    "table": lambda: Made(tree(), moons(1500)),
    "amounts": lambda: Made(tree(), curve(1500)),
    "search": lambda: Made(
        {
            **tree(train={"epochs": 15, "optimizer": {"type": "adam", "lr": {"log": [1e-3, 1e-1]}}}),
            "search": {"method": "random", "trials": 4},
        },
        moons(1800),
    ),
}
