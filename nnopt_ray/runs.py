"""Run a page, resume a run, open a run folder: what the program and Python callers call."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_ray import assembly, holding, pipeline, reading, rundir, tables
from nnopt_ray.distributed import session_for
from nnopt_ray.errors import ClusterLost, Interrupted, NnoptError, RunFailed, RunFolderError, UserError
from nnopt_ray.experiment import Experiment, plain
from nnopt_ray.log import Logged
from nnopt_ray.pipeline import Watch, never
from nnopt_ray.reporting import Reported
from nnopt_ray.results import Confirmation, TrialRow
from nnopt_ray.rundir import RunDir
from nnopt_ray.search.journal import Journal, measured_again
from nnopt_ray.storage import copies, keeping
from nnopt_ray.storage.urls import default_parent
from nnopt_ray.tracking.following import check as check_trackers
from nnopt_ray.tracking.following import following
from nnopt_ray.viewing import Views

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from nnopt_ray.comparing import Comparison
    from nnopt_ray.data.examine import Examination
    from nnopt_ray.data.types import Dataset
    from nnopt_ray.evaluate.folded import Folded
    from nnopt_ray.evaluate.sized import Sized
    from nnopt_ray.search.cluster import RaySession
    from nnopt_ray.search.study import Study
    from nnopt_ray.train.lr_range import LrRange


class Run(Views):
    """A run folder: finished, interrupted, or still running elsewhere."""

    def __init__(self, path: Path) -> None:
        super().__init__(RunDir.open(path))

    @property
    def path(self) -> Path:
        """The folder, absolute; of a run at a URL the one on this machine."""
        return self._dir.root

    @property
    def place(self) -> str:
        """The URL that the run is kept at, else its folder."""
        return self._dir.place

    @cached_property
    def experiment(self) -> Experiment:
        """The resolved page."""
        return reopen(self._dir)

    @property
    def finished(self) -> bool:
        return self._dir.result.is_file()

    @property
    def result(self) -> dict[str, Any]:
        """result.json. Raises RunFolderError while the run is not finished."""
        if not self.finished:
            raise RunFolderError(
                f"{self.place} is not finished: no result.json yet. `nnopt resume {self.place}` goes on."
            )
        found: dict[str, Any] = rundir.read_json(self._dir.result)
        return found

    @property
    def trials(self) -> pd.DataFrame:
        """trials.parquet: a row a trial.

        Columns: trial, status (finished, stopped, failed, running, paused, pending), cause and reason, epochs,
        best_epoch (from 0), seconds of training, value (the objective), the metrics of the best epoch, `param.<path>`
        per searched value.
        """
        import pandas as pd

        if not self._dir.trials_table.is_file():
            raise RunFolderError(f"{self.place} holds no trials yet.")
        return pd.read_parquet(self._dir.trials_table)

    @property
    def best(self) -> dict[str, Any]:
        """Trial, values and metrics of the winner."""
        found: dict[str, Any] = self.result["best"]
        return found

    def model(self) -> torch.nn.Module:
        """The best model with its weights, in eval mode."""
        return assembly.best_model(self._dir)[2]

    def predict(self, data: Any) -> pd.DataFrame:
        """What the best model says about new rows: `predicted`, and of classes `p_<class>` each.

        data: a data frame, whose index is kept; an array; a list of texts or of PIL images; or a path, as `nnopt
        predict` takes it. Of forecasts and of sequences in long form the rows are the steps foretold, and the
        sequences. What is odd about the rows is warned of. Raises DataError when they are not like the training data,
        UserError for what the network does not read.
        """
        from nnopt_ray.serving.handed import predicted
        from nnopt_ray.serving.predictor import Predictor

        return predicted(Predictor(self._dir), data)

    def __repr__(self) -> str:
        return f"Run({self.place!r})"


def open_run(path: str | Path) -> Run:
    """An existing run folder, here or at a URL, whose files but for the trials' checkpoints are fetched.

    Raises RunFolderError when it is none, UserError when a URL cannot be reached.
    """
    return Run(copies.view(path, whole=True))


def compare(*runs: Run | str | Path, html: str | Path | None = None) -> Comparison:
    """Finished runs beside the first of them: what differs on their pages, and by how much their scores do.

    html: a file that it is written to as a page, in the look of the report. Raises UserError for fewer than two runs
    and for runs of different tasks, RunFolderError for one not finished, RunFailed for a file that cannot be written.
    """
    from nnopt_ray import compared, comparing

    found = comparing.compare([run.path if isinstance(run, Run) else copies.view(run) for run in runs])
    if html is not None:
        compared.save(found, Path(html))
    return found


def run(
    experiment: Experiment,
    out: str | Path | None = None,
    *,
    address: str | None = None,
    watch: Watch | None = None,
    should_stop: Callable[[], bool] = never,
) -> Run:
    """Run a page: a single training, or a search when a value is opened.

    out: the parent of the run folder, a folder or a URL (default: `default_parent()`). address: a Ray cluster to search
    on; without it, and outside a Ray job, an embedded Ray. Raises RunFailed, UserError, and
    Interrupted when `should_stop` became true.
    """
    parent, watch = keeping.parent_of(out if out is not None else default_parent()), watch or Watch()
    check_trackers(experiment)
    with telling_own_faults(experiment), session_for(experiment, address) as session:
        dataset = pipeline.prepared(experiment)
        folder = pipeline.begin(experiment, parent)
        with keeping.kept(folder, watch.note, should_stop) as stop:
            return _go(experiment, folder, dataset, session, watch, stop)


def resume(
    path: str | Path,
    *,
    trials: int | None = None,
    set: Sequence[str] = (),
    address: str | None = None,
    watch: Watch | None = None,
    should_stop: Callable[[], bool] = never,
) -> Run:
    """Go on with an interrupted run; a finished one is returned as it is, its report built if it has none.

    trials: the trials in all from now on. set: `PATH=VALUE` as on the command line; opened values may get other
    ranges, in which earlier trials stay evidence. With either, a finished search goes on too. Raises UserError
    when that would make another search of it.
    """
    changes = trials is not None or bool(set)
    if copies.at(path) and not changes:
        folder = RunDir(copies.view(path, whole=True))
        if folder.result.is_file() and folder.report.is_file() and not keeping.unsent(folder.root):
            return Run(folder.root)
    watch = watch or Watch()
    with keeping.taken_up(path, watch.note, should_stop) as (here, stop):
        found = Run(here)
        _heal(RunDir(found.path))
        if changes:
            _extend(RunDir(found.path), found, trials, set)
            found = Run(here)
        if found.finished:
            if not RunDir(found.path).report.is_file():  # there was no room for it
                _report_again(RunDir(found.path))
            return found
        check_trackers(found.experiment)
        with session_for(found.experiment, address) as session:
            return _go(found.experiment, RunDir(found.path), None, session, watch, stop)


def examine(experiment: Experiment) -> Examination:
    """What is wrong with the data of a page, by every check there is, and what its data.quality would do about it.

    Where ranges are open, their representative is meant. Writes nothing. Raises DataError for data that the page cannot
    use, RunFailed for a fault in a part of the page's own.
    """
    from nnopt_ray.data import examine as examining

    with telling_own_faults(experiment):
        page = assembly.representative(experiment)
        return examining.examine(page, assembly.judge_of(page))


def lr_range_test(experiment: Experiment, low: float = 1e-7, high: float = 10.0, steps: int = 100) -> LrRange:
    """Which learning rates a page's network learns at: up to `steps` steps of a new network with a growing rate.

    Where ranges are open, their representative is tested. Writes nothing. Raises UserError for rates or steps that
    make no test and for a page that cannot be trained, RunFailed for a fault in a part of the page's own.
    """
    from nnopt_ray.train import lr_range

    if not 0 < low < high < math.inf:
        raise UserError(f"the rates of a range test must grow from above 0; they are {low:g} to {high:g}.")
    if steps < lr_range.LEAST:
        raise UserError(f"a range test needs at least {lr_range.LEAST} steps; asked for are {steps}.")
    with telling_own_faults(experiment):
        page = assembly.representative(experiment)
        dataset = pipeline.prepared(page)
        where = assembly.machine_for(page)
        return lr_range.sweep(page, dataset, where, assembly.metrics_for(page, dataset), low, high, steps)


def _extend(folder: RunDir, found: Run, trials: int | None, set: Sequence[str]) -> None:
    """Change the page of a search that has begun. The journal is told first, so that nothing is lost between."""
    from nnopt_ray.search.ledger import page_digest

    with holding.holding(folder):
        before = found.experiment
        wanted = [*set, *([f"search.trials={trials}"] if trials is not None else [])]
        after = reading.load(folder.resolved, set=wanted)
        reading.check_extends(before, after)
        if not folder.journal.is_file():
            raise UserError(f"{folder.place} is no search, so there is nothing to extend.")
        text = reading.dump(after)
        with closing(Journal(folder.journal)) as journal:
            journal.append(
                {
                    "event": "extended",
                    "page": page_digest(after),
                    "resolved": text,
                    "space_changed": plain(dict(before.space)) != plain(dict(after.space)),
                    "was_finished": found.finished,
                }
            )
        _heal(folder)


def _heal(folder: RunDir) -> None:
    """Make the run folder what the last extension in its journal says, if it is not yet."""
    extended = [event for event in rundir.read_lines(folder.journal) if event["event"] == "extended"]
    if extended and folder.resolved.read_text(encoding="utf-8") != extended[-1]["resolved"]:
        folder.result.unlink(missing_ok=True)
        folder.report.unlink(missing_ok=True)
        rundir.write_text(folder.resolved, extended[-1]["resolved"])


def _report_again(folder: RunDir) -> None:
    from nnopt_ray.report import write

    with holding.holding(folder):
        write.write(folder, write.facts_from_folder(folder))


def reopen(folder: RunDir) -> Experiment:
    """The resolved page of a run folder, with the import paths it was started with."""
    return reading.load(folder.resolved)


def _go(
    experiment: Experiment,
    folder: RunDir,
    dataset: Dataset | None,
    session: RaySession | None,
    watch: Watch,
    should_stop: Callable[[], bool],
) -> Run:
    logged = Logged(watch, folder, experiment.metric, experiment.train.epochs)
    reported = Reported(logged, folder)
    told = following(experiment, folder, logged.note)
    with holding.holding(folder), logged, told, reported as watch, telling_own_faults(experiment, folder):
        try:
            if dataset is not None:
                dataset = pipeline.placed(dataset, folder, watch)
            else:
                dataset = _data_of(experiment, folder, watch)
            if experiment.is_search:
                assert session is not None
                _search(experiment, folder, dataset, session, watch, should_stop)
            else:
                _single(experiment, folder, dataset, watch, should_stop, session)
        except (KeyboardInterrupt, Interrupted) as error:
            raise Interrupted(f"Interrupted. Nothing is lost: nnopt resume {folder.place}") from error
        except ClusterLost as error:
            raise RunFailed(f"{error}; the run goes on, here or on another: nnopt resume {folder.place}") from error
        except OSError as error:
            if error.errno is None:
                raise
            raise RunFailed(
                f"{error.strerror}: {error.filename or folder.root}. What was done is kept; when the cause is gone: "
                f"nnopt resume {folder.place}"
            ) from error
    return Run(folder.root)


@contextmanager
def telling_own_faults(experiment: Experiment, folder: RunDir | None = None) -> Iterator[None]:
    """A part that the page brings itself may raise anything; that is its owner's fault to find, not ours.

    Raises RunFailed in its place, with the file and line in the part; the traceback goes to the run folder.
    """
    try:
        yield
    except NnoptError:
        raise
    except (Exception, SystemExit) as error:
        place = tables.own_place(plain(experiment.tree), error)
        if not place:
            raise
        sentence = f"{type(error).__name__}: {error} ({place})"
        if folder is not None:
            trace = folder.trial(pipeline.SINGLE).error
            rundir.write_text(trace, traceback.format_exc())
            sentence += f". The traceback is in {trace}"
        raise RunFailed(sentence) from error


def _data_of(experiment: Experiment, folder: RunDir, watch: Watch) -> Dataset:
    """The data of a run that is resumed: what it trained on, or prepared now if it was cut off before."""
    from nnopt_ray.data.prepare import open_dataset

    try:
        return open_dataset(folder.data)
    except RunFolderError:
        return pipeline.placed(pipeline.prepared(experiment), folder, watch)


def _single(
    experiment: Experiment,
    folder: RunDir,
    dataset: Dataset,
    watch: Watch,
    should_stop: Callable[[], bool],
    session: RaySession | None,
) -> None:
    def beside(row: TrialRow) -> tuple[Folded | None, Sized | None]:
        if experiment.evaluate.folds is None and experiment.evaluate.sizes is None:
            return None, None
        from nnopt_ray.search import folds

        asked = experiment, folder, dataset, row, watch, should_stop
        return folds.alone(*asked), folds.sizes_alone(*asked)

    def together() -> tuple[TrialRow, dict[str, str], float]:
        from nnopt_ray import distributed

        assert session is not None
        return distributed.train(experiment, folder, watch, should_stop, session)

    many = together if experiment.resources.together else None
    pipeline.run_single(experiment, folder, dataset, watch, should_stop, beside, many)


def _search(
    experiment: Experiment,
    folder: RunDir,
    dataset: Dataset,
    session: RaySession,
    watch: Watch,
    should_stop: Callable[[], bool],
) -> None:
    from nnopt_ray.search.ferry import collected
    from nnopt_ray.search.study import Study

    began = time.monotonic()
    if not folder.journal.is_file():
        for note in reading.notes(experiment):
            watch.note(note)
    study = Study(experiment, folder, watch)
    rows = collected(folder, study.run(session, should_stop, dataset), study.ledger)
    folded = None
    if experiment.evaluate.folds is not None and not should_stop():
        folded = _cross_validated(experiment, folder, dataset, study, session, watch, should_stop)
    session.close()
    sized = None
    if study.again.sizing and not should_stop():
        from nnopt_ray.search.folds import sizes_concluded

        trained = {trial.id: trial.row() for trial in study.ledger.confirming.values()}
        sized = sizes_concluded(experiment, study.again.sizing, trained, watch)
    if should_stop():
        raise Interrupted("stopped")
    confirmation = _confirmed(experiment, dataset, study, watch)
    seconds = study.earlier_s + time.monotonic() - began - study.waited_s
    decided = {**pipeline.decided_data(dataset), **study.decided, "search_s": f"{seconds:.1f}"}
    if said := measured_again(folder):
        decided["test"] = said
        watch.note(f"{decided['test'][:1].upper()}{decided['test'][1:]}.")
    whole = None if study.again.whole is None else study.again.whole.row()
    pipeline.conclude(
        experiment, folder, dataset, rows, seconds, decided, confirmation, folded, sized, whole, watch.note
    )


def _cross_validated(
    experiment: Experiment,
    folder: RunDir,
    dataset: Dataset,
    study: Study,
    session: RaySession,
    watch: Watch,
    should_stop: Callable[[], bool],
) -> Folded | None:
    """The search anew inside each fold, or what the study's workers made of the winner's folds."""
    from nnopt_ray.search import folds

    if experiment.evaluate.nested:
        from nnopt_ray.search.nested import nested

        return nested(experiment, folder, dataset, session, watch, should_stop)
    rows = {trial.id: trial.row() for trial in study.ledger.confirming.values()}
    if not study.again.folding:
        return None
    return folds.concluded(experiment, folder, dataset, study.again.folding, rows, watch)


def _confirmed(experiment: Experiment, dataset: Dataset, study: Study, watch: Watch) -> Confirmation | None:
    """What came of `search.confirm`, and the baseline over the same seeds beside it."""
    from nnopt_ray.search import confirm

    if experiment.search.confirm is None or not study.again.confirming:
        return None
    values = confirm.collected(study.again.confirming, [trial.row() for trial in study.ledger.confirming.values()])
    seeds = confirm.seeds(experiment.seed, experiment.search.confirm.seeds)
    base = assembly.baseline_values(experiment, dataset, seeds)
    found = confirm.verdict(values, base, experiment.mode, experiment.evaluate.confidence, experiment.metric)
    for sentence in found.sentences:
        watch.note(sentence)
    return found
