"""From a page, its parts: machine, metrics, data, network, baseline; and the best network of a run.

Each is built here and nowhere else, so that training, search, evaluation and predictions mean the same by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_ray import machine as machines
from nnopt_ray import reading, rundir, tables
from nnopt_ray.errors import RunFolderError, UserError
from nnopt_ray.experiment import CV, Experiment, Range, plain, walk
from nnopt_ray.rundir import RunDir

if TYPE_CHECKING:
    import torch

    from nnopt_ray.data.sources import Source
    from nnopt_ray.data.table import Table
    from nnopt_ray.data.types import Dataset
    from nnopt_ray.evaluate.decision import Decision
    from nnopt_ray.evaluate.judge import Judge
    from nnopt_ray.evaluate.metrics import Metric
    from nnopt_ray.machine import Machine


def machine_for(experiment: Experiment) -> Machine:
    resources = experiment.resources
    return machines.choose(resources.cpus_per_worker, resources.gpus_per_worker, experiment.train.precision)


def scaled(experiment: Experiment, workers: int) -> Experiment:
    """The page as so many workers train it: where `resources.batch` is per_worker the batch is that of all of them, and
    the learning rate follows `resources.lr_scaling` (linear: Goyal et al. 2017; sqrt: Krizhevsky 2014)."""
    resources = experiment.resources
    if resources.batch == "global" or workers == 1:
        return experiment
    factor = {"none": 1.0, "linear": float(workers), "sqrt": workers**0.5}[resources.lr_scaling]
    tree = plain(experiment.tree)
    optimizer = {**tree["train"]["optimizer"], "lr": tree["train"]["optimizer"]["lr"] * factor}
    tree["train"] = {**tree["train"], "batch_size": tree["train"]["batch_size"] * workers, "optimizer": optimizer}
    return reading.from_tree(tree, experiment.file)


def metrics_for(experiment: Experiment, dataset: Dataset) -> dict[str, Metric]:
    """The metrics measured on the validation part after every epoch: the objectives', those that a
    callback watches, and one that people read (accuracy, or the mean absolute error)."""
    from nnopt_ray.evaluate import deciding
    from nnopt_ray.evaluate.given import given_by
    from nnopt_ray.evaluate.metrics import chosen, for_task, metric_for

    task = dataset.shapes.task
    wanted = [
        *(metric.removeprefix(CV) for _, metric in experiment.objectives),
        {"classification": "val_accuracy", "regression": "val_mae"}.get(task, "val_perplexity"),
    ]
    if experiment.train.early_stopping is not None:
        wanted.append(experiment.train.early_stopping.monitor)
    wanted.append(str(experiment.train.schedule.keys.get("monitor", "")))
    names = [name.removeprefix("val_") for name in wanted if name.startswith("val_")]
    given = given_by(experiment, dataset)
    found = {name: metric_for(name).given(given) for name in dict.fromkeys(names) if name != "loss"}
    for name, metric in found.items():
        if task not in metric.tasks:
            raise UserError(
                f"the page watches 'val_{name}', and the data makes this a {task}, which has no such metric. "
                f"Metrics of a {task}: {', '.join(f'val_{known}' for known in for_task(task))}."
            )
    deciding.check(experiment, dataset)
    measured = chosen(experiment.evaluate.metrics, experiment.metric, task)  # refused now, not at the end
    for name, metric in {**measured, **found}.items():
        if metric.of_series and experiment.data.window is None:
            raise UserError(
                f"'{name}' measures forecasts, and the page has no data.window. Take another metric, like mae."
            )
    return found


def explainers_for(experiment: Experiment, dataset: Dataset, model: torch.nn.Module | None) -> None:
    """What the page asks to be explained is refused now, not at the end; model: None where a search will choose it."""
    if experiment.evaluate.explain:
        from nnopt_ray.evaluate.explain import explainers

        explainers(experiment, dataset.shapes, model)


def data_of(
    experiment: Experiment, closed: Experiment | None = None, read: Callable[[Source, Path], Table] | None = None
) -> Dataset:
    """The data of a page, prepared or taken from the cache; of the trial `closed` when its preparation is varied.

    A check that asks the page's own network asks that of `experiment`, every range at its first value, so that all
    trials of a search are judged alike. read: reads the source, in place of its own `read`.
    """
    from nnopt_ray.data import prepare

    return prepare.prepare(closed or experiment, judge=judge_of(experiment), read=read)


def judge_of(experiment: Experiment) -> Judge:
    """The network of a page as a judge of labels."""
    from nnopt_ray.evaluate.judge import Judge

    return Judge(lambda: representative(experiment), machine_for, metrics_for)


def build_model(experiment: Experiment, dataset: Dataset) -> torch.nn.Module:
    """The network of a closed page with its first weights, which follow from the seed."""
    machines.seed_torch(machines.derived_seed(experiment.seed, "weights"))
    model: torch.nn.Module = tables.build("model", experiment.model, dataset.shapes)
    return model


def representative(experiment: Experiment) -> Experiment:
    """A page with every range closed to its first value; of trials listed by hand, the first."""
    return reading.close(experiment, some_params(experiment))


def some_params(experiment: Experiment) -> dict[str, Any]:
    """Parameters that close a page: of trials listed by hand the first, else the first value of every range."""
    listed = experiment.search.trials
    return dict(listed[0]) if isinstance(listed, tuple) else first_values(experiment)


def first_values(experiment: Experiment) -> dict[str, Any]:
    """Parameters with the first value of every range."""
    found: dict[str, Any] = {}

    def first(path: str, _branch: str, range_: Range) -> Any:
        found[path] = range_.labels()[0] if range_.kind == "choice" else range_.first()
        return 0 if range_.kind == "choice" else range_.first()

    walk(experiment.tree, first)
    return found


def best_model(run: RunDir) -> tuple[Experiment, Dataset, torch.nn.Module]:
    """The winner of a finished run: its page, the data that it was trained on, the network in evaluation mode.

    Raises RunFolderError when the run has none yet.
    """
    from nnopt_ray.data.prepare import open_dataset
    from nnopt_ray.train.state import load_weights

    if not run.best_model.is_file():
        raise RunFolderError(
            f"{run.place} has no best model yet: the run is not finished. `nnopt resume {run.place}` goes on."
        )
    experiment, dataset = reading.load(run.best_page), open_dataset(run.data_of_best)
    model = build_model(experiment, dataset)
    load_weights(model, run.best_model)
    return experiment, dataset, model.eval()


def decision_of(run: RunDir) -> Decision:
    """How the logits of a run's best network become probabilities and a class. Raises RunFolderError."""
    from nnopt_ray.evaluate.decision import Decision

    return Decision.from_json(rundir.read_json(run.decision)) if run.decision.is_file() else Decision()


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
    evaluate = {**tree["evaluate"], "explain": []}  # the winner is explained
    resources = {**tree["resources"], "fsdp": False}  # one process trains it
    page = {**tree, "model": part.page(), "train": train, "evaluate": evaluate, "resources": resources}
    return reading.from_tree(page, experiment.file)


def baseline_values(experiment: Experiment, dataset: Dataset, seeds: Sequence[int]) -> list[float]:
    """The objective of the page's baseline with each seed, on the validation part."""
    from nnopt_ray.train.loop import Trainer

    where = machine_for(experiment)
    found: list[float] = []
    for seed in seeds:
        page = _baseline_page(reading.close(experiment, {**first_values(experiment), "seed": seed}))
        trainer = Trainer(page, dataset, where, metrics_for(page, dataset))
        while not trainer.done:
            trainer.run_epoch()
        found.append(trainer.best_value)
        if trainer.reason == "fitted directly":  # no seed has a part in it
            return found * len(seeds)
    return found
