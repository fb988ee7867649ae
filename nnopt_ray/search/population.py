"""Population based training: weak trials go on from the weights of strong ones, with changed values."""

from __future__ import annotations

import fnmatch
import heapq
import itertools
import json
import math
import random
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field

from nnopt_ray.experiment import Range, ranges
from nnopt_ray.machine import derived_seed
from nnopt_ray.search import space as spaces
from nnopt_ray.search.schedulers import GO, PAUSE, Judge, Scheduler, Space, Verdict, score

# Numbers that a training may change on its way: they alter no shape, and neither the prepared rows nor their order.
CHANGEABLE = (
    "train.optimizer.*",
    "train.loss.*",
    "train.clip_norm",
    "train.clip_value",
    "train.l1",
    "model.dropout",
    "data.augment.*",
)
ZERO_LEAVES_OUT = ("train.optimizer.momentum", "model.dropout")  # at 0 there is no buffer, no layer


def changeable(path: str, range_: Range) -> bool:
    """Whether pbt changes an opened value: a number of `CHANGEABLE`, whose steps never come to a 0 that
    would leave out a part of the state."""
    if not any(fnmatch.fnmatchcase(path, pattern) for pattern in CHANGEABLE):
        return False
    options = listed(range_)
    if options is None:
        return True
    numbers = all(isinstance(option, (int, float)) and not isinstance(option, bool) for option in options)
    return numbers and not (path in ZERO_LEAVES_OUT and 0 in options)


def opened(space: Space, params: Mapping[str, Any]) -> Iterator[tuple[str, Range]]:
    """Those ranges of a space that parameters answer; of a choice of sub-pages, what the chosen one opens."""
    position = 0
    while position < len(space):
        path, range_ = space[position]
        position += 1
        yield path, range_
        for label, option in zip(range_.labels(), range_.values, strict=True) if range_.kind == "choice" else ():
            inside = tuple(ranges(option, path))
            position += len(inside)
            if label == params.get(path):
                yield from opened(inside, params)


class PopulationBasedTraining(Scheduler):
    """Population based training: at each interval the weakest trials go on from the weights of the strongest.

    Jaderberg et al., "Population Based Training of Neural Networks", 2017; quantiles and the way values
    are changed are those of Ray Tune's PopulationBasedTraining in its asynchronous form. A trial among
    the worst quantile_fraction at its interval takes over weights, optimizer and values of one of the
    best, as they were at that one's last interval, and each opened value of the optimizer and the loss, of
    l1, clip_norm, clip_value, model.dropout and data.augment (Ho et al. 2019) is then changed: multiplied by one
    of the factors, or drawn anew from its range; a choice or a step moves to a neighbour. Values stay in their
    ranges. Trials that differ in another opened value (sizes, prepared data, batch size, the type of the
    optimizer) form populations of their own. With more trials than lanes, they take turns. No trial
    stops early, none takes over at its last epoch, and what a trial is credited with it has measured itself.

    Keys:
        perturbation_interval: epochs between two decisions about a trial.
        quantile_fraction: share of a population that takes over, and share that it takes over from.
        resample_probability: chance that a value is drawn anew from its range instead of changed by a factor.
        factors: what a value is multiplied by, one of them at random.
    """

    def __init__(
        self,
        *,
        perturbation_interval: Annotated[int, Field(ge=1)] = 2,
        quantile_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.25,
        resample_probability: Annotated[float, Field(ge=0, le=1)] = 0.25,
        factors: Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1)] = (
            0.8,
            1.2,
        ),
    ) -> None:
        self.perturbation_interval = perturbation_interval
        self.quantile_fraction = quantile_fraction
        self.resample_probability = resample_probability
        self.factors = factors

    def start(self, mode: str, epochs: int, seed: int, space: Space = ()) -> Judge:
        return _Population(self, mode, epochs, seed, space)

    def budget(self, trials: int, epochs: int) -> tuple[int, int]:
        return trials * epochs, trials * epochs

    def unfit(self, epochs: int, space: Space) -> Iterator[tuple[str, str]]:
        if self.perturbation_interval >= epochs:
            yield (
                "perturbation_interval",
                f"no trial is changed before {self.perturbation_interval} epochs, and train.epochs is {epochs}: "
                "none ever would. Lower it.",
            )
        if not any(changeable(path, range_) for path, range_ in space):
            yield (
                "type",
                f"pbt changes {', '.join(CHANGEABLE)} while a trial trains, and none of these is opened. "
                "Open one, such as train.optimizer.lr: {log: [1e-4, 1e-1]}, or choose another scheduler.",
            )


def explore(range_: Range, old: Any, resample_probability: float, factors: Sequence[float], draw: random.Random) -> Any:
    """A changed value; Ray Tune's `_explore`, within the range.

    Tune draws its dice in this order too: whether to resample, then the sample, the shift or the factor.
    """
    options = listed(range_)
    again = draw.random() < resample_probability
    if options is not None:
        if again or old not in options:
            return draw.choice(options)
        index = options.index(old) + draw.choice([-1, 1])
        return options[min(max(index, 0), len(options) - 1)]
    low, high = range_.values
    new = sample(range_, draw) if again else old * draw.choice(factors)
    whole = range_.kind in ("int", "log_int")
    return min(max(round(new) if whole else float(new), low), high)


def listed(range_: Range) -> list[Any] | None:
    """The values of a choice or a step, as parameters hold them; None for a range between two ends."""
    if range_.kind == "choice":
        return list(range_.labels())
    if range_.kind == "step":
        return [spaces.value(range_, index) for index in range(spaces.points(range_) or 0)]
    return None


def sample(range_: Range, draw: random.Random) -> float:
    """A value between the two ends, logarithmically for the kinds that say so."""
    low, high = range_.values
    match range_.kind:
        case "log":
            return math.exp(draw.uniform(math.log(low), math.log(high)))
        case "int":
            return draw.randint(low, high)
        case "log_int":
            return math.exp(draw.uniform(math.log(low - 0.5), math.log(high + 0.5)))
    return draw.uniform(low, high)


Entry = tuple[float, int, str]  # (score, order of asking, trial): worst first


@dataclass
class _Member:
    """A trial, as it was at its last decision."""

    order: int
    params: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 0
    population: str = ""
    entry: Entry | None = None  # its place there


class _Population(Judge):
    keeps_decisions: ClassVar[bool] = True

    def __init__(self, keys: PopulationBasedTraining, mode: str, epochs: int, seed: int, space: Space) -> None:
        self._keys, self._mode, self._epochs, self._seed, self._space = keys, mode, epochs, seed, space
        self._free = {path for path, range_ in space if changeable(path, range_)} | {"seed"}
        self._members: dict[str, _Member] = {}
        self._ranked: dict[str, list[Entry]] = {}
        self._paused: list[tuple[int, int, str]] = []  # a heap of (epochs, order, trial)
        self._complete = False  # all trials of the study have begun
        self._count = itertools.count()

    def asked(self, trial: str) -> None:
        self._members[trial] = _Member(next(self._count))
        self._complete = False

    def next_decision(self, trial: str, epochs_done: int) -> int | None:
        interval = self._keys.perturbation_interval
        following = (epochs_done // interval + 1) * interval
        return following if following < self._epochs else None

    def judge(self, trial: str, epochs_done: int, value: float, params: Mapping[str, Any]) -> Verdict:
        member = self._members[trial]
        self._leave(member)
        # What is copied from it later is what this value was measured with, whatever happens to it now.
        member.params, member.epochs = dict(params), epochs_done
        member.population = json.dumps({k: v for k, v in params.items() if k not in self._free}, sort_keys=True)
        member.entry = (score(value, self._mode), member.order, trial)
        ranked = self._ranked.setdefault(member.population, [])
        insort(ranked, member.entry)
        count = self._quantile(len(ranked))
        if bisect_left(ranked, member.entry) < count:
            draw = random.Random(derived_seed(self._seed, "pbt", trial, epochs_done))
            points, _, donor = ranked[len(ranked) - count + draw.randrange(count)]
            if points > -math.inf:
                strong = self._members[donor]
                return Verdict("copy", donor, strong.epochs, self._changed(strong.params, params, draw))
        if self._complete and not (self._paused and self._paused[0][0] < epochs_done):
            return GO
        heapq.heappush(self._paused, (epochs_done, member.order, trial))
        return PAUSE

    def ended(self, trial: str, epochs_done: int, value: float | None) -> None:
        self._leave(self._members.pop(trial))

    def promote(self) -> str | None:
        """The least trained first; before all trials have begun, a new one is less trained than any."""
        while self._complete and self._paused:
            _, _, trial = heapq.heappop(self._paused)
            if trial in self._members:
                return trial
        return None

    def give_up(self) -> list[str]:
        """None stops: that it is asked means that all trials have begun."""
        self._complete = True
        return []

    def _leave(self, member: _Member) -> None:
        if member.entry is not None:
            ranked = self._ranked[member.population]
            del ranked[bisect_left(ranked, member.entry)]
            member.entry = None

    def _quantile(self, size: int) -> int:
        """How many are the worst of a population, and how many the best; the two never meet."""
        return min(math.ceil(size * self._keys.quantile_fraction), size // 2)

    def _changed(self, donor: Mapping[str, Any], own: Mapping[str, Any], draw: random.Random) -> dict[str, Any]:
        params = {**donor, **({"seed": own["seed"]} if "seed" in own else {})}
        for path, range_ in opened(self._space, donor):
            if changeable(path, range_):
                params[path] = explore(range_, donor[path], self._keys.resample_probability, self._keys.factors, draw)
        return params
