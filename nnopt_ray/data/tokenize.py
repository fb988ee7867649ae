"""The step `tokenize`: a text becomes a row of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from nnopt_ray.data import tokenizer
from nnopt_ray.data.files import digest
from nnopt_ray.data.frame import Feature, Frame, Numeric, Text, Tokens
from nnopt_ray.data.steps import Step, as_text
from nnopt_ray.data.table import quoted
from nnopt_ray.data.tokenizer import Tokenizer
from nnopt_ray.data.types import PreprocessingState
from nnopt_ray.errors import DataError
from nnopt_ray.experiment import Beside

SHARE = 0.99  # of the training rows that `length: auto` keeps whole
MULTIPLE = 8  # `length: auto` is rounded up to one: sizes that processors like
LONGEST = 512  # and no longer than this, BERT's own limit: attention costs its square


class Tokenize(Step):
    """Turn text into tokens, for networks that read: int64 [rows, length], `[PAD]` behind a shorter text.

    The vocabulary is learned from the training part. Its first tokens are [PAD], [UNK], [CLS], [SEP] and [MASK];
    a row is [CLS] TEXT [SEP], as BERT has it, and of several columns [CLS] TEXT [SEP] TEXT [SEP]. What is longer
    is cut at its end. For language tasks see `data.task`; there a row is `length` tokens of a text that goes on.

    Keys:
        method: wordpiece as BERT, bpe (over bytes) as GPT-2, sentencepiece (unigram), characters or words.
        vocabulary_size: most tokens there may be, the special ones included.
        length: tokens of a row; auto: 99 % of the training rows are kept whole, rounded up to a multiple of 8, at most
            512; 128 for language tasks.
        lowercase: read capitals as small letters; auto does for wordpiece and words.
        special_tokens: put [CLS] and [SEP] around each row.
        file: use this tokenizer, whatever the method: tokenizer.json, BERT's vocab.txt, a .model of SentencePiece, or
            data/preprocessing.json of a run.
        columns: the text columns to read, together as one text; when left out, those that hold free text, or the
            only text column.
    """

    reads_text = True
    images_by_rows = True

    def __init__(
        self,
        *,
        method: tokenizer.Method = "wordpiece",
        vocabulary_size: Annotated[int, Field(ge=len(tokenizer.SPECIAL) + 1, le=1_000_000)] = 8000,
        length: Annotated[int, Field(ge=3)] | Literal["auto"] = "auto",
        lowercase: bool | Literal["auto"] = "auto",
        special_tokens: bool = True,
        file: Annotated[str, Beside()] | None = None,
        columns: tuple[str, ...] | None = None,
    ) -> None:
        self.method = method
        self.vocabulary_size = vocabulary_size
        self.length = length
        self.lowercase = method in ("wordpiece", "words") if lowercase == "auto" else lowercase
        self.special_tokens = special_tokens
        self.file = file
        self.columns = columns

    def fingerprint(self, base: Path) -> str:
        if self.file is None:
            return ""
        place = base / Path(self.file).expanduser()
        return digest([place], base) if place.is_file() else ""

    def fit(self, frame: Frame, rows: np.ndarray) -> PreprocessingState:
        columns = self._columns(frame)
        if any(isinstance(feature, Tokens) for feature in frame.features.values()):
            raise DataError(
                "data.steps: there are two tokenize steps, and a network reads one text. Name all columns in one: "
                "they are read together."
            )
        texts = [as_text(frame.features[name]) for name in columns]
        if self.file is not None:
            # The page names it in full; a page without a file is looked at from the current folder.
            learned = tokenizer.load(Path(self.file).expanduser(), self.lowercase)
        else:
            training = [text.words[code] for text in texts for code in text.codes[rows] if code >= 0]
            learned = tokenizer.train(self.method, training, self.vocabulary_size, self.lowercase)
        state: PreprocessingState = {"columns": columns, "tokenizer": learned.to_json(), "framed": self.special_tokens}
        if self.length != "auto":
            return {**state, "length": self.length}
        tokens = _tokens([_some(text, rows) for text in texts], learned, {**state, "length": 1})
        wanted = float(np.quantile(tokens.sizes, SHARE, method="inverted_cdf"))
        length = min(LONGEST, MULTIPLE * max(1, int(np.ceil(wanted / MULTIPLE))))
        return {**state, "length": length, "quantile": int(wanted)}

    def _columns(self, frame: Frame) -> list[str]:
        names, with_image = frame.select(self.columns, "tokenize")
        if self.columns is not None:
            wrong = [name for name in names if not isinstance(frame.features[name], (Text, Numeric))]
            if wrong or with_image or not names:
                raise DataError(
                    f"data.steps: tokenize reads text, and {quoted(wrong or list(self.columns))} holds none. "
                    "Take it off the step's columns, or put the step before the one that changed it."
                )
            return names
        texts = {name: frame.features[name] for name in names if isinstance(frame.features[name], Text)}
        free = [name for name, feature in texts.items() if isinstance(feature, Text) and feature.free]
        if free or len(texts) == 1:
            return free or list(texts)
        if not texts:
            raise DataError("data.steps: tokenize finds no text column. Take the step away, or name its columns.")
        raise DataError(
            f"data.steps: tokenize: none of the text columns {quoted(list(texts))} looks like free text. "
            "Name what is to be read: {type: tokenize, columns: [NAME]}"
        )

    def transform(self, frame: Frame, state: PreprocessingState) -> Frame:
        read = set(state["columns"])
        texts = [as_text(frame.features[name]) for name in state["columns"]]
        made = _tokens(texts, tokenizer.from_json(state["tokenizer"]), state)
        features: dict[str, Feature] = {}
        for name, feature in frame.features.items():
            if name == state["columns"][0]:
                features[name] = made
            elif name not in read:
                features[name] = feature
        return frame.with_features(features)

    def notes(self, frame: Frame, state: PreprocessingState, parts: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        tokens = next(feature for feature in frame.features.values() if isinstance(feature, Tokens))
        named = " and ".join(f"'{name}'" for name in state["columns"])
        where = f"read by {Path(self.file).name}" if self.file else f"{self.method}, learned from the training part"
        said = [f"Text {named}: {tokens.cardinality:,} tokens ({where})."]
        counts = {part: tokens.count_of(tokens.unknown, parts[part]) for part in ("train", "validation")}
        totals = {part: int(tokens.sizes_inside[parts[part]].sum()) for part in counts}
        if any(counts.values()):
            told = ", ".join(f"{_share(counts[part], totals[part])} of the {part} part" for part in counts)
            said.append(f"Tokens of {named} that are unknown ([UNK]): {told}.")
        empty = {part: int((tokens.sizes_inside[parts[part]] == 0).sum()) for part in parts}
        if any(empty.values()):
            told = ", ".join(f"{count:,} of the {part} part" for part, count in empty.items() if count)
            said.append(f"Rows without any text in {named}: {told}.")
        return tuple(said)


def _share(count: int, total: int) -> str:
    return f"{100 * count / max(total, 1):.2g} %"


def _some(text: Text, rows: np.ndarray) -> Text:
    return Text(text.codes[rows], text.words, text.origin, text.free)


def _tokens(texts: list[Text], learned: Tokenizer, state: Mapping[str, Any]) -> Tokens:
    """The tokens of each row: those of its texts, [SEP] between them."""
    separator = np.array([learned.special["[SEP]"]], dtype=np.int32)
    rows = len(texts[0].codes)
    pieces: list[list[np.ndarray]] = [[] for _ in range(rows)]
    for text in texts:
        used = np.unique(text.codes[text.codes >= 0])
        encoded = dict(zip(used, learned.encode([text.words[code] for code in used]), strict=True))
        encoded = {code: tokens.astype(np.int32) for code, tokens in encoded.items()}
        for row, code in zip(pieces, text.codes, strict=True):
            if code >= 0:
                row += [separator, encoded[code]] if row else [encoded[code]]
    joined = [np.concatenate(row) if row else np.empty(0, np.int32) for row in pieces]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in joined])]).astype(np.int64)
    return Tokens(
        flat=np.concatenate(joined),
        starts=starts,
        length=state["length"],
        cardinality=learned.size,
        padding=learned.special["[PAD]"],
        unknown=learned.special["[UNK]"],
        first=learned.special["[CLS]"],
        last=learned.special["[SEP]"],
        mask=learned.special["[MASK]"],
        framed=state["framed"],
        origin=texts[0].origin,
    )


__all__ = ["Tokenize"]
