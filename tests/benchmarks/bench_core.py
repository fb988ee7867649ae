"""Samples a second of the training core, one thread, against a plain torch loop and other trainers.

    python tests/benchmarks/bench_core.py [rounds]

The plain loop gathers each batch by index and uses torch.optim.Adam as it comes; it measures nothing and
writes nothing. Ours is `train.fit`: validation loss and accuracy every epoch, gradient norms, early
stopping and a plateau schedule watching, history and checkpoints written, best weights kept. The others
are written as their own documentation does, without validation; those not installed are left out. Each
round trains each of them once, from a fresh network, in turn; the figures are medians over rounds.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from nnopt_ray import reading
from nnopt_ray.assembly import metrics_for
from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.types import Dataset, Shapes
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import Machine, choose
from nnopt_ray.rundir import TrialDir
from nnopt_ray.train.fit import fit

BATCH = 64
EPOCHS = {"MLP": 20, "CNN": 4}

PAGE = """
name: core
data:
  source: {type: sklearn, name: digits}
  steps: [{type: scale, method: minmax}]
model: {type: "bench_core:MODEL"}
objective: maximize val_accuracy
train:
  epochs: EPOCHS
  batch_size: 64
  schedule: {type: reduce_on_plateau, patience: 100}
  early_stopping: {patience: 100, restore_best_weights: true}
"""


class MLP(nn.Sequential):
    """64-64-64-10."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, shapes.outputs)
        )


class CNN(nn.Sequential):
    """Two convolutions of 16 and 32 channels on 8x8 pixels."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(512, shapes.outputs),
        )


def plain(network: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(network.parameters())
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for begin in range(0, len(x), BATCH):
            rows = order[begin : begin + BATCH]
            loss = nn.functional.cross_entropy(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def ours(experiment: Experiment, dataset: Dataset, machine: Machine) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fit(experiment, dataset, machine, metrics_for(experiment, dataset), TrialDir(Path(folder)))


def lightning(network: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: Any, _: int) -> Tensor:
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    L.Trainer(max_epochs=epochs, accelerator="cpu", devices=1, **quiet).fit(Module(), loader)


def skorch(network: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    from skorch import NeuralNetClassifier

    quiet = {"verbose": 0, "train_split": None, "iterator_train__shuffle": True}
    trainer = NeuralNetClassifier(
        network,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        max_epochs=epochs,
        batch_size=BATCH,
        **quiet,
    )
    trainer.fit(x.numpy(), y.numpy())


def keras(network: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    import keras as k

    layers: list[Any] = []
    for layer in network:  # type: ignore[attr-defined]
        if isinstance(layer, nn.Linear):
            layers.append(k.layers.Dense(layer.out_features))
        elif isinstance(layer, nn.Conv2d):
            layers.append(k.layers.Conv2D(layer.out_channels, 3, padding="same"))
        else:
            kinds = {nn.ReLU: k.layers.ReLU, nn.MaxPool2d: k.layers.MaxPooling2D, nn.Flatten: k.layers.Flatten}
            layers.append(kinds[type(layer)]())
    model = k.Sequential(layers)
    model.compile(optimizer="adam", loss=k.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(np.moveaxis(x.numpy(), 1, -1), y.numpy(), batch_size=BATCH, epochs=epochs, verbose=0)


def contest(name: str, rounds: int) -> None:
    page = PAGE.replace("MODEL", name).replace("EPOCHS", str(EPOCHS[name]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.yaml"
        file.write_text(page)
        experiment = reading.load(file)
        dataset = prepare(experiment, Path(folder))
        x, y = torch.tensor(dataset.train.inputs[0]), torch.tensor(dataset.train.target)
        assert len(load_digits().target) > len(x)
        machine = choose(1, 0, "auto")
        kind = {"MLP": MLP, "CNN": CNN}[name]
        runs: dict[str, Callable[[], None]] = {
            "plain loop": lambda: plain(kind(dataset.shapes), x, y, EPOCHS[name]),
            "nnopt, with everything": lambda: ours(experiment, dataset, machine),
        }
        for other in (lightning, keras, skorch):
            if importlib.util.find_spec(other.__name__):
                runs[other.__name__] = lambda other=other: other(kind(dataset.shapes), x, y, EPOCHS[name])
        taken: dict[str, list[float]] = {run: [] for run in runs}
        for round_ in range(rounds + 1):
            for run, go in runs.items():
                began = time.perf_counter()
                go()
                if round_:  # the first round warms up
                    taken[run].append(time.perf_counter() - began)
    print(f"digits {name}, {EPOCHS[name]} epochs of {len(x)} rows, batch {BATCH}, one thread, {rounds} rounds")
    base = statistics.median(taken["plain loop"])
    for run, seconds in taken.items():
        middle = statistics.median(seconds)
        print(f"  {run:24s} {len(x) * EPOCHS[name] / middle:10,.0f} samples/s   {base / middle:5.2f}x")


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for name in EPOCHS:
        contest(name, int(sys.argv[1]) if len(sys.argv) > 1 else 9)


if __name__ == "__main__":
    main()
