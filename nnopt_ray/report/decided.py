"""Two classes: what each threshold would give, and what the chosen one gives on the test part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnopt_ray.report import words
from nnopt_ray.report.blocks import Block, Cell, Code, Head, Plot, Section, Table, Text
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.figure import Figure, axis, label, layout

CURVES = {"precision": ("precision", "--second"), "recall": ("recall", "--third"), "f1": ("F1", "--winner")}
AIMS = {
    "f1": "the largest F1",
    "balanced_accuracy": "the largest balanced accuracy",
    "precision": "the most rows found at a precision of at least {at_least:g}",
    "recall": "the largest precision at a recall of at least {at_least:g}",
    "cost": "the smallest cost, {false_positive:g} for a false alarm and {false_negative:g} for a missed row",
}


def decided(facts: Facts) -> Section | None:
    found = facts.evaluated.get("threshold")
    if not found:
        return None
    blocks: list[Block] = [Text(_told(found))]
    if found["curve"]:
        blocks.append(_curves(found))
    blocks.append(_on_test(found))
    best = found["would_choose"].get("f1")
    if "chosen" not in found["test"] and best is not None and best != found["threshold"]:
        blocks.append(Code("evaluate: {threshold: f1}", "to have the threshold with the largest F1 applied"))
    return Section(f"From when on it says “{found['positive']}”", tuple(blocks))


def _told(found: Mapping[str, Any]) -> str:
    positive, threshold = found["positive"], found["threshold"]
    said = f"“{positive}” is predicted where its probability is at least {threshold:.3g}"
    aim = found["aim"]
    if aim["type"] in AIMS and not found["note"]:
        said += f", which gives {AIMS[aim['type']].format(**aim)} on the validation part"
    said += "."
    if found["note"]:
        said += f" {found['note']}"
    best = found["would_choose"].get("f1")
    if aim["type"] == "at" and best is not None:
        same = best == threshold
        said += " It is also the one" if same else f" {best:.3g} is the one"
        said += " with the largest F1 on the validation part."
    return said


def _curves(found: Mapping[str, Any]) -> Plot:
    curve = found["curve"]
    traces: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines",
            "line": {"color": colour, "width": 2, "shape": "hv"},
            "x": curve["threshold"],
            "y": [100 * value for value in curve[name]],
            "name": said,
            "hovertemplate": f"from %{{x:.3f}} on: {said} %{{y:.1f}} %<extra></extra>",
        }
        for name, (said, colour) in CURVES.items()
    ]
    dotted = {"color": "--good", "width": 1.5, "dash": "dot"}
    at = found["threshold"]
    mark = {"type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1, "line": dotted}
    figure = {
        "data": traces,
        "layout": layout(
            axis(f"threshold on the probability of “{label(found['positive'], 24)}”", range=[0, 1]),
            axis("validation part, %", range=[0, 102]),
            shapes=[{**mark, "name": "used", "showlegend": True}],
        ),
    }
    sentence = "A higher threshold finds fewer rows and is right more often; the dotted line is the one in use."
    return Plot("threshold", "Each threshold on the validation part", sentence, figure, height=360)


def _on_test(found: Mapping[str, Any]) -> Table:
    test = found["test"]
    rows = []
    for key in ("chosen", "at_half"):
        if key not in test:
            continue
        one = test[key]
        rows.append(
            (
                Cell(f"from {one['threshold']:.3g} on"),
                *(Cell(_share(one, name)) for name in CURVES),
                *(Cell(words.count(one[name])) for name in ("found", "missed", "false_alarms", "left_alone")),
            )
        )
    if "gain" in test:
        gains = (_gain(test["gain"][name], name) for name in CURVES)
        rows.append((Cell("difference", tone="muted"), *gains, *(Cell(""),) * 4))
    heads = (
        Head("threshold"),
        *(Head(said, number=True) for said, _ in CURVES.values()),
        Head("found", number=True, hint="predicted, and it is"),
        Head("missed", number=True, hint="not predicted, and it is"),
        Head("false alarms", number=True, hint="predicted, and it is not"),
        Head("left alone", number=True, hint="not predicted, and it is not"),
    )
    caption = "Rows of the test part, which had no part in the choice; intervals of the same resamples."
    return Table("On the test part", caption, heads, tuple(rows))


def _share(one: Mapping[str, Any], name: str) -> str:
    if one[name] is None:
        return "–"
    ends = one["intervals"].get(name)
    said = words.score(name, one[name])
    return f"{said}\n{words.interval(name, *ends)}" if ends else said


def _gain(gain: Mapping[str, Any], name: str) -> Cell:
    if gain["value"] is None:
        return Cell("–", tone="muted")
    said = words.signed(name, gain["value"])
    if gain["low"] is not None:
        said += f"\n{words.signed(name, gain['low'])} to {words.signed(name, gain['high'])}"
    return Cell(said)
