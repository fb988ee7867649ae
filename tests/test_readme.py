"""README.md promises what is there: pages that load, code that runs, verbs, files and tables that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import nnopt_ray
from nnopt_ray import reading, tables
from nnopt_ray.rundir import RunDir

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

# What a fragment of a page in the README is put into.
AROUND: dict[str, Any] = {
    "data": {"source": {"type": "sklearn", "name": "digits"}},
    "model": "mlp",
    "train": {"optimizer": "adam"},
}


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> Iterator[str]:
    """Every command line of the README: of the shell blocks, and `nnopt ...` in the running text."""
    for block in blocks("sh"):
        yield from (line.partition("  #")[0].strip() for line in block.splitlines() if line.strip())
    prose = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`]+)`", prose):
        if span.startswith(("nnopt ", "make ")):
            yield " ".join(span.split())


def verbs() -> set[str]:
    """The verbs of the program."""
    from nnopt_ray.cli.main import app

    return {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}


@pytest.fixture
def own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds the README's own model and metric in my_pkg and is the current directory."""
    (tmp_path / "my_pkg").mkdir()
    (tmp_path / "my_pkg" / "__init__.py").write_text("")
    for name, part in (("nets", "class Net"), ("scores", "class Profit")):
        code = next(block for block in blocks("python") if part in block)
        (tmp_path / "my_pkg" / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_page_and_fragment_is_a_good_page(text: str, own_model: Path) -> None:
    page = yaml.safe_load(text)
    if "data" not in page:
        text = yaml.safe_dump({key: value for key, value in AROUND.items() if key not in page}) + text
    file = own_model / "page.yaml"
    file.write_text(text)
    experiment = reading.load(file)
    assert experiment.file == file


def test_the_first_page_runs_as_shown(own_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of the tour, on the page of the tour."""
    code = next(block for block in blocks("python") if "nn.run" in block)
    (own_model / "digits.yaml").write_text(blocks("yaml")[0])
    monkeypatch.setenv("NNOPT_CACHE", str(own_model / "cache"))
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["again"].result == names["run"].result
    assert set(names["run"].result["test"]) >= {"accuracy"}


def test_the_own_model_trains(own_model: Path) -> None:
    import torch

    from nnopt_ray.data.types import Input, Shapes

    page = tables.keys("model", "my_pkg.nets:Net")(width=8, activation="tanh")
    part = tables.Part("my_pkg.nets:Net", page.model_dump())  # type: ignore[arg-type]
    net = tables.build("model", part, Shapes("classification", (Input("image", (1, 8, 8)),), 10))
    assert net(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


def test_public_names_in_the_python_of_the_readme() -> None:
    used = {
        node.attr
        for block in blocks("python")
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nn"
        if "import nnopt_ray as nn" in block
    }
    assert used
    assert used <= set(nnopt_ray.__all__)


def test_every_command_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    known = verbs()
    seen = set()
    for command in commands():
        words = re.sub(r"^\w+=\S+ ", "", command).split()
        if words[0] == "make":
            assert words[1] in targets, command
        elif "nnopt" in words and (after := words[words.index("nnopt") + 1 :]) and not after[0].startswith("-"):
            # A verb that the section on goals names as missing must not be shown as if it were there.
            if f"`{command}`" in README.partition("**Not there yet.**")[2]:
                assert after[0] not in known, f"{command} is there and named as missing"
                continue
            assert after[0] in known, command
            seen.add(after[0])
    assert seen == known, "a verb is missing from the README"


def test_the_tables_of_the_rooms_are_named_where_they_stand() -> None:
    section = README.partition("## Adding a part")[2].partition("\n## ")[0]
    for names, file in re.findall(r"\| (`[A-Z]+`(?:, `[A-Z]+`)*) in `([\w/.]+)` \|", section):
        for name in re.findall(r"[A-Z]+", names):
            module = file.removesuffix("/__init__.py").replace("/", ".")
            assert isinstance(tables.load(f"{module}:{name}"), dict)
    told = set(re.findall(r"\b[A-Z]{4,}\b", section.replace("NAME", "")))
    assert {room.table.partition(":")[2] for room in tables.ROOMS.values()} <= told


def test_the_run_folder_is_the_real_one() -> None:
    block = next(b for b in blocks("text") if b.startswith("runs/"))
    shown = set(re.findall(r"^  ([\w./]+)(?:  ([\w.]+))?  ", block, re.MULTILINE))
    first = {name.rstrip("/").split("/")[0] for pair in shown for name in pair if name}
    run = RunDir(Path("/r"))
    real = {
        value.relative_to(run.root).parts[0]
        for name in dir(RunDir)
        if isinstance(getattr(RunDir, name), property) and isinstance(value := getattr(run, name), Path)
    }
    assert first == real - {"lock"}


def test_links_and_paths_exist() -> None:
    for path in re.findall(r"`((?:nnopt_ray|jobs|cluster|tests)/[\w./]+)`", README):
        if "NAME" not in path:
            assert (ROOT / path).exists(), path
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.findall(r"<!--.*?-->", README)
