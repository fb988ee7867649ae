"""Runs that are cut off wherever they touch the disk, and what must hold of a run folder however it was cut."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nnopt_ray as nn
from nnopt_ray import reading, rundir, tables
from nnopt_ray.search import journal as journals
from nnopt_ray.search.space import most_epochs
from nnopt_ray.train import checkpoints, state


class Killed(BaseException):
    """What no part of the program can catch, as it cannot catch a kill."""


class Knife:
    """Kills at the n-th time that the program writes: before or after a line of the journal, a file, a state."""

    def __init__(self, at: int) -> None:
        self.at, self.times = at, 0

    def touch(self) -> None:
        self.times += 1
        if self.times >= self.at:
            raise Killed


@contextmanager
def cut(at: int) -> Iterator[Knife]:
    """Everything in here ends, by Killed, at the `at`-th touch; at the first that follows too."""
    knife = Knife(at)
    kept: list[tuple[Any, str, Any]] = []

    def wrap(owner: Any, name: str, after: bool = True) -> None:
        own: Callable[..., Any] = getattr(owner, name)

        def touched(*arguments: Any, **keys: Any) -> Any:
            knife.touch()
            found = own(*arguments, **keys)
            if after:
                knife.touch()
            return found

        kept.append((owner, name, own))
        setattr(owner, name, touched)

    wrap(journals.Journal, "append")
    wrap(state, "save")
    wrap(rundir, "write")
    try:
        yield knife
    finally:
        for owner, name, own in kept:
            setattr(owner, name, own)


def run_with_cuts(experiment: nn.Experiment, out: Path, cuts: list[int], **how: Any) -> tuple[nn.Run, int]:
    """Run a page, cut off after so many touches each time, and resumed → the run, how often it was cut."""
    done = 0
    for at in cuts:
        there = sorted(out.glob("*/resolved.yaml"))
        try:
            with cut(at):
                return (nn.resume(there[0].parent) if there else nn.run(experiment, out, **how)), done
        except Killed:
            done += 1
    there = sorted(out.glob("*/resolved.yaml"))
    return (nn.resume(there[0].parent) if there else nn.run(experiment, out)), done


def table(run: nn.Run) -> list[dict[str, Any]]:
    """What a trial is, without what the clock says; NaN as None, so that equal tables are equal."""
    found = [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items() if "second" not in k}
        for row in run.trials.to_dict("records")
    ]
    return sorted(found, key=lambda row: str(row["trial"]))


def judge_whole(run: nn.Run) -> list[dict[str, Any]]:
    """Asserts all that must hold of a finished search → its journal."""
    folder = rundir.RunDir(run.path)
    events = list(journals.read(folder.journal))
    trials_are_whole(folder, run.experiment, events)
    decisions_are_the_judges(run.experiment, events)
    return events


def trials_are_whole(folder: rundir.RunDir, experiment: nn.Experiment, events: list[dict[str, Any]]) -> None:
    """No trial is lost, none is repeated, epochs follow each other, and the files say the same."""
    sign = 1.0 if experiment.mode == "min" else -1.0
    asked = [event["trial"] for event in events if event["event"] == "asked" and not event.get("confirms")]
    confirming = [event["trial"] for event in events if event["event"] == "asked" and event.get("confirms")]
    assert asked == [f"{number + 1:04d}" for number in range(len(asked))]
    assert len(confirming) == len(set(confirming))
    values: dict[str, list[float]] = defaultdict(list)
    ended: dict[str, dict[str, Any]] = {}
    for event in events:
        if event["event"] == "result":
            assert event["trial"] not in ended, f"{event['trial']} trained on after its end"
            assert event["epoch"] == len(values[event["trial"]]), (event, len(values[event["trial"]]))
            values[event["trial"]].append(math.nan if event["value"] is None else event["value"])
        elif event["event"] == "ended":
            assert event["trial"] not in ended, f"{event['trial']} ended twice"
            ended[event["trial"]] = event
    assert sorted(ended) == sorted([*asked, *confirming])
    for name, event in ended.items():
        assert event["epochs"] == len(values[name]), name
        lines = list(rundir.read_lines(folder.trial(name).history))
        if event["status"] == "failed":
            continue
        assert [line["epoch"] for line in lines] == list(range(event["epochs"])), (name, lines, event)
        told = [line[experiment.metric] for line in lines]
        assert [math.nan if v is None else v for v in told] == values[name], name
        best = min(range(len(values[name])), key=lambda epoch: sign * values[name][epoch])
        assert event["best_epoch"] == best, name
        assert event["value"] == values[name][best], name
        kept = state.load(checkpoints.best_file(folder.trial(name)))
        assert kept.scalars["epoch"] == best, (name, kept.scalars, best)


def decisions_are_the_judges(experiment: nn.Experiment, events: list[dict[str, Any]]) -> None:
    """A judge that hears the journal from its beginning decides every time as was done."""
    judge = tables.build("scheduler", experiment.search.scheduler).start(
        experiment.mode, most_epochs(experiment), experiment.seed, experiment.space
    )
    done: dict[str, int] = defaultdict(int)
    waiting: dict[str, Any] = {}  # verdicts that were not carried out yet
    dropped: set[str] = set()
    params: dict[str, dict[str, Any]] = {}
    ours: set[str] = set()
    widened = any(event.get("space_changed") for event in events)  # pbt drew changed values from the space of its time
    for event in events:
        kind, trial = event["event"], event.get("trial", "")
        if kind == "asked" and not event.get("confirms"):
            ours.add(trial)
            params[trial] = event["params"]
            judge.asked(trial)
        elif kind == "result" and trial in ours:
            assert trial not in waiting, f"{trial} trained on against {waiting[trial]}"
            before, done[trial] = done[trial], done[trial] + 1
            if done[trial] < experiment.train.epochs and judge.next_decision(trial, before) == done[trial]:
                value = math.nan if event["value"] is None else event["value"]
                verdict = judge.judge(trial, done[trial], value, params[trial])
                dropped |= set(judge.dropped())
                if verdict.kind != "go":
                    waiting[trial] = verdict
        elif kind in ("stop", "pause", "copy"):
            assert waiting[trial].kind == kind
        elif kind == "paused":
            assert waiting.pop(trial).kind == "pause"
        elif kind == "copied":
            verdict = waiting.pop(trial)
            assert (verdict.kind, verdict.donor) == ("copy", event["donor"])
            if not widened:
                assert json.dumps(dict(verdict.params), sort_keys=True) == json.dumps(event["params"], sort_keys=True)
            params[trial] = event["params"]
        elif kind == "promoted":
            assert judge.promote() == trial
            waiting.pop(trial, None)
        elif kind == "gave_up":
            assert judge.give_up() == event["trials"]
            dropped |= set(event["trials"])
        elif kind == "ended" and trial in ours:
            verdict = waiting.pop(trial, None)
            stopped = trial in dropped or (verdict is not None and verdict.kind == "stop")
            assert (event["status"] == "stopped") == stopped, (event, verdict, trial in dropped)
            failed = event["status"] == "failed"
            judge.ended(trial, done[trial], None if failed else _last(events, trial))
            dropped |= set(judge.dropped())
    assert not waiting


def _last(events: list[dict[str, Any]], trial: str) -> float | None:
    values = [event["value"] for event in events if event["event"] == "result" and event["trial"] == trial]
    return None if not values else math.nan if values[-1] is None else values[-1]


PAGE = """
name: cut
seed: 3
data: {source: {type: sklearn, name: iris}, steps: [scale]}
model: {type: mlp, widths: [16], dropout: {uniform: [0.0, 0.4]}}
train: {epochs: 9, batch_size: 32, checkpoint: {every: EVERY}, optimizer: {type: adam, lr: {log: [1.0e-3, 0.3]}}}
search: {method: METHOD, trials: 8, scheduler: SCHEDULER, MORE}
resources: {RESOURCES}
evaluate: {bootstrap: 0}
"""
SCHEDULERS = {
    "none": "none",
    "asha": "asha",
    "asha promote": "{type: asha, form: promote}",
    "hyperband": "hyperband",
    "median": "median",
    "pbt": "{type: pbt, perturbation_interval: 2}",
}


def page(
    folder: Path,
    scheduler: str = "none",
    method: str = "random",
    every: int | str = 1,
    more: str = "reproducible: false",
    resources: str = "fuse: auto",
) -> nn.Experiment:
    """A search over a small network, written to a folder and read back."""
    words = {"EVERY": str(every), "METHOD": method, "SCHEDULER": SCHEDULERS[scheduler]}
    text = PAGE
    for word, value in {**words, "MORE": more, "RESOURCES": resources}.items():
        text = text.replace(word, value)
    (folder / "page.yaml").write_text(text)
    return reading.load(folder / "page.yaml")
