"""What a search trains again when it is over: the best few over seeds, the winner on the rows of each fold.

Neither searcher nor scheduler hear of it. It runs on the same workers, and goes on after an interruption as trials do.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from nnopt_ray import folding
from nnopt_ray.data.types import Dataset
from nnopt_ray.experiment import Experiment
from nnopt_ray.folding import FoldTrial
from nnopt_ray.pipeline import Watch, best_of
from nnopt_ray.results import TrialRow
from nnopt_ray.search.confirm import ConfirmTrial, collected, planned, verdict
from nnopt_ray.search.folds import begun, say_sizes
from nnopt_ray.search.ledger import Ledger, Trial
from nnopt_ray.search.messages import Demand
from nnopt_ray.search.space import most_epochs


class Again:
    """Plans these trainings; the study carries them out.

    Attributes:
        confirming, folding, sizing: what was planned, finished or not.
        whole: of a search over folds, the winner's training on the page's own training part.
        started: trials of the search are over, and these are trained.
    """

    def __init__(
        self, experiment: Experiment, ledger: Ledger, watch: Watch, rows: Callable[[], tuple[TrialRow, ...]]
    ) -> None:
        self.experiment, self.ledger, self.watch, self._rows = experiment, ledger, watch, rows
        self.confirming: list[ConfirmTrial] = []
        self.folding: list[FoldTrial] = []
        self.sizing: list[FoldTrial] = []
        self.whole: Trial | None = None
        self.started = False

    def to_confirm(self) -> list[Trial]:
        """The best few with each seed, those that are not over yet."""
        confirm = self.experiment.search.confirm
        if confirm is None:
            return []
        self.confirming = planned(self._rows(), self.experiment.mode, confirm, self.experiment.seed)
        trials = [self.ledger.confirm(each.id, each.of_trial, each.params) for each in self.confirming]
        left = [trial for trial in trials if not trial.over]
        if left:
            seeds = len(self.confirming) // max(1, len({each.of_trial for each in self.confirming}))
            self.watch.note(f"Confirming the best {len({t.confirms for t in trials})} trials over {seeds} seeds.")
        return left

    def to_train_whole(self) -> list[Trial]:
        """Of a search over folds: the winner on the page's own training part, under its own name, if it is not over."""
        winner = self.winner()
        if winner is None:
            return []
        self.whole = self.ledger.confirm(winner.trial, winner.trial, winner.params)
        if not self.whole.over:
            self.watch.note(f"Training trial {winner.trial}, the best over folds, on the page's own training part.")
        return [] if self.whole.over else [self.whole]

    def to_fold(self, dataset: Dataset) -> list[Trial]:
        """The winner with each fold held out, and on shares of its rows: those that are not over yet."""
        winner, asked = self.winner(), self.experiment.evaluate
        if winner is None:
            return []
        if asked.folds is not None and not asked.nested:
            self.folding = folding.planned(self.experiment, winner.trial, winner.params, dataset.shapes.task)
            begun(self.experiment, self.folding, self.watch)
        self.sizing = folding.sized(self.experiment, winner.trial, winner.params, dataset)
        if self.sizing:
            say_sizes(self.sizing, self.watch)
        also = (*self.folding, *self.sizing)
        trials = [self.ledger.confirm(each.id, each.of_trial, each.params) for each in also]
        return [trial for trial in trials if not trial.over]

    def winner(self) -> TrialRow | None:
        """The best trial, or the one that is best over seeds where the page asks for that; None where none is."""
        rows, mode = self._rows(), self.experiment.mode
        if not self.confirming:
            return best_of(rows, mode)
        values = collected(self.confirming, [trial.row() for trial in self.ledger.confirming.values()])
        name = verdict(values, None, mode, self.experiment.evaluate.confidence).winner
        return next((row for row in rows if row.trial == name), best_of(rows, mode))

    def demand(self, count: int) -> Callable[[int], Demand]:
        """So many workers → what each has to do for `count` folds: all of them may be in flight."""
        epochs = most_epochs(self.experiment)

        def demand(workers: int) -> Demand:
            share = math.ceil(count / workers)
            return Demand(share, share * epochs, count)

        return demand


__all__ = ["Again"]
