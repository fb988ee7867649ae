"""Rows a second of training from a memory map with read-ahead, beside the same training from memory, alternating.

python tests/benchmarks/bench_read_ahead.py            # 5 rounds
python tests/benchmarks/bench_read_ahead.py --quick    # 1
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from contest import QUICK, machine, median
from torch import nn

from nnopt_ray.data.types import Rows
from nnopt_ray.train.batches import Part, batch_sizes

ROWS, COLUMNS, BATCH = 400_000, 40, 256


def epoch(part: Part, widths: int) -> float:
    """Seconds of an epoch of plain SGD."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(COLUMNS, widths), nn.ReLU(), nn.Linear(widths, 2))
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    began = time.perf_counter()
    for (x,), y in part.batches(batch_sizes(ROWS, BATCH), order):
        loss = nn.functional.cross_entropy(model(x), y)
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.01 * weight.grad
    return time.perf_counter() - began


def main() -> None:
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(ROWS, COLUMNS)).astype(np.float32), random.integers(0, 2, ROWS)
    print(f"read-ahead, {ROWS:,} rows of {COLUMNS} columns in batches of {BATCH}; {machine()}")
    with tempfile.TemporaryDirectory() as folder:
        for name, array in (("x", x), ("y", y)):
            np.save(Path(folder) / name, array)
        mapped = Rows(
            (np.load(Path(folder) / "x.npy", mmap_mode="r"),),
            np.load(Path(folder) / "y.npy", mmap_mode="r"),
            np.arange(ROWS),
        )
        parts = {
            "memory": Part(ROWS, "cpu", (torch.from_numpy(x),), torch.from_numpy(y)),
            "memory map": Part(ROWS, "cpu", mapped=mapped),
        }
        for widths in (64, 256):
            taken: dict[str, list[float]] = {name: [] for name in parts}
            for _ in range(1 if QUICK else 5):
                for name, part in parts.items():
                    taken[name].append(epoch(part, widths))
            seconds = {name: median(times) for name, times in taken.items()}
            ratio = seconds["memory"] / seconds["memory map"]
            told = ", ".join(f"{name} {ROWS / each:,.0f} rows/s" for name, each in seconds.items())
            print(f"    {widths} units: {told}; throughput {ratio:.2f} of that from memory")


if __name__ == "__main__":
    main()
