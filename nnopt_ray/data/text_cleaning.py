"""The step `clean_text`: texts and categories are tidied before another step reads them."""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data.frame import Feature, Frame, Text
from nnopt_ray.data.steps import Step
from nnopt_ray.data.table import quoted
from nnopt_ray.data.types import PreprocessingState
from nnopt_ray.errors import DataError

Word = Annotated[str, Field(min_length=1)]

MOST_PASSES = 20  # over one text; what one pass makes may be for the next to clean
# Zero-width space, word joiner, byte-order mark, soft hyphen, marks of direction. The joiners U+200C and U+200D stay:
# Persian, Indic scripts and emoji are written with them.
UNSEEN = re.compile("[\u200b\u2060\ufeff\u00ad\u200e\u200f\u202a-\u202e\u2066-\u2069]")
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")  # all but white space: tab, line ends, form feed
MARKUP = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>|<!--.*?-->|</?[a-z][^<>]*>", re.IGNORECASE | re.DOTALL)
URL = re.compile(r"\b(?:https?://|ftp://|www\.)[^\s<>\"]*[^\s<>\".,;:!?)\]]", re.IGNORECASE)
EMAIL = re.compile(r"(?<![\w.+-])\w[\w.+-]*@(?:[\w-]+\.)+[^\W\d_]{2,}\b")
NUMBER = re.compile(r"(?<!\w)(?<!\d[.,])[+-]?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?(?!\w)", re.IGNORECASE)
REPEATED = re.compile(r"([!?.,;:…-])\1+")
SPACE = re.compile(r"\s+")


class CleanText(Step):
    """Clean texts and categories, ahead of `encode` and `tokenize`; it learns nothing.

    Categories that become equal are one from then on, and a text of which nothing is left is missing. The keys work
    in this order: control, html, unicode, urls, emails, numbers, lowercase, strip_accents, punctuation, whitespace;
    and again until nothing changes.

    Keys:
        unicode: nfc, one form for letters that look the same; nfkc, for ligatures and full-width letters too; none.
        lowercase: write capitals as small letters.
        strip_accents: é becomes e; for scripts written with marks (Hindi, Thai, Hebrew points) it takes the marks too.
        html: take tags, comments, scripts and styles out, and read entities (&amp;).
        urls: a word put for each address that begins with http://, https://, ftp:// or www.
        emails: a word put for each e-mail address.
        numbers: a word put for each number that stands by itself.
        control: take control characters and invisible ones out (zero-width spaces, soft hyphens, marks of direction).
        punctuation: write ! ? . , ; : … - once where it is repeated.
        whitespace: write each run of white space, line ends too, as one space, and none at both ends.
        columns: the columns to clean; all texts and categories when left out.
    """

    by_column = True
    images_by_rows = True

    def __init__(
        self,
        *,
        unicode: Literal["nfc", "nfkc", "none"] = "nfc",
        lowercase: bool = False,
        strip_accents: bool = False,
        html: bool = False,
        urls: Word | None = None,
        emails: Word | None = None,
        numbers: Word | None = None,
        control: bool = True,
        punctuation: bool = False,
        whitespace: bool = True,
        columns: tuple[str, ...] | None = None,
    ) -> None:
        self.unicode = unicode
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.html = html
        self.replaced = [
            (pattern, word) for pattern, word in ((URL, urls), (EMAIL, emails), (NUMBER, numbers)) if word is not None
        ]
        self.control = control
        self.punctuation = punctuation
        self.whitespace = whitespace
        self.columns = columns
        # Rows of data larger than memory come some at a time, each time with the same words.
        self._done: dict[str, tuple[tuple[str, ...], tuple[str, ...], np.ndarray]] = {}
        for key, word in (("urls", urls), ("emails", emails), ("numbers", numbers)):
            if word is not None and self._once(word) != word:
                raise DataError(
                    f"data.steps: clean_text puts '{word}' ({key}), which its other keys would clean to "
                    f"'{self._once(word)}'. Put a word that stays as it is."
                )

    def fit(self, frame: Frame, rows: np.ndarray) -> PreprocessingState:
        names, with_image = frame.select(self.columns, "clean_text")
        if self.columns is not None:
            wrong = [name for name in names if not isinstance(frame.light[name], Text)]
            other = with_image or frame.sequences_of(self.columns) is not None
            if wrong or other:
                raise DataError(
                    f"data.steps: clean_text cleans texts, and {quoted(wrong or list(self.columns))} holds none. "
                    "Take it off the step's columns, or put the step before the one that changed it."
                )
        return {}

    def transform(self, frame: Frame, state: PreprocessingState) -> Frame:
        features: dict[str, Feature] = {}
        for name, feature in frame.features.items():
            asked = self.columns is None or name in self.columns or feature.origin in self.columns
            features[name] = self._cleaned(name, feature) if asked and isinstance(feature, Text) else feature
        return frame.with_features(features)

    def _cleaned(self, name: str, feature: Text) -> Text:
        before, words, place = self._done.get(name, ((), (), np.array([-1])))
        if before is not feature.words:
            found: dict[str, int] = {}
            codes = []
            for word in feature.words:
                clean = self.clean(word)
                codes.append(found.setdefault(clean, len(found)) if clean.strip() else -1)
            words, place = tuple(found), np.array([*codes, -1], dtype=np.int64)  # the code of missing ones, -1, is last
            self._done[name] = (feature.words, words, place)
        return Text(place[feature.codes], words, feature.origin, feature.free)

    def clean(self, text: str) -> str:
        """The text, cleaned; cleaned again it stays the same."""
        for _ in range(MOST_PASSES):
            before, text = text, self._once(text)
            if text == before:
                break
        return text

    def _once(self, text: str) -> str:
        if self.control:
            text = CONTROL.sub("", UNSEEN.sub("", text))
        if self.html:
            text = _without_markup(text)
        if self.unicode != "none":
            text = unicodedata.normalize(self.unicode.upper(), text)  # type: ignore[arg-type]
        for pattern, word in self.replaced:
            text = pattern.sub(lambda _, word=word: word, text)  # type: ignore[misc]
        if self.lowercase:
            text = text.lower()
        if self.strip_accents:
            apart = unicodedata.normalize("NFD", text)
            text = unicodedata.normalize("NFC", "".join(c for c in apart if unicodedata.category(c) != "Mn"))
        if self.punctuation:
            text = REPEATED.sub(r"\1", text)
        if self.whitespace:
            text = SPACE.sub(" ", text).strip()
        return text


def _without_markup(text: str) -> str:
    """What a tag was leaves a space: words on both sides of <br> are two. Each round makes the text shorter."""
    while True:
        done = html.unescape(MARKUP.sub(" ", text))
        if done == text:
            return text
        text = done


__all__ = ["CleanText"]
