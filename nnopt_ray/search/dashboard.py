"""The study as Optuna's tools read it: `optuna-dashboard RUN/optuna.log`, `optuna.load_study`.

Derived from the journal and never read back by a search: deleting it loses nothing.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_ray.errors import RunFailed
from nnopt_ray.evaluate.pareto import objective_values
from nnopt_ray.experiment import Experiment, Range
from nnopt_ray.results import TrialRow
from nnopt_ray.search.space import fitted, narrowed, params, points, value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

TRIAL = "trial"  # the user attribute that holds our name of a trial


class DashboardStorage:
    """Writes finished trials to a file in the format of Optuna's JournalStorage, each of them once.

    Nothing is read or imported before the first trials are added. Each batch goes to the file in one piece;
    what was written is not kept in memory, only the trials' names.
    """

    def __init__(self, path: Path, experiment: Experiment) -> None:
        self._path, self._experiment = path, experiment
        self._tree = narrowed(experiment.tree)
        self._shown: dict[str, BaseDistribution] = {}  # branch → what it may be
        self._written: set[str] | None = None
        self._head: list[dict[str, Any]] = []  # the lines that begin the file: the study itself
        listed = experiment.search.trials if isinstance(experiment.search.trials, tuple) else ()
        self._by_hand: dict[str, list[Any]] = {}  # path → the values that trials by hand give it
        for point in listed:
            for path_, chosen in point.items():
                known = self._by_hand.setdefault(path_, [])
                if _flat(chosen) not in known:
                    known.append(_flat(chosen))

    def add(self, rows: Iterable[TrialRow], values: Mapping[str, Sequence[float]] | None = None) -> int:
        """Write the trials that are over and not written yet. → how many those were.

        `values` holds the first objective of each epoch by trial; without it a row's own history is used.
        Raises RunFailed when the disk takes no more.
        """
        over = [row for row in rows if row.status in ("finished", "stopped", "failed")]
        if self._written is None and over:
            self._open()
        new = [row for row in over if row.trial not in (self._written or ())]
        if not new:
            return 0
        batch = _batch(self._head)
        study = _study(batch, self._experiment)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of choices that are no plain values; they are all made plain here
            for row in new:
                study.add_trial(self._frozen(row, (values or {}).get(row.trial)))
        self._append(batch.new)
        self._written = (self._written or set()) | {row.trial for row in new}
        return len(new)

    # --- the file -------------------------------------------------------------------------------

    def _open(self) -> None:
        batch = _batch([])
        _study(batch, self._experiment)
        self._head = batch.new
        found = self._known()
        if found is None:
            self._path.unlink(missing_ok=True)
            self._append(self._head)
        self._written = found or set()

    def _known(self) -> set[str] | None:
        """Our names of the trials in the file; None when it is missing or no whole study of this name."""
        if not self._path.is_file():
            return None
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):  # a process was killed while it wrote
            with open(self._path, "r+b") as file:
                file.truncate(whole)
        try:
            logs = [json.loads(line) for line in content[:whole].splitlines()]
            if [_bare(log) for log in logs[: len(self._head)]] != [_bare(log) for log in self._head]:
                return None
            return {log["user_attrs"][TRIAL] for log in logs if TRIAL in log.get("user_attrs", {})}
        except (ValueError, AttributeError, TypeError):
            return None

    def _append(self, logs: list[dict[str, Any]]) -> None:
        from optuna.storages.journal import JournalFileBackend

        try:
            JournalFileBackend(str(self._path)).append_logs(logs)
        except OSError as error:
            raise RunFailed(f"cannot write {self._path}: {error.strerror or error}.") from error

    # --- one trial ------------------------------------------------------------------------------

    def _frozen(self, row: TrialRow, values: Sequence[float] | None) -> FrozenTrial:
        from optuna.trial import TrialState, create_trial

        objectives = self._experiment.objectives
        reached = objective_values(row, objectives)
        state = TrialState.PRUNED if row.status == "stopped" else TrialState.COMPLETE
        if row.status == "failed" or (reached is None and state is TrialState.COMPLETE):
            state, reached = TrialState.FAIL, None
        told = dict(enumerate(values)) if values is not None else self._history(row)
        found, distributions = self._params(row.params)
        trial = create_trial(
            state=state,
            values=reached,
            params=found,
            distributions=distributions,
            intermediate_values=told,
            user_attrs={TRIAL: row.trial, "reason": row.reason, "epochs": row.epochs, **row.metrics},
        )
        trial.datetime_complete = datetime.now()
        trial.datetime_start = trial.datetime_complete - timedelta(seconds=row.seconds)
        return trial

    def _history(self, row: TrialRow) -> dict[int, float]:
        metric = self._experiment.metric
        return {epoch.epoch: epoch.metrics[metric] for epoch in row.history if metric in epoch.metrics}

    def _params(self, point: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        from optuna.distributions import CategoricalDistribution

        found: dict[str, Any] = {}
        distributions: dict[str, BaseDistribution] = {}

        def note(path: str, branch: str, range_: Range) -> Any:
            if branch not in self._shown:
                self._shown[branch] = _shown(range_)
            found[branch], distributions[branch] = point[path], self._shown[branch]
            return range_.labels().index(point[path]) if range_.kind == "choice" else point[path]

        if point and fitted(self._tree, point) is not None:
            params(self._tree, note)
            return found, distributions
        for path, chosen in point.items():  # by hand, or of a space that was another one then
            found[path] = _flat(chosen)
            known = self._by_hand.get(path, [])
            distributions[path] = CategoricalDistribution(known if found[path] in known else [found[path]])
        return found, distributions


def _shown(range_: Range) -> BaseDistribution:
    """A range with the values of the page, where a search may use positions."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    low, high = range_.values[0], range_.values[-1]
    match range_.kind:
        case "uniform" | "log":
            return FloatDistribution(float(low), float(high), log=range_.kind == "log")
        case "int" | "log_int":
            return IntDistribution(low, high, log=range_.kind == "log_int")
        case "choice":
            return CategoricalDistribution(list(range_.labels()))
    last, step = value(range_, (points(range_) or 1) - 1), range_.values[2]
    if all(isinstance(end, int) for end in range_.values):
        return IntDistribution(low, last, step=step)
    return FloatDistribution(float(low), float(last), step=float(step))


def _flat(chosen: Any) -> Any:
    return chosen if chosen is None or isinstance(chosen, (bool, int, float, str)) else json.dumps(chosen, default=str)


def _bare(log: Mapping[str, Any]) -> dict[str, Any]:
    """A line without what differs from process to process."""
    return {key: item for key, item in log.items() if key != "worker_id"}


def _batch(head: Sequence[dict[str, Any]]) -> Any:
    """A storage backend in memory that begins with the lines of `head` and collects `new` ones."""
    from optuna.storages.journal import BaseJournalBackend

    class Batch(BaseJournalBackend):  # type: ignore[misc]
        def __init__(self) -> None:
            self.new: list[dict[str, Any]] = []

        def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
            yield from head[log_number_from:]
            yield from itertools.islice(self.new, max(0, log_number_from - len(head)), None)

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            self.new += json.loads(json.dumps(logs))

    return Batch()


def _study(backend: Any, experiment: Experiment) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.JournalStorage(backend)
    if storage.get_all_studies():
        return optuna.load_study(study_name=experiment.name, storage=storage)
    directions = ["minimize" if mode == "min" else "maximize" for mode, _ in experiment.objectives]
    study = optuna.create_study(study_name=experiment.name, storage=storage, directions=directions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([metric for _, metric in experiment.objectives])
    return study
