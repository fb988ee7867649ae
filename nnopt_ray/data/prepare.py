"""The door of the room: source → table → split → checks → steps, fitted on the training part → balance → store.

Data that was prepared before, from the same content in the same way, is taken from the cache.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from nnopt_ray import tables
from nnopt_ray.data import language, preprocessing, repairs, store, windows
from nnopt_ray.data.audit import Line
from nnopt_ray.data.balance import Outcome, balanced
from nnopt_ray.data.cache import default_cache
from nnopt_ray.data.columns import Reading, recognise
from nnopt_ray.data.described import described, every, unplaced
from nnopt_ray.data.folds import parts_of
from nnopt_ray.data.frame import Layout, Tokens
from nnopt_ray.data.preprocessing import Fitted, apply
from nnopt_ray.data.quality import Check, Examined, Judge
from nnopt_ray.data.sources import Source
from nnopt_ray.data.split import PARTS, Split, unused_parts
from nnopt_ray.data.steps import Step
from nnopt_ray.data.store import open_dataset, place
from nnopt_ray.data.table import IMAGE, SEQUENCE, Sequences, Table, quoted, tidy
from nnopt_ray.data.target import Target, class_counts, listed, read_target, target_name
from nnopt_ray.data.types import LANGUAGE, Column, Dataset, DataSummary, Shapes
from nnopt_ray.errors import DataError, RunFolderError
from nnopt_ray.experiment import Data, Experiment
from nnopt_ray.tables import Part


def prepare(
    experiment: Experiment,
    cache: Path | None = None,
    judge: Judge | None = None,
    read: Callable[[Source, Path], Table] | None = None,
) -> Dataset:
    """The data set of a page, from the cache when its content and preparation were seen before.

    cache: folder of the cache; by default $NNOPT_CACHE, else ~/.cache/nnopt/data. judge: the network that checks may
    ask. read: reads the source, so that several pages may share what was read. Raises DataError when the
    data cannot be used as the page asks, RunFailed when the cache cannot be written.
    """
    data = experiment.data
    base = experiment.file.resolve().parent if experiment.file is not None else Path.cwd()
    source: Source = tables.build("source", data.source)
    files = [tables.build("step", part).fingerprint(base) for part in data.steps]
    key = _key(data, [source.fingerprint(base), *files], judge)
    folder = (cache or default_cache()) / key
    if folder.is_dir():
        try:
            return replace(open_dataset(folder), reused=True)
        except RunFolderError:  # damaged: made again below
            pass
    streamed = _streams(data) and _streamed(folder, key, data, source, base)
    if not streamed:
        table = source.read(base) if read is None else read(source, base)
        store.build(folder, key, _content(data, table, judge))
    return replace(open_dataset(folder), streamed=streamed)


def _streamed(folder: Path, key: str, data: Data, source: Source, base: Path) -> bool:
    """Whether the source is so large that its data were prepared without all of them in memory."""
    with store.beside(folder) as room:
        large = source.stream(base, room)
        if large is None:
            return False
        store.build(folder, key, _content(data, large, None, room))
    return True


def _streams(data: Data) -> bool:
    """Whether the page can be prepared without all of its data in memory."""
    if data.task in LANGUAGE or data.window is not None or data.balance is not None or data.quality:
        return False
    steps: list[Step] = [tables.build("step", part) for part in data.steps]
    return all(step.by_column and not step.needs_target for step in steps)


def _key(data: Data, fingerprints: list[str], judge: Judge | None) -> str:
    """What the prepared data follows from: the content, the page's section, and the code that reads both."""
    balance = () if data.balance is None else (data.balance,)
    parts = {
        "split": (data.split,),
        "step": data.steps,
        "source": (data.source,),
        "balance": balance,
        "check": data.quality,
        "fold": () if data.fold is None else (data.fold.of,),
    }
    said = {
        "content": fingerprints,
        "code": _own_code(),
        "source": unplaced(data.source),
        "parts": [unplaced(part) for part in (data.split, *data.steps)],
        "brought": {
            part.type: _code_of(room, part) for room, chosen in parts.items() for one in chosen for part in every(one)
        },
        "target": data.target,
        "task": data.task,
        "window": data.window and data.window.model_dump(),
        "masks": data.masks if data.task == "masked_language_modelling" else None,
        "ignore": data.ignore,
        "scale_target": data.scale_target,
        "fold": data.fold and (data.fold.number, data.fold.held_out, data.fold.of.page()),
        "train_share": data.train_share,
        "quality": [(part.page(), repairs.versions(part), _judged_by(part, judge)) for part in data.quality],
        "balance": [(part.page(), importlib.metadata.version("imbalanced-learn")) for part in balance],
    }
    text = json.dumps(said, sort_keys=True, default=list)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _judged_by(part: Part, judge: Judge | None) -> str:
    """What the answers of the network follow from that a check asks; empty where it asks none."""
    check: Check = tables.build("check", part)
    return judge.key if check.asks_network and judge is not None else ""


@lru_cache(maxsize=1)
def _own_code() -> str:
    """Digest of this room and of what reads files for it: an upgrade never meets data prepared by other rules."""
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    for package in ("pyarrow", "numpy", "scikit-learn", "tokenizers", "sentencepiece", "pillow"):
        digest.update(importlib.metadata.version(package).encode())
    return digest.hexdigest()


def _code_of(room: str, part: Part) -> str:
    """Digest of the file of a user's own part; empty for ours."""
    if part.type in tables.table(room):
        return ""
    file = inspect.getsourcefile(tables.find(room, part.type))
    return hashlib.blake2b(Path(file).read_bytes() if file else b"", digest_size=16).hexdigest()


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows that have a target, and those that have none (numbers in the source)."""

    table: Table
    target: Target
    column: str  # of the target in the table
    source_rows: np.ndarray
    without: np.ndarray


def _content(data: Data, read: Table, judge: Judge | None, room: Path | None = None) -> store.Content:
    """room: a folder for what is too large to hold."""
    table = tidy(read)
    if data.task in LANGUAGE:
        return language.content(data, table, described(data.source))
    if data.window is not None:
        return windows.content(data, table, described(data.source))
    rows = _with_target(data, table)
    given, not_learned = _divided(data, table, rows)
    seen = repairs.of_page(data, replace(given, judge=judge))
    rows, parts = replace(rows, table=seen.data.table, target=seen.data.target), seen.data.parts
    readings = tuple(reading for reading in given.readings if reading.name not in seen.dropped)
    _check_training(rows.target, parts["train"])
    seed = data.split.keys.get("seed") or 0
    fitted = preprocessing.fit(
        rows.table,
        readings,
        {**not_learned, **seen.dropped},
        tuple(dict.fromkeys((rows.column, data.target))),
        data.steps,
        parts,
        room,
        rows.target,
        seed,
    )
    done = fitted.preprocessing
    target, mean, scale = _target_values(rows.target, parts["train"], data.scale_target)
    outputs = len(rows.target.classes) if rows.target.task == "classification" else 1
    shapes = Shapes(rows.target.task, tuple(layout.input for layout in done.layouts), outputs)
    now = Outcome(fitted.arrays, target, rows.source_rows, parts["train"])
    summary = repairs.told(_summary(data, table, rows, parts, readings, fitted), seen)
    if data.balance is not None:
        now = balanced(data.balance, shapes.inputs, fitted.inputs, rows.target, rows.source_rows, parts["train"], seed)
        summary = _told_balanced(summary, now, data.balance.type)
    return store.Content(
        shapes=shapes,
        inputs=fitted.pieces or now.inputs,
        target=now.target,
        source_rows=now.source_rows,
        parts={**parts, "train": now.train},
        classes=rows.target.classes,
        target_mean=mean,
        target_scale=scale,
        feature_names=_feature_names(done.layouts),
        summary=summary,
        preprocessing=done.to_json(),
        audit=(
            *(Line(row, "", "left out", why) for row, why in table.unread),
            *(Line(int(row), "", "left out", "no target") for row in rows.without),
            *seen.audit,
            *now.audit,
        ),
    )


def _divided(data: Data, table: Table, rows: _Rows) -> tuple[Examined, dict[str, str]]:
    """The rows in their parts, as checks see them, and the columns that are not learned from → why."""
    split: Split = tables.build("split", data.split)
    not_learned = _not_learned(data, table, rows.column, split)
    names = [name for name in table.names if name != rows.column and name not in not_learned]
    as_text = frozenset(name for part in data.steps for name in preprocessing.read_as_text(part) or ())
    readings, empty = recognise(rows.table, names, as_text)
    parts = parts_of(data, rows.table, rows.target, split.divide(rows.table, rows.target))
    _check_training(rows.target, parts["train"])
    return Examined(rows.table, readings, rows.target, parts, rows.source_rows), {**not_learned, **empty}


def divided(experiment: Experiment) -> tuple[Examined, str]:
    """The rows of a page in their parts, before any check, and what a row is (rows, windows or language).

    Raises DataError as `prepare` does.
    """
    data = experiment.data
    base = experiment.file.resolve().parent if experiment.file is not None else Path.cwd()
    source: Source = tables.build("source", data.source)
    table = tidy(source.read(base))
    if data.task in LANGUAGE:
        return language.divided(data, table)[0], "language"
    if data.window is not None:
        return windows.divided(data, table)[0], "windows"
    return _divided(data, table, _with_target(data, table))[0], "rows"


def _with_target(data: Data, table: Table) -> _Rows:
    column = target_name(table, data.target)
    values = table.columns.column(column)
    present = values.is_valid().to_numpy()
    kept, without = np.flatnonzero(present), np.flatnonzero(~present)
    if not len(kept):
        raise DataError(f"data.target: '{data.target}' is missing in every row of {table.origin}.")
    kept_table = table if not len(without) else table.take(kept)
    target = read_target(kept_table, column, data.target, data.task)
    return _Rows(kept_table, target, column, table.numbered(kept), table.numbered(without))


def _not_learned(data: Data, table: Table, target: str, split: Split) -> dict[str, str]:
    """Columns that the page keeps from the network → why."""
    return {
        **listed(data.ignore, table, target),
        **dict.fromkeys(split.hidden, "it only serves to divide the rows"),
    }


def _check_training(target: Target, train: np.ndarray) -> None:
    """A part that training cannot learn anything from is refused, whatever the split."""
    values = target.values[train]
    if (values == values[0]).all():
        only = repr(target.classes[int(values[0])]) if target.classes else f"{values[0]:g}"
        raise DataError(
            f"data.split: the target '{target.name}' is {only} in all {len(values)} training rows: "
            "there is nothing to learn. Divide the rows otherwise."
        )


def _target_values(target: Target, train: np.ndarray, scaled: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Target as training sees it, with mean and scale (float64 [outputs]) that lead back to the user's units."""
    if target.task == "classification":
        outputs = len(target.classes)
        return target.values, np.zeros(outputs), np.ones(outputs)
    mean, scale = 0.0, 1.0
    if scaled:
        mean, scale = float(np.mean(target.values[train])), float(np.std(target.values[train]))
    with np.errstate(over="ignore"):
        values = ((target.values - mean) / scale).astype(np.float32)[:, None]
    if not np.isfinite(values).all():
        raise DataError(
            f"data.target: numbers in '{target.name}' are too large for float32 (3.4e38). Give them in a larger unit."
        )
    return values, np.array([mean]), np.array([scale])


def _feature_names(layouts: tuple[Layout, ...]) -> tuple[str, ...]:
    return next((layout.names for layout in layouts if layout.input.kind == "table"), ())


def _summary(
    data: Data,
    table: Table,
    rows: _Rows,
    parts: Mapping[str, np.ndarray],
    readings: tuple[Reading, ...],
    fitted: Fitted,
) -> DataSummary:
    done, remarks = fitted.preprocessing, fitted.remarks
    read = {reading.name: reading for reading in readings}
    columns: list[Column] = []
    if table.images is not None:
        shape = "x".join(str(size) for size in table.images.shape[1:])
        columns.append(Column(IMAGE, "image", 0, table.rows, f"channels x height x width: {shape}"))
    if table.sequences is not None:
        columns.append(_described_sequences(table.sequences))
    for name in table.names:
        values = table.columns.column(name)
        counts = (values.null_count, _distinct(values))
        if name == rows.column:
            columns.append(Column(data.target, "target", *counts, f"{rows.target.task}"))
        elif name in done.left_out:
            columns.append(Column(name, "dropped", *counts, done.left_out[name]))
        else:
            reading = read[name]
            constant = [key for key in done.left_out if key.startswith(f"{name}.") and key not in table.names]
            said = [reading.note, remarks.get(name, ""), f"constant: {', '.join(constant)}" if constant else ""]
            columns.append(Column(name, reading.kind, *counts, "; ".join(part for part in said if part)))
    classification = rows.target.task == "classification"
    counted = {part: class_counts(rows.target, parts[part]) for part in PARTS} if classification else {}
    return DataSummary(
        source=described(data.source),
        rows=table.rows,
        task=rows.target.task,
        target=data.target,
        columns=tuple(columns),
        parts={part: len(parts[part]) for part in PARTS},
        class_counts=counted,
        notes=(
            *unused_parts(table, tables.build("split", data.split)),
            *_notes(rows, table, columns, counted, remarks),
            *fitted.notes,
            *_cut(fitted, parts),
        ),
    )


def _told_balanced(summary: DataSummary, now: Outcome, name: str) -> DataSummary:
    counts = dict(zip(summary.class_counts["train"], now.counts.tolist(), strict=True))
    return replace(
        summary,
        parts={**summary.parts, "train": len(now.train)},
        class_counts={**summary.class_counts, "train": counts},
        balanced=name,
        notes=(*summary.notes, *now.notes),
    )


def _described_sequences(found: Sequences) -> Column:
    least, most = int(found.lengths.min()), int(found.lengths.max())
    steps = f"{most:,} steps" if least == most else f"{least:,} to {most:,} steps"
    missing = int(np.isnan(found.values).any(axis=(1, 2)).sum())
    return Column(SEQUENCE, "sequence", missing, len(found.values), f"{steps} of {quoted(list(found.channels))}")


def _cut(fitted: Fitted, parts: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """How long the rows of a text are, and how many were cut."""
    tokens = next((f for f in fitted.frame.light.values() if isinstance(f, Tokens)), None)
    if tokens is None:
        return ()
    quantile = next((state["quantile"] for _, state in fitted.preprocessing.steps if "quantile" in state), None)
    why = ""
    if quantile is not None:
        how = "rounded up" if quantile <= tokens.length else "and auto takes no more than this"
        why = f" (99 % of the training rows have at most {quantile:,}, {how})"
    cut = {part: int((tokens.sizes[parts[part]] > tokens.length).sum()) for part in PARTS}
    said = f"A row is {tokens.length:,} tokens{why}"
    if not any(cut.values()):
        return (f"{said}; none is longer.",)
    told = ", ".join(f"{count:,} of {len(parts[part]):,} rows of the {part} part" for part, count in cut.items())
    return (f"{said}; longer ones were cut at their end: {told}.",)


def _distinct(values: Any) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_nested(values.type) or pa.types.is_null(values.type):  # Arrow counts none of these
        return 0
    if pa.types.is_floating(values.type):  # Arrow's table of 5 million different ones takes 4 times as long to fill
        found = np.sort(values.drop_null().to_numpy())
        return int(np.count_nonzero(np.diff(found))) + min(len(found), 1)
    return int(pc.count_distinct(values, mode="only_valid").as_py())


def _notes(
    rows: _Rows, table: Table, columns: list[Column], counted: dict[str, dict[str, int]], remarks: Mapping[str, str]
) -> tuple[str, ...]:
    notes = [*table.notes]
    if len(rows.without):
        one = len(rows.without) == 1
        notes.append(
            f"{len(rows.without)} row{' has' if one else 's have'} no target and {'was' if one else 'were'} left out."
        )
    if rows.target.note:
        notes.append(rows.target.note)
    dropped = [column for column in columns if column.kind == "dropped"]
    notes += [f"Column '{column.name}' is not learned from: {column.note}." for column in dropped]
    notes += [f"Column '{name}' {remark}." for name, remark in remarks.items()]
    for part, counts in counted.items():
        absent = [name for name, count in counts.items() if not count]
        if absent:
            named = ", ".join(map(repr, absent[:8])) + ("..." if len(absent) > 8 else "")
            notes.append(f"The {part} part has no row of the class{'es' if len(absent) > 1 else ''} {named}.")
    return tuple(notes)


__all__ = ["apply", "default_cache", "divided", "open_dataset", "place", "prepare"]
