"""THE straight line: page → data → model → training → evaluation → run folder and report.

prepared   the data, prepared once and placed in the run folder
train_one  a single training (a search puts search.study here)
conclude   the winner and the baseline on the test part, once; result.json; the report
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_ray import assembly, folding, reading, rundir
from nnopt_ray import machine as machines
from nnopt_ray.errors import Interrupted, RunFailed
from nnopt_ray.experiment import Experiment
from nnopt_ray.results import Confirmation, Epoch, Progress, RunResult, TrialRow
from nnopt_ray.rundir import RunDir
from nnopt_ray.trials import no_value, write_table

if TYPE_CHECKING:
    import torch

    from nnopt_ray.data.types import Dataset
    from nnopt_ray.evaluate.evaluation import Evaluation
    from nnopt_ray.evaluate.folded import Folded
    from nnopt_ray.evaluate.sized import Sized

SINGLE = "0001"  # the id of the one trial of a run that searches nothing


class Watch:
    """Is told what happens in a run; the program prints it, Python callers may ignore it."""

    def note(self, sentence: str) -> None:
        """Something the user should know."""

    def begin(self, total: int, workers: int, over: Mapping[str, int]) -> None:
        """`total` trials will run on `workers` workers.

        `over`: how many of them are finished, stopped and failed already, in a search that is resumed.
        """

    def epoch(self, epoch: Epoch) -> None:
        """An epoch of a single training is done."""

    def progress(self, state: Progress) -> None:
        """A search moved on; asked several times a second."""

    def trial(self, row: TrialRow, best: TrialRow | None) -> None:
        """A trial is over; `best` is the best one so far."""


def never() -> bool:
    """The default of `should_stop`."""
    return False


def silent(sentence: str) -> None:
    """The default of `note`."""


def begin(
    experiment: Experiment, parent: Path, name: str = "", first: Callable[[RunDir], None] = lambda run: None
) -> RunDir:
    """Make the run folder and write down what is about to be done.

    name: other than the page's. first: writes what must be there before the folder counts as a run.
    """
    run = RunDir.create(parent, name or experiment.name)
    resolved = reading.dump(experiment)
    given = experiment.file.read_text(encoding="utf-8") if experiment.file and experiment.file.is_file() else resolved
    rundir.write_text(run.page, given)
    began = datetime.now().astimezone().isoformat(timespec="seconds")
    facts = machines.environment() | {"began": began, "seed": experiment.seed}
    facts["import_paths"] = reading.import_paths(experiment.file)
    rundir.write_json(run.environment, facts)
    first(run)
    rundir.write_text(run.resolved, resolved)
    return run


def prepared(experiment: Experiment) -> Dataset:
    """The data of a page, prepared or taken from the cache; what the page asks of it is refused here."""
    dataset = assembly.data_of(experiment)
    assembly.metrics_for(experiment, dataset)
    if experiment.train.start is not None:
        from nnopt_ray.train import start

        start.find(experiment)
    if experiment.evaluate.folds is not None:  # what cannot be divided is refused before anything trains
        params = assembly.some_params(experiment)
        folding.prepared(experiment, folding.planned(experiment, SINGLE, params, dataset.shapes.task))
    if experiment.evaluate.sizes is not None:
        folding.prepared(experiment, folding.sized(experiment, SINGLE, assembly.some_params(experiment), dataset))
    model = None
    if not experiment.is_search:  # of a search, a network that cannot be built is a failed trial
        assembly.machine_for(experiment)
        model = assembly.build_model(experiment, dataset)
    assembly.explainers_for(experiment, dataset, model)
    return dataset


def placed(dataset: Dataset, run: RunDir, watch: Watch) -> Dataset:
    """Put prepared data into its run folder, and say what was noticed about it."""
    from nnopt_ray.data import prepare

    if dataset.streamed:
        watch.note(
            "The data is large and was prepared a column and then some rows at a time, as it would be in memory."
        )
    for note in dataset.summary.notes:
        watch.note(note)
    return prepare.place(dataset, run.data)


def train_one(
    experiment: Experiment,
    run: RunDir,
    dataset: Dataset,
    watch: Watch,
    should_stop: Callable[[], bool],
    timed: bool = False,
) -> TrialRow:
    """One training, from its newest checkpoint when there is one. timed: measure where its time goes."""
    from nnopt_ray.train.fit import fit

    where = assembly.machine_for(experiment)
    folder = run.trial(SINGLE)
    if not folder.page.is_file():
        rundir.write_text(folder.page, reading.dump(experiment))
    watch.begin(total=1, workers=1, over={})
    done = fit(
        experiment,
        dataset,
        where,
        assembly.metrics_for(experiment, dataset),
        folder,
        on_epoch=watch.epoch,
        should_stop=should_stop,
        on_note=watch.note,
        timed=timed,
    )
    return TrialRow(
        trial=SINGLE,
        status="finished",
        reason=done.reason,
        params={},
        epochs=len(done.history),
        best_epoch=done.best_epoch,
        seconds=done.seconds,
        value=done.value,
        metrics=done.metrics,
        history=done.history,
    )


def conclude(
    experiment: Experiment,
    run: RunDir,
    dataset: Dataset,
    rows: tuple[TrialRow, ...],
    seconds: float,
    decided: Mapping[str, str],
    confirmation: Confirmation | None = None,
    folded: Folded | None = None,
    sized: Sized | None = None,
    trained: TrialRow | None = None,
    note: Callable[[str], None] = silent,
) -> RunResult:
    """Name the winner (the confirmed one, where there is one), measure it and the baseline on the test part
    once, write the result and the report.

    trained: of a search by means over folds, the winner's training on the page's own parts.
    """
    from nnopt_ray.data import prepare
    from nnopt_ray.evaluate import evaluate as evaluation
    from nnopt_ray.evaluate import explain as explaining
    from nnopt_ray.evaluate import importance
    from nnopt_ray.evaluate.measured import measure
    from nnopt_ray.evaluate.pareto import pareto
    from nnopt_ray.report import diagnosed
    from nnopt_ray.report import write as report
    from nnopt_ray.report.facts import trial_rows

    began = time.monotonic()
    winner = best_of(rows, experiment.mode)
    rundir.write(run.trials_table, lambda path: write_table(path, rows))
    if confirmation is not None and confirmation.winner:
        winner = next(row for row in rows if row.trial == confirmation.winner)
    if winner is None:
        raise RunFailed(no_value(rows, experiment.metric))
    if trained is not None:
        if trained.status == "failed":
            raise RunFailed(f"trial {winner.trial}, the best over folds, failed on all training rows: {trained.reason}")
        metrics = {**trained.metrics, **winner.metrics}
        winner = replace(winner, best_epoch=trained.best_epoch, metrics=metrics)
        rows = tuple(winner if row.trial == winner.trial else row for row in rows)
        rundir.write(run.trials_table, lambda path: write_table(path, rows))
    closed = reading.close(experiment, winner.params)
    shutil.rmtree(run.best_data, ignore_errors=True)  # of a search that went on, the last winner's
    if closed.data.preparation != experiment.data.preparation:  # the search varied the preparation: the winner's own
        dataset = prepare.place(assembly.data_of(experiment, closed), run.best_data)
    where = assembly.machine_for(experiment)
    model = winner_model(closed, run, dataset, winner.trial)
    baseline = assembly.baseline_model(closed, dataset, where)
    found = evaluation.evaluate(closed, dataset, where, model, baseline)
    evaluation.write(found, run)
    keep_best(closed, run, model, winner)
    keep_decision(found, run)
    if folded is not None:
        rundir.write_json(run.evaluated("folds"), folded.to_json())
    if sized is not None:
        rundir.write_json(run.evaluated("sizes"), sized.to_json())
    explaining.explain(closed, dataset, where, model, found.predictions["test"], found.decision, run, note)
    measured = measure(closed, dataset, where, model, baseline, assembly.build_model(closed, dataset), found)
    if experiment.is_search:
        importance.write(experiment, trial_rows(run, experiment), run)
    result = RunResult(
        name=experiment.name,
        status="finished",
        metric=experiment.metric,
        mode=experiment.mode,
        best_trial=winner.trial,
        best_values=winner.params,
        best_metrics=winner.metrics,
        best_epoch=winner.best_epoch or 0,
        baseline_type=found.baseline_type,
        baseline_metrics=found.baseline_test.metrics,
        test_metrics=found.winner_test.metrics,
        test_intervals=found.winner_test.intervals,
        trials={"total": len(rows)}
        | {s: sum(row.status == s for row in rows) for s in ("finished", "stopped", "failed")},
        epochs_trained=sum(row.epochs for row in rows),
        seconds=seconds,
        decided={**where.decided, **decided},
        cv=None if folded is None else folded.brief(),
        confirm=confirmation,
        objectives=experiment.objectives,
        pareto=tuple((row.trial, values) for row, values in pareto(rows, experiment.objectives))
        if len(experiment.objectives) > 1
        else (),
        spent={"training": seconds, "evaluation": time.monotonic() - began},
    )
    rundir.write_json(run.result, result.to_json())
    began = time.monotonic()
    report.write(run, diagnosed.judge(run, report.facts_from_folder(run), measured))
    result = replace(result, spent={**result.spent, "report": time.monotonic() - began})
    rundir.write_json(run.result, result.to_json())
    return result


def best_of(rows: tuple[TrialRow, ...], mode: str) -> TrialRow | None:
    """The row with the best value; the earlier one of equals."""
    sign = 1.0 if mode == "min" else -1.0
    usable = [row for row in rows if row.value is not None and row.status in ("finished", "stopped")]
    return min(usable, key=lambda row: (sign * (row.value or 0.0), row.trial), default=None)


def winner_model(experiment: Experiment, run: RunDir, dataset: Dataset, trial: str) -> torch.nn.Module:
    """The winner's network with the weights of its best epoch."""
    from nnopt_ray.train.state import load_weights

    model = assembly.build_model(experiment, dataset)
    load_weights(model, run.trial(trial).checkpoints / "best.safetensors")
    return model


def keep_best(experiment: Experiment, run: RunDir, model: torch.nn.Module, winner: TrialRow) -> None:
    from nnopt_ray.train.state import save_weights

    save_weights(model, run.best_model)
    rundir.write_text(run.best_page, reading.dump(experiment))
    facts = {
        "trial": winner.trial,
        "epoch": winner.best_epoch,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "metrics": dict(winner.metrics),
    }
    rundir.write_json(run.best_metrics, facts)


def keep_decision(found: Evaluation, run: RunDir) -> None:
    """Of a classifier, what its best network is used with."""
    run.decision.unlink(missing_ok=True)  # of a search that went on, the last winner's
    if found.task == "classification":
        rundir.write_json(run.decision, found.decision.to_json())


def run_single(
    experiment: Experiment,
    run: RunDir,
    dataset: Dataset,
    watch: Watch,
    should_stop: Callable[[], bool] = never,
    beside: Callable[[TrialRow], tuple[Folded | None, Sized | None]] = lambda row: (None, None),
    together: Callable[[], tuple[TrialRow, dict[str, str], float]] | None = None,
) -> RunResult:
    """The straight line for a page with nothing to search.

    together: trains the network by several workers → its row, what was decided, and the seconds without a worker.
    """
    began = time.monotonic()
    if together is not None:
        row, decided, waited_s = together()
    else:
        row, decided, waited_s = train_one(experiment, run, dataset, watch, should_stop), {}, 0.0
    if should_stop():
        raise Interrupted("stopped")
    folded, sized = beside(row)
    seconds = time.monotonic() - began - waited_s
    decided = decided_data(dataset) | decided
    return conclude(experiment, run, dataset, (row,), seconds, decided, None, folded, sized, note=watch.note)


def decided_data(dataset: Dataset) -> dict[str, Any]:
    return {"data": "taken from the cache" if dataset.reused else "prepared anew"}
