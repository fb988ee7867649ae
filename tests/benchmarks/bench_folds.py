"""Five folds of the digits MLP, in one run, against five runs of one fold each.

    python tests/benchmarks/bench_folds.py [rounds]

Each side is the program as a user calls it, in processes of their own: `nnopt run` with evaluate.folds: 5, which also
trains the page itself, and `nnopt run` of the five pages of its folds one after the other. The rounds alternate, the
prepared data are in the cache of both, and the ratio is that of the medians.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAGE = """\
name: digits
objective: minimize val_loss
data:
  source: {type: sklearn, name: digits}
  steps: [scale]
model: mlp
train:
  epochs: 40
  optimizer: {type: adam, lr: 0.01}
  early_stopping: {patience: 5}
evaluate: {folds: 5}
"""


def run(page: Path, out: Path) -> float:
    began = time.perf_counter()
    words = [sys.executable, "-m", "nnopt_ray", "run", str(page), "--out", str(out)]
    subprocess.run(words, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["NNOPT_CACHE"] = str(folder / "cache")
        page = folder / "digits.yaml"
        page.write_text(PAGE, encoding="utf-8")
        run(page, folder / "first")  # fills the cache, and writes the pages of the folds
        pages = sorted(next((folder / "first").iterdir()).glob("trials/*-f*/page.yaml"))
        together: list[float] = []
        apart: list[float] = []
        for number in range(rounds):
            together.append(run(page, folder / f"together{number}"))
            apart.append(sum(run(each, folder / f"apart{number}") for each in pages))
        one, five = statistics.median(together), statistics.median(apart)
        print(f"page and {len(pages)} folds in one run {one:.1f} s, {len(pages)} runs {five:.1f} s: {one / five:.2f}")


if __name__ == "__main__":
    main()
