"""Cross-validation: the trainings of all folds, in this process or on a search's workers, and what came of them.

A fold is a training like any other, with a page and a folder of its own, so that it is a lane beside the others where
they have as many rows, and goes on where it was cut off.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from nnopt_ray import assembly, folding
from nnopt_ray.errors import Interrupted, RunFailed
from nnopt_ray.experiment import Experiment
from nnopt_ray.folding import FoldTrial
from nnopt_ray.pipeline import Watch
from nnopt_ray.results import Epoch, TrialRow
from nnopt_ray.rundir import RunDir
from nnopt_ray.search.crew import Crew
from nnopt_ray.search.messages import Demand, Order, Report

if TYPE_CHECKING:
    from nnopt_ray.data.types import Dataset
    from nnopt_ray.evaluate.folded import Folded
    from nnopt_ray.evaluate.sized import Sized

SLICE_S = 0.25  # of training between two looks at whether to stop


def alone(
    experiment: Experiment,
    run: RunDir,
    dataset: Dataset,
    row: TrialRow,
    watch: Watch,
    should_stop: Callable[[], bool],
) -> Folded | None:
    """The cross-validation of a page that searches nothing, in this process; None where the page asks for none.

    Raises Interrupted when `should_stop` became true; all that was trained is written down then.
    """
    if experiment.evaluate.folds is None:
        return None
    pages = folding.planned(experiment, row.trial, row.params, dataset.shapes.task)
    alike = begun(experiment, pages, watch)
    rows = trained(experiment, run, dataset, pages, watch, should_stop, alike)
    return concluded(experiment, run, dataset, pages, rows, watch)


def sizes_alone(
    experiment: Experiment,
    run: RunDir,
    dataset: Dataset,
    row: TrialRow,
    watch: Watch,
    should_stop: Callable[[], bool],
) -> Sized | None:
    """The same on growing shares of the training rows. Raises as `alone`."""
    pages = folding.sized(experiment, row.trial, row.params, dataset)
    if not pages:
        return None
    say_sizes(pages, watch)
    rows = trained(experiment, run, dataset, pages, watch, should_stop)
    return sizes_concluded(experiment, pages, rows, watch)


def say_sizes(pages: Sequence[FoldTrial], watch: Watch) -> None:
    shares = list(dict.fromkeys(f"{page.params[folding.SHARE]:g}" for page in pages))
    watch.note(
        f"Training trial {pages[0].of_trial} on {', '.join(shares)} of its training rows, with {folding.SEEDS} seeds "
        "each."
    )


def sizes_concluded(
    experiment: Experiment, pages: Sequence[FoldTrial], rows: Mapping[str, TrialRow], watch: Watch
) -> Sized:
    """The sizes together, and what more rows would bring."""
    firsts = {page.number: page for page in reversed(pages)}
    datasets = folding.prepared(experiment, firsts.values())
    counts = {number: len(each.train) for number, each in zip(firsts, datasets, strict=True)}
    found = folding.sizes_summed_up(experiment, pages, rows, counts)
    watch.note(found.sentence)
    return found


def begun(experiment: Experiment, pages: Sequence[FoldTrial], watch: Watch) -> bool:
    """Prepare the data of all folds, and say how they are divided → whether any two have as many training rows."""
    datasets = folding.prepared(experiment, pages)
    kind = pages[0].params[folding.FOLD]["of"]["type"]
    sizes = {part: [len(getattr(each, part)) for each in datasets] for part in ("train", "validation", "test")}
    told = {part: f"{min(of):,}" + (f" to {max(of):,}" if max(of) > min(of) else "") for part, of in sizes.items()}
    watch.note(
        f"Cross-validating trial {pages[0].of_trial} over {len(pages)} folds ({kind}): {told['train']} rows to learn "
        f"from, {told['validation']} to choose the epoch by, {told['test']} held out; all preparation is fitted anew."
    )
    different = len({(len(each.train), each.shapes) for each in datasets})
    if different > 1:
        which = "As the folds differ" if different == len(pages) else "Folds that differ"
        watch.note(
            f"{which} in their training rows or inputs, {'they ' * (different == len(pages))}are trained one by "
            "one, not as lanes."
        )
    for page, each in zip(pages, datasets, strict=True):
        absent = [name for name, count in each.summary.class_counts.get("test", {}).items() if not count]
        if absent:
            watch.note(f"Fold {page.number} holds out no row of the class {', '.join(map(repr, absent))}.")
    return different < len(pages)


def trained(
    experiment: Experiment,
    run: RunDir,
    dataset: Dataset,
    pages: Sequence[FoldTrial],
    watch: Watch,
    should_stop: Callable[[], bool],
    alike: bool = True,
) -> dict[str, TrialRow]:
    """All folds trained in this process, as lanes where they are alike and that pays: id → what came of it. Raises as
    `alone`."""
    crew = Crew(experiment, dataset, assembly.machine_for(experiment), run)
    epochs = len(pages) * experiment.train.epochs
    lanes = 1
    if alike:
        lanes, why = crew.measure(pages[0].params, Demand(len(pages), epochs, len(pages)))
        kind = "fold" if folding.FOLD in pages[0].params else "training"
        watch.note(f"{why[:1].upper()}{why[1:]}.".replace("trial", kind))
    waiting, going = deque(pages), dict[str, FoldTrial]()
    history: dict[str, list[Epoch]] = {page.id: [] for page in pages}
    rows: dict[str, TrialRow] = {}
    while waiting or going:
        orders = []
        while waiting and len(going) < max(1, lanes):
            page = waiting.popleft()
            going[page.id] = page
            orders.append(Order(page.id, page.params))
        answer = crew.work(orders, (), SLICE_S)
        for note in answer.notes:
            watch.note(note)
        for report in answer.reports:
            history[report.trial] += report.epochs
            if report.done or report.failure is not None:
                rows[report.trial] = _row(experiment, going.pop(report.trial), history[report.trial], report)
                watch.note(told(rows[report.trial], experiment.epoch_metric))
        if should_stop():
            crew.pause()
            raise Interrupted("stopped")
    return rows


def _row(experiment: Experiment, page: FoldTrial, history: Sequence[Epoch], report: Report) -> TrialRow:
    failure = report.failure
    if failure is not None and failure.kind == "storage":
        raise RunFailed(failure.message)
    values = [epoch.metrics[experiment.epoch_metric] for epoch in history]
    best = best_epoch(values, experiment.mode)
    return TrialRow(
        trial=page.id,
        status="finished" if failure is None else "failed",
        reason=report.reason if failure is None else failure.message,
        params=page.params,
        epochs=len(history),
        best_epoch=best,
        seconds=sum(epoch.seconds for epoch in history),
        value=None if best is None or failure is not None else values[best],
        metrics={} if best is None else history[best].metrics,
    )


def best_epoch(values: Sequence[float], mode: Literal["min", "max"]) -> int | None:
    """The first of the best values; None where none is a number."""
    sign = 1.0 if mode == "min" else -1.0
    return min(((sign * v, i) for i, v in enumerate(values) if math.isfinite(v)), default=(0.0, None))[1]


def told(row: TrialRow, metric: str) -> str:
    """A line about a training that is no trial of a search: of a fold, or of the winner again."""
    kind = "fold" if "-f" in row.trial else "share" if "-n" in row.trial else "trial"
    name = f"{kind} {row.trial}"
    if row.status == "failed":
        return f"{name}  failed after {row.epochs} epochs: {row.reason}"
    value = "-" if row.value is None else f"{row.value:.4g}"
    return f"{name}  {metric} {value}  {row.epochs} epochs  {row.seconds:.1f} s"


def concluded(
    experiment: Experiment,
    run: RunDir,
    dataset: Dataset,
    pages: Sequence[FoldTrial],
    rows: Mapping[str, TrialRow],
    watch: Watch,
) -> Folded:
    """Each fold measured on what it holds out, once, and all of them together."""
    each = [
        folding.measured(experiment, page, rows[page.id], run.trial(page.id).checkpoints / "best.safetensors")
        for page in pages
    ]
    found = folding.summed_up(experiment, dataset, each, pages[0].of_trial)
    for sentence in found.sentences:
        watch.note(sentence)
    return found


__all__ = ["alone", "begun", "concluded", "say_sizes", "sizes_alone", "sizes_concluded", "told", "trained"]
