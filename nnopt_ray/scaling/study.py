"""A scaling study: every size trained as a run of its own, one after another, in a folder that can be gone on with.

The test part is not touched: nothing but the validation part, after each epoch, is measured.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnopt_ray import assembly, distributed, holding, pipeline, reading, rundir
from nnopt_ray import machine as machines
from nnopt_ray.errors import Interrupted, NnoptError, RunFolderError, UserError
from nnopt_ray.experiment import Experiment
from nnopt_ray.log import Logged, plural
from nnopt_ray.pipeline import SINGLE, Watch, never
from nnopt_ray.results import Epoch
from nnopt_ray.rundir import RunDir
from nnopt_ray.runs import telling_own_faults
from nnopt_ray.scaling import lanes as lanes_
from nnopt_ray.scaling import page as pages
from nnopt_ray.scaling import sizes
from nnopt_ray.scaling.asked import Asked, cores, settled
from nnopt_ray.scaling.found import Scaling, Size, size_from_json
from nnopt_ray.scaling.sizes import Place, Trained
from nnopt_ray.scaling.summing import summed_up
from nnopt_ray.storage.urls import default_parent, path_of

if TYPE_CHECKING:
    from nnopt_ray.data.types import Dataset
    from nnopt_ray.search.cluster import RaySession

TOLD_EVERY_S = 10.0  # epochs of a long training are shown this often


def scale(
    experiment: Experiment,
    *,
    workers: Sequence[int] = (),
    lanes: Sequence[int] = (),
    gpus: Sequence[float] = (),
    weak: bool = False,
    epochs: int | None = None,
    seeds: int = 1,
    plan: Sequence[int] = (),
    bandwidth: float | None = None,
    latency_s: float | None = None,
    overlap: bool = False,
    price_per_worker_hour: float | None = None,
    price_per_gpu_hour: float | None = None,
    out: str | Path | None = None,
    address: str | None = None,
    watch: Watch | None = None,
    should_stop: Callable[[], bool] = never,
) -> Scaling:
    """How far a page scales: it is trained at every size, as `nnopt scale` does it.

    workers: that train the one network; lanes: of a search, trials at a time; gpus: of each worker, at most 1.
    bandwidth: bytes a second of the link that is planned with. The other arguments are the options of the command.
    Raises UserError where this makes no study, DataError, RunFolderError, and Interrupted when `should_stop` became
    true. A size that cannot be trained is told in its place, and the others go on.
    """
    asked = Asked(
        workers=tuple(workers),
        lanes=tuple(lanes),
        gpus=tuple(gpus),
        weak=weak,
        epochs=epochs,
        seeds=seeds,
        worker_hour=price_per_worker_hour,
        gpu_hour=price_per_gpu_hour,
        plan=tuple(plan),
        bandwidth=bandwidth,
        latency_s=latency_s,
        overlap=overlap,
    )
    return carry_out(experiment, asked, out=out, address=address, watch=watch, should_stop=should_stop)


def carry_out(
    experiment: Experiment,
    asked: Asked,
    *,
    out: str | Path | None = None,
    address: str | None = None,
    watch: Watch | None = None,
    should_stop: Callable[[], bool] = never,
) -> Scaling:
    """Study how a page scales; an unfinished study of the same page and sizes below `out` is gone on with.

    Raises UserError where the study makes none, DataError, RunFolderError, and Interrupted when `should_stop` became
    true. A size that cannot be trained is told in its place, and the others go on.
    """
    asked = settled(asked, experiment)
    _refuse_gpus(asked, address)
    parent = path_of(out if out is not None else default_parent())
    watch = watch or Watch()
    folder = _unfinished(experiment, asked, parent)
    if folder is not None:
        watch.note(f"Going on with {folder.root}.")
    else:
        first = sizes.places(experiment, asked)[0]
        with telling_own_faults(experiment):
            dataset = pipeline.prepared(_page(experiment, asked, first))
            folder = _begin(
                experiment, asked, dataset, parent, embedded=not address and "RAY_ADDRESS" not in os.environ
            )
    return _go(folder, experiment, asked, address, watch, should_stop)


def resume(
    path: str | Path, *, address: str | None = None, watch: Watch | None = None, should_stop: Callable[[], bool] = never
) -> Scaling:
    """Go on with a study: the sizes that are missing or failed. Raises as `scale`."""
    folder = RunDir.open(Path(path))
    experiment, asked = reading.load(folder.resolved), _asked(folder)
    return _go(folder, experiment, asked, address, watch or Watch(), should_stop)


def open_study(path: str | Path) -> Scaling:
    """What a study found so far. Raises RunFolderError where there is none."""
    folder = RunDir.open(Path(path))
    if not folder.study.is_file():
        raise RunFolderError(f"{path} is no scaling study. `nnopt scale PAGE` makes one.")
    return _collected(folder, reading.load(folder.resolved), _asked(folder))


def report(path: str | Path) -> Path:
    """Build report.html of a study again. Raises RunFolderError, RunFailed."""
    found = open_study(path)
    pages.save(found, RunDir(found.path))
    return RunDir(found.path).report


# --- the folder -----------------------------------------------------------------------------------


def _page(experiment: Experiment, asked: Asked, place: Place, seed: int = 0) -> Experiment:
    if place.lanes:
        return lanes_.page_of(experiment, place.workers, asked.epochs or lanes_.EPOCHS)
    return sizes.page_of(experiment, asked, place, seed)


def _begin(experiment: Experiment, asked: Asked, dataset: Dataset, parent: Path, embedded: bool) -> RunDir:
    told = {"asked": asked.to_json(), "facts": _facts(experiment, dataset) | {"embedded": embedded}}
    return pipeline.begin(
        experiment, parent, f"{experiment.name}-scale", lambda run: rundir.write_json(run.study, told)
    )


def _facts(experiment: Experiment, dataset: Dataset) -> dict[str, Any]:
    """What the plan needs to know of the work, and what it ran on."""
    from nnopt_ray.train import freezing
    from nnopt_ray.train.batches import evaluation_size

    page = assembly.representative(experiment)
    model = assembly.build_model(page, dataset)
    freezing.freeze(model, page.train.freeze)
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    return {
        "processor": machines.processor(),
        "cores": cores(),
        "cpus_per_worker": experiment.resources.cpus_per_worker,
        "parameters": sum(each.numel() for each in model.parameters()),
        "gradient_bytes": 4 * trained,  # float32, whatever is computed in
        "validation_rows": len(dataset.validation),
        "evaluation_rows": evaluation_size(dataset.shapes, 1),
    }


def _asked(folder: RunDir) -> Asked:
    return Asked.from_json(rundir.read_json(folder.study)["asked"])


def _unfinished(experiment: Experiment, asked: Asked, parent: Path) -> RunDir | None:
    """The newest study of exactly this page and these sizes that is not finished, and that nobody is at."""
    said = reading.dump(experiment)
    same = []
    for folder in RunDir.named(parent, f"{experiment.name}-scale"):
        if not folder.study.is_file() or not folder.resolved.is_file() or holding.in_use(folder):
            continue
        finished = folder.scaling.is_file() and rundir.read_json(folder.scaling)["status"] == "finished"
        if not finished and folder.resolved.read_text(encoding="utf-8") == said and _asked(folder) == asked:
            same.append(folder)
    return max(same, key=lambda folder: folder.resolved.stat().st_mtime, default=None)


# --- the sizes ------------------------------------------------------------------------------------


def _go(
    folder: RunDir,
    experiment: Experiment,
    asked: Asked,
    address: str | None,
    watch: Watch,
    should_stop: Callable[[], bool],
) -> Scaling:
    logged = Logged(watch, folder, experiment.metric, asked.epochs or experiment.train.epochs)
    with holding.holding(folder), logged as watch:
        try:
            _all(folder, experiment, asked, address, watch, should_stop)
        except UserError:
            _write(folder, experiment, asked)
            raise
        except (KeyboardInterrupt, Interrupted) as error:
            _write(folder, experiment, asked)
            raise Interrupted(f"Interrupted. Nothing is lost: nnopt resume {folder.root}") from error
        return _write(folder, experiment, asked)


def _write(folder: RunDir, experiment: Experiment, asked: Asked) -> Scaling:
    found = _collected(folder, experiment, asked)
    rundir.write_json(folder.scaling, found.to_json())
    pages.save(found, folder)
    return found


def _all(
    folder: RunDir,
    experiment: Experiment,
    asked: Asked,
    address: str | None,
    watch: Watch,
    should_stop: Callable[[], bool],
) -> None:
    """Train every size that is not done."""
    from nnopt_ray.search.cluster import RaySession

    left = [place for place in sizes.places(experiment, asked) if not _is_done(folder, place, asked)]
    session = RaySession(address, experiment.resources, None, at_once=False)
    embedded = not session.address
    refused = {place: sizes.too_many(experiment, place) for place in left if embedded and not place.lanes}
    # On a cluster one worker is one of its workers too: this process may be on another kind of machine.
    together = [
        place for place in left if not place.lanes and not refused.get(place) and (place.workers > 1 or not embedded)
    ]
    if embedded and together:  # a machine that says it has so many cores
        most = max(place.workers for place in together) * experiment.resources.cpus_per_worker
        session = RaySession(None, experiment.resources, None, at_once=False, cpus=max(most, cores()))
    with ExitStack() as stack:
        stack.enter_context(session)
        for place in left:
            if place in together:
                if not session.started:  # not before: beside the first size its start would slow that down
                    session.start()
                session.cluster()  # the wait for Ray is no part of the start of the size
            try:
                if refused.get(place):
                    raise UserError(refused[place])
                ray = session if place in together else None
                with telling_own_faults(experiment, folder):
                    _one(folder, experiment, asked, place, ray, watch, should_stop)
            except Interrupted:
                raise
            except NnoptError as error:
                missing = next(n for n in range(asked.seeds) if _measured(folder, place, n) is None)
                rundir.write_json(folder.size(place.folder(missing)).measured, {"failed": str(error)})
                watch.note(f"{place.name}: {error}")
                continue
            watch.note(line(next(s for s in _collected(folder, experiment, asked).sizes if s.name == place.name)))


def _is_done(folder: RunDir, place: Place, asked: Asked) -> bool:
    return all(_measured(folder, place, seed) is not None for seed in range(1 if place.lanes else asked.seeds))


def _measured(folder: RunDir, place: Place, seed: int) -> dict[str, Any] | None:
    """What a training wrote at its end; None where it has none, or failed."""
    file = folder.size(place.folder(seed)).measured
    said: dict[str, Any] | None = rundir.read_json(file) if file.is_file() else None
    return None if said is None or "failed" in said else said


def _one(
    folder: RunDir,
    experiment: Experiment,
    asked: Asked,
    place: Place,
    session: RaySession | None,
    watch: Watch,
    should_stop: Callable[[], bool],
) -> None:
    """All trainings of one size, by workers of the session, or (None) in this process."""
    for seed in range(1 if place.lanes else asked.seeds):
        if _measured(folder, place, seed) is not None:
            continue
        if should_stop():
            raise Interrupted("stopped")
        page, run = _page(experiment, asked, place, seed), folder.size(place.folder(seed))
        rundir.write_text(run.page, reading.dump(page))
        rundir.write_text(run.resolved, reading.dump(page))
        rundir.write_bytes(run.environment, folder.environment.read_bytes())
        dataset = pipeline.placed(assembly.data_of(page), run, Watch())
        if place.lanes:
            found = lanes_.measured(page, dataset, place, run, should_stop)
            if found is None:
                raise Interrupted("stopped")
            rundir.write_json(run.measured, {"size": vars(found)})
            continue
        told = _Told(watch, page, f"{place.name}{f', seed {seed + 1}' if asked.seeds > 1 else ''}")
        if session is not None:
            row, _, _ = distributed.train(page, run, told, should_stop, session, timed=True)
        else:
            row = pipeline.train_one(page, run, dataset, told, should_stop, timed=True)
        if should_stop():
            raise Interrupted("stopped")
        scaled = assembly.scaled(page, place.workers)
        batches = -(-len(dataset.train) // scaled.train.batch_size)
        said = {
            "start_s": told.start_s,
            "value": row.value,
            "rows": len(dataset.train),
            "batch_size": scaled.train.batch_size,
            "steps": -(-batches // page.train.accumulate),
        }
        rundir.write_json(run.measured, said)


class _Told(Watch):
    """Tells that a size is under way, and clocks its start: from here to its first step, the data being there."""

    def __init__(self, watch: Watch, page: Experiment, name: str) -> None:
        self._watch, self._epochs, self._name = watch, page.train.epochs, name
        self._began = self._last = time.monotonic()
        self.start_s = math.nan
        watch.note(f"{name}: {plural(self._epochs, 'epoch')}")

    def note(self, sentence: str) -> None:
        self._watch.note(f"{self._name}: {sentence}")

    def epoch(self, epoch: Epoch) -> None:
        now = time.monotonic()
        if math.isnan(self.start_s):
            self.start_s = max(0.0, now - self._began - epoch.seconds)
        if now - self._last >= TOLD_EVERY_S:
            self._last = now
            self._watch.note(f"{self._name}: epoch {epoch.epoch + 1} of {self._epochs}")


def _collected(folder: RunDir, experiment: Experiment, asked: Asked) -> Scaling:
    """The study as its folder has it."""
    said = rundir.read_json(folder.study)
    places = sizes.places(experiment, asked)
    found = [size for place in places if (size := _size(folder, experiment, asked, place)) is not None]
    complete = len(found) == len(places)
    rows = max((size.rows for size in found), default=0)
    return summed_up(experiment, asked, found, {**said["facts"], "train_rows": rows}, folder.root, complete)


def _size(folder: RunDir, experiment: Experiment, asked: Asked, place: Place) -> Size | None:
    """One size; None while it is not done."""
    runs = [folder.size(place.folder(seed)) for seed in range(1 if place.lanes else asked.seeds)]
    for run in runs:
        if run.measured.is_file() and (failed := rundir.read_json(run.measured).get("failed")):
            return Size(place.name, place.workers, place.gpus, failed=failed)
    done = [_measured(folder, place, seed) for seed in range(len(runs))]
    ended = [each for each in done if each is not None]
    if len(ended) < len(done):
        return None
    if place.lanes:
        return size_from_json(ended[0]["size"])
    trained = [
        Trained(
            history=tuple(Epoch.from_line(line) for line in rundir.read_lines(run.trial(SINGLE).history)),
            start_s=math.nan if each["start_s"] is None else each["start_s"],
            value=math.nan if each["value"] is None else each["value"],
            taken_up=_taken_up(run),
        )
        for run, each in zip(runs, ended, strict=True)
    ]
    size = sizes.measured(place, trained, ended[0]["rows"], ended[0]["batch_size"], ended[0]["steps"])
    swept = runs[0].trial(SINGLE).all_reduce
    pairs = tuple((bytes_, seconds) for bytes_, seconds in rundir.read_json(swept)) if swept.is_file() else ()
    embedded = rundir.read_json(folder.study)["facts"]["embedded"]
    shared = sizes.oversubscribed(experiment, place, embedded)
    return Size(**{**vars(size), "all_reduce": pairs, "oversubscribed": shared})


def _taken_up(run: RunDir) -> frozenset[int]:
    lines = rundir.read_lines(run.trial(SINGLE).resumed)
    return frozenset(line["epoch"] for line in lines if line["epoch"])


def line(size: Size) -> str:
    """A size in a line."""
    if not size.measured:
        return f"{size.name}: {size.failed}"
    faster = "" if size.speed_up in (None, 1.0) else f"  {size.speed_up:.2f} times as fast"
    shared = "  (oversubscribed)" if size.oversubscribed else ""
    return (
        f"{size.name}: {size.rows_per_s:,.0f} rows/s  {size.steps_per_s:,.1f} steps/s  start {size.start_s:.1f} s"
        f"{faster}{shared}"
    )


def _refuse_gpus(asked: Asked, address: str | None) -> None:
    """Raises UserError where GPUs are asked for and this machine has none; of a cluster its workers tell."""
    if not asked.gpus or address or os.environ.get("RAY_ADDRESS"):
        return
    import torch

    there = torch.cuda.device_count()
    if there == 0:
        raise UserError(
            f"--gpus {','.join(f'{share:g}' for share in asked.gpus)} asks for GPUs, and torch {torch.__version__} "
            f"sees none on this machine: there are {plural(cores(), 'core')} and 0 GPUs. Give a cluster that has some "
            "with --address, or scale over cores with --workers 1,2,4."
        )
