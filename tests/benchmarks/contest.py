"""What the benchmarks share: commands timed in turn, the digits as every contestant gets them, the counterparts' text.

The counterparts are scripts as the documentation of their library writes them, each a process of its own. A script
ends with a line of JSON: the seconds of its search alone (in the process, after its imports) and its best loss.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LIMIT_S = 900  # of one command: a contestant that hangs is named, not waited for
QUICK = "--quick" in sys.argv
NNOPT = [sys.executable, "-m", "nnopt_ray"]

# The data set and network of every contestant; DIGITS is a file with the rows that nnopt prepared.
PLAIN = """
import json, os, time
import numpy as np, torch
from torch import nn

def data():
    arrays = np.load(os.environ["DIGITS"])
    return [torch.tensor(arrays[name]) for name in ("x", "y", "xv", "yv")]

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

def told(began, loss, epochs):
    print(json.dumps(dict(search_s=time.perf_counter() - began, loss=loss, epochs=epochs)))
"""

TUNE = f"""{PLAIN}
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
from ray import tune

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

SPACE = {{"lr": tune.loguniform(1e-4, 1e-1)}}
"""


def machine() -> str:
    model = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.processor()
    )
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({model or platform.machine()}), Python {platform.python_version()}, load {load:.1f}"
    )


def _cpuinfo() -> list[str]:
    place = Path("/proc/cpuinfo")
    return place.read_text().splitlines() if place.is_file() else []


def environment(folder: Path) -> dict[str, str]:
    own = {"OMP_NUM_THREADS": "1", "RAY_AIR_NEW_OUTPUT": "0", "DIGITS": str(folder / "digits.npz")}
    return {**os.environ, **own, "HOME": str(folder)}


def command_s(command: list[str], folder: Path) -> tuple[float, str]:
    """Seconds of a command from its start to its end, and its standard output. Ends the benchmark when it fails."""
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return time.perf_counter() - began, done.stdout


def counterpart(script: str, *words: str) -> list[str]:
    return [sys.executable, script, *words]


def nnopt_told(folder: Path, trials: int) -> dict[str, Any]:
    """Of the newest run: seconds of the search by its journal, its best loss, epochs trained in all."""
    run = max((folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    events = journal(run)
    ended = [event for event in events if event["event"] == "ended"]
    assert len(ended) == trials, f"{len(ended)} of {trials} trials ended"
    assert {event["status"] for event in ended} <= {"finished", "stopped"}, "trials failed"
    return {
        "search_s": events[-1]["t"] - events[0]["t"],
        "loss": min(event["value"] for event in ended),
        "epochs": sum(event["epochs"] for event in ended),
        "decided": json.loads((run / "result.json").read_text())["decided"],
    }


def journal(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal; a writer that is at work may leave half a last one."""
    lines = (run / "journal.jsonl").read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def digits(folder: Path) -> None:
    """The rows that the newest run was trained on, for the counterparts."""
    import numpy as np

    data = max((folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns) / "data"
    places = {"x": "train.image", "y": "train.target", "xv": "validation.image", "yv": "validation.target"}
    arrays = {name: np.load(data / f"{place}.npy") for name, place in places.items()}
    flat = {name: array.reshape(len(array), -1) if name.startswith("x") else array for name, array in arrays.items()}
    np.savez(folder / "digits.npz", **flat)


def median(values: list[float]) -> float:
    return statistics.median(values)


def table(taken: dict[str, list[float]], base: str, title: str) -> None:
    """A line each: median seconds, times the base's, all of them."""
    print(f"  {title}")
    ours = median(taken[base])
    for contestant, took in taken.items():
        each = ", ".join(f"{one:.2f}" for one in took)
        print(f"    {contestant:<28} {median(took):8.2f} s  {median(took) / ours:6.2f} x {base}   ({each})")
