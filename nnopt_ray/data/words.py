"""Rows of tokens as the words that they are of, and back: what changes texts word by word works on these.

Any tokenizer will do, as its own `decode` says where words begin. What was unknown to it, and what was cut off at the
end of a row, is not there any more; small letters stay small where it reads capitals so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nnopt_ray import rundir
from nnopt_ray.data import tokenizer
from nnopt_ray.data.preprocessing import FILE
from nnopt_ray.data.tokenizer import Tokenizer
from nnopt_ray.errors import DataError

AROUND = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)  # punctuation, the word itself, punctuation
BROKEN = "\ufffd"  # what `decode` shows for part of a character
RARE = "\ua66e"  # a letter that next to no vocabulary has (Cyrillic, multiocular o)
MOST = 200_000  # words kept with their tokens; beyond them all are forgotten and learned anew


class Word(NamedTuple):
    """What stands between two spaces, punctuation at it included; `text` is empty where nothing but space is.

    lead: the space before it, where the tokenizer keeps it. whole: whether `text` is all that the tokens say; else
    something in it was unknown, is masked, or is part of a character, and only the tokens can be used.
    """

    lead: str
    text: str
    tokens: tuple[int, ...]
    whole: bool = True

    @property
    def is_one(self) -> bool:
        """Whether it is a word, and no mark of punctuation alone."""
        return not self.whole or any(letter.isalnum() for letter in self.text)

    @property
    def parts(self) -> tuple[str, str, str]:
        """Punctuation before it, the word itself, punctuation behind it."""
        found = AROUND.match(self.text)
        assert found is not None
        return found[1], found[2], found[3]


class Words:
    """Reads rows of a tokenizer as words, and makes rows of words.

    framed: the first token of a row is [CLS] and the last one [SEP], as `data.steps: tokenize` has it.
    """

    def __init__(self, learned: Tokenizer, framed: bool) -> None:
        self.tokenizer, self.framed = learned, framed
        self.mask = learned.special["[MASK]"]
        self._end, self._padding = learned.special["[SEP]"], learned.special["[PAD]"]
        self._special = np.zeros(learned.size, dtype=bool)
        self._special[list(learned.special.values())] = True
        # Of each token that was seen: whether space comes before it, it is nothing but space, it has a letter.
        self._seen, self._apart, self._blank, self._lettered = (np.zeros(learned.size, dtype=bool) for _ in range(4))
        self._known: dict[tuple[int, ...], Word] = {}
        self._encoded: dict[str, tuple[int, ...]] = {}
        self._before = next(self._letters(), None)
        # Whether [UNK] stands for a whole word (WordPiece, words), or for a character of it.
        unknown = self.encode((self._before[1] if self._before else "a") + RARE)
        self._unknown_is_word = unknown == (learned.special["[UNK]"],)
        # The space that further words bring along: of tokenizers that read "the cat" and "thecat" alike, none.
        self.space = " " if self.encode(" a") != self.encode("a") else ""

    def _letters(self) -> Iterator[tuple[int, str]]:
        """Tokens that are letters alone, behind which another one is looked at."""
        for token in np.flatnonzero(~self._special).tolist():
            shown = self.tokenizer.decode([token])
            if shown.isalpha():
                yield token, shown

    def _learn(self, tokens: np.ndarray) -> None:
        for token in tokens[~self._seen[tokens]].tolist():
            shown = self.tokenizer.decode([token])
            self._lettered[token] = any(letter.isalnum() for letter in shown)
            self._blank[token] = not shown.strip() and not self._special[token]
            if self._before is not None:
                before, letters = self._before
                both = self.tokenizer.decode([before, token])
                behind = both[len(letters) :]
                self._apart[token] = both.startswith(letters) and behind[:1].isspace()
            self._seen[token] = True

    def _begins(self, rows: np.ndarray) -> np.ndarray:
        """bool like `rows`, int64 [..., length]: where a word begins, its space included."""
        self._learn(np.unique(rows))
        begins: np.ndarray = self._apart[rows]
        # Space that is a token of its own belongs to the word behind it.
        begins[..., 1:] &= ~self._blank[rows[..., :-1]]
        apart = self._special[rows] & (rows != self.mask) & (rows != self.tokenizer.special["[UNK]"])
        begins |= apart | (rows == self.mask)
        if self._unknown_is_word:
            begins |= rows == self.tokenizer.special["[UNK]"]
        begins[..., 1:] |= apart[..., :-1]
        begins[..., :1] = True
        return begins

    def masked(self, rows: np.ndarray, share: float, draws: np.random.Generator) -> np.ndarray:
        """The rows [rows, length] with each word's tokens replaced by [MASK] with this probability; its punctuation,
        where that is a token of its own, and special tokens stay."""
        number = np.cumsum(self._begins(rows), axis=1) - 1
        chosen = np.take_along_axis(draws.random(rows.shape) < share, number, axis=1)
        unknown = rows == self.tokenizer.special["[UNK]"]
        may = (self._lettered[rows] & ~self._special[rows]) | unknown
        return np.where(chosen & may, self.mask, rows)

    def read(self, row: np.ndarray) -> list[list[Word]]:
        """The words of a row [length], of each text in it: several columns are [SEP] apart."""
        inside = self._inside(row)
        begins = np.flatnonzero(self._begins(inside)).tolist() if len(inside) else []
        tokens = inside.tolist()
        texts: list[list[Word]] = [[]]
        for start, end in pairwise([*begins, len(tokens)]):
            if tokens[start] == self._end:
                texts.append([])
            else:
                texts[-1].append(self._word(tuple(tokens[start:end])))
        return texts

    def _inside(self, row: np.ndarray) -> np.ndarray:
        filled = np.flatnonzero(row != self._padding)
        end = filled[-1] + 1 if len(filled) else 0
        return row[1 : end - 1] if self.framed else row[:end]

    def _word(self, tokens: tuple[int, ...]) -> Word:
        found = self._known.get(tokens)
        if found is None:
            shown = self.tokenizer.decode(tokens)
            whole = BROKEN not in shown and not self._special[list(tokens)].any()
            text = shown.lstrip()
            found = Word(shown[: len(shown) - len(text)], text, tokens, whole)
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[tokens] = found
        return found

    def shown(self, row: np.ndarray) -> str:
        """What a row says, for people: unknown and hidden words by the names of their tokens, texts | apart."""
        told = []
        for text in self.read(row):
            said = [(word.lead if word.whole else self.space) + self.name(word) for word in text]
            told.append((" " if not self.space else "").join(said).strip())
        return " | ".join(told)

    def name(self, word: Word) -> str:
        """A word for people, without the space before it; what is unknown or hidden by the names of its tokens."""
        if word.whole:
            return word.text
        names = {number: name for name, number in self.tokenizer.special.items()}
        return "".join(names.get(token) or self.tokenizer.decode([token]) for token in word.tokens)

    def said(self, text: str, lead: str) -> Word:
        """A word as the tokenizer reads it, with this space before it."""
        if lead + text not in self._encoded:
            if len(self._encoded) >= MOST:
                self._encoded.clear()
            self._encoded[lead + text] = self.encode(lead + text)
        return Word(lead, text, self._encoded[lead + text])

    def knows(self, text: str) -> bool:
        """Whether the tokenizer reads all of a text."""
        return self.tokenizer.special["[UNK]"] not in self.said(text, self.space).tokens

    def led(self, word: Word, lead: str) -> Word:
        """The same word with other space before it."""
        return word if word.lead == lead or not word.whole else self.said(word.text, lead)

    def encode(self, text: str) -> tuple[int, ...]:
        """The tokens of a text."""
        return tuple(next(iter(self.tokenizer.encode([text]))).tolist())

    def row(self, texts: Sequence[Iterable[int]], length: int) -> np.ndarray:
        """int64 [length]: the tokens of each text in one row, as `tokenize` puts them; cut at the end, or filled up."""
        inside: list[int] = []
        for number, tokens in enumerate(texts):
            inside += [self._end, *tokens] if number else tokens
        inside = inside[: length - 2 * self.framed]
        if self.framed:
            inside = [self.tokenizer.special["[CLS]"], *inside, self._end]
        filled = np.full(length, self._padding, dtype=np.int64)
        filled[: len(inside)] = inside
        return filled


@lru_cache(maxsize=4)
def words_of(folder: Path) -> Words:
    """For the rows of the prepared data in a folder. Raises DataError where no step has made tokens of text."""
    for step in rundir.read_json(folder / FILE)["steps"]:
        if "tokenizer" in step["learned"]:
            return Words(tokenizer.from_json(step["learned"]["tokenizer"]), step["learned"]["framed"])
    raise DataError("its tokens were not made by the step tokenize, so nobody knows their words")
