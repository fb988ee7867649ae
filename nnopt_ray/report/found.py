"""The section that says what the page's checks found in its data, and what was done about it."""

from __future__ import annotations

from nnopt_ray.data.types import DataSummary, Found
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Block, Cell, Fold, Head, Section, Table, Text, Tone
from nnopt_ray.report.facts import Facts

LISTED = 20  # rows of a finding that are shown; summary.json has the first 1,000, audit.csv all that were touched
TONES: dict[str, Tone] = {"high": "bad", "middle": "", "low": "muted"}
ORDER = ("high", "middle", "low")


def found(facts: Facts) -> Section | None:
    """None where the page asks for no check."""
    seen = facts.summary
    if seen is None or not seen.checked:
        return None
    ranked = sorted(seen.quality, key=lambda one: (ORDER.index(one.severity), -one.rows))
    blocks: list[Block] = [Text(_told(seen))]
    if ranked:
        blocks.append(_findings(ranked))
        listed = tuple(_rows(one) for one in ranked if one.first_rows)
        if listed:
            blocks.append(Fold("The rows, the surest first", listed))
    return Section("What was found in the data", tuple(blocks))


def notes_of(seen: DataSummary) -> tuple[str, ...]:
    """The notes on the data that this section does not say already."""
    said = tuple(f"{one.check}: {one.sentence}" for one in seen.quality)
    return tuple(
        note for note in seen.notes if not (said and note.startswith(said)) and not note.endswith("(data.quality).")
    )


def _told(seen: DataSummary) -> str:
    nothing = [name for name in dict.fromkeys(seen.checked) if name not in {one.check for one in seen.quality}]
    total: dict[str, int] = {}
    for one in seen.quality:
        for what, times in one.repaired.items():
            total[what] = total.get(what, 0) + times
    done = words.listed([f"{_what(what, times)}" for what, times in total.items()])
    sentences = [
        f"Repaired: {done}. Each is a line of data/audit.csv." if total else "Nothing was changed in the data.",
        "The test part keeps every row, value and class.",
        f"Nothing was found by {words.listed(nothing)}." if nothing else "",
        "Rows are numbered as in the source, from 0." if seen.quality else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _what(what: str, times: int) -> str:
    one, many = {
        "dropped": ("row dropped", "rows dropped"),
        "relabelled": ("row given another class", "rows given another class"),
        "changed": ("value changed", "values changed"),
    }.get(what, ("column dropped", "columns dropped"))
    return words.plural(times, one, many)


def _findings(ranked: list[Found]) -> Table:
    rows = tuple(
        (
            Cell(one.severity, ORDER.index(one.severity), TONES[one.severity]),
            Cell(one.check),
            Cell(one.sentence),
            Cell(words.count(one.rows) if one.rows else "–", one.rows),
            Cell(words.listed([_what(what, times) for what, times in one.repaired.items()]) or "reported"),
            Cell("" if one.repaired else one.cure, tone="muted"),
        )
        for one in ranked
    )
    heads = (
        Head("how bad"),
        Head("check"),
        Head("what"),
        Head("rows", number=True),
        Head("done"),
        Head("what can be done"),
    )
    return Table("Findings", "The worst first.", heads, rows, sortable=True)


def _rows(one: Found) -> Table:
    shown = one.first_rows[:LISTED]
    rows = tuple((Cell(str(number), number), Cell(f"{sure:.2f}", sure)) for number, sure in shown)
    more = f" {words.count(one.rows - len(shown))} more are in data/summary.json or data/audit.csv."
    caption = one.sentence + (more if one.rows > len(shown) else "")
    return Table(one.check, caption, (Head("source row", number=True), Head("how sure", number=True)), rows)
