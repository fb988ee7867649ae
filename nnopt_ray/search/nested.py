"""Nested cross-validation: the whole search of a page anew inside each fold, so that no choice has seen its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from nnopt_ray import assembly, folding, reading, rundir
from nnopt_ray.errors import Interrupted
from nnopt_ray.experiment import Experiment, plain
from nnopt_ray.folding import FoldTrial
from nnopt_ray.pipeline import Watch
from nnopt_ray.results import TrialRow
from nnopt_ray.rundir import RunDir
from nnopt_ray.search.ferry import collected
from nnopt_ray.search.folds import told
from nnopt_ray.search.study import Study

if TYPE_CHECKING:
    from nnopt_ray.data.types import Dataset
    from nnopt_ray.evaluate.folded import Folded
    from nnopt_ray.search.cluster import RaySession


class _Within(Watch):
    """What a search inside a fold says: its notes, with the fold in front."""

    def __init__(self, watch: Watch, number: int) -> None:
        self._watch, self._number = watch, number

    def note(self, sentence: str) -> None:
        self._watch.note(f"fold {self._number}: {sentence}")


def nested(
    experiment: Experiment,
    run: RunDir,
    dataset: Dataset,
    session: RaySession,
    watch: Watch,
    should_stop: Callable[[], bool],
) -> Folded:
    """The search of a page anew inside each fold, in a run folder of its own; the winner is measured on the fold.

    Raises Interrupted when `should_stop` became true.
    """
    from nnopt_ray.data.prepare import place

    kind = folding.kind_of(experiment, dataset.shapes.task)
    outline = folding.planned(experiment, "nested", assembly.some_params(experiment), dataset.shapes.task)
    datasets = folding.prepared(experiment, outline)
    watch.note(f"Searching anew inside each of {len(outline)} folds ({kind.type}).")
    each = []
    for page, data in zip(outline, datasets, strict=True):
        inside = _search_page(experiment, folding.changes(kind, page.number))
        folder = run.fold(page.number)
        rundir.make_folder(folder.root)
        if not folder.resolved.is_file():
            rundir.write_text(folder.resolved, reading.dump(inside))
        study = Study(inside, folder, _Within(watch, page.number))
        collected(folder, study.run(session, should_stop, place(data, folder.data)), study.ledger)
        if should_stop():
            raise Interrupted("stopped")
        winner = study.again.winner()
        failed = TrialRow("", "failed", "no trial of its search gave a value", {}, 0, None, 0.0, None, {})
        row = winner or failed
        params = {**row.params, **folding.changes(kind, page.number)}
        chosen = FoldTrial(f"folds/{page.number}/trials/{row.trial}", "", page.number, params)
        weights = folder.trial(row.trial).checkpoints / "best.safetensors"
        each.append(folding.measured(experiment, chosen, row, weights, row.params))
        watch.note(told(TrialRow(**{**vars(row), "trial": f"search-f{page.number}"}), experiment.metric))
    found = folding.summed_up(experiment, dataset, each, "")
    for sentence in found.sentences:
        watch.note(sentence)
    return found


def _search_page(experiment: Experiment, changes: Mapping[str, object]) -> Experiment:
    tree = plain(experiment.tree)
    for path, value in changes.items():
        section, _, key = path.rpartition(".")
        tree[section] = {**tree[section], key: value}
    return reading.from_tree(tree, experiment.file)


__all__ = ["nested"]
