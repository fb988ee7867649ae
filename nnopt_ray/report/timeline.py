"""Who trained what and when, worker by worker, with the time in which a worker had nothing to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnopt_ray.report import words
from nnopt_ray.report.blocks import Block, Cell, Head, Plot, Table, Text
from nnopt_ray.report.course import Course, Span, Stint, Worked, between, merged, worked
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.figure import axis, label, layout

STINTS = 1500  # drawn at most, the longest: 100 bytes each, and more are a blot
ROWS = 60  # workers in the table
SEEN = 1 / 400  # of the whole time: shorter pauses have less than two pixels

# What became of a trial: in words, and its colour in the timeline.
ENDS = {
    "finished": ("trained to its own end", "--winner"),
    "stopped": ("stopped by the scheduler", "--muted"),
    "failed": ("failed", "--bad"),
    "paused": ("paused", "--second"),
    "running": ("not finished", "--second"),
    "pending": ("not begun", "--second"),
}


def when(facts: Facts) -> list[Block]:
    """The plot, how busy the workers were in words, and in numbers."""
    if not facts.course.stints:
        return []
    found = worked(facts.course)
    said = idle_words(found)
    blocks: list[Block] = [timeline(facts)]
    if said:
        blocks.insert(0, Text(said))
    if any(each.told for each in found):
        blocks.append(_table(found))
    return blocks


def idle_words(found: Sequence[Worked]) -> str:
    """How much of their time workers had nothing to train, and when; empty where the journal does not tell."""
    told = [each for each in found if each.told and each.there_s > 0]
    if not told:
        return ""
    there, idle = sum(each.there_s for each in told), sum(each.idle_s for each in told)
    parts = {
        "before their first trial": sum(each.before_s for each in told),
        "between two trials": sum(each.between_s for each in told),
        "at the end, when nothing was left to begin": sum(each.after_s for each in told),
    }
    share = idle / there
    one = len(told) == 1
    who = f"{'The worker' if one else f'The {len(told)} workers'} had a trial in training "
    said = f"{who}{_percent(1 - share)} of the time that {'it was' if one else 'they were'} there"
    if share < 0.005:
        return f"{said}: next to nothing was idle."
    most, longest = max(parts.items(), key=lambda part: part[1])
    said += f"; {words.duration(idle)} of {words.duration(there)} were idle"
    if longest > 0.5 * idle:
        if one:
            most = most.replace("their", "its")
        said += f", {'all' if longest > 0.995 * idle else 'most'} of it {most}"
    long = [each for each in told if each.there_s > 0.2 * max(other.there_s for other in told)]
    worst = max(long, key=lambda each: each.idle_s / each.there_s)
    if len(long) > 1 and worst.idle_s / worst.there_s > share + 0.05:
        said += f". Worker {worst.worker} was idle most: {_percent(worst.idle_s / worst.there_s)}"
    return f"{said}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f}{words.NBSP}%" if share < 0.995 or share == 1 else f"{100 * share:.1f}{words.NBSP}%"


def _table(found: Sequence[Worked]) -> Table:
    shown = sorted(found, key=lambda each: each.idle_s, reverse=True)[:ROWS] if len(found) > ROWS else found
    rows = tuple(
        (
            Cell(str(each.worker), each.worker),
            Cell("this process" if each.here else each.node or "–", tone="" if each.here or each.node else "muted"),
            Cell(words.duration(each.begin_s), each.begin_s),
            Cell(words.count(each.trials), each.trials),
            Cell(words.count(each.epochs), each.epochs),
            *(_seconds(each, seconds) for seconds in (each.there_s, each.busy_s)),
            *(_seconds(each, seconds) for seconds in (each.before_s, each.between_s, each.after_s)),
            Cell(_percent(each.idle_s / each.there_s), each.idle_s / each.there_s) if _known(each) else _none(),
        )
        for each in shown
    )
    cut = f" The {ROWS} of {len(found):,} that were idle longest." if len(shown) < len(found) else ""
    return Table(
        title="The workers' time",
        caption=f"Busy is a worker that has at least one trial in training; busy and idle add up to the time it was "
        f"there.{cut}",
        heads=(
            Head("worker", number=True),
            Head("where"),
            Head("ready after", number=True, hint="seconds of the search"),
            Head("trials", number=True),
            Head("epochs", number=True),
            Head("there", number=True),
            Head("busy", number=True),
            Head("before the first trial", number=True, above="idle"),
            Head("between trials", number=True, above="idle"),
            Head("after the last", number=True, above="idle"),
            Head("idle", number=True, hint="share of the time it was there"),
        ),
        rows=rows,
        sortable=True,
    )


def _known(each: Worked) -> bool:
    return each.told and each.there_s > 0


def _none() -> Cell:
    return Cell("–", tone="muted")


def _seconds(each: Worked, seconds: float) -> Cell:
    return Cell(words.duration(seconds), seconds) if _known(each) else _none()


def timeline(facts: Facts) -> Plot:
    """A line for every stint of a trial, those of one worker beneath each other; dots where it had nothing to do."""
    course = facts.course
    lines, height = placed(course.stints)
    shown = sorted(course.stints, key=lambda stint: stint.begin_s - stint.end_s)[:STINTS]
    ends = {row.trial: row.status for row in facts.rows}
    best = facts.best.trial if facts.best else ""
    workers = sorted({stint.worker for stint in course.stints})
    rows = max(end for _, end in height.values())
    pixels = max(240, min(640, 150 + 14 * rows))
    width = round(max(1.5, min(6.0, 0.6 * (pixels - 120) / rows)), 1)
    traces = []
    if len(shown) < len(course.stints):
        traces.append(_spans(_busy(course), height, "busy", "--faint", width))
    looks = [*((status, name, colour) for status, (name, colour) in ENDS.items()), ("", "over seeds", "--third")]
    for status, name, colour in [*looks, ("best", "the winner", "--good")]:
        mine = [s for s in shown if (s.trial == best if status == "best" else s.trial != best)]
        mine = [s for s in mine if status == "best" or ends.get(s.trial, "") == status]
        if mine:
            traces.append(_trace(mine, lines, name, colour, width))
    idle = _idle(course)
    if any(idle.values()):
        traces.append(_spans(idle, height, "idle", "--ink", 1.5, dash="dot"))
    middle = [(height[w][0] + height[w][1] - 1) / 2 for w in workers]
    y = axis(
        "worker", tickmode="array", tickvals=middle, ticktext=[str(worker) for worker in workers], zeroline=False,
        range=[rows - 0.3, -0.7], showgrid=False,
    )  # fmt: skip
    figure = {
        "data": traces,
        "layout": layout(axis("seconds of the search", rangemode="tozero"), y, hovermode="closest", showlegend=True),
    }
    mean = sum(stint.end_s - stint.begin_s for stint in course.stints) / (course.seconds or 1.0)
    cut = f" The {STINTS:,} longest of {len(course.stints):,} are drawn." if len(course.stints) > STINTS else ""
    dots = " Dotted: the worker had nothing to train." if any(idle.values()) else ""
    sentence = (
        f"Each line is a trial in training; {mean:.1f} of them at a time on the whole. Lines of one worker that run "
        f"beside each other are its lanes, or wait their turn there.{dots}{cut}"
    )
    return Plot("timeline", "Who trained what, and when", sentence, figure, height=pixels)


Spans = dict[int, list[Span]]  # worker → in seconds


def _busy(course: Course) -> Spans:
    gap = course.seconds * SEEN
    workers = sorted({stint.worker for stint in course.stints})
    return {
        worker: merged([(s.begin_s, s.end_s) for s in course.stints if s.worker == worker], gap) for worker in workers
    }


def _idle(course: Course) -> Spans:
    """Pauses that are long enough to be seen."""
    least = course.seconds * SEEN
    found: Spans = {}
    for worker in {stint.worker for stint in course.stints}:
        busy = merged((s.begin_s, s.end_s) for s in course.stints if s.worker == worker)
        there = merged((p.begin_s, p.end_s) for p in course.presences if p.worker == worker and p.told)
        found[worker] = [(begin, end) for begin, end in between(there, busy) if end - begin >= least]
    return found


def placed(stints: Sequence[Stint]) -> tuple[dict[int, int], dict[int, tuple[int, int]]]:
    """The line that each stint is drawn on (by its place among them), and each worker's first line and the one
    after its last. Stints of one line never overlap."""
    lines: dict[int, int] = {}
    bounds: dict[int, tuple[int, int]] = {}
    first = 0
    for worker in sorted({stint.worker for stint in stints}):
        free: list[float] = []  # when each line of this worker ends
        for stint in sorted((s for s in stints if s.worker == worker), key=lambda s: (s.begin_s, s.trial)):
            at = next((i for i, end in enumerate(free) if end <= stint.begin_s), len(free))
            free[at : at + 1] = [stint.end_s]
            lines[id(stint)] = first + at
        bounds[worker] = (first, first + len(free))
        first += len(free)
    return lines, bounds


def _trace(stints: Sequence[Stint], lines: dict[int, int], name: str, colour: str, width: float) -> dict[str, Any]:
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str | None] = []
    for stint in stints:
        said = f"trial {label(stint.trial)}"
        if stint.last is not None:
            said += f", epochs {stint.first} to {stint.last}"
        x += [stint.begin_s, stint.end_s, None]
        y += [lines[id(stint)]] * 2 + [None]
        text += [said, said, None]
    return _line(x, y, text, name, {"color": colour, "width": width})


def _spans(
    spans: Spans, height: dict[int, tuple[int, int]], name: str, colour: str, width: float, dash: str = "solid"
) -> dict[str, Any]:
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str | None] = []
    for worker, found in spans.items():
        at = (height[worker][0] + height[worker][1] - 1) / 2
        for begin, end in found:
            said = f"worker {worker} {name} for {words.duration(end - begin)}"
            x += [round(begin, 3), round(end, 3), None]
            y += [at, at, None]
            text += [said, said, None]
    return _line(x, y, text, name, {"color": colour, "width": width, "dash": dash})


def _line(x: list[Any], y: list[Any], text: list[Any], name: str, line: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": y,
        "text": text,
        "hovertemplate": "%{text}<br>%{x:.2f} s<extra></extra>",
        "line": line,
    }
