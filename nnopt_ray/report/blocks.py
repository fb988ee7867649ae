"""What a section is made of. The template knows how each kind looks; sections only say what is there."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Tone = Literal["", "good", "bad", "muted", "best"]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Cell:
    """One cell: what is shown, and what sorting goes by (its text where `sort` is None)."""

    text: str
    sort: float | str | None = None
    tone: Tone = ""


@dataclass(frozen=True)
class Head:
    """A column's head. `number` aligns right."""

    text: str
    number: bool = False
    hint: str = ""
    above: str = ""  # small, over the text


@dataclass(frozen=True)
class Table:
    """`keys[i]` names row i for the script (a trial's id)."""

    kind: ClassVar[str] = "table"
    title: str
    caption: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sortable: bool = False
    keys: tuple[str, ...] = ()
    best: str = ""  # the key of the row to mark

    @property
    def wordy(self) -> bool:
        """Whether it holds sentences, and few columns: on a phone a cell of it stands under the other."""
        return len(self.heads) <= 6 and any(len(cell.text) > 60 for row in self.rows for cell in row)


@dataclass(frozen=True)
class Plot:
    """`figure` is plotly's JSON; a colour "--name" in it is looked up in the page's style, light or dark."""

    kind: ClassVar[str] = "plot"
    id: str
    title: str
    caption: str  # one sentence: what to see
    figure: dict[str, Any]
    height: int = 320  # CSS pixels


@dataclass(frozen=True)
class Picture:
    """A PNG, shown in its own size, or smaller where there is no room; pixels stay sharp."""

    kind: ClassVar[str] = "picture"
    title: str
    caption: str
    png: bytes
    width: int
    height: int

    @property
    def source(self) -> str:
        """As an address that holds the picture itself."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Card:
    """Pictures that belong together, each with its name above: (name, base64 of a PNG). Caption below."""

    caption: str
    pictures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Gallery:
    """Cards side by side, as many as there is room for."""

    kind: ClassVar[str] = "gallery"
    title: str
    caption: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Passage:
    """A text, once or several times: (by what its words are coloured, (word, strength from -1 to 1) each)."""

    caption: str
    versions: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]


@dataclass(frozen=True)
class Words:
    """Texts whose words are coloured by how much they spoke for or against."""

    kind: ClassVar[str] = "words"
    title: str
    caption: str
    passages: tuple[Passage, ...]


@dataclass(frozen=True)
class Axis:
    """One axis of parallel coordinates; ticks are (place from 0 at the bottom to 1, label)."""

    title: str
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Line:
    """One trial: its place on each axis (None where it has no such value); rank 0 is the best, 1 the last."""

    key: str
    places: tuple[float | None, ...]
    rank: float
    text: str


@dataclass(frozen=True)
class Parallel:
    kind: ClassVar[str] = "parallel"
    id: str
    title: str
    caption: str
    axes: tuple[Axis, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Whisker:
    """A score with its interval on a common scale; places are per cent of the scale's width."""

    label: str
    text: str
    dot: float
    low: float | None
    high: float | None
    tone: Literal["winner", "baseline"]


@dataclass(frozen=True)
class Tile:
    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Advice:
    """One thing to try next: what, the evidence from this run, and the line for the page."""

    title: str
    evidence: str
    page: str = ""


@dataclass(frozen=True)
class Hero:
    """The first screen."""

    kind: ClassVar[str] = "hero"
    label: str
    value: str
    interval: str
    verdict: str
    verdict_tone: Tone
    also: str
    scale: tuple[str, str]  # the ends of the whiskers' scale
    whiskers: tuple[Whisker, ...]
    tiles: tuple[Tile, ...]
    searched: str
    advice: tuple[Advice, ...]


@dataclass(frozen=True)
class Code:
    kind: ClassVar[str] = "code"
    text: str
    title: str = ""


@dataclass(frozen=True)
class Row:
    """Blocks side by side where there is room."""

    kind: ClassVar[str] = "row"
    blocks: tuple[Any, ...]


@dataclass(frozen=True)
class Fold:
    """Closed at first."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: tuple[Any, ...]


def within(blocks: Iterable[Block]) -> Iterator[Block]:
    """Every block that is no frame of others, in the order of the page."""
    for block in blocks:
        if isinstance(block, (Row, Fold)):
            yield from within(block.blocks)
        else:
            yield block


Block = Text | Table | Plot | Picture | Gallery | Words | Parallel | Hero | Code | Row | Fold


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Block, ...] = field(default_factory=tuple)
