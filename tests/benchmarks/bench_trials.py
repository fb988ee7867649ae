"""What a trial costs beside its training: 10,000 trials of one trivial epoch.

Milliseconds per trial of the whole search, of the first and of the last thousand trials that Ray's workers made
(`resources.in_process: never`, so that the same processes make all of them), and how the driver's memory grows.

    python tests/benchmarks/bench_trials.py            # 10,000 trials
    python tests/benchmarks/bench_trials.py --quick    # 3,000 trials
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

from contest import LIMIT_S, NNOPT, QUICK, command_s, environment, journal, machine

TRIALS, PART = (3_000, 500) if QUICK else (10_000, 1_000)

PAGE = f"""
name: trivial
data:
  source: {{type: sklearn, name: iris}}
  steps: [scale]
model: {{type: mlp, widths: [4]}}
train: {{epochs: 1, batch_size: 128, optimizer: {{type: sgd, lr: {{log: [1e-4, 1e-1]}}}}}}
search: {{method: random, trials: {TRIALS}}}
resources: {{in_process: never}}
evaluate: {{bootstrap: 50}}
"""


def watched(folder: Path) -> tuple[Path, list[tuple[float, float]]]:
    """Run it → its folder, and (time, MiB of the driver) as it goes; no memory where there is no /proc."""
    samples = []
    with open(folder / "output.txt", "wb") as output:
        running = subprocess.Popen(
            [*NNOPT, "run", "page.yaml"], cwd=folder, env=environment(folder), stdout=output, stderr=output
        )
        deadline = time.monotonic() + LIMIT_S
        while running.poll() is None:
            assert time.monotonic() < deadline, "it hangs"
            resident = Path(f"/proc/{running.pid}/statm")
            if resident.exists() and (words := resident.read_text().split()):
                samples.append((time.time(), int(words[1]) * 4096 / 2**20))
            time.sleep(0.1)
    assert running.returncode == 0, (folder / "output.txt").read_text()[-4000:]
    return max((folder / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns), samples


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "page.yaml").write_text(PAGE)
        command_s([*NNOPT, "run", "page.yaml", "--set", "search.trials=2"], folder)  # fills the data cache
        run, samples = watched(folder)
        events = [event for event in journal(run) if event["event"] == "ended"]
        assert len(events) == TRIALS
        assert all(event["status"] == "finished" and event["epochs"] == 1 for event in events)
        ends = sorted(event["t"] for event in events)
    first, last = (
        (ends[end - 1] - ends[begin]) / (end - begin - 1) * 1e3 for begin, end in ((0, PART), (TRIALS - PART, TRIALS))
    )
    print(f"{TRIALS:,} trials of one trivial epoch; {machine()}")
    print(f"    {(ends[-1] - ends[0]) / (TRIALS - 1) * 1e3:.2f} ms per trial")
    print(f"    {first:.2f} ms of the first {PART:,}, {last:.2f} ms of the last {PART:,}: {last / first:.2f} x")
    within = [(t, mib) for t, mib in samples if ends[PART] <= t <= ends[-1]]
    if within:
        (_, early), (_, late) = within[0], within[-1]
        each = (late - early) * 1024 / (TRIALS - PART)
        print(f"    driver: {early:.0f} MiB after {PART:,} trials, {late:.0f} MiB at the end: {each:.2f} KiB per trial")


if __name__ == "__main__":
    main()
