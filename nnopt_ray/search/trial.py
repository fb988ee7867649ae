"""What a study knows of one trial while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nnopt_ray.results import Epoch, Status, TrialRow
from nnopt_ray.rundir import RunDir, read_lines
from nnopt_ray.search.schedulers import Verdict
from nnopt_ray.search.space import Params


@dataclass(eq=False)
class Trial:
    """What is known of one trial. `values` holds the objective of each epoch, from epoch 0."""

    id: str
    params: Params
    status: Status = "pending"
    reason: str = ""
    cause: str = ""
    values: list[float] = field(default_factory=list)
    verdict: Verdict | None = None  # of the scheduler, not carried out yet
    decided_at: int = 0  # epochs after which it fell
    best_epoch: int | None = None
    value: float | None = None
    seconds: float = 0.0
    parameters: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: dict[int, Epoch] = field(default_factory=dict)  # of this process; earlier ones are in history.jsonl
    deaths: int = 0  # of workers while they had it, since it got further
    deaths_alone: int = 0  # while they had no other
    died_after: tuple[int, int] = (0, 0)  # epochs at the most so far: that the study had heard of, in its folder
    confirms: str = ""  # the trial that it trains again with another seed
    slot: int = 0  # in the logical order of a reproducible search: its place, and the round of its first epoch
    round: int = 0
    here: int = 0  # epochs that it has done where it is trained now
    trained: int = 0  # epochs of its folds, where it is compared over folds
    alike: str = ""  # what trials of one shape have in common, see shapes.alike
    ran_out: bool = False  # it has done its last epoch, and ends by itself

    @property
    def over(self) -> bool:
        return self.status in ("finished", "stopped", "failed")

    def row(self) -> TrialRow:
        return TrialRow(
            trial=self.id,
            status=self.status,
            reason=self.reason,
            params=self.params,
            epochs=self.trained or len(self.values),
            best_epoch=self.best_epoch,
            seconds=self.seconds,
            value=self.value,
            metrics=self.metrics if not self.parameters else {**self.metrics, "parameters": float(self.parameters)},
            cause=self.cause,
            history=tuple(self.history[epoch] for epoch in sorted(self.history)),
        )


def written(run: RunDir, trial: str) -> Iterator[Epoch]:
    """The epochs that a trial's folder tells of."""
    return (Epoch.from_line(line) for line in read_lines(run.trial(trial).history))
