"""How much there is to do: for one of several workers, and for this process if it were alone."""

from __future__ import annotations

import math
from collections.abc import Callable

from nnopt_ray.experiment import Experiment
from nnopt_ray.search.ledger import Ledger
from nnopt_ray.search.logical import places_of, width_of
from nnopt_ray.search.messages import Demand
from nnopt_ray.search.searchers import Asker
from nnopt_ray.search.space import most_epochs

# Trials in flight cost a searcher that learns, and a scheduler that stops, a part of what they know: in a pack of
# 16 ASHA trains 10 to 24 % more epochs than one by one.
LANES_OF_SEARCHER = 8  # in flight: at most one in so many of all trials, yet LANES_AT_LEAST a worker
LANES_AT_LEAST = 4
LANES_OF_SCHEDULER = 16
SURE_S = 0.2  # a speed is told from so much training on


def demand_of(experiment: Experiment, asker: Asker, left: int, *, in_turns: bool) -> Callable[[int], Demand]:
    """So many workers → what each of them has to do when `left` trials are left. `in_turns`: in logical order."""
    stops = experiment.search.scheduler.type != "none"
    limit = experiment.search.concurrency
    places = places_of(experiment, asker)

    def demand(workers: int) -> Demand:
        share = max(1, math.ceil(left / workers))
        most = share
        if asker.adaptive:
            most = min(most, max(LANES_AT_LEAST, math.ceil(asker.total / (LANES_OF_SEARCHER * workers))))
        if stops:
            most = min(most, LANES_OF_SCHEDULER)
        if in_turns:
            most = math.ceil(places / workers)
        elif limit is not None:
            most = min(most, math.ceil(limit / workers))
        return Demand(most, share * most_epochs(experiment), asker.total, width_of(experiment, asker))

    return demand


def seconds_left(ledger: Ledger, worked_s: float, epochs_trained: int) -> float | None:
    """What a process that took `worked_s` for so many epochs would still need for what is left; None while too little
    is known."""
    if not ledger.epochs or worked_s < SURE_S:
        return None
    over = sum(ledger.counts[status] for status in ("finished", "stopped", "failed"))
    mean = ledger.epochs_over / over if over else most_epochs(ledger.experiment)
    return max(0.0, ledger.asker.total * mean - ledger.epochs) * worked_s / max(1, epochs_trained)
