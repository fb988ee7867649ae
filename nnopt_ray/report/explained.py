"""Why the winner says what it says: which columns, pixels, words or steps moved single predictions, and all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nnopt_ray.report import explained_plots as plots
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Block, Card, Cell, Fold, Gallery, Head, Passage, Row, Section, Table, Text, Words
from nnopt_ray.report.facts import Facts

WATERFALLS = 6  # rows shown one by one, of the first method that gives them; the others are folded away
LONGEST = 160  # words of a text

# What a reader must know of each kind; the first sentence of all is in `explained`.
CAUTIONS = {
    "table": "Columns that say much the same share what is due to both, or one takes it all, so that the other looks "
    "worthless. Where values are replaced there are rows that may not occur, and nobody taught the network what to say "
    "of them.",
    "image": "A map says where, and not what was seen there. Neighbouring pixels say much the same, and maps of few "
    "pixels are drawn out smoothly: their edges mean nothing.",
    "tokens": "Words are taken by themselves: an irony, or a word that matters only beside another, is shared out "
    "among all. A text with words taken out may be one that the network never met.",
    "sequence": "Steps beside each other say much the same and share what is due to both.",
}
UNDER_TEST = (
    "The rows are of the test part. They were explained when all scores were fixed; nothing was chosen by them."
)


def explained(facts: Facts) -> Section | None:
    """The section of the report."""
    return section(facts.evaluated.get("explanations"), UNDER_TEST)


def section(found: Any, under: str) -> Section | None:
    """What `evaluate.explain.asked` found, as a section. under: a sentence about the rows."""
    if not isinstance(found, Mapping) or not found.get("methods"):
        return None
    kind, methods = str(found.get("kind")), [m for m in found["methods"] if not m.get("error")]
    blocks: list[Block] = []
    if methods:
        told = (
            "What moved the network, not what moves the world: an attribution says how the network comes to its "
            f"answer, whether that is right or wrong, and never that one thing causes another. {CAUTIONS.get(kind, '')}"
        )
        blocks += [Text(told), Text(under, "muted")]
    build = {"table": _columns, "image": _images, "tokens": _texts, "sequence": _sequences}.get(kind)
    if build is not None:
        blocks += build(found, methods)
    blocks += [Text(f"No explanation by {m['name']}: {m['error']}", "bad") for m in found["methods"] if m.get("error")]
    if methods:
        blocks.append(Fold("How they were made", (_made(methods),)))
    return Section("Explanations", tuple(blocks))


def _made(methods: Sequence[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (
            Cell(named(m, methods)),
            Cell(m["of"]),
            Cell(words.count(m["rows"]) if m["rows"] else "–", m["rows"]),
            Cell(m["told"]),
            Cell(words.duration(m["seconds"]), m["seconds"]),
        )
        for m in methods
    )
    heads = (Head("method"), Head("explains"), Head("test rows", number=True), Head("how"), Head("time", number=True))
    return Table("", "`nnopt describe explainer NAME` has the source and the keys of each.", heads, rows)


def named(m: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> str:
    """A method's name; where it is there twice, with the keys in which it differs."""
    alike = [each["keys"] for each in methods if each["name"] == m["name"]]
    differ = [key for key in m["keys"] if any(each.get(key) != m["keys"][key] for each in alike)]
    told = ", ".join(f"{key} {words.chosen(m['keys'][key])}" for key in differ)
    name = str(m["name"]).replace("_", " ")
    return f"{name} ({told})" if told else name


def _about(examples: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[int]]]:
    """Each kind of example with the places of its rows."""
    for about in dict.fromkeys(example["about"] for example in examples):
        yield about, [place for place, example in enumerate(examples) if example["about"] == about]


# --- tables -----------------------------------------------------------------------------------------


def _columns(found: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> list[Block]:
    blocks: list[Block] = []
    bars: list[Block] = [
        plots.importance(m, named(m, methods), number) for number, m in enumerate(methods) if _as_a_whole(m, found)
    ]
    blocks += [Row(tuple(bars))] if bars else []
    for number, m in enumerate(methods):
        if m.get("swarm") and _as_a_whole(m, found):
            blocks.append(plots.swarm(m, named(m, methods), number))
    each = [m for m in methods if "attributions" in m]
    for number, m in enumerate(each):
        drawn: list[Block] = [
            plots.waterfall(m, found["examples"], place, f"{number}-{place}") for place in range(len(found["examples"]))
        ]
        inside: list[Block] = [Row(tuple(drawn[at : at + 2])) for at in range(0, len(drawn), 2)]
        if number == 0 and len(drawn) <= WATERFALLS:
            blocks += inside
        elif number == 0:
            blocks += inside[: WATERFALLS // 2]
            blocks.append(Fold("Further rows", tuple(inside[WATERFALLS // 2 :])))
        else:
            blocks.append(Fold(f"The same rows by {named(m, methods)}", tuple(inside)))
    return blocks


def _as_a_whole(m: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether it says something of more rows than those that are shown, which were chosen by what came of them."""
    return "importance" in m and ("metric" in m or m["rows"] > len(found["examples"]))


# --- images -----------------------------------------------------------------------------------------


def _images(found: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> list[Block]:
    shown = [m for m in methods if m.get("maps")]
    blocks: list[Block] = []
    for about, places in _about(found["examples"]):
        cards = tuple(
            Card(
                plots.heading(found["examples"][place]),
                (
                    ("image", found["examples"][place]["image"]),
                    *((named(m, methods), m["maps"][place]) for m in shown),
                ),
            )
            for place in places
        )
        blocks.append(Gallery(words.capital(about), "", cards))
    if any(m["signed"] for m in shown):
        names = words.listed([named(m, methods) for m in shown if m["signed"]])
        blocks.append(Text(f"Red speaks for what is explained, blue against it: {names}.", "muted"))
    if any(not m["signed"] for m in shown):
        names = words.listed([named(m, methods) for m in shown if not m["signed"]])
        told = f"From black to yellow, each map from 0 to its own largest value: {names}."
        blocks.append(Text(told, "muted"))
    return blocks


# --- texts ------------------------------------------------------------------------------------------


def _texts(found: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> list[Block]:
    blocks: list[Block] = []
    shown = [m for m in methods if "words" in m]
    for about, places in _about(found["examples"]):
        passages = tuple(
            Passage(
                plots.heading(found["examples"][place]),
                tuple((named(m, methods), _strengths(m["words"][place])) for m in shown),
            )
            for place in places
        )
        caption = (
            "Orange words speak for what is explained, blue ones against it; the strongest has the fullest colour."
        )
        blocks.append(Words(words.capital(about), caption, passages))
    blocks += [
        _top(m, named(m, methods)) for m in shown if any(m["top"].values()) and m["rows"] > len(found["examples"])
    ]
    return blocks


def _strengths(said: Sequence[Sequence[Any]]) -> tuple[tuple[str, float], ...]:
    """(word, strength from -1 to 1)."""
    largest = max((abs(value) for _, value in said), default=0.0) or 1.0
    cut: list[tuple[str, float]] = [(str(word), round(value / largest, 3)) for word, value in said[:LONGEST]]
    return (*cut, ("…", 0.0)) if len(said) > LONGEST else tuple(cut)


def _top(m: Mapping[str, Any], name: str) -> Table:
    rows = tuple(
        (Cell(name), Cell(", ".join(f"{word} ({count})" for word, _, count in top) or "–"))
        for name, top in m["top"].items()
    )
    caption = (
        f"Of {words.plural(m['rows'], 'test row')}, those predicted as the class: the words that spoke most for it on "
        "average, in brackets the texts that they stand in; at least two."
    )
    return Table(f"Words of each class, by {name}", caption, (Head("predicted class"), Head("words")), rows)


# --- sequences --------------------------------------------------------------------------------------


def _sequences(found: Mapping[str, Any], methods: Sequence[Mapping[str, Any]]) -> list[Block]:
    blocks: list[Block] = []
    for number, m in enumerate(methods):
        if "steps" not in m:
            continue
        drawn = [
            plots.steps(m, found["examples"], place, f"{number}-{place}") for place in range(len(found["examples"]))
        ]
        inside: list[Block] = [Row(tuple(drawn[at : at + 2])) for at in range(0, len(drawn), 2)]
        blocks += inside[:3] if number == 0 else []
        rest = inside[3:] if number == 0 else inside
        if rest:
            blocks.append(
                Fold(f"{'Further rows' if number == 0 else 'The same rows'} by {named(m, methods)}", tuple(rest))
            )
    return blocks


__all__ = ["explained"]
