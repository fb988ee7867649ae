"""Everything a page can say, one frozen model a section.

A field that holds a part (`type: ...`) is marked with the room the part is chosen from; the keys of
a part are not listed here but come from its signature (see tables.py). `Fixed` marks what a search
may not vary. Reading a page into these models, with the place of every fault, is reading.py's work.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from nnopt_ray.recipe import Checkpoint, EarlyStopping, Start, Train
from nnopt_ray.rows import Data, Fold, Window
from nnopt_ray.section import Beside, Count, Fixed, Fraction, InRoom, NonNegative, Positive, Section, by_default
from nnopt_ray.tables import Part

__all__ = [
    "SCALARS",
    "TRIAL_FACTS",
    "About",
    "Beside",
    "Checkpoint",
    "Confirm",
    "Data",
    "EarlyStopping",
    "Evaluate",
    "Experiment",
    "Fixed",
    "Fold",
    "InRoom",
    "Range",
    "Resources",
    "Search",
    "Section",
    "Start",
    "Train",
    "Tree",
    "Window",
    "count",
    "plain",
    "ranges",
    "walk",
]

Tree = dict[str, Any]  # a page as plain data; a Range may stand where a value or a sub-page would


@dataclass(frozen=True)
class Range:
    """An opened value. `values` are the two ends, ends and step, or the choices (scalars or sub-pages).

    A choice that is a sub-page may itself hold ranges.
    """

    kind: Literal["uniform", "log", "int", "log_int", "step", "choice"]
    values: tuple[Any, ...]

    def page(self) -> dict[str, Any]:
        return {self.kind: [plain(value) for value in self.values]}

    def labels(self) -> tuple[Any, ...]:
        """For a choice: what names each option in tables: a scalar itself, a sub-page its `type`, a list
        as JSON writes it. Options of one name are told apart by `#2`, `#3`, ...
        """
        seen: dict[str, int] = {}
        labels: list[Any] = []
        for position, value in enumerate(self.values, start=1):
            if isinstance(value, Mapping):
                name = str(value.get("type", f"choice {position}"))
            elif isinstance(value, (list, tuple)):
                name = json.dumps(plain(value))
            else:
                labels.append(value)
                continue
            seen[name] = seen.get(name, 0) + 1
            labels.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
        return tuple(labels)

    def first(self) -> Any:
        """The representative value: the lower end, or the first choice."""
        return self.values[0]

    def points(self) -> int | None:
        """How many values it holds, without what its sub-pages open; None when it is continuous."""
        match self.kind:
            case "choice":
                return len(self.values)
            case "int" | "log_int":
                return int(self.values[1]) - int(self.values[0]) + 1
            case "step":
                low, high, step = (float(end) for end in self.values)
                # Half a billionth of a step forgives decimal steps such as 0.1 that binary cannot hold.
                return math.floor((high - low) / step + 1e-9) + 1
        return None


SCALARS = frozenset((str, int, float, bool, type(None)))  # most nodes are; asking for a Mapping takes longer


def plain(node: Any) -> Any:
    """A tree with every Range written as on a page: plain YAML data."""
    if type(node) in SCALARS:
        return node
    if isinstance(node, Range):
        return node.page()
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [plain(value) for value in node]
    return node


def ranges(node: Any, path: str = "") -> Iterator[tuple[str, Range]]:
    """Every range of a tree with its dotted path, in the order of the page, outer before inner.

    The ranges inside a choice's sub-pages come after it under the same path prefix.
    """
    if isinstance(node, Range):
        yield path, node
        if node.kind == "choice":
            for value in node.values:
                yield from ranges(value, path)
    elif isinstance(node, Mapping):
        for key, value in node.items():
            if type(value) in SCALARS:
                continue
            yield from ranges(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            if type(value) in SCALARS:
                continue
            yield from ranges(value, f"{path}.{index}" if path else str(index))


def count(node: Any) -> int | None:
    """How many points the ranges of a tree make together; None when one of them is continuous.

    Conditional sub-pages count where they apply: a choice of two optimizers, one of which opens three
    rates, makes four points. 1 where nothing is open.
    """
    if isinstance(node, Range):
        if node.kind != "choice":
            return node.points()
        options = [count(option) for option in node.values]
        return None if None in options else sum(option or 0 for option in options)
    inside = node.values() if isinstance(node, Mapping) else node if isinstance(node, (list, tuple)) else ()
    counts = [count(value) for value in inside]
    return None if None in counts else math.prod(number or 1 for number in counts)


def walk(node: Any, choose: Any, path: str = "", branch: str = "") -> Any:
    """Close a tree: `choose(path, branch, range) -> index or value` is asked for each range met.

    For a choice it returns the index of the option, else the value. The order of asking is that of
    the page and conditional: ranges inside an option are met only when it was taken. `branch` is the
    path with the options taken on the way ("train.optimizer=adam.lr"), a name that is unique in the
    whole space. One walk serves sampling, enumeration and replay.
    """
    if type(node) in SCALARS:
        return node
    if isinstance(node, Range):
        chosen = choose(path, branch, node)
        if node.kind != "choice":
            return chosen
        option = node.values[chosen]
        inside = f"{branch}={node.labels()[chosen]}" if isinstance(option, (Mapping, list, tuple)) else branch
        return walk(option, choose, path, inside)
    if isinstance(node, Mapping):
        return {
            key: walk(value, choose, f"{path}.{key}" if path else str(key), f"{branch}.{key}" if branch else str(key))
            for key, value in node.items()
        }
    if isinstance(node, (list, tuple)):
        return [
            walk(value, choose, f"{path}.{i}" if path else str(i), f"{branch}.{i}" if branch else str(i))
            for i, value in enumerate(node)
        ]
    return node


class About(Section):
    """What only people know of a model: for its card, in the report and beside the weights."""

    purpose: str | None = Field(default=None, description="what it is for, and for whom")
    owner: str | None = Field(default=None, description="who answers for it, and how to reach them")
    limits: str | None = Field(default=None, description="what it is not for, and what is known to go wrong")
    licence: str | None = Field(default=None, description="under which terms model and data may be used")


class Confirm(Section):
    """The best few trials once more over several seeds, so that the winner is no lucky draw."""

    top: Annotated[int, Field(ge=2)] = Field(default=3, description="how many of the best trials run again")
    seeds: Annotated[int, Field(ge=2)] = Field(default=3, description="seeds that each of them runs with")


class Search(Section):
    """How the opened values are searched. Without a range on the page there is nothing to search."""

    method: Annotated[Part, InRoom("method")] = Field(
        default=by_default("bayesian"), description="how the next trial is chosen"
    )
    trials: Count | tuple[dict[str, Any], ...] | None = Field(
        default=None, description="how many trials; for the manual method, the list of them: [{path: value}, ...]"
    )
    scheduler: Annotated[Part, InRoom("scheduler")] = Field(
        default=by_default("none"), description="which trials stop early"
    )
    timeout_s: Positive | None = Field(default=None, description="no new trial is started after this many seconds")
    start: tuple[dict[str, Any], ...] = Field(
        default=(), description="points to try first: [{path: value, ...}, ...]; what a point leaves out is searched"
    )
    reproducible: bool = Field(
        default=False, description="the same page and seed give the same search, bit for bit, however it is run"
    )
    concurrency: Count | None = Field(
        default=None, description="trials in flight; without it as many as the workers hold"
    )
    confirm: Confirm | None = Field(default=None, description="run the best few again over seeds")


class Evaluate(Section):
    """What is measured at the end, on the test part, once."""

    metrics: tuple[str, ...] | Literal["auto"] = Field(
        default="auto",
        description="auto: all that fit the task; or a list, `auto` among them, and package.module:Class for one of "
        "your own",
    )
    bootstrap: Annotated[int, Field(ge=0)] = Field(
        default=1000, description="resamples of the test rows for intervals; 0: no intervals"
    )
    confidence: Fraction = Field(default=0.95, description="of the intervals")
    positive: str | int | None = Field(
        default=None,
        description="two classes: the one that is looked for, of which pr_auc and the threshold are; without it the "
        "rarer one",
    )
    calibrate: Literal["none", "temperature"] = Field(
        default="none",
        description="temperature: probabilities are those of the logits divided by a number that is fitted to the "
        "validation part; the report has the effect in either case",
    )
    threshold: Annotated[Part, InRoom("threshold")] = Field(
        default=by_default("at"),
        description="two classes: from which probability on the positive one is predicted, chosen on the validation "
        "part; training and search measure at 0.5",
    )
    baseline: Annotated[Part, InRoom("model")] = Field(
        default=by_default("baseline"), description="the simple model that the result is compared with"
    )
    folds: Annotated[Part | None, InRoom("fold")] = Field(
        default=None,
        description="cross-validate the result: train it anew on the rows outside the test part but a fold of them, "
        "and measure it on that fold; a number is for as many folds",
    )
    sizes: tuple[Annotated[float, Field(gt=0, le=1)], ...] | Literal["auto"] | None = Field(
        default=None,
        description="train the result on these shares of the training rows too, with three seeds each, and tell from "
        "the validation scores what more rows would bring; auto: 0.1, 0.2, 0.4, 0.7 and 1, as far as classes allow",
    )
    nested: bool = Field(
        default=False,
        description="of a search: search anew inside each fold, so that no choice has seen the rows that it is "
        "measured on",
    )
    explain: Annotated[tuple[Part, ...], InRoom("explainer")] = Field(
        default=(), description="why the winner says what it says of some test rows: `explain: [shap, lime]`"
    )


class Resources(Section):
    """What one trial uses. As many trials run at once as the machine or cluster holds."""

    workers: Annotated[Count | tuple[Count, Count], Fixed("all trials of a search have as many")] = Field(
        default=1,
        description="processes that train one network together; [2, 8]: as many as there are, and on with fewer when a "
        "node is lost",
    )
    batch: Annotated[Literal["global", "per_worker"], Fixed("it says what a batch is")] = Field(
        default="global",
        description="what train.batch_size is with several workers: global, of all together, so that they take the "
        "steps that one would; per_worker, of each",
    )
    lr_scaling: Annotated[Literal["none", "linear", "sqrt"], Fixed("it belongs to resources.batch")] = Field(
        default="none", description="with batch: per_worker, how the learning rate grows with the number of workers"
    )
    sync_batch_norm: Annotated[bool, Fixed("it says how the workers of a training share it")] = Field(
        default=False,
        description="with several workers, batch norm takes mean and variance of the whole batch, not of each worker's "
        "piece of it; one worker has the whole",
    )
    fsdp: Annotated[bool, Fixed("it says how the workers of a training share it")] = Field(
        default=False,
        description="cut weights, gradient and optimizer state over the workers (FSDP2, stage 3 of ZeRO): for a "
        "network that does not fit on one device",
    )
    cpus_per_worker: Count = Field(default=1, description="CPU cores, and the threads torch uses")
    gpus_per_worker: NonNegative = Field(default=0.0, description="GPUs, or a fraction of one")
    fuse: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="train several trials of one shape as lanes of one step; auto: where measuring finds a gain",
    )
    lanes: Count | Literal["auto"] = Field(default="auto", description="trials that one worker trains at a time")
    in_process: Literal["auto", "never"] = Field(
        default="auto",
        description="auto: a search on one machine begins in this process, and Ray joins when there is enough to do",
    )

    @property
    def worker_range(self) -> tuple[int, int]:
        """The fewest and the most workers that train one network."""
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)

    @property
    def together(self) -> bool:
        """Whether several workers train one network."""
        return self.worker_range[1] > 1

    def held(self, cpus: float, gpus: float) -> int:
        """How many workers a node of so many CPUs and GPUs holds."""
        by_cpu = int(cpus // self.cpus_per_worker)
        return by_cpu if not self.gpus_per_worker else min(by_cpu, int(gpus / self.gpus_per_worker + 1e-9))


TRIAL_FACTS = ("parameters", "seconds")  # objectives beside the first that are facts of a trial, the fewer the better

CV = "cv_"  # before a metric: its mean over folds

NOT_SEARCHED = "it says how the search itself is done"


class Experiment(Section):
    """One page. `space` is empty for a single training; otherwise the page is a search.

    Where a range stands, the sections hold its first value (the lower end, the first choice): a
    representative, good for shapes and for a plan. `reading.close` makes the page of one trial.
    """

    name: Annotated[str, Fixed("it names the run"), Field(min_length=1)] = Field(
        default="experiment", description="names the run folder"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(default=0, description="everything random follows from it")
    objective: Annotated[str | tuple[str, ...], Fixed("trials are compared by it")] = Field(
        default="minimize val_loss",
        description="`minimize METRIC` or `maximize METRIC`, measured on the validation part; or a list of them, "
        "`minimize parameters` and `minimize seconds` among them: the first drives early stopping, the scheduler "
        "and what counts as best. `cv_val_METRIC` is the mean over the folds of evaluate.folds, 5 without it, each "
        "trial being trained on all of them",
    )
    about: Annotated[About, Fixed("it is said for all trials")] = About()
    data: Data
    model: Annotated[Part, InRoom("model")] = Field(description="the network")
    train: Train = Train()
    search: Annotated[Search, Fixed(NOT_SEARCHED)] = Search()
    evaluate: Annotated[Evaluate, Fixed("the result is measured once")] = Evaluate()
    resources: Annotated[Resources, Fixed("every trial gets the same")] = Resources()
    tracking: Annotated[tuple[Part, ...], InRoom("tracker"), Fixed("a run is told to all of them")] = Field(
        default=(), description="who else is told of a run while it goes on: `tracking: [tensorboard, mlflow]`"
    )

    _tree: Tree = PrivateAttr(default_factory=dict)
    _file: Path | None = PrivateAttr(default=None)

    @property
    def tree(self) -> Mapping[str, Any]:
        """The resolved page, every default filled in, Range objects where ranges stand."""
        return MappingProxyType(self._tree)

    @property
    def file(self) -> Path | None:
        """The page's file; relative paths of the page are looked up beside it."""
        return self._file

    @property
    def space(self) -> tuple[tuple[str, Range], ...]:
        """(dotted path, Range) of every opened value, in the order of the page."""
        return tuple(ranges(self._tree))

    @property
    def is_search(self) -> bool:
        """True when a range is open or trials are listed by hand."""
        return bool(self.space) or isinstance(self.search.trials, tuple)

    @property
    def objectives(self) -> tuple[tuple[Literal["min", "max"], str], ...]:
        """(mode, metric) of every objective, as the page orders them; metrics of an epoch, or TRIAL_FACTS."""
        said = (self.objective,) if isinstance(self.objective, str) else self.objective
        return tuple(("min" if one.split()[0] == "minimize" else "max", one.split()[1]) for one in said)

    @property
    def metric(self) -> str:
        """The first objective's metric, e.g. val_loss."""
        return self.objectives[0][1]

    @property
    def over_folds(self) -> bool:
        """Whether trials are compared by the mean over folds."""
        return self.metric.startswith(CV)

    @property
    def epoch_metric(self) -> str:
        """What an epoch measures of the first objective: val_loss, also where trials go by cv_val_loss."""
        return self.metric.removeprefix(CV)

    @property
    def mode(self) -> Literal["min", "max"]:
        return self.objectives[0][0]
