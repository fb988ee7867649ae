"""run, resume: do what a page says."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from nnopt_ray import reading
from nnopt_ray.cli import answer
from nnopt_ray.errors import UserError
from nnopt_ray.experiment import Experiment, count
from nnopt_ray.rundir import RunDir, read_lines

WORST = 2  # findings of the diagnosis that are told beneath the scores

Set = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Close, open or change a value.")]
Address = Annotated[str | None, typer.Option(help="A Ray cluster to search on, e.g. auto or 10.0.0.1:6379.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, all else on standard error.")]


def register(app: typer.Typer) -> None:
    app.command("run")(run)
    app.command("resume")(resume)


def run(
    page: Annotated[Path, typer.Argument(help="The page.")],
    set_: Set = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="PARENT", help="Parent of the run folder, also a URL such as s3://BUCKET/runs (default: runs/)."
        ),
    ] = None,
    address: Address = None,
    once: Annotated[
        bool, typer.Option("--once", help="Go on with the newest run of exactly this page; nothing, if it is finished.")
    ] = False,
    json_: Json = False,
) -> None:
    """Do what a page says, here or on a Ray cluster; prints the run folder last."""
    experiment = reading.load(page, set=set_)
    from nnopt_ray import runs

    if once:
        from nnopt_ray.launch.once import begun

        earlier = begun(experiment, out)
        if earlier is not None:
            resume(earlier, address=address, json_=json_)
            return

    _shown(experiment, json_, lambda watch, stopped: runs.run(
        experiment, out, address=address, watch=watch, should_stop=stopped))  # fmt: skip


def resume(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="The run folder; with the address of a job server, one over there.")
    ],
    trials: Annotated[
        str | None, typer.Option(metavar="N|+N", help="Trials of the search in all, or so many more.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=RANGE", help="Another range; earlier trials stay evidence."),
    ] = None,
    address: Address = None,
    json_: Json = False,
) -> int:
    """Go on with a run after any interruption; or further with a finished search."""
    if address is not None and address.startswith(("http://", "https://")):
        from nnopt_ray.cli.launching import resume_there

        told = [word for value in set_ or () for word in ("--set", value)]
        resume_there(str(folder), address, ["--trials", trials, *told] if trials is not None else told)
        return 0
    if RunDir(folder).study.is_file():
        from nnopt_ray.cli import scaling

        if trials is not None or set_:
            raise UserError(f"{folder} is a scaling study: it goes on as it was begun, without --trials and --set.")
        return scaling.resume(folder, address, json_)
    from nnopt_ray import runs

    found = runs.open_run(folder)
    changes: dict[str, Any] = {}
    if trials is not None:
        changes["trials"] = total_trials(trials, found.experiment, _asked(RunDir(found.path)), found.place)
    if set_:
        changes["set"] = set_
    if found.finished and not changes:
        left = "nothing to do" if RunDir(found.path).report.is_file() else "its report is built now"
        print(f"{found.place} is finished already; {left}.", file=sys.stderr)
    _shown(found.experiment, json_, lambda watch, stopped: runs.resume(
        folder, address=address, watch=watch, should_stop=stopped, **changes))  # fmt: skip
    return 0


def _asked(run: RunDir) -> int:
    """How many trials a search has begun."""
    return sum(event["event"] == "asked" and "confirms" not in event for event in read_lines(run.journal))


def total_trials(said: str, experiment: Experiment, begun: int, run: str | Path) -> int:
    """What `--trials N` or `--trials +N` makes of the number of trials in all. Raises UserError.

    begun: trials of the search so far, which no number takes back.
    """
    number = re.fullmatch(r"(\+?)([1-9][0-9]{0,8})", said.strip())
    if number is None:
        raise UserError(f"--trials takes the trials in all, such as 100, or so many more, such as +50; it is '{said}'.")
    if not experiment.is_search:
        raise UserError(f"--trials {said}: {run} is a single training, which has no trials to add to.")
    now = experiment.search.trials
    if isinstance(now, tuple):
        raise UserError(f"--trials {said}: the {len(now)} trials of {run} were listed by hand, and a number adds none.")
    if now is None:  # a whole grid
        now = count(experiment.tree) or begun
    total = (now if number[1] else 0) + int(number[2])
    if total < begun:
        raise UserError(
            f"--trials {said}: {run} has begun {begun} trials already, and what is done stays done. Give at least "
            f"{begun}, or +N for N more than the {now} it was made for."
        )
    return total


def _shown(experiment: Any, json_: bool, go: Callable[[Any, Any], Any]) -> None:
    from nnopt_ray.cli.console import carried_out

    done, screen = carried_out(experiment, json_, go)
    if json_:
        answer({"ok": True, "path": done.place, **done.result})
        return
    _summary(done.result, screen)
    _diagnosis(RunDir(done.path), screen)
    print(done.place)


def _diagnosis(run: RunDir, screen: Any) -> None:
    """The worst of what is wrong; the report has all."""
    from nnopt_ray.report.diagnosed import lines, of_folder

    found = of_folder(run)
    worst = [each for each in found if each.severity != "low"][:WORST]
    for line in lines(worst):
        screen.note(line)
    if len(found) > len(worst) and worst:
        screen.note(f"{'':<7} {len(found) - len(worst)} more in report.html, or by `nnopt show {run.place}`")


def _summary(result: dict[str, Any], screen: Any) -> None:
    from nnopt_ray.log import number, said

    best = result["best"]
    metric = result["objective"]["metric"]
    values = f"  {said(best['values'])}" if best["values"] else ""
    value = number(best["metrics"].get(metric))
    zero = best["metrics"].get("sparsity")
    zero = "" if zero is None else f", {100 * zero:.1f} % of the weights 0"
    screen.note(f"best: trial {best['trial']}, {metric} {value} at epoch {best['epoch']}{zero}{values}")
    if "cv" in result:
        for line in _cross_validated(result["cv"]):
            screen.note(line)
    base = result["baseline"]
    screen.note(f"{'on the test part':<24}{'best':<10}{'interval':<26}{base['type']}")
    for name, value in result["test"].items():
        low, high = result["test_interval"].get(name, (None, None))
        interval = "" if low is None else f"{number(low)} to {number(high)}"
        screen.note(f"{name:<24}{number(value):<10}{interval:<26}{number(base['metrics'].get(name))}")
    if spent := result.get("spent"):
        screen.note("seconds: " + ", ".join(f"{number(seconds)} {name}" for name, seconds in spent.items()))


def _cross_validated(found: dict[str, Any]) -> list[str]:
    """The scores over all folds: the objective's first, and what it is to the baseline."""
    from nnopt_ray.log import number

    metric = found["metric"]
    mean, base, gain = (found[part].get(metric) for part in ("winner", "baseline", "gains"))
    if mean is None or mean["sd"] is None:
        return ["cross-validation  fewer than two folds gave a value"]
    repeated = f"{found['repeats']} times {found['folds']}" if found["repeats"] > 1 else f"{mean['folds']}"
    told = f"{repeated} {'searches, one in each fold' if found['nested'] else 'folds'}"
    between = f"{number(mean['low'])} to {number(mean['high'])}"
    lines = [f"cross-validation  {metric} {number(mean['mean'])} ± {number(mean['sd'])} ({told}; {between})"]
    if gain is not None and gain["sd"] is not None:
        tie = gain["low"] <= 0 <= gain["high"]
        side = "not clearly better or worse" if tie else "better" if gain["mean"] > 0 else "worse"
        by = f"by {number(gain['mean'])} ({number(gain['low'])} to {number(gain['high'])}, paired by fold)"
        lines.append(f"  ahead of the baseline's {number(base['mean'])} {by}: {side}")
    return lines
