"""What a check of the data is: it is shown all rows and says what it found, and what its action does about it.

Checks are run by repairs.py, behind the split and before the steps. What is repaired is the training part, unless the
key `parts` of a check says otherwise; the test part is reported on and keeps every bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field

if TYPE_CHECKING:
    from nnopt_ray.data.columns import Reading
    from nnopt_ray.data.frame import Feature
    from nnopt_ray.data.table import Table
    from nnopt_ray.data.target import Target
    from nnopt_ray.data.types import Shapes
    from nnopt_ray.tables import Part

What = Literal["dropped", "relabelled", "changed", "column dropped"]
Severity = Literal["high", "middle", "low"]
Repaired = Annotated[tuple[Literal["train", "validation"], ...], Field(min_length=1)]  # the key `parts` of a check

NOWHERE = -1  # part_of a row that an earlier check dropped
NAMED = 5  # rows that a sentence names


class Judge(Protocol):
    """The page's own network, asked for classes of rows that it did not learn from."""

    @property
    def key(self) -> str:
        """All that its answers follow from, beside what it is given: for the cache."""

    def __call__(
        self,
        shapes: Shapes,
        inputs: tuple[np.ndarray, ...],
        target: np.ndarray,
        learned: np.ndarray,
        validated: np.ndarray,
        asked: np.ndarray,
        seed: int,
    ) -> np.ndarray:
        """float64 [asked, classes]: probabilities, of a network that was trained on the rows `learned` of the inputs
        and validated on others. target: int64, the classes of the first rows, those learned and validated."""


@dataclass(frozen=True, eq=False)
class Examined:
    """The data that a check is shown, as the checks before it left them.

    table: all rows that have a target. readings: of the columns that are learned from. target: of these rows.
    unread: columns that are left out without being asked to (empty, constant, identifiers) → why.
    parts: train, validation, test → rows of the table, int64, ascending; a row that was dropped is in none.
    source_rows: int64 [rows], number of each row in the source. seed: what draws depend on (derived_seed).
    steps: of the page; a check that trains a model fits them anew inside each fold.
    judge: None where there is no network to ask. split: how the page divides the rows.
    """

    table: Table
    readings: tuple[Reading, ...]
    target: Target
    parts: Mapping[str, np.ndarray]
    source_rows: np.ndarray
    seed: int = 0
    unread: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Part, ...] = ()
    judge: Judge | None = None
    split: Part | None = None

    @property
    def train(self) -> np.ndarray:
        """Rows of the training part."""
        return self.parts["train"]

    @cached_property
    def part_of(self) -> np.ndarray:
        """int8 [rows]: 0 train, 1 validation, 2 test (as in split.PARTS), NOWHERE."""
        found = np.full(self.table.rows, NOWHERE, dtype=np.int8)
        for number, part in enumerate(("train", "validation", "test")):
            found[self.parts[part]] = number
        return found

    @cached_property
    def features(self) -> dict[str, Feature]:
        """What the columns that are learned from are read as, of all rows: name → Numeric or Text."""
        from nnopt_ray.data.columns import features

        return features(self.table, self.readings)

    def within(self, parts: tuple[str, ...]) -> np.ndarray:
        """bool [rows]: which of them lie in these parts."""
        inside = np.zeros(self.table.rows, dtype=bool)
        for part in parts:
            inside[self.parts[part]] = True
        return inside

    def count(self, rows: np.ndarray) -> dict[str, int]:
        """How many of these rows lie in train, validation and test."""
        return {part: int(np.isin(rows, self.parts[part]).sum()) for part in ("train", "validation", "test")}

    def named(self, rows: np.ndarray) -> str:
        """ "rows 3, 17 and 5 more": the first of them by their numbers in the source, for a sentence."""
        numbers = [f"{number}" for number in self.source_rows[rows[:NAMED]]]
        more = f" and {len(rows) - NAMED:,} more" if len(rows) > NAMED else ""
        return f"row{'s' * (len(rows) != 1)} {', '.join(numbers)}{more}"


@dataclass(frozen=True)
class Repair:
    """What is done to one row, or to one column (row -1).

    dropped: the row leaves its part. relabelled: `after` is the class it gets. changed: the value of `column` becomes
    `after`, written so that the column's type reads it back; empty is missing. column dropped: it is not learned from.
    """

    row: int
    what: What
    why: str
    column: str = ""
    before: str = ""
    after: str = ""


def _rows() -> np.ndarray:
    return np.zeros(0, dtype=np.int64)


def _sure() -> np.ndarray:
    return np.zeros(0, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Finding:
    """One thing that is wrong.

    check: its name on the page. sentence: how many, which, how sure. severity: high: scores cannot be trusted, or much
    is learned wrongly; middle: worth a repair; low: good to know.
    rows: int64, rows of the table, the surest first; none when columns or the whole are meant. sure: float64 [rows],
    0 to 1. columns: those meant. measured: JSON, the numbers behind the sentence.
    repairs: what the check's action does about it; none for report.
    cure: what to write on the page about it; empty where nothing on the page helps.
    """

    check: str
    sentence: str
    severity: Severity = "middle"
    rows: np.ndarray = field(default_factory=_rows)
    sure: np.ndarray = field(default_factory=_sure)
    columns: tuple[str, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    repairs: tuple[Repair, ...] = ()
    cure: str = ""


class Check(ABC):
    """Contract of a check.

    Its keys are `action` (report finds and changes nothing), `parts` where it drops or changes rows, and those of its
    own. What it repairs in the training part may not depend on labels of the test part.
    """

    action: str = "report"
    parts: tuple[str, ...] = ("train",)
    asks_network: bool = False  # whether it asks the page's own network, Examined.judge

    libraries: ClassVar[tuple[str, ...]] = ()  # packages that its findings follow from, beside those of every check
    windows: ClassVar[bool] = False  # whether it makes sense of time points, which data.window makes windows of
    language: ClassVar[bool] = False  # whether it makes sense of the texts of a language task
    short_for: ClassVar[str] = ""  # the check that it is, with another action

    @abstractmethod
    def examine(self, data: Examined) -> tuple[Finding, ...]:
        """What is wrong, and what the action does about it; nothing for data without fault.

        The same data and seed give the same. Raises DataError, with the cure, for data that it cannot examine.
        """


__all__ = ["NOWHERE", "Check", "Examined", "Finding", "Judge", "Repair", "Repaired"]
