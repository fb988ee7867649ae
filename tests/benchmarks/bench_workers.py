"""Steps a second of two workers on one network, against a script written by hand for torch's DistributedDataParallel.

    python tests/benchmarks/bench_workers.py            # 3 rounds
    python tests/benchmarks/bench_workers.py --quick    # 1, of fewer epochs
    python tests/benchmarks/bench_workers.py --paired   # only what is by turns in the same processes; no Ray

The script is what torch's documentation of DDP leads to, with the rows in memory, and is started by torchrun. It
validates after each epoch as nnopt does, each process on its half, and gives convolutions their images with the
channels last in memory, as nnopt does; it records no gradient norm, and writes no history and no checkpoints. Both
train the same network with batches of one size and one thread a process. Each round trains each once, in turn; the
figures are medians over rounds of the steps a second from the second epoch on, of nnopt by the seconds in its history.
As others may use the machine, and a run is then not as fast as the next, both are also trained in the same two
processes, an epoch of each by turns. The lines of one worker show what the second one brings: on two cores that others
use too, less than on two of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from contest import NNOPT, QUICK, command_s, machine, median

# Both sides import the network from here.
NETWORKS = """
from torch import nn

class Small(nn.Sequential):
    def __init__(self, shapes=None):
        super().__init__(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

class Wide(nn.Sequential):
    def __init__(self, shapes=None):
        super().__init__(nn.Flatten(), nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(),
                         nn.Linear(2048, 10))

class Convolutions(nn.Sequential):
    def __init__(self, shapes=None):
        super().__init__(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1),
                         nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1568, 128), nn.ReLU(), nn.Linear(128, 10))
"""

BY_HAND = """
import json, os, sys, time
import numpy as np, torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import networks

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, workers = dist.get_rank(), dist.get_world_size()
epochs, batch = int(sys.argv[2]), int(sys.argv[3])
arrays = np.load(os.environ["ROWS"])
x, y, xv, yv = (torch.tensor(arrays[name]) for name in ("x", "y", "xv", "yv"))
xv, yv = (each.tensor_split(workers)[rank].split(1024) for each in (xv, yv))
torch.manual_seed(0)
model = getattr(networks, sys.argv[1])()
images = any(isinstance(layer, nn.Conv2d) for layer in model)
model = DistributedDataParallel(model)
optimizer = torch.optim.Adam(model.parameters())

def epoch(number):
    began = time.perf_counter()
    model.train()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(number))
    for rows in order.split(batch):
        mine = rows.tensor_split(workers)[rank]
        inputs = x[mine].to(memory_format=torch.channels_last) if images else x[mine]
        loss = nn.functional.cross_entropy(model(inputs), y[mine])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        told = torch.zeros(2)
        for inputs, target in zip(xv, yv):
            out = model.module(inputs)
            told += torch.stack([nn.functional.cross_entropy(out, target, reduction="sum"),
                                 (out.argmax(1) == target).sum()])
        dist.all_reduce(told)
        told.tolist()
    return time.perf_counter() - began

def tell(seconds):
    if rank == 0:
        print(json.dumps(seconds), flush=True)
    dist.barrier()
    os._exit(0)  # gloo's threads may abort a process that ends while the other still talks; the end is not timed

if __name__ == "__main__":
    tell([epoch(number) for number in range(epochs)])
"""

# Both in the same processes, an epoch of each in turn.
PAIRED = """
from pathlib import Path
from by_hand import dist, epoch, epochs, tell
from nnopt_ray import assembly, reading
from nnopt_ray.train.loop import Trainer
from nnopt_ray.train.sharding import Shard

page = reading.load(Path("page.yaml"), set={"train.epochs": epochs})
data = assembly.data_of(page)
trainer = Trainer(page, data, assembly.machine_for(page), assembly.metrics_for(page, data), shard=Shard())
seconds = []
for number in range(epochs):
    dist.barrier()
    by_hand = epoch(number)
    dist.barrier()
    seconds.append((by_hand, trainer.run_epoch().seconds))
tell(seconds)
"""

DIGITS = {"source": {"type": "sklearn", "name": "digits"}, "steps": [{"type": "scale", "method": "minmax"}]}
NOISE = {"source": {"type": "numpy", "path": "noise.npz"}}
CONTESTS: dict[str, dict[str, Any]] = {  # name → network, data, rows a batch, epochs
    "digits, MLP 64-64-64-10": {"network": "Small", "data": DIGITS, "batch": 64, "epochs": 60},
    "28x28, two convolutions": {"network": "Convolutions", "data": NOISE, "batch": 128, "epochs": 6},
    "28x28, MLP 784-2048-2048-10": {"network": "Wide", "data": NOISE, "batch": 256, "epochs": 4},
}
ROWS = 6000


def page(contest: dict[str, Any], workers: int) -> str:
    return json.dumps(
        {
            "name": f"workers-{workers}",
            "data": contest["data"],
            "model": {"type": f"networks:{contest['network']}"},
            "train": {
                "epochs": contest["epochs"],
                "batch_size": contest["batch"],
                "optimizer": {"type": "adam", "lr": 0.001},
                "checkpoint": {"every": 1000},
            },
            "evaluate": {"bootstrap": 0},
            "resources": {"workers": workers},
        }
    )


def ours(folder: Path, contest: dict[str, Any], workers: int) -> list[float]:
    """Seconds of each epoch, as the history has them."""
    (folder / "page.yaml").write_text(page(contest, workers))
    command_s([*NNOPT, "run", "page.yaml"], folder)
    run = newest(folder)
    history = (run / "trials" / "0001" / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["seconds"] for line in history]


def newest(folder: Path) -> Path:
    return max((folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def by_hand(folder: Path, contest: dict[str, Any], workers: int, script: str = "by_hand.py") -> list[Any]:
    """Seconds of each epoch; of the paired script, by hand and of nnopt."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(workers), "--master-port", str(port)]
    words = [contest["network"], str(contest["epochs"]), str(contest["batch"])]
    _, told = command_s([sys.executable, *launch, script, *words], folder)
    seconds: list[Any] = json.loads(told.strip().splitlines()[-1])
    return seconds


def paired(folder: Path, contest: dict[str, Any]) -> str:
    """Both in the same processes by turns: what others do to the machine they do to both."""
    (folder / "page.yaml").write_text(page(contest, 1))
    contest = {**contest, "epochs": 3 * contest["epochs"]}
    took = [list(each) for each in zip(*by_hand(folder, contest, 2, "paired.py")[2:], strict=True)]
    return f"{median(took[0]) / median(took[1]):.2f} x by hand (fastest epochs {min(took[0]) / min(took[1]):.2f} x)"


def noise(folder: Path) -> None:
    import numpy as np

    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 1, 28, 28)).astype(np.float32)
    np.savez(folder / "noise.npz", x=x, y=random.integers(0, 10, ROWS))


def rows_of(run: Path, place: Path) -> int:
    """Hand on the rows that a run was trained on → how many."""
    import numpy as np

    (inputs,) = [
        file.stem.partition(".")[2]
        for file in (run / "data").glob("train.*.npy")
        if "target" not in file.stem and "rows" not in file.stem
    ]
    names = {"x": f"train.{inputs}", "y": "train.target", "xv": f"validation.{inputs}", "yv": "validation.target"}
    arrays = {name: np.load(run / "data" / f"{file}.npy") for name, file in names.items()}
    np.savez(place, **arrays)
    return len(arrays["x"])


def contest_of(name: str, contest: dict[str, Any], folder: Path, rounds: int) -> None:
    os.environ["ROWS"] = str(folder / "rows.npz")
    contest = {**contest, "epochs": max(3, contest["epochs"] // (3 if QUICK else 1))}
    ours(folder, {**contest, "epochs": 1}, 1)  # prepares the rows
    steps = -(-rows_of(newest(folder), folder / "rows.npz") // contest["batch"])
    by_turns = f"an epoch of each by turns, in the same two processes without Ray: nnopt {paired(folder, contest)}"
    if "--paired" in sys.argv:
        print(f"  {name}, batch {contest['batch']}: {by_turns}", flush=True)
        return
    runs = {
        "by hand, 2 processes": lambda: by_hand(folder, contest, 2),
        "nnopt, 2 workers": lambda: ours(folder, contest, 2),
        "by hand, 1 process": lambda: by_hand(folder, contest, 1),
        "nnopt, 1 worker": lambda: ours(folder, contest, 1),
    }
    rates: dict[str, list[float]] = {run: [] for run in runs}
    for _ in range(rounds):
        for run, go in runs.items():
            rates[run].append(steps / median(go()[1:]))
            shutil.rmtree(folder / "runs", ignore_errors=True)
    print(f"  {name}, batch {contest['batch']}, {steps} steps an epoch, {contest['epochs']} epochs, {rounds} rounds")
    for run, each in rates.items():
        base = median(rates[f"by hand, {'2 processes' if '2' in run else '1 process'}"])
        told = ", ".join(f"{one:.0f}" for one in each)
        print(f"    {run:<22} {median(each):8.1f} steps/s  {median(each) / base:5.2f} x by hand   ({told})", flush=True)
    print(f"    {by_turns}")
    print(f"    two workers: {median(rates['nnopt, 2 workers']) / median(rates['nnopt, 1 worker']):.2f} x one")


def main() -> None:
    asked = [word for word in sys.argv[1:] if not word.startswith("--")]
    print(f"two workers of nnopt and torchrun with DDP by hand; {machine()}")
    for name, contest in CONTESTS.items():
        if asked and not any(word in name for word in asked):
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / "networks.py").write_text(NETWORKS)
            (folder / "by_hand.py").write_text(BY_HAND)
            (folder / "paired.py").write_text(PAIRED)
            noise(folder)
            contest_of(name, contest, folder, 1 if QUICK else 3)


if __name__ == "__main__":
    main()
