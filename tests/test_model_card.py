"""The model card: what the run knows, what people said, and what nobody has said."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path

import pytest
import report_example as example
from markdown_it import MarkdownIt

from nnopt_ray import reading
from nnopt_ray.experiment import About
from nnopt_ray.report import words
from nnopt_ray.report.card import EMPTY, card, entries, markdown
from nnopt_ray.report.facts import Facts, facts_from_folder
from nnopt_ray.report.write import write
from nnopt_ray.search.ledger import page_digest

ABOUT = {"purpose": "Reads *digits* on forms.", "owner": "Jane <jane@example.org>", "limits": "Not for cheques."}


def facts(**about: str) -> Facts:
    return example.classification(experiment=example.page(about=about))


def told(facts: Facts) -> dict[str, str]:
    return {entry.what: entry.told for entry in entries(facts)}


def test_what_nobody_said_is_called_so_and_what_somebody_said_stands_there() -> None:
    found = facts(**ABOUT)
    assert told(found)["What it is for"] == ABOUT["purpose"]
    assert told(found)["Licence"] == f"{EMPTY} (about.licence)."
    assert [entry.what for entry in entries(found) if entry.missing] == ["Licence"]
    assert len([entry for entry in entries(facts()) if entry.missing]) == len(About.model_fields)


def test_its_numbers_are_those_of_the_run() -> None:
    found = facts()
    test = found.winner["test"]
    low, high = test.intervals["accuracy"]
    said = told(found)["Accuracy"]
    assert said.startswith(f"{100 * test.metrics['accuracy']:.1f}\u00a0% ({100 * low:.1f}\u00a0% to {100 * high:.1f}")
    worst = min(test.per_class, key=lambda one: float(one["f1"]))
    assert f"“{worst['class']}”, F1 {worst['f1']:.3f} on {worst['rows']}" in told(found)["Hardest class"]
    assert told(found)["Network"].endswith("6,634 parameters")
    assert "1,167 for training" in told(found)["Parts"]
    diagnosis = {"found": [{"title": "Overfits", "sentence": "It memorises.", "severity": "middle"}]}
    assert told(replace(found, evaluated={"diagnosis": diagnosis}))["Overfits"] == "It memorises."


def test_there_is_a_card_only_of_a_finished_run(tmp_path: Path) -> None:
    found = facts()
    assert card(replace(found, result=None)) is None
    run = example.folder(found, tmp_path)
    write(run, facts_from_folder(run))
    assert run.model_card.read_text(encoding="utf-8").startswith("# digits-search\n")
    run.model_card.unlink()
    run.result.unlink()
    write(run, facts_from_folder(run))
    assert not run.model_card.exists()


MARKS = ("a | b", "![x](y)", "# head", "**bold** _it_ `code` &lt;", "~~no~~", "[a]: b")


@pytest.mark.parametrize("text", [*example.HOSTILE, *MARKS])
def test_a_text_of_the_user_is_shown_as_it_is(text: str) -> None:
    """As markdown-it (which comes with rich) renders CommonMark with tables and struck-out text."""
    shown = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown(facts(purpose=text)))
    assert html.escape(" ".join(words.harmless(text).split()), quote=False) in shown.replace("&quot;", '"')


def test_the_words_about_a_model_are_no_part_of_what_is_trained() -> None:
    """A search goes on, and a trial is known again, when somebody has filled them in."""
    plain, said = example.page(), example.page(about=ABOUT)
    assert page_digest(plain) == page_digest(said)
    reading.check_extends(plain, said)
