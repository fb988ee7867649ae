"""What a language task learns from: the texts of a part joined and cut into blocks, a token asked for at each place.

The documents are divided into parts first, so that no text stands in two of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from nnopt_ray import tables
from nnopt_ray.data import preprocessing, repairs, store
from nnopt_ray.data.audit import Line
from nnopt_ray.data.columns import recognise
from nnopt_ray.data.frame import Tokens
from nnopt_ray.data.preprocessing import Fitted
from nnopt_ray.data.quality import Examined
from nnopt_ray.data.split import PARTS, Split, unused_parts
from nnopt_ray.data.table import Table, is_text, quoted
from nnopt_ray.data.target import Target, listed
from nnopt_ray.data.types import IGNORED, Column, DataSummary, Input, Shapes
from nnopt_ray.errors import DataError
from nnopt_ray.experiment import Data
from nnopt_ray.machine import derived_seed
from nnopt_ray.tables import Part

LENGTH = 128  # tokens of a block where the page names no length

# Devlin et al. 2019, section 3.1: of the positions, and of those chosen [MASK] and another token; the rest stay.
CHOSEN = 0.15
MASKED, REPLACED = 0.8, 0.1

CURE = "Add to data.steps: - {type: tokenize, columns: [NAME]}"


def content(data: Data, table: Table, described: str) -> store.Content:
    """What the store of a language task holds. `described` is the source in words. Raises DataError."""
    assert data.task != "auto"
    given, steps, without = divided(data, table)
    column, kept, readings = given.target.name, given.source_rows, given.readings
    seen = repairs.of_page(data, given, "language")
    table, parts = seen.data.table, seen.data.parts
    left_out = {name: "a language task reads the text alone" for name in table.names if name != column}
    fitted = preprocessing.fit(table, readings, left_out, (), steps, parts)
    tokens = next((f for f in fitted.frame.features.values() if isinstance(f, Tokens)), None)
    if tokens is None or len(fitted.frame.features) != 1:
        raise DataError(f"data.task: {data.task} reads one text and nothing else. {CURE}")
    masked = data.task == "masked_language_modelling"
    made = {part: blocks(tokens, parts[part], masked) for part in PARTS}
    seed = data.split.keys.get("seed") or 0
    if masked:
        copies = {part: data.masks if part == "train" else 1 for part in PARTS}
        made = {part: _masked(tokens, *made[part], copies[part], derived_seed(seed, "masks", part)) for part in PARTS}
    sizes = {part: len(made[part][0]) for part in PARTS}
    ends = np.cumsum([sizes[part] for part in PARTS])
    return store.Content(
        shapes=Shapes(
            data.task,
            (Input("tokens", (tokens.length,), (tokens.cardinality,), tokens.padding),),
            tokens.cardinality,
        ),
        inputs=(np.concatenate([made[part][0] for part in PARTS]),),
        target=np.concatenate([made[part][1] for part in PARTS]),
        source_rows=kept[np.concatenate([made[part][2] for part in PARTS])],
        parts={part: np.arange(end - sizes[part], end) for part, end in zip(PARTS, ends, strict=True)},
        classes=(),
        target_mean=np.zeros(tokens.cardinality),
        target_scale=np.ones(tokens.cardinality),
        feature_names=(),
        summary=repairs.told(
            _summary(data, table, column, parts, fitted, tokens, described, sizes, len(without)), seen
        ),
        preprocessing=fitted.preprocessing.to_json(),
        audit=(*(Line(int(row), "", "left out", "no text") for row in without), *seen.audit),
    )


def divided(data: Data, table: Table) -> tuple[Examined, tuple[Part, ...], np.ndarray]:
    """The texts in their parts, as checks see them, the steps with what the task settles, and the rows without a text.

    The target stands for the text itself: its name is the column, its values are 0.
    """
    if data.fold is not None or data.train_share is not None:
        asked = "data.fold" if data.fold is not None else "data.train_share"
        raise DataError(
            f"{asked}: losses of {data.task} are counted by token of a vocabulary that each training part has of its "
            "own, so they say nothing to each other. Take it away."
        )
    split: Split = tables.build("split", data.split)
    steps, column = _steps(data, table, split.hidden)
    listed(data.ignore, table, None)
    table, without = _with_text(table, column)
    nothing = Target(column, "language_modelling", np.zeros(table.rows), ())
    readings, _ = recognise(table, [column], frozenset([column]))
    kept = np.setdiff1d(np.arange(table.rows + len(without)), without)
    return Examined(table, readings, nothing, split.divide(table, nothing), kept), steps, without


def _steps(data: Data, table: Table, hidden: tuple[str, ...]) -> tuple[tuple[Part, ...], str]:
    """The steps with what the task settles, and the column that is read."""
    places = [number for number, part in enumerate(data.steps) if preprocessing.read_as_text(part) is not None]
    if len(places) != 1:
        raise DataError(f"data.task: {data.task} needs one tokenize step, and there are {len(places)}. {CURE}")
    part = data.steps[places[0]]
    texts = (name for name in table.names if is_text(table.columns.column(name).type))
    columns = part.keys.get("columns") or [name for name in texts if name not in (*data.ignore, *hidden)]
    if len(columns) != 1:
        found = f"the columns {quoted(list(columns))}" if columns else "no column"
        raise DataError(f"data.task: {data.task} reads one text column, and finds {found} in {table.origin}. {CURE}")
    table.column(columns[0], "data.steps: tokenize.columns")
    keys = {**part.keys, "columns": tuple(columns)}
    if keys.get("length") == "auto":
        keys["length"] = LENGTH
    if data.task == "language_modelling":
        keys["special_tokens"] = False  # what comes next is asked of running text
    settled = Part(part.type, MappingProxyType(keys))
    return (*data.steps[: places[0]], settled, *data.steps[places[0] + 1 :]), columns[0]


def _with_text(table: Table, column: str) -> tuple[Table, np.ndarray]:
    """The rows that have a text, and the numbers of those that have none."""
    present = table.columns.column(column).is_valid().to_numpy()
    if not present.any():
        raise DataError(f"data.steps: tokenize: '{column}' is empty in every row of {table.origin}.")
    without = np.flatnonzero(~present)
    return (table.take(np.flatnonzero(present)) if len(without) else table), without


Blocks = tuple[np.ndarray, np.ndarray, np.ndarray]  # input and target, int64 [blocks, length], and row of each block


def blocks(tokens: Tokens, rows: np.ndarray, masked: bool) -> Blocks:
    """The texts of these rows, an end token ([SEP]) after each, in blocks; the last one is filled up.

    Of next-token blocks the target is the token behind each; the last token of a block is the first of the next.
    Of blocks to be masked it is the input itself.
    """
    pieces: list[np.ndarray] = []
    for row in rows:
        pieces += [tokens.flat[tokens.starts[row] : tokens.starts[row + 1]], np.array([tokens.last], np.int32)]
    stream = np.concatenate(pieces)
    row_of = np.repeat(rows, [len(piece) + 1 for piece in pieces[::2]])
    framed = masked and tokens.framed
    room = tokens.length - 2 * framed
    asked = len(stream) if masked else len(stream) - 1
    count = -(-asked // room)
    inputs = np.full((count, tokens.length), tokens.padding, dtype=np.int64)
    target = np.full((count, tokens.length), IGNORED, dtype=np.int64)
    for number in range(count):
        start, end = number * room, min((number + 1) * room, asked)
        inside = slice(int(framed), int(framed) + end - start)
        inputs[number, inside] = stream[start:end]
        target[number, inside] = stream[start:end] if masked else stream[start + 1 : end + 1]
        if framed:
            inputs[number, 0], inputs[number, inside.stop] = tokens.first, tokens.last
    return inputs, target, row_of[np.arange(count) * room]


def _masked(tokens: Tokens, inputs: np.ndarray, truth: np.ndarray, rows: np.ndarray, copies: int, seed: int) -> Blocks:
    """Each block `copies` times, masked anew each time: of 15 % of its positions (one at least; special tokens are
    never chosen) the token is asked for; 80 % of those hold [MASK], 10 % a token drawn at random, 10 % the true one."""
    random = np.random.Generator(np.random.PCG64(seed))
    special = np.array([tokens.padding, tokens.first, tokens.last, tokens.mask])
    ordinary = np.setdiff1d(np.arange(tokens.cardinality), [*special, tokens.unknown])
    may = (truth != IGNORED) & ~np.isin(truth, special)
    wanted = np.where(may.any(axis=1), np.maximum(np.round(CHOSEN * may.sum(axis=1)), 1), 0)
    made = []
    for _ in range(copies):
        ranks = np.argsort(np.argsort(np.where(may, random.random(truth.shape), 2.0), axis=1), axis=1)
        chosen = ranks < wanted[:, None]
        way = random.random(truth.shape)
        other = ordinary[random.integers(0, len(ordinary), truth.shape)]
        shown = np.where(chosen & (way < MASKED), tokens.mask, inputs)
        shown = np.where(chosen & (way >= MASKED) & (way < MASKED + REPLACED), other, shown)
        made.append((shown, np.where(chosen, truth, IGNORED)))
    return np.concatenate([one for one, _ in made]), np.concatenate([two for _, two in made]), np.tile(rows, copies)


def _summary(
    data: Data,
    table: Table,
    column: str,
    parts: Mapping[str, np.ndarray],
    fitted: Fitted,
    tokens: Tokens,
    described: str,
    sizes: Mapping[str, int],
    without: int,
) -> DataSummary:
    import pyarrow.compute as pc

    assert data.task != "auto"
    columns = []
    for name in table.names:
        values = table.columns.column(name)
        distinct = int(pc.count_distinct(values, mode="only_valid").as_py()) if is_text(values.type) else 0
        kept = name == column
        note = "" if kept else fitted.preprocessing.left_out[name]
        columns.append(Column(name, "text" if kept else "dropped", values.null_count, distinct, note))
    counts = {part: int(tokens.sizes_inside[parts[part]].sum()) for part in PARTS}
    told = ", ".join(f"{counts[part]:,} of {len(parts[part]):,} texts in the {part} part" for part in PARTS)
    notes = [*unused_parts(table, tables.build("split", data.split)), *table.notes, *fitted.notes, f"Tokens: {told}."]
    if without:
        notes.append(f"Rows without a text, which were left out: {without:,}.")
    joined = f"The texts of a part are joined, [SEP] after each, and cut into blocks of {tokens.length:,} tokens"
    if data.task == "masked_language_modelling":
        frame = " ([CLS] and [SEP] around each)" if tokens.framed else ""
        notes.append(
            f"{joined}{frame}. Of each block 15 % of the tokens are asked for; a block of the training part is there "
            f"{data.masks} time{'s' * (data.masks != 1)}, masked differently, so an epoch reads the text as often."
        )
    else:
        notes.append(f"{joined}.")
    notes.append(
        "Blocks of one text are alike: the intervals of the scores, which take rows for independent, are too narrow."
    )
    others = [name for name in table.names if name != column]
    if others:
        notes.append(f"Not learned from, as a language task reads the text alone: {quoted(others)}.")
    if sizes["train"] < 2:
        notes.append("The whole training part is one block: take more text, or a smaller `length` of tokenize.")
    return DataSummary(
        source=described,
        rows=table.rows + without,
        task=data.task,
        target=column,
        columns=tuple(columns),
        parts=dict(sizes),
        notes=tuple(notes),
    )


__all__ = ["content"]
