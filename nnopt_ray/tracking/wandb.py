"""Weights & Biases: a run a trial, those of a search in a group."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nnopt_ray.tracking.tracker import Course, Told, Tracker

NAMED = 40  # characters of a trial's values in the name of its run


class Wandb(Tracker):
    """Runs in Weights & Biases: files in the run folder that `wandb sync` sends later, or sent at once.

    Keys:
        project: that the runs belong to.
        entity: user or team; your own if left out.
        mode: offline writes to `wandb` in the run folder; online sends at once, with the key of `wandb login` or
            WANDB_API_KEY.
    """

    needs = ("wandb", "wandb")

    def __init__(
        self, *, project: str = "nnopt", entity: str | None = None, mode: Literal["offline", "online"] = "offline"
    ) -> None:
        self._project, self._entity, self._mode = project, entity, mode
        self._runs: dict[str, Any] = {}

    def open(self, course: Course, known: str) -> str:
        self._course = course
        if self._mode == "online":
            import wandb

            # Without a key wandb would ask for one, on a terminal that shows the table of a search.
            if not wandb.Api(timeout=20).api_key:
                raise RuntimeError("no key: `wandb login`, or WANDB_API_KEY")
        return known or self._identity("")

    def _identity(self, of: str) -> str:
        """What W&B knows it by, the same at every start."""
        return hashlib.sha256(f"{self._course.name} {self._course.place} {of}".encode()).hexdigest()[:12]

    def _begun(self, name: str, identity: str, config: Mapping[str, Any], kind: str) -> Any:
        import wandb

        quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True)
        return wandb.init(
            project=self._project,
            entity=self._entity,
            group=self._course.name if self._course.search else None,
            name=name,
            id=identity,
            resume="allow",
            mode=self._mode,
            dir=str(self._course.root),
            reinit="create_new",
            job_type=kind,
            config={**config, "nnopt_run": self._course.place, **self._course.about},
            settings=quiet,
        )

    def begin(self, trial: str, params: Mapping[str, Any], known: str) -> str:
        course = self._course
        identity = known or self._identity(trial)
        values = " ".join(f"{path.rpartition('.')[2]}={value}" for path, value in params.items())[:NAMED]
        name = f"{trial} {values}".strip() if course.search else course.name
        config = {**course.page, **params}
        self._runs[trial] = self._begun(name, identity, config, "trial" if course.search else "training")
        return identity

    def epochs(self, trial: str, epochs: Sequence[Mapping[str, float]]) -> None:
        for epoch in epochs:
            values = {name: value for name, value in epoch.items() if name != "epoch"}
            self._runs[trial].log(values, step=int(epoch["epoch"]))

    def end(self, trial: str, status: str, reason: str, metrics: Mapping[str, float]) -> None:
        run = self._runs[trial]
        run.summary.update({f"best_{name}": value for name, value in metrics.items()})
        run.summary.update({"status": status, "reason": reason})
        if self._course.search:
            self._runs.pop(trial).finish(exit_code=int(status == "failed"))

    def settle(self) -> None:
        """Its own process writes what it was handed."""

    def close(self, told: Told) -> None:
        scores: dict[str, Any] = dict(told.scores)
        if self._course.search and scores:
            self._runs["result"] = self._begun(
                f"{self._course.name} result", self._identity("result"), self._course.page, "result"
            )
            scores["best_trial"] = told.best_trial
        for run in self._runs.values():
            if scores and (not self._course.search or run is self._runs.get("result")):
                run.summary.update(scores)
            run.finish(exit_code=int(told.status == "failed"))
        self._runs = {}
