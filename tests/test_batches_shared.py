"""Large arrays of the training part are one copy for all processes of a machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nnopt_ray.data.types import Rows
from nnopt_ray.train import batches

READER = """
import re, sys
import numpy as np
from nnopt_ray.data.types import Rows
from nnopt_ray.train import batches
x, y = np.load(sys.argv[1], mmap_mode="r"), np.load(sys.argv[2], mmap_mode="r")
part = batches._part(Rows((x,), y, np.arange(len(y))), "cpu", fits=True)
part.inputs[0].sum()
print("read", flush=True)
sys.stdin.readline()
text = open("/proc/self/smaps").read()
block = text[text.rindex("x.npy"):]
private = sum(int(kb) for kb in re.findall(r"Private_(?:Clean|Dirty): +(\\d+) kB", block.split("VmFlags")[0]))
print(private)
"""


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, Path]:
    random = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", random.normal(size=(70_000, 64)).astype(np.float32))
    np.save(tmp_path / "y.npy", random.integers(0, 3, 70_000))
    return tmp_path / "x.npy", tmp_path / "y.npy"


def part_of(stored: tuple[Path, Path]) -> batches.Part:
    x, y = (np.load(place, mmap_mode="r") for place in stored)
    return batches._part(Rows((x,), y, np.arange(len(y))), "cpu", fits=True)


def test_the_tensors_are_the_arrays_also_of_a_slice(stored: tuple[Path, Path]) -> None:
    part = part_of(stored)
    np.testing.assert_array_equal(part.inputs[0].numpy(), np.load(stored[0]))
    assert part.target is not None
    np.testing.assert_array_equal(part.target.numpy(), np.load(stored[1]))
    x = np.load(stored[0], mmap_mode="r")[:, :]
    for given in (x, x[1:], x[::2], np.asarray(x)):
        np.testing.assert_array_equal(batches._resident(given, "cpu").numpy(), np.asarray(given))


def test_what_a_training_writes_into_its_rows_reaches_no_file(stored: tuple[Path, Path]) -> None:
    part = part_of(stored)
    before = stored[0].read_bytes()
    part.inputs[0].zero_()
    assert stored[0].read_bytes() == before
    assert float(part_of(stored).inputs[0].abs().sum()) > 0
    assert torch.equal(part.inputs[0], torch.zeros_like(part.inputs[0]))


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="the kernel tells who shares memory there")
def test_two_processes_hold_one_copy(stored: tuple[Path, Path]) -> None:
    words = [sys.executable, "-c", READER, *map(str, stored)]
    readers = [subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "read\n"
    out, _ = readers[0].communicate("go\n", timeout=60)
    assert int(out) < 1024  # KiB of its own, of 17,500
    readers[1].communicate("go\n", timeout=60)
