"""Writes docstrings.csv: the documentation of the packages that nnopt needs, to guess the package from the text.

    python jobs/make_docstrings.py [FILE]

A row is the docstring of a module, class or function: `text`, and `package`. Nothing is imported; the files that are
installed are parsed. At most 300 texts of each of 10 packages; this takes about half a minute.
"""

from __future__ import annotations

import ast
import csv
import importlib.util
import random
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("numpy", "pandas", "torch", "sklearn", "ray", "optuna", "plotly", "pydantic", "rich", "pyarrow")
EACH = 300
SHORTEST = 40  # characters


def docstrings(package: str) -> Iterator[str]:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"the package {package} is not installed")
    for file in sorted(Path(found.submodule_search_locations[0]).rglob("*.py")):
        if "tests" in file.parts:
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text and len(text) >= SHORTEST:
                    yield text


def main(place: Path) -> None:
    drawn = random.Random(0)
    rows = []
    for package in PACKAGES:
        # Sorted and without repeats, so that no text stands in two parts.
        texts = sorted(set(docstrings(package)))
        rows += [(text, package) for text in drawn.sample(texts, min(EACH, len(texts)))]
    drawn.shuffle(rows)
    with place.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(("text", "package"))
        lines.writerows(rows)
    print(f"{len(rows):,} texts of {len(PACKAGES)} packages in {place}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docstrings.csv"))
