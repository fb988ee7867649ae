"""The report: what stands on the page, what is said of it, and that no text of a user can do anything."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import cache
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import report_example as example
from hypothesis import given
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs

import nnopt_ray
from nnopt_ray import reading, rundir
from nnopt_ray.errors import RunFolderError
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Cell, Fold, Parallel, Plot, Row, Table, Text
from nnopt_ray.report.diagnosed import advice
from nnopt_ray.report.facts import PLOTTED_POINTS, Facts, Gain, facts_from_folder, incumbents, thinned
from nnopt_ray.report.figure import label, scale
from nnopt_ray.report.parallel import LINES, Scale
from nnopt_ray.report.sections import CHAPTERS, ROWS, SECTIONS
from nnopt_ray.report.summary import gain_words
from nnopt_ray.report.write import embedded, html, write
from nnopt_ray.results import Epoch
from nnopt_ray.search.confirm import verdict
from nnopt_ray.trials import write_table

STYLE = Path(__file__).parent.parent / "nnopt_ray/report/page.css"


@cache
def facts(kind: str) -> Facts:
    single = example.page("digits-mlp", search=False)
    return {
        "search": example.classification,
        "single": lambda: example.classification(experiment=single),
        "regression": example.regression,
        "empty": lambda: Facts(example.page()),
    }[kind]()


KINDS = ("search", "single", "regression", "empty")
# of several objectives; where rows are augmented, checked, cross-validated, explained
NOT_HERE = {"tradeoffs", "augmented", "found", "explained", "folded", "sized", "amounts", "calibrated", "decided"}
OF_A_SEARCH = {"confirmed", "optimistic", "tradeoffs", "trials", "learned", "conduct"}  # which a single training lacks


@cache
def page(kind: str) -> str:
    return html(facts(kind), f"{kind}-20261122-120000")


PLOTLY = get_plotlyjs()


class Tree(HTMLParser):
    """Every element with its attributes; the text of scripts; fails on a tag that closes nothing.

    Plotly's script is left out of the parsing: Python's parser takes a minute for its 4.8 MB.
    """

    VOID = ("meta", "link", "br", "hr", "img", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._open: list[str] = []
        before, plotly, after = text.partition(PLOTLY)
        assert plotly
        assert PLOTLY not in after
        self.feed(before + after)
        self.close()
        self.scripts = [(a, PLOTLY if t == "" else t) for a, t in self.scripts]
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif "style" not in self._open:
            self.text += data


@cache
def tree(kind: str) -> Tree:
    return Tree(page(kind))


def blocks(found: Facts) -> Iterator[Any]:
    def inside(block: Any) -> Iterator[Any]:
        if isinstance(block, (Row, Fold)):
            for inner in block.blocks:
                yield from inside(inner)
        else:
            yield block

    for build in SECTIONS.values():
        section = build(found)
        for block in section.blocks if section else ():
            yield from inside(block)


def section_ids(found: Tree) -> list[str | None]:
    return [attributes.get("id") for tag, attributes in found.elements if tag == "section"]


# --- confirmed over seeds ------------------------------------------------------------------------------


def confirmation(found: Facts) -> tuple[str, Table]:
    """The sentences and the table."""
    section = SECTIONS["confirmed"](found)
    assert section is not None
    *sentences, table = section.blocks
    assert isinstance(table, Table)
    return " ".join(block.text for block in sentences if isinstance(block, Text)), table


def test_the_confirmation_shows_every_value_and_marks_the_winner(tmp_path: Path) -> None:
    told = facts("search")
    assert told.result is not None
    found = told.result.confirm
    assert found is not None
    text, table = confirmation(told)
    assert table.best == found.winner == table.rows[0][0].text
    assert [row[0].text for row in table.rows] == [each.trial for each in found.contestants] + ["baseline"]
    for each, row in zip(found.contestants, table.rows, strict=False):
        assert [cell.text for cell in row[3:6]] == [words.score("val_loss", value) for value in each.values]
        assert row[1].text.startswith(words.score("val_loss", each.mean))
    assert text.startswith(f"Trial {found.winner} is the best of 3 over 3\xa0seeds")
    assert confirmation(facts_from_folder(example.folder(told, tmp_path))) == (text, table)


def test_the_confirmation_calls_a_tie_one_and_a_failure_one() -> None:
    told = facts("search")
    assert told.result is not None

    def of(values: dict[str, list[float]], baseline: list[float] | None = None) -> tuple[str, Table]:
        found = verdict(values, baseline, "min", 0.95, "val_loss")
        return confirmation(replace(told, result=replace(told.result, confirm=found)))  # type: ignore[type-var]

    text, table = of({"0001": [0.30, 0.20, 0.25], "0002": [0.24, 0.26, 0.22]}, [0.9, 0.9, 0.9])
    assert "A tie with trial 0001 (the runner-up): it is ahead of it by 0.01000" in text
    assert "Calling one of them better would be a guess." in text
    assert "It is better than the baseline by 0.6600 (0.6103 to 0.7097)." in text
    assert [row[6].tone for row in table.rows] == ["muted", "", "good"]
    text, _ = of({"0001": [0.2, 0.2, 0.2], "0002": [0.2, 0.2, 0.2]})
    assert "level with it, and anything from 0 to 0 fits" in text
    text, table = of({"0001": [0.25, 0.5, math.nan], "0002": [0.35, 0.6, 0.2]})
    assert "It is worse than trial 0001 (the runner-up) by 0.1000 (0.1000 to 0.1000) where both have a value." in text
    assert "Trial 0001 failed with 1\xa0seed, so it stands behind." in text
    assert table.rows[1][5] == Cell("failed", tone="bad")
    text, _ = of({"0001": [0.1, math.nan], "0002": [math.nan, 0.2]})
    assert "It cannot be compared with trial 0002" in text
    text, _ = of({"0001": [math.nan, math.nan]})
    assert text == "No training of the best trials over other seeds gave a value, so nothing is confirmed."


# --- the page ---------------------------------------------------------------------------------------


def test_chapters_hold_sections_that_stand_one_after_another() -> None:
    chapters = {name: title for title, names in CHAPTERS.items() for name in names}
    assert set(chapters) <= set(SECTIONS)
    order = [chapters.get(name, name) for name in SECTIONS]
    assert len([title for title, _ in groupby(order)]) == len(set(order)) <= 11


def test_sections_stand_in_the_order_of_their_table() -> None:
    assert section_ids(tree("search")) == [name for name in SECTIONS if name not in NOT_HERE]
    assert section_ids(tree("single")) == [name for name in SECTIONS if name not in OF_A_SEARCH | NOT_HERE]
    assert section_ids(tree("regression")) == [name for name in SECTIONS if name not in OF_A_SEARCH | NOT_HERE]
    assert section_ids(tree("empty")) == ["summary", "environment"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_one_file_that_loads_nothing(kind: str) -> None:
    found = tree(kind)
    assert len(page(kind)) < 6e6
    for tag, attributes in found.elements:
        assert tag not in ("img", "iframe", "object", "embed", "form", "base")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href"):
                assert value is not None
                assert value.startswith(("#", "data:,"))
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_two_own_scripts_may_run(kind: str) -> None:
    found = tree(kind)
    running = [text for attributes, text in found.scripts if attributes.get("type") != "application/json"]
    assert len(running) == 2
    policy = next(a["content"] or "" for tag, a in found.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    assert allowed == [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in running]
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_the_first_screen_says_score_interval_gain_and_what_was_searched() -> None:
    found, text = facts("search"), tree("search").text
    test = found.winner["test"]
    low, high = test.intervals["accuracy"]
    assert f"{100 * test.metrics['accuracy']:.1f}\u00a0%" in text
    assert f"95\u00a0% interval {100 * low:.1f}\u00a0% to {100 * high:.1f}\u00a0%" in text
    assert f"Better than the baseline (linear) by {100 * found.gains['accuracy'].value:.1f}\u00a0points" in text
    assert "Bayesian search with asha stopping over" in text
    assert "train.optimizer.lr (0.0001 to 0.1, log)" in text
    assert "to minimize validation loss" in text
    assert "What to try next" in text


def test_a_table_has_a_cell_for_every_head() -> None:
    for kind in KINDS:
        for table in blocks(facts(kind)):
            if isinstance(table, Table):
                assert {len(row) for row in table.rows} <= {len(table.heads)}
                assert len(table.keys) in (0, len(table.rows))


def test_failed_trials_stand_in_the_table_with_their_reason() -> None:
    found = facts("search")
    failed = [row for row in found.rows if row.status == "failed"]
    assert failed
    table = next(b for b in blocks(found) if isinstance(b, Table) and b.title == "Every trial")
    assert len(table.rows) == len(found.rows)
    last = table.rows[-len(failed) :]
    assert {row[1].text for row in last} == {"failed"}
    assert {row[-1].text for row in last} == {row.reason for row in failed}
    values = [row[2].sort for row in table.rows if row[2].sort is not None]
    assert values == sorted(values)


def test_ten_thousand_trials_still_make_a_page_of_six_megabytes() -> None:
    some = facts("search").rows
    many = tuple(replace(some[i % len(some)], trial=f"{i:05d}") for i in range(10_000))
    found = replace(facts("search"), rows=many)
    assert len(html(found)) < 6e6
    table = next(b for b in blocks(found) if isinstance(b, Table) and b.title == "The best trials")
    assert ROWS <= len(table.rows) < len(many)
    assert f"{10_000 - len(table.rows):,}" in table.caption
    assert len(next(b for b in blocks(found) if isinstance(b, Parallel)).lines) == LINES


# --- plots ------------------------------------------------------------------------------------------


def names_in_style() -> dict[str, str]:
    """The colours of the light scheme."""
    root = STYLE.read_text().split("}", 1)[0]
    return dict(re.findall(r"(--[a-z0-9-]+): ([^;]+);", root))


def painted(node: Any, inside: bool = False) -> Any:
    if isinstance(node, str):
        return names_in_style()[node] if inside and node.startswith("--") else node
    if isinstance(node, list):
        return [painted(item, inside) for item in node]
    if isinstance(node, dict):
        return {key: painted(value, bool(re.search("color(scale)?$", key))) for key, value in node.items()}
    return node


@pytest.mark.parametrize("kind", KINDS[:3])
def test_plotly_accepts_every_plot(kind: str) -> None:
    plots = [block for block in blocks(facts(kind)) if isinstance(block, Plot)]
    assert len(plots) >= 4
    for plot in plots:
        go.Figure(painted(json.loads(json.dumps(plot.figure))))  # raises on a wrong name, type or colour
        x, y = plot.figure["layout"]["xaxis"], plot.figure["layout"]["yaxis"]
        assert plot.title
        assert plot.caption.endswith(".")
        assert x["title"]["text"]
        assert y["title"]["text"]


def test_the_confusion_plot_holds_the_counts() -> None:
    test = facts("search").winner["test"]
    plot = next(b for b in blocks(facts("search")) if isinstance(b, Plot) and b.id == "confusion")
    shares = np.array(plot.figure["data"][0]["z"])
    counts = np.array(test.confusion)
    assert shares == pytest.approx(100 * counts / counts.sum(axis=1, keepdims=True), abs=0.006)
    written = plot.figure["data"][0]["text"]
    assert written[0][0] == f"{counts[0, 0]}<br>{shares[0, 0]:.0f}%"
    assert f"{counts.trace()} of {counts.sum()} test rows" in plot.caption


def test_a_hundred_classes() -> None:
    names = tuple(f"class {number}" for number in range(100))
    found = example.classification(classes=names, experiment=example.page(search=False))
    plot = next(b for b in blocks(found) if isinstance(b, Plot) and b.id == "confusion")
    assert "text" not in plot.figure["data"][0]
    assert len(plot.figure["layout"]["xaxis"]["ticktext"]) <= 34
    assert len(html(found)) < 6e6


def test_of_a_thousand_classes_those_with_mistakes_are_shown() -> None:
    names = tuple(f"class {number}" for number in range(1000))
    size = len(names)
    table = np.diag(np.full(size, 50))
    table[700, 3], table[3, 700], table[999, 0] = 40, 2, 1
    each = tuple(
        {"class": n, "precision": 1.0, "recall": 1.0, "f1": 1 - 0.5 * (n == "class 700"), "rows": 50} for n in names
    )
    test = replace(
        facts("single").winner["test"], confusion=tuple(map(tuple, table.tolist())), classes=names, per_class=each
    )
    found = replace(facts("single"), winner={"test": test})
    plot = next(b for b in blocks(found) if isinstance(b, Plot) and b.id == "confusion")
    z = np.array(plot.figure["data"][0]["z"])
    assert z.shape == (100, 100)
    assert (z > 0).sum() == 103
    assert z.max() == 100
    assert "“class 700” taken for “class 3”" in plot.caption
    assert "Of 1,000 classes the 100 with the most mistakes" in plot.caption
    pairs = next(b for b in blocks(found) if isinstance(b, Table) and b.title == "The most frequent mistakes")
    assert [[cell.text for cell in row] for row in pairs.rows] == [
        ["class 700", "class 3", "40", "44.4\u00a0%"],
        ["class 3", "class 700", "2", "3.8\u00a0%"],
        ["class 999", "class 0", "1", "2.0\u00a0%"],
    ]
    classes = next(b for b in blocks(found) if isinstance(b, Table) and b.title == "Each class")
    assert len(classes.rows) < size
    assert classes.rows[0][0].text == "class 700"
    assert len(html(found)) < 6e6


def test_nan_and_infinite_values_leave_gaps() -> None:
    history = tuple(
        Epoch(e, {"train_loss": math.nan, "val_loss": math.inf if e % 2 else 1.0}, 0.1, math.nan, 0.1) for e in range(8)
    )
    found = replace(facts("single"), history=history)
    plot = next(b for b in blocks(found) if isinstance(b, Plot) and b.id == "loss")
    assert plot.figure["data"][0]["y"] == [None] * 8
    assert plot.figure["data"][1]["y"] == [1.0, None] * 4
    assert "NaN" not in "".join(text for a, text in Tree(html(found)).scripts if a.get("type"))


def test_incumbents_are_the_running_best() -> None:
    found = facts("search")
    values = np.array([row.value if row.value is not None else np.inf for row in found.rows])
    best = np.minimum.accumulate(values)
    steps = np.flatnonzero(np.diff(np.concatenate([[np.inf], best])) < 0)
    assert [trial for trial, _ in incumbents(found.rows, "min")] == [found.rows[i].trial for i in steps]
    flipped = [replace(row, value=None if row.value is None else -row.value) for row in found.rows]
    assert [t for t, _ in incumbents(flipped, "max")] == [t for t, _ in incumbents(found.rows, "min")]


@given(st.lists(st.floats(1e-9, 1e9), min_size=2, max_size=30))
def test_ticks_of_a_log_axis_cover_its_values(values: list[float]) -> None:
    keys = scale(values)
    if keys["type"] == "log":
        assert max(values) / min(values) > 30
        assert 2 <= len(keys["tickvals"]) <= 15
        assert [float(text) for text in keys["ticktext"]] == pytest.approx(keys["tickvals"], rel=1e-3)
        assert any(min(values) <= tick <= max(values) for tick in keys["tickvals"])


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_a_scale_keeps_order_and_ends(low: float, length: float, shares: list[float]) -> None:
    high = low + length
    found = Scale.numbers("x", [], "linear", (low, high))
    assert found.place(low) == 0
    assert found.place(high) == 1
    values = sorted(min(high, low + share * length) for share in shares)
    places = [found.place(value) for value in values]
    assert places == sorted(places)
    ticks = [at for at, _ in found.axis.ticks]
    assert ticks[0] == 0
    assert ticks[-1] == 1
    assert ticks == sorted(ticks)


def test_a_log_scale_is_even_in_factors() -> None:
    found = Scale.numbers("lr", [], "log", (1e-4, 1e-1))
    assert found.place(1e-3) == pytest.approx(1 / 3)
    assert [text for _, text in found.axis.ticks] == ["0.0001", "0.001", "0.01", "0.1"]


def test_parallel_coordinates_hold_every_trial_with_a_value() -> None:
    found = facts("search")
    crossing = next(b for b in blocks(found) if isinstance(b, Parallel))
    scored = sorted((row for row in found.rows if row.value is not None), key=lambda row: row.value or 0)
    assert [line.key for line in crossing.lines] == [row.trial for row in scored]
    paths = [axis.title for axis in crossing.axes[:-1]]
    assert set(paths) == {path for path, _ in found.experiment.space}
    for line, row in zip(crossing.lines, scored, strict=True):
        assert [place is not None for place in line.places[:-1]] == [path in row.params for path in paths]
        assert all(0 <= place <= 1 for place in line.places if place is not None)
    assert crossing.lines[0].places[-1] == 0  # the best has the lowest loss


# --- text of the user -------------------------------------------------------------------------------


def test_no_text_of_the_user_becomes_markup() -> None:
    plain, bad = tree("search"), Tree(html(example.hostile(), example.HOSTILE[0]))
    advice = {"ol", "li", "b", "code"}
    assert {tag for tag, _ in bad.elements} - advice == {tag for tag, _ in plain.elements} - advice
    assert len(bad.scripts) == len(plain.scripts) + 1  # a slice of the value that no range of the page opens
    assert not [name for _, attributes in bad.elements for name in attributes if name.startswith("on")]
    for text in example.HOSTILE:
        assert words.harmless(text).replace("\u2028", "") in bad.text.replace("\u2028", "")
    assert not set(bad.text) & {"\u202e", "\u2067", "\x00"}
    assert "שלום עולם" in bad.text
    for attributes, text in bad.scripts:
        if attributes.get("type"):
            json.loads(text)
            assert not re.search(r"[<>&]", text)


def test_no_text_of_the_user_is_read_as_html_by_plotly() -> None:
    def texts(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        for item in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from texts(item)

    own = re.compile(r"<br>|<extra></extra>")
    for plot in blocks(example.hostile()):
        if isinstance(plot, Plot):
            assert not [text for text in texts(plot.figure) if "<" in own.sub("", text)]
            templates = [trace.get("hovertemplate", "") for trace in plot.figure["data"]]
            assert not [text for text in templates if "alert" in text]


@given(st.text())
def test_label_leaves_no_html(text: str) -> None:
    assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", label(text))


@given(st.recursive(st.text() | st.floats(allow_nan=False, allow_infinity=False) | st.none(), st.lists))
def test_embedded_json_is_the_same_value_and_cannot_end_its_element(value: Any) -> None:
    text = str(embedded(value))
    assert json.loads(text) == value
    assert not re.search(r"[<>&]", text)


# --- the run folder ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS[:3])
def test_facts_come_back_from_the_open_files_of_a_run(kind: str, tmp_path: Path) -> None:
    told = facts(kind)
    back = facts_from_folder(example.folder(told, tmp_path))
    assert back.missing == ()
    for field in fields(Facts):
        if field.name == "experiment":
            assert reading.dump(back.experiment) == reading.dump(told.experiment)
        elif field.name in ("rows", "history"):
            assert json.dumps(rundir.finite(getattr(back, field.name)), default=vars, sort_keys=True) == json.dumps(
                rundir.finite(getattr(told, field.name)), default=vars, sort_keys=True
            )
        elif field.name == "environment":
            assert back.environment == json.loads(json.dumps(told.environment))
        elif field.name == "standing":
            assert (back.standing.status, back.standing.folder) == ("finished", str(tmp_path))
        else:
            assert getattr(back, field.name) == getattr(told, field.name), field.name


@pytest.mark.parametrize("table", ["no table", "old table"])
def test_an_interrupted_search_has_a_report_that_says_what_is_missing(table: str, tmp_path: Path) -> None:
    """Killed in its 20th trial, with the table never written or still of the time of the tenth."""
    whole = facts("search")
    number = next(i for i, row in enumerate(whole.rows) if i >= 20 and row.status == "stopped")
    last = replace(whole.rows[number], status="running")
    told = replace(whole, rows=(*whole.rows[:number], last), result=None)
    run = example.folder(told, tmp_path)
    for path in (run.scores, run.best_metrics, run.environment, run.trials_table):
        path.unlink()
    if table == "old table":
        early = [*told.rows[:9], replace(told.rows[9], status="running", value=None)]
        write_table(run.trials_table, early)
    cut = run.trial(last.trial).history
    cut.write_bytes(cut.read_bytes()[:-30])  # the write of the last epoch was cut off
    back = facts_from_folder(run)
    write(run, back)
    text = Tree(run.report.read_text()).text
    assert "The run was interrupted: 20 of 64\xa0trials are over" in text
    assert f"nnopt resume {run.root} goes on from there" in text
    assert "not been evaluated" in text
    assert "no record of the environment" in text
    failed = next(row for row in told.rows if row.status == "failed")
    assert failed.reason in text
    assert "not finished" in text
    for mine, theirs in zip(back.rows[:-1], told.rows, strict=False):
        assert (mine.trial, mine.status, mine.reason, mine.value, mine.params, mine.epochs) == (
            (theirs.trial, theirs.status, theirs.reason, theirs.value, theirs.params, theirs.epochs)
        )
    assert back.rows[-1].epochs == last.epochs - 1
    assert back.best is not None
    assert back.best.value == min(row.value for row in told.rows[:-1] if row.value is not None)
    assert f"{words.number(back.best.value)}not measured on the test part yet" in text.replace("\n", "")
    assert [item.title for item in advice(back)] == ["Let it finish"]


def test_an_interrupted_training_shows_its_epochs(tmp_path: Path) -> None:
    told = facts("single")
    run = example.folder(told, tmp_path)
    for path in (run.result, run.scores, run.trials_table):
        path.unlink()
    back = facts_from_folder(run)
    assert back.best is not None
    assert back.best.status == "running"
    assert back.history == told.history
    assert section_ids(Tree(html(back))) == ["summary", "learning", "data", "environment"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    run = example.folder(facts("search"), tmp_path)
    run.scores.write_text('{"winner": {')
    write(run, facts_from_folder(run))
    assert "scores.json cannot be read" in Tree(run.report.read_text()).text


def test_a_folder_with_nothing_but_its_page(tmp_path: Path) -> None:
    run = rundir.RunDir(tmp_path)
    rundir.write_text(run.resolved, reading.dump(example.page()))
    write(run, facts_from_folder(run))
    assert "No trial has begun" in Tree(run.report.read_text()).text


def test_an_unreadable_page_is_a_fault_of_the_folder(tmp_path: Path) -> None:
    rundir.write_text(rundir.RunDir(tmp_path).resolved, "name: [")
    with pytest.raises(RunFolderError, match=r"resolved\.yaml cannot be read as a page"):
        facts_from_folder(rundir.RunDir(tmp_path))


def test_a_real_run_is_told_as_its_result_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNOPT_CACHE", str(tmp_path / "cache"))
    page = reading.from_tree(
        {
            "name": "iris",
            "data": {"source": {"type": "sklearn", "name": "iris"}},
            "model": {"type": "mlp", "widths": [8]},
            "train": {"epochs": 3},
            "evaluate": {"bootstrap": 50},
        }
    )
    done = nnopt_ray.run(page, out=tmp_path)
    run, result = rundir.RunDir(done.path), done.result
    back = facts_from_folder(run)
    assert back.missing == ()
    assert back.result is not None
    assert back.result.to_json() == result
    assert back.parameters == 4 * 8 + 8 + 8 * 3 + 3
    assert set(back.gains) == set(result["test"])
    found = Tree(run.report.read_text())
    assert section_ids(found) == [name for name in SECTIONS if name not in (OF_A_SEARCH | NOT_HERE) - {"calibrated"}]
    assert words.score("accuracy", result["test"]["accuracy"]) in found.text


@given(st.integers(0, 5 * PLOTTED_POINTS))
def test_a_thinned_scatter_is_spread_over_all_rows(rows: int) -> None:
    points = thinned([(float(i), float(-i)) for i in range(rows)])
    assert points.rows == rows
    assert len(points.true) <= PLOTTED_POINTS
    if rows:
        assert points.true[0] == 0
        assert rows - points.true[-1] <= math.ceil(rows / PLOTTED_POINTS)


# --- words ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.score("val_accuracy", 0.9722), "97.2\u00a0%"),
        (words.score("accuracy", 1.0), "100.0\u00a0%"),
        (words.score("accuracy", 0.9999), "99.99\u00a0%"),
        (words.score("roc_auc", 0.99986), "0.9999"),
        (words.score("r2", -0.0001), "0.000"),
        (words.score("r2", -0.25), "−0.250"),
        (words.score("rmse", 54.27), "54.27"),
        (words.score("rmse", 123456.7), "123,457"),
        (words.score("loss", 0.0000123), "1.23e-05"),
        (words.score("loss", math.nan), "not defined"),
        (words.difference("accuracy", -0.021), "2.1\u00a0points"),
        (words.difference("accuracy", 0.01), "1.0\u00a0point"),
        (words.signed("accuracy", -0.006), "−0.6"),
        (words.signed("accuracy", 0.0), "0.0"),
        (words.signed("accuracy", 0.0002), "+0.02"),
        (words.metric_name("val_loss"), "validation loss"),
        (words.duration(0.25), "250\u00a0ms"),
        (words.duration(99.96), "1\u00a0min 40\u00a0s"),
        (words.duration(3 * 3600 + 59 * 60 + 59.9), "4\u00a0h 00\u00a0min"),
        (words.chosen([64, 0.5, None, True]), "[64, 0.5, none, true]"),
        (words.listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_in_words(said: str, expected: str) -> None:
    assert said == expected


@given(st.floats(-1e12, 1e12))
def test_a_number_in_words_is_right_to_four_digits(value: float) -> None:
    back = float(words.number(value).replace("−", "-").replace(",", ""))
    assert back == pytest.approx(value, rel=6e-3 if abs(value) < 1e-4 else 6e-4)


@pytest.mark.parametrize(
    ("gain", "begin", "tone"),
    [
        (
            Gain("accuracy", 0.021, 0.01, 0.033),
            "Better than the baseline (linear) by 2.1\u00a0points (1.0 to 3.3).",
            "good",
        ),
        (Gain("loss", -0.5, -0.8, -0.2), "Worse than the baseline (linear) by 0.5000 (0.2000 to 0.8000).", "bad"),
        (Gain("accuracy", 0.004, -0.006, 0.015), "Not clearly better than the baseline (linear)", ""),
        (Gain("accuracy", 0.0, 0.0, 0.0), "Not clearly better than the baseline (linear)", ""),
        (Gain("accuracy", 0.2), "Better than the baseline (linear) by 20.0\u00a0points; how sure", "muted"),
    ],
)
def test_a_gain_is_called_better_only_when_its_interval_says_so(gain: Gain, begin: str, tone: str) -> None:
    said, found = gain_words(gain, "linear")
    assert said.startswith(begin)
    assert found == tone


# --- colours ----------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" (WCAG 2.2)."""
    text = colour.lstrip("#")
    text = "".join(2 * digit for digit in text) if len(text) == 3 else text
    parts = [int(text[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_every_text_and_line_colour_stands_out(scheme: str) -> None:
    style = STYLE.read_text()
    start = {"light": ":root", "dark": "prefers-color-scheme: dark", "print": "@media print"}[scheme]
    colours = dict(re.findall(r"(--[a-z0-9-]+): (#[0-9a-f]+);", style[style.index(start) :].split("}", 1)[0]))
    for ground in ("--page", "--surface"):
        for name in ("--ink", "--muted", "--winner", "--train", "--second", "--third", "--good", "--bad"):
            one, other = sorted((luminance(colours[name]), luminance(colours[ground])))
            assert (other + 0.05) / (one + 0.05) >= 4.5, f"{name} on {ground} in {scheme}"
    one, other = sorted((luminance(colours["--bad"]), luminance(colours["--bad-soft"])))
    assert (other + 0.05) / (one + 0.05) >= 4.5


def test_of_several_targets_the_first_is_drawn_and_said_to_be(tmp_path: Path) -> None:
    found = example.regression()
    run = example.folder(found, tmp_path)
    assert found.points is not None
    columns = {f"{what}_{at}": [at + 0.5] * 120 for at in range(3) for what in ("true", "predicted")}
    columns |= {"part": ["test"] * 60 + ["validation"] * 60, "true_0": list(range(120))}
    pq.write_table(pa.table(columns), run.predictions)
    points = facts_from_folder(run).points
    assert points is not None
    assert (points.targets, points.rows, points.true) == (3, 60, tuple(range(60)))
    plot = next(b for b in blocks(replace(found, points=points)) if isinstance(b, Plot) and b.id == "predicted")
    assert plot.figure["layout"]["xaxis"]["title"]["text"] == "true progression, 1 of 3"


def test_a_search_of_failures_alone_draws_nothing() -> None:
    found = facts("search")
    rows = tuple(replace(row, status="failed", value=None, metrics={}) for row in found.rows)
    section = SECTIONS["trials"](replace(found, rows=rows, result=None))
    assert section is not None
    assert not [block for block in section.blocks if isinstance(block, (Row, Plot))]
