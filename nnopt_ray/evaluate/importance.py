"""Which of the searched values the objective follows, and how: fANOVA on the trials' values.

What a share means: over the whole opened space, each value as likely as any other (on the log scale where the range
is), this part of the forest's variance comes from this one value alone, the others averaged out; what no value makes
alone is interplay. A value inside an option is judged among the trials that took the option.

Trials that a scheduler stopped have values after fewer epochs than others. So all are compared after the same number
of epochs: what the trial stopped first had done, or a trial's own end where that came sooner. Failed trials have no
value and are left out. A loss over more than a factor of 30 is taken by its logarithm, and values far worse than the
rest (above the third quartile by three times the distance of the quartiles, Tukey's outer fence) count as that fence:
else one trial that diverged would be all the variance there is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from nnopt_ray import rundir
from nnopt_ray.evaluate import searched
from nnopt_ray.evaluate.searched import Condition, Scale, Value
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import derived_seed
from nnopt_ray.results import TrialRow
from nnopt_ray.rundir import RunDir

LEAST = 15  # trials with a value: fewer say nothing of a space
EXPLAINED = 0.05  # out-of-bag R² from which on the forest is believed at all
LEAF = (
    3  # trials in a leaf: with single ones a useless value of a noisy function of 40 points got a share of 6 %, so 4 %
)
SMALL = 0.01  # of the variance: what makes less does not matter, however sure it is
SHADOW_TREES = 32
SHADOWS = 2  # shuffled copies of each value
PLACES = 41  # of a curve
MIDDLE = 0.8  # of the trees, between the ends of an interval
PAIRS = 3  # the strongest, of the PAIRED most important values
PAIRED = 6
SPREAD = 30.0  # positive values over more than this factor are taken by their logarithm, as plots do


@dataclass(frozen=True)
class Curve:
    """The mean of the forest over all other values, at places of one value, with the middle MIDDLE of its trees.

    x: numbers of the value, or options. y, low, high: in the objective's units (of a logarithm: geometric means).
    """

    x: tuple[Any, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Share:
    """One value's importance. share: of the forest's variance, mean over the trees; low, high: the middle of them.

    told: more than SMALL, and than any shuffled copy of a value gets. pooled: values of several options under one path,
    taken together by their place in their own ranges. curve: None of these where the ranges differ.
    """

    branch: str
    path: str
    share: float
    low: float
    high: float
    told: bool
    pooled: bool = False
    curve: Curve | None = None


@dataclass(frozen=True)
class Pair:
    """Two values' interplay: what they make together beyond what each makes alone, of the forest's variance."""

    one: str  # branches
    other: str
    share: float


@dataclass(frozen=True)
class Group:
    """Trials of which the same values can be compared: all, or those that took an option.

    explained: R² of trials that a tree had not seen; NaN where there is no forest, and `silent` says why.
    """

    under: Condition
    trials: int
    explained: float = math.nan
    shares: tuple[Share, ...] = ()  # the largest first
    pairs: tuple[Pair, ...] = ()
    silent: str = ""


@dataclass(frozen=True)
class Importance:
    """Of one objective. `epochs`: all trials are compared after so many; None: each at its own end.

    values: trial → what was compared, in the order of the trials. limit: where `clipped` far worse ones were cut off.
    silent: why there is nothing to say at all.
    """

    metric: str
    mode: str
    epochs: int | None = None
    log: bool = False
    failed: int = 0
    without: int = 0  # trials that did not fail and have no value that can be compared
    clipped: int = 0
    limit: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    silent: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Importance:
        """From what `to_json` gave. Raises KeyError, TypeError, ValueError or AttributeError for anything else."""
        groups = tuple(_group_of(each) for each in found["groups"])
        return cls(**{**found, "groups": groups, "values": {str(k): float(v) for k, v in found["values"].items()}})


def _group_of(found: Mapping[str, Any]) -> Group:
    explained = math.nan if found["explained"] is None else float(found["explained"])
    under = tuple((str(path), str(option)) for path, option in found["under"])
    pairs = tuple(Pair(**each) for each in found["pairs"])
    return Group(**{**found, "under": under, "explained": explained, "pairs": pairs,
                    "shares": tuple(_share_of(each) for each in found["shares"])})  # fmt: skip


def _share_of(found: Mapping[str, Any]) -> Share:
    curve = found["curve"]
    return Share(**{**found, "curve": None if curve is None else Curve(**{k: tuple(v) for k, v in curve.items()})})


def read(found: Any) -> tuple[Importance, ...]:
    """What importance.json says, an entry per objective; none where it is absent, damaged or of another version."""
    try:
        return tuple(Importance.from_json(each) for each in found["objectives"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()


def write(experiment: Experiment, rows: Sequence[TrialRow], run: RunDir) -> None:
    """evaluation/importance.json of a search: an entry per objective. rows: every trial, with its epochs."""
    found = [of(experiment, rows, metric, mode) for mode, metric in experiment.objectives]
    rundir.write_json(run.evaluated("importance"), {"objectives": [each.to_json() for each in found]})


def of(experiment: Experiment, rows: Sequence[TrialRow], metric: str, mode: str) -> Importance:
    """The importance of every searched value for one objective of the page."""
    failed = sum(row.status == "failed" for row in rows)
    if experiment.search.scheduler.type == "pbt":
        said = "Values change while a trial trains (population based training), so no score belongs to one setting."
        return Importance(metric, mode, failed=failed, silent=said)
    epochs, compared = comparable(rows, metric, mode, first=metric == experiment.metric)
    without = len(rows) - failed - len(compared)
    if len(compared) < LEAST:
        said = f"{len(compared)} trials have a value that can be compared; below {LEAST} nothing is said."
        return Importance(metric, mode, epochs, failed=failed, without=without, values=compared, silent=said)
    log = min(compared.values()) > 0 and max(compared.values()) / min(compared.values()) > SPREAD
    fence = _fence(np.array(list(compared.values())), mode, log)
    worse = [value for value in compared.values() if (value > fence if mode == "min" else value < fence)]
    points = [row for row in rows if row.trial in compared]
    y = {name: _on(min(value, fence) if mode == "min" else max(value, fence), log) for name, value in compared.items()}
    groups = tuple(_groups(experiment, points, y, log))
    limit = fence if worse else None
    return Importance(metric, mode, epochs, log, failed, without, len(worse), limit, compared, groups)


def comparable(
    rows: Sequence[TrialRow], metric: str, mode: str, first: bool = True
) -> tuple[int | None, dict[str, float]]:
    """Values of the trials that can be compared with each other, and after how many epochs they are.

    first: `metric` is what a row's `value` is of.
    """
    cut = [row.epochs for row in rows if row.status in ("stopped", "paused", "running") and row.epochs]
    epochs = min(cut) if cut else None
    found: dict[str, float] = {}
    for row in rows:
        if row.status != "failed" and row.epochs:
            value = _value(row, metric, mode, epochs, first)
            if value is not None and math.isfinite(value):
                found[row.trial] = value
    return epochs, found


def _value(row: TrialRow, metric: str, mode: str, epochs: int | None, first: bool) -> float | None:
    """Of one trial after so many epochs: the best until then."""
    if metric == "parameters":
        return row.metrics.get(metric)
    if metric == "seconds":
        return sum(epoch.seconds for epoch in row.history[:epochs]) if epochs and row.history else row.seconds
    if epochs is None:
        return row.value if first else row.metrics.get(metric)
    seen = [epoch.metrics.get(metric, math.nan) for epoch in row.history[:epochs]]
    known = [value for value in seen if math.isfinite(value)]
    if known:
        return min(known) if mode == "min" else max(known)
    return None if row.status != "finished" or row.epochs > epochs else row.value


def _on(value: float, log: bool) -> float:
    return math.log(value) if log else value


def _fence(found: np.ndarray, mode: str, log: bool) -> float:
    on = np.log(found) if log else found
    low, high = np.quantile(on, (0.25, 0.75))
    fence = high + 3 * (high - low) if mode == "min" else low - 3 * (high - low)
    return float(np.exp(fence)) if log else float(fence)


# --- groups of trials -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    """One input of a forest, over the trials of a group."""

    branch: str
    path: str
    unit: np.ndarray  # float64 [trials]
    scale: Scale | None  # None: taken together from ranges that differ
    pooled: bool = False


def _groups(experiment: Experiment, rows: Sequence[TrialRow], y: Mapping[str, float], log: bool) -> list[Group]:
    values = searched.values(experiment, [row.params for row in rows])
    conditions = dict.fromkeys([(), *(value.under for value in values)])
    found = []
    for under in conditions:
        mine = [row for row in rows if searched.met(under, row.params)]
        if len(mine) < LEAST:
            found.append(Group(under, len(mine), silent=f"fewer than {LEAST} trials that took it"))
            continue
        columns = _columns(values, under, mine)
        seed = derived_seed(experiment.seed, "importance", repr(under))
        found.append(_group(under, columns, np.array([y[row.trial] for row in mine]), log, seed))
    return found


def _columns(values: Sequence[Value], under: Condition, rows: Sequence[TrialRow]) -> list[_Column]:
    """What varies among these trials and each of them has."""
    fixed = {path for path, _ in under}
    here = [value for value in values if set(value.under) <= set(under) and value.path not in fixed]
    found = [column for value in here if (column := _column(value.branch, [value], rows)) is not None]
    beyond: dict[str, list[Value]] = {}
    for value in values:
        if not set(value.under) <= set(under) and set(under) <= set(value.under):
            beyond.setdefault(value.path, []).append(value)
    together = (_column(path, inside, rows) for path, inside in beyond.items() if len(inside) > 1)
    return [*found, *(column for column in together if column is not None)]


def _column(branch: str, values: Sequence[Value], rows: Sequence[TrialRow]) -> _Column | None:
    """One value, or those of several options under one path; None where a trial has none of them or all the same."""
    taken = [
        next(((value, said) for value in values if (said := searched.chosen(value, row.params)) is not None), None)
        for row in rows
    ]
    pairs = [pair for pair in taken if pair is not None]
    if len(pairs) < len(rows):
        return None
    scales = {
        value.branch: searched.scale(value, [said for each, said in pairs if each is value]) for value in values
    } if len(values) == 1 or all(value.opened is not None for value in values) else {}  # fmt: skip
    if not scales:
        return None
    kinds = {scale.labels for scale in scales.values()}
    if len(kinds) > 1:  # numbers here, options there
        return None
    first = next(iter(scales.values()))
    if not first.labels and first.high == first.low:
        return None
    unit = np.array([scales[value.branch].unit(said) for value, said in pairs])
    if np.ptp(unit) == 0:
        return None
    alike = all(scale == first for scale in scales.values())
    return _Column(branch, values[0].path, unit, first if alike else None, len(values) > 1)


def _group(under: Condition, columns: Sequence[_Column], y: np.ndarray, log: bool, seed: int) -> Group:
    from nnopt_ray.evaluate import forest

    if not columns:
        return Group(under, len(y), silent="no value that differs between them")
    if np.ptp(y) == 0:
        return Group(under, len(y), silent="all have the same value of the objective")
    x = np.stack([column.unit for column in columns], axis=1)
    grown = forest.fit(x, y, seed, least=LEAF, told=True)
    explained = float(grown.oob_score_)
    if explained < EXPLAINED:
        said = "a forest that learned from some of them foretells the others no better than their mean does"
        return Group(under, len(y), explained, silent=said)
    trees = [each for tree in grown.estimators_ if (each := forest.boxes(tree, len(columns))).variance > 0]
    parts = np.array([[forest.main_variance(t, j) / t.variance for j in range(len(columns))] for t in trees])
    tail = (1 - MIDDLE) / 2
    low, high = np.quantile(parts, (tail, 1 - tail), axis=0)
    noise = _by_chance(x, y, seed) if len(columns) > 1 else [True]
    shares = [
        Share(
            branch=column.branch,
            path=column.path,
            share=float(parts[:, j].mean()),
            low=float(low[j]),
            high=float(high[j]),
            told=noise[j],
            pooled=column.pooled,
            curve=None if column.scale is None else _curve(trees, j, column.scale, log),
        )
        for j, column in enumerate(columns)
    ]
    order = sorted(range(len(columns)), key=lambda j: -shares[j].share)
    pairs = _pairs(trees, parts, order, [column.branch for column in columns])
    return Group(under, len(y), explained, tuple(shares[j] for j in order), pairs)


def _by_chance(x: np.ndarray, y: np.ndarray, seed: int) -> list[bool]:
    """Which values have a larger share than the largest of all shuffled copies, in a forest that sees both.

    Kursa & Rudnicki 2010, "Feature Selection with the Boruta Package", with the share in the place of theirs.
    """
    from nnopt_ray.evaluate import forest

    inputs = x.shape[1]
    random = np.random.default_rng(seed)
    both = np.hstack([x, *(random.permuted(x, axis=0) for _ in range(SHADOWS))])
    grown = forest.fit(both, y, seed + 1, trees=SHADOW_TREES, least=LEAF)
    parts = []
    for tree in grown.estimators_:
        leaves = forest.boxes(tree, both.shape[1])
        if leaves.variance > 0:
            parts.append([forest.main_variance(leaves, j) / leaves.variance for j in range(both.shape[1])])
    mean = np.mean(parts, axis=0)
    return [bool(share > max(mean[inputs:].max(), SMALL)) for share in mean[:inputs]]


def _curve(trees: Sequence[Any], feature: int, scale: Scale, log: bool) -> Curve:
    from nnopt_ray.evaluate import forest

    options = len(scale.labels)
    at = (np.arange(options) + 0.5) / options if options else np.linspace(0, 1, PLACES)
    each = np.array([forest.on_grid(tree, feature, at) for tree in trees])
    tail = (1 - MIDDLE) / 2
    rows = [each.mean(axis=0), *np.quantile(each, (tail, 1 - tail), axis=0)]
    y, low, high = (tuple(float(v) for v in (np.exp(row) if log else row)) for row in rows)
    x: tuple[Any, ...] = scale.labels or tuple(scale.said(float(place)) for place in at)
    return Curve(x, y, low, high)


def _pairs(trees: Sequence[Any], parts: np.ndarray, order: Sequence[int], names: Sequence[str]) -> tuple[Pair, ...]:
    """The strongest interplays among the most important values, each above a hundredth of the variance."""
    from nnopt_ray.evaluate import forest

    found = []
    top = list(order[:PAIRED])
    for place, one in enumerate(top):
        for other in top[place + 1 :]:
            both = np.array([forest.pair_variance(tree, one, other) / tree.variance for tree in trees[:SHADOW_TREES]])
            share = float((both - parts[:SHADOW_TREES, one] - parts[:SHADOW_TREES, other]).mean())
            found.append(Pair(names[one], names[other], share))
    strong = sorted((pair for pair in found if pair.share > 0.01), key=lambda pair: -pair.share)
    return tuple(strong[:PAIRS])
