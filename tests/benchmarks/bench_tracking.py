"""What it costs to be told on: a single training and a search of small networks, with each tracker and with none.

python tests/benchmarks/bench_tracking.py [--rounds 5] [--long]

Whole commands in turn, each in a process of its own, so that the import of a tracker's library counts too. Quoted are
the seconds of training (result.json) and of the whole command. --long: a training that the import is small beside.
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

PAGE = """
name: tracked
data:
  source: {type: sklearn, name: digits}
  steps: [{type: scale, method: minmax}]
model: {type: mlp, widths: WIDTHS}
train: {epochs: EPOCHS, batch_size: 64, optimizer: {type: adam, lr: LR}}
search: {method: random, trials: 64}
tracking: TRACKERS
"""
PAGES = {
    "single training, 200 epochs": {"WIDTHS": "[256, 256]", "EPOCHS": "200", "LR": "0.001"},
    "search, 64 trials of 10 epochs": {"WIDTHS": "[64]", "EPOCHS": "10", "LR": "{log: [1e-4, 1e-1]}"},
}
LONG = {"single training, 1,500 epochs": {**PAGES["single training, 200 epochs"], "EPOCHS": "1500"}}
TRACKERS = ("none", "tensorboard", "mlflow", "wandb")


def once(page: str, folder: Path) -> tuple[float, float]:
    """Seconds of training and of the whole command."""
    (folder / "page.yaml").write_text(page)
    command = [sys.executable, "-m", "nnopt_ray", "run", "page.yaml", "--json"]
    environment = {**os.environ, "NNOPT_CACHE": str(folder.parent / "cache")}
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    if "tracking:" in done.stderr:
        print("    ", next(line for line in done.stderr.splitlines() if "tracking:" in line))
    return float(json.loads(done.stdout)["seconds"]), taken


def main() -> None:
    rounds = int(sys.argv[sys.argv.index("--rounds") + 1]) if "--rounds" in sys.argv else 5
    for name, values in (LONG if "--long" in sys.argv else PAGES).items():
        taken: dict[str, list[tuple[float, float]]] = {tracker: [] for tracker in TRACKERS}
        with tempfile.TemporaryDirectory() as place:
            for turn in range(rounds + 1):
                for tracker in TRACKERS:
                    page = PAGE.replace("TRACKERS", "[]" if tracker == "none" else f"[{tracker}]")
                    for key, value in values.items():
                        page = page.replace(key, value)
                    folder = Path(place) / f"{tracker}-{turn}"
                    folder.mkdir()
                    found = once(page, folder)
                    if turn:  # the first fills the caches of data and files
                        taken[tracker].append(found)
        print(f"{name} (medians of {rounds}, load {os.getloadavg()[0]:.1f})")
        base = [statistics.median(one) for one in zip(*taken["none"], strict=True)]
        for tracker in TRACKERS:
            training, whole = (statistics.median(one) for one in zip(*taken[tracker], strict=True))
            more = f"{100 * (training / base[0] - 1):+.1f} % and {whole - base[1]:+.2f} s" if tracker != "none" else ""
            print(f"    {tracker:<12} {training:6.2f} s training  {whole:6.2f} s whole command  {more}")


if __name__ == "__main__":
    main()
