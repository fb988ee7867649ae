"""A network that several workers train is not worse on new rows than one that a single process trains."""

from __future__ import annotations

import os
import socket
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from processes_example import run_processes

from nnopt_ray import assembly, reading
from nnopt_ray.data.types import Dataset
from nnopt_ray.experiment import Experiment
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.sharding import Shard

# Dropout is drawn in each worker and batch norm is of its piece, so they do not compute the same.
DIGITS: dict[str, Any] = {
    "objective": "maximize val_accuracy",
    "data": {"source": {"type": "sklearn", "name": "digits"}, "steps": [{"type": "scale", "method": "minmax"}]},
    "model": {"type": "mlp", "widths": [64], "norm": "batch", "dropout": 0.2},
    "train": {"epochs": 8, "batch_size": 64, "optimizer": {"type": "adam", "lr": 0.003}},
}
FASHION_FILES = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
FASHION: dict[str, Any] = {
    "objective": "maximize val_accuracy",
    "data": {"source": {"type": "idx", "path": str(FASHION_FILES)}, "split": {"type": "given", "validation": 0.05}},
    "model": {"type": "mlp", "widths": [128], "norm": "batch", "dropout": 0.2},
    "train": {"epochs": 2, "batch_size": 128, "optimizer": {"type": "adam", "lr": 0.003}},
}
GLOBAL = {"batch": "global"}
LINEAR = {"batch": "per_worker", "lr_scaling": "linear"}
Plan = list[tuple[int, dict[str, str]]]  # workers, and what resources say beside them


def accuracy(trainer: Trainer, dataset: Dataset) -> float:
    trainer.finalize()
    with torch.no_grad():
        outputs = trainer.model(*(torch.tensor(array) for array in dataset.test.inputs))
    return float((outputs.argmax(1) == torch.tensor(dataset.test.target)).double().mean())


def trained(page: Experiment, workers: int) -> float:
    """The accuracy on the test part."""
    experiment = assembly.scaled(page, workers)
    dataset = assembly.data_of(experiment)
    metrics = assembly.metrics_for(experiment, dataset)
    shard = Shard() if workers > 1 else None
    trainer = Trainer(experiment, dataset, assembly.machine_for(experiment), metrics, shard=shard)
    while not trainer.done:
        trainer.run_epoch()
    return accuracy(trainer, dataset)


def worker(rank: int, ports: list[int], folder: str, plan: Plan, seeds: int) -> None:
    """A group for each entry of the plan; those that are more than it needs wait for the next."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "NNOPT_CACHE": f"{folder}/cache"}
    for (workers, resources), port in zip(plan, ports, strict=True):
        if rank >= workers:
            continue
        os.environ["MASTER_PORT"] = str(port)
        dist.init_process_group("gloo", rank=rank, world_size=workers)
        found = [
            trained(
                reading.load(
                    Path(folder) / "page.yaml",
                    set={"seed": seed, **{f"resources.{key}": value for key, value in resources.items()}},
                ),
                workers,
            )
            for seed in range(seeds)
        ]
        if rank == 0:
            torch.save(found, f"{folder}/{workers}-{resources['batch']}.pt")
        dist.destroy_process_group()


def free_ports(count: int) -> Iterator[int]:
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    yield from [each.getsockname()[1] for each in held]
    for each in held:
        each.close()


def scores(folder: Path, page: dict[str, Any], plan: Plan, seeds: int) -> list[list[float]]:
    """Of each entry of the plan the test accuracies, a number a seed."""
    (folder / "page.yaml").write_text(yaml.safe_dump({**page, "resources": {"workers": max(w for w, _ in plan)}}))
    ports = list(free_ports(len(plan)))
    most = max(workers for workers, _ in plan)
    run_processes(worker, (ports, str(folder), plan, seeds), most)
    return [torch.load(folder / f"{workers}-{resources['batch']}.pt") for workers, resources in plan]


def lost(alone: list[float], together: list[float]) -> tuple[float, float]:
    """By how much the scores are lower than those of one process, seed by seed, and the standard error of it."""
    differences = [one - other for one, other in zip(alone, together, strict=True)]
    return statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5


def check_not_worse(alone: list[float], together: list[float]) -> None:
    mean, error = lost(alone, together)
    assert mean <= 2.5 * error, f"{mean:.4f} (standard error {error:.4f}) lower than by one process"


def test_on_digits_two_workers_are_not_worse(tmp_path: Path) -> None:
    alone, two = scores(tmp_path, DIGITS, [(1, GLOBAL), (2, GLOBAL)], seeds=6)
    assert statistics.mean(alone) > 0.95
    check_not_worse(alone, two)


@pytest.mark.slow
def test_on_digits_two_and_four_workers_are_not_worse(tmp_path: Path) -> None:
    alone, two, four = scores(tmp_path, DIGITS, [(1, GLOBAL), (2, GLOBAL), (4, GLOBAL)], seeds=12)
    assert len(set(alone) | set(two)) > 3, "seeds change nothing"
    check_not_worse(alone, two)
    check_not_worse(alone, four)


@pytest.mark.slow
def test_on_digits_a_batch_for_each_worker_costs_what_the_readme_says(tmp_path: Path) -> None:
    """As many epochs are fewer steps then, so this is no equality."""
    alone, two, four = scores(tmp_path, DIGITS, [(1, GLOBAL), (2, LINEAR), (4, LINEAR)], seeds=12)
    for together in (two, four):
        mean, error = lost(alone, together)
        assert 0 < mean < 0.015, f"{mean:.4f} (standard error {error:.4f})"


@pytest.mark.slow
@pytest.mark.skipif(not FASHION_FILES.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_on_fashion_mnist_they_are_not_worse(tmp_path: Path) -> None:
    alone, two, four = scores(tmp_path, FASHION, [(1, GLOBAL), (2, GLOBAL), (4, GLOBAL)], seeds=4)
    assert statistics.mean(alone) > 0.8
    check_not_worse(alone, two)
    check_not_worse(alone, four)
