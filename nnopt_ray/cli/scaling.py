"""scale: how far a page scales, and what more workers would bring."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnopt_ray import reading
from nnopt_ray.cli import answer
from nnopt_ray.experiment import Experiment

if TYPE_CHECKING:
    from nnopt_ray.scaling.found import Scaling, Size
    from nnopt_ray.scaling.planner import Foreseen

Set = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Close, open or change a value.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, all else on standard error.")]


def register(app: typer.Typer) -> None:
    app.command("scale")(scale)


def scale(
    page: Annotated[Path, typer.Argument(help="The page.")],
    workers: Annotated[
        str | None, typer.Option(metavar="1,2,4", help="Processes that train the one network of the page.")
    ] = None,
    lanes: Annotated[
        str | None, typer.Option(metavar="1,4,16", help="Of a search: trials side by side in one process.")
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(metavar="0.25,0.5,1", help="GPUs of a worker; alone: as many workers as share one.")
    ] = None,
    weak: Annotated[bool, typer.Option("--weak", help="Rows and batch grow with the workers.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each training; the first is not timed.")] = None,
    seeds: Annotated[int, typer.Option(help="Trainings of each size: tells a worse score from chance.")] = 1,
    worker_hour: Annotated[
        float | None, typer.Option("--price-per-worker-hour", metavar="X", help="What a worker costs an hour.")
    ] = None,
    gpu_hour: Annotated[
        float | None, typer.Option("--price-per-gpu-hour", metavar="X", help="What a whole GPU costs an hour.")
    ] = None,
    plan: Annotated[str | None, typer.Option(metavar="8,64,1024", help="Foresee so many workers.")] = None,
    bandwidth: Annotated[
        str | None, typer.Option(metavar="25GB/s", help="Of the plan: between two workers; else as measured here.")
    ] = None,
    latency: Annotated[str | None, typer.Option(metavar="20us", help="Of the plan: of a message.")] = None,
    overlap: Annotated[
        bool, typer.Option("--overlap", help="Of the plan: gradients are sent beside the backward pass.")
    ] = False,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="Parent of the study's folder (default: runs/).")] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster to train on.")] = None,
    json_: Json = False,
) -> int:
    """Train a page at several sizes: speed-up, efficiency, cost, score; what limits it, and what more would bring."""
    from nnopt_ray.scaling import asked as asking

    asked = asking.Asked(
        workers=() if workers is None else asking.whole("--workers", workers),
        lanes=() if lanes is None else asking.whole("--lanes", lanes),
        gpus=() if gpus is None else asking.shares("--gpus", gpus),
        weak=weak,
        epochs=epochs,
        seeds=seeds,
        worker_hour=worker_hour,
        gpu_hour=gpu_hour,
        plan=() if plan is None else asking.whole("--plan", plan),
        bandwidth=None if bandwidth is None else asking.bandwidth(bandwidth),
        latency_s=None if latency is None else asking.latency(latency),
        overlap=overlap,
    )
    experiment = reading.load(page, set=set_)
    asked = asking.settled(asked, experiment)
    from nnopt_ray.scaling import study

    return shown(experiment, json_, lambda watch, stopped: study.carry_out(
        experiment, asked, out=out, address=address, watch=watch, should_stop=stopped))  # fmt: skip


def resume(folder: Path, address: str | None, json_: bool) -> int:
    """Go on with a study."""
    from nnopt_ray.scaling import study

    experiment = reading.load(folder / "resolved.yaml")
    before = study.open_study(folder)
    if before.status == "finished" and all(size.measured for size in before.sizes):
        print(f"{before.path} is finished already; nothing to do.", file=sys.stderr)
    return shown(experiment, json_, lambda watch, stopped: study.resume(
        folder, address=address, watch=watch, should_stop=stopped))  # fmt: skip


def shown(experiment: Experiment, json_: bool, go: Callable[[Any, Any], Scaling]) -> int:
    """Do it, and print what came out. 1 when not one size could be measured."""
    from nnopt_ray.cli.console import carried_out

    found, _ = carried_out(experiment, json_, go)
    exit_code = 0 if any(size.measured for size in found.sizes) else 1
    if json_:
        answer({"ok": exit_code == 0, **found.to_json()})
        return exit_code
    tell(found)
    print(found.path)
    return exit_code


def tell(found: Scaling) -> None:
    """The tables and sentences of a study."""
    from nnopt_ray.cli.columns import table
    from nnopt_ray.report.words import NBSP, metric_name

    money = any(size.money is not None for size in found.sizes)
    heads = ["size", "rows/s", "steps/s", "epochs/s", "epoch", "speed-up", "efficiency", "start", "worker-s/epoch"]
    heads += ["money/epoch"] * money + [metric_name(found.metric), ""]
    table(heads, [_row(size, found, money) for size in found.sizes])
    for size in found.sizes:
        if said := size.failed or size.note:
            print(f"{size.name}: {said}")
    kinds = list(dict.fromkeys(kind for size in found.sizes for kind in size.spent))
    if kinds:
        print("Where the time of an epoch goes:")
        shares = [
            [size.name, *(f"{100 * size.spent.get(kind, 0.0) / size.epoch_s:.1f} %" for kind in kinds)]
            for size in found.sizes
            if size.spent
        ]
        table(["size", *kinds], shares)
    for sentence in found.sentences:
        print(sentence.replace(NBSP, " "))
    if found.plan is not None:
        for title, foreseen in (("the batch kept", found.plan.kept), ("the batch grown", found.plan.grown)):
            print(f"Foreseen, {title}:")
            heads = ["workers", "batch", "step", "of it waiting", "epoch", "rows/s", "speed-up", "efficiency"]
            table(heads + ["money/epoch"] * money, [_planned(each, money) for each in foreseen])
    sys.stdout.flush()


def _row(size: Size, found: Scaling, money: bool) -> list[Any]:
    from nnopt_ray.report.words import NBSP, score

    if not size.measured:
        return [size.name, *[None] * (9 + money), "failed"]
    note = "shares cores" if size.oversubscribed else None
    start = _seconds(size.start_s) if math.isfinite(size.start_s) else None
    return [
        size.name,
        f"{size.rows_per_s:,.0f}",
        f"{size.steps_per_s:,.1f}",
        f"{size.epochs_per_s:,.3g}",
        _seconds(size.epoch_s),
        None if size.speed_up is None else f"{size.speed_up:.2f}",
        None if size.efficiency is None else f"{100 * size.efficiency:.0f} %",
        start,
        size.worker_s,
        *([size.money] if money else []),
        score(found.metric, size.value).replace(NBSP, " "),
        note,
    ]


def _planned(each: Foreseen, money: bool) -> list[Any]:
    return [
        f"{each.workers:,}",
        f"{each.batch_size:,}",
        _seconds(each.step_s),
        _seconds(each.communication_s),
        _seconds(each.epoch_s),
        f"{each.rows_per_s:,.0f}",
        f"{each.speed_up:.3g}",
        f"{100 * each.efficiency:.0f} %",
        *([each.money] if money else []),
    ]


def _seconds(seconds: float) -> str:
    from nnopt_ray.report.words import NBSP
    from nnopt_ray.scaling.page import seconds_told

    return seconds_told(seconds).replace(NBSP, " ")
