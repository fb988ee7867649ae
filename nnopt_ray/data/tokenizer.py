"""Tokenizers: texts to numbers and back, trained here or read from a file, saved as JSON.

WordPiece, byte-pair encoding and words are Hugging Face's `tokenizers`; SentencePiece is Google's; characters are
a table of our own. The tokens of a tokenizer trained here begin with SPECIAL, `[PAD]` being 0.
"""

from __future__ import annotations

import base64
import io
import json
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnopt_ray.errors import DataError

Method = Literal["wordpiece", "bpe", "sentencepiece", "characters", "words"]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# What vocabularies from elsewhere call the same: BERT's own, RoBERTa's and BART's, T5's, GPT-2's.
ALIASES: dict[str, tuple[str, ...]] = {
    "[PAD]": ("[PAD]", "<pad>"),
    "[UNK]": ("[UNK]", "<unk>"),
    "[CLS]": ("[CLS]", "<s>", "<cls>"),
    "[SEP]": ("[SEP]", "</s>", "<sep>", "<|endoftext|>"),
    "[MASK]": ("[MASK]", "<mask>"),
}
ALPHABET = 1000  # most characters of WordPiece (BertWordPieceTokenizer's limit_alphabet in `tokenizers`)
AT_ONCE = 1000  # texts encoded at a time; each leaves several times its size behind until it is read
LONGEST_WORD = 100  # characters; BERT's max_input_chars_per_word
SENTENCE = 4000  # characters of a piece that SentencePiece learns from; it skips sentences above 4192 bytes


class Tokenizer(ABC):
    """Contract: `encode` never adds special tokens; numbers are below `size`.

    special: the number of each of SPECIAL. A vocabulary from a file that lacks one gets it added at its end.
    """

    size: int
    special: Mapping[str, int]

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """int64 [tokens] of each text, in order."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of these tokens, without special ones; what was unknown is lost."""

    @abstractmethod
    def vocabulary(self) -> tuple[str, ...]:
        """The token behind each number."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """What `restored` makes the same tokenizer of; `kind` says of which class."""

    @classmethod
    @abstractmethod
    def restored(cls, said: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer that `to_json` said."""


def from_json(said: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a fitted `tokenize` step saved."""
    kinds: dict[str, type[Tokenizer]] = {
        "characters": Characters,
        "tokenizers": HuggingFace,
        "sentencepiece": SentencePiece,
    }
    return kinds[said["kind"]].restored(said)


def _completed(vocabulary: Mapping[str, int], size: int) -> tuple[dict[str, int], int]:
    """The numbers of the special tokens, those that are lacking behind all others; and the new size."""
    special: dict[str, int] = {}
    for name in SPECIAL:
        there = [vocabulary[alias] for alias in ALIASES[name] if alias in vocabulary]
        special[name] = there[0] if there else size
        size += not there
    return special, size


# Characters


class Characters(Tokenizer):
    """A number for each character of the training texts, the most frequent first."""

    def __init__(self, characters: str, lowercase: bool) -> None:
        self.characters = characters
        self.lowercase = lowercase
        self.size = len(SPECIAL) + len(characters)
        self.special = {name: number for number, name in enumerate(SPECIAL)}
        points = np.frombuffer(characters.encode("utf-32-le"), dtype="<u4").astype(np.int64)
        self._order = np.argsort(points)
        self._points = points[self._order]

    @classmethod
    def trained(cls, texts: Iterable[str], most: int, lowercase: bool) -> Characters:
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text.lower() if lowercase else text)
        ranked = sorted(counts, key=lambda character: (-counts[character], character))
        return cls("".join(ranked[: most - len(SPECIAL)]), lowercase)

    def encode(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        for text in texts:
            lowered = text.lower() if self.lowercase else text
            points = np.frombuffer(lowered.encode("utf-32-le", "replace"), dtype="<u4").astype(np.int64)
            if not len(self._points):
                yield np.full(len(points), self.special["[UNK]"])
                continue
            place = np.minimum(np.searchsorted(self._points, points), len(self._points) - 1)
            known = self._points[place] == points
            yield np.where(known, self._order[place] + len(SPECIAL), self.special["[UNK]"])

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.characters[token - len(SPECIAL)] for token in tokens if token >= len(SPECIAL))

    def vocabulary(self) -> tuple[str, ...]:
        return (*SPECIAL, *self.characters)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "characters", "characters": self.characters, "lowercase": self.lowercase}

    @classmethod
    def restored(cls, said: Mapping[str, Any]) -> Characters:
        return cls(said["characters"], said["lowercase"])


class _Wrapped(Tokenizer):
    """A tokenizer of a library, `_inner`."""

    _inner: Any

    def decode(self, tokens: Sequence[int]) -> str:
        shown = set(self.special.values())
        text: str = self._inner.decode([int(token) for token in tokens if int(token) not in shown])
        return text


# WordPiece, byte-pair encoding, words


class HuggingFace(_Wrapped):
    """A tokenizer.json of Hugging Face's `tokenizers`."""

    def __init__(self, inner: Any) -> None:
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        known = inner.get_vocab(with_added_tokens=True)
        self._known = {number: token for token, number in known.items()}
        self.special, self.size = _completed(known, max(known.values(), default=-1) + 1)

    def encode(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        with _one_thread():
            for start in range(0, len(texts), AT_ONCE):
                some = list(texts[start : start + AT_ONCE])
                for encoding in self._inner.encode_batch(some, add_special_tokens=False):
                    yield np.array(encoding.ids, dtype=np.int64)

    def vocabulary(self) -> tuple[str, ...]:
        names = {number: name for name, number in self.special.items()}
        return tuple(self._known.get(number, names.get(number, "")) for number in range(self.size))

    def to_json(self) -> dict[str, Any]:
        return {"kind": "tokenizers", "tokenizer": json.loads(self._inner.to_str())}

    @classmethod
    def restored(cls, said: Mapping[str, Any]) -> HuggingFace:
        from tokenizers import Tokenizer as Inner

        return cls(Inner.from_str(json.dumps(said["tokenizer"])))


def _framed(inner: Any, decoder: Any) -> HuggingFace:
    """With BERT's frame for those who take the file elsewhere; `encode` leaves it out."""
    from tokenizers import AddedToken, processors

    inner.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    inner.decoder = decoder
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, SPECIAL.index(name)) for name in ("[CLS]", "[SEP]")],
    )  # fmt: skip
    return HuggingFace(inner)


def _bert(vocabulary: Mapping[str, int], lowercase: bool) -> Any:
    """WordPiece as BERT uses it: its cleaning, words at spaces and punctuation, longest pieces first."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import models, normalizers, pre_tokenizers

    model = models.WordPiece(dict(vocabulary), unk_token="[UNK]", max_input_chars_per_word=LONGEST_WORD)
    inner = Inner(model)
    inner.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return inner


def _counted(inner: Any, texts: Iterable[str]) -> Counter[str]:
    """The words that a tokenizer's own cleaning and dividing makes of these texts."""
    counts: Counter[str] = Counter()
    for text in texts:
        clean = inner.normalizer.normalize_str(text) if inner.normalizer is not None else text
        counts.update(word for word, _ in inner.pre_tokenizer.pre_tokenize_str(clean))
    return counts


def _wordpiece(texts: Sequence[str], size: int, lowercase: bool) -> HuggingFace:
    """WordPiece, the pieces learned as Hugging Face's trainer does: pairs that occur together most often.

    That trainer numbers the first pieces in the order of a hash table, which differs from process to process and
    settles ties. They are given to it in a fixed order instead, as special tokens, which it takes first.
    """
    from tokenizers import decoders, trainers

    inner = _bert({}, lowercase)
    first: Counter[str] = Counter()
    later: Counter[str] = Counter()
    for word, count in _counted(inner, texts).items():
        first[word[0]] += count
        for character in word[1:]:
            later[character] += count
    both = first + later
    alphabet = sorted(sorted(both), key=lambda character: -both[character])[: min(ALPHABET, max(size // 4, 1))]
    kept = set(alphabet)
    pieces = [*sorted(kept), *(f"##{character}" for character in sorted(kept & set(later)))]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=[*SPECIAL, *pieces],
        initial_alphabet=sorted(kept),
        limit_alphabet=len(kept),
        show_progress=False,
    )
    with _one_thread():
        inner.train_from_iterator(texts, trainer)
    learned = sorted(inner.get_vocab(), key=inner.token_to_id)[:size]
    return _framed(_bert({piece: number for number, piece in enumerate(learned)}, lowercase), decoders.WordPiece())


def _bpe(texts: Sequence[str], size: int, lowercase: bool) -> HuggingFace:
    """Byte-pair encoding over bytes, as GPT-2: nothing is unknown."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    inner = Inner(models.BPE())
    if lowercase:
        inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=max(size, len(SPECIAL) + 256),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with _one_thread():
        inner.train_from_iterator(texts, trainer)
    return _framed(inner, decoders.ByteLevel())


def _words(texts: Sequence[str], size: int, lowercase: bool) -> HuggingFace:
    """The most frequent words, and marks of punctuation as words of their own."""
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models

    like = _bert({}, lowercase)
    counts = _counted(like, texts)
    ranked = sorted(sorted(counts), key=lambda word: -counts[word])[: size - len(SPECIAL)]
    inner = Inner(models.WordLevel({word: number for number, word in enumerate((*SPECIAL, *ranked))}, "[UNK]"))
    inner.normalizer, inner.pre_tokenizer = like.normalizer, like.pre_tokenizer
    return _framed(inner, decoders.WordPiece())


@contextmanager
def _one_thread() -> Iterator[None]:
    """No threads of `tokenizers`: they would warn at every fork that follows."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


# SentencePiece


class SentencePiece(_Wrapped):
    """A model of Google's SentencePiece."""

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        self._model = model
        self._inner = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._pieces = [self._inner.id_to_piece(number) for number in range(self._inner.get_piece_size())]
        self.special, self.size = _completed({p: n for n, p in enumerate(self._pieces)}, len(self._pieces))

    @classmethod
    def trained(cls, texts: Sequence[str], size: int, lowercase: bool) -> SentencePiece:
        """The unigram model of SentencePiece (Kudo 2018)."""
        import sentencepiece

        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_sentences(texts),
                model_writer=model,
                model_type="unigram",
                vocab_size=size,
                hard_vocab_limit=False,
                pad_id=0, pad_piece="[PAD]", unk_id=1, unk_piece="[UNK]", bos_id=-1, eos_id=-1,
                control_symbols=["[CLS]", "[SEP]", "[MASK]"],
                normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
                num_threads=1,
                max_sentence_length=8 * SENTENCE,  # bytes
                minloglevel=2,
            )  # fmt: skip
        except (RuntimeError, ValueError) as error:
            why = str(error).strip().splitlines()[-1]
            raise DataError(
                f"data.steps: SentencePiece could not learn {size} tokens from {len(texts)} texts: {why}. "
                "Use a smaller vocabulary_size, more text, or another method."
            ) from error
        return cls(model.getvalue())

    def encode(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        for text in texts:
            yield np.array(self._inner.encode(text), dtype=np.int64)

    def vocabulary(self) -> tuple[str, ...]:
        names = {number: name for name, number in self.special.items()}
        return (*self._pieces, *(names[number] for number in range(len(self._pieces), self.size)))

    def to_json(self) -> dict[str, Any]:
        return {"kind": "sentencepiece", "model": base64.b64encode(self._model).decode()}

    @classmethod
    def restored(cls, said: Mapping[str, Any]) -> SentencePiece:
        return cls(base64.b64decode(said["model"]))


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.splitlines():
            for start in range(0, len(line), SENTENCE):
                yield line[start : start + SENTENCE]


def train(method: Method, texts: Sequence[str], size: int, lowercase: bool) -> Tokenizer:
    """A tokenizer of at most `size` tokens, special ones included, learned from these texts; the same texts give
    the same one in any process. Raises DataError when nothing can be learned."""
    if not any(texts):
        raise DataError("data.steps: tokenize has nothing to learn from: no training row has any text.")
    match method:
        case "characters":
            return Characters.trained(texts, size, lowercase)
        case "sentencepiece":
            return SentencePiece.trained(texts, size, lowercase)
        case "wordpiece":
            return _wordpiece(texts, size, lowercase)
        case "bpe":
            return _bpe(texts, size, lowercase)
        case "words":
            return _words(texts, size, lowercase)


# Files


def load(place: Path, lowercase: bool) -> Tokenizer:
    """The tokenizer of a file: tokenizer.json, BERT's vocab.txt, SentencePiece's .model, or the preprocessing.json
    of a run. Raises DataError when it is none of them."""
    cure = "Give a tokenizer.json, a vocab.txt of BERT, a .model of SentencePiece, or the preprocessing.json of a run."
    if not place.is_file():
        raise DataError(f"data.steps: tokenize.file: there is no file {place}. {cure}")
    with _Told(place, cure):
        if place.suffix == ".json":
            return _of_json(place, cure)
        if place.suffix == ".txt":
            words = place.read_text(encoding="utf-8").splitlines()
            return HuggingFace(_bert({word: number for number, word in enumerate(words)}, lowercase))
        if place.suffix == ".model":
            return SentencePiece(place.read_bytes())
    raise DataError(f"data.steps: tokenize.file: {place} is no tokenizer that is known here. {cure}")


class _Told:
    """What is wrong with a tokenizer's file, as one sentence. `tokenizers` raises bare Exceptions."""

    def __init__(self, place: Path, cure: str) -> None:
        self.place = place
        self.cure = cure

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is Exception or isinstance(error, (ValueError, RuntimeError, KeyError, TypeError, OSError)):
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise DataError(
                f"data.steps: tokenize.file: {self.place} cannot be read: {said[0].rstrip('.')}. {self.cure}"
            ) from error


def _of_json(place: Path, cure: str) -> Tokenizer:
    said = json.loads(place.read_text(encoding="utf-8"))
    if isinstance(said, dict) and said.get("format") == "nnopt-preprocessing":
        for step in said["steps"]:
            if "tokenizer" in step["learned"]:
                return from_json(step["learned"]["tokenizer"])
        raise DataError(f"data.steps: tokenize.file: the run of {place} read no text. {cure}")
    if not isinstance(said, dict) or "model" not in said:
        raise DataError(f"data.steps: tokenize.file: {place} holds no tokenizer. {cure}")
    return from_json({"kind": "tokenizers", "tokenizer": said})


__all__ = ["SPECIAL", "Method", "Tokenizer", "from_json", "load", "train"]
