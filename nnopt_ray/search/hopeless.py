"""When failed trials end a whole study: one message in the place of fifty tracebacks."""

from __future__ import annotations

import math
from pathlib import Path

from nnopt_ray.errors import RunFailed
from nnopt_ray.rundir import RunDir
from nnopt_ray.search.ledger import Ledger
from nnopt_ray.search.messages import Failure

SAME_FAULT = 3  # trials in a row that fail with the same sentence, and no success yet, stop the study
NO_VALUE = 20  # trials that fail, and none has given a value in any epoch: that stops the study too


class Hopeless:
    """Watches the failures of one process's study."""

    def __init__(self, ledger: Ledger, run: RunDir) -> None:
        self._ledger = ledger
        self._root = run.place
        self._trials: Path = run.trials
        self._faults: list[str] = []
        self._failed = 0

    def failed(self, failure: Failure) -> None:
        """A trial has failed, and the ledger knows. Raises RunFailed when that is enough."""
        self._failed += 1
        if self._ledger.best is not None:
            return
        self._without_value(failure.message)
        if failure.kind != "not-a-number":
            self._alike(failure)

    def _without_value(self, fault: str) -> None:
        """A long search over points none of which can be trained leads nowhere."""
        if self._failed < NO_VALUE:
            return
        if not any(math.isfinite(value) for trial in self._ledger.trials.values() for value in trial.values):
            raise RunFailed(
                f"{self._failed} trials have failed, and none gave a value for {self._ledger.experiment.metric}. The "
                f"last of them: {fault} With other ranges: nnopt resume {self._root} --set PATH=RANGE"
            )

    def _alike(self, failure: Failure) -> None:
        """Where everything fails in one way, what is wrong is no matter of the searched values."""
        self._faults.append(failure.message)
        last = self._faults[-SAME_FAULT:]
        if len(last) == SAME_FAULT and len(set(last)) == 1:
            where = "" if failure.kind == "worker" else f" The tracebacks are in {self._trials}/*/error.txt."
            raise RunFailed(
                f"{SAME_FAULT} trials in a row failed in the same way, and none has finished: {failure.message}{where}"
            )
