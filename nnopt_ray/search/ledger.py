"""The state of a study, as its journal tells it: live events and replayed ones go the same way.

Every call that moves searcher or scheduler is an event. `replay` makes the same calls to fresh seeded objects and
checks that they answer as they did then; if the searcher does not, its past trials become evidence instead.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nnopt_ray.experiment import Experiment, plain
from nnopt_ray.folding import objective_folds
from nnopt_ray.results import Epoch, Status
from nnopt_ray.search.journal import Event, Journal
from nnopt_ray.search.schedulers import Judge
from nnopt_ray.search.searchers import Asker
from nnopt_ray.search.trial import Trial

# What has no bearing on the trials of a search, and may differ when it is resumed.
BESIDE = ("resources", "evaluate", "about")

DROPPED, GIVEN_UP = "stopped by the scheduler after", "not promoted beyond"  # so many epochs


def folds_of(experiment: Experiment) -> int:
    """Folds of a trial; 0 where trials are not compared over folds."""
    return objective_folds(experiment) if experiment.over_folds else 0


def page_digest(experiment: Experiment) -> str:
    """Tells whether a journal belongs to this page."""
    tree = {key: value for key, value in experiment.tree.items() if key not in BESIDE}
    text = json.dumps(plain(tree), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class Ledger:
    """Trials, searcher and scheduler of one study, moved by events alone.

    Attributes:
        trials: those of the search, by id, in the order in which they were asked.
        confirming: trainings of `search.confirm`, which neither searcher nor scheduler hear of.
        counts: trials of the search by status.
        epochs, epochs_over: trained in all, and by trials that are over.
        best: the trial with the best value; the earlier one of equals.
    """

    def __init__(
        self,
        experiment: Experiment,
        asker: Asker,
        judge: Judge,
        journal: Journal,
        note: Callable[[str], None],
        written: Callable[[str], Iterable[Epoch]] = lambda trial: (),
    ) -> None:
        """written: the epochs that a trial's folder tells of, for those that ran in an earlier process.

        Of a search over folds a trial's own results are means, one more with each fold; its folds are `confirming`.
        """
        self.experiment, self.folds = experiment, folds_of(experiment)
        self.asker, self.judge, self.journal = asker, judge, journal
        self.trials: dict[str, Trial] = {}
        self.confirming: dict[str, Trial] = {}
        self.counts: Counter[str] = Counter()
        self.epochs = self.epochs_over = 0
        self.best: Trial | None = None
        self._note, self._written = note, written
        self._sign = 1.0 if experiment.mode == "min" else -1.0
        self._asker_agrees = True
        self._ahead: deque[Trial] = deque()  # suggested, and no trials yet
        self._to_drop: dict[str, str] = {}  # paused trials that end, and why
        # Of a reproducible search: place → the round in which it is filled next.
        self.next_round: dict[int, int] = {}

    def find(self, name: str) -> Trial:
        return self.confirming[name] if name in self.confirming else self.trials[name]

    # ── live: decide, then record ────────────────────────────────────────────────────────────────────

    def ask(self, slot: int = 0, round_: int = 0) -> Trial | None:
        """The next trial of the searcher; None when it has no more."""
        if next(self.ahead(1), None) is None:
            return None
        coming = self._ahead.popleft()
        event: Event = {"event": "asked", "trial": coming.id, "params": coming.params}
        if self.experiment.search.reproducible:
            event |= {"slot": slot, "round": round_}
        self.journal.append(event)
        trial = self._asked(event)
        trial.alike = coming.alike
        return trial

    def ahead(self, count: int) -> Iterator[Trial]:
        """What the searcher suggests next, up to so many, of which none is a trial yet. More than one only of a
        searcher that learns nothing."""
        for index in range(count):
            if index == len(self._ahead):
                name = f"{len(self.trials) + index + 1:04d}"
                found = self.asker.ask(name)
                self._tell_notes()
                if found is None:
                    return
                self._ahead.append(Trial(name, found))
            yield self._ahead[index]

    def confirm(self, name: str, of_trial: str, params: Mapping[str, Any]) -> Trial:
        """A training of the confirmation; the one that is known already when it was begun before."""
        if name not in self.confirming:
            event: Event = {"event": "asked", "trial": name, "params": dict(params), "confirms": of_trial}
            if self.experiment.search.reproducible:
                event["slot"] = len(self.confirming)
            self.journal.append(event)
            self._asked(event)
        return self.confirming[name]

    def started(self, trial: Trial, worker: int, epoch: int) -> None:
        self.journal.append({"event": "started", "trial": trial.id, "worker": worker, "epoch": epoch})
        self._status(trial, "running")

    def laid_down(self, trial: Trial, worker: int, why: str) -> None:
        """A trial that is under way has lost its place and waits for another. Nothing is decided by it."""
        self.journal.append({"event": "laid_down", "trial": trial.id, "worker": worker, "why": why})

    def under_way(self, trial: Trial) -> None:
        """Of a search over folds: some of the trial's folds are trained, or wait for a place."""
        self._status(trial, "running")

    def result(self, trial: Trial, epoch: Epoch, last: bool = False) -> None:
        """One epoch of a trial came in; `trial.verdict` is set when the scheduler decides about it here.

        last: the training has ended with it. A reproducible search records that, as the end belongs to its turn.
        """
        trial.history[epoch.epoch] = epoch
        trial.here = epoch.epoch + 1
        if epoch.epoch < len(trial.values):  # done again after a crash: bitwise what is known already
            return
        value = epoch.metrics[self.experiment.epoch_metric if trial.confirms else self.experiment.metric]
        said = {"last": True} if last else {}
        self.journal.append({"event": "result", "trial": trial.id, "epoch": epoch.epoch, "value": value, **said})
        trial.ran_out = last
        self._result(trial, value)
        if trial.verdict is not None:
            self.journal.append({"event": trial.verdict.kind, "trial": trial.id, "epoch": epoch.epoch})

    def paused(self, trial: Trial, round_: int = 0) -> None:
        """The worker has written the trial's state and given its place away."""
        known = {"parameters": trial.parameters}
        self._record(self._paused, {"event": "paused", "trial": trial.id, **known, **self._at(trial, round_)})

    def idle(self, slot: int, round_: int) -> None:
        """Of a reproducible search: there was nothing for this place in this round."""
        self._record(self._vacant, {"event": "idle", "slot": slot, "round": round_})

    def promote(self, slot: int = 0, round_: int = 0) -> Trial | None:
        """A paused trial that goes on now."""
        name = self.judge.promote()
        if name is None:
            return None
        event: Event = {"event": "promoted", "trial": name}
        if self.experiment.search.reproducible:
            event |= {"slot": slot, "round": round_}
        self.journal.append(event)
        return self._promoted(event)

    def copied(self, trial: Trial) -> None:
        """The trial has taken over another's weights, and goes on with the values of its verdict."""
        assert trial.verdict is not None
        params = dict(trial.verdict.params)
        event = {"event": "copied", "trial": trial.id, "donor": trial.verdict.donor, "params": params}
        self._record(self._copied, event)

    def drop(self) -> list[Trial]:
        """Paused trials that the scheduler ends, because of what it heard last."""
        self._hear_dropped()
        ended = {self.trials[name]: why for name, why in self._to_drop.items() if not self.trials[name].over}
        self._to_drop.clear()
        for trial, why in ended.items():
            self.end(trial, "stopped", f"{why} {len(trial.values)} epochs", round_=None)
        return list(ended)

    def _hear_dropped(self) -> None:
        self._to_drop.update(dict.fromkeys(self.judge.dropped(), DROPPED))

    def give_up(self) -> list[Trial]:
        """Nothing runs and nothing new is to come: the paused trials that end here."""
        event: Event = {"event": "gave_up", "trials": self.judge.give_up()}
        self.journal.append(event)
        self._gave_up(event)
        return self.drop()

    def _gave_up(self, event: Event) -> None:
        self._to_drop.update(dict.fromkeys(event["trials"], GIVEN_UP))

    def end(self, trial: Trial, status: Status, reason: str, cause: str = "", round_: int | None = 0) -> None:
        """A trial is over. `cause`: of a failure, as Failure.kind has it, or "worker". `round_`: of a reproducible
        search, the turn in which it gives its place free; None for one that has none."""
        best = self._best_epoch(trial)
        # A mean over fewer folds is no better or worse than one over all.
        without_value = ("failed", "stopped") if self.folds and not trial.confirms else ("failed",)
        if len(trial.history) < len(trial.values):  # it was paused, or trained, by a process before this one
            before = {epoch.epoch: epoch for epoch in self._written(trial.id) if epoch.epoch < len(trial.values)}
            trial.history = {**before, **trial.history}
        metrics = dict(trial.history[best].metrics) if best in trial.history else dict(trial.metrics)
        self._record(
            self._ended,
            {
                "event": "ended",
                "trial": trial.id,
                "status": status,
                "reason": reason,
                "cause": cause,
                "value": None if best is None or status in without_value else trial.values[best],
                "so_far": None if best is None else trial.values[best],
                "best_epoch": best,
                "epochs": trial.trained or len(trial.values),
                "seconds": round(sum(epoch.seconds for epoch in trial.history.values()), 4),
                "parameters": trial.parameters,
                "metrics": metrics,
                **self._at(trial, round_),
            },
        )

    def until(self, trial: Trial) -> int | None:
        """After how many epochs in all a trial is looked at next; None: at its end."""
        if trial.confirms:
            return None
        if trial.verdict is not None:
            return trial.decided_at
        return self.judge.next_decision(trial.id, len(trial.values))

    # ── replay: apply what was recorded ──────────────────────────────────────────────────────────────

    def replay(self, events: Iterable[Event], anew: bool = False) -> None:
        """Bring fresh searcher and scheduler to where the journal left them.

        anew: the space has changed since, so that past trials are evidence and their order is not the searcher's.
        """
        if anew:
            self._asker_agrees = False
        handlers = {
            "asked": self._replay_asked,
            "result": self._replay_result,
            "paused": self._paused,
            "idle": self._vacant,
            "promoted": self._replay_promoted,
            "copied": self._copied,
            "gave_up": self._replay_gave_up,
            "ended": self._replay_ended,
        }
        for event in events:
            handler = handlers.get(event["event"])
            if handler is not None:
                handler(event)
        self.asker.notes.clear()  # said then
        for trial in self.trials.values():
            if trial.status == "running":
                self._status(trial, "pending")

    def _replay_asked(self, event: Event) -> None:
        if self._asker_agrees and not event.get("confirms"):
            again = self.asker.ask(event["trial"])
            if again is None or not same(again, event["params"]):
                self._asker_agrees = False
                self._note(
                    f"The searcher no longer suggests what the journal recorded (trial {event['trial']}): another "
                    "version of a library, or another page. The search goes on with all earlier results as evidence."
                )
                if again is not None:
                    self._untell(event["trial"])
        if not self._asker_agrees and not event.get("confirms"):
            self.asker.adopt(event["trial"], event["params"])
        self._asked(event)

    def _untell(self, name: str) -> None:
        """The point that the searcher named instead is no trial: nothing was learned from it."""
        self.asker.tell(name, None, failed=True)

    def _replay_result(self, event: Event) -> None:
        trial = self.find(event["trial"])
        value = math.nan if event["value"] is None else event["value"]
        if event["epoch"] == len(trial.values):
            trial.ran_out = event.get("last", False)
            self._result(trial, value)

    def _replay_gave_up(self, event: Event) -> None:
        self.judge.give_up()
        self._gave_up(event)

    def _replay_promoted(self, event: Event) -> None:
        self.judge.promote()
        self._promoted(event)

    def _replay_ended(self, event: Event) -> None:
        self._hear_dropped()  # it was asked before the end was recorded
        self._ended(event)

    def _at(self, trial: Trial, round_: int | None) -> Event:
        if round_ is None or trial.confirms or not self.experiment.search.reproducible:
            return {}
        return {"slot": trial.slot, "round": round_}

    # ── shared by both ways ──────────────────────────────────────────────────────────────────────────

    def _record(self, apply: Callable[[Event], object], event: Event) -> None:
        self.journal.append(event)
        apply(event)

    def _asked(self, event: Event) -> Trial:
        name = event["trial"]
        trial = Trial(name, event["params"], confirms=event.get("confirms", ""))
        trial.slot, trial.round = event.get("slot", 0), event.get("round", 0)
        if trial.confirms:
            self.confirming[name] = trial
            return trial
        self.trials[name] = trial
        self.counts["pending"] += 1
        self.judge.asked(name)
        return trial

    def _result(self, trial: Trial, value: float) -> None:
        trial.values.append(value)
        if trial.confirms:
            of = self.trials.get(trial.confirms)
            if of is not None and not of.over:  # a fold of it
                of.trained += 1
                self.epochs += 1
            return
        self.epochs += not self.folds
        done = len(trial.values)
        # At its last epoch a trial ends by itself: the judge hears of it from `ended`.
        inside = done < (self.folds or trial.params.get("train.epochs", self.experiment.train.epochs))
        if not inside or self.judge.next_decision(trial.id, done - 1) != done:
            return
        self.asker.report(trial.id, done, value)
        verdict = self.judge.judge(trial.id, done, value, trial.params)
        if verdict.kind != "go":
            trial.verdict, trial.decided_at = verdict, done

    def _vacant(self, event: Event) -> None:
        if "slot" in event:
            self.next_round[event["slot"]] = event["round"] + 1

    def _paused(self, event: Event) -> None:
        trial = self.find(event["trial"])
        self._vacant(event)
        trial.verdict = None
        trial.parameters = event.get("parameters", trial.parameters)
        self._status(trial, "paused")

    def _promoted(self, event: Event) -> Trial:
        trial = self.find(event["trial"])
        trial.slot, trial.round = event.get("slot", 0), event.get("round", 0) - len(trial.values)
        # Its pause may not have been carried out yet: then it never was one.
        trial.verdict = None
        if trial.status == "paused":
            self._status(trial, "pending")
        return trial

    def _copied(self, event: Event) -> None:
        trial = self.find(event["trial"])
        trial.params, trial.verdict = dict(event["params"]), None

    def _ended(self, event: Event) -> None:
        trial = self.find(event["trial"])
        self._vacant(event)
        trial.verdict = None
        trial.reason, trial.cause = event["reason"], event.get("cause", "")
        trial.value, trial.best_epoch = event["value"], event["best_epoch"]
        trial.seconds, trial.parameters = event["seconds"], event.get("parameters", 0)
        trial.metrics = event["metrics"]
        trial.history = {}
        if trial.confirms:
            trial.status = event["status"]
            return
        self._status(trial, event["status"])
        self.epochs_over += trial.trained or len(trial.values)
        last = trial.values[-1] if trial.values and trial.status != "failed" else None
        self.judge.ended(trial.id, len(trial.values), last)
        lost = trial.status == "failed" and trial.cause != "not-a-number"
        self.asker.tell(
            trial.id, self._objectives(trial, event.get("so_far")), failed=lost, stopped=trial.status == "stopped"
        )
        if trial.value is not None and (self.best is None or self._key(trial) < self._key(self.best)):
            self.best = trial

    def _objectives(self, trial: Trial, so_far: float | None) -> tuple[float, ...] | None:
        """A number per objective of the page, at the trial's best epoch by the first of them."""
        value = so_far if self.folds and trial.status == "stopped" else trial.value
        if value is None:
            return None
        facts = {"parameters": float(trial.parameters), "seconds": trial.seconds}
        found = {**facts, **trial.metrics, self.experiment.metric: value}
        return tuple(float(found.get(metric, math.nan)) for _, metric in self.experiment.objectives)

    def _key(self, trial: Trial) -> tuple[float, str]:
        return self._sign * (trial.value or 0.0), trial.id

    def _status(self, trial: Trial, status: Status) -> None:
        if not trial.confirms:
            self.counts[trial.status] -= 1
            self.counts[status] += 1
        trial.status = status

    def _tell_notes(self) -> None:
        for note in self.asker.notes:
            self._note(note)
        self.asker.notes.clear()

    def _best_epoch(self, trial: Trial) -> int | None:
        if self.folds and not trial.confirms:
            return len(trial.values) - 1 if trial.values else None
        finite = [(self._sign * v, i) for i, v in enumerate(trial.values) if math.isfinite(v)]
        return min(finite)[1] if finite else None


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Equal parameters, as JSON tells them."""
    return json.dumps(a, sort_keys=True, default=str) == json.dumps(b, sort_keys=True, default=str)


__all__ = ["Ledger", "Trial", "folds_of", "page_digest", "same"]
