"""Rows in columns, as every verb prints them."""

from __future__ import annotations

import sys
from typing import Any


def table(head: list[str], rows: list[list[Any]]) -> None:
    """Print rows in columns; numbers with four digits, None as nothing."""
    from rich.console import Console
    from rich.table import Table

    from nnopt_ray.cli.console import WIDTH_LIMIT
    from nnopt_ray.log import number

    made = Table(box=None, pad_edge=False)
    for name in head:
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*(number(v) if isinstance(v, float) else "" if v is None else str(v) for v in row), style=None)
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH_LIMIT).print(made)
