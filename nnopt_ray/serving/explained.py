"""Why the best network of a run says what it says: of its test rows, and of new ones, without training anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from nnopt_ray import tables
from nnopt_ray.errors import DataError, UserError
from nnopt_ray.experiment import Experiment
from nnopt_ray.rundir import RunDir
from nnopt_ray.serving.predictor import CHUNK, Predictor
from nnopt_ray.tables import Part

FIRST = 5  # new rows, where none are named
OF_KIND = {"table": "shap", "image": "grad_cam", "tokens": "integrated_gradients", "sequence": "shap"}


@dataclass(frozen=True)
class Explained:
    """found: as evaluation/explanations.json has it. notes: what was noticed about new rows. name: of the page."""

    found: dict[str, Any]
    notes: tuple[str, ...]
    name: str
    of_new_rows: bool

    def _repr_html_(self) -> str:
        """For a notebook's cell."""
        from html import escape

        return f'<iframe srcdoc="{escape(self.html())}" style="width: 100%; height: 40em; border: 0"></iframe>'

    def html(self) -> str:
        """A page of the report's look."""
        from datetime import datetime

        from nnopt_ray.report import write as report
        from nnopt_ray.report.explained import UNDER_TEST, section

        told = "These rows are new: nobody has said what is true of them." if self.of_new_rows else UNDER_TEST
        made = section(self.found, told)
        return report.page(
            {} if made is None else {"explained": made},
            name=self.name,
            title=f"{self.name} – explanations by nnopt",
            status="explained",
            standing="",
            beside=f"written {report.stamp(datetime.now().astimezone())}",
            files="evaluation/explanations.json in the run folder",
        )


def explained(
    run: RunDir, data: Sequence[str] = (), rows: Sequence[int] = (), methods: Sequence[str] = ()
) -> Explained:
    """Explain rows of new data, or of the test part where there is none.

    rows: numbers of rows, of the data from 0, of the test part as the source counts them; when left out the first ones
    of the data, and of the test part those that the report shows. methods: names of explainers; when left out those of
    the page, else the usual one.

    Raises UserError for what cannot be explained, DataError for data that is not like the training data.
    """
    from nnopt_ray.data.types import Rows
    from nnopt_ray.evaluate import examples
    from nnopt_ray.evaluate.evaluate import Predictions, targets
    from nnopt_ray.evaluate.explain import asked, explainers
    from nnopt_ray.evaluate.outputs import predict

    predictor = Predictor(run)
    trained = predictor.trained
    if trained.kind == "language":
        raise UserError(f"{run.root} says what comes next in a text, which no explainer takes apart.")
    experiment = _with_methods(trained.experiment, trained.dataset.shapes, methods)
    explainers(experiment, trained.dataset.shapes, trained.model, "--method" if methods else "evaluate.explain")
    dataset, written = trained.dataset, None
    notes: tuple[str, ...] = ()
    if data:
        inputs, numbers, notes, written = _new(predictor, data, rows)
        target = np.zeros(len(numbers), dtype=np.asarray(dataset.test.target).dtype)
        dataset = replace(dataset, test=Rows(inputs, target, numbers))
    outputs = predict(trained.model, dataset.test, dataset, trained.machine)
    numbers = np.asarray(dataset.test.source_rows)
    true = None if data else targets(dataset.test, dataset)
    shown = None
    if data or rows:
        shown = tuple(
            examples.described(place, "asked for", outputs, true, numbers, dataset.classes, trained.decision)
            for place in _places(numbers, rows if not data else numbers.tolist())
        )
    said = Predictions(numbers, dataset.test.target if true is None else true, outputs)
    found, _ = asked(
        experiment, dataset, trained.machine, trained.model, said, trained.decision, shown, written=written
    )
    return Explained(found, notes, experiment.name, bool(data))


def _with_methods(experiment: Experiment, shapes: Any, methods: Sequence[str]) -> Experiment:
    """The page with these explainers."""
    from nnopt_ray.evaluate.explainers import fitting
    from nnopt_ray.evaluate.features import kind_of

    parts = experiment.evaluate.explain
    if not methods and not parts:
        usual, fit = OF_KIND[kind_of(shapes)], fitting(shapes, experiment.model.type)
        methods = (usual if usual in fit else "shap",)
    if methods:
        on_page = {part.type: part for part in parts}
        keys = {name: tables.keys("explainer", name)().model_dump() for name in methods}
        parts = tuple(on_page.get(name, Part(name, MappingProxyType(keys[name]))) for name in methods)
    return experiment.model_copy(update={"evaluate": experiment.evaluate.model_copy(update={"explain": parts})})


def _places(numbers: np.ndarray, rows: Sequence[int]) -> list[int]:
    """Where these rows of the source stand in the test part. Raises UserError for one that is not of it."""
    place = {int(number): at for at, number in enumerate(numbers)}
    missing = [row for row in rows if row not in place]
    if missing:
        some = ", ".join(str(number) for number in sorted(place)[:8])
        raise UserError(
            f"--rows: row {missing[0]} of the source is not of the test part. Rows that are: {some}, ...; others can "
            "be explained as new data."
        )
    return [place[row] for row in rows]


def _new(
    predictor: Predictor, data: Sequence[str], rows: Sequence[int]
) -> tuple[tuple[np.ndarray, ...], np.ndarray, tuple[str, ...], Any]:
    """Inputs, numbers, notes and written values of the rows asked for."""
    from nnopt_ray.data.origins import of_table
    from nnopt_ray.serving import incoming
    from nnopt_ray.serving.noticed import Noticed

    trained = predictor.trained
    if trained.kind == "windows":
        raise UserError("forecasts of new series cannot be explained yet; those of the test part can: leave DATA out.")
    noticed = Noticed(trained, ())
    start, last = 0, max(rows, default=FIRST - 1)
    made: list[tuple[tuple[np.ndarray, ...], np.ndarray, Any]] = []
    for piece in incoming.pieces(data, trained, noticed, (), CHUNK):
        wanted = [row - start for row in (rows or range(FIRST)) if start <= row < start + piece.table.rows]
        if wanted:
            faults = {at: piece.faults[row] for at, row in enumerate(wanted) if row in piece.faults}
            inputs, empty, chosen = predictor.inputs(piece.table.take(np.array(wanted)), noticed, faults)
            if empty.any():
                at = int(np.flatnonzero(empty)[0])
                why = f": {faults[at]}" if at in faults else ", as its values are missing"
                raise DataError(f"row {wanted[at] + start} has no prediction{why}. Name other rows with --rows.")
            of = of_table(chosen, trained.preprocessing.readings) if trained.kind == "rows" else None
            made.append((inputs, np.array(wanted, dtype=np.int64) + start, of))
        start += piece.table.rows
        if start > last:
            break
    if rows and max(rows) >= start:
        raise UserError(f"--rows: the data has {start:,} rows, counted from 0, and no row {max(rows)}.")
    inputs = tuple(np.concatenate(of) for of in zip(*(each for each, _, _ in made), strict=True))
    numbers = np.concatenate([each for _, each, _ in made])
    first = made[0][2]
    if first is not None:
        first = replace(
            first,
            values={name: [value for _, _, of in made for value in of.values[name]] for name in first.values},
            orders={name: np.concatenate([of.orders[name] for _, _, of in made]) for name in first.orders},
        )
    return inputs, numbers, noticed.sentences(), first


__all__ = ["Explained", "explained"]
