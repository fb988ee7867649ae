"""lr: which learning rates a page's network learns at."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnopt_ray import reading, rundir
from nnopt_ray.cli import answer
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment, Range

if TYPE_CHECKING:
    from nnopt_ray.train.lr_range import LrRange

Set = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Close, open or change a value.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]

WIDTH = 64  # columns of the curve at most
BARS = "▁▂▃▄▅▆▇█"


def register(app: typer.Typer) -> None:
    app.command("lr")(lr)


def lr(
    page: Annotated[Path, typer.Argument(help="The page.")],
    low: Annotated[float, typer.Option("--from", help="The first rate.")] = 1e-7,
    high: Annotated[float, typer.Option("--to", help="The last rate.")] = 10.0,
    steps: Annotated[int, typer.Option(help="Steps from one to the other, evenly in the logarithm.")] = 100,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE.csv", help="Write the curve there.")] = None,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """The learning-rate range test: some steps at a growing rate, and the rate that they suggest."""
    experiment = reading.load(page, set=set_)
    if out is not None and (out.suffix != ".csv" or not out.parent.is_dir()):
        raise UserError(f"the curve is written as a .csv file into a folder that is there, and -o is {out}.")
    from nnopt_ray import runs

    with warnings.catch_warnings():
        # Libraries warn about their own future; a user of the program can act on none of it.
        warnings.simplefilter("ignore")
        found = runs.lr_range_test(experiment, low, high, steps)
    if out is not None:
        lines = [f"{each[0]!r},{each[1]!r},{each[2]!r}\n" for each in _rows(found)]
        rundir.write_text(out, "lr,loss,smoothed\n" + "".join(lines))
    if json_:
        answer({"ok": True, **_told(experiment, found)})
        return
    for name, said in _lines(experiment, found):
        print(f"{name:<13}{said}")
    if out is not None:
        print(out)


def _rows(found: LrRange) -> list[tuple[float, float, float]]:
    return list(zip(found.lr, found.loss, found.smoothed, strict=True))


def _told(experiment: Experiment, found: LrRange) -> dict[str, Any]:
    return {
        "optimizer": found.optimizer,
        "batch_size": found.batch_size,
        "suggested": found.suggested,
        "why": found.why,
        "steepest": found.steepest,
        "minimum": found.minimum,
        "set": None if found.suggested is None else _setting(experiment, found),
        "stopped": found.stopped,
        "curve": [dict(zip(("lr", "loss", "smoothed"), row, strict=True)) for row in _rows(found)],
    }


def _lines(experiment: Experiment, found: LrRange) -> list[tuple[str, str]]:
    """(what, in words)."""
    began = f"{len(found.lr)} steps of a new network, {found.optimizer}, batches of {found.batch_size}"
    lines = [("tried", f"{began}{f'; {found.stopped}' if found.stopped else ''}")]
    if found.lr:
        lines += _curve(found)
    if found.suggested is None or found.steepest is None or found.minimum is None:
        return [*lines, ("suggested", f"no rate: {found.why}.")]
    if experiment.space:
        lines.append(("note", "the page opens values: this is for the first of each, and others may need other rates."))
    return [
        *lines,
        ("falls most", f"at {found.steepest:.2g}"),
        ("least", f"at {found.minimum:.2g}; a tenth of it is {found.minimum / 10:.2g}"),
        ("suggested", f"{found.suggested:g}: {found.why}"),
        ("on the page", f"train: {{optimizer: {{type: {found.optimizer}, lr: {found.suggested:g}}}}}"),
        ("or", f"--set '{_setting(experiment, found)}'"),
    ]


def _setting(experiment: Experiment, found: LrRange) -> str:
    """What --set takes to put the rate on the page."""
    if isinstance(experiment.tree["train"]["optimizer"], Range):  # a choice of optimizers has no lr of its own
        return f"train.optimizer={{type: {found.optimizer}, lr: {found.suggested:g}}}"
    return f"train.optimizer.lr={found.suggested:g}"


def _curve(found: LrRange) -> list[tuple[str, str]]:
    """The smoothed loss as a row of bars, and below it the powers of ten of the rate."""
    # Where the loss explodes, its height would make all else a line.
    top, bottom = min(max(found.smoothed), 1.25 * found.smoothed[0]), min(found.smoothed)
    columns = min(WIDTH, len(found.lr))
    chosen = [round(column * (len(found.lr) - 1) / max(columns - 1, 1)) for column in range(columns)]
    heights = [min(1.0, (found.smoothed[step] - bottom) / ((top - bottom) or 1)) for step in chosen]
    bars = "".join(BARS[round(height * (len(BARS) - 1))] for height in heights)
    return [
        ("loss", f"{bars}  from {found.smoothed[0]:.3g} down to {bottom:.3g}"),
        ("lr", _scale([found.lr[step] for step in chosen])),
    ]


def _scale(rates: Sequence[float]) -> str:
    """`1e-05    1e-03`: each other power of ten where it stands, as far as there is room."""
    line = ""
    for column, rate in enumerate(rates):
        power = math.floor(math.log10(rate) + 1e-9)
        before = math.floor(math.log10(rates[column - 1]) + 1e-9) if column else None
        if power == before or (column == 0 and rate > 1.01 * 10.0**power):
            continue
        if not line or column > len(line) + 1:
            line = f"{line:<{column}}1e{power}"
    return line
