"""A worker that gets a tenth of its core: nothing waits for it that need not, and the user is told."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fault_example import judge_whole, table
from ray_example import OwnCluster, Program, below, results, send, train, wait_for

import nnopt_ray as nn


@contextmanager
def slowed(processes: set[int]) -> Iterator[None]:
    """They run for a tenth of the time."""
    over = threading.Event()

    def hold() -> None:
        while not over.is_set():
            send(processes, signal.SIGSTOP)
            time.sleep(0.09)
            send(processes, signal.SIGCONT)
            time.sleep(0.01)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found in /proc")
def test_a_worker_slowed_tenfold_is_told_and_others_do_its_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {
        "name": "slow",
        "seed": 5,
        "data": {"source": {"type": "sklearn", "name": "digits"}, "steps": ["scale"]},
        "model": {"type": "mlp", "widths": [256, 256]},
        "train": {"epochs": 12, "batch_size": 16, "optimizer": {"type": "adam", "lr": {"log": [1e-4, 1e-2]}}},
        "search": {"method": "random", "trials": 20},
        "resources": {"fuse": "never"},
        "evaluate": {"bootstrap": 0},
    }
    page, out = tmp_path / "page.yaml", tmp_path / "out"
    page.write_text(json.dumps(tree))
    monkeypatch.chdir(tmp_path)
    with OwnCluster(nodes=2) as nodes:
        program = Program(tmp_path, "run", str(page), "--out", str(out), "--address", nodes.address)
        wait_for(lambda: results(out) >= 10, program)
        with slowed(train(below(nodes.nodes[0]))):
            code, said, errors = program.ended()
    assert code == 0, said + errors
    told = [line for line in (said + errors).splitlines() if "times as long for an epoch" in line]
    assert len(told) == 1, said + errors
    (run,) = out.iterdir()
    ended = nn.open_run(run)
    trained = Counter(event["worker"] for event in judge_whole(ended) if event["event"] == "started")
    most, least = (count for _, count in trained.most_common(2))
    assert most >= 3 * least, trained
    assert table(ended) == table(nn.run(nn.load(page), tmp_path / "undisturbed"))
    print(f"\n{told[0]}\n{trained}")
