"""Small data sets and pages, made by hand, for the tests of the training core."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnopt_ray.data.types import Dataset, DataSummary, Input, Rows, Shapes
from nnopt_ray.experiment import Checkpoint, Data, EarlyStopping, Evaluate, Experiment, Start, Train
from nnopt_ray.machine import Machine
from nnopt_ray.tables import Part

MACHINE = Machine(device="cpu", precision="float32", threads=1, decided={})


def part(type_: str, **keys: Any) -> Part:
    return Part(type_, MappingProxyType(keys))


class Net(nn.Module):
    """Everything a resume could lose: dropout, batch norm with its running statistics, a frozen weight."""

    def __init__(self, shapes: Shapes, *, width: int = 16, dropout: float = 0.2, norm: bool = True) -> None:
        super().__init__()
        # A bias before batch norm has no gradient but rounding, which Adam blows up to full steps.
        self.hidden = nn.Linear(shapes.features, width, bias=not norm)
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, shapes.outputs)
        self.frozen = nn.Parameter(torch.full((width,), 0.5), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.hidden(x.flatten(1)))) * self.frozen
        out: Tensor = self.out(self.dropout(hidden))
        return out


class Exploding(Net):
    """Its outputs become infinite when the third step of its training has been taken."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes, dropout=0.0)
        self.steps = 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        return super().forward(x) * (float("inf") if self.steps > 3 else 1.0)


class Frozen(nn.Module):
    """Nothing to train."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.outputs = shapes.outputs

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, : self.outputs]


class Flat(Net):
    """Forgets the dimension of the outputs."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 0]


class Detached(Net):
    """Cuts the way from the loss back to the weights."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class Drawing(Net):
    """Draws its noise from NumPy and from Python instead of torch."""

    def forward(self, x: Tensor) -> Tensor:
        noise = float(np.random.normal()) + random.random() if self.training else 0.0
        return super().forward(x) * (1 + 0.1 * noise)


class Conv(nn.Module):
    """Convolutions, and what is common behind them: `.view` fails on images whose channels lie last."""

    def __init__(self, shapes: Shapes, *, view: bool = False) -> None:
        super().__init__()
        assert shapes.image is not None
        channels, height, width = shapes.image
        self.one = nn.Conv2d(channels, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.out = nn.Linear(8 * height * width, shapes.outputs)
        self.view = view

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.two(torch.relu(self.one(x))))
        out: Tensor = self.out(hidden.view(len(x), -1) if self.view else hidden.flatten(1))
        return out


class Moving(Net):
    """Gives a weight other memory on the way, as flatten_parameters() does on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        self.out.weight.data = self.out.weight.data.clone()
        return out


def dataset(task: str = "classification", rows: int = 150, validation: int = 50, image: bool = False) -> Dataset:
    """Blobs of three classes, or a noisy linear target of mean 10 and deviation 4.

    A row has 6 numbers, as an image of 1x2x3 pixels if asked.
    """
    features = 6
    draw = np.random.default_rng(3)
    total = rows + validation + 20
    x = draw.normal(size=(total, features)).astype(np.float32)
    if task == "classification":
        target = draw.integers(0, 3, total)
        x[np.arange(total), target] += 1.5
        outputs, mean, scale = 3, np.zeros(3), np.ones(3)
    else:
        target = (x[:, :1] - x[:, 1:2] + 0.1 * draw.normal(size=(total, 1))).astype(np.float32)
        outputs, mean, scale = 1, np.array([10.0]), np.array([4.0])
    if image:
        x = x.reshape(-1, 1, 2, 3)
    cuts = [0, rows, rows + validation, total]
    parts = [Rows((x[start:end],), target[start:end], np.arange(start, end)) for start, end in pairwise(cuts)]
    return Dataset(
        folder=Path("nowhere"),
        key=f"{task}-{rows}-{validation}",
        shapes=Shapes(task, (Input("image" if image else "table", x.shape[1:]),), outputs),  # type: ignore[arg-type]
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        classes=("a", "b", "c") if task == "classification" else (),
        target_mean=mean,
        target_scale=scale,
        feature_names=tuple(f"x{i}" for i in range(features)),
        summary=DataSummary("made", total, task, "y", (), {}),  # type: ignore[arg-type]
    )


def page(
    *,
    model: Part | None = None,
    optimizer: Part | None = None,
    loss: Part | None = None,
    schedule: Part | None = None,
    objective: str = "minimize val_loss",
    seed: int = 7,
    early: dict[str, Any] | None = None,
    checkpoint: dict[str, Any] | None = None,
    start: dict[str, Any] | None = None,
    augment: tuple[Part, ...] = (),
    **train: Any,
) -> Experiment:
    """A page for the made data; keyword arguments beyond these are keys of `train`."""
    if start is not None:
        train["start"] = Start(**start)
    return Experiment(
        seed=seed,
        objective=objective,
        data=Data(source=part("made"), augment=augment),
        model=model or part("train_example:Net"),
        evaluate=Evaluate(threshold=part("at", probability=0.5)),
        train=Train(
            optimizer=optimizer or part("adam", lr=0.01),
            loss=loss or part("auto"),
            schedule=schedule or part("constant"),
            early_stopping=EarlyStopping(**early) if early is not None else None,
            checkpoint=Checkpoint(**(checkpoint or {})),
            **({"epochs": 4, "batch_size": 32} | train),
        ),
    )


def accuracy(outputs: np.ndarray, target: np.ndarray) -> float:
    return float((outputs.argmax(axis=1) == target).mean())


class Named:
    """A metric from a function and its direction."""

    def __init__(self, mode: Any, function: Any) -> None:
        self.mode, self.function = mode, function

    def __call__(self, outputs: np.ndarray, target: np.ndarray) -> float:
        return float(self.function(outputs, target))


ACCURACY = {"accuracy": Named("max", accuracy)}
