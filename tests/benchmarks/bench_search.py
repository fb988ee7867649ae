"""A sweep of small networks: nnopt against Ray Tune, each as its own documentation would write it.

64 configurations of a digits MLP, 10 epochs each, on all cores of this machine, one thread a trial.
Ray Tune runs with its defaults (a function trainable) and with a class trainable whose actors are
reused. Each contestant is a process of its own, timed from the command to its end, start-up included.

    python tests/benchmarks/bench_search.py            # all three, interleaved, medians
    python tests/benchmarks/bench_search.py --quick    # without Tune's defaults, which take minutes
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRIALS, EPOCHS = 64, 10
LIMIT_S = 900  # of one command: a contestant that hangs is named, not waited for

PAGE = f"""
name: bench
seed: 1
data:
  source: {{type: sklearn, name: digits}}
  steps: [{{type: scale, method: minmax}}]
model: {{type: mlp, widths: [64], dropout: 0.0}}
train:
  epochs: {EPOCHS}
  batch_size: 64
  optimizer: {{type: adam, lr: {{log: [1e-4, 1e-1]}}}}
search: {{method: random, trials: {TRIALS}}}
"""

COMMON = (
    f"TRIALS, EPOCHS = {TRIALS}, {EPOCHS}\n"
    + """
import os, json, time
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import numpy as np, torch, ray
from ray import tune
from sklearn.datasets import load_digits
from torch import nn

def data():
    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, val = order[:1168], order[1168:1437]
    return x[train], y[train], x[val], y[val]

def network():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

def epoch(model, optimizer, x, y, xv, yv):
    model.train()
    for rows in torch.randperm(len(x)).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        out = model(xv)
        return dict(val_loss=nn.functional.cross_entropy(out, yv).item(),
                    val_accuracy=(out.argmax(1) == yv).float().mean().item())

SPACE = {"lr": tune.loguniform(1e-4, 1e-1)}

def finished(results):  # a counterpart whose trials fail is no counterpart
    assert results.num_errors == 0 and len(results) == TRIALS, results.errors[:1]
    assert all(one.metrics["training_iteration"] == EPOCHS for one in results)
    print(results.get_best_result().metrics["val_loss"])
"""
)

DEFAULTS = (
    COMMON
    + f"""
def train(config):
    torch.set_num_threads(1)
    x, y, xv, yv = data()
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    for _ in range({EPOCHS}):
        tune.report(epoch(model, optimizer, x, y, xv, yv))

tuner = tune.Tuner(train, param_space=SPACE,
    tune_config=tune.TuneConfig(metric="val_loss", mode="min", num_samples={TRIALS}),
    run_config=tune.RunConfig(verbose=0))
finished(tuner.fit())
"""
)

REUSED = (
    COMMON
    + f"""
class Train(tune.Trainable):
    def setup(self, config):
        torch.set_num_threads(1)
        self.data = data()
        self.reset_config(config)
    def reset_config(self, config):
        self.model = network()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config["lr"])
        return True
    def step(self):
        return epoch(self.model, self.optimizer, *self.data)
    def save_checkpoint(self, folder):
        torch.save((self.model.state_dict(), self.optimizer.state_dict()), os.path.join(folder, "state.pt"))
    def load_checkpoint(self, folder):
        model, optimizer = torch.load(os.path.join(folder, "state.pt"))
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)

tuner = tune.Tuner(Train, param_space=SPACE,
    tune_config=tune.TuneConfig(metric="val_loss", mode="min", num_samples={TRIALS}, reuse_actors=True),
    run_config=tune.RunConfig(verbose=0, stop={{"training_iteration": {EPOCHS}}}))
finished(tuner.fit())
"""
)


def seconds(command: list[str], folder: Path) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AIR_NEW_OUTPUT": "0", "HOME": str(folder)}
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - began


def main() -> None:
    quick = "--quick" in sys.argv
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in (("page.yaml", PAGE), ("defaults.py", DEFAULTS), ("reused.py", REUSED)):
            (folder / file).write_text(text)
        contestants = {
            "nnopt": [sys.executable, "-m", "nnopt_ray", "run", "page.yaml"],
            "tune, reused actors": [sys.executable, "reused.py"],
        }
        times: dict[str, list[float]] = {contestant: [] for contestant in contestants}
        seconds(contestants["nnopt"], folder)  # fills the data cache, as any second run finds it
        for _ in range(3):
            for contestant, command in contestants.items():
                times[contestant].append(seconds(command, folder))
        if not quick:
            times["tune, defaults"] = [seconds([sys.executable, "defaults.py"], folder)]
        ours = statistics.median(times["nnopt"])
        result = json.loads(max(folder.glob("runs/*/result.json")).read_text())
    print(f"digits MLP, {TRIALS} trials of {EPOCHS} epochs, whole command, {os.cpu_count()} cores")
    search_s = result["decided"]["search_s"]
    print(f"  (nnopt also evaluates on the test part and writes a report; its search alone took {search_s} s)")
    for contestant, took in times.items():
        median = statistics.median(took)
        each = ", ".join(f"{one:.1f}" for one in took)
        print(f"  {contestant:<22} {median:7.1f} s   {median / ours:5.1f} x nnopt   ({each})")


if __name__ == "__main__":
    main()
