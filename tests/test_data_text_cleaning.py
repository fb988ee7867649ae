"""The step `clean_text`: what each key does to a text, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_example import csv_page, table
from hypothesis import given, settings
from hypothesis import strategies as st

from nnopt_ray.data import preprocessing
from nnopt_ray.data.frame import Frame, Numeric, Text
from nnopt_ray.data.prepare import prepare
from nnopt_ray.data.text_cleaning import CleanText
from nnopt_ray.errors import DataError

ALL: dict[str, Any] = {
    "unicode": "nfkc",
    "lowercase": True,
    "strip_accents": True,
    "html": True,
    "urls": "url",
    "emails": "mail",
    "numbers": "0",
    "punctuation": True,
}
MESSY = st.text(alphabet="aÉe\u0301İ &lt;gmp#x26<>/br!-?.,:@w19\t\n\x00\u200b\u200d\ufb01ß", max_size=40)


@pytest.mark.parametrize(
    ("keys", "before", "after"),
    [
        ({}, " Two\u00a0 words\n", "Two words"),
        ({}, "e\u0301", "\u00e9"),
        ({}, "a\u200bb\x00\u00adc", "abc"),
        ({}, "\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),  # a family is one emoji by its joiner
        ({}, "<b>É!!</b> &amp; http://a.de 5", "<b>É!!</b> &amp; http://a.de 5"),
        ({"unicode": "nfkc"}, "\ufb01ne \uff21", "fine A"),
        ({"unicode": "none"}, "e\u0301", "e\u0301"),
        ({"lowercase": True}, "ÄRGER", "ärger"),
        ({"strip_accents": True}, "Ärger à Kraków", "Arger a Krakow"),
        ({"strip_accents": True}, "\ud55c\uad6d", "\ud55c\uad6d"),  # Hangul is decomposed and composed again
        ({"html": True}, "one<br/>two <!-- no --> &amp;amp; <style>p {}</style>3 < 4", "one two & 3 < 4"),
        ({"urls": "URL"}, "see https://a.de/b?c=1, or (www.x.org).", "see URL, or (URL)."),
        ({"emails": "<mail>"}, "to jo.doe+x@a-b.co.uk.", "to <mail>."),
        ({"numbers": "N"}, "-1,234.5 of 3-4 in a1 at 1e-5.", "N of N-N in a1 at N."),
        ({"punctuation": True}, "what?!!! no... a--b", "what?! no. a-b"),
        ({"whitespace": False}, " a  b", " a  b"),
        ({"control": False}, "a\u200bb", "a\u200bb"),
    ],
)
def test_what_each_key_does(keys: dict[str, Any], before: str, after: str) -> None:
    assert CleanText(**keys).clean(before) == after


@given(text=MESSY)
@settings(max_examples=400, deadline=None)
@pytest.mark.parametrize("keys", [{}, ALL])
def test_what_is_clean_stays_as_it_is(keys: dict[str, Any], text: str) -> None:
    step = CleanText(**keys)
    assert step.clean(step.clean(text)) == step.clean(text)


@given(texts=st.lists(st.one_of(st.none(), MESSY), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_each_row_has_its_own_text_cleaned_and_nothing_else_changes(texts: list[str | None]) -> None:
    words = tuple({text for text in texts if text is not None})
    codes = np.array([-1 if text is None else words.index(text) for text in texts])
    number = Numeric(np.arange(len(texts), dtype=float), "n")
    whole = Frame({"t": Text(codes, words, "t", free=True), "n": number, "u": Text(codes, words, "u")})
    step = CleanText(**ALL, columns=("t",))
    done = step.transform(whole, step.fit(whole, np.arange(1)))
    assert done.features["n"] is number
    assert done.features["u"] is whole.features["u"]
    made = done.features["t"]
    assert isinstance(made, Text)
    assert made.free
    assert len(set(made.words)) == len(made.words)
    found = [None if code < 0 else made.words[code] for code in made.codes]
    assert found == [(step.clean(text).strip() or None) if text is not None else None for text in texts]


def test_categories_that_become_equal_are_one_in_new_rows_too(tmp_path: Path) -> None:
    spelt = ["Bonn", "bonn ", " BONN", "Köln", "Ko\u0308ln", "\u200b"]
    rows = "\n".join(f"{spelt[row % 6]},{row * 0.5},{'xy'[row % 2]}" for row in range(60))
    steps = [{"type": "clean_text", "lowercase": True}, {"type": "encode"}]
    data = prepare(csv_page(tmp_path / "a.csv", f"city,n,label\n{rows}", target="label", steps=steps), tmp_path)
    assert data.train.inputs[0].shape[1] == 4  # n, bonn, köln, (missing)
    made = preprocessing.apply(data.folder, table({"city": ["BONN\t", "KÖLN", "\u200b"], "n": [0.0, 1.0, 2.0]}))
    assert sorted(made[0].sum(axis=0).tolist()) == [1.0, 1.0, 1.0, 3.0]


def test_numbers_that_tokenize_reads_as_text_are_cleaned_first(tmp_path: Path) -> None:
    rows = "\n".join(f"{row},{'xy'[row % 2]}" for row in range(60))
    steps = [
        {"type": "clean_text", "numbers": "n", "columns": ["t"]},
        {"type": "tokenize", "columns": ["t"], "method": "words", "vocabulary_size": 50},
    ]
    data = prepare(csv_page(tmp_path / "a.csv", f"t,label\n{rows}", target="label", steps=steps), tmp_path)
    assert len(np.unique(np.concatenate([part.inputs[0] for part in (data.train, data.test)]), axis=0)) == 1


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"urls": "URL", "lowercase": True}, "would clean to 'url'"),
        ({"numbers": "<n>", "html": True}, "would clean to ''"),
        ({"columns": ("n",)}, "'n' holds none"),
        ({"columns": ("m",)}, "names no column there is: 'm'"),
    ],
)
def test_what_it_cannot_do_is_said(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        CleanText(**keys).fit(Frame({"n": Numeric(np.zeros(3), "n")}), np.arange(3))
