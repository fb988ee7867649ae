"""ls, show, report: look at what was done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnopt_ray.cli import answer
from nnopt_ray.cli.columns import table
from nnopt_ray.errors import RunFolderError, UserError
from nnopt_ray.rundir import RunDir, read_json, read_lines

if TYPE_CHECKING:
    from nnopt_ray.results import TrialRow

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
SHOWN_OF_A_CAUSE = 10  # ids of failed trials in the line of their cause


def register(app: typer.Typer) -> None:
    app.command("ls")(ls)
    app.command("show")(show)
    app.command("report")(report)


def ls(
    parent: Annotated[Path | None, typer.Argument(help="The folder of run folders (default: runs/).")] = None,
    json_: Json = False,
) -> None:
    """The runs of a folder: state, best value, trials, seconds."""
    from nnopt_ray.storage.urls import default_parent, url_of

    where = parent or default_parent()
    lines = [_line(run) for run in _runs_below(where)]
    if json_:
        answer({"runs": lines})
        return
    if not lines:
        print(f"No runs in {url_of(where) or where}.")
        return
    table(
        ["run", "status", "objective", "value", "trials", "seconds"],
        [[line[k] for k in ("run", "status", "objective", "value", "trials", "seconds")] for line in lines],
    )


def _runs_below(parent: str | Path) -> list[RunDir]:
    from nnopt_ray.storage import copies
    from nnopt_ray.storage.urls import path_of, url_of

    if url := url_of(parent):
        return copies.glances(url)
    where = path_of(parent)
    found = sorted(where.iterdir()) if where.is_dir() else []
    return [RunDir(path) for path in found if (path / "resolved.yaml").is_file()]


def _line(run: RunDir) -> dict[str, Any]:
    if run.study.is_file():
        return _study_line(run)
    if not run.result.is_file():
        from nnopt_ray.holding import in_use

        return {
            "run": run.place,
            "status": "running" if in_use(run) else "not finished",
            "objective": "",
            "value": None,
            "trials": len(_begun(run)),
            "seconds": None,
        }
    result = read_json(run.result)
    metric = result["objective"]["metric"]
    objectives = result.get("objectives") or [result["objective"]]
    return {
        "run": run.place,
        "status": result["status"],
        "objective": ", ".join(f"{'minimize' if o['mode'] == 'min' else 'maximize'} {o['metric']}" for o in objectives),
        "value": result["best"]["metrics"].get(metric),
        "trials": result["trials"]["total"],
        "seconds": result["seconds"],
    }


def _study_line(run: RunDir) -> dict[str, Any]:
    """Of a scaling study: what its fastest size gains."""
    from nnopt_ray.holding import in_use

    found: dict[str, Any] = {"status": "not finished", "sizes": []}
    if run.scaling.is_file():
        found = read_json(run.scaling)
    faster = [size["speed_up"] for size in found["sizes"] if size["speed_up"] is not None]
    return {
        "run": run.place,
        "status": "running" if in_use(run) else found["status"],
        "objective": "speed-up",
        "value": max(faster, default=None),
        "trials": len(found["sizes"]),
        "seconds": None,
    }


def _begun(run: RunDir) -> list[str]:
    """The trials that were taken up."""
    return sorted(path.name for path in run.trials.iterdir()) if run.trials.is_dir() else []


def show(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    trial: Annotated[str | None, typer.Argument(help="A trial's id: its epochs instead of all trials.")] = None,
    json_: Json = False,
) -> None:
    """The trials of a run, best first, and what is wrong with it; or the epochs of one trial."""
    from nnopt_ray.storage import copies

    run = RunDir.open(copies.view(folder))
    if run.study.is_file():
        _show_study(run.root, json_)
        return
    if trial is not None:
        _show_trial(run, trial, json_)
        return
    from nnopt_ray.holding import in_use
    from nnopt_ray.log import said
    from nnopt_ray.report.diagnosed import lines, of_folder
    from nnopt_ray.report.facts import trial_rows
    from nnopt_ray.runs import reopen
    from nnopt_ray.trials import cause_in_words

    experiment = reopen(run)
    rows = trial_rows(run, experiment)
    if not rows:
        raise RunFolderError(f"no trial of {run.place} has begun. `nnopt resume {run.place}` goes on.")
    sign = 1.0 if experiment.mode == "min" else -1.0
    rows = tuple(sorted(rows, key=lambda row: (row.value is None, sign * (row.value or 0.0))))
    # What a process that is gone had in work is running no more. A paused trial waits as it did.
    words = {} if in_use(run) else {"running": "interrupted", "pending": "interrupted"}
    failures = by_cause(rows)
    # The first objective is `value`; the seconds stand in a column of their own.
    others = [metric for _, metric in experiment.objectives[1:] if metric != "seconds"]
    if json_:
        told = ("trial", "status", "cause", "reason", "value", "epochs", "seconds")
        listed = [{**{name: getattr(row, name) for name in told}, "metrics": dict(row.metrics),
                  "params": dict(row.params)} for row in rows]  # fmt: skip
        for each in listed:
            each["status"] = words.get(each["status"], each["status"])
        answer({"trials": listed, "failures": failures, "diagnosis": [asdict(one) for one in of_folder(run)]})
        return
    table(
        ["trial", "status", "value", *others, "epochs", "seconds", "values", "reason"],
        [
            [r.trial, words.get(r.status, r.status), r.value, *(r.metrics.get(other) for other in others), r.epochs,
             r.seconds, said(r.params), r.reason]
            for r in rows
        ],
    )  # fmt: skip
    for cause, trials in failures.items():
        named = ", ".join(trials[:SHOWN_OF_A_CAUSE]) + ", ..." * (len(trials) > SHOWN_OF_A_CAUSE)
        print(f"{len(trials)} failed, {cause_in_words(cause)}: {named}")
    found = of_folder(run)
    if found:
        print("What is wrong, and what to change:")
    for line in lines(found):
        print(line)


def _show_study(folder: Path, json_: bool) -> None:
    from nnopt_ray.cli import scaling
    from nnopt_ray.scaling import study

    found = study.open_study(folder)
    if json_:
        answer(found.to_json())
        return
    scaling.tell(found)


def by_cause(rows: Iterable[TrialRow]) -> dict[str, list[str]]:
    """The failed trials of each cause, the commonest cause first. "" is the cause of runs that recorded none."""
    found: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: row.trial):
        if row.status == "failed":
            found.setdefault(row.cause, []).append(row.trial)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def _show_trial(run: RunDir, trial: str, json_: bool) -> None:
    known = _begun(run)
    trial = trial if trial in known else trial.zfill(4)
    if trial not in known:
        raise UserError(
            f"{run.place} has no trial '{trial}'. There are: {', '.join(known[:10])}{' ...' * (len(known) > 10)}"
        )
    lines = list(read_lines(run.trial(trial).history))
    if json_:
        answer({"trial": trial, "history": lines})
        return
    names = [name for name in (lines[0] if lines else {}) if name not in ("events", "epoch")]
    table(
        ["epoch", *names, "events"],
        [[line["epoch"], *(line.get(n) for n in names), "; ".join(line["events"])] for line in lines],
    )
    print(f"page: {run.trial(trial).page}")


def report(folder: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")]) -> None:
    """Build report.html again from the files of the run folder."""
    from nnopt_ray.report import write
    from nnopt_ray.runs import reopen
    from nnopt_ray.storage import copies

    run = RunDir.open(copies.view(folder))
    if run.study.is_file():
        from nnopt_ray.scaling import study

        print(study.report(run.root))
        return
    reopen(run)
    write.write(run, write.facts_from_folder(run))
    print(run.report)
