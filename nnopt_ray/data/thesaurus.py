"""Synonyms from a thesaurus in the format of MyThes, as LibreOffice and Debian's mythes packages have them.

The first line names the encoding; then each word has a line `word|meanings` and so many lines
`(part of speech)|synonym|synonym (remark)|...` behind it (MyThes 1.0, data_layout.txt).
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from nnopt_ray.errors import DataError

CURE = "Give a thesaurus of MyThes, such as th_en_US_v2.dat of Debian's mythes-en-us."
REMARK = re.compile(r" \((?:generic|related|similar) term\)$| \(antonym\)$")
SHORTEST = 3  # letters

# Words that say how others belong together; a thesaurus knows other meanings of them alone ("he": helium).
ENGLISH = """
a about above after again against all also am an and any are as at be because been before being below between both
but by can cannot could did do does doing done down during each either else ever every few for from further had has
have having he hence her here hers herself him himself his how however i if in into is it its itself just least less
many may me might mine more most much must my myself neither no none nor not now of off often on once one only onto
or other others ought our ours ourselves out over own per quite rather same shall she should since so some such than
that the their theirs them themselves then there therefore these they this those though through thus to too toward
towards under unless until up upon us very via was we well were what whatever when whenever where whether which
whichever while who whoever whom whose why will with within without would yes yet you your yours yourself yourselves
"""
FUNCTION_WORDS = frozenset(ENGLISH.split())


class Thesaurus:
    """The synonyms of a language's words.

    A word is known where all its meanings are of one part of speech: which of several is meant cannot be told from the
    word alone. Its synonyms are those of its first meaning that has any, the thesaurus' own order; wider, similar and
    opposite terms, which it marks, are none.
    """

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._place: dict[str, int] = {}
        at = 1
        while at < len(lines) and lines[at]:
            word, _, meanings = lines[at].rpartition("|")
            self._place[word] = at
            at += int(meanings) + 1
        self._found: dict[str, tuple[str, ...]] = {}

    def synonyms(self, word: str) -> tuple[str, ...]:
        """Of a word in small letters, in its dictionary form; none of what is not known, a function word or shorter
        than three letters (mostly what a tokenizer leaves of others: the t of don't)."""
        if word not in self._found:
            self._found[word] = self._read(word)
        return self._found[word]

    def _read(self, word: str) -> tuple[str, ...]:
        at = self._place.get(word)
        if at is None or word in FUNCTION_WORDS or len(word) < SHORTEST:
            return ()
        meanings = [line.split("|") for line in self._lines[at + 1 : at + 1 + int(self._lines[at].rpartition("|")[2])]]
        if len({part for part, *_ in meanings}) != 1:
            return ()
        for _, *others in meanings:
            found = [each for each in dict.fromkeys(others) if not REMARK.search(each) and each.lower() != word]
            if found:
                return tuple(found)
        return ()


def load(place: Path, key: str) -> Thesaurus:
    """The thesaurus of a file that `key` of the page names. Raises DataError when it is none."""
    try:
        return _load(place, place.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(f"{key}: {place} cannot be read: {error.strerror}. {CURE}") from error
    except (LookupError, ValueError) as error:  # an encoding that there is not, text that is not in it, no number
        raise DataError(f"{key}: {place} is no thesaurus: {error}. {CURE}") from error


@lru_cache(maxsize=2)
def _load(place: Path, changed_ns: int) -> Thesaurus:
    # Reading Debian's English one, 146,000 words, takes 0.3 s; every trial of a search asks for it.
    content = place.read_bytes()
    encoding = content[:40].split(b"\n")[0].strip().decode("ascii")
    lines = content.decode(encoding).replace("\r\n", "\n").split("\n")
    if len(lines) < 3:
        raise ValueError("it has no words")
    return Thesaurus(lines)
