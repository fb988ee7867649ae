"""Seconds from `nnopt resume` to the first new epoch, with 1,000 trials in the journal of a search that was killed.

python tests/benchmarks/bench_resume.py            # 5 times, each killed again; for random and for bayesian
python tests/benchmarks/bench_resume.py --quick    # once, random
"""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from pathlib import Path

from contest import LIMIT_S, NNOPT, QUICK, environment, journal, machine, median

KNOWN = 1_000  # trials over when it is killed

PAGE = f"""
name: killed
data:
  source: {{type: sklearn, name: iris}}
  steps: [scale]
model: {{type: mlp, widths: [4]}}
train: {{epochs: 1, batch_size: 128, optimizer: {{type: sgd, lr: {{log: [1e-4, 1e-1]}}}}}}
search: {{method: METHOD, trials: {10 * KNOWN}}}
"""


def until(folder: Path, words: list[str], results: int) -> tuple[float, Path]:
    """Start nnopt, wait until so many epochs were recorded, kill -9 → seconds from the command to the first epoch
    that was new, and the run folder."""
    before = sum(event["event"] == "result" for run in folder.glob("runs/*") for event in journal(run))
    began = time.time()
    with open(folder / "output.txt", "wb") as output:
        running = subprocess.Popen([*NNOPT, *words], cwd=folder, env=environment(folder), stdout=output, stderr=output)
        try:
            while True:
                assert running.poll() is None, (folder / "output.txt").read_text()[-4000:]
                assert time.time() - began < LIMIT_S, "it hangs"
                found = [event["t"] for run in folder.glob("runs/*/journal.jsonl") for event in journal(run.parent)
                         if event["event"] == "result"]  # fmt: skip
                if len(found) >= max(results, before + 1):
                    break
                time.sleep(0.05)
        finally:
            running.send_signal(signal.SIGKILL)
            running.wait()
    return found[before] - began, next(folder.glob("runs/*"))


def main() -> None:
    print(f"resume after kill -9, {KNOWN:,} trials in the journal; {machine()}")
    for method in ("random",) if QUICK else ("random", "bayesian"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "page.yaml").write_text(PAGE.replace("METHOD", method))
            fresh, run = until(folder, ["run", "page.yaml"], KNOWN)
            time.sleep(2.0)  # Ray's processes notice that their driver is gone
            taken = []
            for _ in range(1 if QUICK else 5):
                taken.append(until(folder, ["resume", str(run)], 0)[0])
                time.sleep(2.0)
        each = ", ".join(f"{one:.2f}" for one in taken)
        print(f"    {method:<10} {median(taken):6.2f} s to the first new epoch   ({each}); a fresh run {fresh:.2f} s")


if __name__ == "__main__":
    main()
