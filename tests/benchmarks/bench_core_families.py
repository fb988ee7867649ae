"""Samples a second of the training core on one small network of each family, against a plain loop, Lightning and Keras.

    python tests/benchmarks/bench_core_families.py            # 5 rounds, all families
    python tests/benchmarks/bench_core_families.py vit gpt    # some of them

All train the same network of nnopt's on the same rows, one thread, Adam, batches of 64. The plain loop measures the
loss on the validation part after each epoch, as it is a good part of the work in large networks, and does nothing
else; Lightning and Keras (on torch, whose TorchModuleWrapper takes the network) do not even that. Ours validates,
records, checkpoints and keeps the best weights. Images are scikit-learn's digits; texts are drawn at random, 64 tokens
of 1,000.
"""

from __future__ import annotations

import importlib.util
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_core
import numpy as np
import torch
from torch import Tensor, nn

from nnopt_ray import reading, tables
from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.types import Dataset, DataSummary, Input, Rows, Shapes, Task
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import choose

ROUNDS, BATCH, ROWS, LENGTH, VOCABULARY = 5, 64, 512, 64, 1000

# family → model, task of its texts (None: the digits), epochs a round
FAMILIES: dict[str, tuple[str, Task | None, int]] = {
    "mlp": ("mlp", None, 20),
    "resnet": ("{type: resnet, depth: 8}", None, 2),
    "vgg": ("{type: vgg, depth: 11, width: 8}", None, 2),
    "efficientnet": ("{type: efficientnet, size: tiny}", None, 2),
    "vit": ("{type: vit, size: tiny, depth: 2}", None, 2),
    "lstm": ("{type: rnn, cell: lstm}", None, 3),
    "bert": ("{type: bert, size: tiny}", "classification", 2),
    "gpt": ("{type: gpt, size: tiny}", "language_modelling", 2),
}

PAGE = """
name: core
data: {source: {type: sklearn, name: digits}, steps: [{type: scale, method: minmax}]}
model: MODEL
train:
  epochs: EPOCHS
  schedule: {type: reduce_on_plateau, patience: 100}
  early_stopping: {patience: 100, restore_best_weights: true}
"""


def texts(task: Task) -> Dataset:
    """Rows of random tokens, and a class of each row or the token after each."""
    draw = np.random.default_rng(0)
    stream = draw.integers(5, VOCABULARY, (ROWS + 128, LENGTH + 1))
    classes = stream[:, 0] % 4
    parts = []
    for part in (slice(0, ROWS), slice(ROWS, ROWS + 64), slice(ROWS + 64, ROWS + 128)):
        inputs, following = (np.ascontiguousarray(each) for each in (stream[part, :-1], stream[part, 1:]))
        target = following if task == "language_modelling" else classes[part]
        parts.append(Rows((inputs,), target, np.arange(len(inputs))))
    outputs = VOCABULARY if task == "language_modelling" else 4
    return Dataset(
        folder=Path("nowhere"),
        key=task,
        shapes=Shapes(task, (Input("tokens", (LENGTH,), (VOCABULARY,)),), outputs),
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        classes=() if task == "language_modelling" else ("a", "b", "c", "d"),
        target_mean=np.zeros(outputs),
        target_scale=np.ones(outputs),
        feature_names=(),
        summary=DataSummary("made", len(stream), task, "y", (), {}),
    )


def network(experiment: Experiment, dataset: Dataset) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = tables.build("model", experiment.model, dataset.shapes)
    return made


def loss_of(outputs: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.flatten(0, -2), target.flatten())


def plain(model: nn.Module, x: Tensor, y: Tensor, xv: Tensor, yv: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = loss_of(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        model.eval()
        with torch.no_grad():
            losses = [loss_of(model(a), b) * len(a) for a, b in zip(xv.split(256), yv.split(256), strict=True)]
            float(torch.stack(losses).sum() / len(xv))


def lightning(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def training_step(self, batch: Any, _: int) -> Tensor:
            return loss_of(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    L.Trainer(max_epochs=epochs, accelerator="cpu", devices=1, **quiet).fit(Module(), loader)  # type: ignore[arg-type]


def keras(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    import keras as k

    class Module(k.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = k.layers.TorchModuleWrapper(model, autocast=False)

        def call(self, x: Tensor, training: bool = False) -> Tensor:
            told: Tensor = self.network(x, training=training)
            return told

    made = Module()
    made.compile(optimizer="adam", loss=k.losses.SparseCategoricalCrossentropy(from_logits=True))
    made.fit(x.numpy(), y.numpy(), batch_size=BATCH, epochs=epochs, verbose=0)


def contest(family: str) -> None:
    model, task, epochs = FAMILIES[family]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.yaml"
        file.write_text(PAGE.replace("MODEL", model).replace("EPOCHS", str(epochs)))
        experiment = reading.load(file)
        dataset = prepare(experiment, Path(folder)) if task is None else texts(task)
        x, y = torch.tensor(dataset.train.inputs[0]), torch.tensor(dataset.train.target)
        xv, yv = torch.tensor(dataset.validation.inputs[0]), torch.tensor(dataset.validation.target)
        machine = choose(1, 0, "auto")
        runs: dict[str, Callable[[], None]] = {
            "plain loop": lambda: plain(network(experiment, dataset), x, y, xv, yv, epochs),
            "nnopt, with everything": lambda: bench_core.ours(experiment, dataset, machine),
        }
        for other in (lightning, keras):
            if importlib.util.find_spec(other.__name__):
                runs[other.__name__] = lambda other=other: other(network(experiment, dataset), x, y, epochs)  # type: ignore[misc]
        taken: dict[str, list[float]] = {run: [] for run in runs}
        for round_ in range(ROUNDS + 1):
            for run, go in runs.items():
                began = time.perf_counter()
                go()
                if round_:  # the first round warms up
                    taken[run].append(time.perf_counter() - began)
        weights = sum(p.numel() for p in network(experiment, dataset).parameters())
    base = statistics.median(taken["plain loop"])
    told = "   ".join(
        f"{run} {len(x) * epochs / statistics.median(seconds):,.0f}/s {base / statistics.median(seconds):.2f}x"
        for run, seconds in taken.items()
    )
    print(f"  {family:13s} {weights:>9,} weights   {told}", flush=True)


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    print(f"samples a second, one thread, batch {BATCH}, medians of {ROUNDS} rounds")
    for family in [word for word in sys.argv[1:] if word in FAMILIES] or FAMILIES:
        contest(family)


if __name__ == "__main__":
    main()
