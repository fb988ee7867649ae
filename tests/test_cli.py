"""The program as its users and their scripts meet it: exit codes, one JSON object, no tracebacks, the last line."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nnopt_ray.cli import main, showing
from nnopt_ray.errors import NnoptError

PAGE = """\
name: small
seed: 3
objective: minimize val_loss
data:
  source: {type: sklearn, name: wine}
  steps: [scale]
model: {type: mlp, widths: [8]}
train:
  epochs: 3
  optimizer: {type: adam, lr: 0.01}
evaluate: {bootstrap: 50}
"""

BROKEN_PART = """
import torch


class Refuses(torch.nn.Module):
    def __init__(self, shapes):
        super().__init__()
        self.layer = torch.nn.Linear(shapes.features, shapes.outputs)

    def forward(self, x):
        raise ArithmeticError("no forward today")
"""


@dataclass(frozen=True)
class Said:
    """What one command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output, which must be exactly one JSON object."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


Nnopt = Callable[..., Said]


@pytest.fixture
def nnopt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Nnopt:
    """Runs one command in this process, in a folder of its own that holds page.yaml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NNOPT_RUNS", raising=False)
    (tmp_path / "page.yaml").write_text(PAGE)

    def run(*words: str) -> Said:
        capfd.readouterr()
        code = main.code(list(words))
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Said(code, out, err)

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, made by the program in a process of its own."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "page.yaml").write_text(PAGE)
    done = program(folder, "run", "page.yaml")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.splitlines()[-1])


def program(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The real program, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "nnopt_ray", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        env=quiet(),
        check=False,
    )


def quiet() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "NNOPT_RUNS"} | {
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


# The command is at fault


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("frobnicate", "No such command 'frobnicate'"),
        ("run", "Missing argument"),
        ("run page.yaml --colour", "No such option: --colour"),
        ("run nosuch.yaml", "nosuch.yaml: there is no such file"),
        ("run .", "folder"),
        ("check /dev/null", "the page is empty"),
        ("run page.yaml --set train.epochs", "PATH=VALUE"),
        ("run page.yaml --set train.epochs=2 --out page.yaml", "Choose another parent with --out"),
        ("describe nosuch", "no room 'nosuch'"),
        ("describe optimizer adm", "Did you mean 'adam'?"),
        ("show nosuch", "there is no run folder nosuch"),
        ("report .", "resolved.yaml is missing"),
        ("resume page.yaml", "no run folder"),
    ],
)
def test_a_command_at_fault_ends_with_2_and_a_sentence(nnopt: Nnopt, words: str, sentence: str) -> None:
    said = nnopt(*words.split())
    assert said.code == 2
    assert said.out == ""
    assert sentence in said.err
    assert len(said.err.strip().splitlines()) == 1
    told = nnopt(*words.split(), "--json")
    assert told.code == 2
    if "describe" not in words:  # it has no --json, which is then what is at fault
        assert told.json["ok"] is False
        assert told.json["error"] in told.err


def test_without_a_verb_the_help_is_shown(nnopt: Nnopt) -> None:
    said = nnopt()
    assert said.code == 2
    assert said.out == ""
    assert "Commands:" in said.err


@pytest.mark.parametrize(
    "verb", [[], ["check"], ["run"], ["resume"], ["ls"], ["show"], ["report"], ["describe"], ["schema"]]
)
def test_help_is_no_error(nnopt: Nnopt, verb: list[str]) -> None:
    said = nnopt(*verb, "--help")
    assert said.code == 0
    assert "Usage: " in said.out


def test_version(nnopt: Nnopt) -> None:
    assert re.fullmatch(r"nnopt \d+\.\d+\.\d+\n", nnopt("--version").out)


# The page is at fault


def test_all_faults_of_a_page_each_with_its_place(nnopt: Nnopt, tmp_path: Path) -> None:
    text = (
        PAGE.replace("optimizer:", "optimiser:").replace("epochs: 3", "epochs: -3").replace("widths: [8]", "widths: [8")
    )
    (tmp_path / "page.yaml").write_text(text.replace("widths: [8", "widths: [8]"))
    said = nnopt("check", "page.yaml")
    assert said.code == 2
    assert said.out == ""
    lines = said.err.splitlines()
    assert [re.match(r"page\.yaml:(\d+):(\d+): ([\w.]+): .", line).groups() for line in lines] == [  # type: ignore[union-attr]
        ("9", "11", "train.epochs"),
        ("10", "3", "train.optimiser"),
    ]
    assert "Did you mean 'optimizer'?" in lines[1]
    faults = nnopt("check", "page.yaml", "--json").json["faults"]
    assert [(f["line"], f["column"], f["path"]) for f in faults] == [
        (9, 11, "train.epochs"),
        (10, 3, "train.optimiser"),
    ]
    assert not (tmp_path / "runs").exists()


def test_a_page_at_fault_makes_no_run_folder(nnopt: Nnopt, tmp_path: Path) -> None:
    (tmp_path / "page.yaml").write_text(PAGE.replace("wine", "whine"))
    assert nnopt("run", "page.yaml").code == 2
    assert not (tmp_path / "runs").exists()


def test_check_prints_a_page_that_says_the_same(nnopt: Nnopt, tmp_path: Path) -> None:
    first = nnopt("check", "page.yaml", "--set", "train.optimizer.lr={log: [1e-4, 1e-1]}", "--set", "search.trials=7")
    assert first.code == 0
    assert "7 trials" in first.out.splitlines()[0]
    (tmp_path / "again.yaml").write_text(first.out)
    second = nnopt("check", "again.yaml")
    assert second.out.splitlines()[1:] == first.out.splitlines()[1:]
    assert nnopt("check", "again.yaml", "--json").json["space"] == [
        {"path": "train.optimizer.lr", "range": {"log": [1e-4, 1e-1]}}
    ]


# Runs


def test_the_last_line_is_the_run_folder(finished: Path) -> None:
    assert finished.is_absolute()
    assert json.loads((finished / "result.json").read_text())["status"] == "finished"
    assert (finished / "report.html").stat().st_size > 1_000_000


def test_run_with_json_prints_one_object_and_the_rest_to_standard_error(nnopt: Nnopt) -> None:
    said = nnopt("run", "page.yaml", "--json", "--set", "train.epochs=2")
    assert said.code == 0
    assert said.json["ok"] is True
    assert said.json["status"] == "finished"
    assert json.loads((Path(said.json["path"]) / "result.json").read_text()).items() <= said.json.items()
    assert "\nepoch 1 " in said.err


def test_looking_at_a_run(nnopt: Nnopt, finished: Path) -> None:
    listed = nnopt("ls", str(finished.parent), "--json").json["runs"]
    assert [Path(line["run"]) for line in listed] == [finished]
    assert finished.name in nnopt("ls", str(finished.parent)).out
    trials = nnopt("show", str(finished), "--json").json["trials"]
    assert [trial["epochs"] for trial in trials] == [3]
    history = nnopt("show", str(finished), trials[0]["trial"], "--json").json["history"]
    assert [line["epoch"] for line in history] == [0, 1, 2]
    assert nnopt("show", str(finished), trials[0]["trial"]).out.splitlines()[0].split()[0] == "epoch"
    unknown = nnopt("show", str(finished), "9999")
    assert unknown.code == 2
    assert trials[0]["trial"] in unknown.err


def test_the_report_can_be_built_again(nnopt: Nnopt, finished: Path) -> None:
    def told() -> str:
        return re.sub("written [^<]*", "", (finished / "report.html").read_text(encoding="utf-8"))

    before = told()
    (finished / "report.html").unlink()
    said = nnopt("report", str(finished))
    assert (said.code, said.out.strip()) == (0, str(finished / "report.html"))
    assert told() == before


def test_a_finished_run_is_not_run_again(nnopt: Nnopt, finished: Path) -> None:
    before = (finished / "result.json").stat().st_mtime_ns
    said = nnopt("resume", str(finished))
    assert said.code == 0
    assert "finished already" in said.err
    assert said.out.splitlines()[-1] == str(finished)
    assert (finished / "result.json").stat().st_mtime_ns == before


def test_a_trial_can_be_run_alone_from_its_own_page(nnopt: Nnopt, finished: Path) -> None:
    page = next((finished / "trials").glob("*/page.yaml"))
    said = nnopt("run", str(page), "--json")
    assert said.code == 0
    assert said.json["best"]["metrics"] == json.loads((finished / "result.json").read_text())["best"]["metrics"]


def test_a_loss_that_is_no_number_ends_with_1(nnopt: Nnopt) -> None:
    said = nnopt("run", "page.yaml", "--set", "train.optimizer={type: sgd, lr: 1e30}")
    assert said.code == 1
    assert "learning rate" in said.err or "train.optimizer.lr" in said.err


def test_a_fault_in_the_users_part_is_told_as_theirs(nnopt: Nnopt, tmp_path: Path) -> None:
    (tmp_path / "broken_nets.py").write_text(BROKEN_PART)
    said = nnopt("run", "page.yaml", "--set", "model=broken_nets:Refuses")
    assert said.code == 1
    assert "no forward today" in said.err
    assert "broken_nets.py" in said.err
    assert "fault of nnopt" not in said.err
    (trace,) = tmp_path.glob("runs/*/trials/0001/error.txt")
    assert "ArithmeticError" in trace.read_text()


def test_a_fault_of_ours_ends_with_3_and_says_so(nnopt: Nnopt, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("made by the test")

    monkeypatch.setattr(showing, "_line", fails)
    said = nnopt("ls", str(finished.parent))
    assert said.code == 3
    assert "A fault of nnopt itself: ZeroDivisionError: made by the test" in said.err
    assert nnopt("ls", str(finished.parent), "--json").json["exit_code"] == 3


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = program(tmp_path, "--debug", "run", "nosuch.yaml")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("kind", NnoptError.__subclasses__())
def test_every_kind_of_error_has_its_exit_code(kind: type[NnoptError]) -> None:
    assert kind.exit_code in {1, 2, 130}


def test_a_reader_that_goes_away_is_told_nothing() -> None:
    """`nnopt schema | head`: no traceback, no "Exception ignored"."""
    command = f"{shlex.quote(sys.executable)} -m nnopt_ray schema | head -c 10 > /dev/null"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Interruptions


def test_ctrl_c_keeps_what_was_done_and_says_how_to_go_on(tmp_path: Path) -> None:
    page = PAGE.replace("epochs: 3", "epochs: 200") + "resources: {cpus_per_worker: 1}\n"
    (tmp_path / "page.yaml").write_text(page)
    running = subprocess.Popen(
        [sys.executable, "-m", "nnopt_ray", "run", "page.yaml"],
        cwd=tmp_path,
        env=quiet(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("epoch  20 "):
            break
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "Traceback" not in out + err
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"nnopt resume {folder}" in err
    assert not (folder / "result.json").exists()
    resumed = program(tmp_path, "resume", str(folder))
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines()[-1] == str(folder)
    epochs = [
        json.loads(line)["epoch"] for line in (folder / "trials" / "0001" / "history.jsonl").read_text().splitlines()
    ]
    assert epochs == list(range(200))
    assert not re.search(r"^epoch +0 ", resumed.stdout, re.MULTILINE), "a clean stop loses no epoch"
