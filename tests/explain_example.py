"""Prepared data of every kind, and networks that were never trained, for the tests of explanations."""

from __future__ import annotations

import atexit
import csv
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from text_example import OTHERS
from torch import Tensor, nn

from nnopt_ray import assembly, reading
from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.types import Dataset, Shapes
from nnopt_ray.evaluate import examples
from nnopt_ray.evaluate.evaluate import measures, predict, targets
from nnopt_ray.evaluate.explainers import Attributions, Explainer, Subject
from nnopt_ray.experiment import Experiment

FOLDER = Path(tempfile.mkdtemp(prefix="nnopt-explained-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

MIXED_COLUMNS = ("age", "usage", "plan", "city", "signup", "vip", "churned")
PAGES: dict[str, dict[str, Any]] = {
    "table": {"source": {"type": "sklearn", "name": "iris"}, "steps": ["scale"]},
    "numbers": {"source": {"type": "sklearn", "name": "diabetes"}, "steps": ["scale"]},
    "mixed": {
        "source": {"type": "csv", "path": str(FOLDER / "mixed.csv")},
        "target": "churned",
        "steps": [
            {"type": "impute", "indicator": True},
            "scale",
            {"type": "encode", "method": "embedding", "columns": ["city"]},
            "encode",
        ],
    },
    "image": {"source": {"type": "numpy", "path": str(FOLDER / "images.npz")}, "target": "y", "steps": ["scale"]},
    "tokens": {
        "source": {"type": "csv", "path": str(FOLDER / "texts.csv")},
        "steps": [{"type": "tokenize", "method": "words", "columns": ["text"]}],
    },
    "sequence": {"source": {"type": "numpy", "path": str(FOLDER / "sequences.npz"), "kind": "sequence"}, "target": "y"},
    "lengths": {
        "source": {
            "type": "sequences",
            "path": str(FOLDER / "walks.csv"),
            "id": "walk",
            "order": "second",
            "label": "label",
        },
        "target": "label",
    },
}
MODELS: dict[str, dict[str, Any]] = {
    "table": {"type": "mlp", "widths": [8], "activation": "tanh"},
    "numbers": {"type": "mlp", "widths": [8], "activation": "tanh"},
    "mixed": {"type": "mlp", "widths": [8], "activation": "tanh"},
    "image": {"type": "resnet", "depth": 8, "width": 4},
    "tokens": {"type": "rnn", "cell": "gru", "width": 8},
    "sequence": {"type": "rnn", "cell": "gru", "width": 8},
    "lengths": {"type": "rnn", "cell": "lstm", "width": 8},
}


def mixed_rows() -> list[list[Any]]:
    draws = np.random.default_rng(0)
    rows = []
    for _ in range(120):
        age, usage = int(draws.integers(18, 80)), round(float(draws.gamma(2, 50)), 2)
        day, month, year = draws.integers(1, 28), draws.integers(1, 13), draws.integers(2020, 2023)
        rows.append(
            [
                "" if draws.random() < 0.2 else age,
                usage,
                draws.choice(["basic", "plus", "gold"]),
                f"city{draws.integers(9)}",
                f"{day:02d}.{month:02d}.{year}",
                draws.choice(["yes", "no"]),
                "yes" if draws.random() < 1 / (1 + np.exp(-(age - 50) / 10)) else "no",
            ]
        )
    return rows


def _write() -> None:
    draws = np.random.default_rng(1)
    with (FOLDER / "mixed.csv").open("w", newline="") as file:
        csv.writer(file).writerows([MIXED_COLUMNS, *mixed_rows()])
    images = draws.integers(0, 256, size=(60, 3, 12, 12)).astype(np.uint8)
    np.savez(FOLDER / "images.npz", x=images, y=np.array(["cat", "dog"])[draws.integers(0, 2, 60)])
    np.savez(FOLDER / "sequences.npz", x=draws.normal(size=(60, 15, 2)), y=draws.normal(size=60))
    with (FOLDER / "texts.csv").open("w", newline="") as file:
        rows = [[text, "fox" if "fox" in text else "none"] for text in OTHERS]
        csv.writer(file).writerows([["text", "target"], *rows])
    with (FOLDER / "walks.csv").open("w", newline="") as file:
        lines: list[list[Any]] = [["walk", "second", "x", "y", "label"]]
        for walk in range(40):
            label = "up" if walk % 2 else "down"
            lines += [[walk, s, *draws.normal(size=2).round(3), label] for s in range(int(draws.integers(3, 9)))]
        csv.writer(file).writerows(lines)


@cache
def page(kind: str) -> Experiment:
    if not (FOLDER / "mixed.csv").is_file():
        _write()
    text = yaml.safe_dump({"data": PAGES[kind], "model": MODELS[kind]})
    file = FOLDER / f"{kind}.yaml"
    file.write_text(text)
    return reading.load(file)


@cache
def dataset(kind: str) -> Dataset:
    return prepare(page(kind), cache=FOLDER / "cache")


def subject(kind: str, model: nn.Module | None = None, each: int = 1) -> Subject:
    """What is explained: this network, or that of the page with its first weights."""
    experiment, data = page(kind), dataset(kind)
    machine = assembly.machine_for(experiment)
    made = (assembly.build_model(experiment, data) if model is None else model).eval()
    outputs, true = predict(made, data.test, data, machine), targets(data.test, data)
    chosen = examples.chosen(outputs, true, np.asarray(data.test.source_rows), data.classes, 0, each)
    return Subject(made, data, machine, 0, outputs, chosen, measures(experiment, data)["loss"], "val_loss")


def values(done: object) -> list[np.ndarray]:
    assert isinstance(done, Attributions)
    return [np.asarray(each) for each in done.values]


class Linear(nn.Module):
    """A linear network over all numbers of the first input."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.layer = nn.Linear(shapes.features, shapes.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


class Fails(Explainer):
    """Raises what a user's explainer may.

    Keys:
        with_words: what it says.
    """

    kinds = ("table", "image")

    def __init__(self, *, with_words: str = "<b>no</b> luck") -> None:
        self.with_words = with_words

    def explain(self, subject: Subject) -> Attributions:
        raise RuntimeError(self.with_words)


@contextmanager
def deterministic() -> Iterator[None]:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield
