"""What is to be said of new rows: columns that are missing or further, values that are missing or were never met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from nnopt_ray.data.frame import Frame, Numeric, Text
from nnopt_ray.data.steps import as_text
from nnopt_ray.data.table import SEQUENCE, Table, hint, quoted
from nnopt_ray.data.types import PreprocessingState
from nnopt_ray.errors import DataError
from nnopt_ray.serving.trained import Trained
from nnopt_ray.tables import Part, suggestion

KEPT_WORDS = 10_000  # different values never met that are counted by name
SHOWN = 3
FLOAT32 = float(np.finfo(np.float32).max)

# How a value is encoded that was not met in training, by the method of `encode`.
ENCODED = {
    "one_hot": "all zeros",
    "ordinal": "-1",
    "embedding": "the one code of all that was not met",
    "target": "the mean of all",
}


class Noticed:
    """Gathers over all rows, some at a time. keep: further columns that are wanted as they are."""

    def __init__(self, trained: Trained, keep: Collection[str] = ()) -> None:
        self._trained = trained
        self._keep = keep
        self._rows = 0
        self._extra: dict[str, None] = {}
        self._unmet: dict[tuple[str, str], Counter[str]] = {}  # column and method
        self._known: dict[tuple[str, str], frozenset[str]] = {}
        self._lacking: Counter[str] = Counter()  # columns that lacked nothing in training
        self._gaps: Counter[str] = Counter()  # columns without a number in rows that are not predicted therefore
        self._faults: dict[int, str] = {}
        self._without = 0  # rows without a prediction
        self._whole = {column.name for column in trained.dataset.summary.columns if not column.missing}
        self.facts: dict[str, None] = {}  # sentences about what was found, nothing being odd about it
        self.odd: dict[str, None] = {}  # further sentences about what is

    @property
    def needed(self) -> list[str]:
        """The columns that are read."""
        wanted = self._trained.preprocessing
        names = [reading.name for reading in wanted.readings]
        if wanted.window is not None:
            names += [name for name in (*wanted.window.by, wanted.window.order) if name not in names]
        return names

    def names(self, origin: str, names: list[str]) -> None:
        """Looks at the columns of new rows. Raises DataError where one is missing that is read, or is to be kept."""
        wanted = self._trained.preprocessing
        needed = self.needed
        missing = [name for name in needed if name not in names]
        known = {*needed, *wanted.left_out, *wanted.targets, *self._keep}
        extra = [name for name in names if name not in known]
        if missing:
            raise DataError(missing_columns(origin, missing, extra))
        for name in self._keep:
            if name not in names:
                raise DataError(f"--keep: {origin} has no column '{name}'.{hint(name, names)}")
        self._extra |= dict.fromkeys(extra)

    def chosen(self, table: Table, faults: Collection[int] = ()) -> Table:
        """The tidy table with the columns that are read. faults: rows with nothing in them, of which no more is said.

        Raises DataError where a column is missing, or where images and sequences are not like those of the training
        data.
        """
        self.names(table.origin, table.names)
        table = replace(self._with_channels(table), columns=table.columns.select(self.needed))
        self._trained.preprocessing.check(table)
        for name in self.needed:
            column = table.columns.column(name)
            if column.null_count and name in self._whole:
                missing = column.is_null().to_numpy()
                self._lacking[name] += int(missing.sum() - missing[list(faults)].sum())
        return table

    def _with_channels(self, table: Table) -> Table:
        """The sequences with the channels that were trained, where they have further ones."""
        found, wanted = table.sequences, self._trained.preprocessing.channels
        if found is None or wanted is None or found.channels == wanted or not set(wanted) <= set(found.channels):
            return table
        self._extra |= dict.fromkeys(name for name in found.channels if name not in wanted)
        values = found.values[:, :, [found.channels.index(name) for name in wanted]]
        return replace(table, sequences=replace(found, values=values, channels=wanted))

    def before(self, part: Part, state: PreprocessingState, frame: Frame) -> None:
        """Looks at what a step is about to change."""
        if part.type != "encode" or "columns" not in state:
            return
        for name, learned in state["columns"].items():
            if name not in frame.features:
                continue
            key = (name, str(state["method"]))
            known = self._known.setdefault(key, frozenset(learned["categories"]))
            feature = frame.features[name]
            assert isinstance(feature, (Text, Numeric))
            words = as_text(feature)
            unmet = np.array([word not in known for word in words.words], dtype=bool)
            if not unmet.any():
                continue
            counts = np.bincount(words.codes[words.codes >= 0], minlength=len(unmet))
            found = self._unmet.setdefault(key, Counter())
            for code in np.flatnonzero(unmet & (counts > 0)):
                word = words.words[code]
                found[word if word in found or len(found) < KEPT_WORDS else ""] += int(counts[code])

    def filled(self, frame: Frame) -> tuple[Frame, np.ndarray]:
        """The frame with 0 where there is no number that a network can read, and which rows that are, bool [rows]."""
        bad: np.ndarray | None = None
        features = dict(frame.features)
        origins: dict[str, np.ndarray] = {}
        for name, feature in frame.features.items():
            if isinstance(feature, Numeric):
                wrong = ~(np.abs(feature.values) <= FLOAT32)
                if wrong.any():
                    features[name] = replace(feature, values=np.where(wrong, 0.0, feature.values))
                    before = origins.get(feature.origin)
                    origins[feature.origin] = wrong if before is None else before | wrong
        sequences = frame.sequences
        if sequences is not None:
            wrong = ~(np.abs(sequences.values) <= FLOAT32)
            if wrong.any():
                sequences = replace(sequences, values=np.where(wrong, 0.0, sequences.values))
                origins[SEQUENCE] = wrong.any(axis=(1, 2))
        for name, rows in origins.items():
            self._gaps[name] += int(rows.sum())
            bad = rows if bad is None else bad | rows
        if bad is None:
            return frame, np.zeros(0, dtype=bool)
        return replace(frame, features=features, sequences=sequences), bad

    def seen(self, rows: int, faults: Mapping[int, str], without: int) -> None:
        """Some more rows are done. faults: why there is nothing to predict in one; without: those not predicted."""
        for row, why in faults.items():
            self._faults[self._rows + row] = why
        self._rows += rows
        self._without += without

    def sentences(self) -> tuple[str, ...]:
        """What the user should know."""
        return (*self.facts, *self.warnings())

    def warnings(self) -> tuple[str, ...]:
        """What is odd about the rows."""
        said = list(self.odd)
        if self._extra:
            several = len(self._extra) > 1
            said.append(
                f"The column{'s' * several} {quoted(list(self._extra))} {'were' if several else 'was'} not there in "
                f"training and {'are' if several else 'is'} not read."
            )
        for name, count in self._lacking.items():
            if count and name not in self._gaps:
                said.append(
                    f"{_rows(count)} lack{'s' * (count == 1)} '{name}', as no row of the training data did; what the "
                    "steps put for a missing value is taken."
                )
        for (name, method), words in self._unmet.items():
            shown = ", ".join(repr(word) for word, _ in words.most_common(SHOWN) if word)
            more = f" and {len(words) - SHOWN:,} more" if len(words) > SHOWN else ""
            said.append(
                f"'{name}' has values in {_rows(sum(words.values()))} that were not met in training ({shown}{more}); "
                f"they are encoded as {ENCODED[method]}."
            )
        for name, count in self._gaps.items():
            said.append(f"'{name}' has no number in {_rows(count)}, and no step fills it.")
        if self._faults:
            shown = "; ".join(f"row {row:,}: {why}" for row, why in list(self._faults.items())[:SHOWN])
            more = f"; and {len(self._faults) - SHOWN:,} more" if len(self._faults) > SHOWN else ""
            said.append(f"{_rows(len(self._faults))} cannot be read ({shown}{more}).")
        if self._without:
            said.append(f"{_rows(self._without)} of {self._rows:,} without a prediction: its place is empty.")
        return tuple(said)


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def missing_columns(origin: str, missing: list[str], extra: list[str]) -> str:
    """The sentence on columns that new rows lack, with those that may be meant."""
    one = len(missing) == 1
    said = f"{origin} lacks the column{'s' * (not one)} {quoted(missing)}"
    renamed = {name: near for name in missing if (near := _alike(name, extra))}
    if renamed:
        pairs = ", ".join(f"'{near}' for '{name}'" for name, near in renamed.items())
        return f"{said}. Did you mean {pairs}? Rename, as new rows need the columns of the training data."
    if extra:
        said += f", and has {quoted(extra)}, which the model was not trained with"
    return f"{said}. New rows need the columns of the training data."


def _alike(name: str, extra: list[str]) -> str:
    """The further column that may be this one under another name; empty where none is near."""
    plain = {"".join(sign for sign in one.lower() if sign.isalnum()): one for one in extra}
    bare = "".join(sign for sign in name.lower() if sign.isalnum())
    if bare in plain:
        return plain[bare]
    near = suggestion(bare, list(plain)) if plain else ""
    return plain[near.split("'")[1]] if near.startswith(" Did you mean") else ""


__all__ = ["Noticed", "missing_columns"]
