"""Which Ray and torch nnopt works with, and what it says of others."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from nnopt_ray import machine, versions
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Resources
from nnopt_ray.launch.ray_jobs import JobServer
from nnopt_ray.search.cluster import RaySession

# What ray/_private/utils.py (check_version_info) raises in a client.
RAYS_OWN = """Version mismatch: The cluster was started with:
    Ray: {}
    Python: {}
This process on node 10.0.0.2 was started with:
    Ray: {}
    Python: {}
"""


def test_the_ranges_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    needs = {need.name: need for need in map(Requirement, project["dependencies"])}
    for package, range_ in versions.RANGES.items():
        assert needs[package].specifier == Requirement(f"x{range_}").specifier
        installed = Requirement(versions.cure(package).partition("'")[2].rstrip("'"))
        assert (installed.name, installed.extras) == (package, needs[package].extras)


@pytest.mark.parametrize(
    ("package", "version", "fits"),
    [
        ("ray", "2.54.1", False),
        ("ray", "2.55.0", True),
        ("ray", "2.60.0", True),
        ("ray", "2.61.0", False),
        ("ray", "3.0.0.dev0", False),
        ("torch", "2.13.0+cpu", True),
        ("torch", "2.10.0a0+b4e4ee81d3.nv25.12", True),
        ("torch", "2.9.1", False),
        ("torch", "unknown", False),
    ],
)
def test_which_versions_fit(package: versions.Package, version: str, fits: bool) -> None:
    assert versions.fits(package, version) is fits


@pytest.mark.parametrize("address", [None, "127.0.0.1:6379"])
def test_another_ray_is_told_before_it_is_started(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "2.54.1")
    with pytest.raises(UserError, match=r"ray 2\.54\.1 is installed here.*>=2\.55,<2\.61: pip install 'ray\[") as told:
        RaySession(address, Resources(), None)
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match=r"ray 2\.54\.1 is installed here"):
        JobServer("http://127.0.0.1:1")


def test_another_torch_is_told_before_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda package: "2.9.1")
    with pytest.raises(UserError, match=r"torch 2\.9\.1 is installed here.*pip install 'torch>="):
        machine.choose(1, 0.0, "auto")


@pytest.mark.parametrize(
    ("there", "here", "said"),
    [
        (("2.57.0", "3.11.7"), ("2.60.0", "3.11.7"), r"runs Ray 2\.57\.0, and here is Ray 2\.60\.0: pip .*==2\.57\.0"),
        (("2.40.0", "3.11.7"), ("2.60.0", "3.11.7"), r"runs Ray 2\.40\.0.*start it with one that this nnopt"),
        (("2.60.0", "3.12.3"), ("2.60.0", "3.11.7"), r"runs Python 3\.12\.3, and here is Python 3\.11\.7: start"),
    ],
)  # fmt: skip
def test_a_cluster_of_other_versions_is_one_sentence(there: tuple[str, str], here: tuple[str, str], said: str) -> None:
    session = RaySession("10.0.0.1:6379", Resources(), None, at_once=False)
    session._error = RuntimeError(RAYS_OWN.format(*there, *here))
    session._ready.set()
    with pytest.raises(UserError, match=f"cannot reach the Ray cluster at 10.0.0.1:6379: it {said}") as told:
        session.cluster()
    assert "\n" not in str(told.value)


def test_what_is_no_mismatch_is_left_as_ray_says_it() -> None:
    assert versions.mismatch("Ray Client: connection refused") is None


RAYS = (
    "Unauthorized",
    "Forbidden",
    "No available agent",
    "Version mismatch",
    "Package size",
    "a pod is",
    "setup_node",
    "nnopt.sb",
)


def literals(folder: Path) -> list[str]:
    """Every text of the code, a blank where an f-string has a value."""
    found = []
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values))
    return [" ".join(text.split()) for text in found]


def test_the_messages_that_are_explained_are_those_of_the_code() -> None:
    root = Path(__file__).parent.parent
    chapter = (root / "cluster" / "README.md").read_text(encoding="utf-8").partition("## When it does not work")[2]
    told = [row for row in re.findall(r"^\| `([^`]+)` \|", chapter, re.MULTILINE) if not row.startswith(RAYS)]
    assert len(told) > 10
    faults = (root / "README.md").read_text(encoding="utf-8").partition("| what happens | what it costs |")[2]
    read = [row.split(" | ")[2] for row in faults.partition("\n\n")[0].splitlines()[2:]]
    told += (quoted := re.findall(r"`([^`]+)`", " ".join(read)))
    assert len(quoted) >= 5
    texts = literals(root / "nnopt_ray")
    for message in told:
        pieces = [re.escape(piece.strip()) for piece in re.split(r"\.\.\.|\b\d+\b", message) if len(piece.strip()) > 3]
        pattern = re.compile(".*".join(pieces))
        assert any(pattern.search(text) for text in texts), message
