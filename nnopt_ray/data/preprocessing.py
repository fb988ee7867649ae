"""preprocessing.json: from the columns of a source to the inputs of the network, for rows old and new."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from nnopt_ray import rundir, tables
from nnopt_ray.data.columns import Reading, features, useless
from nnopt_ray.data.frame import Feature, Frame, Layout, LazyFeatures, Text, assemble, assemble_by_rows, light
from nnopt_ray.data.scaled_images import Array, whole
from nnopt_ray.data.series import newest
from nnopt_ray.data.spooled import Changed, Pieces, Spooled
from nnopt_ray.data.steps import Step
from nnopt_ray.data.table import Sequences, Table, quoted, tidy
from nnopt_ray.data.target import Target
from nnopt_ray.data.types import Input, PreprocessingState
from nnopt_ray.errors import DataError, PartError, RunFolderError
from nnopt_ray.experiment import Window
from nnopt_ray.tables import Part

FORMAT = "nnopt-preprocessing"
VERSION = 3
FILE = "preprocessing.json"


@dataclass(frozen=True)
class Preprocessing:
    """All that is needed to turn rows of the source into inputs.

    readings: the columns read, in order. left_out: columns and features not learned from → reason.
    steps: each with what it learned from the training rows. layouts: the inputs that come out.
    image_shape: [channels, height, width] of a row, None when there are no images.
    channels: of the sequences, None when there are none.
    targets: names under which the target may stand in a table; new rows need none.
    window: of a forecast, how rows become windows; the layout is that of a window then.
    """

    readings: tuple[Reading, ...]
    left_out: Mapping[str, str]
    image_shape: tuple[int, ...] | None
    targets: tuple[str, ...]
    steps: tuple[tuple[Part, PreprocessingState], ...]
    layouts: tuple[Layout, ...]
    channels: tuple[str, ...] | None = None
    window: Window | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "columns": [reading.to_json() for reading in self.readings],
            "left_out": dict(self.left_out),
            "image_shape": self.image_shape and list(self.image_shape),
            "channels": self.channels and list(self.channels),
            "targets": list(self.targets),
            "window": self.window and self.window.model_dump(),
            "steps": [{"type": part.type, "keys": dict(part.keys), "learned": state} for part, state in self.steps],
            "inputs": [
                {
                    "kind": layout.input.kind,
                    "shape": list(layout.input.shape),
                    "cardinalities": list(layout.input.cardinalities),
                    "padding": layout.input.padding,
                    "names": list(layout.names),
                }
                for layout in self.layouts
            ],
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Preprocessing:
        if said.get("format") != FORMAT or said.get("version") != VERSION:
            raise RunFolderError(
                f"this {FILE} is of the format {said.get('format')} {said.get('version')}; "
                f"{FORMAT} {VERSION} is read here. Use the version of nnopt that wrote it."
            )
        return cls(
            readings=tuple(Reading(**column) for column in said["columns"]),
            left_out=said["left_out"],
            image_shape=None if said["image_shape"] is None else tuple(said["image_shape"]),
            targets=tuple(said["targets"]),
            steps=tuple((Part(step["type"], _keys(step["keys"])), step["learned"]) for step in said["steps"]),
            layouts=tuple(
                Layout(
                    Input(entry["kind"], tuple(entry["shape"]), tuple(entry["cardinalities"]), entry["padding"]),
                    tuple(entry["names"]),
                )
                for entry in said["inputs"]
            ),
            channels=None if said["channels"] is None else tuple(said["channels"]),
            window=said["window"] and Window(**{**said["window"], "by": tuple(said["window"]["by"])}),
        )

    def inputs(self, table: Table) -> tuple[np.ndarray, ...]:
        """Inputs of any rows, one array per layout. Raises DataError when the table is not like the source."""
        table = tidy(table)
        self.check(table)
        return self.arrays(self.frame(table), table)

    def frame(self, table: Table, before: Callable[[Part, PreprocessingState, Frame], None] | None = None) -> Frame:
        """What the steps make of rows; `table` is tidy. before: is shown what each step is about to change.

        Raises DataError when a column is not of the kind it is read as.
        """
        table = replace(table, sequences=self._as_long(table))
        frame = _frame(table, features(table, self.readings), self.readings, self.left_out)
        for part, state in self.steps:
            if before is not None:
                before(part, state, frame)
            step = tables.build("step", part)
            frame = step.transform(_as_taken(frame, step), state).images_by_rows()
        return frame

    def arrays(self, frame: Frame, table: Table) -> tuple[np.ndarray, ...]:
        """The inputs from what the steps made. Raises DataError for values that are missing, or beyond float32."""
        layouts, arrays = assemble(frame)
        if self.window is not None:
            assert layouts[0].names == self.layouts[0].names, "the same steps gave other channels"
            return (newest(self.window, table, arrays[0]),)
        assert layouts == self.layouts, "the same steps gave other inputs"
        return arrays

    def check(self, table: Table) -> None:
        """Raises DataError where columns are missing or further, and where images or sequences are others."""
        needed = [reading.name for reading in self.readings]
        if self.window is not None:
            needed += [name for name in (*self.window.by, self.window.order) if name not in needed]
        missing = [name for name in needed if name not in table.names]
        known = {*needed, *self.left_out, *self.targets}
        extra = [name for name in table.names if name not in known]
        said = []
        if missing:
            said.append(f"lacks the column{'s' * (len(missing) > 1)} {quoted(missing)}")
        if extra:
            said.append(f"has the column{'s' * (len(extra) > 1)} {quoted(extra)}, which the model was not trained with")
        shape = None if table.images is None else tuple(table.images.shape[1:])
        if shape != self.image_shape:
            said.append(
                f"has images of shape {shape} where {self.image_shape} was trained" if shape else "has no images"
            )
        channels = None if table.sequences is None else table.sequences.channels
        if channels != self.channels:
            told = f"sequences of {quoted(list(channels))}" if channels else "no sequences"
            trained = quoted(list(self.channels)) if self.channels else "none"
            said.append(f"has {told} where {trained} was trained")
        if said:
            raise DataError(f"{table.origin} {', and '.join(said)}. New rows need the columns of the training data.")

    def _as_long(self, table: Table) -> Sequences | None:
        """The sequences with as many steps as those that were trained with have."""
        found = table.sequences
        if found is None:
            return None
        kinds = [layout.input.kind for layout in self.layouts]
        wanted = self.layouts[kinds.index("sequence")].input.shape[0]
        differ, longest = "lengths" in kinds, int(found.lengths.max())
        if longest > wanted or (not differ and (found.lengths < wanted).any()):
            most = "at most " if differ else ""
            wrong = longest if longest > wanted else int(found.lengths.min())
            raise DataError(
                f"{table.origin} has a sequence of {wrong:,} steps; the model was trained with {most}{wanted:,}. "
                "Cut or leave out such sequences."
            )
        values = np.zeros((table.rows, wanted, len(found.channels)), dtype=found.values.dtype)
        inside = min(wanted, found.values.shape[1])
        values[:, :inside] = found.values[:, :inside]
        return replace(found, values=values, differ=differ)


def _keys(said: Mapping[str, Any]) -> MappingProxyType[str, Any]:
    return MappingProxyType({key: tuple(value) if isinstance(value, list) else value for key, value in said.items()})


def _frame(
    table: Table, made: Mapping[str, Feature], readings: tuple[Reading, ...], left_out: Mapping[str, str]
) -> Frame:
    doubts = {reading.name: reading.doubt for reading in readings if reading.doubt}
    kept = made.without(left_out) if isinstance(made, Spooled) else {n: made[n] for n in made if n not in left_out}
    return Frame(kept, table.images, left_out, doubts, table.sequences).images_by_rows()


def _as_taken(frame: Frame, step: Step) -> Frame:
    """The frame with its images as the step takes them. A subclass of ours may look at `frame.image`."""
    return frame if vars(type(step)).get("images_by_rows") else frame.images_as_array()


@dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit` learned, and what it made of all rows.

    frame: after the last step. arrays: one per layout, images of which rows are made when they are taken; none where
    they are too many to hold and come in `pieces`. remarks: on columns that were kept (name → remark). notes:
    sentences for the user.
    """

    preprocessing: Preprocessing
    frame: Frame
    arrays: tuple[Array, ...]
    remarks: Mapping[str, str]
    notes: tuple[str, ...]
    pieces: Pieces | None = None

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """The arrays with all rows of each. Raises DataError for images that float32 cannot hold."""
        return whole(self.arrays)


def fit(
    table: Table,
    readings: tuple[Reading, ...],
    left_out: Mapping[str, str],
    targets: tuple[str, ...],
    steps: tuple[Part, ...],
    parts: Mapping[str, np.ndarray],
    folder: Path | None = None,
    target: Target | None = None,
    seed: int = 0,
) -> Fitted:
    """Fit the steps in their order on the training rows. parts: train, validation, test → rows of the table.

    folder: where features may lie as long as what comes back is in use, when they are too many to hold; all steps are
    `by_column` then, and none `needs_target`. target: of all rows, None where a row has no single one; a step is told
    that of the training rows alone. seed: of what steps draw.
    """
    train = parts["train"]
    made: Mapping[str, Feature] = features(table, readings) if folder is None else Spooled(table, readings, folder)
    useless_ones, remarks = useless(made, train, table.rows, named_by(steps, made))
    left_out = {**left_out, **useless_ones}
    origins = {feature.origin for name, feature in light(made).items() if name not in left_out}
    for reading in readings:
        if reading.name not in origins and reading.name not in left_out:  # all that a date was made into is constant
            left_out[reading.name] = "it has one and the same value in all training rows"
    frame = _frame(table, made, readings, left_out)
    fitted: list[tuple[Part, PreprocessingState]] = []
    notes: list[str] = []
    for part in steps:
        step = tables.build("step", part)
        frame = _as_taken(frame, step)
        if step.needs_target:
            frame, state = _to_target(step, part, frame, train, target, seed)
        else:
            state = _survives_json(step.fit(frame, train), part)
            if isinstance(frame.features, LazyFeatures):
                frame = frame.with_features(Changed(frame.features, step, state))
            else:
                frame = step.transform(frame, state)
        fitted.append((part, state))
        notes += step.notes(frame, state, parts)
        frame = frame.images_by_rows()
    layouts, arrays = assemble_by_rows(frame.with_features(frame.light))  # without rows where they are too many
    image_shape = None if table.images is None else tuple(int(size) for size in table.images.shape[1:])
    kept_readings = tuple(reading for reading in readings if reading.name in origins)
    channels = None if table.sequences is None else table.sequences.channels
    done = Preprocessing(kept_readings, left_out, image_shape, targets, tuple(fitted), layouts, channels)
    for array in arrays if folder is None else ():
        if len(array) != table.rows:
            raise PartError(
                f"data.steps made {len(array)} rows out of {table.rows}: a step must keep the number of rows."
            )
    doubts = {reading.name: reading.doubt for reading in kept_readings if reading.doubt}
    remarks = {**doubts, **remarks}
    if folder is not None:
        return Fitted(done, frame, (), remarks, tuple(notes), Pieces(frame, table.rows))
    return Fitted(done, frame, arrays, remarks, tuple(notes))


def _to_target(
    step: Step, part: Part, frame: Frame, train: np.ndarray, target: Target | None, seed: int
) -> tuple[Frame, PreprocessingState]:
    """The frame after a step that learns from the target, and what it learned."""
    if target is None:
        raise DataError(
            f"data.steps: {part.type} as the page asks for it learns from the target, a class or a number for each "
            "row, which windows and language tasks do not have. Use another method, such as one_hot."
        )
    known = target.take(train)
    state = _survives_json(step.fit_to_target(frame, train, known), part)
    return step.transform_training(frame, train, known, state, seed), state


def named_by(steps: tuple[Part, ...], made: Mapping[str, Feature]) -> frozenset[str]:
    """The features that steps name, which stay whatever they look like."""
    named = frozenset(name for part in steps for name in part.keys.get("columns") or ())
    if any(read_as_text(part) == () for part in steps):  # any text may be meant
        named |= {name for name, feature in light(made).items() if isinstance(feature, Text)}
    return named


def read_as_text(part: Part) -> tuple[str, ...] | None:
    """The columns that a step reads as text; none named when it finds them itself, None when it reads no text."""
    return tuple(part.keys.get("columns") or ()) if tables.find("step", part.type).reads_text else None


def _survives_json(state: PreprocessingState, part: Part) -> PreprocessingState:
    try:
        restored: PreprocessingState = json.loads(json.dumps(state, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise PartError(f"data.steps: fit of '{part.type}' gave what JSON cannot hold: {error}.") from error
    return restored


def apply(folder: Path, table: Table) -> tuple[np.ndarray, ...]:
    """The inputs of new rows, by the preprocessing that lies in `folder`; one array per input of Shapes.

    Of a forecast the rows are time points, and the one array holds a window for each series, in sorted order: its last
    `length` points, float32 [series, length, channels]; what follows them can be foretold.

    Raises DataError naming missing, further and mistyped columns, RunFolderError when there is no preprocessing.
    """
    return Preprocessing.from_json(rundir.read_json(folder / FILE)).inputs(table)


__all__ = ["FILE", "Preprocessing", "apply", "fit"]
