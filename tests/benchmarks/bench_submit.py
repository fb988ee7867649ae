"""From the command to the first epoch and to the end: `nnopt submit --follow`, `ray job submit`, and `nnopt run` here.

python tests/benchmarks/bench_submit.py [--rounds 5]

One head on this machine, one small page; the three in turn. Quoted are medians of the seconds until the first epoch is
in the run folder and until the command ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from pathlib import Path

PAGE = {
    "name": "submitted",
    "data": {"source": {"type": "sklearn", "name": "digits"}, "steps": ["scale"]},
    "model": {"type": "mlp"},
    "train": {"epochs": 5},
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def took(words: list[str], folder: Path, runs: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds until the first epoch and until the end."""
    known, first = set(runs.glob("*/trials/*/history.jsonl")), 0.0
    began = time.perf_counter()
    with (folder / "said.txt").open("w") as said:
        command = subprocess.Popen(words, cwd=folder, env=environment, stdout=said, stderr=said)
        while command.poll() is None:
            if not first and set(runs.glob("*/trials/*/history.jsonl")) - known:
                first = time.perf_counter() - began
            time.sleep(0.01)
    if command.returncode or not first:
        raise SystemExit((folder / "said.txt").read_text())
    return first, time.perf_counter() - began


def main() -> None:
    rounds = int(sys.argv[sys.argv.index("--rounds") + 1]) if "--rounds" in sys.argv else 5
    seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as place:
        folder, runs = Path(place) / "page", Path(place) / "runs"
        folder.mkdir()
        (folder / "page.yaml").write_text(json.dumps(PAGE))
        dashboard = free_port()
        address = f"http://127.0.0.1:{dashboard}"
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "NNOPT_RUNS": str(runs), "RAY_AUTH_MODE": "disabled"}
        environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_USAGE_STATS_ENABLED": "0"}
        options = {"port": free_port(), "dashboard-port": dashboard, "dashboard-agent-listen-port": free_port()}
        words = ["ray", "start", "--head", "--block", *(f"--{name}={value}" for name, value in options.items())]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        head = subprocess.Popen(words, env=environment, start_new_session=True, **quiet)
        run = ["nnopt", "run", "page.yaml"]
        ways = {
            "nnopt run, on this machine": run,
            "ray job submit": ["ray", "job", "submit", "--address", address, "--working-dir", ".", "--", *run],
            "nnopt submit --follow": ["nnopt", "submit", "page.yaml", "--follow", "--address", address],
        }
        try:
            wait_for(address)
            took(ways["nnopt submit --follow"], folder, runs, environment)
            for turn in range(rounds):
                for name, command in ways.items():
                    # The same page again would be the same job, which is done.
                    (folder / "page.yaml").write_text(json.dumps({**PAGE, "seed": 1 + turn * 10 + len(name)}))
                    seconds[name].append(took(command, folder, runs, environment))
        finally:
            os.killpg(head.pid, signal.SIGTERM)
            head.wait(60)
    print(f"seconds to the first epoch, and to the end (medians of {rounds}, load {os.getloadavg()[0]:.1f})")
    for name, each in seconds.items():
        first, whole = (statistics.median(one) for one in zip(*each, strict=True))
        print(f"  {name:28s} {first:6.1f} {whole:6.1f}")


def wait_for(address: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
            time.sleep(5)  # until its agent takes jobs
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    raise SystemExit("no job server came up")


if __name__ == "__main__":
    main()
