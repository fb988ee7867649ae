"""report.html of a scaling study, in the look of the report of a run."""

from __future__ import annotations

import math
from datetime import datetime

from nnopt_ray import rundir
from nnopt_ray.report import words, write
from nnopt_ray.report.blocks import Block, Cell, Head, Plot, Row, Section, Table, Text, Tone
from nnopt_ray.report.figure import Figure, axis, clean, label, layout, log_scale, scale
from nnopt_ray.rundir import RunDir
from nnopt_ray.scaling.found import Scaling, Size
from nnopt_ray.scaling.planner import Foreseen, Plan, bytes_told

KIND_COLOURS = {
    "compute": "--winner",
    "preempted": "--faint",
    "communication": "--bad",
    "data": "--second",
    "validation": "--good",
    "checkpoint": "--third",
    "other": "--muted",
}
JUDGED: dict[str, tuple[str, Tone]] = {
    "same": ("the same", "good"),
    "held": ("not worse", "good"),
    "fell": ("worse", "bad"),
    "unknown": ("worse, or chance", "muted"),
}
NONE = Cell("–", tone="muted")


def save(found: Scaling, folder: RunDir) -> None:
    """Write it, whole or not at all. Raises RunFailed when it cannot be written."""
    rundir.write_text(folder.report, html(found))


def html(found: Scaling) -> str:
    """The page as text."""
    made = {"scaling": _speed(found), "time": _time(found), "score": _score(found), "plan": _planned(found)}
    what = {"strong": "the batch kept", "weak": "rows and batch grow", "lanes": "trials side by side"}[found.kind]
    return write.page(
        {name: section for name, section in made.items() if section is not None},
        name=f"{found.name}: how far it scales",
        title=f"{'' if found.status == 'finished' else '(interrupted) '}{found.name} – scaling study of nnopt",
        status=found.status,
        standing="" if found.status == "finished" else f"Sizes are missing: `nnopt resume {found.path}` goes on.",
        beside=f"{found.path.name} · {what} · written {write.stamp(datetime.now().astimezone())}",
        files="scaling.json beside this file, and each size's history in sizes/",
    )


# --- speed ----------------------------------------------------------------------------------------


def _speed(found: Scaling) -> Section:
    blocks: list[Block] = [Text(found.sentences[0])]
    blocks += [Text(sentence, "muted") for sentence in found.sentences[1:] if sentence not in _of_plan(found)]
    measured = [size for size in found.sizes if size.measured]
    if measured:
        blocks.append(_speed_plot(found, measured))
    blocks.append(_table(found))
    return Section("Speed-up", tuple(blocks))


def _of_plan(found: Scaling) -> tuple[str, ...]:
    return found.plan.sentences if found.plan is not None else ()


def _speed_plot(found: Scaling, measured: list[Size]) -> Plot:
    what = "lanes" if found.kind == "lanes" else "workers"
    first = measured[0].workers
    plan = found.plan
    foreseen = () if plan is None else (plan.grown if found.kind == "weak" else plan.kept)
    most = max([size.workers for size in measured] + [each.workers for each in foreseen])
    traces = []
    for name, shared, symbol in (("measured", False, "circle"), ("measured, sharing cores", True, "circle-open")):
        sizes = [size for size in measured if size.oversubscribed == shared]
        if sizes:
            traces.append(_points(sizes, name, symbol))
    ends = [first, most]
    dash = {"color": "--muted", "width": 1.5, "dash": "dash"}
    ideal = {"x": ends, "y": [each / first for each in ends], "line": dash, "hoverinfo": "skip"}
    traces.append({"type": "scatter", "mode": "lines", "name": "ideal", **ideal})
    law = found.law
    if law is not None:
        x = [first * (most / first) ** (step / 40) for step in range(41)] if most > first else [first]
        y = [law.speed_up(each) / law.speed_up(first) for each in x]
        dotted = {"color": "--third", "width": 2, "dash": "dot"}
        name = f"{law.name.capitalize()}'s law"
        traces.append({"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "line": dotted})
    if foreseen:
        marks = {"color": "--second", "symbol": "diamond-open", "size": 9}
        x_y = {"x": [each.workers for each in foreseen], "y": clean([each.speed_up for each in foreseen])}
        traces.append({"type": "scatter", "mode": "lines+markers", "name": "planned", **x_y, "marker": marks,
                       "line": {"color": "--second", "width": 1}})  # fmt: skip
    values = [value for trace in traces for value in trace["y"] if value is not None and value > 0]
    counts = [float(size.workers) for size in measured] + [float(each.workers) for each in foreseen]
    x_axis = axis(what, type="log", tickvals=counts, ticktext=[f"{count:,.0f}" for count in counts])
    y_axis = axis(f"speed-up to {label(measured[0].name)}", **(log_scale(values) if values else {"type": "linear"}))
    caption = "The nearer to the dashed line, the better each worker is used; both axes are logarithmic."
    figure = {"data": traces, "layout": layout(x_axis, y_axis)}
    return Plot("speed", "Rows a second, against the smallest size", caption, figure, height=360)


def _points(sizes: list[Size], name: str, symbol: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [size.workers for size in sizes],
        "y": clean([size.speed_up for size in sizes]),
        "text": [f"{label(size.name)}: {size.rows_per_s:,.0f} rows/s" for size in sizes],
        "hovertemplate": "%{text}<br>%{y:.3g} times<extra></extra>",
        "marker": {"color": "--winner", "size": 10, "symbol": symbol},
    }


def _table(found: Scaling) -> Table:
    money = any(size.money is not None for size in found.sizes)
    heads = [
        Head("size"),
        Head("rows/s", number=True),
        Head("steps/s", number=True),
        Head("epochs/s", number=True, hint="of all trials where they are side by side"),
        Head("epoch", number=True, hint="median, the first one left out"),
        Head("speed-up", number=True),
        Head("efficiency", number=True),
        Head("start", number=True, hint="from the start of the workers to their first step"),
        Head("worker-s", number=True, hint="worker-seconds of an epoch"),
        *([Head("money", number=True, hint="of an epoch")] if money else []),
        Head("batch", number=True),
        Head("note"),
    ]
    rows = []
    for size in found.sizes:
        if not size.measured:
            rows.append((Cell(size.name), *[NONE] * (len(heads) - 2), Cell(size.failed, tone="bad")))
            continue
        note = "shares cores" if size.oversubscribed else size.note
        rows.append(
            (
                Cell(size.name),
                Cell(words.number(size.rows_per_s), size.rows_per_s),
                Cell(words.number(size.steps_per_s), size.steps_per_s),
                Cell(words.number(size.epochs_per_s), size.epochs_per_s),
                Cell(words.duration(size.epoch_s), size.epoch_s),
                NONE if size.speed_up is None else Cell(f"{size.speed_up:.2f}"),
                NONE if size.efficiency is None else Cell(f"{100 * size.efficiency:.0f}{words.NBSP}%"),
                Cell(words.duration(size.start_s) if math.isfinite(size.start_s) else "–"),
                NONE if size.worker_s is None else Cell(words.number(size.worker_s)),
                *([NONE if size.money is None else Cell(words.number(size.money))] if money else []),
                Cell(words.count(size.batch_size)),
                Cell(note, tone="muted"),
            )
        )
    caption = "Medians over all epochs but the first; validation and checkpoint are part of an epoch, the start is not."
    return Table("Each size", caption, tuple(heads), tuple(rows))


# --- time and score -------------------------------------------------------------------------------


def _time(found: Scaling) -> Section | None:
    sizes = [size for size in found.sizes if size.measured and size.spent]
    if not sizes:
        return None
    names = [label(size.name) for size in sizes]
    traces: list[Figure] = [
        {
            "type": "bar",
            "name": kind,
            "x": names,
            "y": clean([size.spent.get(kind) for size in sizes]),
            "marker": {"color": colour},
            "hovertemplate": "%{x}<br>" + kind + " %{y:.3g} s<extra></extra>",
        }
        for kind, colour in KIND_COLOURS.items()
    ]
    figure = {"data": traces, "layout": layout(axis("size"), axis("seconds of an epoch"), barmode="stack")}
    caption = (
        "What shrinks with the workers is shared; what does not is the limit. Communication is what is waited for, "
        "slower workers included."
    )
    plot = Plot("spent", "Where the time of an epoch goes", caption, figure, height=340)
    kinds = tuple(KIND_COLOURS)
    rows = tuple(
        (
            Cell(size.name),
            *(Cell(words.duration(size.spent.get(kind, 0.0)), size.spent.get(kind, 0.0)) for kind in kinds),
            Cell(words.duration(size.epoch_s), size.epoch_s),
        )
        for size in sizes
    )
    heads = (Head("size"), *(Head(kind, number=True) for kind in kinds), Head("epoch", number=True))
    caption = (
        "Measured inside the training, the mean of all workers. Data: reading, ordering, augmenting. Checkpoint: what "
        "is written after an epoch. Preempted: compute that waited for a core which other processes had."
    )
    return Section("Time", (plot, Table("Kinds of time", caption, heads, rows)))


def _score(found: Scaling) -> Section | None:
    sizes = [size for size in found.sizes if size.measured and any(map(math.isfinite, size.values))]
    if not sizes:
        return None
    name = words.metric_name(found.metric)
    points = [(label(size.name), value) for size in sizes for value in size.values if math.isfinite(value)]
    dots = {"color": "--winner", "size": 8, "opacity": 0.8}
    traces: list[Figure] = [
        {"type": "scatter", "mode": "markers", "name": "each seed", "x": [at for at, _ in points],
         "y": [value for _, value in points], "marker": dots},
    ]  # fmt: skip
    sign = 1.0 if found.mode == "max" else -1.0
    told = [size for size in sizes if size.score is not None and size.score.low is not None]
    if told:
        base = sizes[0].value
        middle = [base + sign * size.score.gain for size in told if size.score is not None]
        half = [(size.score.high - size.score.low) / 2 for size in told
                if size.score is not None and size.score.high is not None and size.score.low is not None]  # fmt: skip
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"mean, {100 * found.confidence:.3g} % interval of the difference to {label(sizes[0].name)}",
                "x": [label(size.name) for size in told],
                "y": middle,
                "error_y": {"type": "data", "array": half, "color": "--second"},
                "marker": {"color": "--second", "size": 10, "symbol": "diamond-open"},
            }
        )
    values = [value for _, value in points]
    figure = {"data": traces, "layout": layout(axis("size"), axis(label(name), **scale(values)))}
    better = "lower" if found.mode == "min" else "higher"
    caption = (
        f"At the best epoch of each training, on the validation part; {better} is better. No speed is worth a fall."
    )
    plot = Plot("scores", f"{words.capital(name)} at each size", caption, figure, height=320)
    return Section("Score", (Row((plot, _score_table(found, sizes))),))


def _score_table(found: Scaling, sizes: list[Size]) -> Table:
    rows = []
    for size in sizes:
        score = size.score
        between = NONE
        judged = Cell("what the others are held against", tone="muted") if size is sizes[0] else NONE
        if score is not None:
            judged = Cell(*JUDGED[score.judged][:1], tone=JUDGED[score.judged][1])
            gain = words.signed(found.metric, score.gain)
            if score.low is not None and score.high is not None:
                gain += f"\n{words.signed(found.metric, score.low)} to {words.signed(found.metric, score.high)}"
            between = Cell(gain)
        rows.append((Cell(size.name), Cell(words.score(found.metric, size.value)), between, judged))
    heads = (
        Head("size"),
        Head(words.metric_name(found.metric), number=True),
        Head("gain", number=True, hint="positive: better than the first size, with the same seeds"),
        Head("judged"),
    )
    return Table("Held against the first size", "The test part has no share in it.", heads, tuple(rows))


# --- plan -----------------------------------------------------------------------------------------


def _planned(found: Scaling) -> Section | None:
    plan = found.plan
    if plan is None:
        return None
    blocks: list[Block] = [Text(sentence) for sentence in plan.sentences]
    blocks.append(_plan_table("The batch kept", plan.kept, found))
    blocks.append(_plan_table("The batch grown with the workers", plan.grown, found))
    if plan.errors:
        blocks.append(_errors(plan))
    return Section("Plan", tuple(blocks))


def _plan_table(title: str, foreseen: tuple[Foreseen, ...], found: Scaling) -> Table:
    money = any(each.money is not None for each in foreseen)
    heads = (
        Head("workers", number=True),
        Head("batch", number=True),
        Head("steps", number=True, hint="of an epoch"),
        Head("compute", number=True, hint="of a step"),
        Head("waiting", number=True, hint="of a step, for the sum of gradients"),
        Head("epoch", number=True),
        Head("rows/s", number=True),
        Head("speed-up", number=True),
        Head("efficiency", number=True),
        *([Head("money", number=True, hint="of an epoch")] if money else []),
    )
    rows = tuple(
        (
            Cell(words.count(each.workers)),
            Cell(words.count(each.batch_size)),
            Cell(words.count(each.steps)),
            Cell(seconds_told(each.compute_s)),
            Cell(seconds_told(each.communication_s)),
            Cell(words.duration(each.epoch_s)),
            Cell(words.number(each.rows_per_s)),
            Cell(f"{each.speed_up:.3g}"),
            Cell(f"{100 * each.efficiency:.0f}{words.NBSP}%", tone="" if each.efficiency >= 0.5 else "bad"),
            *([NONE if each.money is None else Cell(words.number(each.money))] if money else []),
        )
        for each in foreseen
    )
    assert found.plan is not None
    sent = bytes_told(found.plan.gradient_bytes)
    caption = f"Foreseen, not measured. Speed-up to one worker by the same reckoning; {sent} are added up in a step."
    return Table(title, caption, heads, rows)


def _errors(plan: Plan) -> Table:
    rows = tuple(
        (Cell(words.count(workers)), Cell(f"{100 * error:+.1f}{words.NBSP}%"))
        for workers, error in sorted(plan.errors.items())
    )
    heads = (Head("workers", number=True), Head("foretold / measured", number=True))
    return Table("How wrong it is where it was measured", "Each size foretold from the others.", heads, rows)


def seconds_told(seconds: float) -> str:
    """As `words.duration`, with microseconds below a hundredth of a second."""
    if seconds == 0:
        return f"0{words.NBSP}s"
    if seconds >= 0.01 or not math.isfinite(seconds):
        return words.duration(seconds)
    return f"{1e6 * seconds:,.0f}{words.NBSP}µs"
