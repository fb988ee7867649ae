"""Several objectives: the trials that no other beats in all of them, as a plot and a table."""

from __future__ import annotations

from nnopt_ray.evaluate.pareto import objective_values, pareto
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Block, Cell, Head, Plot, Section, Table, Text
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.figure import axis, label, layout, scale
from nnopt_ray.results import TrialRow

Valued = list[tuple[TrialRow, tuple[float, ...]]]


def tradeoffs(facts: Facts) -> Section | None:
    objectives = facts.experiment.objectives
    if len(objectives) < 2 or not facts.experiment.is_search:
        return None
    best = pareto(facts.rows, objectives)
    if not best:
        return None
    goals = words.listed(
        [f"{'lower' if mode == 'min' else 'higher'} {words.metric_name(metric)}" for mode, metric in objectives]
    )
    finished = sum(row.status == "finished" for row in facts.rows)
    beaten = words.plural(len(best), "trial is", "trials are")
    said = (
        f"{beaten} beaten by none of the {finished} finished ones in all objectives at once ({goals}): to do better in "
        "one of them means to do worse in another. Trials that were stopped early are left out. The winner of this "
        f"report is the best by {words.metric_name(facts.experiment.metric)}, the first objective."
    )
    blocks: list[Block] = [Text(said), _plot(facts, best), _table(facts, best)]
    return Section("Trade-offs between the objectives", tuple(blocks))


def _plot(facts: Facts, best: Valued) -> Plot:
    """The first two objectives against each other."""
    objectives = facts.experiment.objectives
    front = {row.trial for row, _ in best}
    rest = [
        (row, values)
        for row in facts.rows
        if row.status == "finished" and row.trial not in front
        for values in [objective_values(row, objectives)]
        if values is not None
    ]
    # With three objectives the front is no line in the plane of two.
    connected = "lines+markers" if len(objectives) == 2 else "markers"
    traces = [
        {
            "type": "scatter",
            "mode": mode,
            "name": name,
            "x": [values[1] for _, values in shown],
            "y": [values[0] for _, values in shown],
            "text": [f"trial {label(row.trial)}" for row, _ in shown],
            "hovertemplate": "%{text}<br>%{y:.4g} at %{x:.4g}<extra></extra>",
            "marker": {"color": colour, "size": 7},
            "line": {"color": colour, "width": 1.5, "dash": "dot"},
        }
        for shown, name, mode, colour in (
            (rest, "beaten", "markers", "--muted"),
            (sorted(best, key=lambda pair: pair[1][1]), "beaten by none", connected, "--winner"),
        )
        if shown
    ]
    everything = [values for _, values in (*rest, *best)]
    figure = {
        "data": traces,
        "layout": layout(
            axis(label(words.metric_name(objectives[1][1])), **scale([values[1] for values in everything])),
            axis(label(words.metric_name(objectives[0][1])), **scale([values[0] for values in everything])),
        ),
    }
    sentence = "Each point is a finished trial."
    if len(objectives) > 2:
        sentence += " The first two objectives are shown; the table has all of them."
    return Plot("tradeoffs", "The first two objectives", sentence, figure, height=340)


def _table(facts: Facts, best: Valued) -> Table:
    objectives = facts.experiment.objectives
    paths = list(dict.fromkeys(path for row, _ in best for path in row.params))
    heads = (
        Head("trial"),
        *(Head(words.metric_name(metric), number=True) for _, metric in objectives),
        *(Head(tail, above=before) for before, tail in map(words.path_parts, paths)),
    )
    rows = tuple(
        (
            Cell(row.trial),
            *(Cell(_shown(metric, value), value) for (_, metric), value in zip(objectives, values, strict=True)),
            *(Cell(words.chosen(row.params[path]) if path in row.params else "–") for path in paths),
        )
        for row, values in best
    )
    return Table(
        title="Beaten by none",
        caption="Best by the first objective first. Each trial's own page runs it alone: nnopt run trials/ID/page.yaml",
        heads=heads,
        rows=rows,
        sortable=True,
        keys=tuple(row.trial for row, _ in best),
        best=facts.best.trial if facts.best else "",
    )


def _shown(metric: str, value: float) -> str:
    if metric == "seconds":
        return words.duration(value)
    return words.count(round(value)) if metric == "parameters" else words.score(metric, value)
