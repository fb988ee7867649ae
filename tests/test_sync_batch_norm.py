"""Batch norm over the rows of all processes, against one process: real processes, real collectives (gloo)."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from lane_example import made
from processes_example import run_processes
from torch import nn
from train_example import ACCURACY, MACHINE, dataset, page, part

from nnopt_ray import reading
from nnopt_ray.data.types import Dataset, Input, Shapes
from nnopt_ray.errors import PageError, PartError
from nnopt_ray.experiment import Experiment
from nnopt_ray.recipe import Swa
from nnopt_ray.train.fully_sharded import FullShard
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.sharding import Shard

MLP = part("mlp", widths=(20, 20), norm="batch")
IMAGE = (Input("image", (2, 8, 8)),)
CLOSE = 1e-4  # float32, some dozens of steps


class Renewed(nn.Module):
    """Batch norm without weights, and one whose running statistics are the mean over all batches."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.hidden = nn.Linear(shapes.features, 12, bias=False)
        self.plain = nn.BatchNorm1d(12, affine=False)
        self.mean = nn.BatchNorm1d(12, momentum=None)
        self.out = nn.Linear(12, shapes.outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.plain(self.hidden(x.flatten(1))))
        outputs: torch.Tensor = self.out(self.mean(hidden))
        return outputs


def trainings() -> dict[str, tuple[Experiment, Dataset]]:
    """What is trained by both. Of 66 rows in batches of 21 three are left, which the first process takes alone."""
    data = dataset()
    sgd = part("sgd", lr=0.05, momentum=0.9)
    images = made("classification", IMAGE)
    resnet = part("resnet", depth=8, width=4)
    efficientnet = part("efficientnet", dropout=0.0, stochastic_depth=0.0)
    balanced = part("cross_entropy", class_weights="balanced")
    return {
        "mlp": (page(model=MLP, epochs=4, optimizer=sgd), data),
        "resnet": (page(model=resnet, epochs=3, optimizer=sgd), images),
        "efficientnet": (
            page(model=efficientnet, epochs=2, optimizer=sgd),
            images,
        ),
        "three rows left": (page(model=MLP, epochs=3, batch_size=21, optimizer=sgd), dataset(rows=66)),
        "class weights": (
            page(model=MLP, epochs=2, batch_size=21, loss=balanced, optimizer=sgd),
            data,
        ),
        "accumulate": (page(model=MLP, epochs=2, accumulate=3, optimizer=sgd), data),
        "swa": (page(model=MLP, epochs=4, batch_size=21, swa=Swa(start_epoch=1), optimizer=sgd), dataset(rows=66)),
        "frozen": (page(model=resnet, epochs=2, freeze=2, optimizer=sgd), images),
        "own": (page(model=part("test_sync_batch_norm:Renewed"), epochs=3, batch_size=21, optimizer=sgd), data),
    }


def trained(experiment: Experiment, data: Dataset, shard: Shard | None = None) -> Trainer:
    torch.set_num_threads(1)
    one = Trainer(experiment, data, MACHINE, ACCURACY, shard=shard)
    while not one.done:
        one.run_epoch()
    one.finalize()
    return one


def told(one: Trainer) -> dict[str, Any]:
    epochs = [{**epoch.metrics, "norm": epoch.grad_norm} for epoch in one.history]
    buffers = {name: buffer.double() for name, buffer in one.model.named_buffers()}
    return {"weights": one.weights.flat.clone(), "buffers": buffers, "epochs": epochs}


def one_of_several(rank: int, workers: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=workers)
    here = Path(folder)
    for name, (experiment, data) in trainings().items():
        torch.save(told(trained(experiment, data, Shard(True))), here / f"{name}-{rank}.pt")
    experiment, data = trainings()["mlp"]
    torch.save(told(trained(experiment, data, Shard())), here / f"not synced-{rank}.pt")
    # The last epochs' weights of a network that is cut lie in pieces, so its history is what is compared.
    torch.save(told(trained(experiment, data, FullShard(True))), here / f"cut-{rank}.pt")
    try:
        trained(page(model=part("mlp", widths=(4,), norm="none")), data, Shard(True))
    except PartError as error:
        (here / f"refused-{rank}").write_text(str(error))
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes came to."""
    folder = tmp_path_factory.mktemp("synced")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_processes(one_of_several, (2, port, str(folder)), 2)
    return folder


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / one.norm().clamp(min=0.01))  # means of what was normalised are about 0


@pytest.mark.parametrize("name", list(trainings()))
def test_two_processes_with_synced_batch_norm_are_one_on_the_whole_batch(
    together: Path, name: str, one_thread: None
) -> None:
    first, second = (torch.load(together / f"{name}-{rank}.pt") for rank in range(2))
    assert torch.equal(first["weights"], second["weights"]), "the processes went different ways"
    assert first["epochs"] == second["epochs"]
    alone = told(trained(*trainings()[name]))
    assert apart(alone["weights"], first["weights"]) < CLOSE
    assert alone["buffers"], "nothing was normalised over the batch"
    for buffer, values in alone["buffers"].items():
        assert torch.equal(first["buffers"][buffer], second["buffers"][buffer])
        assert apart(values, first["buffers"][buffer]) < CLOSE, buffer
    for mine, theirs in zip(alone["epochs"], first["epochs"], strict=True):
        assert theirs == pytest.approx(mine, rel=10 * CLOSE, abs=CLOSE)


def test_without_it_they_are_not(together: Path, one_thread: None) -> None:
    alone = told(trained(*trainings()["mlp"]))
    assert apart(alone["weights"], torch.load(together / "not synced-0.pt")["weights"]) > 10 * CLOSE


def test_of_a_network_that_is_cut_too(together: Path, one_thread: None) -> None:
    alone = told(trained(*trainings()["mlp"]))
    for mine, theirs in zip(alone["epochs"], torch.load(together / "cut-0.pt")["epochs"], strict=True):
        assert theirs == pytest.approx(mine, rel=10 * CLOSE, abs=CLOSE)


def test_a_network_without_batch_norm_is_told_so(together: Path) -> None:
    for rank in range(2):
        assert "the network has no batch norm" in (together / f"refused-{rank}").read_text()


def test_it_is_not_compiled(tmp_path: Path) -> None:
    text = """
        data: {source: {type: sklearn, name: iris}}
        model: {type: mlp, norm: batch}
        train: {compile: true}
        resources: {workers: 2, sync_batch_norm: true}
    """
    (tmp_path / "page.yaml").write_text(text)
    with pytest.raises(PageError, match=r"resources.sync_batch_norm: what workers tell each other"):
        reading.load(tmp_path / "page.yaml")
