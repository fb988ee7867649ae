"""The state of a study, as its journal tells it: live events and replayed ones go the same way.

`record` writes an event and applies it; `replay` applies the events of an earlier process to fresh
seeded searcher and scheduler objects and checks that they answer as they did then.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nnopt_ray.experiment import Experiment, plain
from nnopt_ray.results import Epoch, Status, TrialRow
from nnopt_ray.search.journal import Event, Journal
from nnopt_ray.search.schedulers import Judge
from nnopt_ray.search.searchers import Asker
from nnopt_ray.search.space import Params


@dataclass
class Trial:
    """What is known of one trial. `values` holds the objective of each epoch, from epoch 0."""

    id: str
    params: Params
    status: Status = "pending"
    reason: str = ""
    values: list[float] = field(default_factory=list)
    stop_at: int | None = None  # epochs after which the scheduler stopped it
    best_epoch: int | None = None
    value: float | None = None
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: dict[int, Epoch] = field(default_factory=dict)  # of this process; earlier ones are in history.jsonl
    started: int = 0  # how many times a worker took it up

    @property
    def over(self) -> bool:
        return self.status in ("finished", "stopped", "failed")

    def row(self) -> TrialRow:
        return TrialRow(
            trial=self.id,
            status=self.status,
            reason=self.reason,
            params=self.params,
            epochs=len(self.values),
            best_epoch=self.best_epoch,
            seconds=self.seconds,
            value=self.value,
            metrics=self.metrics,
            history=tuple(self.history[epoch] for epoch in sorted(self.history)),
        )


def page_digest(experiment: Experiment) -> str:
    """Tells whether a journal belongs to this page."""
    text = json.dumps(plain(experiment.tree), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class Ledger:
    """Trials, searcher and scheduler of one study, moved by events alone."""

    def __init__(
        self, experiment: Experiment, asker: Asker, judge: Judge, journal: Journal, note: Callable[[str], None]
    ) -> None:
        self.experiment = experiment
        self.asker, self.judge, self.journal = asker, judge, journal
        self.trials: dict[str, Trial] = {}
        self._note = note
        self._sign = 1.0 if experiment.mode == "min" else -1.0
        self._asker_agrees = True

    # Live: decide, then record.

    def ask(self) -> Trial | None:
        """The next trial of the searcher; None when it has no more."""
        name = f"{len(self.trials) + 1:04d}"
        found = self.asker.ask(name)
        if found is None:
            return None
        self._record({"event": "asked", "trial": name, "params": found})
        trial = self.trials[name] = Trial(name, found)
        return trial

    def started(self, trial: Trial, worker: int, epoch: int) -> None:
        self._record({"event": "started", "trial": trial.id, "worker": worker, "epoch": epoch})
        self._started(trial)

    def result(self, trial: Trial, epoch: Epoch) -> bool:
        """One epoch of a trial came in. True when the scheduler stops the trial here."""
        trial.history[epoch.epoch] = epoch
        if epoch.epoch < len(trial.values):  # done again after a crash: bitwise what is known already
            return trial.stop_at == epoch.epoch + 1
        value = epoch.metrics[self.experiment.metric]
        self._record({"event": "result", "trial": trial.id, "epoch": epoch.epoch, "value": value})
        if self._result(trial, value):
            self._record({"event": "stop", "trial": trial.id, "epoch": epoch.epoch})
            return True
        return False

    def end(self, trial: Trial, status: Status, reason: str, lost: bool = False) -> None:
        """A trial is over. `lost`: nothing was learned about its point."""
        best = self._best_epoch(trial)
        metrics = dict(trial.history[best].metrics) if best in trial.history else {}
        event: Event = {
            "event": "ended",
            "trial": trial.id,
            "status": status,
            "reason": reason,
            "value": None if best is None or status == "failed" else trial.values[best],
            "best_epoch": best,
            "epochs": len(trial.values),
            "seconds": round(sum(epoch.seconds for epoch in trial.history.values()), 4),
            "metrics": metrics,
            "lost": lost,
        }
        self._record(event)
        self._ended(trial, event)

    def next_decision(self, trial: Trial) -> int | None:
        return self.judge.next_decision(trial.id, len(trial.values))

    # Replay: apply what was recorded.

    def replay(self, events: Iterable[Event]) -> None:
        """Bring fresh searcher and scheduler to where the journal left them."""
        handlers = {"asked": self._replay_asked, "result": self._replay_result, "ended": self._replay_ended}
        for event in events:
            handler = handlers.get(event["event"])
            if handler is not None:
                handler(event)

    def _replay_asked(self, event: Event) -> None:
        name, told = event["trial"], event["params"]
        self.trials[name] = Trial(name, told)
        if self._asker_agrees:
            again = self.asker.ask(name)
            if again is None or not same(again, told):
                self._asker_agrees = False
                self._note(
                    f"The searcher no longer suggests what the journal recorded (trial {name}): another version of "
                    "Ray or Optuna, or another page. The search goes on with all earlier results as evidence."
                )

    def _replay_result(self, event: Event) -> None:
        trial = self.trials[event["trial"]]
        value = math.nan if event["value"] is None else event["value"]
        if event["epoch"] == len(trial.values):
            self._result(trial, value)

    def _replay_ended(self, event: Event) -> None:
        self._ended(self.trials[event["trial"]], event)

    # Shared by both ways.

    def _started(self, trial: Trial) -> None:
        trial.status = "running"
        trial.started += 1

    def _result(self, trial: Trial, value: float) -> bool:
        trial.values.append(value)
        done = len(trial.values)
        # At its last epoch a trial ends by itself: the judge hears of it from `ended`.
        inside = done < trial.params.get("train.epochs", self.experiment.train.epochs)
        if not inside or self.judge.next_decision(trial.id, done - 1) != done:
            return False
        if self.judge.judge(trial.id, done, value, trial.params).kind != "stop":
            return False
        trial.stop_at = done
        return True

    def _ended(self, trial: Trial, event: Event) -> None:
        trial.status, trial.reason = event["status"], event["reason"]
        trial.value, trial.best_epoch = event["value"], event["best_epoch"]
        trial.seconds, trial.metrics = event["seconds"], event["metrics"]
        last = trial.values[-1] if trial.values and trial.status != "failed" else None
        self.judge.ended(trial.id, len(trial.values), last)
        if self._asker_agrees:
            self.asker.tell(trial.id, trial.value, failed=bool(event.get("lost")))
        elif trial.value is not None:
            self.asker.evidence(trial.params, trial.value)

    def _record(self, event: Event) -> None:
        self.journal.append(event)

    def _best_epoch(self, trial: Trial) -> int | None:
        finite = [(self._sign * v, i) for i, v in enumerate(trial.values) if math.isfinite(v)]
        return min(finite)[1] if finite else None

    def best(self) -> Trial | None:
        """The trial with the best value; the earlier one of equals."""
        done = [trial for trial in self.trials.values() if trial.over and trial.value is not None]
        return min(done, key=lambda trial: (self._sign * (trial.value or 0.0), trial.id), default=None)


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Equal parameters, as JSON tells them."""
    return json.dumps(a, sort_keys=True, default=str) == json.dumps(b, sort_keys=True, default=str)
