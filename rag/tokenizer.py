"""Cuts text into tokens, for size limits and offsets. Knows vocabularies; knows no model, loads neither torch nor transformers.

Offsets are characters of the text that was handed in, whatever the vocabulary normalises. Three facts that users of
offsets must know: a token of a byte-level vocabulary may start with the blank before its word, several such tokens may
share the offsets of one character, and a vocabulary with a cap on word length makes one token of a word of any length.
"""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rag import embedded
from rag.core import Span, Tokenizer, digest
from rag.errors import ModelError

if TYPE_CHECKING:
    import tokenizers

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
"""Characters of scripts that put no blanks between words (Thai, Lao, Burmese, Khmer, Han, kana), inside ``[...]``."""

SURE_BLANKS = " \t\n\r"
"""The blanks at which every vocabulary that treats words one by one ends a word."""

_BLOCK_CHARS = 16_384  # what a text takes beside its offsets is bounded by what a block takes
_PART_CHARS = 16_384  # the library slows down threefold on texts of a megabyte and encodes parts in parallel
_MAX_KNOWN_WORDS = 200_000
_MAX_KNOWN_WORD_CHARS = 64
_LONG_WORD_CHARS = 4_096
_SURE_BLANK = re.compile(f"[{SURE_BLANKS}]")
_WORD = re.compile(r"[^ \t\n\r]+")  # no other blank: BERT's normaliser deletes form feeds and joins what is around them
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSPACED = re.compile(f"[{UNSPACED}]")
_PUNCTUATION = string.punctuation + "\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f"
_LOCAL_SPLITTERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_LOCAL_NORMALIZERS = {None, "BertNormalizer", "Lowercase", "StripAccents", "NFC", "NFD", "NFKC", "NFKD"}

Offsets = NDArray[np.int64]
"""``(tokens, 2)``: start and end character of each token, in order."""


def offsets_of(tokenizer: Tokenizer, text: str) -> Offsets:
    """``tokenizer.spans(text)`` as an array; the tokenizers of this module make it without a list of pairs."""
    if isinstance(tokenizer, HuggingFaceTokenizer | WordTokenizer):
        return tokenizer.offsets(text)
    return np.array(tokenizer.spans(text), dtype=np.int64).reshape(-1, 2)


def counts_of(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """``tokenizer.count`` of each text; the tokenizers of this module do all texts in one go."""
    if isinstance(tokenizer, HuggingFaceTokenizer | WordTokenizer):
        return tokenizer.counts(texts)
    return [tokenizer.count(text) for text in texts]


def measured(tokenizer: Tokenizer, text: str) -> Iterator[tuple[Offsets, bool]]:
    """``offsets_of`` a part at a time, the parts in order, each with whether what stands in it between two of ``SURE_BLANKS`` is
    known to have as many tokens by itself. Parts end at blanks; a tokenizer that does not treat words one by one gives one part.
    """
    if isinstance(tokenizer, HuggingFaceTokenizer | WordTokenizer):
        yield from tokenizer.measured(text)
    else:
        yield offsets_of(tokenizer, text), False


class WordTokenizer:
    """Runs of word characters and runs of other marks; each character of an unspaced script (Han, Thai, ...) by itself.

    Needs no model. Accents, vowel signs and joiners stay with the character before them.

    >>> [span.of("It's naïve: 東京!") for span in WordTokenizer().spans("It's naïve: 東京!")]
    ['It', "'", 's', 'naïve', ':', '東', '京', '!']
    """

    name = "words"

    def spans(self, text: str) -> list[Span]:
        """The characters of each token, in order."""
        return [Span(start, end) for start, end in self.offsets(text).tolist()]

    def count(self, text: str) -> int:
        """How many tokens ``text`` has."""
        return len(self.offsets(text))

    def counts(self, texts: Sequence[str]) -> list[int]:
        """``count`` of each text."""
        first = np.cumsum([0, *(len(text) + 1 for text in texts)])
        starts = self.offsets("\n".join(texts))[:, 0]
        return np.diff(np.searchsorted(starts, first)).tolist()  # type: ignore[no-any-return]

    def offsets(self, text: str) -> Offsets:
        """The characters of each token, ``(tokens, 2)``."""
        return _joined([offsets for offsets, _ in self.measured(text)])

    def measured(self, text: str) -> Iterator[tuple[Offsets, bool]]:
        """See ``measured``."""
        for start, block in _blocks(text):
            yield self._offsets(block) + start, True

    def _offsets(self, text: str) -> Offsets:
        if not text:
            return np.empty((0, 2), dtype=np.int64)
        classes = _class_table().take(_code_points(text), mode="clip")
        is_mark = classes == _MARK
        has_marks = bool(is_mark.any())
        if has_marks:  # a mark is of the class of what it stands on; on nothing, it is punctuation
            base = np.maximum.accumulate(np.where(is_mark, 0, np.arange(len(classes))))
            classes = classes[base]
            classes[is_mark & ((classes == _BLANK) | (classes == _MARK))] = _OTHER
        before = np.empty_like(classes)
        before[0], before[1:] = _BLANK, classes[:-1]
        is_edge = classes != before
        is_edge |= (classes == _ALONE) & ~is_mark if has_marks else classes == _ALONE
        starts, ends = np.flatnonzero(is_edge & (classes != _BLANK)), np.flatnonzero(is_edge & (before != _BLANK))
        offsets = np.full((len(starts), 2), len(classes), dtype=np.int64)
        offsets[:, 0], offsets[: len(ends), 1] = starts, ends
        return offsets

    def spans_reference(self, text: str) -> list[Span]:
        """What ``spans`` must equal, one character at a time."""
        spans: list[Span] = []
        previous = _BLANK
        for place, character in enumerate(text):
            found = _character_class(character)
            if found == _MARK:
                found, is_new = (_OTHER, True) if previous == _BLANK else (previous, False)
            else:
                is_new = found != previous or found == _ALONE
            if found != _BLANK:
                start = place if is_new else spans.pop().start
                spans.append(Span(start, place + 1))
            previous = found
        return spans


_BLANK, _LETTER, _OTHER, _ALONE, _MARK = range(5)
_TABLE_SIZE = 0x20000  # above it there is little but Han


def _character_class(character: str) -> int:
    if character.isspace():
        return _BLANK
    if ord(character) >= _TABLE_SIZE:
        return _ALONE
    if _UNSPACED.match(character):
        return _MARK if unicodedata.category(character).startswith("M") else _ALONE
    if character in "\u200c\u200d" or unicodedata.category(character).startswith("M"):
        return _MARK
    return _LETTER if character.isalnum() or character == "_" else _OTHER


@cache
def _class_table() -> NDArray[np.uint8]:
    classes = (_character_class(chr(code)) if code < _TABLE_SIZE else _ALONE for code in range(_TABLE_SIZE + 1))
    return np.fromiter(classes, np.uint8, _TABLE_SIZE + 1)


def _code_points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


class HuggingFaceTokenizer:
    """Any ``tokenizer.json``: by folder, by file or by hub id; ``embedded`` is the model that ships with the package.

    No special tokens, no truncation, no padding. Takes time linear in the text. Where the vocabulary treats every
    blank-separated word by itself (BERT's does), each distinct word goes through the library once and is remembered;
    other vocabularies get long texts in parts, cut between words.

    Raises ``ModelError`` if there is no such tokenizer or it cannot be loaded.
    """

    def __init__(self, model: str = embedded.WORD) -> None:
        self._library = _load(model)
        self._library.no_truncation()
        self._library.no_padding()
        description = self._library.to_str()
        self.name = f"{Path(model).name}@{digest(description)[:8]}"
        self._is_word_local, self._long_word_pieces = _locality(_without_model(description))
        self._known: dict[str, tuple[int, ...]] = {}
        self._shared: dict[tuple[int, ...], tuple[int, ...]] = {}  # words are many, ways to cut one are few

    def spans(self, text: str) -> list[Span]:
        """The characters of each token, in order; tokens without characters are left out."""
        return [Span(start, end) for start, end in self.offsets(text).tolist()]

    def count(self, text: str) -> int:
        """How many tokens a model would see, those without characters included."""
        return self.counts([text])[0]

    def offsets(self, text: str) -> Offsets:
        """The characters of each token, ``(tokens, 2)``; tokens without characters are left out."""
        return _joined([offsets for offsets, _ in self.measured(text)])

    def measured(self, text: str) -> Iterator[tuple[Offsets, bool]]:
        """See ``measured``."""
        text = _encodable(text)
        for start, block in _blocks(text) if self._is_word_local else [(0, text)]:
            offsets = self._offsets_by_word(block) if self._is_word_local else self._offsets_by_part(block)
            offsets += start
            has_characters = offsets[:, 1] > offsets[:, 0]
            is_whole = bool(has_characters.all())
            yield offsets if is_whole else offsets[has_characters], self._is_word_local and is_whole

    def offsets_reference(self, text: str) -> Offsets:
        """What ``offsets`` must equal: the whole text through the library in one piece."""
        encoding = self._library.encode(_encodable(text), add_special_tokens=False)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        return offsets[offsets[:, 1] > offsets[:, 0]]

    def counts(self, texts: Sequence[str]) -> list[int]:
        """``count`` of each text."""
        texts = [_encodable(text) for text in texts]
        if self._is_word_local:
            return [count for group in _groups(texts) for count in self._counts_by_word(group)]
        parts = [_parts(text) for text in texts]
        batch = [part.of(text) for text, own in zip(texts, parts, strict=True) for part in own]
        num_tokens = iter([len(encoding) for encoding in self._library.encode_batch_fast(batch, add_special_tokens=False)])
        return [sum(next(num_tokens) for _ in own) for own in parts]

    def _counts_by_word(self, texts: Sequence[str]) -> list[int]:
        words, starts = self._words("\n".join(texts))
        sizes = {word: len(flat) // 2 for word, flat in self._pieces(words).items()}
        num_before = np.cumsum([0, *map(sizes.__getitem__, words)])
        first_chars = np.cumsum([0, *(len(text) + 1 for text in texts)])
        return np.diff(num_before[np.searchsorted(starts, first_chars)]).tolist()  # type: ignore[no-any-return]

    def _offsets_by_part(self, text: str) -> Offsets:
        parts = _parts(text)
        encodings = self._library.encode_batch([part.of(text) for part in parts], add_special_tokens=False)
        flat = [np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) for encoding in encodings]
        return np.concatenate([offsets + part.start for part, offsets in zip(parts, flat, strict=True)])

    def _offsets_by_word(self, text: str) -> Offsets:
        words, starts = self._words(text)
        known = self._pieces(words)
        pieces = [known[word] for word in words]
        sizes = np.fromiter(map(len, pieces), np.int64, len(pieces)) // 2
        offsets = np.fromiter(chain.from_iterable(pieces), np.int64, 2 * int(sizes.sum())).reshape(-1, 2)
        return offsets + np.repeat(starts, sizes)[:, None]

    def _words(self, text: str) -> tuple[list[str], NDArray[np.int64]]:
        """The pieces of ``text`` that the vocabulary treats one by one, and where they start."""
        words: list[str] = _WORD.findall(text)
        codes = _code_points(text)
        solid = (codes != 32) & (codes != 9) & (codes != 10) & (codes != 13)
        starts = np.flatnonzero(solid & ~np.concatenate([[False], solid[:-1]])).astype(np.int64)
        if self._long_word_pieces is None or max(map(len, words), default=0) <= _LONG_WORD_CHARS:
            return words, starts
        cut: list[tuple[str, int]] = []
        for word, start in zip(words, starts.tolist(), strict=True):
            if len(word) <= _LONG_WORD_CHARS:
                cut.append((word, start))
            else:
                cut.extend((match.group(), start + match.start()) for match in self._long_word_pieces.finditer(word))
        return [word for word, _ in cut], np.array([start for _, start in cut], dtype=np.int64)

    def _cut(self, words: list[str]) -> dict[str, tuple[int, ...]]:
        """What ``_pieces`` gives, by the library: all words in one call, each by itself."""
        cut: list[list[int]] = [[] for _ in words]
        if words:
            encoding = self._library.encode(words, is_pretokenized=True, add_special_tokens=False)
            for number, offsets in zip(encoding.word_ids, encoding.offsets, strict=True):
                assert number is not None  # only special tokens belong to no word
                cut[number] += offsets
        flats = map(tuple, cut)
        return {word: self._shared.setdefault(flat, flat) for word, flat in zip(words, flats, strict=True)}

    def _pieces(self, words: Iterable[str]) -> dict[str, tuple[int, ...]]:
        """Distinct word -> start, end, start, end, ... of its tokens, from the word's first character."""
        known = self._known
        # every call keeps what it needs for itself, so that threads may share the tokenizer
        pieces = {word: known.get(word) for word in dict.fromkeys(words)}
        missing = [word for word, flat in pieces.items() if flat is None]
        fresh = self._cut(missing)
        if len(known) > _MAX_KNOWN_WORDS:
            self._known, self._shared = {}, {}
            known = self._known
        known.update((word, flat) for word, flat in fresh.items() if len(word) <= _MAX_KNOWN_WORD_CHARS)
        return {word: fresh[word] if flat is None else flat for word, flat in pieces.items()}


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """The blocks of ``text``, cut after blanks, and where they start."""
    start = 0
    while start < len(text):
        blank = _SURE_BLANK.search(text, start + _BLOCK_CHARS)
        end = blank.end() if blank else len(text)
        yield start, text[start:end]
        start = end


def _joined(blocks: Sequence[Offsets]) -> Offsets:
    return blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros((0, 2), dtype=np.int64), *blocks])


def _groups(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """``texts`` in groups of about a block; an empty one for no texts."""
    first = num_chars = 0
    for place, text in enumerate(texts):
        num_chars += len(text)
        if num_chars > _BLOCK_CHARS:
            yield texts[first : place + 1]
            first, num_chars = place + 1, 0
    yield texts[first:]


def _load(model: str) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as LibraryTokenizer

    place = Path(embedded.resolve(model))
    file = place / "tokenizer.json" if place.is_dir() else place
    if place.is_dir() and not file.is_file():
        raise ModelError(f"tokenizer {model!r}: the folder holds no tokenizer.json")
    try:
        return LibraryTokenizer.from_file(str(file)) if file.is_file() else LibraryTokenizer.from_pretrained(model)
    except Exception as error:  # the library raises plain Exception for a bad file, the hub client a zoo of its own
        raise ModelError(f"tokenizer {model!r} cannot be loaded: {error}") from error


def _without_model(description: str) -> dict[str, Any]:
    """The parts of a ``tokenizer.json`` but its vocabulary, which is most of it and stands at the end."""
    head, mark, _ = description.partition(',"model":')
    loaded: dict[str, Any] = json.loads(head + "}" if mark else description)
    return loaded


def _locality(description: dict[str, Any]) -> tuple[bool, re.Pattern[str] | None]:
    """Whether tokens(text) are the tokens of its blank-separated words, and a pattern that cuts long words as harmlessly."""
    normalizer, splitter = description["normalizer"] or {}, description["pre_tokenizer"] or {}
    steps = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer]
    added = description["added_tokens"]
    is_word_local = (
        splitter.get("type") in _LOCAL_SPLITTERS
        and all(step.get("type") in _LOCAL_NORMALIZERS for step in steps)
        and not any(token["lstrip"] or token["rstrip"] or re.search(r"\s", token["content"]) for token in added)
    )
    if not is_word_local or splitter["type"] != "BertPreTokenizer":
        return is_word_local, None
    lone = set(_PUNCTUATION).difference(*(token["content"] for token in added))
    han = "\u3400-\u4dbf\u4e00-\u9fff" if any(step.get("handle_chinese_chars") for step in steps) else ""
    lone_class = f"[{re.escape(''.join(sorted(lone)))}{han}]"
    return True, re.compile(rf"(?s:.{{0,{_LONG_WORD_CHARS - 1}}}{lone_class}|.+?(?:{lone_class}|\Z))")


def _encodable(text: str) -> str:
    """``text`` with a replacement character for each lone surrogate, which the library cannot take; the same length."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATE.sub("\ufffd", text)
    return text


def _parts(text: str) -> list[Span]:
    """Consecutive spans of at most ``_PART_CHARS`` characters, cut where the usual vocabularies start a token anyway."""
    parts, start = [], 0
    while len(text) - start > _PART_CHARS:
        end = _place_to_cut(text, start + _PART_CHARS // 2, start + _PART_CHARS)
        parts.append(Span(start, end))
        start = end
    return [*parts, Span(start, len(text))]


def _place_to_cut(text: str, low: int, high: int) -> int:
    # before the blank of "letter blank letter": byte-level and sentencepiece vocabularies both start " word" there;
    # before punctuation after a letter for scripts without blanks; else before a line break; else anywhere
    for pattern in (r"(?<=[^\W_]) (?=[^\W_])", r"(?<=[^\W_])[、。，．；：！？]", r"\n"):
        places = [match.start() for match in re.compile(pattern).finditer(text, max(low, high - 2_000), high)]
        if places:
            return places[-1]
    return high
