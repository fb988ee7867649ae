"""`train.from`: the weights, and the optimizer's state, of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnopt_ray import rundir
from nnopt_ray.errors import RunFolderError, UserError
from nnopt_ray.experiment import Experiment
from nnopt_ray.rundir import RunDir, TrialDir
from nnopt_ray.train import checkpoints, state
from nnopt_ray.train.weights import FlatWeights, Snapshot, split


@dataclass(frozen=True)
class Found:
    """What an earlier run left. `optimizer`: its slots, None where only weights were kept."""

    origin: str  # in words, for messages
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor] | None
    scalars: Mapping[str, Any]


def find(experiment: Experiment) -> Found:
    """The weights that `train.from` of a page names.

    A relative path is looked up beside the page, then in the current directory. Raises UserError when
    there is nothing, or not what is asked for.
    """
    asked = experiment.train.start
    assert asked is not None
    folder = _folder(asked.run, experiment.file)
    trial = _trial(folder)
    if asked.epoch == "best" and not asked.optimizer:
        best = RunDir(folder).best_model if trial.root != folder else checkpoints.best_file(trial)
        if not best.is_file():
            best = checkpoints.best_file(trial)
        if not best.is_file():
            raise UserError(f"train.from: {folder} has no best weights yet: it ended before its first checkpoint.")
        found = state.read_weights(best)
        return Found(f"{best}", found.tensors, None, found.scalars)
    kept = checkpoints.kept(trial)
    if not kept:
        raise UserError(f"train.from: {trial.root} has no checkpoints.")
    epoch = {"last": max(kept), "best": _best_epoch(trial)}.get(str(asked.epoch), asked.epoch)
    if epoch not in kept:
        why = "the best epoch, which optimizer: true needs whole, is" if asked.epoch == "best" else "epoch"
        there = ", ".join(str(number) for number in sorted(kept))
        raise UserError(f"train.from: {why} {epoch}, which {trial.root} has not kept. Kept are: {there}.")
    return _whole(kept[int(epoch)], asked.optimizer)


def put_optimizer(found: Found, optimizer: str, slots: Mapping[str, Tensor], weights: FlatWeights) -> int:
    """Fill the slots of these weights in place → the steps it had taken. Raises UserError for another optimizer."""
    there = found.scalars["optimizer"]
    if there != optimizer:
        raise UserError(
            f"train.from.optimizer: {found.origin} was trained with {there} and the page says {optimizer}: "
            "choose the same one, or optimizer: false."
        )
    assert found.optimizer is not None
    if found.optimizer.keys() != slots.keys():
        kept, needed = (", ".join(sorted(names)) or "nothing" for names in (found.optimizer, slots))
        raise UserError(
            f"train.from.optimizer: {found.origin} keeps {kept} and the page's {optimizer} "
            f"needs {needed}: give it the same keys, or optimizer: false."
        )
    order = [name for name, _ in weights.layout]
    for name, slot in slots.items():
        there = found.optimizer[name]
        if there.dim():  # by name, as the weights may lie in another order there
            parts = split(there, found.scalars["layout"])
            there = torch.cat([parts[own].reshape(-1) for own in order])
        slot.copy_(weights.piece(there))
    return int(found.scalars["step"])


def _whole(path: Path, to_go_on: bool) -> Found:
    """A state. Averaged weights are what counted in that training, but its optimizer went on from its own."""
    taken = state.load(path)
    tensors, prefix = taken.tensors, "optimizer."
    averaged = "average.weights" in tensors and not to_go_on
    weights = Snapshot.of(tensors, "average." if averaged else "")
    named = {**split(weights.flat, taken.scalars["layout"]), **weights.rest}
    aliases = taken.scalars["aliases"]
    return Found(
        origin=f"{path}",
        weights={name: named[own] for name, own in aliases.items()},
        optimizer={name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)},
        scalars=taken.scalars,
    )


def _folder(run: str, page: Path | None) -> Path:
    places = [Path(run)] if page is None else [page.parent / run, Path(run)]
    for place in places:
        if place.is_dir():
            return place.resolve()
    looked = " and ".join(dict.fromkeys(str(place.absolute()) for place in places))
    raise UserError(f"train.from.run: there is no folder '{run}'; looked at {looked}.")


def _trial(folder: Path) -> TrialDir:
    """The trial whose checkpoints are meant: the folder itself, or the best or only trial of a run folder."""
    if TrialDir(folder).checkpoints.is_dir():
        return TrialDir(folder)
    run = RunDir(folder)
    if not run.trials.is_dir():
        raise UserError(f"train.from.run: {folder} is neither a run folder nor a trial's folder.")
    trials = sorted(each.name for each in run.trials.iterdir() if TrialDir(each).checkpoints.is_dir())
    try:
        return run.trial(rundir.read_json(run.result)["best"]["trial"])
    except (RunFolderError, KeyError, TypeError):
        if len(trials) == 1:
            return run.trial(trials[0])
        raise UserError(
            f"train.from.run: {folder} is not finished and has {len(trials)} trials with weights: name one, "
            f"such as {run.trials}/ID."
        ) from None


def _best_epoch(trial: TrialDir) -> int | None:
    best = checkpoints.best_file(trial)
    return int(state.load(best).scalars["epoch"]) if best.is_file() else None
