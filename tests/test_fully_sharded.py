"""Networks that are cut over the processes that train them, against one process: real processes, real collectives."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as processes
import yaml
from hypothesis import given
from hypothesis import strategies as some
from lane_example import made
from torch import nn
from train_example import ACCURACY, MACHINE, Net, dataset, page, part

from nnopt_ray import reading, tables
from nnopt_ray.data.types import IGNORED, Dataset, Input, Rows, Shapes
from nnopt_ray.errors import PageError, PartError
from nnopt_ray.experiment import Experiment
from nnopt_ray.recipe import Ema, Swa
from nnopt_ray.rundir import TrialDir
from nnopt_ray.train import state
from nnopt_ray.train.fit import TrialRun
from nnopt_ray.train.fully_sharded import Cut, FullShard, blocks
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.sharding import Shard

EPOCHS = 4
LENGTH, TOKENS = 7, 13


def texts(task: str) -> Dataset:
    """Rows of tokens, 0 of which is padding; of the language task the next one is asked for, of none behind the end."""
    draw = np.random.default_rng(2)
    like = made("classification", (Input("table", (3,)),))
    parts = []
    for rows in (like.train, like.validation, like.test):
        tokens = draw.integers(2, TOKENS, (len(rows), LENGTH))
        tokens[np.arange(LENGTH) >= draw.integers(2, LENGTH + 1, len(rows))[:, None]] = 0
        target: np.ndarray = (tokens == 5).sum(1)
        if task != "classification":
            target = np.concatenate([tokens[:, 1:], np.zeros((len(rows), 1), np.int64)], axis=1)
            target[target == 0] = IGNORED
        parts.append(Rows((tokens,), np.minimum(target, 2) if task == "classification" else target, rows.source_rows))
    outputs = 3 if task == "classification" else TOKENS
    shapes = Shapes(task, (Input("tokens", (LENGTH,), (TOKENS,)),), outputs)  # type: ignore[arg-type]
    return dataclasses.replace(like, key=task, shapes=shapes, train=parts[0], validation=parts[1], test=parts[2])


MLP = part("mlp", widths=(20, 20, 20))
TRANSFORMER = {"width": 16, "depth": 2, "heads": 2, "dropout": 0.0}
IMAGE = (Input("image", (2, 8, 8)),)
BATCH_NORM = part("resnet", depth=8, width=4)
ADAM = part("adamw", lr=0.01, weight_decay=0.1)
# A key's bias moves no attention: its gradient is rounding alone, about 1e-9, which Adam divides by itself unless its
# eps is larger. With 1e-8 the same training by one process and by two came to lie up to 1.2e-4 apart there.
ROUNDING = part("adam", lr=0.01, eps=1e-5)


def trainings() -> dict[str, tuple[Experiment, Dataset]]:
    """What is trained by both."""
    data = dataset()
    return {
        "mlp": (page(model=MLP, epochs=EPOCHS, clip_norm=0.5, optimizer=ADAM, weight_decay_on="weights"), data),
        "resnet": (
            page(model=part("resnet", depth=14, width=4, batch_norm=False), epochs=2),
            made("classification", IMAGE),
        ),
        "bert": (
            page(model=part("bert", size="tiny", **TRANSFORMER), epochs=2, optimizer=ROUNDING),
            texts("classification"),
        ),
        "gpt": (
            page(model=part("gpt", size="tiny", **TRANSFORMER), epochs=2, optimizer=ROUNDING),
            texts("language_modelling"),
        ),
        "rnn": (page(model=part("rnn", cell="lstm", width=6, dropout=0.0), epochs=2), texts("classification")),
        "three rows left": (page(model=MLP, epochs=1, batch_size=21), dataset(rows=66)),
        "accumulate": (page(model=MLP, epochs=2, accumulate=3, optimizer=part("sgd", lr=0.1, momentum=0.9)), data),
        "ema": (page(model=MLP, epochs=2, ema=Ema(decay=0.9)), data),
        "swa": (page(model=MLP, epochs=4, swa=Swa(start_epoch=2)), data),
        "freeze": (page(model=MLP, epochs=2, freeze=1, layer_decay=0.5), data),
        "sparse": (page(model=MLP, epochs=2, l1=3e-3, l1_form="proximal", optimizer=part("sgd", lr=0.1)), data),
        "bfloat16": (page(model=MLP, epochs=2, precision="bfloat16", optimizer=part("sgd", lr=0.1)), data),
        "regression": (page(model=MLP, epochs=2, optimizer=part("rmsprop", lr=0.003)), dataset("regression")),
    }


def trainer(page: Experiment, data: Dataset, shard: Shard | None = None) -> Trainer:
    metrics = ACCURACY if data.shapes.task == "classification" else {}
    machine = dataclasses.replace(MACHINE, precision=page.train.precision.replace("auto", "float32"))
    return Trainer(page, data, machine, metrics, shard=shard)


def trained(one: Trainer, epochs: int = EPOCHS) -> Trainer:
    while not one.done and one.epoch < epochs:
        one.run_epoch()
    return one


def numbers(one: Trainer) -> int:
    """Of weights, gradient and optimizer state that this process keeps."""
    kept = [one.weights.flat, one.weights.gradient, *one.slots.values(), *(p for p in one.weights.rest.values())]
    return sum({each.untyped_storage().data_ptr(): each.numel() for each in kept}.values())


# ── in the processes ────────────────────────────────────────────────────────────────────────────────────


def one_of_several(rank: int, workers: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=workers)
    torch.set_num_threads(1)
    here = Path(folder)
    for name, (experiment, data) in trainings().items():
        shard = FullShard()
        one = trained(trainer(experiment, data, shard))
        told = {"epochs": [(epoch.metrics, epoch.grad_norm) for epoch in one.history], "numbers": numbers(one)}
        torch.save({**told, "cut": shard.decided}, here / f"{name}-{rank}.pt")
        write(one, here / name)
    going_on(here)
    refused(here / f"refused-{rank}")
    torch.distributed.destroy_process_group()


def write(one: Trainer, place: Path) -> None:
    """The files of a training, which the first process writes."""
    shard = one._shard
    assert shard is not None
    with shard.led(one):
        if shard.rank == 0:
            state.save(one.state(), place.with_suffix(".state"))
            state.save(state.State(one.best()), place.with_suffix(".best"))


def going_on(here: Path) -> None:
    """Two epochs and two more from a file, of these processes, and of one before; other weights to begin with."""
    experiment, data = trainings()["mlp"]
    first = trained(trainer(experiment, data, FullShard()), 2)
    write(first, here / "half")
    for name in ("half", "half alone"):
        second = trainer(experiment, data, FullShard())
        torch.distributed.barrier()
        second.load_state(state.load(here / f"{name}.state"))
        write(trained(second), here / f"{name} and on")
    for name, (other, rows) in from_others(here).items():
        write(trained(trainer(other, rows, FullShard())), here / name)
    plain = page(model=BATCH_NORM, epochs=2)
    for name, shard in {"whole": Shard(), "cut": FullShard(), "synced": FullShard(sync_batch_norm=True)}.items():
        write(trained(trainer(plain, made("classification", IMAGE), shard)), here / f"norm {name}")


def from_others(here: Path) -> dict[str, tuple[Experiment, Dataset]]:
    """What begins with weights of the two that were trained before: of a run, with its optimizer, or of a file."""
    optimizer, start = part("adam", lr=0.01), {"run": str(here / "before"), "optimizer": True}
    public = part("bert", size="tiny", weights=str(here / "bert.safetensors"), **TRANSFORMER)
    return {
        "from a run": (page(model=MLP, epochs=1, optimizer=optimizer, start=start), dataset()),
        "from a file": (page(model=public, epochs=1, optimizer=ROUNDING), texts("classification")),
    }


def refused(place: Path) -> None:
    said = []
    for model in ("test_fully_sharded:Scalar", "baseline", "test_fully_sharded:Outside"):
        try:
            trained(trainer(page(model=part(model)), dataset(), FullShard()))
        except PartError as error:
            said.append(str(error))
    place.write_text("\n".join(said))


class Scalar(Net):
    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.scale = nn.Parameter(torch.tensor(1.0))


class Outside(nn.Module):
    """Takes a weight of a layer without calling it."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        width = shapes.features
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, 1, 8, batch_first=True) for _ in range(2))
        self.head = nn.Linear(width, shapes.outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer.linear2.bias  # type: ignore[operator, union-attr]
        out: torch.Tensor = self.head(x)
        return out


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes left what they came to."""
    return by(2, tmp_path_factory.mktemp("together"))


def by(workers: int, folder: Path) -> Path:
    """Let so many processes train into a folder."""
    experiment, data = trainings()["mlp"]
    state.save(trained(trainer(experiment, data), 2).state(), folder / "half alone.state")
    with TrialRun(page(model=MLP, epochs=2), data, MACHINE, ACCURACY, TrialDir(folder / "before")) as before:
        before.epochs()
    bert = trained(trainer(*trainings()["bert"]))
    state.save(state.State(bert.best()), folder / "bert.safetensors")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes.spawn(one_of_several, (workers, port, str(folder)), nprocs=workers)  # type: ignore[no-untyped-call]
    return folder


@pytest.mark.slow
def test_five_processes_train_as_one(tmp_path: Path, one_thread: None) -> None:
    """Of weights with fewer rows than processes some have nothing, and of a small batch no row."""
    by(5, tmp_path)
    for name in trainings():
        test_a_network_that_is_cut_trains_as_a_whole_one_but_for_rounding(tmp_path, name, None)
    test_going_on_is_bitwise_the_training_that_never_stopped(tmp_path)
    test_it_goes_on_from_one_process_and_one_process_from_it(tmp_path, None)


@pytest.mark.parametrize("name", list(trainings()))
def test_a_network_that_is_cut_trains_as_a_whole_one_but_for_rounding(
    together: Path, name: str, one_thread: None
) -> None:
    experiment, data = trainings()[name]
    alone = trained(trainer(experiment, data))
    near = {"rel": 2e-2, "abs": 1e-2} if name == "bfloat16" else {"rel": 1e-4, "abs": 1e-5}
    told = [torch.load(together / f"{name}-{rank}.pt") for rank in range(2)]
    assert told[0]["epochs"] == told[1]["epochs"], "the processes went different ways"
    for mine, (metrics, norm) in zip(alone.history, told[0]["epochs"], strict=True):
        assert metrics == pytest.approx(mine.metrics, **near)
        assert norm == pytest.approx(mine.grad_norm, **near)
    ours, theirs = alone.state(), state.load(together / f"{name}.state")
    assert theirs.scalars.keys() == ours.scalars.keys()
    assert {n: t.shape for n, t in theirs.tensors.items()} == {n: t.shape for n, t in ours.tensors.items()}
    rtol, atol = (5e-2, 1e-2) if name == "bfloat16" else (1e-3, 1e-4)
    for tensor, expected in ours.tensors.items():
        torch.testing.assert_close(theirs.tensors[tensor], expected, rtol=rtol, atol=atol, msg=tensor)
    best = state.load(together / f"{name}.best").tensors
    assert best.keys() == alone.model.state_dict().keys()
    for tensor, expected in alone.best().items():
        torch.testing.assert_close(best[tensor], expected, rtol=rtol, atol=atol, msg=tensor)


@pytest.mark.parametrize("name", ["mlp", "resnet", "bert", "gpt"])
def test_each_process_keeps_half_of_weights_gradient_and_optimizer_state(together: Path, name: str) -> None:
    whole = numbers(trainer(*trainings()[name]))
    told = [torch.load(together / f"{name}-{rank}.pt") for rank in range(2)]
    for each in told:
        assert 0.5 <= each["numbers"] / whole < 0.53
    assert "blocks and the rest" in told[0]["cut"]


def test_going_on_is_bitwise_the_training_that_never_stopped(together: Path) -> None:
    unbroken = state.load(together / "mlp.state").tensors
    for name, tensor in state.load(together / "half and on.state").tensors.items():
        assert torch.equal(tensor, unbroken[name]), name


def test_it_goes_on_from_one_process_and_one_process_from_it(together: Path, one_thread: None) -> None:
    unbroken = state.load(together / "mlp.state").tensors
    alone = trainer(*trainings()["mlp"])
    alone.load_state(state.load(together / "half.state"))
    ways = {"one process": trained(alone).state(), "two": state.load(together / "half alone and on.state")}
    for way, found in ways.items():
        assert found.scalars["epoch"] == EPOCHS
        for name, tensor in found.tensors.items():
            torch.testing.assert_close(tensor, unbroken[name], rtol=1e-3, atol=1e-4, msg=f"{way}: {name}")


@pytest.mark.parametrize("name", ["from a run", "from a file"])
def test_it_begins_with_the_weights_of_others(together: Path, name: str, one_thread: None) -> None:
    alone = trained(trainer(*from_others(together)[name])).state().tensors
    for tensor, found in state.load(together / f"{name}.state").tensors.items():
        torch.testing.assert_close(found, alone[tensor], rtol=1e-3, atol=1e-4, msg=tensor)


def test_batch_norm_is_that_of_workers_with_whole_weights_and_synced_that_of_one(
    together: Path, one_thread: None
) -> None:
    one = trained(trainer(page(model=BATCH_NORM, epochs=2), made("classification", IMAGE))).best()
    whole = state.load(together / "norm whole.best").tensors
    for kind, expected in {"cut": whole, "synced": one}.items():
        for name, tensor in state.load(together / f"norm {kind}.best").tensors.items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=2e-3, msg=f"{kind}: {name}")


def test_what_cannot_be_cut_is_refused_in_a_sentence(together: Path) -> None:
    for rank in range(2):
        said = (together / f"refused-{rank}").read_text().splitlines()
        assert len(said) == 3
        assert "'scale' has none" in said[0]
        assert "fitted directly" in said[1]
        assert "call the layer" in said[2]


# ── how it is cut ───────────────────────────────────────────────────────────────────────────────────────


@given(some.lists(some.lists(some.integers(1, 7), min_size=1, max_size=3), min_size=1, max_size=5), some.integers(1, 5))
def test_pieces_are_those_of_torch_chunk_with_zeros_behind(shapes: list[list[int]], workers: int) -> None:
    layout = [(str(number), tuple(shape)) for number, shape in enumerate(shapes)]
    weights = [torch.randn(shape) for shape in shapes]
    for rank in range(workers):
        cut = Cut(layout, rank, workers)
        mine = cut.mine(weights)
        assert len(mine) == cut.size
        for weight, piece, start in zip(weights, cut.pieces, cut.starts, strict=True):
            chunks = torch.chunk(weight, workers)
            expected = chunks[rank].reshape(-1) if rank < len(chunks) else weight.new_zeros(0)
            assert torch.equal(mine[start : start + len(expected)], expected)
            assert not mine[start + len(expected) : start + piece].any()


@pytest.mark.parametrize(
    ("model", "keys", "data", "count", "kind"),
    [
        ("mlp", {"widths": (8, 8, 8)}, dataset(), 3, "Hidden"),
        ("resnet", {"depth": 14}, made("classification", IMAGE), 6, "Block"),
        ("bert", {"size": "tiny"}, texts("classification"), 2, "Layer"),
        ("gpt", {"size": "tiny"}, texts("language_modelling"), 4, "Layer"),
        ("vit", {"size": "micro", "depth": 3, "patch": 4}, made("classification", IMAGE), 3, "Block"),
    ],
)
def test_the_layers_that_a_network_repeats_are_its_blocks(
    model: str, keys: dict[str, Any], data: Dataset, count: int, kind: str
) -> None:
    found = blocks(tables.build("model", part(model, **keys), data.shapes))
    assert [type(each).__name__ for each in found] == [kind] * count


class Tied(nn.Module):
    """Two layers of three share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.ReLU()) for _ in range(2))
        self.inner = nn.Sequential(*(nn.TransformerEncoderLayer(4, 2, 8) for _ in range(3)))
        self.inner[0].linear1.weight = self.inner[2].linear1.weight


def test_a_layer_that_shares_a_weight_is_no_block_of_its_own() -> None:
    assert blocks(Tied()) == []


# ── the page ────────────────────────────────────────────────────────────────────────────────────────────

PAGE: dict[str, Any] = {
    "data": {"source": {"type": "sklearn", "name": "iris"}},
    "model": {"type": "mlp"},
    "resources": {"workers": 2, "fsdp": True},
}


class Whole(tables.load("nnopt_ray.train.optimizers:Optimizer")):  # type: ignore[misc]
    """Looks at all weights."""

    def __init__(self, *, lr: float = 0.1) -> None:
        self.lr = lr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"resources.workers": 1}, "resources.fsdp: it cuts a network over the workers of a training, and there is 1"),
        ({"resources.gpus_per_worker": 0.5}, "resources.gpus_per_worker: the pieces of a network"),
        ({"train.compile": True}, "train.compile: what resources.fsdp does"),
        ({"train.precision": "float16"}, "train.precision: a network that resources.fsdp cuts has no loss scale"),
        (
            {"train.optimizer.type": "test_fully_sharded:Whole"},
            "train.optimizer: test_fully_sharded:Whole looks at whole",
        ),
        (
            {"train.optimizer.lr": {"log": [1e-3, 0.1]}, "search.trials": 3},
            "resources.fsdp: a search trains its trials",
        ),
        ({"evaluate.folds": 3}, "resources.fsdp: a cross-validation trains its folds with whole weights"),
        ({"evaluate.sizes": "auto"}, "evaluate.sizes: it trains the network by one process"),
        ({"model": "baseline"}, "model: baseline is fitted as a whole"),
    ],
)
def test_what_does_not_go_with_it_is_told_before_it_starts(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(PAGE))
    reading.load(tmp_path / "page.yaml")
    reading.load(tmp_path / "page.yaml", set={"resources.workers": [1, 4], "resources.gpus_per_worker": 1})
    with pytest.raises(PageError, match=said):
        reading.load(tmp_path / "page.yaml", set=changes)
