"""Hyperband: Ray Tune's brackets, driven as Tune's controller drives them."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from nnopt_ray.search.schedulers import (
    EPOCH,
    GO,
    METRIC,
    PAUSE,
    STOP,
    Judge,
    Scheduler,
    Space,
    TrialCard,
    Verdict,
    score,
)


class Hyperband(Scheduler):
    """Hyperband: brackets of trials, from many that are soon cut to few that train long.

    Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", JMLR 2018. A
    bracket's trials wait for each other at each of its rungs; the best 1/reduction_factor go on together,
    the others stop. Trials fill the brackets in the order of asking, the largest bracket first, as in the
    paper: with 27 epochs and factor 3 the brackets hold 27, 12, 6 and 4 trials and first cut after 1, 3, 9
    and 27 epochs; the 50th trial begins with the first bracket again. Brackets, rungs and cuts are those
    of Ray Tune's HyperBandScheduler, whose rungs are rounded down (of 30 epochs a bracket trains 27), in
    the order of its HyperBandForBOHB. A bracket that the last trial leaves unfilled is cut as if it were full.
    A trial that ends by itself keeps its place in its bracket with its last value; one that fails is
    replaced by the next trial while its bracket fills.

    Keys:
        reduction_factor: of the trials at a rung, one in this many goes on; also the spacing of rungs.
    """

    def __init__(self, *, reduction_factor: Annotated[float, Field(ge=2, le=100)] = 3) -> None:
        # Below 2 a rung of 1 epoch, times the factor and rounded down, would be the same rung again.
        self.reduction_factor = reduction_factor

    def start(self, mode: str, epochs: int, seed: int, space: Space = ()) -> Judge:
        return _Brackets(self, mode, epochs)

    def budget(self, trials: int, epochs: int) -> tuple[int, int]:
        """Exact: how many go on is the same whatever the values are."""
        total, left = 0, trials
        for size, rungs in itertools.cycle(self.brackets(epochs)):
            if left <= 0:
                break
            inside = min(size, left)
            left -= inside
            before = 0
            for rung in rungs:
                total += inside * (rung - before)
                size = math.ceil(size / self.reduction_factor)
                inside, before = min(inside, size), rung
        return total, total

    def unfit(self, epochs: int, space: Space) -> Iterator[tuple[str, str]]:
        if len(self.brackets(epochs)) == 1:
            yield (
                "reduction_factor",
                f"a factor of {self.reduction_factor:g} leaves {epochs} epochs a single bracket, in which no trial "
                "is ever cut. Lower it, or raise train.epochs.",
            )

    def brackets(self, epochs: int) -> list[tuple[int, list[int]]]:
        """(trials, epochs at its rungs) of each bracket in the order they fill; the formulas are Tune's."""
        factor = self.reduction_factor
        count = round(math.log(epochs) / math.log(factor)) + 1
        found = []
        for halvings in reversed(range(count)):
            rungs = [int(epochs * factor**-halvings)]
            for _ in range(halvings):
                rungs.append(int(min(rungs[-1] * factor, epochs)))
            if rungs[0] > 0:
                found.append((math.ceil(count / (halvings + 1) * factor**halvings), rungs))
        return found


class _Card(TrialCard):
    over = False  # it trains no more, and only keeps its place in the bracket


class _Brackets(Judge):
    """Ray Tune's scheduler and what its controller does around it.

    Tune's controller always adds one trial ahead of those that run, so that a bracket is never cut before
    it is full; without it every trial is alone in its bracket and nothing is cut. `_ahead` is that trial.
    """

    def __init__(self, keys: Hyperband, mode: str, epochs: int) -> None:
        from ray.tune.schedulers import HyperBandScheduler
        from ray.tune.schedulers.hb_bohb import HyperBandForBOHB

        class LargestFirst(HyperBandScheduler):  # type: ignore[misc]
            on_trial_add = HyperBandForBOHB.on_trial_add

            def _unpause_trial(self, controller: _Brackets, card: _Card) -> None:
                controller.unpause_trial(card)

        self._mode, self._epochs = mode, epochs
        self._tune = LargestFirst(
            time_attr=EPOCH, metric=METRIC, mode="max", max_t=epochs, reduction_factor=keys.reduction_factor
        )
        self._cards: dict[str, _Card] = {}
        self._ahead: _Card | None = None
        self._unpaused: deque[_Card] = deque()
        self._dropped: list[str] = []

    def asked(self, trial: str) -> None:
        card = self._ahead or self._add()
        card.trial_id, card.status = trial, "RUNNING"
        self._cards[trial] = card
        self._ahead = self._add()

    def next_decision(self, trial: str, epochs_done: int) -> int | None:
        rung: int = self._bracket(self._cards[trial])._cumul_r
        return rung if epochs_done < rung < self._epochs else None

    def judge(self, trial: str, epochs_done: int, value: float, params: Mapping[str, Any]) -> Verdict:
        card = self._cards[trial]
        card.over = self._bracket(card)._halves == 0  # Tune pauses such a trial, to stop it with its bracket
        verdict = self._report(card, epochs_done, value)
        return STOP if card.over else verdict

    def ended(self, trial: str, epochs_done: int, value: float | None) -> None:
        card = self._cards.pop(trial)
        if card.over:  # stopped here
            return
        card.over = True
        if value is None:
            card.status = "ERROR"
            bracket = self._bracket(card)
            self._tune.on_trial_error(self, card)
            self._settle(bracket, card)
        else:
            self._report(card, self._epochs, value)

    def promote(self) -> str | None:
        while self._unpaused:
            card = self._unpaused.popleft()
            if not card.over:
                card.status = "RUNNING"
                return card.trial_id
        return None

    def dropped(self) -> list[str]:
        found, self._dropped = self._dropped, []
        return found

    def give_up(self) -> list[str]:
        if self._ahead is not None:
            card, self._ahead = self._ahead, None
            bracket = self._bracket(card)
            self._tune.on_trial_remove(self, card)
            self._settle(bracket, card)
            self._tune._state["bracket"] = None  # if the search is extended, it begins another bracket
        return self.dropped()

    # What Tune's scheduler calls on its controller.

    def stop_trial(self, card: _Card) -> None:
        """A paused trial stops; Tune's controller then tells the scheduler so."""
        if not card.over:
            self._dropped.append(card.trial_id)
        card.over, card.status = True, "TERMINATED"
        self._tune.on_trial_remove(self, card)
        del self._tune._trial_info[card]

    def unpause_trial(self, card: _Card) -> None:
        if not card.over:
            self._unpaused.appendleft(card)  # Tune names the best last

    def _add(self) -> _Card:
        card = _Card("", "PENDING")
        self._tune.on_trial_add(self, card)
        return card

    def _bracket(self, card: _Card) -> Any:
        return self._tune._trial_info[card][0]

    def _report(self, card: _Card, epochs: int, value: float) -> Verdict:
        bracket = self._bracket(card)
        decision = self._tune.on_trial_result(self, card, {EPOCH: epochs, METRIC: score(value, self._mode)})
        if decision == "STOP":
            card.over, card.status = True, "TERMINATED"
            self._tune.on_trial_complete(self, card, {})
        elif decision == "PAUSE" and card.status == "RUNNING":
            card.status = "PAUSED"
        self._settle(bracket, card)
        return {"CONTINUE": GO, "PAUSE": PAUSE, "STOP": STOP}[decision]

    def _settle(self, bracket: Any, card: _Card) -> None:
        """Tune marks a bracket that it is halving, and leaves the mark; a bracket whose last running trial
        fails after the first halving would then wait for ever."""
        bracket.is_being_processed = False
        if card.status in ("TERMINATED", "ERROR", "PENDING"):
            self._tune._trial_info.pop(card, None)
