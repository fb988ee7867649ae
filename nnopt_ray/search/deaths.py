"""Workers that die: whose fault it may be, and how it is told."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from nnopt_ray.errors import RunFailed
from nnopt_ray.rundir import RunDir
from nnopt_ray.search.trial import Trial, written

LOST_WORKER_TRIES = 3  # a trial whose worker died this often without an epoch between is given up
# Until Ray holds a node to be dead that fell silent (10 to 25 s) it may start workers there, and all of them die.
NODE_DIES_S = 30.0


def guilty_of(had: Sequence[Trial], run: RunDir) -> list[Trial]:
    """Count the death of a worker that had these trials → those that may be its cause.

    Of several that died together one may be the cause: each is tried alone before it is given up, and twice, as the
    worker that it was given may have been dead before. A trial that got further since its last death is not held to be
    the cause of that one: on machines that are taken away at any time a long trial outlives many workers.
    """
    trials = [trial for trial in had if not trial.over]
    for trial in trials:
        # What a worker did in the call in which it died, only the trial's folder tells; of that, what is in no
        # checkpoint is done again, so that the study may hear of more epochs while the folder has less.
        known, in_folder = len(trial.values), sum(1 for _ in written(run, trial.id))
        if known > trial.died_after[0] or in_folder > trial.died_after[1]:
            trial.deaths = trial.deaths_alone = 0
        trial.died_after = max(known, trial.died_after[0]), max(in_folder, trial.died_after[1])
        trial.deaths += 1
        trial.deaths_alone += len(had) == 1
    return [t for t in trials if t.deaths >= LOST_WORKER_TRIES and t.deaths_alone >= min(2, LOST_WORKER_TRIES)]


class EarlyDeaths:
    """Deaths of workers that had no trial yet, since one of them has last done any work."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds."""
        self.on_cluster = False
        self._clock = clock
        self._times: list[float] = []

    def died(self, why: str) -> str:
        """One more → what is said of it. Raises RunFailed when no worker gets as far as a trial."""
        self._times.append(self._clock())
        lasted_s = self._times[-1] - self._times[0]
        if len(self._times) >= LOST_WORKER_TRIES and lasted_s >= (NODE_DIES_S if self.on_cluster else 0.0):
            raise RunFailed(f"workers die before they have taken up any trial ({why}). Nothing is lost.")
        return f"A worker died before it had taken up a trial ({why}); another one is started."

    def worked(self) -> None:
        self._times.clear()


def told_of_death(trials: Sequence[str], why: str) -> str:
    many = len(trials) > 1
    return (
        f"The worker of trial{'s' * many} {', '.join(trials)} died ({why}); "
        f"{'they go on from their checkpoints' if many else 'the trial goes on from its checkpoint'}."
    )


def death(error: Exception) -> str:
    """Why a worker is gone, in words; Ray's own account fills a screen."""
    if type(error).__name__ == "OutOfMemoryError":
        return "the machine ran low on memory, and Ray ended the process that took the most"
    if "node has died" in str(error) or "actor's node was" in str(error):
        return "its node is gone"
    if told := re.search(r"exit code (\d+)", str(error)):
        return f"its process ended with exit code {told[1]}"
    if type(error).__name__ == "ActorUnavailableError":
        return "it cannot be reached: its process or its node is gone or cut off"
    if "connection error" in str(error):
        return "its process was killed, perhaps for lack of memory, or crashed"
    return str(error).splitlines()[0].rstrip(".")
