"""Augmentations of texts, int64 [rows, length]: their words are changed, and read by the page's tokenizer again.

Words are found in the tokens (`data/words.py`), so what a tokenizer has cut off or does not know is not there; words
that stay keep their tokens. Drawn on the CPU, from the batch's own seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, ClassVar

from nnopt_ray import tables
from nnopt_ray.data.types import Task
from nnopt_ray.errors import PartError
from nnopt_ray.section import Beside
from nnopt_ray.train.augmentations import Augmentation, Share

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from nnopt_ray.data.words import Word, Words


class OfTexts(Augmentation):
    """What changes texts.

    language: language tasks whose targets stay true, position by position.
    """

    kinds = ("tokens",)
    language: ClassVar[tuple[Task, ...]] = ()

    def __call__(self, x: Tensor, draws: torch.Generator, words: Words | None = None) -> Tensor:
        import numpy as np
        import torch

        assert words is not None
        seed = int(torch.randint(2**62, (), generator=draws, device=x.device))
        rows = self.rows(x.cpu().numpy(), words, np.random.Generator(np.random.PCG64(seed)))
        return torch.from_numpy(rows).to(x.device)

    def rows(self, rows: np.ndarray, words: Words, draws: np.random.Generator) -> np.ndarray:
        """The rows changed, int64 [rows, length]; those given stay as they are."""
        raise NotImplementedError


class MaskWords(OfTexts):
    """Hide words behind the tokenizer's mask token, one for each token of a word (word dropout, Bowman et al. 2016).

    For language_modelling too, where what comes next is then told from less.

    Keys:
        share: probability with which a word is hidden.
    """

    language = ("language_modelling",)

    def __init__(self, *, share: Share = 0.1) -> None:
        self.share = share

    def rows(self, rows: np.ndarray, words: Words, draws: np.random.Generator) -> np.ndarray:
        return words.masked(rows, self.share, draws)


class ByWord(OfTexts):
    """What changes some of the words of each text."""

    share: float

    def rows(self, rows: np.ndarray, words: Words, draws: np.random.Generator) -> np.ndarray:
        changed = rows.copy()
        read = [words.read(row) for row in rows]
        self.look(read)
        for number, texts in enumerate(read):
            new = [self._changed(text, words, draws) for text in texts]
            if any(one is not None for one in new):
                tokens = [
                    [token for word in (text if one is None else one) for token in word.tokens]
                    for text, one in zip(texts, new, strict=True)
                ]
                changed[number] = words.row(tokens, rows.shape[1])
        return changed

    def _changed(self, text: list[Word], words: Words, draws: np.random.Generator) -> list[Word] | None:
        places = [place for place, word in enumerate(text) if word.is_one]
        chosen = draws.random(len(places)) < self.share
        if not chosen.any():
            return None
        return self.change(
            text, places, [place for place, one in zip(places, chosen, strict=True) if one], words, draws
        )

    def look(self, texts: list[list[list[Word]]]) -> None:
        """Called with all texts of a batch before any is changed."""

    def change(
        self, text: list[Word], places: list[int], chosen: list[int], words: Words, draws: np.random.Generator
    ) -> list[Word] | None:
        """The text with the `chosen` of its words, which are at `places`, changed; None: as it was."""
        raise NotImplementedError


class WordSwap(ByWord):
    """Let words change places with others of the same text (Wei & Zou 2019).

    Keys:
        share: probability with which a word changes places with another one, which is drawn evenly.
    """

    def __init__(self, *, share: Share = 0.1) -> None:
        self.share = share

    def change(
        self, text: list[Word], places: list[int], chosen: list[int], words: Words, draws: np.random.Generator
    ) -> list[Word] | None:
        if len(places) < 2:
            return None
        swapped = list(text)
        for one in chosen:
            two = places[int(draws.integers(len(places)))]
            swapped[one], swapped[two] = swapped[two], swapped[one]
        return [words.led(word, old.lead) for word, old in zip(swapped, text, strict=True)]


class WordDelete(ByWord):
    """Leave out words (Wei & Zou 2019); one at least stays.

    Keys:
        share: probability with which a word is left out.
    """

    def __init__(self, *, share: Share = 0.1) -> None:
        self.share = share

    def change(
        self, text: list[Word], places: list[int], chosen: list[int], words: Words, draws: np.random.Generator
    ) -> list[Word] | None:
        gone = set(chosen)
        if len(gone) == len(places):
            gone.discard(places[int(draws.integers(len(places)))])
        kept = [word for place, word in enumerate(text) if place not in gone]
        return [words.led(kept[0], text[0].lead), *kept[1:]]


class Synonyms(ByWord):
    """Put synonyms in the place of words (Zhang et al. 2015; Wei & Zou 2019), from a thesaurus.

    The thesaurus marks parts of speech, and which one is meant is not looked for in the sentence: a word whose meanings
    are of several (`run`), and a function word of English (`he`, `might`), stay; so do inflected forms, which a
    thesaurus does not list. Synonyms are those of a word's first meaning that the page's tokenizer can read; a capital
    at the head of a word stays.

    Keys:
        thesaurus: a file in the format of MyThes, such as th_en_US_v2.dat of Debian's mythes-en-us.
        share: probability with which a word that has synonyms gives way to one of them, drawn evenly.
    """

    def __init__(self, *, thesaurus: Annotated[str, Beside()], share: Share = 0.1) -> None:
        from pathlib import Path

        from nnopt_ray.data import thesaurus as known

        self.share = share
        self._thesaurus = known.load(Path(thesaurus).expanduser(), "synonyms.thesaurus")

    def change(
        self, text: list[Word], places: list[int], chosen: list[int], words: Words, draws: np.random.Generator
    ) -> list[Word] | None:
        changed = list(text)
        for place in chosen:
            before, word, behind = text[place].parts
            # All of capitals, or with one inside, is a name or a sign.
            common = text[place].whole and word[1:] == word[1:].lower()
            others = [each for each in self._thesaurus.synonyms(word.lower()) if words.knows(each)] if common else []
            if others:
                other = others[int(draws.integers(len(others)))]
                other = other[:1].upper() + other[1:] if word[0].isupper() else other
                changed[place] = words.said(before + other + behind, text[place].lead)
        return changed


class WordInsert(ByWord):
    """Put further words into the text, each behind a word that is drawn evenly.

    With a thesaurus a word's synonym comes in, as Wei & Zou 2019 have it (see `synonyms` for which words have any);
    without one a word of any text of the batch.

    Keys:
        share: probability with which a word brings another one in.
        thesaurus: a file in the format of MyThes.
    """

    def __init__(self, *, share: Share = 0.1, thesaurus: Annotated[str, Beside()] | None = None) -> None:
        from pathlib import Path

        from nnopt_ray.data import thesaurus as known

        self.share = share
        self._thesaurus = None
        if thesaurus is not None:
            self._thesaurus = known.load(Path(thesaurus).expanduser(), "word_insert.thesaurus")
        self._all: list[str] = []

    def look(self, texts: list[list[list[Word]]]) -> None:
        if self._thesaurus is None:
            self._all = [
                word.parts[1] for row in texts for text in row for word in text if word.whole and word.parts[1]
            ]

    def change(
        self, text: list[Word], places: list[int], chosen: list[int], words: Words, draws: np.random.Generator
    ) -> list[Word] | None:
        further: dict[int, list[Word]] = {}
        for place in chosen:
            others = self._all
            if self._thesaurus is not None:
                word = text[place].parts[1].lower() if text[place].whole else ""
                others = [each for each in self._thesaurus.synonyms(word) if words.knows(each)]
            if others:
                behind = places[int(draws.integers(len(places)))]
                other = words.said(others[int(draws.integers(len(others)))], words.space)
                further.setdefault(behind, []).append(other)
        return [each for place, word in enumerate(text) for each in (word, *further.get(place, ()))]


class Paraphrase(OfTexts):
    """Say some texts in other words, by a function of your own: it is given a text and returns one, or a list of them.

    Of a list one is drawn evenly. It is called in every epoch anew, in the process that trains, so what takes long
    should be looked up; what it draws from Python's `random` or from NumPy follows from the page's seed. The text is
    what the tokenizer gives back: without what it did not know, in small letters where it reads so.

    Keys:
        function: where it is, as package.module:function; beside the page is looked too.
        probability: with which a text is said otherwise.
    """

    def __init__(self, *, function: str, probability: Share = 0.5) -> None:
        self.function, self.probability = function, probability
        self._call: Callable[[str], object] = tables.function(function)

    def rows(self, rows: np.ndarray, words: Words, draws: np.random.Generator) -> np.ndarray:
        changed = rows.copy()
        with _seeded(int(draws.integers(2**32))):
            for number in (draws.random(len(rows)) < self.probability).nonzero()[0]:
                texts = words.read(rows[number])
                said = [words.tokenizer.decode([t for word in text for t in word.tokens]) for text in texts]
                tokens = [words.encode(self._said(text, draws)) if text.strip() else () for text in said]
                changed[number] = words.row(tokens, rows.shape[1])
        return changed

    def _said(self, text: str, draws: np.random.Generator) -> str:
        found = self._call(text)
        if isinstance(found, (list, tuple)) and found:
            found = found[int(draws.integers(len(found)))]
        if not isinstance(found, str):
            told = "an empty list" if isinstance(found, (list, tuple)) else f"a {type(found).__name__}"
            raise PartError(
                f"data.augment: paraphrase: {self.function} must return a text or a list of texts, and returned {told}."
            )
        return found


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Within, Python and NumPy draw from this seed; afterwards they go on where they were."""
    import random

    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
