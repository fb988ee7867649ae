"""THE straight line: page → data → model → training → evaluation → run folder and report.

prepared   the data, prepared once and placed in the run folder
train_one  a single training (a search puts search.study here)
conclude   the winner and the baseline on the test part, once; result.json; the report
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_ray import machine as machines
from nnopt_ray import reading, rundir, tables
from nnopt_ray.errors import Interrupted, RunFailed, RunFolderError, UserError
from nnopt_ray.experiment import Experiment, Range, plain, walk
from nnopt_ray.results import Confirmation, Epoch, Progress, RunResult, TrialRow
from nnopt_ray.rundir import RunDir
from nnopt_ray.trials import no_value, write_table

if TYPE_CHECKING:
    import torch

    from nnopt_ray.data.types import Dataset
    from nnopt_ray.evaluate.judge import Judge
    from nnopt_ray.evaluate.metrics import Metric
    from nnopt_ray.machine import Machine

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


def begin(experiment: Experiment, parent: Path) -> RunDir:
    """Make the run folder and write down what is about to be done."""
    run = RunDir.create(parent, experiment.name)
    resolved = reading.dump(experiment)
    given = experiment.file.read_text(encoding="utf-8") if experiment.file and experiment.file.is_file() else resolved
    rundir.write_text(run.page, given)
    facts = machines.environment() | {"seed": experiment.seed, "import_paths": reading.import_paths(experiment.file)}
    rundir.write_json(run.environment, facts)
    rundir.write_text(run.resolved, resolved)
    return run


@contextmanager
def holding(run: RunDir) -> Iterator[None]:
    """Hold a run folder for one process; the system lets go of it however the process ends.

    Raises RunFolderError when it cannot be written, or, naming the holder, when another live process has it.
    """
    try:
        file = open(run.lock, "a+", encoding="utf-8")  # noqa: SIM115 (held for the run's life)
    except OSError as error:
        raise RunFolderError(f"{run.root} cannot be written: {error.strerror or error}.") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise RunFolderError(
                f"{run.root} is in use by {file.read().strip() or 'another process'}. Wait for it, or stop it first."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield
    finally:
        file.close()


def in_use(run: RunDir) -> bool:
    """Whether a live process of this machine holds the run folder."""
    try:
        with open(run.lock, encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def data_of(experiment: Experiment, closed: Experiment | None = None) -> Dataset:
    """The data of a page, prepared or taken from the cache; of the trial `closed` when its preparation is varied.

    A check that asks the page's own network asks that of `experiment`, every range at its first value, so that all
    trials of a search are judged alike.
    """
    from nnopt_ray.data import prepare

    return prepare.prepare(closed or experiment, judge=judge_of(experiment))


def judge_of(experiment: Experiment) -> Judge:
    """The network of a page as a judge of labels."""
    from nnopt_ray.evaluate.judge import Judge

    return Judge(lambda: representative(experiment), machine_for, metrics_for)


def prepared(experiment: Experiment) -> Dataset:
    """The data of a page, prepared or taken from the cache; what the page asks of it is refused here."""
    dataset = data_of(experiment)
    metrics_for(experiment, dataset)
    if experiment.train.start is not None:
        from nnopt_ray.train import start

        start.find(experiment)
    if not experiment.is_search:  # of a search, a network that cannot be built is a failed trial
        machine_for(experiment)
        build_model(experiment, dataset)
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


def metrics_for(experiment: Experiment, dataset: Dataset) -> dict[str, Metric]:
    """The metrics measured on the validation part after every epoch: the objectives', those that a
    callback watches, and one that people read (accuracy, or the mean absolute error)."""
    from nnopt_ray.evaluate.metrics import chosen, for_task, metric_for

    task = dataset.shapes.task
    wanted = [
        *(metric for _, metric in experiment.objectives),
        {"classification": "val_accuracy", "regression": "val_mae"}.get(task, "val_perplexity"),
    ]
    if experiment.train.early_stopping is not None:
        wanted.append(experiment.train.early_stopping.monitor)
    wanted.append(str(experiment.train.schedule.keys.get("monitor", "")))
    names = [name.removeprefix("val_") for name in wanted if name.startswith("val_")]
    found = {name: metric_for(name) for name in dict.fromkeys(names) if name != "loss"}
    for name, metric in found.items():
        if task not in metric.tasks:
            raise UserError(
                f"the page watches 'val_{name}', and the data makes this a {task}, which has no such metric. "
                f"Metrics of a {task}: {', '.join(f'val_{known}' for known in for_task(task))}."
            )
    chosen(experiment.evaluate.metrics, experiment.metric, task)  # what the end measures is refused now, not then
    return found


def train_one(
    experiment: Experiment, run: RunDir, dataset: Dataset, watch: Watch, should_stop: Callable[[], bool]
) -> TrialRow:
    """One training, from its newest checkpoint when there is one."""
    from nnopt_ray.train.fit import fit

    where = machine_for(experiment)
    folder = run.trial(SINGLE)
    if not folder.page.is_file():
        rundir.write_text(folder.page, reading.dump(experiment))
    watch.begin(total=1, workers=1, over={})
    done = fit(
        experiment,
        dataset,
        where,
        metrics_for(experiment, dataset),
        folder,
        on_epoch=watch.epoch,
        should_stop=should_stop,
        on_note=watch.note,
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


def machine_for(experiment: Experiment) -> Machine:
    resources = experiment.resources
    return machines.choose(resources.cpus_per_worker, resources.gpus_per_worker, experiment.train.precision)


def conclude(
    experiment: Experiment,
    run: RunDir,
    dataset: Dataset,
    rows: tuple[TrialRow, ...],
    seconds: float,
    decided: Mapping[str, str],
    confirmation: Confirmation | None = None,
) -> RunResult:
    """Name the winner (the confirmed one, where there is one), measure it and the baseline on the test part
    once, write the result and the report."""
    from nnopt_ray.data import prepare
    from nnopt_ray.evaluate import evaluate as evaluation
    from nnopt_ray.evaluate.pareto import pareto
    from nnopt_ray.report import write as report

    rundir.write(run.trials_table, lambda path: write_table(path, rows))
    winner = best_of(rows, experiment.mode)
    if confirmation is not None and confirmation.winner:
        winner = next(row for row in rows if row.trial == confirmation.winner)
    if winner is None:
        raise RunFailed(no_value(rows, experiment.metric))
    closed = reading.close(experiment, winner.params)
    shutil.rmtree(run.best_data, ignore_errors=True)  # of a search that went on, the last winner's
    if closed.data.preparation != experiment.data.preparation:  # the search varied the preparation: the winner's own
        dataset = prepare.place(data_of(experiment, closed), run.best_data)
    where = machine_for(experiment)
    model = winner_model(closed, run, dataset, winner.trial)
    baseline = baseline_model(closed, dataset, where)
    found = evaluation.evaluate(closed, dataset, where, model, baseline)
    evaluation.write(found, run)
    keep_best(closed, run, model, winner)
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
        confirm=confirmation,
        objectives=experiment.objectives,
        pareto=tuple((row.trial, values) for row, values in pareto(rows, experiment.objectives))
        if len(experiment.objectives) > 1
        else (),
    )
    rundir.write_json(run.result, result.to_json())
    report.write(run, report.facts_from_folder(run))
    return result


def best_of(rows: tuple[TrialRow, ...], mode: str) -> TrialRow | None:
    """The row with the best value; the earlier one of equals."""
    sign = 1.0 if mode == "min" else -1.0
    usable = [row for row in rows if row.value is not None and row.status in ("finished", "stopped")]
    return min(usable, key=lambda row: (sign * (row.value or 0.0), row.trial), default=None)


def winner_model(experiment: Experiment, run: RunDir, dataset: Dataset, trial: str) -> torch.nn.Module:
    """The winner's network with the weights of its best epoch."""
    from nnopt_ray.train.state import load_weights

    model = build_model(experiment, dataset)
    load_weights(model, run.trial(trial).checkpoints / "best.safetensors")
    return model


def build_model(experiment: Experiment, dataset: Dataset) -> torch.nn.Module:
    """The network of a closed page with its first weights, which follow from the seed."""
    machines.seed_torch(machines.derived_seed(experiment.seed, "weights"))
    model: torch.nn.Module = tables.build("model", experiment.model, dataset.shapes)
    return model


def best_model(run: RunDir) -> tuple[Experiment, Dataset, torch.nn.Module]:
    """The winner of a finished run: its page, the data that it was trained on, the network in evaluation mode.

    Raises RunFolderError when the run has none yet.
    """
    from nnopt_ray.data.prepare import open_dataset
    from nnopt_ray.train.state import load_weights

    if not run.best_model.is_file():
        raise RunFolderError(
            f"{run.root} has no best model yet: the run is not finished. `nnopt resume {run.root}` goes on."
        )
    experiment, dataset = reading.load(run.best_page), open_dataset(run.data_of_best)
    model = build_model(experiment, dataset)
    load_weights(model, run.best_model)
    return experiment, dataset, model.eval()


def baseline_model(experiment: Experiment, dataset: Dataset, where: Machine) -> torch.nn.Module:
    """The page's baseline, trained on the same rows."""
    from nnopt_ray.train.loop import Trainer

    page = _baseline_page(experiment)
    trainer = Trainer(page, dataset, where, metrics_for(page, dataset))
    while not trainer.done:
        trainer.run_epoch()
    trainer.finalize()
    return trainer.model


def _baseline_page(experiment: Experiment) -> Experiment:
    part = experiment.evaluate.baseline
    tree = plain(experiment.tree)
    # The weights and layers are of another model, and compiling takes longer than a baseline does.
    others = ("from", "freeze", "layer_decay", "compile")
    train = {key: value for key, value in tree["train"].items() if key not in others}
    return reading.from_tree({**tree, "model": part.page(), "train": train}, experiment.file)


def baseline_values(experiment: Experiment, dataset: Dataset, seeds: Sequence[int]) -> list[float]:
    """The objective of the page's baseline with each seed, on the validation part."""
    from nnopt_ray.train.loop import Trainer

    where = machine_for(experiment)
    found: list[float] = []
    for seed in seeds:
        page = _baseline_page(reading.close(experiment, {**_first_values(experiment), "seed": seed}))
        trainer = Trainer(page, dataset, where, metrics_for(page, dataset))
        while not trainer.done:
            trainer.run_epoch()
        found.append(trainer.best_value)
        if trainer.reason == "fitted directly":  # no seed has a part in it
            return found * len(seeds)
    return found


def representative(experiment: Experiment) -> Experiment:
    """A page with every range closed to its first value; of trials listed by hand, the first."""
    listed = experiment.search.trials
    return reading.close(experiment, dict(listed[0]) if isinstance(listed, tuple) else _first_values(experiment))


def _first_values(experiment: Experiment) -> dict[str, Any]:
    """Parameters with the first value of every range."""
    found: dict[str, Any] = {}

    def first(path: str, _branch: str, range_: Range) -> Any:
        found[path] = range_.labels()[0] if range_.kind == "choice" else range_.first()
        return 0 if range_.kind == "choice" else range_.first()

    walk(experiment.tree, first)
    return found


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


def run_single(
    experiment: Experiment, run: RunDir, dataset: Dataset, watch: Watch, should_stop: Callable[[], bool] = never
) -> RunResult:
    """The straight line for a page with nothing to search."""
    began = time.monotonic()
    row = train_one(experiment, run, dataset, watch, should_stop)
    if should_stop():
        raise Interrupted("stopped")
    return conclude(experiment, run, dataset, (row,), time.monotonic() - began, decided_data(dataset))


def decided_data(dataset: Dataset) -> dict[str, Any]:
    return {"data": "taken from the cache" if dataset.reused else "prepared anew"}
