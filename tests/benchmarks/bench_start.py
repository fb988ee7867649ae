"""From the shell prompt: seconds until `check` answers, until the first epoch is trained, until the report is there.

python tests/benchmarks/bench_start.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAGE = """
name: start
data:
  source: {type: sklearn, name: digits}
  steps: [{type: scale, method: minmax}]
model: {type: mlp, widths: [64]}
train: {epochs: 5, optimizer: {type: adam, lr: LR}}
search: {method: random, trials: 4}
"""


def lines_until(command: list[str], folder: Path, marks: dict[str, str]) -> dict[str, float]:
    """Seconds until a line that starts with each mark was printed, and until the end."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    began = time.perf_counter()
    found: dict[str, float] = {}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            for name, mark in marks.items():
                if name not in found and line.startswith(mark):
                    found[name] = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{command} failed")
    found["finished, with report"] = time.perf_counter() - began
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "single.yaml").write_text(
            PAGE.replace("LR", "0.01").replace("search: {method: random, trials: 4}", "")
        )
        (folder / "search.yaml").write_text(PAGE.replace("LR", "{log: [1e-3, 1e-1]}"))
        program = [sys.executable, "-m", "nnopt_ray"]
        contests = {
            "nnopt check (a search)": ([*program, "check", "search.yaml"], {}),
            "nnopt run (single)": ([*program, "run", "single.yaml"], {"first epoch": "epoch 0 "}),
            "nnopt run (search, 4 trials)": ([*program, "run", "search.yaml"], {"first trial": "trial "}),
        }
        taken: dict[tuple[str, str], list[float]] = {}
        for round_ in range(6):
            for contest, (command, marks) in contests.items():
                for mark, took in lines_until(command, folder, marks).items():
                    if round_:  # the first round fills the data cache and the file cache
                        taken.setdefault((contest, mark), []).append(took)
    for (contest, mark), took in taken.items():
        label = "answered" if "check" in contest else mark
        print(f"  {contest:<30} {label:<22} {statistics.median(took):5.2f} s   (median of {len(took)})")


if __name__ == "__main__":
    main()
