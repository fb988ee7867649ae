"""Several processes that train one network, against one process: real processes, real collectives (gloo)."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from processes_example import run_processes
from torch import nn
from torch.utils.checkpoint import checkpoint

from nnopt_ray import assembly, reading
from nnopt_ray.data.types import Shapes
from nnopt_ray.errors import PartError
from nnopt_ray.train import sharding
from nnopt_ray.train.buckets import Buckets, cut
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.sharding import LEAST_ROWS, Shard


class Piece(Shard):
    """One of so many, without a group."""

    def __init__(self, rank: int, workers: int) -> None:
        self.rank, self.workers = rank, workers


@given(some.lists(some.integers(1, 40), min_size=1, max_size=6), some.integers(1, 9), some.integers(0, 2**31))
def test_all_pieces_together_are_the_rows_of_one_process(sizes: list[int], workers: int, seed: int) -> None:
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed))
    taken = [Piece(rank, workers).mine(sizes, order) for rank in range(workers)]
    for number, batch in enumerate(torch.split(order, sizes)):
        own = [torch.split(rows, mine)[number].tolist() for mine, rows in taken]
        assert [row for each in own for row in each] == batch.tolist()
        filled = [len(each) for each in own if each]
        assert max(filled) - min(filled) <= 1
        if sizes[number] >= LEAST_ROWS:
            assert min(filled) >= LEAST_ROWS, "batch norm has no deviation of a single row"


@given(some.integers(0, 50), some.integers(1, 9))
def test_batches_without_training_are_shared_out_whole_and_in_order(count: int, workers: int) -> None:
    shares = [range(count)[Piece(rank, workers).share_out(count)] for rank in range(workers)]
    assert [number for share in shares for number in share] == list(range(count))


PAGE: dict[str, Any] = {
    "name": "shared",
    "seed": 3,
    "objective": "minimize val_loss",
    "data": {"source": {"type": "sklearn", "name": "digits"}, "steps": ["scale"]},
    "model": {"type": "mlp", "widths": [32, 32, 32], "norm": "none", "dropout": 0.0},
    "train": {"epochs": 4, "batch_size": 64, "clip_norm": 1.0, "optimizer": {"type": "adam", "lr": 0.01}},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "adam": {},
    "accumulate": {"train.accumulate": 3, "train.optimizer": {"type": "sgd", "lr": 0.1, "momentum": 0.9}},
    "class weights": {"train.loss": {"type": "cross_entropy", "class_weights": "balanced"}},
    "accumulate with class weights": {
        "train.accumulate": 4,
        "train.batch_size": 7,
        "train.epochs": 1,
        "train.loss": {"type": "cross_entropy", "class_weights": "balanced", "label_smoothing": 0.1},
    },
    "uneven": {"train.batch_size": 5, "train.epochs": 1},
    "sparse": {"train.l1": 0.001, "train.epochs": 2},
    "layers of their own rate": {"train.layer_decay": 0.5, "train.weight_decay_on": "weights", "train.epochs": 2},
    "float16": {"train.precision": "float16", "train.epochs": 2, "train.optimizer": {"type": "sgd", "lr": 0.01}},
    "ranking": {"objective": "maximize val_roc_auc"},
}


class Twice(nn.Module):
    """Its layer is computed twice in a step, each time anew in the backward pass, which adds to its gradient twice."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.layer = nn.Linear(64, 64)
        self.last = nn.Linear(64, shapes.outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.flatten(1))
        for _ in range(2):
            hidden: torch.Tensor = checkpoint(self.layer, x, use_reentrant=True)
            x = torch.tanh(hidden)
        outputs: torch.Tensor = self.last(x)
        return outputs


def page_of(folder: Path, name: str, *others: str) -> Any:
    settings = [f"{path}={reading_value(value)}" for path, value in VARIANTS[name].items()] + list(others)
    file = folder / "page.yaml"
    if not file.is_file():
        import yaml

        file.write_text(yaml.safe_dump(PAGE))
    return reading.load(file, set=settings)


def reading_value(value: Any) -> str:
    import json

    return json.dumps(value)


def train(page: Any, shard: Shard | None = None) -> Trainer:
    torch.set_num_threads(1)
    dataset = assembly.data_of(page)
    trainer = Trainer(page, dataset, assembly.machine_for(page), assembly.metrics_for(page, dataset), shard=shard)
    while not trainer.done:
        trainer.run_epoch()
    return trainer


class Watched(Buckets):
    """Of a few hundred numbers each."""

    FIRST_BYTES, BUCKET_BYTES = 1 << 8, 1 << 12
    early: ClassVar[list[int]] = []

    def close(self) -> None:
        self.early.append(len(self._sent))
        super().close()


def one_of_several(rank: int, workers: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NNOPT_CACHE": f"{folder}/cache"}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=workers)
    told = {}
    for name in VARIANTS:
        trainer = train(page_of(Path(folder), name), Shard())
        told[name] = {
            "weights": trainer.weights.flat.clone(),
            "epochs": [{**epoch.metrics, "norm": epoch.grad_norm} for epoch in trainer.history],
        }
        sharding.Buckets = Watched  # type: ignore[misc]
        told[name]["in buckets"] = train(page_of(Path(folder), name), Shard()).weights.flat.clone()
        told[name]["early"] = list(Watched.early)
        sharding.Buckets = Buckets  # type: ignore[misc]
        Watched.early.clear()
    sharding.Buckets = Watched  # type: ignore[misc]
    try:
        train(page_of(Path(folder), "adam", 'model={"type": "test_sharding:Twice"}'), Shard())
    except PartError as error:
        Path(f"{folder}/{rank}.refused").write_text(str(error))
    torch.save(told, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """What two processes came to."""
    folder = tmp_path_factory.mktemp("together")
    page_of(folder, "adam")
    run_processes(one_of_several, (2, free_port(), str(folder)), 2)
    return folder, [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", list(VARIANTS))
def test_two_processes_are_one_but_for_rounding(
    together: tuple[Path, list[dict[str, Any]]], name: str, one_thread: None
) -> None:
    folder, told = together
    alone = train(page_of(folder, name))
    first, second = (each[name] for each in told)
    assert torch.equal(first["weights"], second["weights"]), "the processes went different ways"
    assert first["epochs"] == second["epochs"]
    close = 2e-2 if name == "float16" else 2e-3  # three decimal digits, and sums of fewer rows overflow later
    for mine, theirs in zip(alone.history, first["epochs"], strict=True):
        for metric, value in {**mine.metrics, "norm": mine.grad_norm}.items():
            assert theirs[metric] == pytest.approx(value, rel=close, abs=close / 10), (mine.epoch, metric)
    difference = (alone.weights.flat - first["weights"]).norm() / alone.weights.flat.norm()
    assert difference < close


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_gradient_sent_in_buckets_beside_the_backward_pass_is_the_same_to_the_bit(
    together: tuple[Path, list[dict[str, Any]]], name: str
) -> None:
    for told in together[1]:
        assert torch.equal(told[name]["weights"], told[name]["in buckets"])
        assert max(told[name]["early"]) > 2, "nothing was sent before the backward pass had ended"


def test_a_gradient_that_comes_twice_is_refused_not_sent_by_halves(
    together: tuple[Path, list[dict[str, Any]]],
) -> None:
    for rank in range(2):
        said = (together[0] / f"{rank}.refused").read_text()
        assert "adds to the gradient of its weight 'layer.weight' twice" in said


def compiled(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NNOPT_CACHE": f"{folder}/cache"}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    trainer = train(
        page_of(Path(folder), "adam", "train.compile=true", "train.epochs=2", "train.batch_size=65"), Shard()
    )
    assert trainer.compiled is not None
    assert not trainer.compiled.failed, trainer.compiled.failed
    torch.save(trainer.weights.flat.clone(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_too(tmp_path: Path, one_thread: None) -> None:
    page_of(tmp_path, "adam")
    run_processes(compiled, (free_port(), str(tmp_path)), 2)
    alone = train(page_of(tmp_path, "adam", "train.epochs=2", "train.batch_size=65")).weights.flat
    for rank in range(2):
        assert (torch.load(tmp_path / f"{rank}.pt") - alone).norm() / alone.norm() < 2e-3


@given(some.lists(some.integers(1, 50), max_size=12), some.integers(1, 40), some.integers(1, 120))
def test_buckets_hold_whole_weights_and_each_number_once(sizes: list[int], first: int, size: int) -> None:
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    starts = cut(ends, first, size)
    assert set(starts) <= {0, *ends}
    behind = [ends[-1], *starts[:-1]] if ends else []
    assert starts == sorted(starts, reverse=True)
    assert not ends or starts[-1] == 0
    for number, (start, end) in enumerate(zip(starts[:-1], behind, strict=False)):
        assert end - start >= (size if number else first)
