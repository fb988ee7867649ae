"""How the search was run: its workers and lanes, what the scheduler left out, who trained what and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnopt_ray.report import words
from nnopt_ray.report.blocks import Block, Cell, Fold, Head, Plot, Section, Table, Text
from nnopt_ray.report.course import Course, Stint
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.figure import axis, label, layout
from nnopt_ray.results import TrialRow
from nnopt_ray.trials import cause_in_words

STINTS = 1500  # drawn at most, the longest: 100 bytes each, and more are a blot
TAKEOVERS = 200  # rows of their table

# What became of a trial: in words, and its colour in the timeline.
ENDS = {
    "finished": ("trained to its own end", "--winner"),
    "stopped": ("stopped by the scheduler", "--muted"),
    "failed": ("failed", "--bad"),
    "paused": ("paused", "--second"),
    "running": ("not finished", "--second"),
    "pending": ("not begun", "--second"),
}


def conduct(facts: Facts) -> Section | None:
    if not facts.experiment.is_search or not facts.rows:
        return None
    blocks: list[Block] = [Text(sentence) for sentence in (*_decided(facts), saving(facts))]
    if facts.course.resumed:
        blocks.append(Text(f"The search was taken up again {words.plural(facts.course.resumed, 'time')}.", "muted"))
    blocks.append(_ends(facts))
    if facts.course.stints:
        blocks.append(timeline(facts))
    if facts.course.takeovers:
        blocks.append(_takeovers(facts.course))
    return Section("How the search was run", tuple(blocks))


def _decided(facts: Facts) -> list[str]:
    """Why so many workers, and why so many trials at a time."""
    told = facts.result.decided if facts.result else {}
    found = []
    if "workers" in told:
        found.append(f"Workers: {told['workers'].rstrip('.')}.")
    if "lanes" in told:
        found.append(f"{words.capital(told['lanes'].rstrip('.'))}.")
    return found


def saving(facts: Facts) -> str:
    """What the scheduler left out, in epochs; how that compares with what was trained."""
    experiment, course = facts.experiment, facts.course
    whole = sum(_limit(facts, row) for row in facts.rows)
    done = sum(row.epochs for row in facts.rows)
    scheduler = experiment.search.scheduler.type
    trained = f"{words.plural(len(facts.rows), 'trial')} trained {done:,} of at most {whole:,} epochs"
    if scheduler == "none":
        return f"{words.capital(trained)}; no scheduler stopped any."
    ended = [row for row in facts.rows if row.status == "stopped"]
    left = sum(_limit(facts, row) - row.epochs for row in ended)
    told = [f"{words.capital(trained)}."]
    if ended:
        stopping = experiment.train.early_stopping is not None
        most = "at most " if stopping else ""
        tail = ", fewer where early stopping would have ended them sooner" if stopping else ""
        share = f"{100 * left / whole:.0f}{words.NBSP}%"
        told.append(
            f"{scheduler} stopped {len(ended):,} of them, which left out {most}{left:,} epochs ({share} of all){tail}."
        )
    if course.pauses:
        told.append(
            f"Trials paused {words.plural(course.pauses, 'time')} and were taken up again "
            f"{words.plural(course.promotions, 'time')}."
        )
    if course.takeovers:
        told.append(f"{words.plural(len(course.takeovers), 'time')} a trial went on with the weights of a better one.")
    return " ".join(told)


def _limit(facts: Facts, row: TrialRow) -> int:
    return int(row.params.get("train.epochs", facts.experiment.train.epochs))


def _ends(facts: Facts) -> Table:
    groups: dict[tuple[str, str], list[TrialRow]] = {}
    for row in facts.rows:
        groups.setdefault((row.status, row.cause), []).append(row)
    order = list(ENDS)
    rows = [
        (
            Cell(_end(*key), tone="bad" if key[0] == "failed" else ""),
            Cell(words.count(len(found)), len(found)),
            Cell(words.count(sum(row.epochs for row in found))),
            Cell(words.duration(sum(row.seconds for row in found))),
            Cell(_named(found), tone="muted"),
        )
        for key, found in sorted(groups.items(), key=lambda item: (order.index(item[0][0]), -len(item[1])))
    ]
    count, epochs = facts.course.confirming
    if count:
        again = Cell("trained again over seeds"), Cell(words.count(count), count), Cell(words.count(epochs))
        rows.append((*again, Cell("–", tone="muted"), Cell("to confirm the best", tone="muted")))
    return Table(
        title="How trials ended",
        caption="",
        heads=(
            Head("end"),
            Head("trials", number=True),
            Head("epochs", number=True),
            Head("training time", number=True, hint="a lane's is its share of the step"),
            Head("which"),
        ),
        rows=tuple(rows),
    )


def _end(status: str, cause: str) -> str:
    said = ENDS[status][0]
    return f"{said}: {cause_in_words(cause)}" if cause else said


def _named(rows: Sequence[TrialRow], most: int = 6) -> str:
    names = [row.trial for row in rows[:most]]
    return ", ".join(names) + (" …" if len(rows) > most else "")


def _takeovers(course: Course) -> Fold:
    paths = list(dict.fromkeys(path for each in course.takeovers for path in each.params))
    rows = tuple(
        (
            Cell(each.trial),
            Cell(str(each.epochs), each.epochs),
            Cell(each.donor),
            *(Cell(words.chosen(each.params[path]) if path in each.params else "–") for path in paths),
        )
        for each in course.takeovers[:TAKEOVERS]
    )
    heads = (
        Head("trial"),
        Head("after epochs", number=True),
        Head("took over from"),
        *(Head(tail, above=before) for before, tail in map(words.path_parts, paths)),
    )
    cut = f" The first {TAKEOVERS} of {len(course.takeovers):,}." if len(course.takeovers) > TAKEOVERS else ""
    table = Table(
        "",
        f"Weights and optimizer of the other trial, with which values training went on. A trial's row elsewhere shows "
        f"its last values; its best epoch may have had earlier ones.{cut}",
        heads,
        rows,
        sortable=True,
    )
    return Fold("Every takeover", (table,))


# --- the timeline -----------------------------------------------------------------------------------


def timeline(facts: Facts) -> Plot:
    """A line for every stint of a trial, those of one worker beneath each other."""
    course = facts.course
    lines, height = placed(course.stints)
    shown = sorted(course.stints, key=lambda stint: stint.begin_s - stint.end_s)[:STINTS]
    ends = {row.trial: row.status for row in facts.rows}
    best = facts.best.trial if facts.best else ""
    traces = []
    looks = [*((status, name, colour) for status, (name, colour) in ENDS.items()), ("", "over seeds", "--third")]
    for status, name, colour in [*looks, ("best", "the winner", "--good")]:
        mine = [s for s in shown if (s.trial == best if status == "best" else s.trial != best)]
        mine = [s for s in mine if status == "best" or ends.get(s.trial, "") == status]
        if mine:
            traces.append((mine, name, colour))
    workers = sorted({stint.worker for stint in course.stints})
    middle = [(height[w][0] + height[w][1] - 1) / 2 for w in workers]
    rows = max(end for _, end in height.values())
    pixels = max(240, min(640, 150 + 14 * rows))
    width = round(max(1.5, min(6.0, 0.6 * (pixels - 120) / rows)), 1)
    y = axis(
        "worker", tickmode="array", tickvals=middle, ticktext=[str(worker) for worker in workers], zeroline=False,
        range=[rows - 0.3, -0.7], showgrid=False,
    )  # fmt: skip
    figure = {
        "data": [_trace(mine, lines, name, colour, width) for mine, name, colour in traces],
        "layout": layout(axis("seconds of the search", rangemode="tozero"), y, hovermode="closest", showlegend=True),
    }
    mean = sum(stint.end_s - stint.begin_s for stint in course.stints) / (course.seconds or 1.0)
    cut = f" The {STINTS:,} longest of {len(course.stints):,} are drawn." if len(course.stints) > STINTS else ""
    sentence = (
        f"Each line is a trial in training; {mean:.1f} of them at a time on the whole. Lines of one worker that run "
        f"beside each other are its lanes, or wait their turn there.{cut}"
    )
    return Plot("timeline", "Who trained what, and when", sentence, figure, height=pixels)


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
    y: list[int | None] = []
    text: list[str | None] = []
    for stint in stints:
        said = f"trial {label(stint.trial)}"
        if stint.last is not None:
            said += f", epochs {stint.first} to {stint.last}"
        x += [stint.begin_s, stint.end_s, None]
        y += [lines[id(stint)]] * 2 + [None]
        text += [said, said, None]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x,
        "y": y,
        "text": text,
        "hovertemplate": "%{text}<br>%{x:.2f} s<extra></extra>",
        "line": {"color": colour, "width": width},
    }
