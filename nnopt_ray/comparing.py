"""Two runs or more side by side: what differs on their pages, and by how much their scores do, row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnopt_ray import assembly, reading, rundir
from nnopt_ray.errors import RunFolderError, UserError
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import derived_seed
from nnopt_ray.rundir import RunDir

if TYPE_CHECKING:
    import pandas as pd

    from nnopt_ray.evaluate.intervals import Gain
    from nnopt_ray.evaluate.metrics import Metric

TINY = np.finfo(np.float32).tiny  # of a probability that was written as 0


@dataclass(frozen=True)
class Side:
    """One of the runs: its folder, its result.json, its page."""

    run: RunDir
    result: Mapping[str, Any]
    experiment: Experiment


@dataclass(frozen=True)
class Comparison:
    """What is known of runs beside the first of them.

    page: dotted path → its value in each run, where not all agree, as on a page; "-" where it is not there.
    scores: metric → its value on the test part in each run, None where it was not measured.
    gains: for each run but the first, metric → how much better it is than the first on the same test rows, positive
        is better, with the interval of the difference; empty where the test rows differ, and `why_not` says so.
    """

    sides: tuple[Side, ...]
    page: Mapping[str, tuple[str, ...]]
    scores: Mapping[str, tuple[float | None, ...]]
    gains: tuple[Mapping[str, Gain], ...]
    why_not: tuple[str, ...]
    rows: int
    confidence: float
    modes: Mapping[str, str] = field(default_factory=dict)

    @property
    def table(self) -> pd.DataFrame:
        """A row a metric and run: metric, run (its folder), value, and gain, low and high beside the first run, NaN
        where there is none."""
        import pandas as pd

        lines = []
        for metric, values in self.scores.items():
            for side, value, gains in zip(self.sides, values, ({}, *self.gains), strict=True):
                gain = gains.get(metric)
                told = (None,) * 3 if gain is None else (gain.value, gain.low, gain.high)
                lines.append((metric, side.run.place, value, *told))
        columns = ["metric", "run", "value", "gain", "low", "high"]
        return pd.DataFrame(lines, columns=columns).astype(dict.fromkeys(columns[2:], "float64"))


def letters(found: Comparison) -> list[str]:
    """A, B, C, ...: a short name for each run."""
    return [chr(ord("A") + number) if number < 26 else f"R{number}" for number in range(len(found.sides))]


def compare(folders: list[Path]) -> Comparison:
    """Compare finished runs with the first of them.

    The difference of two scores is taken on rows that both predicted, drawn again together (paired bootstrap), so that
    what makes a row hard for both cancels; it measures the chance in which rows were tested, not that in training.

    Raises UserError for fewer than two runs and for runs of different tasks, RunFolderError for one not finished.
    """
    if len(folders) < 2:
        raise UserError("compare needs at least two runs: nnopt compare RUN RUN ...")
    sides = tuple(_side(folder) for folder in folders)
    tables = [_predictions(side.run) for side in sides]
    tasks = {_task(table) for table in tables}
    if len(tasks) > 1:
        raise UserError(f"the runs predict different things ({' and '.join(sorted(tasks))}): they cannot be compared.")
    first = sides[0]
    known = assembly.decision_of(first.run).positive
    positive = 1 if known is None else known
    gains: list[Mapping[str, Gain]] = []
    why_not: list[str] = []
    for table in tables[1:]:
        reason = _unlike(tables[0], table)
        why_not.append(reason)
        gains.append({} if reason else _gains(first.experiment, tables[0], table, positive))
    names = dict.fromkeys(name for side in sides for name in side.result["test"])
    return Comparison(
        sides=sides,
        page=reading.differences([side.experiment for side in sides]),
        scores={name: tuple(side.result["test"].get(name) for side in sides) for name in names},
        gains=tuple(gains),
        why_not=tuple(why_not),
        rows=len(tables[0]),
        confidence=first.experiment.evaluate.confidence,
        modes={name: metric.mode for name, metric in _metrics(tables[0]).items()},
    )


def _side(folder: Path) -> Side:
    run = RunDir.open(folder)
    if not run.result.is_file():
        raise RunFolderError(f"{run.place} is not finished: no result.json yet. `nnopt resume {run.place}` goes on.")
    return Side(run, rundir.read_json(run.result), reading.load(run.resolved))


def _predictions(run: RunDir) -> pd.DataFrame:
    """The test rows of predictions.parquet, by source row."""
    import pandas as pd

    if not run.predictions.is_file():
        raise RunFolderError(f"{run.predictions} is missing, so nothing can be compared row by row.")
    table = pd.read_parquet(run.predictions)
    return table[table["part"] == "test"].set_index("source_row").sort_index()


def _task(table: pd.DataFrame) -> str:
    if "log_loss" in table:
        return "tokens"
    return "numbers" if table["predicted" if "predicted" in table else "predicted_0"].dtype.kind == "f" else "classes"


def _unlike(one: pd.DataFrame, other: pd.DataFrame) -> str:
    """Why two runs cannot be compared row by row, as half a sentence; empty when they can."""
    if _task(one) == "tokens":
        return "texts are scored by their tokens, which other runs may cut differently"
    if not one.index.equals(other.index):
        shared = len(one.index.intersection(other.index))
        return (
            f"their test parts differ ({len(one):,} and {len(other):,} rows, {shared:,} in both). Give both pages the "
            "same data.split, its seed included"
        )
    if _classes(one) != _classes(other):
        return "their classes differ"
    if not all(_same(one[name], other[name]) for name in one if str(name).startswith("true")):
        return "the same rows have other targets: the data differ"
    return ""


def _same(one: pd.Series[Any], other: pd.Series[Any]) -> bool:
    # Numbers come from float32 of another scaling in each run.
    return bool(np.allclose(one, other, rtol=1e-5, atol=1e-12) if one.dtype.kind == "f" else (one == other).all())


def _classes(table: pd.DataFrame) -> list[str]:
    return [str(name).removeprefix("p_") for name in table if str(name).startswith("p_")]


def _metrics(table: pd.DataFrame) -> dict[str, Metric]:
    from nnopt_ray.evaluate.metrics import for_task, metric_for

    task = {"classes": "classification", "numbers": "regression"}.get(_task(table))
    return {name: metric_for(name) for name in for_task(task)} if task else {}


def _said(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(outputs, target) as metrics take them; of classes the logarithms of the probabilities are logits."""
    classes = _classes(table)
    if classes:
        shares = table[[f"p_{name}" for name in classes]].to_numpy(dtype=np.float64)
        number = {name: index for index, name in enumerate(classes)}
        return np.log(np.maximum(shares, TINY)), np.array([number[name] for name in table["true"]])
    predicted = [name for name in table if str(name).startswith("predicted")]
    true = [name for name in table if str(name).startswith("true")]
    return table[predicted].to_numpy(dtype=np.float64), table[true].to_numpy(dtype=np.float64)


def _decided(table: pd.DataFrame) -> np.ndarray | None:
    """float64 [rows, classes]: 1 for the predicted class, which a threshold may have decided; None for no classes."""
    classes = _classes(table)
    number = {name: index for index, name in enumerate(classes)}
    return np.eye(len(classes))[[number[name] for name in table["predicted"]]] if classes else None


def _gains(experiment: Experiment, one: pd.DataFrame, other: pd.DataFrame, positive: int) -> dict[str, Gain]:
    """Metric → how much better `other` is than `one`. positive: of two classes the one that is looked for."""
    from nnopt_ray.evaluate import intervals
    from nnopt_ray.evaluate.metrics import Given

    metrics = {name: metric.given(Given(positive)) for name, metric in _metrics(one).items()}
    seed, resamples = derived_seed(experiment.seed, "compare"), experiment.evaluate.bootstrap or 1000
    values, drawn = [], []
    for table in (one, other):
        outputs, target = _said(table)
        certain = _decided(table)
        values.append(
            {
                name: metric(outputs if certain is None or not metric.of_decisions else certain, target)
                for name, metric in metrics.items()
            }
        )
        drawn.append(intervals.resample(metrics, outputs, target, resamples=resamples, seed=seed, decided=certain))
    return {
        name: intervals.gain(
            metric.mode,
            values[1][name],
            values[0][name],
            drawn[1][name].values,
            drawn[0][name].values,
            experiment.evaluate.confidence,
        )
        for name, metric in metrics.items()
    }


__all__ = ["Comparison", "Side", "compare", "letters"]
