"""Cross-validation: the scores of every fold, and what they say together."""

from __future__ import annotations

from collections.abc import Mapping

from nnopt_ray.evaluate.folded import Folded, Mean
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Block, Cell, Fold, Head, Plot, Section, Table, Text, Tone
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.figure import Figure, axis, label, layout

NONE = Cell("–", tone="muted")


def folded(facts: Facts) -> Section | None:
    said = facts.evaluated.get("folds")
    if not isinstance(said, Mapping):
        return None
    try:
        found = Folded.from_json(said)
    except (KeyError, TypeError):  # of another version
        return None
    blocks: list[Block] = [Text(sentence) for sentence in (*_headline(found), *found.sentences)]
    if found.winner:
        blocks += [_plot(found), Fold("All metrics, and each fold in numbers", (_means(found), _folds(found)))]
    return Section("Cross-validation", tuple(blocks))


def _headline(found: Folded) -> list[str]:
    mean = found.winner.get(found.metric)
    if mean is None or mean.sd is None or mean.low is None or mean.high is None:
        return ["Fewer than two folds gave a value, so there is nothing to sum up."]
    name = words.metric_name(found.metric)
    of = "its page, searched anew in each fold" if found.nested else f"trial {found.of_trial}, trained anew in each"
    times = f", {found.repeats} times over" if found.repeats > 1 else ""
    said = (
        f"Over {found.folds} folds ({found.kind}{times}) of the rows outside the test part, {of}: {name} "
        f"{words.score(found.metric, mean.mean)} on average, {words.interval(found.metric, mean.low, mean.high)}."
    )
    gain = found.gains.get(found.metric)
    if gain is None or gain.low is None or gain.high is None:
        return [said]
    ends = f"{words.signed(found.metric, gain.low)} to {words.signed(found.metric, gain.high)}, paired by fold"
    size = words.difference(found.metric, gain.mean)
    if gain.low <= 0 <= gain.high:
        return [said, f"It is not clearly better than the baseline: the difference is {size} ({ends})."]
    side = "better" if gain.mean > 0 else "worse"
    return [said, f"It is {side} than the baseline by {size} ({ends})."]


def _plot(found: Folded) -> Plot:
    done = [one for one in found.each if not one.failed]
    name = words.metric_name(found.metric)
    traces: list[Figure] = []
    for title, colour, scores in (
        ("baseline", "--muted", [one.baseline.get(found.metric) for one in done]),
        ("network", "--winner", [one.metrics.get(found.metric) for one in done]),
    ):
        mean = (found.winner if title == "network" else found.baseline)[found.metric]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": label(title),
                "x": [None if value is None or value != value else value for value in scores],
                "y": [title] * len(done),
                "text": [f"fold {one.number}" for one in done],
                "hovertemplate": "%{text}: %{x:.4g}<extra></extra>",
                "marker": {"color": colour, "size": 9, "opacity": 0.75},
            }
        )
        if mean.low is not None and mean.high is not None:
            half = {"type": "data", "array": [mean.high - mean.mean], "color": colour, "thickness": 2, "width": 8}
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [mean.mean],
                    "y": [title],
                    "error_x": half,
                    "marker": {"color": colour, "size": 12, "symbol": "line-ns-open"},
                    "hovertemplate": f"mean {mean.mean:.4g}, {mean.low:.4g} to {mean.high:.4g}<extra></extra>",
                    "showlegend": False,
                }
            )
    figure = {
        "data": traces,
        "layout": layout(axis(label(f"{name} on the rows held out")), axis("", type="category"), showlegend=False),
    }
    better = "right" if found.modes.get(found.metric) == "max" else "left"
    caption = f"A dot is a fold, the stroke the mean with its interval; further {better} is better."
    return Plot("folds", f"{words.capital(name)}, fold by fold", caption, figure, height=240)


def _means(found: Folded) -> Table:
    level = f"{100 * found.confidence:.3g}{words.NBSP}%"
    heads = (
        Head("metric"),
        Head("mean", number=True),
        Head("deviation", number=True, hint="between folds"),
        Head("interval", number=True, hint="of the mean"),
        Head("baseline", number=True),
        Head("better than the baseline by", number=True, hint="mean of the differences fold by fold"),
    )
    rows = tuple(_row(name, found) for name in found.winner)
    return Table(
        title="All metrics over the folds",
        caption=(
            f"{level} intervals of Student's t with the correction of Nadeau and Bengio (2003), as folds share most of "
            "the rows that they learn from. The test part is in no fold."
        ),
        heads=heads,
        rows=rows,
    )


def _row(name: str, found: Folded) -> tuple[Cell, ...]:
    mean, base, gain = found.winner[name], found.baseline[name], found.gains[name]
    return (
        Cell(words.metric_name(name)),
        Cell(words.score(name, mean.mean), tone="best" if name == found.metric else ""),
        NONE if mean.sd is None else Cell(words.difference(name, mean.sd)),
        _interval(name, mean),
        Cell(words.score(name, base.mean)),
        _gain(name, gain),
    )


def _interval(name: str, mean: Mean) -> Cell:
    return NONE if mean.low is None or mean.high is None else Cell(words.interval(name, mean.low, mean.high))


def _gain(name: str, gain: Mean) -> Cell:
    if gain.low is None or gain.high is None:
        return NONE
    tone: Tone = "muted" if gain.low <= 0 <= gain.high else "good" if gain.mean > 0 else "bad"
    ends = f"{words.signed(name, gain.low)} to {words.signed(name, gain.high)}"
    return Cell(f"{words.signed(name, gain.mean)} ({ends})", gain.mean, tone)


def _folds(found: Folded) -> Table:
    names = list(found.winner)
    shown = [found.metric, *[name for name in names if name != found.metric]][:4]
    heads = (
        Head("fold", number=True),
        Head("learned from", number=True, hint="rows"),
        Head("held out", number=True, hint="rows"),
        Head("epochs", number=True),
        *(Head(words.metric_name(name), number=True) for name in shown),
        Head(f"baseline's {words.metric_name(found.metric)}", number=True),
        *([Head("chosen by its search")] if found.nested else []),
    )
    rows = tuple(
        (
            Cell(f"{one.number}", one.number),
            Cell(words.count(one.rows["train"])) if one.rows else NONE,
            Cell(words.count(one.rows["held_out"])) if one.rows else NONE,
            Cell(words.count(one.epochs)),
            *(
                Cell("failed", tone="bad") if one.failed else Cell(words.score(name, one.metrics[name]))
                for name in shown
            ),
            NONE if one.failed else Cell(words.score(found.metric, one.baseline[found.metric])),
            *([Cell(", ".join(f"{k}={words.chosen(v)}" for k, v in one.values.items()))] if found.nested else []),
        )
        for one in found.each
    )
    where = "folds/N/ is a run folder" if found.nested else f"trials/{found.of_trial}-fN/page.yaml runs one alone"
    caption = f"Measured once, by the weights of its best epoch, which the rows held out did not choose; {where}."
    return Table("Each fold", caption, heads, rows, sortable=True)
