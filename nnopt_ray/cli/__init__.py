"""The program `nnopt`: one small file a group of verbs; each parses, calls one function, prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

from nnopt_ray.rundir import finite

_kept: list[TextIO] = []  # standard output, while it is kept for the answer


@contextmanager
def json_only() -> Iterator[None]:
    """Keep standard output for `answer`; what else is printed, by a part of the user's too, goes to standard error."""
    _kept.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _kept.pop()


def answer(said: Mapping[str, Any]) -> None:
    """Print the one JSON object of a command."""
    out = _kept[-1] if _kept else sys.stdout
    print(json.dumps(finite(dict(said)), ensure_ascii=False, allow_nan=False), file=out, flush=True)
