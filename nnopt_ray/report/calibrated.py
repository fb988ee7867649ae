"""Whether the probabilities are true: reliability before and after a temperature, and how sure the network is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nnopt_ray.report import words
from nnopt_ray.report.blocks import Block, Cell, Code, Head, Plot, Row, Section, Table, Text
from nnopt_ray.report.facts import Facts, Gain
from nnopt_ray.report.figure import Figure, axis, label, layout

FORMS = {"before": ("as the network says it", "--winner"), "after": ("with the temperature", "--second")}


def calibrated(facts: Facts) -> Section | None:
    found = facts.evaluated.get("calibration")
    if not found:
        return None
    blocks: list[Block] = [Text(_verdict(found)), Row((_reliability(found), _histogram(found))), _scores(found)]
    if _helps(found) and not found["applied"]:
        blocks.append(Code("evaluate: {calibrate: temperature}", "to have it applied to what is predicted"))
    return Section("Are the probabilities true?", tuple(blocks))


def _helps(found: Mapping[str, Any]) -> bool:
    low = found["metrics"]["log_loss"]["gain"]["low"]
    return low is not None and low > 0


def _verdict(found: Mapping[str, Any]) -> str:
    """What is said and what came of it, in a few sentences."""
    form = "after" if found["applied"] else "before"
    said = found[form]["sentence"]
    if found["note"]:
        return f"{said} {found['note']}"
    temperature = found["temperature"]
    kind = "less sure of itself" if temperature > 1 else "surer of itself"
    log_loss = found["metrics"]["log_loss"]
    gain = log_loss["gain"]
    did = "makes" if found["applied"] else "would make"
    said += (
        f" A temperature of {temperature:.3g}, fitted to {words.plural(found['rows']['validation'], 'validation row')},"
        f" {did} it {kind}"
    )
    if gain["low"] is None:
        return f"{said}: log-loss {words.number(log_loss['before'])} before, {words.number(log_loss['after'])} after."
    between = f"{words.signed('log_loss', gain['low'])} to {words.signed('log_loss', gain['high'])}"
    size = words.difference("log_loss", gain["value"])
    if gain["low"] > 0:
        return f"{said}, and the log-loss on the test part smaller by {size} ({between})."
    if gain["high"] < 0:
        return f"{said}, and the log-loss on the test part larger by {size} ({between}): leave it out."
    return f"{said}, with no clear effect on the log-loss of the test part (gain {between})."


def _subject(found: Mapping[str, Any]) -> tuple[str, str]:
    """(what the horizontal axis says, what the vertical one says)."""
    if found["of"] is None:
        return "probability of the predicted class, %", "share that is right, %"
    name = label(found["of"], 24)
    return f"probability of “{name}”, %", f"share that is “{name}”, %"


def _reliability(found: Mapping[str, Any]) -> Plot:
    said, true = _subject(found)
    traces = [_perfect()]
    for form, (name, colour) in FORMS.items():
        if form == "after" and found["temperature"] == 1:
            continue
        traces.append(_bins(found[form]["bins"], name, colour))
    level = f"{100 * found['confidence']:.3g}{words.NBSP}%"
    sentence = (
        "On the dotted line what is said comes true; below it too much is promised. Each point stands for about as "
        f"many test rows, the bars are {level} intervals."
    )
    figure = {"data": traces, "layout": layout(axis(said, range=[0, 102]), axis(true, range=[0, 102]))}
    return Plot("reliability", "Reliability", sentence, figure, height=380)


def _perfect() -> Figure:
    ends = [0, 100]
    line = {"color": "--good", "dash": "dot", "width": 1.5}
    return {"type": "scatter", "mode": "lines", "x": ends, "y": ends, "line": line, "hoverinfo": "skip", "name": "true"}


def _bins(bins: Sequence[Mapping[str, Any]], name: str, colour: str) -> Figure:
    def of(key: str) -> list[float]:
        return [100 * one[key] for one in bins]

    true = of("came_true")
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": of("said"),
        "y": true,
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [high - value for high, value in zip(of("high"), true, strict=True)],
            "arrayminus": [value - low for low, value in zip(of("low"), true, strict=True)],
            "color": colour,
            "thickness": 1,
            "width": 3,
        },
        "customdata": [one["rows"] for one in bins],
        "hovertemplate": "says %{x:.1f} %<br>comes true in %{y:.1f} %<br>%{customdata:,} rows",
        "line": {"color": colour, "width": 1.5},
        "marker": {"color": colour, "size": 7},
        "name": name,
    }


def _histogram(found: Mapping[str, Any]) -> Plot:
    traces = []
    for form, (name, colour) in FORMS.items():
        counts = found[form]["histogram"]
        if form == "after" and found["temperature"] == 1:
            continue
        width = 100 / len(counts)
        traces.append(
            {
                "type": "bar",
                "x": [width * (place + 0.5) for place in range(len(counts))],
                "y": counts,
                "width": [0.9 * width] * len(counts),
                "marker": {"color": colour},
                "opacity": 0.6 if form == "after" else 1,
                "hovertemplate": f"%{{x:.1f}} ± {width / 2:.1f} %: %{{y:,}} rows",
                "name": name,
            }
        )
    said, _ = _subject(found)
    figure = {"data": traces, "layout": layout(axis(said, range=[0, 100]), axis("test rows"), barmode="overlay")}
    counts = found["before"]["histogram"]
    most = max(range(len(counts)), key=lambda place: counts[place])
    share, ends = counts[most] / max(1, sum(counts)), (100 * most / len(counts), 100 * (most + 1) / len(counts))
    sentence = (
        f"{100 * share:.0f}{words.NBSP}% of the test rows are between {ends[0]:.3g} and {ends[1]:.3g}{words.NBSP}%."
    )
    return Plot("confidence", "How sure it is", sentence, figure, height=380)


def _scores(found: Mapping[str, Any]) -> Table:
    rows = []
    for name, one in found["metrics"].items():
        gain = Gain(name, one["gain"]["value"], one["gain"]["low"], one["gain"]["high"])
        shown = words.signed(name, gain.value)
        if gain.low is not None and gain.high is not None:
            shown += f"\n{words.signed(name, gain.low)} to {words.signed(name, gain.high)}"
        tone = "good" if (gain.low or 0) > 0 else "bad" if (gain.high or 0) < 0 else ""
        rows.append(
            (
                Cell(words.capital(words.metric_name(name))),
                *(Cell(_with_ends(name, one[form], one["intervals"][form])) for form in FORMS),
                Cell(shown, tone=tone),  # type: ignore[arg-type]
            )
        )
    heads = (
        Head("metric"),
        Head("test, as the network says it", number=True),
        Head("test, with the temperature", number=True),
        Head("gain", number=True, hint="positive: better with the temperature"),
    )
    caption = "The temperature was fitted to the validation part alone. The most probable class stays the same."
    return Table("Before and after", caption, heads, tuple(rows))


def _with_ends(name: str, value: float, ends: Sequence[float] | None) -> str:
    said = words.score(name, value)
    return f"{said}\n{words.interval(name, ends[0], ends[1])}" if ends else said
