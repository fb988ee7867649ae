"""What stands out in the rows of DATA: its target, its columns, and what to do about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from nnopt_ray.data.columns import ID_NAME, Reading, features, recognise, useless
from nnopt_ray.data.frame import Feature, Numeric, Text
from nnopt_ray.data.table import Table, hint, is_number, quoted
from nnopt_ray.data.target import Target, read_target
from nnopt_ray.errors import DataError
from nnopt_ray.starting.found import Found

OBVIOUS = ("target", "label", "class", "y", "labels", "outcome")
MOST_ONE_HOT = 12  # categories of a column up to which each becomes a column of its own
SKEWED = 2.0  # skewness, an exponential distribution's, from which the mean and deviation say little
FEWEST = 20  # rows with a target
RARE = 0.2  # share of a class below which accuracy says little
REPEATS = 2.0  # rows for each value of a key, on average, from which it names groups of rows


@dataclass(frozen=True, eq=False)
class Seen:
    """The target and the columns of a table.

    ignored: column → why. missing: column → rows without a value. one_hot, embedded: columns of categories.
    skewed, plain: columns of numbers and dates. texts: columns of free text to be read; groups, dates: columns that
    rows might be divided by.
    """

    target: Target
    target_name: str  # as the page says it
    without_target: int
    ignored: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)
    one_hot: Mapping[str, int] = field(default_factory=dict)
    embedded: Mapping[str, int] = field(default_factory=dict)
    skewed: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    words: int = 0  # that 95 % of the texts have at most
    groups: tuple[str, ...] = ()
    dates: tuple[str, ...] = ()
    date_notes: tuple[str, ...] = ()

    @property
    def shares(self) -> dict[str, float]:
        """Class → its share of the rows, the smallest first; of amounts nothing."""
        if self.target.task != "classification":
            return {}
        counts = np.bincount(self.target.values, minlength=len(self.target.classes)) / len(self.target.values)
        order = np.argsort(counts, kind="stable")
        return {self.target.classes[code]: float(counts[code]) for code in order}

    @property
    def rarest(self) -> tuple[str, float] | None:
        """A class that is rare beside the others, with its share."""
        name, share = next(iter(self.shares.items()), ("", 1.0))
        fair = 1.0 / max(1, len(self.shares))
        return (name, share) if share < 2 * RARE * fair else None

    @property
    def single(self) -> tuple[str, ...]:
        """Classes with one row."""
        rows = len(self.target.values)
        return tuple(name for name, share in self.shares.items() if round(share * rows) == 1)

    @property
    def columns(self) -> int:
        """Columns that the network gets, about."""
        return len(self.skewed) + len(self.plain) + sum(self.one_hot.values()) + 8 * len(self.embedded)


def look(found: Found, asked: str | None, task: str) -> Seen:
    """What is in the rows. Raises DataError where there is no target to learn, or nothing to learn it from."""
    table = found.table
    column, shown = _target(table, asked)
    values = table.columns.column(column)
    kept = np.flatnonzero(values.is_valid().to_numpy())
    if not len(kept):
        raise DataError(f"the column '{shown}' has no value in any row of {table.origin}: choose another --target.")
    if len(kept) < FEWEST:
        many = "1 row is" if len(kept) == 1 else f"{len(kept)} rows are"
        raise DataError(f"{many} too few to train, to validate and to test on: init wants at least {FEWEST}.")
    rows = table if len(kept) == table.rows else table.take(kept)
    target = read_target(rows, column, shown, task)  # type: ignore[arg-type]  # one of Task, or auto
    seen = Seen(target, shown, table.rows - len(kept))
    if found.kind == "folder of texts":
        return _with_texts(seen, rows, ("text",))
    names = [name for name in table.names if name != column]
    return _columns(seen, rows, names, alone=found.kind == "table")


def _target(table: Table, asked: str | None) -> tuple[str, str]:
    """The target's column, and its name on the page."""
    if asked is not None and asked in table.names:
        return asked, asked
    if asked is not None and table.target is None:
        raise DataError(f"{table.origin} has no column '{asked}'.{hint(asked, table.names)}")
    if table.target is not None:  # the source has no name of its own for it
        return table.target, asked or table.target
    obvious = [name for known in OBVIOUS for name in table.names if name.lower() == known]
    if obvious:
        return obvious[0], obvious[0]
    likely = _candidates(table)
    raise DataError(
        f"which column is to be predicted? Say it: --target NAME. Of {table.origin} it might be {quoted(likely, 12)}."
    )


def _candidates(table: Table) -> list[str]:
    """Columns that classes or amounts may stand in, those with the fewest values first."""
    import pyarrow.compute as pc

    counted = {name: pc.count_distinct(table.columns.column(name)).as_py() for name in table.names}
    able = [name for name in table.names if 1 < counted[name] < table.rows or is_number(table.columns[name].type)]
    return sorted(able, key=lambda name: int(counted[name])) or table.names


def _columns(seen: Seen, table: Table, names: list[str], alone: bool) -> Seen:
    """alone: there are no images or sequences beside the columns."""
    readings, empty = recognise(table, names)
    ignored = dict(empty)
    made = features(table, readings)
    every = np.arange(table.rows)
    dropped, remarks = useless(made, every, table.rows, frozenset())
    kinds = {reading.name: reading for reading in readings}
    told = {name: why.replace(" training rows", " rows") for name, why in dropped.items()}
    ignored |= {name: why for name, why in told.items() if name in names}
    ignored |= {name: "an identifier: it never repeats" for name in remarks if ID_NAME.search(name)}
    groups = tuple(name for name in made if name not in ignored and _names_groups(made[name], name, kinds))
    ignored |= dict.fromkeys(groups, "a key: it names what rows belong to, and new ones will have others")
    texts = tuple(name for name in names if name in kinds and kinds[name].kind == "text" and name not in ignored)
    others = [name for name in names if name not in ignored and name not in texts]
    if not others and alone:
        texts = texts or _wordy(table, [name for name in names if isinstance(made.get(name), Text)])
        ignored = {name: why for name, why in ignored.items() if name not in texts}
        if texts:
            return _with_texts(_replaced(seen, ignored=ignored, groups=groups), table, texts)
        why_not = "; ".join(f"'{name}' ({why})" for name, why in list(ignored.items())[:6]) or "there is no other"
        raise DataError(f"{table.origin} has no column to learn from but the target: {why_not}.")
    ignored |= dict.fromkeys(texts, "free text: no network here reads it beside numbers; alone, tokenize reads it")
    features_left = {name: each for name, each in made.items() if each.origin in others and name not in dropped}
    return _replaced(seen, **_sorted(features_left), ignored=ignored, groups=groups, **_dates(kinds, others))


def _replaced(seen: Seen, **keys: object) -> Seen:
    from dataclasses import replace

    return replace(seen, **keys)  # type: ignore[arg-type]


def _names_groups(feature: Feature, name: str, kinds: Mapping[str, Reading]) -> bool:
    """Whether a column named like a key repeats: a patient's rows, a customer's."""
    if name not in kinds or not ID_NAME.search(name):
        return False
    if isinstance(feature, Text):
        codes = feature.codes[feature.codes >= 0]
        return len(codes) >= REPEATS and len(np.unique(codes)) > MOST_ONE_HOT
    if isinstance(feature, Numeric) and kinds[name].kind == "numeric":
        values = feature.values[~np.isnan(feature.values)]
        return bool((values == np.floor(values)).all()) and len(np.unique(values)) > MOST_ONE_HOT
    return False


def _wordy(table: Table, names: list[str]) -> tuple[str, ...]:
    """Of text columns that differ in every row, those that hold more than one word."""
    import pyarrow.compute as pc

    return tuple(name for name in names if (pc.mean(pc.match_substring(table.columns[name], " ")).as_py() or 0) >= 0.5)


def _sorted(made: Mapping[str, Feature]) -> dict[str, object]:
    """Columns by what is to be done about them."""
    missing: dict[str, int] = {}
    one_hot: dict[str, int] = {}
    embedded: dict[str, int] = {}
    skewed: list[str] = []
    plain: list[str] = []
    for feature in made.values():
        name = feature.origin
        if isinstance(feature, Text):
            gaps, size = int((feature.codes < 0).sum()), len(feature.words)
            (one_hot if size <= MOST_ONE_HOT else embedded)[name] = size
        else:
            assert isinstance(feature, Numeric)
            gaps = int(np.isnan(feature.values).sum())
            if not feature.binary:
                (skewed if _skewness(feature.values) > SKEWED else plain).append(name)
        if gaps:
            missing[name] = gaps
    return {
        "missing": missing,
        "one_hot": one_hot,
        "embedded": embedded,
        "skewed": tuple(dict.fromkeys(name for name in skewed if name not in plain)),
        "plain": tuple(dict.fromkeys(plain)),
    }


def _skewness(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    deviation = values.std() if len(values) else 0.0
    return float(abs(np.mean(((values - values.mean()) / deviation) ** 3))) if deviation > 0 else 0.0


def _dates(kinds: Mapping[str, Reading], names: list[str]) -> dict[str, object]:
    found = [kinds[name] for name in names if kinds[name].kind == "date"]
    return {"dates": tuple(each.name for each in found), "date_notes": tuple(f"{e.name}: {e.note}" for e in found)}


def _with_texts(seen: Seen, table: Table, texts: tuple[str, ...]) -> Seen:
    import pyarrow.compute as pc

    counts = [pc.add(pc.count_substring_regex(table.columns[name], r"\s+"), 1).fill_null(0) for name in texts]
    words = sum(np.asarray(count.to_numpy(), dtype=np.float64) for count in counts)
    return _replaced(seen, texts=texts, words=int(np.quantile(words, 0.95)))


__all__ = ["Seen", "look"]
