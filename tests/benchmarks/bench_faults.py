"""How soon a search goes on after a worker, a node, the program itself or the whole cluster was killed.

python tests/benchmarks/bench_faults.py [--rounds 5]

A cluster of one node with one CPU, so that all work stops with what is killed; trials of 0.2 s an epoch, a checkpoint
after each. Quoted are the seconds from the kill to the first epoch that was not known before.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from ray_example import OwnCluster, Program, results, send, unhurried_page, wait_for

KNOWN = 12  # epochs before the first kill, and between two
EVENTS = ("a worker", "a node, and another one starts", "the program, and nnopt resume")


def main() -> None:
    rounds = int(sys.argv[sys.argv.index("--rounds") + 1]) if "--rounds" in sys.argv else 5
    took: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place), Path(place) / "out"
        unhurried_page(folder, 0.05, {"trials": 1000}, resources={"fuse": "never"})

        def goes_on(program: Program, epochs: int) -> float:
            before, began = results(out), time.perf_counter()
            wait_for(lambda: results(out) >= before + epochs, program)
            if not program.runs():
                raise SystemExit("\n".join(map(str, program.ended())))
            return time.perf_counter() - began

        with OwnCluster(nodes=1) as nodes:
            began = time.perf_counter()
            program = Program(folder, "run", "page.yaml", "--out", str(out), "--address", nodes.address)
            goes_on(program, 1)
            took["nothing: the command is given"].append(time.perf_counter() - began)
            (run,) = out.iterdir()
            for _ in range(rounds):
                for event in EVENTS:
                    goes_on(program, KNOWN)
                    began = time.perf_counter()
                    if event == EVENTS[0]:
                        send(nodes.workers(), signal.SIGKILL)
                    elif event == EVENTS[1]:
                        nodes.kill_node(nodes.nodes[-1])
                        nodes.nodes = [nodes.add()]
                    else:
                        program.kill()
                        program = Program(folder, "resume", str(run), "--address", nodes.address)
                    goes_on(program, 1)
                    took[event].append(time.perf_counter() - began)
            began = time.perf_counter()
        program.ended()
        took["the whole cluster: its sentence"].append(time.perf_counter() - began)
        with OwnCluster(nodes=1) as nodes:
            began = time.perf_counter()
            program = Program(folder, "resume", str(run), "--address", nodes.address)
            goes_on(program, 1)
            took["then nnopt resume on another cluster"].append(time.perf_counter() - began)
            program.kill()
    print(f"seconds until a new epoch (medians of {rounds}, load {os.getloadavg()[0]:.1f})")
    for event, each in took.items():
        print(f"  {event:40s} {statistics.median(each):6.1f}   {min(each):.1f} to {max(each):.1f}")


if __name__ == "__main__":
    main()
