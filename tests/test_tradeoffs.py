"""The report's section on several objectives."""

from __future__ import annotations

from dataclasses import replace

import report_example as example
from plotly import graph_objects

from nnopt_ray.evaluate.pareto import pareto
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Plot, Table, Text
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.sections import SECTIONS
from nnopt_ray.report.write import html

BOTH = ["minimize val_loss", "minimize parameters"]


def facts(objective: list[str]) -> Facts:
    found = example.classification(experiment=example.page(objective=objective))
    sized = [
        replace(row, metrics={**row.metrics, "parameters": 1000.0 + 7919 * number % 5000})
        for number, row in enumerate(found.rows)
    ]
    return replace(found, rows=tuple(sized))


def test_the_table_holds_the_trials_that_none_beats_and_the_plot_is_a_good_figure() -> None:
    found = facts(BOTH)
    section = SECTIONS["tradeoffs"](found)
    assert section is not None
    text, plot, table = section.blocks
    assert isinstance(text, Text)
    assert isinstance(plot, Plot)
    assert isinstance(table, Table)
    expected = pareto(found.rows, found.experiment.objectives)
    assert table.keys == tuple(row.trial for row, _ in expected)
    assert [row[2].text for row in table.rows] == [f"{int(values[1]):,}" for _, values in expected]
    assert f"{words.plural(len(expected), 'trial is', 'trials are')} beaten by none of the" in text.text
    assert len(plot.figure["data"][-1]["x"]) == len(expected)
    named = {**plot.figure, "data": [{**trace} for trace in plot.figure["data"]]}
    for trace in named["data"]:
        trace["marker"] = {**trace["marker"], "color": "red"}
        trace["line"] = {**trace["line"], "color": "red"}
        graph_objects.Scatter(**trace)


def test_three_objectives_have_a_column_each_and_no_line_through_their_front() -> None:
    section = SECTIONS["tradeoffs"](facts([*BOTH, "minimize seconds"]))
    assert section is not None
    assert [head.text for head in section.blocks[2].heads[1:4]] == ["validation loss", "parameters", "seconds"]  # type: ignore[union-attr]
    assert section.blocks[1].figure["data"][-1]["mode"] == "markers"  # type: ignore[union-attr]


def test_it_is_part_of_the_page_and_not_there_for_one_objective_or_before_a_trial_is_over() -> None:
    assert "Trade-offs between the objectives" in html(facts(BOTH), "run")
    assert SECTIONS["tradeoffs"](example.classification()) is None
    assert SECTIONS["tradeoffs"](replace(facts(BOTH), rows=())) is None
