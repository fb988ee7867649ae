"""Batches read ahead by a thread: the same ones in the same order, its errors here, and no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from train_example import MACHINE, Exploding, dataset, page, part

from nnopt_ray.data.types import Rows
from nnopt_ray.errors import NotANumber
from nnopt_ray.train import batches
from nnopt_ray.train.batches import Part
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.read_ahead import AHEAD, read_ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("nnopt-read-ahead")]


@pytest.fixture(autouse=True)
def _none_left() -> Iterator[None]:
    yield
    assert not threads()


def test_everything_comes_once_and_in_order() -> None:
    assert list(read_ahead(iter(range(1000)))) == list(range(1000))
    assert list(read_ahead(iter(()))) == []


def test_no_more_than_the_bound_waits() -> None:
    made: list[int] = []

    def slow() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    ahead = read_ahead(slow())
    assert next(ahead) == 0
    time.sleep(0.1)
    assert 1 < len(made) <= AHEAD + 2  # those that wait, and the one in hand
    assert list(ahead) == list(range(1, 100))


def test_an_error_comes_at_its_place() -> None:
    def broken() -> Iterator[int]:
        yield from range(3)
        raise OSError("the disk is gone")

    ahead = read_ahead(broken())
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_consumer_that_breaks_off_ends_the_thread(error: type[BaseException]) -> None:
    ahead = read_ahead(iter(range(10**9)))

    def consume() -> None:
        for number in ahead:
            if number == 5:
                assert threads()
                raise error

    with pytest.raises(error):
        consume()
    ahead.close()  # type: ignore[attr-defined]
    dropped = read_ahead(iter(range(10**9)))
    next(dropped)
    del dropped


@pytest.mark.parametrize("ordered", [True, False])
def test_a_memory_map_gives_the_batches_of_memory(tmp_path: Path, ordered: bool) -> None:
    random = np.random.default_rng(0)
    given = {"table": random.normal(size=(503, 7)).astype(np.float32), "codes": random.integers(0, 9, (503, 2))}
    target = random.integers(0, 3, 503)
    for name, array in (*given.items(), ("target", target)):
        np.save(tmp_path / f"{name}.npy", array)
    x, codes, y = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in (*given, "target"))
    mapped = Part(503, "cpu", mapped=Rows((x, codes), y, np.arange(503)))
    resident = Part(503, "cpu", tuple(map(torch.from_numpy, given.values())), torch.from_numpy(target))
    order = torch.randperm(503, generator=torch.Generator().manual_seed(1)) if ordered else None
    sizes = batches.batch_sizes(503, 64)
    for (ours, y), (theirs, expected) in zip(mapped.batches(sizes, order), resident.batches(sizes, order), strict=True):
        assert torch.equal(y, expected)
        for one, other in zip(ours, theirs, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)


def test_a_training_that_breaks_off_leaves_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "RESIDENT_BYTES", 0)
    trainer = Trainer(page(epochs=3, batch_size=2, model=part("train_example:Exploding")), dataset(), MACHINE, {})
    assert isinstance(trainer.model, Exploding)
    with pytest.raises(NotANumber):
        trainer.run_epoch()


def test_a_resumed_training_is_bitwise_when_memory_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "RESIDENT_BYTES", 0)
    whole = Trainer(page(epochs=4), dataset(), MACHINE, {})
    for _ in range(4):
        whole.run_epoch()
    first = Trainer(page(epochs=4), dataset(), MACHINE, {})
    for _ in range(2):
        first.run_epoch()
    second = Trainer(page(epochs=4), dataset(), MACHINE, {})
    second.load_state(first.state())
    for _ in range(2):
        second.run_epoch()
    assert whole.placed.decided.startswith("memory-mapped")
    assert torch.equal(whole.weights.flat, second.weights.flat)
