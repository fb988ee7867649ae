"""What a report takes beside a minute of training, and how large it gets; and what evaluation took, as each run says.

    python tests/benchmarks/bench_report.py

The facts are drawn (report_example); folders are written, read back and made into pages. Times are medians of five,
without a first one, which imports. 5 % of a minute are 3 s, and they are for the evaluation too.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import report_example as example

from nnopt_ray import rundir
from nnopt_ray.report import write
from nnopt_ray.report.facts import Facts
from nnopt_ray.rundir import RunDir

ROUNDS = 5


def median(do: Callable[[], Any]) -> float:
    do()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        do()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def many_trials(count: int) -> Facts:
    some = example.classification()
    return replace(some, rows=tuple(replace(some.rows[i % 64], trial=f"{i:05d}") for i in range(count)))


def long_training(epochs: int) -> Facts:
    found = example.classification(experiment=example.page(search=False))
    history = tuple(replace(found.history[at % 30], epoch=at) for at in range(epochs))
    row = replace(found.rows[0], history=history, epochs=epochs)
    return replace(found, rows=(row,), history=history)


def many_rows(folder: RunDir, rows: int) -> None:
    """Predictions of as many test rows in the place of those that were there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    true = random.normal(size=rows)
    table = pa.table({"part": ["test"] * rows, "true": true, "predicted": true + random.normal(size=rows)})
    rundir.write(folder.predictions, lambda path: pq.write_table(table, path))


def main() -> None:
    kinds: dict[str, Callable[[], Facts]] = {
        "a training of 30 epochs": lambda: example.classification(experiment=example.page(search=False)),
        "a training of 10,000 epochs": lambda: long_training(10_000),
        "a search of 64 trials": example.classification,
        "a search of 1,000 trials": lambda: many_trials(1000),
        "200 classes": lambda: example.classification(classes=tuple(f"class {number}" for number in range(200))),
        "1,000,000 test rows": example.regression,
    }
    print(f"{'':<30}{'read, s':>10}{'page, s':>10}{'size, MB':>10}{'of a minute':>14}")
    for name, made in kinds.items():
        with tempfile.TemporaryDirectory() as parent:
            measure(name, made(), Path(parent))


def measure(name: str, drawn: Facts, parent: Path) -> None:
    folder = example.folder(drawn, parent)
    if name.endswith("test rows"):
        many_rows(folder, 1_000_000)
    facts = write.facts_from_folder(folder)
    read, page = median(lambda: write.facts_from_folder(folder)), median(lambda: write.html(facts))
    size = len(write.html(facts)) / 1e6
    print(f"{name:<30}{read:>10.3f}{page:>10.3f}{size:>10.2f}{100 * (read + page) / 60:>13.2f}%")


if __name__ == "__main__":
    main()
