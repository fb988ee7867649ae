"""One long study in which workers, nodes and the program itself are killed at random, over and over."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest
from fault_example import judge_whole, table
from ray_example import OwnCluster, Program, results, send, unhurried_page, wait_for, without_sleep

import nnopt_ray as nn

KILLS = int(os.environ.get("NNOPT_TEST_KILLS", "20"))  # CONTRIBUTING tells how long a hundred take
PLACES, EPOCHS, TRIALS = 16, 30, 12 + 5 * KILLS
# Between two kills every trial in flight gets at least one epoch further: all of a round come before one of the next.
BETWEEN = (PLACES + 1, 2 * PLACES + 6)
KINDS = {"a worker": 6, "a node": 3, "the program": 1}


def write_page(folder: Path, sleep: float) -> Path:
    return unhurried_page(folder, sleep, {"trials": TRIALS, "reproducible": True, "concurrency": PLACES}, EPOCHS)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(240 + 25 * KILLS)
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found in /proc")
def test_a_study_of_many_random_kills_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, out = write_page(tmp_path, sleep=0.25), tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    rng = random.Random(7)
    killed: Counter[str] = Counter()
    told = ""
    with OwnCluster(nodes=2) as nodes:
        program = Program(tmp_path, "run", str(page), "--out", str(out), "--address", nodes.address)
        while killed.total() < KILLS:
            goal = results(out) + rng.randint(*BETWEEN)
            wait_for(lambda goal=goal: results(out) >= goal, program)  # type: ignore[misc]
            if not program.runs():
                break
            (kind,) = rng.choices(list(KINDS), weights=list(KINDS.values()))
            if kind == "a worker":
                send({rng.choice(sorted(nodes.workers()))}, signal.SIGKILL)
            elif kind == "a node":
                nodes.kill_node(nodes.nodes.pop(rng.randrange(len(nodes.nodes))))
                nodes.nodes.append(nodes.add())
            else:
                told += "".join(program.kill())
                (run,) = out.iterdir()
                program = Program(tmp_path, "resume", str(run), "--address", nodes.address)
            killed[kind] += 1
        code, *more = program.ended(timeout_s=240 + 25 * KILLS)
    told += "".join(more)
    assert code == 0, told
    print(f"\nkilled: {dict(killed)}\n{told}")
    assert killed.total() == KILLS, "the study ended before"
    assert set(killed) == set(KINDS) or KILLS < 20
    (run,) = out.iterdir()
    ended = nn.open_run(run)
    judge_whole(ended)
    assert ended.result["trials"] == {"total": TRIALS, "finished": TRIALS, "stopped": 0, "failed": 0}
    # What was killed while it held trials is told; a worker may also die before it has taken up any.
    assert told.count("from their checkpoint") + told.count("from its checkpoint") >= KILLS / 2
    write_page(tmp_path, sleep=0.0)
    undisturbed = nn.run(nn.load(page), tmp_path / "undisturbed")
    assert without_sleep(table(ended)) == without_sleep(table(undisturbed))
