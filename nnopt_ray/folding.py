"""From a page its folds: each is a page of its own, with data that hold a fold out, and is measured on that fold once.

planned    the pages of all folds
prepared   their data, so that what cannot be divided is refused before anything trains
measured   one fold, by the network of its best epoch and by the baseline
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nnopt_ray import assembly, reading, tables
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import derived_seed

if TYPE_CHECKING:
    from nnopt_ray.data.types import Dataset, Task
    from nnopt_ray.evaluate.folded import Folded, FoldScores
    from nnopt_ray.evaluate.sized import Sized
    from nnopt_ray.results import TrialRow
    from nnopt_ray.tables import Part

FOLD = "data.fold"  # its path on the page
SHARE = "data.train_share"
OF_THE_WHOLE = {
    "evaluate.folds": None,
    "evaluate.sizes": None,
    "evaluate.nested": False,
}  # what the page of a fold says of itself


SEEDS = 3  # of each share of the training rows
AUTO_SHARES = (0.1, 0.2, 0.4, 0.7, 1.0)


@dataclass(frozen=True)
class FoldTrial:
    """One training on the rows of a fold. `params` closes the page like a trial's."""

    id: str  # "0007-f1": the trial and the number of the fold
    of_trial: str
    number: int
    params: Mapping[str, Any]


def kind_of(experiment: Experiment, task: Task) -> Part:
    """The kind of folds that a page asks for, with its seed."""
    from nnopt_ray.data.folds import settled

    return settled(_asked(experiment), experiment.data, task)


def objective_folds(experiment: Experiment) -> int:
    """How many folds a trial of a search by cv_val_METRIC has."""
    count: int = tables.build("fold", _asked(experiment)).number
    return count


def _asked(experiment: Experiment) -> Part:
    from nnopt_ray.data.folds import BY_DEFAULT

    return experiment.evaluate.folds or BY_DEFAULT


def planned(experiment: Experiment, trial: str, params: Mapping[str, Any], task: Task) -> list[FoldTrial]:
    """The trainings of a cross-validation of one trial."""
    kind = kind_of(experiment, task)
    count = tables.build("fold", kind).number
    return [
        FoldTrial(f"{trial}-f{number}", trial, number, {**params, **changes(kind, number)})
        for number in range(1, count + 1)
    ]


def changes(kind: Part, number: int, held_out: Literal["test", "validation"] = "test") -> dict[str, Any]:
    """What the page of a fold has otherwise than the page."""
    return {**OF_THE_WHOLE, FOLD: {"number": number, "held_out": held_out, "of": kind.page()}}


def sized(experiment: Experiment, trial: str, params: Mapping[str, Any], dataset: Dataset) -> list[FoldTrial]:
    """The trainings of one trial on growing shares of its training rows, each with the same seeds; `number` is that of
    the share, from 1."""
    drawn = [derived_seed(experiment.seed, "sizes", number) for number in range(1, SEEDS + 1)]
    return [
        FoldTrial(f"{trial}-n{place}-s{number}", trial, place, {**params, **OF_THE_WHOLE, SHARE: share, "seed": seed})
        for place, share in enumerate(shares(experiment, dataset), start=1)
        for number, seed in enumerate(drawn, start=1)
    ]


def shares(experiment: Experiment, dataset: Dataset) -> tuple[float, ...]:
    """Those that a page asks for, ascending; of `auto` such as leave 20 rows, and 2 of each class."""
    import numpy as np

    asked = experiment.evaluate.sizes
    if asked is None:
        return ()
    if asked != "auto":
        return tuple(sorted(set(asked)))
    rows, classes = len(dataset.train), dataset.shapes.task == "classification"
    rarest = int(np.unique(dataset.train.target, return_counts=True)[1].min()) if classes else rows
    return tuple(share for share in AUTO_SHARES if share * rows >= 20 and share * rarest >= 2)


def sizes_summed_up(
    experiment: Experiment, pages: Sequence[FoldTrial], rows: Mapping[str, TrialRow], counts: Mapping[int, int]
) -> Sized:
    """All sizes together. counts: number of a share → its training rows."""
    from nnopt_ray.evaluate import sized

    found = []
    for place in sorted({page.number for page in pages}):
        own = [page for page in pages if page.number == place]
        values = [rows[page.id].value for page in own]
        numbers = [math.nan if value is None else value for value in values]
        found.append(sized.size(own[0].params[SHARE], counts[place], numbers))
    seed = derived_seed(experiment.seed, "sizes")
    confidence, trial = experiment.evaluate.confidence, pages[0].of_trial
    return sized.summed_up(found, experiment.epoch_metric, experiment.mode, confidence, trial, seed)


def prepared(experiment: Experiment, pages: Iterable[FoldTrial]) -> list[Dataset]:
    """The data of these pages, prepared or taken from the cache; the source is read once. Raises DataError."""
    tables_read: dict[Path, Any] = {}

    def read(source: Any, base: Path) -> Any:
        if base not in tables_read:
            tables_read[base] = source.read(base)
        return tables_read[base]

    return [assembly.data_of(experiment, reading.close(experiment, page.params), read) for page in pages]


def measured(
    experiment: Experiment, page: FoldTrial, row: TrialRow, weights: Path, values: Mapping[str, Any] | None = None
) -> FoldScores:
    """The network of a fold's best epoch, and the baseline, on the rows that it holds out.

    row: what came of its training. weights: of its best epoch.
    """
    from nnopt_ray.evaluate import evaluate as evaluation
    from nnopt_ray.evaluate.folded import FoldScores
    from nnopt_ray.train.state import load_weights

    if row.status == "failed":
        return FoldScores(page.number, page.id, {}, epochs=row.epochs, failed=row.reason)
    closed = reading.close(experiment, page.params)
    dataset = assembly.data_of(experiment, closed)
    parts = {"train": len(dataset.train), "validation": len(dataset.validation), "held_out": len(dataset.test)}
    where = assembly.machine_for(closed)
    model = assembly.build_model(closed, dataset)
    load_weights(model, weights)
    scores = []
    for network in (model, assembly.baseline_model(closed, dataset, where)):
        said = evaluation.predict(network, dataset.test, dataset, where)
        # As a part without intervals: those of single folds say nothing that the folds together do not.
        scores.append(evaluation.score(said, dataset.test, dataset, closed, "validation").metrics)
    return FoldScores(
        number=page.number,
        trial=page.id,
        rows=parts,
        epochs=row.epochs,
        best_epoch=row.best_epoch,
        metrics=scores[0],
        baseline=scores[1],
        values=values or {},
    )


def summed_up(experiment: Experiment, dataset: Dataset, each: Sequence[FoldScores], of_trial: str) -> Folded:
    """All folds together. `of_trial`: empty where each had a search of its own."""
    from nnopt_ray.evaluate import evaluate as evaluation
    from nnopt_ray.evaluate import folded
    from nnopt_ray.evaluate.metrics import bare

    modes = {name: metric.mode for name, metric in evaluation.measures(experiment, dataset).items()}
    kind = kind_of(experiment, dataset.shapes.task)
    made = tables.build("fold", kind)
    return folded.summed_up(
        each,
        modes,
        bare(experiment.metric),
        experiment.evaluate.confidence,
        (kind.type, made.folds, made.repeats),
        nested=not of_trial,
        of_trial=of_trial,
        searched=experiment.is_search,
    )


__all__ = [
    "FoldTrial",
    "changes",
    "kind_of",
    "measured",
    "planned",
    "prepared",
    "shares",
    "sized",
    "sizes_summed_up",
    "summed_up",
]
