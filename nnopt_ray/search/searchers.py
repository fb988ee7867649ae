"""How a search chooses its trials: the contract of all methods, and the methods that learn nothing.

A method on the page becomes an asker for one study: `ask` gives the parameters of the next trial,
`tell` takes what came of it. Asked and told the same things in the same order, a fresh asker of the
same seed gives the same answers; that is what makes a study resumable from its journal alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from nnopt_ray.experiment import Experiment, Range
from nnopt_ray.machine import derived_seed
from nnopt_ray.reading.closing import answered
from nnopt_ray.search.space import (
    Params,
    at,
    branches,
    fitted,
    grid,
    identity,
    narrowed,
    params,
    random_point,
    size,
    steered,
)

Values = tuple[float, ...]  # one number per objective of the page, in its order
ENDLESS = 2**62
BLIND_TRIES = 200  # random points drawn in search of one that was not tried yet


class Asker(ABC):
    """One study's source of trials. What is common to all: start points come first, no point comes twice.

    total: how many it will give, or how many at most.
    adaptive: whether what is told changes what is asked; if not, the study may ask far ahead.
    sweeps: whether it goes through a list, where meeting a point that was tried is no repetition.
    tries: how often it is asked again when it names a point that was asked before; after that an untried
        point is sought without it.
    notes: sentences for the user; whoever reads them empties the list.
    """

    total: int
    adaptive: bool = True
    sweeps: bool = False
    tries: int = 20

    def __init__(self, experiment: Experiment) -> None:
        self.tree, self.seed = narrowed(experiment.tree), experiment.seed
        self.notes: list[str] = []
        trials = experiment.search.trials
        self._limit = trials if isinstance(trials, int) else ENDLESS
        self._size = size(self.tree)  # None: without end
        self.total = min(self._limit, self._size or ENDLESS)
        self._starts = deque(_labelled(experiment, given) for given in experiment.search.start)
        self._trial_of: dict[str, str] = {}  # identity of a point → the trial that it became first
        self._told: dict[str, Values | None] = {}  # trial → its values, where it is over
        self._outside: set[str] = set()  # trials whose points are none of this space any more
        self._last: tuple[str, Params] = ("", {})  # the trial asked last, and its point
        self._returned: deque[Params] = deque()  # points of a list that were named and became no trial
        self._count = self._repeats = self._blind = 0
        self._in_order: Iterator[Params] | None = None
        self._ended = False

    # What a method gives.

    @abstractmethod
    def propose(self, given: Params) -> Params | None:
        """The method's next point, with the values of `given` kept as they are; None when it has no more.

        It may be refused: `taken` follows when it becomes a trial, `repeated` when it was asked before.
        """

    def taken(self, trial: str, point: Params) -> None:  # noqa: B027 (an optional hook)
        """This point became a trial; it need not be one that was proposed."""

    def adopted(self) -> None:  # noqa: B027 (an optional hook)
        """A trial was adopted: a method whose n-th point hangs on n alone has one point less to come."""

    def repeated(self, point: Params, trial: str) -> None:  # noqa: B027 (an optional hook)
        """The proposed point is that of an earlier trial, and is not run again. `result_of` knows its result."""

    def learn(self, trial: str, values: Values | None, failed: bool, stopped: bool) -> None:  # noqa: B027
        """What came of a trial, as `tell` has it."""

    # What the study calls.

    def ask(self, trial: str) -> Params | None:
        """Parameters of the next trial, named `trial` from now on; None when there are no more."""
        point = self._untried() if self._count < self.total else None
        if point is None:
            self._end()
            return None
        self._count += 1
        self._last = (trial, point)
        self._trial_of[identity(point)] = trial
        self.taken(trial, point)
        return dict(point)

    def tell(
        self, trial: str, values: float | Sequence[float] | None, failed: bool = False, stopped: bool = False
    ) -> None:
        """What came of a trial: a number per objective (a lone number where there is one), or None.

        `failed` without values means that nothing was learned (a lost machine, a fault in a part);
        no values without `failed` means that the point itself is bad (the loss became NaN).
        `stopped`: the scheduler ended it early, so its values are not those of a full training.
        """
        if trial in self._outside:
            return
        numbers = None if values is None else (values,) if isinstance(values, (int, float)) else tuple(values)
        if numbers is not None and any(math.isnan(number) for number in numbers):
            numbers = None
        self._told[trial] = numbers
        self.learn(trial, numbers, failed, stopped)

    def report(self, trial: str, epochs: int, value: float) -> None:  # noqa: B027 (an optional hook)
        """The first objective after so many epochs, told at every decision of the scheduler."""

    def adopt(self, trial: str, point: Params) -> None:
        """A trial that was asked otherwise (by another version, or over another space) and counts as one of
        this study; `report` and `tell` follow as for any other. A point outside of this space teaches nothing.
        Where the trial was just asked here, and became another point, this one takes its place."""
        self._adopt(trial, point)
        self.adopted()

    def _adopt(self, trial: str, point: Params) -> None:
        self._replace(trial)
        self._count += 1
        own = fitted(self.tree, point)
        if own is None:
            self._outside.add(trial)
            self.total = min(self._limit, (self._size or ENDLESS) + len(self._outside))
            return
        self._trial_of.setdefault(identity(own), trial)
        self.taken(trial, own)

    def _replace(self, trial: str) -> None:
        if self._last[0] != trial:
            return
        if trial not in self._told:
            self.learn(trial, None, failed=True, stopped=False)
        self._told.pop(trial, None)
        self._trial_of.pop(identity(self._last[1]), None)
        if self.sweeps:
            self._returned.append(self._last[1])
        self._last = ("", {})
        self._count -= 1

    def evidence(self, point: Params, values: float | Sequence[float]) -> None:
        """A result found elsewhere, for a point that is no trial of this study and is not run again."""
        trial = f"evidence {len(self._told) + len(self._outside) + 1}"
        self._adopt(trial, point)
        self._count -= 1
        self.tell(trial, values)

    def result_of(self, trial: str) -> tuple[bool, Values | None]:
        """(is it over, its values)."""
        return trial in self._told, self._told.get(trial)

    # One point after the other, none twice.

    def _untried(self) -> Params | None:
        for _ in range(ENDLESS if self.sweeps else self.tries):
            if self._size is not None and len(self._trial_of) >= self._size:
                return None
            starting = bool(self._starts) and not self._returned
            given = dict(self._starts.popleft()) if starting else {}
            point = self._returned.popleft() if self._returned else self.propose(given)
            if point is None:
                return None
            known = self._trial_of.get(identity(point))
            if known is None:
                return point
            self._repeats += not (starting or self.sweeps)
            self.repeated(point, known)
        return self._blindly()

    def _blindly(self) -> Params | None:
        """An untried point without the method: at random, then, where they can be counted, the next of all."""
        for _ in range(BLIND_TRIES):
            self._blind += 1
            point = random_point(self.tree, derived_seed(self.seed, "untried"), self._blind)
            if identity(point) not in self._trial_of:
                return point
        if self._size is None:
            return None
        if self._in_order is None:
            self._in_order = grid(self.tree)
        # What the iterator has passed was tried when it passed: it never needs to go back.
        return next((point for point in self._in_order if identity(point) not in self._trial_of), None)

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._count < self.total:
            self.notes.append(f"No point that was not tried yet is left: the search ends with {self._count} trials.")
        if self._repeats:
            times = "once" if self._repeats == 1 else f"{self._repeats} times"
            self.notes.append(f"A point that had been asked for before came up again {times}; none was run twice.")
        if self._outside:
            many = len(self._outside)
            what = "result of a point that is" if many == 1 else "results of points that are"
            self.notes.append(f"{many} earlier {what} not in the space as it stands now could not guide the search.")


def _labelled(experiment: Experiment, given: Params) -> Params:
    """A start point with options named by their labels, where the page may have written them out."""
    found = dict(given)
    for path, range_ in experiment.space:
        if path in given and range_.kind == "choice" and (index := answered(range_, given[path])) is not None:
            found[path] = range_.labels()[index]
    return found


class Method(ABC):
    """Base of search methods: their keys, and how they start.

    several: whether it can search for several objectives at once.
    """

    several: ClassVar[bool] = False

    @abstractmethod
    def start(self, experiment: Experiment) -> Asker:
        """An asker for a fresh study of this page."""

    @classmethod
    def refuses(cls, opened: Sequence[tuple[str, Range]]) -> Iterator[tuple[str, str]]:
        """(path, sentence) for what a page opens and this method cannot search; path "" means all of it."""
        yield from ()


class _ManualAsker(Asker):
    adaptive = False
    sweeps = True

    def __init__(self, experiment: Experiment, listed: Sequence[Params]) -> None:
        super().__init__(experiment)
        self._listed = {identity(point): point for point in listed}
        self._next = deque(self._listed)
        self._starts.clear()  # they head the list
        self._size = None  # a trial by hand may change what no range opens
        self.total = len(self._listed)
        if twice := len(listed) - self.total:
            self.notes.append(f"Trials that are written more than once are run once ({twice} left out).")

    def propose(self, given: Params) -> Params | None:
        return self._listed[self._next.popleft()] if self._next else None

    def adopt(self, trial: str, point: Params) -> None:
        self._replace(trial)
        self._count += 1
        self._trial_of[identity(point)] = trial
        self.total += identity(point) not in self._listed


class Manual(Method):
    """The trials listed by hand under `search.trials`, in that order; those under `search.start` before them.

    Trials that are equal are run once.
    """

    several = True

    def start(self, experiment: Experiment) -> Asker:
        listed = experiment.search.trials
        assert isinstance(listed, tuple), "reading demands a list of trials for the manual method"
        return _ManualAsker(experiment, [dict(trial) for trial in (*experiment.search.start, *listed)])


class _GridAsker(Asker):
    adaptive = False
    sweeps = True

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        self._all = grid(self.tree)

    def propose(self, given: Params) -> Params | None:
        return next(grid(self.tree, given) if given else self._all, None)


class Grid(Method):
    """Every combination of the opened values, in the order of the page, the last one moving fastest.

    Combinations that are equal are run once. `search.trials` limits how many are run. A point of
    `search.start` that leaves values out stands for the first combination that agrees with it.
    """

    several = True

    def start(self, experiment: Experiment) -> Asker:
        return _GridAsker(experiment)


class _RandomAsker(Asker):
    adaptive = False
    _number = 0

    def propose(self, given: Params) -> Params | None:
        self._number += 1
        return random_point(self.tree, self.seed, self._number, given)

    def adopted(self) -> None:
        self._number += 1


class Random(Method):
    """Independent random points (Bergstra and Bengio, JMLR 13, 2012).

    The n-th point depends on the seed and n alone, so a search may run on any number of workers.
    """

    several = True

    def start(self, experiment: Experiment) -> Asker:
        return _RandomAsker(experiment)


class _QuasiRandomAsker(Asker):
    adaptive = False

    def __init__(self, experiment: Experiment) -> None:
        from torch.quasirandom import SobolEngine

        super().__init__(experiment)
        self._axes = {name: axis for axis, (name, _, _) in enumerate(branches(self.tree))}
        seed = derived_seed(self.seed, "quasi-random search") % 2**63
        self._sobol = SobolEngine(len(self._axes), scramble=True, seed=seed)  # type: ignore[no-untyped-call]

    def propose(self, given: Params) -> Params | None:
        import torch

        shares = self._sobol.draw(1, dtype=torch.float64)[0].tolist()

        def choose(_path: str, branch: str, range_: Range) -> Any:
            return at(range_, shares[self._axes[branch]])

        return params(self.tree, steered(given, choose))

    def adopted(self) -> None:
        self._sobol.fast_forward(1)  # type: ignore[no-untyped-call]


class QuasiRandom(Method):
    """Points spread more evenly than random ones: Sobol's sequence, scrambled (Owen, J. Complexity 14, 1998).

    It covers each opened value, and each pair of them, with fewer gaps than independent draws, and learns
    nothing from results. The n-th point depends on the seed and n alone. A value that is open in one option
    of a choice only has an axis of its own, which counts where the option is taken.
    """

    several = True

    def start(self, experiment: Experiment) -> Asker:
        return _QuasiRandomAsker(experiment)
