"""Preprocessing as ONNX operators: an input for each column of the user's, whose values are as they stand in a file.

What a step does is written in `data.steps` and `data.encode`; here it is said in operators, from what was learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nnopt_ray.data.columns import BOOLEAN_WORDS, Reading
from nnopt_ray.data.preprocessing import Preprocessing
from nnopt_ray.data.steps import free_name
from nnopt_ray.data.table import IMAGE, SEQUENCE
from nnopt_ray.data.types import PreprocessingState
from nnopt_ray.errors import UserError
from nnopt_ray.serving import ranks
from nnopt_ray.serving.graph import Graph
from nnopt_ray.tables import Part

if TYPE_CHECKING:
    import onnx

ROWS = "rows"
SAID = {
    "number": ", NaN where missing",
    "date": ", days since 1970-01-01 (UTC), NaN where missing",
    "text": ', "" where missing, without spaces around',
    "array": "",
}


@dataclass(frozen=True)
class Number:
    """tensor: float64 [rows, 1], of windows [rows, length, 1]; NaN where missing."""

    tensor: str
    origin: str


@dataclass(frozen=True)
class Word:
    """tensor: string, "" where missing; fill: what stands for that from some step on."""

    tensor: str
    origin: str
    fill: str = ""


@dataclass(frozen=True)
class Index:
    """tensor: int64, each value in 0..cardinality-1."""

    tensor: str
    cardinality: int
    origin: str


Feature = Number | Word | Index


@dataclass(frozen=True, eq=False)
class Prepared:
    """graph: what makes the inputs of the network, in their order the tensors `made`, of `inputs`.

    columns: of each input, what it is: number, text, date or array. added: float64 [rows, 1] that what is foretold is
    counted from, where the network foretells changes.
    """

    graph: Graph
    inputs: tuple[onnx.ValueInfoProto, ...]
    made: tuple[str, ...]
    columns: Mapping[str, str]
    added: str = ""

    @property
    def described(self) -> dict[str, str]:
        """Input → its type and shape, and how what is missing is said."""
        from onnx import TensorProto, helper

        found = {}
        for given in self.inputs:
            tensor = given.type.tensor_type
            text = tensor.elem_type == TensorProto.STRING
            kind = "string" if text else helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
            shape = ", ".join(each.dim_param or str(each.dim_value) for each in tensor.shape.dim)
            found[given.name] = f"{kind} [{shape}]{SAID[self.columns[given.name]]}"
        return found


@dataclass(eq=False)
class _State:
    """While the steps are gone through. image and sequence: tensors, None where there are none."""

    graph: Graph
    features: dict[str, Feature] = field(default_factory=dict)
    image: str | None = None
    sequence: str | None = None


def prepared(done: Preprocessing, image_kind: Any, target: str = "") -> Prepared:
    """The preprocessing in operators. image_kind: numpy dtype of the images as the source gives them. target: the
    column of it in the source.

    Raises UserError naming the column or step that ONNX has no operators for.
    """
    from onnx import TensorProto, helper

    state = _State(Graph())
    inputs: list[onnx.ValueInfoProto] = []
    columns: dict[str, str] = {}
    lengths: str | None = None
    window = done.window
    shape: list[str | int | None] = [ROWS, 1] if window is None else [ROWS, window.length]
    if done.image_shape is not None:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(image_kind))
        whole: list[str | int | None] = [ROWS, *done.image_shape]
        inputs.append(helper.make_tensor_value_info(IMAGE, kind, whole))
        state.image, columns[IMAGE] = IMAGE, "array"
    if done.channels is not None:
        length = next(layout.input.shape[0] for layout in done.layouts if layout.input.kind == "sequence")
        wanted: list[str | int | None] = [ROWS, length, len(done.channels)]
        inputs.append(helper.make_tensor_value_info(SEQUENCE, TensorProto.DOUBLE, wanted))
        state.sequence, columns[SEQUENCE] = SEQUENCE, "array"
        if any(layout.input.kind == "lengths" for layout in done.layouts):
            lengths = "lengths"
            inputs.append(helper.make_tensor_value_info(lengths, TensorProto.INT64, [ROWS]))
            columns[lengths] = "array"
    for reading in done.readings:
        columns[reading.name] = _kind(reading)
        kind = TensorProto.STRING if columns[reading.name] == "text" else TensorProto.DOUBLE
        inputs.append(helper.make_tensor_value_info(reading.name, kind, shape))
        tensor = reading.name
        if window is not None:
            tensor = state.graph.op("Unsqueeze", tensor, state.graph.constant([-1], np.int64))
        state.features |= _features(state.graph, reading, tensor)
    state.features = {name: one for name, one in state.features.items() if name not in done.left_out}
    added = "" if window is None or window.foretell == "level" else _last(state, target)
    for part, learned in done.steps:
        if part.type not in STEPS:
            raise UserError(f"ONNX has no operators for the step {part.type} of data.steps.")
        STEPS[part.type](state, part, learned)
    if state.sequence is not None and lengths is not None:
        state.sequence = _cut(state.graph, state.sequence, lengths, done)
    return Prepared(state.graph, tuple(inputs), _made(state, done, lengths), columns, added)


def _kind(reading: Reading) -> str:
    """What a column is given as. Raises UserError for one that ONNX cannot read."""
    why = "is text that a tokenizer reads" if reading.kind == "text" else ""
    why = "holds times of day" if reading.note == "in seconds" else why
    if why:
        raise UserError(f"ONNX has no operators for the column '{reading.name}', which {why}.")
    if reading.kind == "date":
        return "date"
    return "text" if reading.kind == "categorical" or _boolean_words(reading) is not None else "number"


def _last(state: _State, target: str) -> str:
    """The last value of the target, which changes are counted from. Raises UserError where it is not learned from."""
    feature = state.features.get(target)
    if not isinstance(feature, Number):
        raise UserError(f"changes of '{target}' are foretold, and its past is not among the columns.")
    last = state.graph.constant(-1, np.int64)
    return state.graph.op("Gather", feature.tensor, last, axis=1)


def _boolean_words(reading: Reading) -> tuple[str, str] | None:
    """The words of a boolean that is written in words, false and true."""
    said = {f"{true} is 1, {false} is 0": (false, true) for false, true in BOOLEAN_WORDS}
    return said.get(reading.note) if reading.kind == "boolean" else None


def _features(graph: Graph, reading: Reading, tensor: str) -> dict[str, Feature]:
    """As `data.columns` makes them."""
    name = reading.name
    if reading.kind == "categorical":
        return {name: Word(tensor, name)}
    if reading.kind == "date":
        parts = _date(graph, tensor)
        if not reading.with_time:
            del parts["hour"]
        return {f"{name}.{part}": Number(made, name) for part, made in parts.items()}
    words = _boolean_words(reading)
    if words is None:
        return {name: Number(tensor, name)}
    spelt = {form: value for value, word in enumerate(words) for form in (word, word.title(), word.upper())}
    place = graph.looked_up(tensor, spelt, other=2)
    return {name: Number(graph.op("Gather", graph.constant([0.0, 1.0, np.nan]), place), name)}


def _date(graph: Graph, days: str) -> dict[str, str]:
    """The numbers of `data.dates.numbers_of`, from days since 1970-01-01.

    Year and month by Howard Hinnant's civil_from_days (chrono-Compatible Low-Level Date Algorithms): years begin in
    March, and eras of 400 of them have 146,097 days.
    """

    def by(kind: str, one: str, other: str | float) -> str:
        return graph.op(kind, one, other if isinstance(other, str) else graph.constant(float(other)))

    def divided(one: str, other: float) -> str:
        return graph.op("Floor", by("Div", one, other))

    whole = graph.op("Floor", days)
    since = by("Add", whole, 719_468)
    era = divided(since, 146_097)
    day = by("Sub", since, by("Mul", era, 146_097))
    leap = by("Sub", by("Sub", divided(day, 36_524), divided(day, 1_460)), divided(day, 146_096))
    year = divided(by("Add", day, leap), 365)
    before = by("Add", by("Mul", year, 365), by("Sub", divided(year, 4), divided(year, 100)))
    month = divided(by("Add", by("Mul", by("Sub", day, before), 5), 2), 153)  # 0 in March
    late = graph.op("GreaterOrEqual", month, graph.constant(10.0))
    monday = by("Add", whole, 3)  # 1970-01-01 was a Thursday
    return {
        "days": days,
        "year": by("Add", by("Add", year, by("Mul", era, 400)), graph.cast(late, np.float64)),
        "month": graph.op("Where", late, by("Sub", month, 9), by("Add", month, 3)),
        "day_of_week": by("Sub", monday, by("Mul", divided(monday, 7), 7)),
        "hour": by("Mul", by("Sub", days, whole), 24),
    }


def _impute(state: _State, part: Part, learned: PreprocessingState) -> None:
    graph, before = state.graph, dict(state.features)
    for name, value in learned["fill"].items():
        feature = before.get(name)
        if isinstance(feature, Number):
            filled = graph.op("Where", graph.op("IsNaN", feature.tensor), graph.constant(float(value)), feature.tensor)
            state.features[name] = Number(filled, feature.origin)
        elif isinstance(feature, Word) and not feature.fill:
            state.features[name] = replace(feature, fill=str(value))
    for indicator, name in learned["indicators"].items():
        feature = before[name]
        if isinstance(feature, Number):
            missing = graph.op("IsNaN", feature.tensor)
        else:
            assert isinstance(feature, Word)
            found = {"": 1} if not feature.fill else {}
            missing = graph.looked_up(feature.tensor, found, other=0)
        state.features[indicator] = Number(graph.cast(missing, np.float64), feature.origin)
    if "sequence" in learned and state.sequence is not None:
        fill = graph.constant(learned["sequence"])
        state.sequence = graph.op("Where", graph.op("IsNaN", state.sequence), fill, state.sequence)


def _scale(state: _State, part: Part, learned: PreprocessingState) -> None:
    graph = state.graph
    for name, said in learned["columns"].items():
        feature = state.features[name]
        assert isinstance(feature, Number)
        if "quantiles" in said:
            made = ranks.transformed(graph, feature.tensor, said["quantiles"], said["output"])
        else:
            made = _scaled(graph, feature.tensor, graph.constant(said["center"]), graph.constant(said["scale"]))
        state.features[name] = Number(made, feature.origin)
    if "image" in learned and state.image is not None:
        by_channel = [np.array(learned["image"][key])[:, None, None] for key in ("center", "scale")]
        exact = graph.cast(state.image, np.float64)
        state.image = graph.cast(_scaled(graph, exact, *map(graph.constant, by_channel)), np.float32)
    if "sequence" in learned and state.sequence is not None:
        center, scale = (graph.constant(learned["sequence"][key]) for key in ("center", "scale"))
        state.sequence = _scaled(graph, state.sequence, center, scale)


def _scaled(graph: Graph, x: str, center: str, scale: str) -> str:
    return graph.op("Div", graph.op("Sub", x, center), scale)


def _encode(state: _State, part: Part, learned: PreprocessingState) -> None:
    made: dict[str, list[tuple[str, Feature]]] = {}
    for name, said in learned["columns"].items():
        feature = state.features[name]
        assert isinstance(feature, (Number, Word))
        made[name] = _encoded(state.graph, name, feature, said, str(learned["method"]))
    features: dict[str, Feature] = {}
    for name, feature in state.features.items():  # named as data.encode does
        if name in made:
            taken = (set(state.features) | set(features)) - {name}
            features |= {free_name(key, taken): value for key, value in made[name]}
        else:
            features[name] = feature
    state.features = features


def _positions(graph: Graph, feature: Number | Word, learned: Mapping[str, Any]) -> str:
    """int64: the place of each category among those learned, a missing one last; -1 where not met."""
    categories: list[str] = learned["categories"]
    of_missing = len(categories) if learned["missing"] else -1
    if isinstance(feature, Word):
        known = {word: number for number, word in enumerate(categories)}
        empty = known.get(feature.fill, -1) if feature.fill else of_missing
        return graph.looked_up(feature.tensor, {**known, "": empty})
    missing = graph.op("IsNaN", feature.tensor)
    place = graph.constant(-1, np.int64)
    if categories:
        equal = graph.cast(
            graph.op("Equal", feature.tensor, graph.constant([float(word) for word in categories])), np.int64
        )
        last = graph.constant([-1], np.int64)
        numbered = graph.op("Mul", equal, graph.constant(np.arange(1, len(categories) + 1), np.int64))
        place = graph.op("Sub", graph.op("ReduceSum", numbered, last, keepdims=1), graph.constant(1, np.int64))
    return graph.op("Where", missing, graph.constant(of_missing, np.int64), place)


def _encoded(
    graph: Graph, name: str, feature: Number | Word, learned: Mapping[str, Any], method: str
) -> list[tuple[str, Feature]]:
    positions = _positions(graph, feature, learned)
    size = len(learned["categories"]) + bool(learned["missing"])
    if method == "embedding":
        moved = graph.op("Add", positions, graph.constant(1, np.int64))
        return [(name, Index(moved, size + 1, feature.origin))]
    if method == "ordinal":
        return [(name, Number(graph.cast(positions, np.float64), feature.origin))]
    if method == "target":  # the last mean is for -1
        place = graph.op("Where", graph.op("Less", positions, graph.constant(0, np.int64)),
                         graph.constant(size, np.int64), positions)  # fmt: skip
        return [
            (f"{name}={label}" if label else name,
             Number(graph.op("Gather", graph.constant(means), place), feature.origin))
            for label, means in zip(learned["labels"], learned["means"], strict=True)
        ]  # fmt: skip
    labels = [*learned["categories"], "(missing)"] if learned["missing"] else learned["categories"]
    return [
        (
            f"{name}={label}",
            Number(
                graph.cast(graph.op("Equal", positions, graph.constant(number, np.int64)), np.float64), feature.origin
            ),
        )
        for number, label in enumerate(labels)
    ]


STEPS = {"impute": _impute, "scale": _scale, "encode": _encode}


def _cut(graph: Graph, sequence: str, lengths: str, done: Preprocessing) -> str:
    """With 0 behind the end of each."""
    length = next(layout.input.shape[0] for layout in done.layouts if layout.input.kind == "sequence")
    ends = graph.op("Unsqueeze", lengths, graph.constant([1, 2], np.int64))
    there = graph.op("Less", graph.constant(np.arange(length)[:, None], np.int64), ends)
    return graph.op("Where", there, sequence, graph.constant(0.0))


def _made(state: _State, done: Preprocessing, lengths: str | None) -> tuple[str, ...]:
    """The inputs of the network, float32 and int64, in the order of the layouts."""
    graph, found = state.graph, []
    words = [name for name, feature in state.features.items() if isinstance(feature, Word)]
    assert not words, f"{words} are read by no step, which training refuses"
    for layout in done.layouts:
        kind = layout.input.kind
        if kind == "image":
            assert state.image is not None
            found.append(graph.cast(state.image, np.float32))
        elif kind == "sequence" and done.window is None:
            assert state.sequence is not None
            found.append(graph.cast(state.sequence, np.float32))
        elif kind == "lengths":
            assert lengths is not None
            found.append(graph.op("Identity", lengths))
        elif kind == "categories":
            codes = {name: one.tensor for name, one in state.features.items() if isinstance(one, Index)}
            assert tuple(codes) == layout.names, "the same steps gave other inputs"
            found.append(graph.op("Concat", *codes.values(), axis=-1))
        else:
            numbers = {name: one.tensor for name, one in state.features.items() if isinstance(one, Number)}
            assert tuple(numbers) == layout.names, "the same steps gave other inputs"
            found.append(graph.cast(graph.op("Concat", *numbers.values(), axis=-1), np.float32))
    return tuple(found)


__all__ = ["Prepared", "prepared"]
