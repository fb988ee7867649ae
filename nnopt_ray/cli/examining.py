"""data: what is wrong with the data of a page."""

from __future__ import annotations

import shutil
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnopt_ray import reading, rundir
from nnopt_ray.cli import answer
from nnopt_ray.errors import UserError

if TYPE_CHECKING:
    from nnopt_ray.data.examine import Examination

Set = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Close, open or change a value.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]

WIDTH = 110  # of the sentences at most
MARGIN = 25  # in front of them


def register(app: typer.Typer) -> None:
    app.command("data")(data)


def data(
    page: Annotated[Path, typer.Argument(help="The page.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.csv", help="Write every row that was found there.")
    ] = None,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """What is wrong with the data, by every check, and what the page's own would do about it. Changes nothing."""
    experiment = reading.load(page, set=set_)
    if out is not None and (out.suffix != ".csv" or not out.parent.is_dir()):
        raise UserError(f"the rows are written as a .csv file into a folder that is there, and -o is {out}.")
    from nnopt_ray import runs

    with warnings.catch_warnings():
        # Libraries warn about their own future; a user of the program can act on none of it.
        warnings.simplefilter("ignore")
        found = runs.examine(experiment)
    if out is not None:
        rundir.write_text(out, found.csv())
    if json_:
        answer({"ok": True, **found.to_json()})
        return
    for line in _lines(found):
        print(line)
    if out is not None:
        print(out)


def _lines(found: Examination) -> Iterator[str]:
    parts = ", ".join(f"{rows:,} for {part}" for part, rows in found.parts.items())
    yield from _told("", "data", f"{found.source}: {found.rows:,} rows with a target, {parts}")
    for one in found.findings:
        yield from _told(one.severity, one.check, one.sentence)
        if one.repaired:
            yield from _told("", "", f"by the page  {', '.join(f'{n:,} {what}' for what, n in one.repaired.items())}")
        elif one.cure:
            yield from _told("", "", f"to do  {one.cure}")
    if found.nothing:
        yield from _told("", "nothing", f"was found by {', '.join(found.nothing)}")
    for name, why in found.skipped.items():
        yield from _told("", "left out", why if name in why else f"{name}: {why}")
    would = _would(found)
    yield from _told("", "the page", would)


def _told(severity: str, name: str, sentence: str) -> Iterator[str]:
    head = f"{severity:<8}{name:<{MARGIN - 8}}"
    width = min(WIDTH, max(40, shutil.get_terminal_size((WIDTH + MARGIN, 40)).columns - MARGIN))
    lines = textwrap.wrap(sentence, width, break_on_hyphens=False, break_long_words=False)
    yield f"{head}{lines[0]}"
    yield from (f"{'':<{MARGIN}}{line}" for line in lines[1:])


def _would(found: Examination) -> str:
    if not found.named:
        return "repairs nothing: it has no data.quality"
    counts = found.would
    named = ", ".join(found.named)
    if not counts:
        return f"repairs nothing ({named})"
    told = ", ".join(f"{count:,} {action}" for action, count in counts.items())
    return f"would repair, in the parts that it names: {told} ({named}); audit.csv of a run lists each"
