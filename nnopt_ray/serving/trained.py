"""The best network of a run, and what new rows must be like for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nnopt_ray import assembly, rundir
from nnopt_ray.data.preprocessing import FILE, Preprocessing
from nnopt_ray.evaluate.decision import Decision
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import Machine
from nnopt_ray.rundir import RunDir
from nnopt_ray.tables import Part

if TYPE_CHECKING:
    from torch import nn

    from nnopt_ray.data.types import Dataset

Kind = Literal["rows", "images", "sequences", "windows", "language"]


@dataclass(frozen=True, eq=False)
class Trained:
    """root: of the run. model: in evaluation mode, on the machine's device once it has predicted. decision: from a
    classifier's logits to what is said."""

    root: Path
    experiment: Experiment
    dataset: Dataset
    model: nn.Module
    preprocessing: Preprocessing
    machine: Machine
    decision: Decision

    @classmethod
    def of(cls, run: RunDir) -> Trained:
        """Raises RunFolderError when the run has no best model, or its preparation is damaged."""
        experiment, dataset, model = assembly.best_model(run)
        preprocessing = Preprocessing.from_json(rundir.read_json(run.data_of_best / FILE))
        where, decision = assembly.machine_for(experiment), assembly.decision_of(run)
        return cls(run.root, experiment, dataset, model, preprocessing, where, decision)

    @property
    def kind(self) -> Kind:
        """What a row is."""
        if self.dataset.shapes.is_language:
            return "language"
        if self.preprocessing.window is not None:
            return "windows"
        if self.preprocessing.image_shape is not None:
            return "images"
        return "sequences" if self.preprocessing.channels is not None else "rows"

    @cached_property
    def source(self) -> Part:
        """What was learned from; of several the first, as they all are alike."""
        part = self.experiment.data.source
        while part.type == "concat":
            part = part["sources"][0]
        return part

    @property
    def text(self) -> str | None:
        """The column of text, where the network reads nothing else."""
        readings = self.preprocessing.readings
        alone = len(readings) == 1 and self.kind in ("rows", "language") and readings[0].kind == "text"
        return readings[0].name if alone else None

    @property
    def columns(self) -> list[str]:
        """The columns of the source but the target, in its order."""
        return [column.name for column in self.dataset.summary.columns if column.kind != "target"]


__all__ = ["Kind", "Trained"]
