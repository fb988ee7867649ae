"""What a diagnosis needs to know of the winner and its data that training does not record; measured once, at the end.

It takes a look at some training rows, at the predictions that the evaluation made anyway, and at the rows of the parts
side by side. No score comes from it, and nothing is chosen by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from nnopt_ray import tables
from nnopt_ray.data.types import IGNORED, Dataset, Rows
from nnopt_ray.evaluate import same_rows
from nnopt_ray.evaluate.evaluate import Evaluation, page_loss, predict, targets
from nnopt_ray.evaluate.metrics import softmax
from nnopt_ray.evaluate.probe import Inside, batches_of, evenly, look_inside, moved
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import Machine, derived_seed, seed_torch
from nnopt_ray.train.losses import Loss

TRAINING_ROWS = 256, 1024  # at least and at most; between them as many as the validation part has
QUARTER = 0.25  # of the rows that the winner did not learn from: those it is surest about
NAMED = 5  # rows that a diagnosis names
# Skill from which on a score is too good to be believed unseen. The check `leaks`, which one asks for, has 0.97: of
# measured things a single one may tell so much (a wave with noise of a tenth of it: R² 0.978).
TOLD_BY_ONE = 0.99
COLUMNS = 20  # columns that are tried alone: those that vary most with the target
LEAF = 3  # rows of a leaf of the tree on one column, as in the check `leaks`


@dataclass(frozen=True)
class Fitted:
    """How well some rows are predicted. loss: the page's; score: accuracy, R², or of a language task token accuracy.

    skill: 0 for always saying the most frequent class, the mean, or the tokens' frequencies; 1 for everything right.
    """

    rows: int
    loss: float
    score: float
    skill: float


@dataclass(frozen=True)
class Surest:
    """Of the validation and test rows, which the winner did not learn from, the quarter that it is surest about.

    errors: how many of these `rows` have another class than the winner says; of_all: share of errors among all.
    probability: the mean one of the class that the winner says, over all.
    first: of the surest errors, (number in the source, class in the data, class that the winner says).
    """

    rows: int
    errors: int
    of_all: float
    probability: float
    first: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True)
class Measured:
    """guess_loss: the page's loss where every row is told the same; first_loss: that of the network before training.

    moved: how far training took the weights, as a share of their first norm; NaN where they did not start by chance.
    fits: winner_train, winner_validation, winner_test, baseline_train. telling: a column that alone tells the target,
    and its skill. spread: of the columns, the smallest and largest root mean square with their names.
    """

    guess_loss: float
    first_loss: float
    moved: float
    fits: Mapping[str, Fitted]
    inside: Inside | None = None
    copies: same_rows.Copies | None = None
    surest: Surest | None = None
    telling: tuple[str, float] | None = None
    spread: tuple[tuple[str, float], tuple[str, float]] | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    experiment: Experiment,
    dataset: Dataset,
    machine: Machine,
    winner: nn.Module,
    baseline: nn.Module,
    fresh: nn.Module,
    evaluation: Evaluation,
) -> Measured:
    """Measure the winner of a closed page. `fresh`: its network with the weights that training began with.

    A network of the user's own that cannot be looked into leaves a note, and the rest is measured all the same. So does
    a loss of the user's own that cannot be asked about other rows than training's; then nothing is measured.
    """
    try:
        return _measure(experiment, dataset, machine, winner, baseline, fresh, evaluation)
    except Exception as error:  # a loss or a network of the user's own, asked in ways that training does not
        said = f"The winner could not be measured: {type(error).__name__}: {error}"
        return Measured(math.nan, math.nan, math.nan, {}, notes=(" ".join(said.split()),))


def _measure(
    experiment: Experiment,
    dataset: Dataset,
    machine: Machine,
    winner: nn.Module,
    baseline: nn.Module,
    fresh: nn.Module,
    evaluation: Evaluation,
) -> Measured:
    loss = loss_of(experiment, dataset)
    sample = _sample(dataset)
    guess = guess_loss(loss, dataset)
    predicted = {f"winner_{part}": (each.outputs, each.target) for part, each in evaluation.predictions.items()}
    predicted["winner_train"] = predict(winner, sample, dataset, machine), targets(sample, dataset)
    predicted["baseline_train"] = predict(baseline, sample, dataset, machine), targets(sample, dataset)
    value = page_loss(experiment, dataset)
    fits = {name: fitted(*each, value(*each), guess, dataset) for name, each in predicted.items()}
    inside, first, notes = _inside(winner, fresh, loss, dataset, machine, experiment)
    return Measured(
        guess_loss=guess,
        first_loss=first,
        moved=moved(winner, fresh) if by_chance(experiment, winner) else math.nan,
        fits=fits,
        inside=inside,
        copies=same_rows.copies(dataset),
        surest=surest(evaluation, dataset),
        telling=telling(dataset) if fits["winner_test"].skill >= TOLD_BY_ONE else None,
        spread=spread(dataset, sample),
        notes=notes,
    )


def loss_of(experiment: Experiment, dataset: Dataset) -> Loss:
    """The page's loss, as training builds it."""
    shapes = dataset.shapes
    counts = np.bincount(dataset.train.target, minlength=shapes.outputs) if shapes.task == "classification" else None
    loss: Loss = tables.build("loss", experiment.train.loss, shapes, counts)
    return loss


def by_chance(experiment: Experiment, winner: nn.Module) -> bool:
    """Whether all weights began as the seed says, so that the way from there says how far training went."""
    train = experiment.train
    public = getattr(winner, "public_weights", None) or experiment.model.keys.get("pretrained")
    return train.start is None and train.freeze is None and not public and not hasattr(winner, "fit_directly")


def _sample(dataset: Dataset) -> Rows:
    """Some training rows, evenly spread."""
    least, most = TRAINING_ROWS
    chosen = evenly(len(dataset.train), max(least, min(most, len(dataset.validation))))
    rows = dataset.train
    inputs = tuple(np.asarray(array)[chosen] for array in rows.inputs)
    return Rows(inputs, np.asarray(rows.target)[chosen], np.asarray(rows.source_rows)[chosen])


def guess_loss(loss: Loss, dataset: Dataset) -> float:
    """The page's loss where every training row is told the same: the shares of the classes or tokens, or 0.

    0 is the mean of a target in training units. Of tokens it is their entropy.
    """
    target = np.asarray(dataset.train.target)[evenly(len(dataset.train), 4096)]
    shapes = dataset.shapes
    if shapes.task == "regression":
        mean = dataset.train.target.mean(axis=0, dtype=np.float64).astype(np.float32)
        return float(loss(torch.from_numpy(np.broadcast_to(mean, target.shape).copy()), torch.from_numpy(target)))
    said = target[target != IGNORED] if shapes.is_language else target
    shares = np.bincount(said, minlength=shapes.outputs) / max(1, len(said))
    logs = np.log(np.maximum(shares, 1e-9)).astype(np.float32)
    if shapes.is_language:
        return float(-(shares * logs).sum())
    given = torch.from_numpy(target)
    alike = (np.tile(row, (len(target), 1)) for row in (logs, np.zeros_like(logs)))  # class weights call for the second
    return min(float(loss(torch.from_numpy(rows), given)) for rows in alike)


def fitted(outputs: np.ndarray, target: np.ndarray, loss: float, guess: float, dataset: Dataset) -> Fitted:
    """outputs and target as `evaluate.predict` and `evaluate.targets` give them."""
    shapes = dataset.shapes
    if shapes.is_language:
        asked = target != IGNORED
        right = ((outputs[..., 2] == target) & asked).sum() / max(1, asked.sum())
        return Fitted(len(target), loss, float(right), 1 - loss / guess if guess > 0 else math.nan)
    if shapes.task == "classification":
        right = float((outputs.argmax(axis=1) == target).mean())
        most = np.bincount(dataset.train.target, minlength=shapes.outputs).argmax()
        guessed = float((target == most).mean())
        return Fitted(len(target), loss, right, (right - guessed) / (1 - guessed) if guessed < 1 else math.nan)
    spread = np.square(target - target.mean(axis=0)).sum(axis=0)
    missed = np.square(target - outputs).sum(axis=0)
    known = spread > 0
    score = float(np.mean(1 - missed[known] / spread[known])) if known.any() else math.nan
    return Fitted(len(target), loss, score, score)


def _inside(
    winner: nn.Module, fresh: nn.Module, loss: Loss, dataset: Dataset, machine: Machine, experiment: Experiment
) -> tuple[Inside | None, float, tuple[str, ...]]:
    """What the layers do, the loss before training, and a sentence where the network cannot be looked into."""
    first = math.nan
    try:
        batches = batches_of(dataset, dataset.train, machine.device, experiment.train.batch_size)
        inputs, target = batches[0]
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            seed_torch(derived_seed(experiment.seed, "first-loss"))
            # Batch norm knows no statistics yet, so it takes the batch's, as in the first step.
            first = float(loss(fresh.to(machine.device).train()(*inputs).float(), target))
        return look_inside(winner, loss, batches), first, ()
    except Exception as error:  # a network of the user's own, in a way that training does not call it
        said = f"The layers could not be measured: {type(error).__name__}: {error}"
        return None, first, (" ".join(said.split()),)


def surest(evaluation: Evaluation, dataset: Dataset) -> Surest | None:
    """None where the task has no classes or an output is no number."""
    if dataset.shapes.task != "classification":
        return None
    parts = list(evaluation.predictions.values())
    outputs = np.concatenate([each.outputs for each in parts])
    target = np.concatenate([each.target for each in parts])
    numbers = np.concatenate([each.source_rows for each in parts])
    if not len(target) or not np.isfinite(outputs).all():
        return None
    two = np.sort(outputs, axis=1)[:, -2:]
    order = np.argsort(two[:, 0] - two[:, 1], kind="stable")  # the largest lead first
    said = outputs.argmax(axis=1)
    top = order[: max(1, round(QUARTER * len(order)))]
    wrong = top[said[top] != target[top]]
    names = dataset.classes
    first = tuple((int(numbers[row]), names[target[row]], names[said[row]]) for row in wrong[:NAMED])
    probability = float(softmax(outputs).max(axis=1).mean())
    return Surest(len(top), len(wrong), float((said != target).mean()), probability, first)


def telling(dataset: Dataset) -> tuple[str, float] | None:
    """The column of the table that alone tells the target best on the validation part, and its skill there.

    A decision tree on what the column became is fitted to training rows. None without a table.
    """
    task = dataset.shapes.task
    if dataset.shapes.is_language or (task == "regression" and dataset.shapes.outputs > 1):
        return None
    learned, asked = _columns(dataset, dataset.train), _columns(dataset, dataset.validation)
    if not learned or not len(dataset.validation):
        return None
    rows, others = evenly(len(dataset.train), TRAINING_ROWS[1]), evenly(len(dataset.validation), TRAINING_ROWS[1])
    target = np.asarray(dataset.train.target)[rows].reshape(-1)
    given = np.asarray(dataset.validation.target)[others].reshape(-1)
    best: tuple[str, float] | None = None
    for name in _varying({name: values[rows] for name, values in learned.items()}, target, dataset):
        skill = _alone(learned[name][rows], target, asked[name][others], given, dataset)
        if best is None or skill > best[1]:
            best = name, skill
    return best


def _columns(dataset: Dataset, rows: Rows) -> dict[str, np.ndarray]:
    """Column of the source → float32 [rows, numbers that it became]."""
    known = [column.name for column in dataset.summary.columns if column.kind not in ("target", "dropped")]
    found: dict[str, list[np.ndarray]] = {}
    for given, array in zip(dataset.shapes.inputs, rows.inputs, strict=True):
        if given.kind == "table":
            for at, name in enumerate(dataset.feature_names[: given.shape[0]]):
                whole = name if name in known else name.rpartition("=")[0]
                found.setdefault(whole if whole in known else name, []).append(np.asarray(array[:, at], np.float32))
    return {name: np.stack(each, axis=1) for name, each in found.items()}


def _varying(columns: Mapping[str, np.ndarray], target: np.ndarray, dataset: Dataset) -> list[str]:
    """The columns whose numbers vary most with the target: by the share of variance between classes, or R²."""
    if len(columns) <= COLUMNS:
        return list(columns)

    def share(values: np.ndarray) -> float:
        centred = values - values.mean(axis=0)
        whole = np.square(centred).sum(axis=0)
        if dataset.shapes.task == "classification":
            groups = [centred[target == label] for label in np.unique(target)]
            told = sum(len(group) * np.square(group.mean(axis=0)) for group in groups)
        else:
            lean = target - target.mean()
            told = np.square(lean @ centred) / max(float(lean @ lean), 1e-30)
        return float(np.max(np.where(whole > 0, told / np.maximum(whole, 1e-30), 0.0)))

    return sorted(columns, key=lambda name: -share(columns[name]))[:COLUMNS]


def _alone(values: np.ndarray, target: np.ndarray, asked: np.ndarray, given: np.ndarray, dataset: Dataset) -> float:
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    if dataset.shapes.task == "classification":
        said = DecisionTreeClassifier(min_samples_leaf=LEAF, random_state=0).fit(values, target).predict(asked)
        guessed = float((given == np.bincount(target).argmax()).mean())
        return float(((said == given).mean() - guessed) / (1 - guessed)) if guessed < 1 else 0.0
    said = DecisionTreeRegressor(min_samples_leaf=LEAF, random_state=0).fit(values, target).predict(asked)
    whole = float(np.square(given - given.mean()).sum())
    return 1 - float(np.square(given - said).sum()) / whole if whole > 0 else 0.0


def spread(dataset: Dataset, rows: Rows) -> tuple[tuple[str, float], tuple[str, float]] | None:
    """Of what the network is given, the name and root mean square of the smallest and of the largest column.

    Images and sequences count as one. Columns that are 0 throughout are left out. None where there are only codes.
    """
    sizes: dict[str, float] = {}
    for given, array in zip(dataset.shapes.inputs, rows.inputs, strict=True):
        if given.kind in ("image", "sequence"):
            sizes[given.kind] = float(np.sqrt(np.square(array, dtype=np.float64).mean()))
        elif given.kind == "table":
            each = np.sqrt(np.square(array, dtype=np.float64).mean(axis=0))
            names = dataset.feature_names if len(dataset.feature_names) == len(each) else map(str, range(len(each)))
            sizes |= dict(zip(names, each.tolist(), strict=True))
    sizes = {name: size for name, size in sizes.items() if size > 0}
    if not sizes:
        return None
    ends: list[tuple[str, float]] = [pick(sizes.items(), key=lambda item: item[1]) for pick in (min, max)]
    return ends[0], ends[1]
