"""A network that keeps a core busy by itself: a CNN on digits scaled up to 28x28, a model that the page brings.

nnopt on all cores, against as many processes with the plain loop, which share out the trials beforehand. Compared are
epochs a second while training: nnopt's from the journal, from the first result to the last; the plain loops' from the
first epoch's end to the last's.

    python tests/benchmarks/bench_compute.py            # 3 rounds, interleaved
    python tests/benchmarks/bench_compute.py --quick    # 1 round of a third of the epochs
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from contest import NNOPT, QUICK, command_s, environment, journal, machine, median

CORES = os.cpu_count() or 1
TRIALS, EPOCHS = 4 * CORES, 4 if QUICK else 12

NET = '''
from torch import nn

class CNN(nn.Sequential):
    """Two convolutions of 16 and 32 channels and a hidden layer."""

    def __init__(self, shapes):
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, shapes.outputs),
        )
'''

PAGE = f"""
name: compute
data:
  source: {{type: numpy, path: large.npz}}
model: {{type: "net:CNN"}}
train:
  epochs: {EPOCHS}
  batch_size: 64
  optimizer: {{type: adam, lr: {{log: [1e-4, 1e-2]}}}}
search: {{method: random, trials: {TRIALS}}}
"""

PLAIN = f"""
import json, sys, time
from types import SimpleNamespace
import numpy as np, torch
from torch import nn
from net import CNN

torch.set_num_threads(1)
arrays = np.load("digits.npz")
x, y, xv, yv = (torch.tensor(arrays[name]) for name in ("x", "y", "xv", "yv"))
ends = []
for number in range(int(sys.argv[1]), {TRIALS}, {CORES}):
    model = CNN(SimpleNamespace(outputs=10))
    optimizer = torch.optim.Adam(model.parameters(), lr=10 ** np.random.uniform(-4, -2))
    for _ in range({EPOCHS}):
        model.train()
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            out = model(xv)
            nn.functional.cross_entropy(out, yv).item(), (out.argmax(1) == yv).float().mean().item()
        ends.append(time.time())
print(json.dumps(ends))
"""


def data(folder: Path) -> None:
    import numpy as np
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (found.images / 16).astype(np.float32)
    large = np.pad(images.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))  # 28x28
    np.savez(folder / "large.npz", x=large[:, None], y=found.target)


def rate(ends: list[float]) -> float:
    """Epochs a second between the first that ended and the last."""
    assert len(ends) == TRIALS * EPOCHS, f"{len(ends)} epochs of {TRIALS * EPOCHS}"
    return (len(ends) - 1) / (max(ends) - min(ends))


def ours(folder: Path) -> float:
    command_s([*NNOPT, "run", "page.yaml"], folder)
    run = max((folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    events = journal(run)
    assert sum(event["event"] == "ended" and event["status"] == "finished" for event in events) == TRIALS
    return rate([event["t"] for event in events if event["event"] == "result"])


def theirs(folder: Path) -> float:
    loops = [
        subprocess.Popen(
            [sys.executable, "plain.py", str(number)], cwd=folder, env=environment(folder), stdout=subprocess.PIPE
        )
        for number in range(CORES)
    ]
    outputs = [loop.communicate()[0] for loop in loops]
    assert all(loop.returncode == 0 for loop in loops)
    return rate([end for output in outputs for end in json.loads(output)])


def prepared(folder: Path) -> None:
    """The rows that nnopt trains on, for the plain loops."""
    import numpy as np

    command_s([*NNOPT, "run", "page.yaml", "--set", "search.trials=1", "--set", "train.epochs=1"], folder)
    found = next((folder / "runs").iterdir()) / "data"
    names = {"x": "train.image", "y": "train.target", "xv": "validation.image", "yv": "validation.target"}
    np.savez(folder / "digits.npz", **{name: np.load(found / f"{file}.npy") for name, file in names.items()})


def main() -> None:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in (("net.py", NET), ("page.yaml", PAGE), ("plain.py", PLAIN)):
            (folder / file).write_text(text)
        data(folder)
        prepared(folder)
        rates: dict[str, list[float]] = {"nnopt": [], f"{CORES} plain loops": []}
        for _ in range(1 if QUICK else 3):
            for contestant, go in zip(rates, (ours, theirs), strict=True):
                rates[contestant].append(go(folder))
    print(f"28x28 CNN, {TRIALS} trials of {EPOCHS} epochs, one thread each; {machine()}")
    base = median(rates[f"{CORES} plain loops"])
    for contestant, found in rates.items():
        each = ", ".join(f"{one:.2f}" for one in found)
        print(f"    {contestant:<28} {median(found):8.2f} epochs/s  {median(found) / base:5.2f} x plain   ({each})")
    print(f"  ({time.perf_counter() - began:.0f} s)")


if __name__ == "__main__":
    main()
