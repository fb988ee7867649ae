"""Which trials can be lanes of one step: those that differ in nothing that changes the shape of the work."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nnopt_ray import tables
from nnopt_ray.experiment import Experiment, plain
from nnopt_ray.search.space import branches, points
from nnopt_ray.tables import Part

# What each lane has for itself, whatever the model: see train/lanes.py.
OF_THE_LANE = (
    "seed",
    "data.augment",
    "train.epochs",
    "train.optimizer",
    "train.weight_decay_on",
    "train.schedule",
    "train.warmup_epochs",
    "train.early_stopping",
    "train.checkpoint",
    "train.clip_norm",
    "train.clip_value",
    "train.l1",
    "train.l1_form",
    "train.sampling",
    "train.mix.type",
    "train.mix.alpha",
    "train.ema",
    "train.swa",
    "train.from",
    "train.layer_decay",
)

FOLD = "data.fold"


def shape_of(closed: Experiment) -> str:
    """A name for the shape of a trial's work; trials of one name can be lanes of one pack."""
    return json.dumps(
        {
            "model": _part("model", closed.model),
            "loss": _part("loss", closed.train.loss),
            "batch_size": closed.train.batch_size,
            "accumulate": closed.train.accumulate,
            "compile": closed.train.compile,
            "freeze": closed.train.freeze,
            "mix": closed.train.mix is not None,  # the type and how strongly are the lane's
            "data": {key: _rows(key, plain(value)) for key, value in closed.tree["data"].items() if key != "augment"},
        },
        sort_keys=True,
        default=str,
    )


def _rows(key: str, value: Any) -> Any:
    """Of a key of data what lanes have in common: each may have a fold of its own."""
    return value["of"] if key == FOLD.rpartition(".")[2] and value is not None else value


def _part(room: str, part: Part) -> dict[str, Any]:
    """The keys of a part; of those that a lane may have for itself only whether they are there (not 0)."""
    own = getattr(tables.find(room, part.type), "lane_keys", ())
    return {"type": part.type, **{key: bool(value) if key in own else value for key, value in part.keys.items()}}


def how_many(experiment: Experiment) -> float:
    """How many shapes the page opens at most; infinite where a range that changes the shape is continuous."""
    own = (*OF_THE_LANE, *_lane_paths(experiment))
    found = 1.0
    for _, path, range_ in branches(experiment.tree):
        if not _under(path, own):
            found *= points(range_) or math.inf
    return found


def alike(experiment: Experiment, params: Mapping[str, Any]) -> str:
    """As `shape_of`, from the parameters alone and so in no time; it may tell apart what `shape_of` does not."""
    own = (*OF_THE_LANE, *_lane_paths(experiment))
    kept = {path: value for path, value in params.items() if not _under(path, own)}
    if FOLD in kept:
        kept[FOLD] = kept[FOLD]["of"]
    return json.dumps(kept, sort_keys=True, default=str)


def _under(path: str, own: Sequence[str]) -> bool:
    return any(path == each or path.startswith(f"{each}.") for each in own)


def _lane_paths(experiment: Experiment) -> Iterator[str]:
    for path, room, part in (
        ("model", "model", experiment.model),
        ("train.loss", "loss", experiment.train.loss),
    ):
        yield from (f"{path}.{key}" for key in getattr(tables.find(room, part.type), "lane_keys", ()))
