"""The layout of the house, read from the source: what may import what, where Ray stands, what may not appear."""

from __future__ import annotations

import ast
import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

import nnopt_ray
from nnopt_ray import tables

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nnopt_ray"

# Imports go one way along this order: a module imports only from its own place or from those before it.
ORDER = (
    "errors",
    "versions",
    "tables",
    "rundir",
    "machine",
    "section",
    "recipe",
    "rows",
    "experiment",
    "results",
    "holding",
    "trials",
    "reading",
    "data",
    "models",
    "train",
    "evaluate",
    "report",
    "assembly",
    "folding",
    "pipeline",
    "serving",
    "comparing",
    "compared",
    "viewing",
    "log",
    "reporting",
    "tracking",
    "storage",
    "search",
    "distributed",
    "runs",
    "starting",
    "scaling",
    "launch",
    "cli",
)

# `__init__` holds the public names and `__main__` starts the program: both may import anything.
ENTRANCES = {"__init__", "__main__"}

RAY_DOORS = {
    "search/halving.py",
    "search/hyperband.py",
    "search/median.py",
    "search/cleaner.py",
    "search/cluster.py",
    "search/group.py",
    "search/members.py",
    "search/ray_train.py",
    "search/seats.py",
    "distributed.py",
    "launch/ray_jobs.py",
}

PUBLIC = {
    "Comparison",
    "DataError",
    "Examination",
    "Experiment",
    "Fault",
    "Interrupted",
    "LrRange",
    "MissingExtra",
    "NnoptError",
    "NotANumber",
    "PageError",
    "PartError",
    "Range",
    "Run",
    "RunFailed",
    "RunFolderError",
    "Scaling",
    "UserError",
    "Watch",
    "compare",
    "examine",
    "load",
    "lr_range_test",
    "open_run",
    "resume",
    "run",
    "scale",
}

# `except Exception` catches faults of ours as well, so it stands only where a user's own code is called
# (the import of a user's part, a training, one trial of a study, a report while the run goes on) and at the door of the
# program; each records
# what it caught.
BROAD_EXCEPT = {
    "tables.py",
    "evaluate/explain.py",
    "evaluate/measured.py",
    "evaluate/own.py",
    "runs.py",
    "reporting.py",
    "tracking/following.py",
    "storage/store.py",
    "search/crew.py",
    "search/group.py",
    "search/members.py",
    "cli/main.py",
}


@dataclass(frozen=True)
class Source:
    """One file of the package, parsed."""

    path: str  # relative to the package, with slashes
    text: str
    tree: ast.Module

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def place(self) -> str:
        """The first word of the module: a room, or a module at the top."""
        return self.module.split(".")[0]


@cache
def sources() -> tuple[Source, ...]:
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        found.append(Source(file.relative_to(PACKAGE).as_posix(), text, ast.parse(text, str(file))))
    return tuple(found)


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of each import, those inside functions too; `from a import b` gives a.b when
    that is a module of the package."""
    own = {s.module for s in sources()}
    package = source.module.split(".") if source.path.endswith("__init__.py") else source.module.split(".")[:-1]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = ".".join(["nnopt_ray", *above, *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix("nnopt_ray.")
                yield node.lineno, f"{base}.{alias.name}" if inner in own else base
        elif isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in {"import_module", "__import__"}:
            yield from ((node.lineno, str(name.value)) for name in node.args[:1] if isinstance(name, ast.Constant))


def dotted(node: ast.expr) -> str:
    """`torch.load` of a name or attribute; "" of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else ""
    return ""


def inside(module: str) -> bool:
    return module == "nnopt_ray" or module.startswith("nnopt_ray.")


def test_every_module_has_a_place_in_the_order() -> None:
    assert {s.place for s in sources()} - ENTRANCES <= set(ORDER)


def test_imports_go_one_way() -> None:
    wrong = []
    for source in sources():
        if source.place in ENTRANCES:
            continue
        for line, module in imports(source):
            if not inside(module):
                continue
            target = module.removeprefix("nnopt_ray").removeprefix(".").split(".")[0]
            if not target or target in ENTRANCES or ORDER.index(target) > ORDER.index(source.place):
                wrong.append(f"{source.path}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_through_others() -> None:
    own = {f"nnopt_ray.{s.module}" for s in sources() if s.place not in ENTRANCES}
    graph = {
        f"nnopt_ray.{s.module}": {name for _, name in imports(s) if name in own}
        for s in sources()
        if s.place not in ENTRANCES
    }
    assert not (circle := find_cycle(graph)), " → ".join(circle)


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one cycle, the first repeated at the end; empty when there is none."""
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph.get(module, ())):
            if circle := visit(target, [*way, module]):
                return circle
        done.add(module)
        return []

    return next((circle for module in sorted(graph) if (circle := visit(module, []))), [])


def test_the_cycle_finder_finds_a_cycle() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_ray_stands_only_behind_its_doors() -> None:
    doors = {s.path for s in sources() for _, module in imports(s) if module.split(".")[0] == "ray"}
    assert doors <= RAY_DOORS


def test_looking_up_signatures_stays_light() -> None:
    """`nnopt check` loads every room but the models for signatures; that must cost no heavy library."""
    heavy = [
        "ray",
        "torch",
        "sklearn",
        "pandas",
        "pyarrow",
        "plotly",
        "optuna",
        "matplotlib",
        "tokenizers",
        "sentencepiece",
    ]
    program = f"""
import json, sys
from nnopt_ray import reading, tables
for room in tables.ROOMS:
    if room != "model":
        for name in tables.table(room):
            tables.keys(room, name)
print(json.dumps([name for name in {heavy!r} if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(("room", "name"), [(room, name) for room in tables.ROOMS for name in tables.table(room)])
def test_every_string_of_a_table_is_a_part_of_its_room(room: str, name: str) -> None:
    part = tables.find(room, name)
    assert part.__doc__, "a part says what it is"
    keys = tables.keys(room, name).model_fields
    documented = set(re.findall(r"^\s+(\w+): \S", part.__doc__.partition("Keys:")[2], re.MULTILINE))
    assert set(keys) <= documented, f"keys without a line under `Keys:` in the docstring of {part.__qualname__}"


def test_public_names_are_pinned() -> None:
    assert set(nnopt_ray.__all__) == PUBLIC
    assert list(nnopt_ray.__all__) == sorted(nnopt_ray.__all__)
    for name in PUBLIC:
        assert getattr(nnopt_ray, name).__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = nnopt_ray.nothing


def test_no_room_for_leftovers() -> None:
    names = {part for file in PACKAGE.rglob("*") for part in file.relative_to(PACKAGE).with_suffix("").parts}
    assert not names & {"utils", "util", "common", "core", "base", "helpers", "misc", "shared", "lib", "types_"}


def test_files_and_functions_stay_readable() -> None:
    """Beyond these sizes the question is what the second file or function would be called."""
    long = [f"{s.path}: {n} lines" for s in sources() if (n := s.text.count("\n")) > 450]
    for source in sources():
        long += [
            f"{source.path}:{node.lineno} {node.name}: {size} lines"
            for node in ast.walk(source.tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (size := body_lines(node)) > 80
        ]
    assert not long, "\n".join(long)


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its signature and docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_nothing_is_pickled_or_loaded_unsafely() -> None:
    modules = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    calls = {
        "eval",
        "exec",
        "torch.save",
        "yaml.load",
        "yaml.load_all",
        "yaml.unsafe_load",
        "yaml.full_load",
    }
    wrong = []
    for source in sources():
        wrong += [
            f"{source.path}:{line} imports {name}" for line, name in imports(source) if name.split(".")[0] in modules
        ]
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Call):
                continue
            name = dotted(node.func)
            safe = ("weights_only", True) in {
                (each.arg, each.value.value) for each in node.keywords if isinstance(each.value, ast.Constant)
            }
            if name == "torch.load" and not safe:
                wrong.append(f"{source.path}:{node.lineno} calls torch.load without weights_only=True")
            if name in calls or name.rpartition(".")[2] in {"read_pickle", "to_pickle"}:
                wrong.append(f"{source.path}:{node.lineno} calls {name}")
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if (keyword.arg, value) in {("allow_pickle", True), ("weights_only", False), ("shell", True)}:
                    wrong.append(f"{source.path}:{node.lineno} passes {keyword.arg}={value}")
    assert not wrong, "\n".join(wrong)


def test_broad_excepts_stand_at_their_doors() -> None:
    broad = set()
    for source in sources():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ExceptHandler):
                kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
                if any(kind is None or dotted(kind) in {"Exception", "BaseException"} for kind in kinds):
                    reraised = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
                    if not reraised:
                        broad.add(source.path)
    assert broad <= BROAD_EXCEPT


def test_no_notes_to_self() -> None:
    words = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")
    files = [
        *PACKAGE.rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
        *ROOT.glob("*.md"),
        *(ROOT / "jobs").glob("*.yaml"),
    ]
    found = [f"{f.relative_to(ROOT)}: {m.group()}" for f in files if (m := words.search(f.read_text(encoding="utf-8")))]
    assert not found, "\n".join(found)


# The README's tree. A line is `name   text`, and a folder's name ends with a slash. What stands two columns
# further in is inside that folder; inside a room of the package such lines only list its modules, `a, b, c`.


def readme_tree() -> dict[str, str]:
    """path → text of every line in the block below the heading "The tree"."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^## The tree$.*?^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert block, "README.md has no fenced block below '## The tree'"
    tree: dict[str, str] = {}
    folders: list[tuple[int, str]] = []
    for line in block.group(1).splitlines():
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        folders = [(depth, folder) for depth, folder in folders if depth < indent]
        inside_room = len(folders) == 2
        words = line.replace(",", " ").split() if inside_room else [line.split()[0]]
        for name in words:
            path = "".join(folder for _, folder in folders) + name
            assert path not in tree, f"{path} stands twice in README's tree"
            tree[path] = "" if inside_room else line.strip().removeprefix(name).strip()
        if words[0].endswith("/"):
            folders.append((indent, words[0]))
    return tree


def test_files_that_are_no_python_are_installed_too() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    told = project["tool"]["setuptools"]["package-data"]
    installed = {
        file for package, globs in told.items() for g in globs for file in (ROOT / package.replace(".", "/")).glob(g)
    }
    there = {file for file in PACKAGE.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert installed == there


def test_readme_tree_is_the_real_one_at_the_top() -> None:
    shown = {path for path in readme_tree() if "/" not in path.rstrip("/")}
    missing = {path for path in shown if not (ROOT / path).exists()}
    assert not missing, f"in README's tree and not there: {sorted(missing)}"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip(
            "not a git checkout: what belongs to the project at the top cannot be told from what a user put there"
        )
    files = [line for line in listed.stdout.splitlines() if not fnmatch.fnmatch(line, "nnopt_ray/*")]
    there = {line.split("/")[0] + ("/" if "/" in line else "") for line in files if (ROOT / line).exists()}
    assert there - shown == set(), "there and not in README's tree"


def test_readme_tree_is_the_real_one_in_the_package() -> None:
    shown = {path.removeprefix("nnopt_ray/") for path in readme_tree() if path.startswith("nnopt_ray/")} - {""}
    there = {f"{p.name}/" if p.is_dir() else p.name for p in PACKAGE.iterdir() if p.name != "__pycache__"}
    assert {path for path in shown if "/" not in path.rstrip("/")} == there
    rooms = {path for path in there if path.endswith("/")}
    inside_rooms = {
        f"{room}{file.name.removesuffix('.py')}"
        for room in rooms
        for file in (PACKAGE / room).iterdir()
        if file.name not in {"__init__.py", "__pycache__"}
    }
    assert shown - there == inside_rooms


def test_the_order_of_the_rooms_is_the_one_in_the_contributing_page() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    told = re.search(r"^`(errors · .*)`$", text, re.MULTILINE)
    assert told, "CONTRIBUTING.md does not say the order of imports"
    words = told.group(1).split(" · ")
    places = {place for place in ORDER if (PACKAGE / place).exists() or (PACKAGE / f"{place}.py").exists()}
    assert [word for word in ORDER if word in places] == words
    assert all(ORDER.index(a) < ORDER.index(b) for a, b in pairwise(words))
