"""Workers that die: whose fault it may be, and how it is told."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nnopt_ray.search.trial import Trial

LOST_WORKER_TRIES = 3  # a trial whose worker died this often is given up


def guilty_of(had: Sequence[Trial]) -> list[Trial]:
    """Count the death of a worker that had these trials → those that may be its cause.

    Of several that died together one may be the cause: each is tried alone before it is given up, and twice, as the
    worker that it was given may have been dead before.
    """
    trials = [trial for trial in had if not trial.over]
    for trial in trials:
        trial.deaths += 1
        trial.deaths_alone += len(had) == 1
    return [t for t in trials if t.deaths >= LOST_WORKER_TRIES and t.deaths_alone >= min(2, LOST_WORKER_TRIES)]


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
    if told := re.search(r"exit code (\d+)", str(error)):
        return f"its process ended with exit code {told[1]}"
    if type(error).__name__ == "ActorUnavailableError":
        return "it cannot be reached: its process or its node is gone or cut off"
    if "connection error" in str(error):
        return "its process was killed, perhaps for lack of memory, or crashed"
    return str(error).splitlines()[0].rstrip(".")
