"""Trainings alone, and the same ones as lanes of one pack, for the tests that hold one against the other."""

from __future__ import annotations

import numpy as np
from train_example import MACHINE, Named, accuracy

from nnopt_ray.data.types import Dataset
from nnopt_ray.experiment import Experiment
from nnopt_ray.results import Epoch
from nnopt_ray.train.lanes import Pack, Shape
from nnopt_ray.train.loop import Trainer

METRICS: dict[str, dict[str, Named]] = {
    "classification": {"accuracy": Named("max", accuracy), "middle": Named("min", lambda o, t: np.median(o))},
    "regression": {"mae": Named("min", lambda o, t: np.abs(o - t).mean())},
}


def trainer(experiment: Experiment, data: Dataset) -> Trainer:
    return Trainer(experiment, data, MACHINE, METRICS.get(data.shapes.task, {}))


def alone(experiment: Experiment, data: Dataset, epochs: int = 99) -> Trainer:
    made = trainer(experiment, data)
    while not made.done and made.epoch < epochs:
        made.run_epoch()
    return made


def together(experiments: list[Experiment], data: Dataset, width: int) -> list[Trainer]:
    """All of these, as lanes that join when there is room and leave when they are done."""
    waiting = [trainer(experiment, data) for experiment in experiments]
    everyone = list(waiting)
    pack = Pack(Shape(waiting[0]), width, waiting[0])
    while waiting or pack.filled:
        while waiting and pack.filled < width:
            pack.put(waiting.pop(0))
        for lane, came in pack.run_epoch():
            assert isinstance(came, Epoch), came
            assert came is lane.history[-1]
            if lane.done:
                pack.take(lane)
    return everyone


def differences(one: Trainer, two: Trainer) -> dict[str, float]:
    """Largest difference of each thing that a state holds, in numbers; of all else nothing may differ."""
    found: dict[str, float] = {}
    a, b = one.state(), two.state()
    assert a.tensors.keys() == b.tensors.keys()
    for name, tensor in a.tensors.items():
        kind = name.partition(".")[0].partition("-")[0]
        gap = float((tensor.double() - b.tensors[name].double()).abs().max()) if tensor.numel() else 0.0
        found[kind] = max(found.get(kind, 0.0), gap)
    for ours, theirs in zip(a.scalars["history"], b.scalars["history"], strict=True):
        assert (ours["epoch"], ours["events"], ours["lr"]) == (theirs["epoch"], theirs["events"], theirs["lr"])
        for name, value in {**ours["metrics"], "norm": ours["grad_norm"]}.items():
            other = {**theirs["metrics"], "norm": theirs["grad_norm"]}[name]
            found[name] = max(found.get(name, 0.0), abs(value - other))
    for name in a.scalars.keys() - {"history", "watch", "base_lr"}:
        assert a.scalars[name] == b.scalars[name], name
    return found
