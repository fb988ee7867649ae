"""The report's section on what was found in the data."""

from __future__ import annotations

from dataclasses import replace

import report_example as example

from nnopt_ray.data.types import DataSummary, Found
from nnopt_ray.report.diagnosed import advice
from nnopt_ray.report.facts import Facts
from nnopt_ray.report.found import found, notes_of
from nnopt_ray.report.sections import SECTIONS
from nnopt_ray.report.write import html

DROPPED = Found(
    check="drop_duplicates",
    action="drop",
    severity="middle",
    sentence="30 rows are exactly the same as another row of their part (30 train): rows 5, 8 and 28 more.",
    rows=30,
    first_rows=tuple((number, 1.0) for number in range(5, 35)),
    repaired={"dropped": 30},
    cure="data.quality: - {type: duplicates, action: drop}",
)
REPORTED = Found(
    check="leaks",
    action="report",
    severity="high",
    sentence="'left_on' alone predicts the target.",
    columns=("left_on",),
    cure="data.ignore: [left_on]",
)
MILD = Found(check="constant", action="report", severity="low", sentence="One value: 'country'.", columns=("country",))


def facts(*quality: Found, checked: tuple[str, ...] = ("constant", "drop_duplicates", "leaks", "missing")) -> Facts:
    told = example.classification()
    assert told.summary is not None
    notes = (*(f"{one.check}: {one.sentence} 30 rows were dropped." for one in quality), "3 rows have no target.")
    return replace(told, summary=replace(told.summary, checked=checked, quality=quality, notes=notes))


def text_of(told: Facts) -> str:
    section = found(told)
    assert section is not None
    return repr(section)


def test_nothing_is_said_where_no_check_was_asked_for() -> None:
    assert found(example.classification()) is None
    assert found(Facts(example.page())) is None


def test_what_was_done_comes_with_the_way_to_the_audit_and_the_worst_first() -> None:
    told = text_of(facts(MILD, DROPPED, REPORTED))
    assert "Repaired: 30\\xa0rows dropped. Each is a line of data/audit.csv." in told
    assert "Nothing was found by missing." in told
    assert told.index(REPORTED.sentence) < told.index(DROPPED.sentence) < told.index(MILD.sentence)
    assert REPORTED.cure in told
    assert DROPPED.cure not in told  # it was done
    assert "10 more are in data/summary.json" in told


def test_a_search_without_faults_says_so() -> None:
    told = text_of(facts())
    assert "Nothing was changed in the data." in told
    assert "Nothing was found by constant, drop_duplicates, leaks and missing." in told


def test_the_page_says_each_finding_once() -> None:
    told = facts(MILD, DROPPED, REPORTED)
    page = html(told)
    assert 'id="found"' in page
    assert list(SECTIONS).index("found") == list(SECTIONS).index("data") + 1
    assert told.summary is not None
    assert notes_of(told.summary) == ("3 rows have no target.",)


def test_what_makes_scores_doubtful_is_to_be_looked_at_until_it_is_repaired() -> None:
    titles = [one.title for one in advice(facts(DROPPED, REPORTED))]
    assert "Look at what was found in the data" in titles
    done = replace(REPORTED, repaired={"column dropped": 1})
    assert "Look at what was found in the data" not in [one.title for one in advice(facts(DROPPED, done))]


def test_a_summary_reads_back_as_it_was_written() -> None:
    import json
    from dataclasses import asdict

    told = facts(MILD, DROPPED, REPORTED).summary
    assert told is not None
    assert DataSummary.from_json(json.loads(json.dumps(asdict(told)))) == told
