"""The door of explanations: the page's explainers asked about the winner, evaluation/explanations.json written.

They come after the scores, and nothing is chosen by them. What one of them raises is a sentence in that file and in the
log; the run goes on.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from nnopt_ray import rundir, tables
from nnopt_ray.data.origins import AsRead, as_read, channels
from nnopt_ray.data.types import Dataset, Shapes
from nnopt_ray.errors import NnoptError, UserError
from nnopt_ray.evaluate import examples, metrics, pictures
from nnopt_ray.evaluate.decision import Decision
from nnopt_ray.evaluate.evaluate import Predictions, measures
from nnopt_ray.evaluate.examples import Example
from nnopt_ray.evaluate.explainers import Attributions, Explainer, Importance, Subject, fitting
from nnopt_ray.evaluate.features import kind_of
from nnopt_ray.experiment import Experiment
from nnopt_ray.machine import Machine

if TYPE_CHECKING:
    from torch import nn

NAME = "explanations"
SWARM, SWARM_ROWS = 12, 200  # columns and rows of the plot of values against attributions
TOP, SEEN = 10, 2  # words of a class that moved most, each in so many rows at least

# captum says by warnings what it does: that it hangs hooks on layers, asks for gradients of inputs.
QUIET = (
    "Setting forward, backward hooks",
    "Input Tensor .* did not already require gradients",
    "Setting backward hooks",
)


def explainers(
    experiment: Experiment, shapes: Shapes, model: nn.Module | None, place: str = "evaluate.explain"
) -> dict[str, Explainer]:
    """Those of the page, by their types. Raises UserError for one that does not fit the data or the network.

    model: None where it is not known yet, in a search. place: where they are asked for.
    """
    made: dict[str, Explainer] = {}
    for part in experiment.evaluate.explain:
        explainer: Explainer = tables.build("explainer", part)
        said = explainer.refusal(shapes, model)
        if said:
            others = fitting(shapes, experiment.model.type)
            cure = f" For this data and model there are: {', '.join(others)}." if others else ""
            raise UserError(f"{place}: {part.type} {said.rstrip('.')}.{cure}")
        made[part.type] = explainer
    return made


def explain(
    experiment: Experiment,
    dataset: Dataset,
    machine: Machine,
    model: nn.Module,
    predictions: Predictions,
    decision: Decision,
    run: rundir.RunDir,
    note: Callable[[str], None],
) -> None:
    """Ask the page's explainers about the winner's test rows, and write what they say."""
    if not experiment.evaluate.explain:
        return
    found, lines = asked(experiment, dataset, machine, model, predictions, decision)
    for method in found["methods"]:
        if method["error"]:
            note(f"No explanation by {method['name']}: {method['error']}")
    rundir.write_json(run.evaluated(NAME), found)
    if lines:
        write_lines(run, lines)


def asked(
    experiment: Experiment,
    dataset: Dataset,
    machine: Machine,
    model: nn.Module,
    predictions: Predictions,
    decision: Decision,
    shown: tuple[Example, ...] | None = None,
    written: AsRead | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What explanations.json holds, and of columns the lines of attributions.parquet.

    shown: the test rows that are explained by themselves; chosen here where they are None. written: the test rows as
    the user has them; read from the source again where it is None.
    """
    test = predictions
    if shown is None:
        seed, classes = experiment.seed, dataset.classes
        shown = examples.chosen(test.outputs, test.target, test.source_rows, classes, seed, decision=decision)
    name = metrics.bare(experiment.metric)
    subject = Subject(
        model.to(machine.device).eval(),
        dataset,
        machine,
        experiment.seed,
        test.outputs,
        shown,
        measures(experiment, dataset)[name],
        f"val_{name}",
        decision,
    )
    methods: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    values = written
    if subject.kind == "table" and values is None:
        values = _values(experiment, dataset, test.source_rows)
    for part in experiment.evaluate.explain:
        begun, method = time.monotonic(), {"name": part.type, "keys": dict(part.keys), "error": ""}
        try:
            explainer: Explainer = tables.build("explainer", part)
            said = explainer.refusal(dataset.shapes, model)
            if said:
                raise UserError(f"it {said}")
            with quiet():
                done = explainer.explain(subject)
            method |= _told(done, subject, values, lines, part.type)
        except Exception as error:  # captum and a user's explainer may raise anything: the run is done without
            plain = isinstance(error, NnoptError)
            method["error"] = f"{str(error).rstrip('.') if plain else f'{type(error).__name__}: {error}'}."
        methods.append(method | {"seconds": round(time.monotonic() - begun, 3)})
    found = {
        "kind": subject.kind,
        "task": dataset.shapes.task,
        "test_rows": len(dataset.test),
        "examples": _examples(subject, values),
        "methods": methods,
    }
    return found, lines


@contextmanager
def quiet() -> Iterator[None]:
    """Without what captum says by warnings."""
    with warnings.catch_warnings():
        for text in QUIET:
            warnings.filterwarnings("ignore", text, UserWarning)
        yield


def _values(experiment: Experiment, dataset: Dataset, source_rows: np.ndarray) -> AsRead | None:
    """The test rows as the source has them."""
    try:
        return as_read(experiment, dataset, source_rows)
    except UserError:  # it is no more where it was
        return None


def _examples(subject: Subject, values: AsRead | None) -> list[dict[str, Any]]:
    made = [example.to_json() for example in subject.examples]
    if subject.kind == "image":
        rows = [example.row for example in subject.examples]
        images = pictures.unscaled(np.array(subject.dataset.test.inputs[0][rows]), subject.dataset.folder)
        top = _white(subject)
        for one, image in zip(made, images, strict=True):
            one["image"] = pictures.picture(image, top)
    if subject.kind == "table" and values is not None:
        rows = [example.row for example in subject.examples]
        of_rows = {name: [of[row] for row in rows] for name, of in values.values.items()}
        for one, written in zip(made, examples.as_written(subject.examples, of_rows), strict=True):
            one["values"] = written
    return made


def _white(subject: Subject) -> float:
    some = subject.background(100)
    return pictures.white(pictures.unscaled(np.array(subject.dataset.train.inputs[0][some]), subject.dataset.folder))


def _told(
    done: Attributions | Importance,
    subject: Subject,
    values: AsRead | None,
    lines: list[dict[str, Any]],
    name: str,
) -> dict[str, Any]:
    """What a method found, as JSON. Raises UserError for numbers that are none."""
    if isinstance(done, Importance):
        columns = {
            "columns": list(done.columns),
            "importance": done.mean.tolist(),
            "deviation": done.deviation.tolist(),
        }
        return {"of": done.of, "told": done.told, "rows": 0, "metric": subject.measured, **columns}
    if not all(np.isfinite(each).all() for each in done.values):
        raise UserError("what it gives is not a number: the network overflows where features are taken away")
    ends = {}
    if done.base is not None and done.output is not None:
        ends = {"base": done.base.tolist(), "output": done.output.tolist()}
    said = {"of": done.of, "told": done.told, "rows": len(done.rows), "signed": done.signed, **ends}
    shown = len(subject.examples)
    if subject.kind == "image":
        return said | {"maps": _maps(done, subject)}
    if subject.kind == "tokens":
        return said | _texts(done, subject, shown)
    if subject.kind == "sequence":
        return said | _sequences(done, subject, shown)
    lines += _lines(done, subject, values, name)
    return said | _columns(done, values, shown)


def _maps(done: Attributions, subject: Subject) -> list[str]:
    rows = [example.row for example in subject.examples]
    images = pictures.unscaled(np.array(subject.dataset.test.inputs[0][rows]), subject.dataset.folder)
    top = _white(subject)
    pairs = zip(images, done.values, strict=False)
    return [pictures.overlaid(image, top, values, done.signed) for image, values in pairs]


def _columns(done: Attributions, values: AsRead | None, shown: int) -> dict[str, Any]:
    matrix = np.asarray(done.values)
    size = np.abs(matrix).mean(axis=0)
    swarm = []
    for column in np.argsort(-size, kind="stable")[:SWARM]:
        own = None if values is None else values.values.get(done.names[column])
        order = None if values is None else values.orders.get(done.names[column])
        rows = done.rows[:SWARM_ROWS]
        swarm.append(
            {
                "column": done.names[column],
                "attribution": [round(float(value), 7) for value in matrix[:SWARM_ROWS, column]],
                "height": [None] * len(rows) if order is None else heights(order[rows]),
                "value": [""] * len(rows) if own is None else [examples.written(own[row]) for row in rows],
            }
        )
    return {
        "columns": list(done.names),
        "importance": size.tolist(),
        "attributions": matrix[:shown].tolist(),
        "swarm": swarm,
    }


def heights(values: np.ndarray) -> list[float | None]:
    """Each value's rank from 0, the smallest, to 1; None for what is missing, and where all are alike."""
    known, places = np.unique(values[~np.isnan(values)], return_inverse=True)
    if len(known) < 2:
        return [None] * len(values)
    ranks = np.full(len(values), np.nan)
    ranks[~np.isnan(values)] = places / (len(known) - 1)
    return [None if np.isnan(rank) else round(float(rank), 4) for rank in ranks]


def _lines(done: Attributions, subject: Subject, values: AsRead | None, name: str) -> list[dict[str, Any]]:
    lines = []
    source = np.asarray(subject.dataset.test.source_rows)
    for row, of_row in zip(done.rows, np.asarray(done.values), strict=True):
        for column, value in zip(done.names, of_row, strict=True):
            own = values.values.get(column) if values is not None else None
            written = examples.written(own[row]) if own is not None else None
            lines.append(
                {
                    "method": name,
                    "source_row": int(source[row]),
                    "column": column,
                    "value": written,
                    "attribution": float(value),
                }
            )
    return lines


def _texts(done: Attributions, subject: Subject, shown: int) -> dict[str, Any]:
    words = [
        [[word, round(float(value), 7)] for word, value in zip(names, values, strict=True)]
        for names, values in zip(done.names, done.values, strict=True)
    ]
    return {"words": words[:shown], "top": top_words(words, [_asked(subject, row) for row in done.rows])}


def _asked(subject: Subject, row: int) -> str:
    return subject.dataset.classes[int(subject.asked[row])] if subject.dataset.classes else ""


def top_words(texts: Iterable[Iterable[Sequence[Any]]], classes: Sequence[str]) -> dict[str, list[list[Any]]]:
    """Class → [word, mean attribution, rows] of the words that spoke most for it where it was predicted; those that
    stand in SEEN texts at least. What is not a letter or a digit around a word is left off, and capitals are small."""
    sums: dict[str, dict[str, list[float]]] = {}
    for text, name in zip(texts, classes, strict=True):
        of_text: dict[str, float] = {}
        for word, value in text:
            bare = str(word).strip(".,;:!?()[]{}\"'`*_").lower()
            if bare:
                of_text[bare] = of_text.get(bare, 0.0) + float(value)
        for bare, value in of_text.items():
            sums.setdefault(name, {}).setdefault(bare, []).append(value)
    return {
        name: [
            [word, round(float(np.mean(of)), 7), len(of)]
            for word, of in sorted(words.items(), key=lambda item: (-float(np.mean(item[1])), item[0]))
            if len(of) >= SEEN and np.mean(of) > 0
        ][:TOP]
        for name, words in sorted(sums.items())
    }


def _sequences(done: Attributions, subject: Subject, shown: int) -> dict[str, Any]:
    """Each step's attribution and value, of the examples."""
    length = subject.shapes.inputs[0].shape[0]
    names = list(channels(subject.dataset.folder))
    rows = done.rows[:shown]
    inputs = [np.array(subject.dataset.test.inputs[0][row]) for row in rows]
    has_lengths = len(subject.shapes.inputs) > 1
    ends = [int(subject.dataset.test.inputs[1][row]) if has_lengths else length for row in rows]
    size = np.abs(np.stack([np.asarray(each) for each in done.values])).mean(axis=0)
    return {
        "channels": names,
        "steps": [np.round(np.asarray(of)[:end], 7).T.tolist() for of, end in zip(done.values, ends, strict=False)],
        "series": [np.round(of[:end], 5).T.tolist() for of, end in zip(inputs, ends, strict=True)],
        "columns": names,
        "importance": size.sum(axis=0).tolist(),
    }


def write_lines(run: rundir.RunDir, lines: list[dict[str, Any]]) -> None:
    """attributions.parquet: a line for each explained row and column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("method", pa.string()),
            ("source_row", pa.int64()),
            ("column", pa.string()),
            ("value", pa.string()),
            ("attribution", pa.float64()),
        ]
    )
    table = pa.Table.from_pylist(lines, schema=schema)
    rundir.write(run.attributions, lambda temporary: pq.write_table(table, temporary))


__all__ = ["asked", "explain", "explainers", "heights", "kind_of", "top_words"]
