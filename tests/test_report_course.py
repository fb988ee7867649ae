"""How the report tells a search's course: stints, pauses, takeovers, what the scheduler left out."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import report_example as example
from hypothesis import given
from hypothesis import strategies as st

from nnopt_ray import rundir
from nnopt_ray.report import words
from nnopt_ray.report.blocks import Fold, Plot, Table, Text
from nnopt_ray.report.conduct import conduct, saving
from nnopt_ray.report.course import Course, Presence, Stint, between, course_of, merged, worked
from nnopt_ray.report.curves import search_history
from nnopt_ray.report.facts import Facts, trial_rows
from nnopt_ray.report.timeline import STINTS, idle_words, placed
from nnopt_ray.results import TrialRow
from nnopt_ray.search.journal import worked_s


def event(t: float, kind: str, trial: str = "", **more: Any) -> dict[str, Any]:
    return {"t": 100.0 + t, "event": kind, **({"trial": trial} if trial else {}), **more}


# A study that was killed after 4 s and resumed an hour later.
EVENTS = [
    event(0, "study"),
    event(0, "asked", "a", params={"x": 1}),
    event(0, "started", "a", worker=0, epoch=0),
    event(1, "asked", "b", params={"x": 2}),
    event(1, "started", "b", worker=1, epoch=0),
    event(2, "result", "a", epoch=0, value=1.0),
    event(2, "pause", "a", epoch=0),
    event(2, "paused", "a"),
    event(4, "result", "b", epoch=0, value=0.5),
    event(3604, "resumed"),
    event(3605, "started", "b", worker=0, epoch=1),
    event(3606, "promoted", "a"),
    event(3606, "started", "a", worker=1, epoch=1),
    event(3607, "copied", "a", donor="b", params={"x": 3}),
    event(3608, "result", "a", epoch=1, value=0.4),
    event(3608, "ended", "a", status="finished", reason="all epochs done"),
    event(3609, "ended", "b", status="failed", reason="died", cause="worker"),
    event(3609, "asked", "a-s1", params={"x": 3, "seed": 5}, confirms="a"),
    event(3609, "started", "a-s1", worker=0, epoch=0),
    event(3610, "result", "a-s1", epoch=0, value=0.4),
]


def test_the_course_of_a_search_that_was_killed_and_resumed() -> None:
    course = course_of(EVENTS)
    assert course.stints == (
        Stint("a", 0, 0, 2, 0, 0),
        Stint("b", 1, 1, 4, 0, 0),
        Stint("b", 0, 5, 9, 1, None),
        Stint("a", 1, 6, 8, 1, 1),
        Stint("a-s1", 0, 9, 10, 0, 0),
    )
    assert [(each.trial, each.donor, each.epochs, each.params) for each in course.takeovers] == [
        ("a", "b", 1, {"x": 3})
    ]
    assert (course.pauses, course.promotions, course.resumed, course.confirming) == (1, 1, 1, (1, 1))


def test_the_history_marks_resumes_the_baseline_and_other_seeds() -> None:
    events = [
        event(0, "asked", "a"),
        event(1, "resumed"),
        event(2, "asked", "b"),
        event(3, "asked", "b-s1", confirms="b"),
        event(4, "extended"),
    ]
    course = course_of(events)
    assert (course.resumed_at, course.extended_at) == ((1,), (2,))
    facts = replace(example.classification(), course=course)
    plot = search_history(facts)
    shapes = plot.figure["layout"]["shapes"]
    assert [(shape["x0"], shape["line"]["dash"]) for shape in shapes] == [(1.5, "dot"), (2.5, "dash")]
    traces = {trace["name"]: trace for trace in plot.figure["data"]}
    assert traces["baseline"]["y"] == [facts.baseline["validation"].metrics["loss"]] * 2
    assert facts.result is not None
    assert facts.result.confirm is not None
    assert traces["over seeds"]["y"] == [value for each in facts.result.confirm.contestants for value in each.values]


def test_seconds_count_work_as_the_study_itself_counts_it() -> None:
    assert course_of(EVENTS).seconds == worked_s(EVENTS)


@pytest.mark.parametrize(
    ("upto", "statuses"),
    [
        (2, {"a": "pending"}),
        (6, {"a": "running", "b": "running"}),
        (9, {"a": "paused", "b": "running"}),
        (12, {"a": "pending", "b": "running"}),
        (len(EVENTS), {"a": "finished", "b": "failed"}),
    ],
)
def test_rows_of_a_search_that_is_cut_short_say_where_each_trial_stands(
    upto: int, statuses: dict[str, str], tmp_path: Path
) -> None:
    run = rundir.RunDir(tmp_path)
    rundir.write_text(run.journal, "".join(json.dumps(each) + "\n" for each in EVENTS[:upto]))
    rows = trial_rows(run, example.page())
    assert {row.trial: row.status for row in rows} == statuses
    assert all(row.reason for row in rows)


stints = st.lists(
    st.tuples(st.integers(0, 3), st.floats(0, 100), st.floats(0, 20)).map(
        lambda each: Stint("t", each[0], each[1], each[1] + each[2], 0, None)
    ),
    max_size=40,
)


@given(stints)
def test_no_two_lines_of_the_timeline_cover_each_other(found: list[Stint]) -> None:
    lines, bounds = placed(found)
    for one, other in combinations(found, 2):
        if lines[id(one)] == lines[id(other)]:
            assert one.worker == other.worker
            assert one.end_s <= other.begin_s or other.end_s <= one.begin_s
    for stint in found:
        first, after = bounds[stint.worker]
        assert first <= lines[id(stint)] < after


# A search that began in its own process and was handed over to two workers, one of which died.
HANDED = [
    event(0, "study"),
    event(0, "worker", worker=0, state="ready", node="one", here=True),
    event(1, "asked", "a", params={}),
    event(1, "started", "a", worker=0, epoch=0),
    event(3, "worker", worker=2, state="ready", node="two"),
    event(4, "result", "a", epoch=0, value=1.0),
    event(5, "worker", worker=1, state="ready", node="one"),
    event(5, "worker", worker=0, state="gone"),
    event(5, "laid_down", "a", worker=0, why="handed over to a worker"),
    event(6, "started", "a", worker=1, epoch=1),
    event(6, "started", "b", worker=2, epoch=0),
    event(8, "worker", worker=2, state="gone"),
    event(8, "laid_down", "b", worker=2, why="its worker died"),
    event(9, "result", "a", epoch=1, value=1.0),
    event(9, "ended", "a", status="finished", reason=""),
    event(10, "worker", worker=2, state="ready", node="two"),
    event(10, "started", "b", worker=2, epoch=0),
    event(11, "result", "b", epoch=0, value=1.0),
    event(12, "ended", "b", status="finished", reason=""),
    event(13, "worker", worker=1, state="gone"),
    event(13, "worker", worker=2, state="gone"),
]


def test_a_worker_is_idle_while_it_is_there_and_has_no_trial() -> None:
    course = course_of(HANDED)
    assert course.presences == (
        Presence(0, 0, 5, "one", True),
        Presence(1, 5, 13, "one"),
        Presence(2, 3, 8, "two"),
        Presence(2, 10, 13, "two"),
    )
    assert [(s.trial, s.worker, s.begin_s, s.end_s) for s in course.stints] == [
        ("a", 0, 1, 5), ("a", 1, 6, 9), ("b", 2, 6, 8), ("b", 2, 10, 12),
    ]  # fmt: skip
    told = {
        w.worker: (w.there_s, w.busy_s, w.before_s, w.between_s, w.after_s, w.trials, w.epochs) for w in worked(course)
    }
    assert told == {0: (5, 4, 1, 0, 0, 1, 1), 1: (8, 3, 1, 0, 4, 1, 1), 2: (8, 4, 3, 0, 1, 1, 1)}
    said = idle_words(worked(course))
    assert f"had a trial in training 52{words.NBSP}% of the time" in said  # 11 of 21 s
    assert f"10.0{words.NBSP}s of 21.0{words.NBSP}s were idle" in said
    assert f"Worker 1 was idle most: 62{words.NBSP}%" in said


def test_idle_time_of_a_single_worker_is_told_too() -> None:
    alone = [
        event(0, "worker", worker=0, state="ready", node="one", here=True),
        event(3, "started", "a", worker=0, epoch=0),
        event(9, "ended", "a", status="finished", reason=""),
        event(10, "worker", worker=0, state="gone"),
    ]
    assert idle_words(worked(course_of(alone))) == (
        f"The worker had a trial in training 60{words.NBSP}% of the time that it was there; 4.0{words.NBSP}s of "
        f"10.0{words.NBSP}s were idle, most of it before its first trial."
    )


def test_of_an_old_journal_nothing_is_said_of_idle_time() -> None:
    found = worked(course_of(EVENTS))
    assert not any(each.told for each in found)
    assert idle_words(found) == ""


spans = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda each: (each[0], each[0] + each[1])), max_size=12
)


@given(spans, spans)
def test_idle_is_what_busy_leaves_of_the_time_second_by_second(there: list[Any], busy: list[Any]) -> None:
    def seconds(found: list[Any]) -> set[int]:
        return {second for begin, end in found for second in range(begin, end)}

    idle = between(merged(there), merged(busy))
    assert seconds(idle) == seconds(there) - seconds(busy)
    assert all(one[1] < other[0] for one, other in zip(merged(busy), merged(busy)[1:], strict=False))


def search(statuses: list[tuple[str, int]], scheduler: str = "asha", **train: Any) -> Facts:
    """Trials of at most 30 epochs: (status, epochs trained)."""
    page = example.page(
        search=True, train={"epochs": 30, "optimizer": {"type": "adam", "lr": {"log": [1e-4, 0.1]}}, **train}
    )
    rows = tuple(
        TrialRow(f"{i:04d}", status, "", {"train.optimizer.lr": 0.01}, epochs, 0, 1.0, 1.0, {})  # type: ignore[arg-type]
        for i, (status, epochs) in enumerate(statuses)
    )
    if scheduler != "asha":
        page = page.model_copy(
            update={
                "search": page.search.model_copy(update={"scheduler": replace(page.search.scheduler, type=scheduler)})
            }
        )
    return Facts(page, rows=rows)


def test_what_the_scheduler_left_out_is_counted_by_the_trials_it_stopped() -> None:
    told = saving(search([("finished", 30), ("finished", 12), ("stopped", 3), ("stopped", 9)]))
    assert f"4{words.NBSP}trials trained 54 of at most 120 epochs" in told
    assert f"asha stopped 2 of them, which left out 48 epochs (40{words.NBSP}% of all)." in told
    careful = saving(search([("finished", 30), ("stopped", 3)], early_stopping={"patience": 3}))
    assert "left out at most 27 epochs" in careful
    assert "no scheduler stopped any" in saving(search([("finished", 30)], scheduler="none"))


def test_searched_epochs_are_the_limit_of_a_trial() -> None:
    found = search([("stopped", 3)])
    row = replace(found.rows[0], params={"train.epochs": 10})
    assert "3 of at most 10 epochs" in saving(replace(found, rows=(row,)))


def test_the_section_names_ends_by_cause_and_shows_takeovers() -> None:
    found = search([("finished", 30), ("failed", 2), ("failed", 1), ("paused", 3)])
    causes = ("", "not-a-number", "memory", "")
    rows = tuple(replace(row, cause=cause) for row, cause in zip(found.rows, causes, strict=True))
    section = conduct(replace(found, rows=rows, course=course_of(EVENTS)))
    assert section is not None
    ends = next(block for block in section.blocks if isinstance(block, Table))
    assert [row[0].text for row in ends.rows] == [
        "trained to its own end",
        "failed: the loss became not a number",
        "failed: out of memory",
        "paused",
        "trained again",
    ]
    fold = next(block for block in section.blocks if isinstance(block, Fold))
    assert [cell.text for cell in fold.blocks[0].rows[0]] == ["a", "1", "b", "3"]
    assert any(isinstance(block, Text) and "taken up again 1" in block.text for block in section.blocks)


def test_a_timeline_of_many_stints_stays_small() -> None:
    many = tuple(Stint(f"{i}", i % 4, float(i), i + 1.0 + i % 7, 0, 0) for i in range(10_000))
    section = conduct(replace(search([("finished", 30)]), course=Course(many)))
    assert section is not None
    plot = next(block for block in section.blocks if isinstance(block, Plot))
    stints = [trace for trace in plot.figure["data"] if trace["name"] not in ("busy", "idle")]
    assert sum(len(trace["x"]) for trace in stints) == 3 * STINTS
    assert len(json.dumps(plot.figure)) < 300_000
    assert f"{STINTS:,} longest of 10,000" in plot.caption
    assert plot.height <= 640


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("model.widths.0", ("model.", "widths.0")),
        ("model.widths.0.1", ("model.", "widths.0.1")),
        ("train.optimizer.lr", ("train.optimizer.", "lr")),
        ("seed", ("", "seed")),
    ],
)
def test_a_place_in_a_list_keeps_the_lists_name(path: str, parts: tuple[str, str]) -> None:
    assert words.path_parts(path) == parts
