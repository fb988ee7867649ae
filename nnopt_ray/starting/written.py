"""The page that init writes: lines of YAML with a comment for what was seen."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnopt_ray.starting.found import Found
from nnopt_ray.starting.seen import Seen
from nnopt_ray.starting.sizes import PER_COLUMN_S, PER_PIXEL_S, PER_ROW_S, PER_STEP_S, PER_TOKEN_S, Sizes, sizes

WIDTH = 118  # of a comment
PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./ -]*[A-Za-z0-9_./-]|[A-Za-z_]")
RESERVED = {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf", ".", "..", ".nan", ".inf"}
TRAINING = 0.65  # the share of the training part
LONGEST_TEXT = 128  # tokens of a row: attention costs its square
TOKENS_PER_WORD = 1.4  # of a vocabulary of some thousand tokens, in English
CHECKED = 200_000  # rows up to which checks that compare rows or train small models are put on the page
IMAGES_CHECKED = 20_000


def word(value: Any) -> str:
    """A value as it stands in YAML, lists and mappings in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{word(key)}: {word(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(word(each) for each in value) + "]"
    if isinstance(value, str) and (not PLAIN.fullmatch(value) or value.lower() in RESERVED or "  " in value):
        return json.dumps(value, ensure_ascii=False)
    return value if isinstance(value, str) else json.dumps(value)


def named(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(" ".join(name.split()) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def page(found: Found, seen: Seen | None, name: str, command: str, where: Path, search: bool) -> str:
    """The text of the page. seen: None for text without a target, of which a language is learned."""
    lines = [f"# Written by: {command}", "# Every line is yours to change. Next:", *_next(where), f"name: {word(name)}"]
    lines += ["seed: 1", *_objective(seen), "", "data:", f"  source: {word(found.keys)}"]
    lines += _comments(found.remarks, "  ")
    lines += _language() if seen is None else _data(found, seen)
    size = _sizes(found, seen)
    return "\n".join([*lines, "", *_training(found, seen, size, search)]) + "\n"


def _next(where: Path) -> list[str]:
    return ["#   " + "   ".join(f"nnopt {verb} {where}" for verb in ("check", "data", "plan", "run"))]


def _comments(said: Sequence[str], indent: str) -> list[str]:
    return [f"{indent}# {each}"[:WIDTH] for each in said]


def _with(line: str, comment: str) -> list[str]:
    """A line and its comment: behind it where there is room, else above it."""
    if len(line) + len(comment) + 4 <= WIDTH:
        return [f"{line}  # {comment}"]
    indent = line[: len(line) - len(line.lstrip())]
    return [*_comments([comment], indent), line]


def _objective(seen: Seen | None) -> list[str]:
    if seen is not None and seen.rarest is not None:
        largest, share = list(seen.shares.items())[-1]
        why = f"always saying {largest!r} would have an accuracy of {share:.2g}, and a macro F1 that shows it"
        return [*_comments([why], ""), "objective: maximize val_f1"]
    return ["objective: minimize val_loss"]


def _language() -> list[str]:
    return [
        *_with("  task: language_modelling", "there are no classes: the next character is learned"),
        "  steps:",
        "    - {type: tokenize, method: characters, length: 64, vocabulary_size: 300}",
    ]


def _data(found: Found, seen: Seen) -> list[str]:
    lines = _with(f"  target: {word(seen.target_name)}", told_target(seen))
    if seen.target.note:
        lines += [f"  task: {seen.target.task}", *_comments([seen.target.note], "  ")]
    if seen.without_target:
        lines += _comments([f"{seen.without_target:,} rows have no target and are left out."], "  ")
    if seen.ignored:
        lines.append("  ignore:")
        for column, why in seen.ignored.items():
            lines += _with(f"    - {word(column)}", why)
    lines += _split(found, seen)
    lines += _quality(found, seen)
    steps = _steps(found, seen)
    return [*lines, "  steps:", *steps] if steps else lines


def told_target(seen: Seen) -> str:
    if seen.target.task == "regression":
        values = seen.target.values
        return f"amounts from {values.min():.4g} to {values.max():.4g}"
    shares = list(seen.shares.items())[::-1]
    told = ", ".join(f"{' '.join(name.split())!r} {percent(share)}" for name, share in shares[:4])
    return f"{len(shares)} classes: {told}" + (", ..." if len(shares) > 4 else "")


def _split(found: Found, seen: Seen) -> list[str]:
    if found.own_parts:
        return _comments(["The source divides its rows itself: split: given, the default then, keeps its parts."], "  ")
    lines = ["  split: {validation: 0.15, test: 0.2}"]
    if seen.target.task == "classification":
        said = "{validation: 0.15, test: 0.2, stratify: true}"
        lines = _with(f"  split: {said}", "each part gets its share of every class")
    if seen.single:
        why = f"{named([repr(name) for name in seen.single])}: a single row, which cannot stand in two parts"
        lines = _with("  split: {validation: 0.15, test: 0.2, stratify: false}", why)
    for column in seen.groups[:2]:
        said = word({"type": "grouped", "group": column})
        lines += _comments([f"split: {said}  # if new rows are of a new {' '.join(column.split())}"], "  ")
    for column in seen.dates[:2]:
        said = word({"type": "time", "column": column})
        lines += _comments([f"split: {said}  # if new rows will be later ones"], "  ")
    return lines


def _quality(found: Found, seen: Seen) -> list[str]:
    """Checks that report, and change nothing."""
    if found.kind == "image":
        return ["  quality: [duplicates, imbalance]"] if found.table.rows <= IMAGES_CHECKED else []
    if found.kind == "sequence" or found.table.rows > CHECKED:
        return []
    checks = ["duplicates", "imbalance"] if seen.texts else ["missing", "constant", "identifiers", "duplicates"]
    checks += [] if seen.texts else ["outliers", "imbalance", "leaks"]
    if seen.target.task != "classification":
        checks.remove("imbalance")
    return _with(f"  quality: {word(checks)}", "they report; action: drop and the like repair")


def _steps(found: Found, seen: Seen) -> list[str]:
    if seen.texts:
        length = text_length(seen)
        said = f"95 % of the texts have at most {seen.words:,} words"
        keys = {"type": "tokenize", "method": "wordpiece", "vocabulary_size": 4000, "length": length}
        return _with(f"    - {word({**keys, 'columns': list(seen.texts)})}", said)
    lines: list[str] = []
    if found.kind == "sequence":
        return ["    - {type: impute, columns: [sequence]}", "    - {type: scale, method: standard}"]
    if seen.missing:
        shares = [f"{column} {percent(count / len(seen.target.values))}" for column, count in seen.missing.items()]
        lines += _with("    - {type: impute, strategy: median, indicator: true}", f"missing: {named(shares, 4)}")
    elif seen.plain or seen.skewed:  # a row of new data may lack what none did
        lines += _comments(["- {type: impute, strategy: median}  # nothing is missing here"], "    ")
    lines += _scaling(found, seen)
    for method, columns in (("one_hot", seen.one_hot), ("embedding", seen.embedded)):
        if columns:
            told = named([f"{column} has {size:,} categories" for column, size in columns.items()], 3)
            keys = {"type": "encode", "method": method, "columns": list(columns)}
            lines += _with(f"    - {word(keys)}", told)
    return lines


def _scaling(found: Found, seen: Seen) -> list[str]:
    if found.kind == "image":
        return ["    - {type: scale, method: standard}"]
    if not seen.skewed:
        return ["    - {type: scale, method: standard}"] if seen.plain else []
    ranks = word({"type": "scale", "method": "quantile", "columns": list(seen.skewed)})
    lines = _with(f"    - {ranks}", "skewed: ranks, spread as a normal distribution")
    plain = word({"type": "scale", "method": "standard", "columns": list(seen.plain)})
    return [*lines, *([f"    - {plain}"] if seen.plain else [])]


def text_length(seen: Seen) -> int:
    return min(LONGEST_TEXT, 8 * max(1, -(-int(seen.words * TOKENS_PER_WORD + 2) // 8)))


def _sizes(found: Found, seen: Seen | None) -> Sizes:
    table = found.table
    rows = int(table.rows * TRAINING)
    if seen is None:
        characters = sum(len(str(each)) for each in table.columns.column("text").to_pylist())
        return sizes(64 * PER_TOKEN_S / 2, max(1, characters // 64), 10, 12)
    if table.images is not None:
        pixels = int(table.images.shape[2] * table.images.shape[3])
        return sizes(PER_PIXEL_S * pixels, rows, 20, 20)
    if table.sequences is not None:
        return sizes(PER_STEP_S * table.sequences.values.shape[1], rows, 20, 20)
    if seen.texts:
        return sizes(PER_TOKEN_S * text_length(seen), rows, 12, 12)
    return sizes(PER_ROW_S + PER_COLUMN_S * seen.columns, rows, 30, 30)


def _training(found: Found, seen: Seen | None, size: Sizes, search: bool) -> list[str]:
    open_ = search and size.trials > 0
    middle = size.batch_sizes[1]
    batch = word({"choice": list(size.batch_sizes)} if open_ else middle)
    optimizer = _optimizer(found, seen, open_)
    lines = [f"model: {_model(found, seen, open_)}", "", "train:"]
    lines += [f"  epochs: {size.epochs}", f"  batch_size: {batch}", f"  optimizer: {word(optimizer)}"]
    if seen is not None and seen.rarest is not None:
        told = f"{seen.rarest[0]!r} is only {percent(seen.rarest[1])} of the rows; balanced weighs all classes alike"
        weighed = {"type": "cross_entropy", "class_weights": "balanced"}
        lines += _with(f"  loss: {word({'choice': ['cross_entropy', weighed]} if open_ else weighed)}", told)
    lines += ["  early_stopping: {patience: 5, restore_best_weights: true}", ""]
    if open_:
        asha = "scheduler: {type: asha, grace_period: 3}"
        why = "ASHA stops weak trials early: some minutes on two cores"
        lines += _with(f"search: {{trials: {size.trials}, {asha}}}", why)
    elif search:
        lines += _comments(["No search: one training takes minutes already. To search, open values into ranges:"], "")
        lines += ["#   optimizer: {type: adamw, lr: {log: [1e-4, 1e-2]}}", "# search: {trials: 12, scheduler: asha}"]
    else:
        lines += ["# To search, open values into ranges, such as lr: {log: [1e-4, 1e-2]}, and say search: {trials: 20}"]
    lines += ["# A simple baseline (linear, or of the words) is trained and measured beside the network in any case."]
    return lines


def _optimizer(found: Found, seen: Seen | None, open_: bool) -> dict[str, Any]:
    transformer = seen is None or bool(seen.texts)
    low, high, middle = (1e-4, 3e-3, 1e-3) if transformer else (3e-4, 3e-2, 3e-3)
    decay: Any = {"log": [1e-5, 1e-1]} if open_ else 1e-2
    return {"type": "adamw", "lr": {"log": [low, high]} if open_ else middle, "weight_decay": decay}


def _model(found: Found, seen: Seen | None, open_: bool) -> str:
    dropout: Any = {"uniform": [0.0, 0.5]} if open_ else 0.1
    if seen is None:
        return word({"type": "gpt", "size": "tiny"})
    if seen.texts:
        return word({"type": "bert", "size": "tiny", "dropout": {"uniform": [0.0, 0.3]} if open_ else 0.1})
    if found.table.images is not None:
        return word({"type": "resnet", "depth": 8, "dropout": dropout})
    if found.table.sequences is not None:
        return word({"type": "rnn", "cell": "gru", "width": {"choice": [32, 64]} if open_ else 64, "dropout": dropout})
    small = len(seen.target.values) < 1000
    widths = [[16], [32], [32, 32]] if small else [[32], [64, 64], [128, 64]]
    return word({"type": "mlp", "widths": {"choice": widths} if open_ else widths[-2], "dropout": dropout})


__all__ = ["page", "percent", "told_target", "word"]
