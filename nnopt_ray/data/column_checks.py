"""Checks of columns: values that are missing, columns that say nothing, columns that only name their rows."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data.columns import ID_NAME, ID_NAME_ROWS
from nnopt_ray.data.quality import Check, Examined, Finding, Repair, Repaired
from nnopt_ray.data.table import is_number, is_text, numbers, quoted

Share = Annotated[float, Field(ge=0, lt=1)]

# Words that tables put for a missing value, beside what a csv source reads as missing anyway.
PLACEHOLDERS = frozenset(
    (
        "?",
        "-",
        "--",
        ".",
        "*",
        "na",
        "n.a.",
        "n/a",
        "#n/a",
        "nan",
        "nil",
        "none",
        "null",
        "missing",
        "unknown",
        "undefined",
    )
)
SENTINELS = (-1.0, -9.0, -99.0, -999.0, -9999.0, 99.0, 999.0, 9999.0, 99999.0)  # numbers put for a missing one
APART = 3.0  # so many times the width of all other values, a sentinel lies outside them


class Missing(Check):
    """Values that are missing: columns and rows that lack most, words and numbers put for a missing value.

    A few gaps are no reason to drop anything: the step `impute` fills them.

    Keys:
        action: drop leaves out the columns, and the rows, that lack more than they may.
        parts: the parts whose rows may be dropped; columns are judged by the training part.
        columns: share of the training rows in which a column may be missing.
        rows: share of the other columns that a row may lack.
    """

    windows: ClassVar[bool] = True

    def __init__(
        self,
        *,
        action: Literal["report", "drop"] = "report",
        parts: Repaired = ("train",),
        columns: Share = 0.5,
        rows: Share = 0.5,
    ) -> None:
        self.action = action
        self.parts = parts
        self.columns = columns
        self.rows = rows

    def examine(self, data: Examined) -> tuple[Finding, ...]:
        gaps = {r.name: data.table.columns.column(r.name).is_null().to_numpy() for r in data.readings}
        share = {name: float(gap[data.train].mean()) for name, gap in gaps.items()}
        lacking = [name for name in gaps if share[name] > self.columns]
        others = [name for name in gaps if name not in lacking]
        found = [self._columns(lacking, share)] if lacking else []
        if others:
            found += self._rows(data, np.mean([gaps[name] for name in others], axis=0))
            found += _gaps(data, {name: share[name] for name in others if share[name]})
        found += _placeholders(data)
        return tuple(found)

    def _columns(self, lacking: list[str], share: dict[str, float]) -> Finding:
        told = ", ".join(f"'{name}' in {100 * share[name]:.3g} %" for name in lacking[:5])
        more = f" and {len(lacking) - 5} more columns" if len(lacking) > 5 else ""
        return Finding(
            "missing",
            f"Most values are missing: {told}{more} of the training rows.",
            columns=tuple(lacking),
            measured={"missing_share": {name: share[name] for name in lacking}},
            repairs=tuple(
                Repair(-1, "column dropped", f"missing in {100 * share[name]:.3g} % of the training rows", name)
                for name in lacking
                if self.action == "drop"
            ),
            cure="data.quality: - {type: missing, action: drop}",
        )

    def _rows(self, data: Examined, lacked: np.ndarray) -> list[Finding]:
        """lacked: float64 [rows], share of the columns that each row lacks."""
        rows = np.flatnonzero((lacked > self.rows) & (data.part_of >= 0))
        if not len(rows):
            return []
        rows = rows[np.argsort(-lacked[rows], kind="stable")]
        gone = rows[data.within(self.parts)[rows]] if self.action == "drop" else rows[:0]
        return [
            Finding(
                "missing",
                f"{len(rows):,} row{'s lack' if len(rows) != 1 else ' lacks'} more than {100 * self.rows:.3g} % of the "
                f"columns: {data.named(rows)}.",
                rows=rows,
                sure=lacked[rows],
                measured={"rows": len(rows), "in_parts": data.count(rows)},
                repairs=tuple(
                    Repair(int(row), "dropped", f"{100 * lacked[row]:.3g} % of the columns are missing") for row in gone
                ),
                cure="data.quality: - {type: missing, action: drop}",
            )
        ]


def _gaps(data: Examined, share: dict[str, float]) -> list[Finding]:
    if not share or any(step.type == "impute" for step in data.steps):
        return []
    most = sorted(share, key=lambda name: -share[name])
    told = ", ".join(f"'{name}' {100 * share[name]:.2g} %" for name in most[:5])
    more = f" and {len(most) - 5} more" if len(most) > 5 else ""
    return [
        Finding(
            "missing",
            f"Some values are missing in {len(most)} column{'s' * (len(most) != 1)} ({told}{more}).",
            "low",
            columns=tuple(most),
            measured={"missing_share": share},
            cure="data.steps: - impute",
        )
    ]


def _placeholders(data: Examined) -> list[Finding]:
    """Words and numbers that stand for a missing value, in the training part."""
    said: dict[str, list[str]] = {}
    for reading in data.readings:
        column = data.table.columns.column(reading.name).take(data.train).drop_null()
        found = _words(column) if is_text(column.type) else _sentinels(column) if is_number(column.type) else []
        if found:
            said[reading.name] = found
    if not said:
        return []
    words = list(dict.fromkeys(word for found in said.values() for word in found))
    told = "; ".join(f"'{name}' holds {', '.join(map(repr, found))}" for name, found in list(said.items())[:5])
    return [
        Finding(
            "missing",
            f"Words or numbers seem to stand for missing values: {told}.",
            columns=tuple(said),
            measured={"placeholders": said},
            cure=f"data.source: missing: [{', '.join(map(repr, words))}]  (csv)",
        )
    ]


def _words(column: Any) -> list[str]:
    import pyarrow.compute as pc

    return [word for word in pc.unique(column).to_pylist() if word.lower() in PLACEHOLDERS]


def _sentinels(column: Any) -> list[str]:
    """Numbers such as -999 that occur more than once and lie far outside all others."""
    values = numbers(column)
    found = []
    for sentinel in SENTINELS:
        is_it = values == sentinel
        rest = values[~is_it & ~np.isin(values, SENTINELS)]
        if is_it.sum() < 2 or len(rest) < ID_NAME_ROWS:
            continue
        low, high = rest.min(), rest.max()
        if high > low and max(low - sentinel, sentinel - high) > APART * (high - low):
            found.append(f"{sentinel:g}")
    return found


class Constant(Check):
    """Columns that say nothing, as nearly all training rows have the same value, or as another column says the same.

    A column of one value throughout is left out anyway.

    Keys:
        action: drop leaves the columns out.
        share: share of the training rows that may have the same value.
    """

    windows: ClassVar[bool] = True

    def __init__(
        self,
        *,
        action: Literal["report", "drop"] = "report",
        share: Annotated[float, Field(gt=0, le=1)] = 0.999,
    ) -> None:
        self.action = action
        self.share = share

    def examine(self, data: Examined) -> tuple[Finding, ...]:
        found = []
        whole = [name for name, why in data.unread.items() if "same value" in why]
        if whole:
            found.append(
                Finding(
                    "constant",
                    f"One and the same value in all training rows: {quoted(whole)}. Left out of what is learned from.",
                    "low",
                    columns=tuple(whole),
                )
            )
        most = {reading.name: _most(data, reading.name) for reading in data.readings}
        nearly = [name for name, (_, share) in most.items() if self.share < share]
        if nearly:
            found.append(self._finding("Nearly one value", {name: _told(*most[name]) for name in nearly}))
        copies = _copies(data, [name for name in most if name not in nearly])
        if copies:
            found.append(self._finding("The same as another column", {n: f"equal to '{o}'" for n, o in copies.items()}))
        return tuple(found)

    def _finding(self, what: str, why: dict[str, str]) -> Finding:
        told = ", ".join(f"'{name}' ({said})" for name, said in list(why.items())[:5])
        return Finding(
            "constant",
            f"{what} in the training part: {told}{f' and {len(why) - 5} more' if len(why) > 5 else ''}.",
            columns=tuple(why),
            measured={"why": why},
            repairs=tuple(
                Repair(-1, "column dropped", said, name) for name, said in why.items() if self.action == "drop"
            ),
            cure="data.quality: - {type: constant, action: drop}",
        )


def _most(data: Examined, name: str) -> tuple[str, float]:
    """The most frequent value of a column in the training part, missing counting as one, and its share."""
    import pyarrow.compute as pc

    counted = pc.value_counts(data.table.columns.column(name).take(data.train))
    counts = counted.field("counts").to_numpy(zero_copy_only=False)
    first = int(np.argmax(counts))
    return str(counted.field("values")[first].as_py()), float(counts[first] / len(data.train))


def _told(value: str, share: float) -> str:
    return f"{value[:40]!r} in {100 * share:.4g} %"


def _copies(data: Examined, names: list[str]) -> dict[str, str]:
    """Columns that have in every training row the value of one before them → that one."""
    seen: dict[bytes, str] = {}
    copies: dict[str, str] = {}
    for name in names:
        column = data.table.columns.column(name).take(data.train)
        kind = "number" if is_number(column.type) else str(column.type)
        values = numbers(column).tobytes() if kind == "number" else "\0".join(map(repr, column.to_pylist())).encode()
        digest = _digest(kind.encode() + values)
        if digest in seen:
            copies[name] = seen[digest]
        seen.setdefault(digest, name)
    return copies


def _digest(content: bytes) -> bytes:
    import hashlib

    return hashlib.blake2b(content, digest_size=16).digest()


class Identifiers(Check):
    """Columns that name their rows and say nothing about others: keys, row numbers, names.

    Those that are surely such are left out anyway, unless a step names them.

    Keys:
        action: drop leaves out all that are found.
        share: share of the training rows with a value from which a column whose name is that of a key, or text, is one.
    """

    windows: ClassVar[bool] = True

    def __init__(
        self, *, action: Literal["report", "drop"] = "report", share: Annotated[float, Field(gt=0, le=1)] = 0.9
    ) -> None:
        self.action = action
        self.share = share

    def examine(self, data: Examined) -> tuple[Finding, ...]:
        found = []
        surely = [name for name, why in data.unread.items() if "identifier" in why]
        if surely:
            found.append(
                Finding(
                    "identifiers",
                    f"Identifiers: {quoted(surely)}. Left out of what is learned from.",
                    "low",
                    columns=tuple(surely),
                )
            )
        doubtful = {r.name: why for r in data.readings if (why := self._why(data, r.name, r.kind))}
        if doubtful:
            told = ", ".join(f"'{name}' ({why})" for name, why in list(doubtful.items())[:5])
            more = f" and {len(doubtful) - 5} more" if len(doubtful) > 5 else ""
            found.append(
                Finding(
                    "identifiers",
                    f"Perhaps identifiers, and learned from: {told}{more}.",
                    columns=tuple(doubtful),
                    measured={"why": doubtful},
                    repairs=tuple(
                        Repair(-1, "column dropped", why, name)
                        for name, why in doubtful.items()
                        if self.action == "drop"
                    ),
                    cure="data.quality: - {type: identifiers, action: drop}",
                )
            )
        return tuple(found)

    def _why(self, data: Examined, name: str, kind: str) -> str:
        """Why a column may be an identifier; empty when it is none."""
        column = data.table.columns.column(name).take(data.train).drop_null()
        if kind in ("text", "date", "boolean") or len(column) < ID_NAME_ROWS:
            return ""
        distinct = len(column.unique())
        if distinct < self.share * len(column):
            return ""
        told = f"{distinct:,} different values in {len(column):,} training rows"
        if is_text(column.type):
            return told
        values = numbers(column)
        whole = bool((values == np.floor(values)).all())
        if ID_NAME.search(name) or (whole and distinct == len(column)):
            return told + (", and the name of a key" if ID_NAME.search(name) else ", none twice")
        return ""


__all__ = ["Constant", "Identifiers", "Missing"]
