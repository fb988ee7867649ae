"""Rows of tokens as words: every tokenizer, there and back; the thesaurus."""

from __future__ import annotations

import typing
from pathlib import Path

import numpy as np
import pytest
import text_example
from hypothesis import given, settings
from hypothesis import strategies as st
from text_example import TEXTS, rows

from nnopt_ray.data import thesaurus
from nnopt_ray.data.tokenizer import Method
from nnopt_ray.data.words import words_of
from nnopt_ray.errors import DataError

METHODS: tuple[Method, ...] = typing.get_args(Method)


def tokens_of(texts: list[list[typing.Any]]) -> list[list[int]]:
    return [[token for word in text for token in word.tokens] for text in texts]


@pytest.mark.parametrize("framed", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_row_is_its_words_one_behind_the_other(method: Method, framed: bool) -> None:
    read = text_example.words(method, framed)
    for length in (96, 12):
        for row in rows(TEXTS, read, length):
            assert np.array_equal(read.row(tokens_of(read.read(row)), length), row)


@pytest.mark.parametrize("method", METHODS)
def test_words_are_those_that_spaces_divide(method: Method) -> None:
    """What these tokenizers do not divide at spaces they divide at punctuation."""
    read = text_example.words(method)
    for text, row in zip(TEXTS[:3], rows(TEXTS[:3], read), strict=True):
        (found,) = read.read(row)
        assert all(word.whole for word in found)
        said = [word.text for word in found if word.text]
        expected = text.lower() if method in ("wordpiece", "words") else text
        assert "".join(said) == "".join(expected.split())
        ends = {len("".join(expected.split()[:count])) for count in range(len(expected.split()) + 1)}
        assert ends <= {len("".join(said[:count])) for count in range(len(said) + 1)}
        if method in ("bpe", "sentencepiece", "characters"):
            assert said == expected.split()


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25, deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_text_survives(method: Method, text: str) -> None:
    read = text_example.words(method)
    (row,) = rows([text], read, 150)
    assert np.array_equal(read.row(tokens_of(read.read(row)), 150), row)
    for word in read.read(row)[0]:
        if word.whole and word.text:
            assert len(word.parts) == 3
            assert "".join(word.parts) == word.text


@pytest.mark.parametrize("method", METHODS)
def test_a_changed_text_is_read_as_the_tokenizer_reads_it(method: Method) -> None:
    """Words in another order, with the spaces that were there, are the tokens of that text."""
    read = text_example.words(method)
    text = "the car of the fox was quick"
    (found,) = read.read(rows([text], read)[0])
    turned = [read.led(word, old.lead) for word, old in zip(found[::-1], found, strict=True)]
    assert tuple(tokens_of([turned])[0]) == read.encode("quick was fox the of car the")
    longer = [*found, read.said("fox", read.space)]
    assert tuple(tokens_of([longer])[0]) == read.encode(text + " fox")


def test_several_columns_are_texts_of_their_own() -> None:
    read = text_example.words("wordpiece")
    row = read.row([read.encode("a quick fox"), (), read.encode("one")], 32)
    assert [[word.text for word in text] for text in read.read(row)] == [["a", "quick", "fox"], [], ["one"]]


def test_what_is_unknown_is_a_word_of_which_only_the_tokens_are_left() -> None:
    read = text_example.words("words")
    (found,) = read.read(rows(["the zebra runs"], read)[0])
    assert [(word.whole, word.is_one) for word in found] == [(True, True), (False, True), (True, True)]
    assert not read.knows("zebra")
    assert read.knows("automobile")


@pytest.mark.parametrize("method", METHODS)
def test_hidden_words_are_hidden_whole(method: Method) -> None:
    read = text_example.words(method)
    given = rows(TEXTS[:2] * 50, read)
    kept = given.copy()
    found = read.masked(given, 0.4, np.random.default_rng(1))
    assert np.array_equal(given, kept)
    hidden = found == read.mask
    assert np.array_equal(found[~hidden], given[~hidden])
    counts = []
    for row, gone in zip(given, hidden, strict=True):
        place = 1
        for word in read.read(row)[0]:
            lettered = [any(c.isalnum() for c in read.tokenizer.decode([token])) for token in word.tokens]
            seen = [bool(gone[place + at]) for at, letter in enumerate(lettered) if letter]
            assert all(seen) or not any(seen)
            assert not any(gone[place + at] for at, letter in enumerate(lettered) if not letter)
            counts += [any(seen)] * word.is_one
            place += len(word.tokens)
    assert abs(np.mean(counts) - 0.4) < 0.06
    assert not hidden[:, 0].any()  # [CLS]


def test_data_without_text_has_no_words(tmp_path: Path) -> None:
    (tmp_path / "preprocessing.json").write_text('{"steps": [{"learned": {"mean": 1}}]}')
    with pytest.raises(DataError, match="not made by the step tokenize"):
        words_of(tmp_path)


def known() -> thesaurus.Thesaurus:
    return thesaurus.load(text_example.THESAURUS, "here")


@pytest.mark.parametrize(
    ("word", "synonyms"),
    [
        ("car", ("auto", "automobile")),
        ("big", ("large", "great")),
        ("quick", ("fast", "big time")),  # the first meaning has none
        ("run", ()),  # a noun and a verb
        ("he", ()),
        ("t", ()),
        ("fox", ()),
        ("zebra", ()),
    ],
)
def test_synonyms(word: str, synonyms: tuple[str, ...]) -> None:
    assert known().synonyms(word) == synonyms


def test_other_encodings_and_line_ends(tmp_path: Path) -> None:
    place = tmp_path / "th.dat"
    place.write_bytes("ISO8859-1\r\nfährte|1\r\n(Subst.)|Spur|Stätte\r\n".encode("latin-1"))
    assert thesaurus.load(place, "here").synonyms("fährte") == ("Spur", "Stätte")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "is no thesaurus"),
        (b"no-such-encoding\nword|1\n(noun)|other\n", "unknown encoding: no-such-encoding"),
        (b"UTF-8\nword|many\n(noun)|other\n", "invalid literal"),
        (b"UTF-8\nw\xff|1\n(noun)|other\n", "codec can't decode"),
    ],
)
def test_files_that_are_none_are_told(tmp_path: Path, content: bytes | None, told: str) -> None:
    place = tmp_path / "th.dat"
    if content is not None:
        place.write_bytes(content)
    with pytest.raises(DataError, match=rf"^here: .*{told}.*Give a thesaurus of MyThes"):
        thesaurus.load(place, "here")
