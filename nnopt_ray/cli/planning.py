"""plan: what a page would do, before it does it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nnopt_ray import reading
from nnopt_ray.cli import answer

if TYPE_CHECKING:
    from nnopt_ray.search.plan import Plan, Span
    from nnopt_ray.search.trying import Tried

Set = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Close, open or change a value.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def register(app: typer.Typer) -> None:
    app.command("plan")(plan)


def plan(
    page: Annotated[Path, typer.Argument(help="The page.")],
    set_: Set = None,
    overfit: Annotated[bool, typer.Option(help="Try whether the network can learn a few rows by heart.")] = True,
    json_: Json = False,
) -> int:
    """What a page would do: trials, epochs, workers, memory, time. Starts no search."""
    experiment = reading.load(page, set=set_)
    from nnopt_ray.runs import telling_own_faults
    from nnopt_ray.search import plan as planning

    with warnings.catch_warnings(), telling_own_faults(experiment):
        # Libraries warn about their own future; a user of the program can act on none of it.
        warnings.simplefilter("ignore")
        found = planning.plan(experiment, overfit)
    faults = _faults(page, found.faults)
    if json_:
        failed = {"exit_code": found.exit_code, "error": "\n".join(faults)} if faults else {}
        answer({"ok": not faults, **failed, **found.to_json()})
    else:
        _show(found)
    for fault in faults:
        print(fault, file=sys.stderr)
    return found.exit_code


def _faults(page: Path, tried: Sequence[Tried]) -> list[str]:
    """A line for each fault; branches that share one are counted."""
    alike: dict[str, list[Tried]] = {}
    for each in tried:
        alike.setdefault(each.fault, []).append(each)
    lines = []
    for fault, of in alike.items():
        others = f" (and {len(of) - 1} more)" if len(of) > 1 else ""
        where = f"with {_values(of[0])}{others}: " if of[0].branch.params else ""
        lines.append(f"{page}: {where}{fault}")
    return lines


def _show(found: Plan) -> None:
    for name, said in _lines(found):
        print(f"{name:<12}{said}")
    if len(found.tried) > 1:
        _table(found)


def _lines(found: Plan) -> list[tuple[str, str]]:
    """(what, in words)."""
    rows = ", ".join(f"{count:,} for {part}" for part, count in found.data.rows.items())
    told = [("data", f"{rows} ({_data(found)})")]
    if found.search:
        least = "" if found.trials_exact else "at most "
        told.append(("trials", f"{least}{found.trials:,} ({found.method})"))
    told.append(("epochs", f"{_whole(found.epochs)} in all{_scheduler(found)}"))
    if found.confirm_epochs:
        told.append(("confirm", f"at most {found.confirm_epochs:,} epochs more, by the best trials over seeds"))
    if found.search:
        told.append(("workers", f"{found.workers}, {found.workers_why}"))
        lanes = found.lanes
        told.append(("lanes", lanes.why if lanes.count is None else f"{lanes.count}, {lanes.why}"))
    branches = f" in each of {len(found.tried)} branches of the page" if found.search else ""
    told.append(("tried", f"one real batch forward and backward{branches}"))
    if found.overfit is not None:
        told.append(("overfits", found.overfit.told))
    if found.parameters is not None:
        told.append(("parameters", _whole(found.parameters)))
    if found.memory is not None:
        parts = "weights, gradient, optimizer, best epoch, and what a batch keeps for its backward pass"
        told.append(("memory", f"{_sizes(found.memory)} a trial: {parts}"))
    if found.seconds is not None and found.epoch_s is not None:
        told += _time(found)
    return told + [("note", note) for note in found.notes]


def _data(found: Plan) -> str:
    if not found.data.resident:
        return "too large to hold: read from disk batch by batch"
    return f"{_size(found.data.bytes)} of {found.device} memory {'each worker' if found.search else 'with training'}"


def _scheduler(found: Plan) -> str:
    if not found.search or found.scheduler == "none":
        return ""
    return f", as {found.scheduler} decides"


def _time(found: Plan) -> list[tuple[str, str]]:
    assert found.seconds is not None
    assert found.epoch_s is not None
    low, high = _duration(found.seconds.least), _duration(found.seconds.most)
    more = f", and up to {_duration(found.confirm_s)} to confirm" if found.confirm_s else ""
    each = " on each branch by itself" if found.search else ""
    epoch = f"{_brief(found.epoch_s)} an epoch, measured here{each}"
    at_once = f"{found.at_once} trials at a time" if found.at_once > 1 else "one trial after another"
    by = f"; their mean times the epochs, {at_once}, without lanes" if found.search else ""
    return [
        ("time", f"about {low if low == high else f'{low} to {high}'}{more}"),
        ("", f"from {epoch}{by}. Starting, evaluation and report are not counted."),
    ]


def _table(found: Plan) -> None:
    from nnopt_ray.cli.columns import table

    rows = []
    for each in found.tried:
        parameters = None if each.parameters is None else f"{each.parameters:,}"
        size = None if each.memory is None else _size(each.memory.total)
        epoch = None if each.epoch_s is None else _duration(each.epoch_s)
        said = "fault" if each.fault else f"diverges: {each.diverged}" if each.diverged else each.note
        rows.append([_values(each), parameters, size, epoch, said])
    print()
    table(["branch", "parameters", "memory", "epoch", ""], rows)


def _values(tried: Tried) -> str:
    """How a branch differs from the first one."""
    from nnopt_ray.log import said

    return said(tried.branch.moved) or "the first of everything"


def _whole(span: Span) -> str:
    low, high = f"{span.least:,.0f}", f"{span.most:,.0f}"
    return low if low == high else f"{low} to {high}"


def _sizes(span: Span) -> str:
    low, high = _size(span.least), _size(span.most)
    return low if low == high else f"{low} to {high}"


def _size(count: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _brief(span: Span) -> str:
    low, high = _duration(span.least), _duration(span.most)
    return low if low == high else f"{low} to {high}"


def _duration(seconds: float) -> str:
    from nnopt_ray.report.words import NBSP, duration

    return duration(seconds).replace(NBSP, " ")
