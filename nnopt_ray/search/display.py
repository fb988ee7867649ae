"""What a study shows while it runs: progress, trials.parquet, and the storage that optuna-dashboard opens."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nnopt_ray import rundir
from nnopt_ray.experiment import Experiment
from nnopt_ray.results import Progress, TrialRow
from nnopt_ray.rundir import RunDir
from nnopt_ray.search.ledger import Ledger
from nnopt_ray.search.pace import Pace
from nnopt_ray.trials import write_table

if TYPE_CHECKING:
    from nnopt_ray.pipeline import Watch
    from nnopt_ray.search.dashboard import DashboardStorage
    from nnopt_ray.search.seats import Seats

TABLE_EVERY_S = 5.0  # trials.parquet is rewritten this often while the search runs
TABLE_SHARE = 0.02  # ... and seldom enough to take no more than this share of the time
PROGRESS_EVERY_S = 0.1


class Display:
    """Everything here derives from the ledger; nothing of it is needed to go on."""

    def __init__(self, experiment: Experiment, run: RunDir, ledger: Ledger, watch: Watch) -> None:
        self._experiment, self._run, self._ledger, self._watch = experiment, run, ledger, watch
        self._pace = Pace()
        self._dashboard: DashboardStorage | None = None
        self._in_dashboard: set[str] = set()
        self._told = self._written = self._cost_s = 0.0
        self.left_s: float | None = None  # until the search is done, as far as is known

    def rows(self) -> tuple[TrialRow, ...]:
        return tuple(trial.row() for trial in self._ledger.trials.values())

    def best(self) -> TrialRow | None:
        best = self._ledger.best
        return None if best is None else best.row()

    def progress(self, seats: Seats, last: bool = False) -> None:
        """Tell how far the search is, some times a second, and keep the table fresh."""
        now = time.monotonic()
        if now - self._told < PROGRESS_EVERY_S and not last:
            return
        self._told = now
        ledger, counts, total = self._ledger, self._ledger.counts, self._ledger.asker.total
        over = counts["finished"] + counts["stopped"] + counts["failed"]
        epochs_per_s, self.left_s = self._pace.seen(total, over, ledger.epochs, ledger.epochs_over)
        self._watch.progress(
            Progress(
                total=total,
                running=counts["running"],
                paused=counts["paused"],
                finished=counts["finished"],
                stopped=counts["stopped"],
                failed=counts["failed"],
                epochs=ledger.epochs,
                epochs_per_s=epochs_per_s,
                workers=seats.workers,
                lanes=seats.lanes,
                lanes_filled=seats.lanes_filled,
                left_s=self.left_s,
                best=self.best(),
            )
        )
        self.write()

    def write(self, force: bool = False) -> None:
        """trials.parquet and the dashboard's storage, at most every few seconds unless forced."""
        began = time.monotonic()
        if not force and began - self._written <= max(TABLE_EVERY_S, self._cost_s / TABLE_SHARE):
            return
        rows = self.rows()
        rundir.write(self._run.trials_table, lambda path: write_table(path, rows))
        self._add_to_dashboard(rows)
        self._written = time.monotonic()
        self._cost_s = self._written - began

    def _add_to_dashboard(self, rows: tuple[TrialRow, ...]) -> None:
        from nnopt_ray.search.dashboard import DashboardStorage

        if self._dashboard is None:
            self._dashboard = DashboardStorage(self._run.optuna_journal, self._experiment)
        trials = self._ledger.trials
        new = [row for row in rows if row.trial not in self._in_dashboard and trials[row.trial].over]
        self._dashboard.add(new, {row.trial: trials[row.trial].values for row in new})
        self._in_dashboard.update(row.trial for row in new)
