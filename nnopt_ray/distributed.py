"""Several workers train the one network of a page: Ray Train's TorchTrainer places them, joins them to a group and
starts them anew when one is lost; what they do is the core's work (`train.loop`), each on its piece of every batch.

The first worker writes history and checkpoints into the trial's folder, as a training by one process does, and all
go on from there after a loss. This process reads the history as it grows.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_ray import assembly, reading, rundir
from nnopt_ray.errors import Interrupted, NnoptError, NotANumber, RunFailed, Superseded, UserError
from nnopt_ray.experiment import Experiment, plain
from nnopt_ray.log import plural
from nnopt_ray.pipeline import SINGLE, Watch
from nnopt_ray.results import Epoch, TrialRow
from nnopt_ray.rundir import RunDir, TrialDir, read_lines
from nnopt_ray.search import ray_train
from nnopt_ray.search.waiting import LOOK_FOR_NODES_S, Waiting
from nnopt_ray.storage.keeping import refuse_other_nodes

if TYPE_CHECKING:
    from nnopt_ray.search.cluster import RaySession
    from nnopt_ray.train.fit import TrialRun
    from nnopt_ray.train.loop import Trainer
    from nnopt_ray.train.sharding import Shard

FOLDER = "ray_train"  # of a trial, where Ray Train writes
LOOK_EVERY_S = 0.2


def train(
    experiment: Experiment,
    run: RunDir,
    watch: Watch,
    should_stop: Callable[[], bool],
    session: RaySession,
    timed: bool = False,
) -> tuple[TrialRow, dict[str, str], float]:
    """One training by `resources.workers` workers, from its newest checkpoint when there is one → its row, what was
    decided (how many workers there were, what a batch was), and the seconds in which there was no worker.

    The data lie in the run folder. timed: measure where the time goes, and what an all-reduce takes
    (`TrialDir.all_reduce`). Raises UserError when the cluster does not hold so many workers or a node does not see the
    run folder, ClusterLost when it holds them no longer (see `waiting`), Interrupted when it is to stop before there
    are workers, NotANumber and RunFailed as a training by one process.
    """
    trial = run.trial(SINGLE)
    if not trial.page.is_file():
        rundir.write_text(trial.page, reading.dump(experiment))
    least, most = experiment.resources.worker_range
    cluster = session.cluster()
    refuse_other_nodes(run, cluster.nodes)
    waiting = Waiting(experiment.resources, watch.note)
    room = waiting.room(cluster)
    watch.begin(total=1, workers=min(cluster.workers(experiment.resources), most) if room else least, over={})
    for file in (trial.stop, trial.outcome):
        file.unlink(missing_ok=True)
    shown = sum(1 for _ in read_lines(trial.history))
    told = _Told(trial, watch, shown)
    sent = {
        "tree": plain(experiment.tree),
        "file": str(experiment.file) if experiment.file else None,
        "root": str(run.root),
        "timed": timed,
    }
    with ray_train.Hosted(_work, sent, experiment.resources, trial.root, FOLDER) as hosted:
        looked = time.monotonic()
        while not hosted.over(LOOK_EVERY_S):
            told.look()
            if session.answers() and session.address is not None and time.monotonic() - looked > LOOK_FOR_NODES_S:
                looked, cluster = time.monotonic(), session.cluster()
                room = waiting.room(cluster)
                if told.began and room:
                    waiting.works()
                else:
                    waiting.idle(cluster, session.free())
            if should_stop():
                if not trial.stop.is_file():
                    rundir.write_text(trial.stop, "")
                if not (told.began and room):  # nobody is there to end an epoch
                    raise Interrupted("stopped")
        why = hosted.why()
    told.look()
    if not trial.outcome.is_file():
        session.refuse_gone()
    trial.stop.unlink(missing_ok=True)
    shutil.rmtree(trial.root / FOLDER, ignore_errors=True)
    row = _row(trial, why)
    said = rundir.read_json(trial.outcome)
    decided = {"workers": _sentence(experiment, int(said["workers"]), cluster.sentence()), **waiting.told()}
    if said["cut"]:
        decided["fsdp"] = said["cut"]
    return row, decided, waiting.waited_s


def _sentence(experiment: Experiment, workers: int, where: str) -> str:
    size = assembly.scaled(experiment, workers).train.batch_size
    own = experiment.resources.batch == "per_worker"
    each = f"{experiment.train.batch_size} rows each, {size} in all" if own else f"pieces of a batch of {size} rows"
    if experiment.resources.sync_batch_norm and workers > 1:
        each += ", batch norm over all of them"
    return f"{workers} that trained the network together on {where}: {each}"


def session_for(experiment: Experiment, address: str | None) -> AbstractContextManager[RaySession | None]:
    """Ray starts while the data is prepared; a single training needs none."""
    if not experiment.is_search and not experiment.resources.together:
        return nullcontext()
    from nnopt_ray.search.cluster import RaySession

    if not experiment.is_search:
        return RaySession(address, experiment.resources, None)
    from nnopt_ray.search.group import Group
    from nnopt_ray.search.seats import begins_here
    from nnopt_ray.search.worker import Worker

    at_once = not begins_here(experiment, address)
    trains: type = Group if experiment.resources.together else Worker
    return RaySession(address, experiment.resources, trains, list(sys.path), at_once=at_once)


class _Told:
    """Hands on what the first worker writes: new epochs, and where training went on after a loss."""

    def __init__(self, trial: TrialDir, watch: Watch, shown: int) -> None:
        self._trial, self._watch, self._shown = trial, watch, shown
        self._before = self._resumed = sum(1 for _ in read_lines(trial.resumed))

    @property
    def began(self) -> bool:
        """Whether there were workers yet."""
        return self._resumed > self._before

    def look(self) -> None:
        for line in list(read_lines(self._trial.resumed))[self._resumed :]:
            lost = self._resumed > self._before
            self._resumed += 1
            for note in line["notes"]:
                self._watch.note(note)
            if lost:
                by = plural(line["workers"], "worker")
                self._watch.note(f"Training goes on with epoch {line['epoch']}, as one was lost: by {by} started anew.")
            elif line["epoch"]:
                self._watch.note(f"Training goes on with epoch {line['epoch']}.")
        for line in read_lines(self._trial.history):
            if line["epoch"] >= self._shown:
                self._shown = line["epoch"] + 1
                self._watch.epoch(Epoch.from_line(line))


def _row(trial: TrialDir, why: str) -> TrialRow:
    if not rundir.there(trial.outcome):
        raise RunFailed(f"the workers ended without a result: {why or 'no worker said why'}. What was done is kept.")
    said = rundir.read_json(trial.outcome)
    if said["error"]:
        kind = {"NotANumber": NotANumber, "UserError": UserError}.get(said["kind"], RunFailed)
        raise kind(said["error"])
    history = tuple(Epoch.from_line(line) for line in read_lines(trial.history))
    best = said["best_epoch"]
    return TrialRow(
        trial=SINGLE,
        status="finished",
        reason=said["reason"],
        params={},
        epochs=len(history),
        best_epoch=best,
        seconds=sum(epoch.seconds for epoch in history),
        value=said["value"],
        metrics=history[best].metrics,
        history=history,
    )


# ── in the workers ──────────────────────────────────────────────────────────────────────────────────────


def _work(told: Mapping[str, Any]) -> None:
    """What each worker does."""
    sys.path.extend(path for path in told["import_paths"] if path not in sys.path)
    shard = _shard(told)
    trial = RunDir(Path(told["root"])).trial(SINGLE)
    try:
        _trained(told, shard, trial)
    except Superseded:
        pass  # others train this by now, and nobody hears these workers
    except NnoptError as error:
        # All workers meet it alike; the first tells it, and none is started anew.
        if shard.rank == 0:
            kind = next(kind.__name__ for kind in (NotANumber, UserError, NnoptError) if isinstance(error, kind))
            rundir.write_json(trial.outcome, {"error": str(error), "kind": kind})


def _shard(told: Mapping[str, Any]) -> Shard:
    import torch.distributed as dist

    from nnopt_ray.train.sharding import Shard

    resources = told["tree"]["resources"]
    sync = resources["sync_batch_norm"]
    if not resources["fsdp"] or dist.get_world_size() == 1:
        return Shard(sync)
    from nnopt_ray.train.fully_sharded import FullShard

    return FullShard(sync)


def _trained(told: Mapping[str, Any], shard: Shard, trial: TrialDir) -> None:
    from nnopt_ray.search.node_store import open_on_node
    from nnopt_ray.train.fit import TrialRun
    from nnopt_ray.train.loop import Trainer

    page = reading.from_tree(told["tree"], Path(told["file"]) if told["file"] else None)
    experiment = assembly.scaled(page, shard.workers)
    where = ray_train.with_device(assembly.machine_for(experiment))
    dataset, _ = open_on_node(RunDir(Path(told["root"])).data)
    made = (experiment, dataset, where, assembly.metrics_for(experiment, dataset))
    writes: TrialRun | None = None
    failed: NnoptError | None = None
    if shard.rank == 0:  # it clears away half-written checkpoints, so it is there first
        try:
            notes: list[str] = []
            writes = TrialRun(*made, trial, shard=shard, on_note=notes.append)
        except NnoptError as error:
            failed = error
        else:
            begun = {"epoch": writes.epoch, "workers": shard.workers, "notes": notes}
            rundir.append(trial.resumed, json.dumps(begun) + "\n")
    if shard.agreed(failed is not None):
        if failed is not None:
            raise failed
        return
    trainers = [writes.trainer] if writes is not None else []
    for _ in shard.in_turn():
        if not trainers:
            trainers.append(_resumed(Trainer(*made, shard=shard), trial))
    if told["timed"]:
        _timed(trainers[0], shard, trial)
    _epochs(trainers[0], writes, shard, trial)


def _timed(trainer: Trainer, shard: Shard, trial: TrialDir) -> None:
    """Hang a clock onto the training, and measure what sums over the workers take."""
    from nnopt_ray.train.clock import LARGE_BYTES, Clock, all_reduces

    swept = all_reduces(max(LARGE_BYTES, trainer.weights.flat.numel() * 4), trainer.weights.flat.device)
    if shard.rank == 0:
        rundir.write_json(trial.all_reduce, swept)
    Clock(trainer, shard)


def _resumed(trainer: Trainer, trial: TrialDir) -> Trainer:
    from nnopt_ray.train import checkpoints

    found = checkpoints.newest(trial, lambda note: None)
    if found is not None:
        trainer.load_state(found)
    return trainer


def _epochs(trainer: Trainer, writes: TrialRun | None, shard: Shard, trial: TrialDir) -> None:
    """Epoch after epoch; after each the first worker writes, and all hear whether to go on."""
    failed: NnoptError | None = None
    while not trainer.done:
        epoch = trainer.run_epoch()
        with shard.led(trainer):
            try:
                if writes is not None:
                    writes.take(epoch)
            except NnoptError as error:
                failed = error
        if shard.agreed(failed is not None or rundir.there(trial.stop)):
            break
    with shard.led(trainer):
        if writes is not None:
            _finished(writes, failed, shard, trial)


def _finished(writes: TrialRun, failed: NnoptError | None, shard: Shard, trial: TrialDir) -> None:
    if failed is not None:
        raise failed
    if not writes.done:
        writes.close("stopped")
    fit = writes.finish()
    writes.refuse_superseded()
    said = {"error": "", "best_epoch": fit.best_epoch, "value": fit.value, "reason": fit.reason}
    rundir.write_json(trial.outcome, {**said, "workers": shard.workers, "cut": shard.decided, "ended": time.time()})


__all__ = ["session_for", "train"]
