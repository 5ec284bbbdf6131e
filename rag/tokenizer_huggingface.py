"""Tokens of a vocabulary: any ``tokenizer.json``. Knows the library ``tokenizers``; knows no model, loads neither torch nor transformers."""

from __future__ import annotations

import json
import re
import string
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, repeat
from operator import add, attrgetter, sub
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rag import embedded
from rag.core import Span, digest
from rag.errors import ModelError
from rag.tokenizer import Offsets, Part, blocks, first_chars, groups, joined

if TYPE_CHECKING:
    import tokenizers

_PART_CHARS = 16_384  # the library slows down threefold on texts of a megabyte and encodes parts in parallel
_MAX_KNOWN_WORDS = 200_000
_MAX_KNOWN_WORD_CHARS = 64
_LONG_WORD_CHARS = 4_096
_WORD = re.compile(r"([^ \t\n\r]+)")  # no other blank: BERT's normaliser deletes form feeds and joins what is around them
_SURROGATE = re.compile("[\ud800-\udfff]")
_PUNCTUATION = string.punctuation + "\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f"
_LOCAL_SPLITTERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_LOCAL_NORMALIZERS = {None, "BertNormalizer", "Lowercase", "StripAccents", "NFC", "NFD", "NFKC", "NFKD"}


class Cut(NamedTuple):
    """The tokens of a word, counted from its first character; those without characters are left out, then it is not ``is_whole``."""

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    num_tokens: int
    is_whole: bool
    has_blanks: bool
    max_token_chars: int


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
        self._known: dict[str, Cut] = {}
        self._shared: dict[Cut, Cut] = {}  # words are many, ways to cut one are few

    def spans(self, text: str) -> list[Span]:
        """The characters of each token, in order; tokens without characters are left out."""
        return list(map(Span, *self.offsets(text)))

    def count(self, text: str) -> int:
        """How many tokens a model would see, those without characters included."""
        return self.counts([text])[0]

    def offsets(self, text: str) -> Offsets:
        """The characters of each token; tokens without characters are left out."""
        return joined(self.measured(text))

    def measured(self, text: str) -> Iterator[Part]:
        """See ``measured``."""
        text = _encodable(text)
        if self._is_word_local:
            yield from (self._measured_by_word(block, start) for start, block in blocks(text))
            return
        starts, ends = self._offsets_by_part(text)
        yield Part(array("q", starts), lambda: ends, len(text), has_blanks=True, is_sure=False)

    def offsets_reference(self, text: str) -> Offsets:
        """What ``offsets`` must equal: the whole text through the library in one piece."""
        encoding = self._library.encode(_encodable(text), add_special_tokens=False)
        return _solid(encoding.offsets)

    def counts(self, texts: Sequence[str]) -> list[int]:
        """``count`` of each text."""
        texts = [_encodable(text) for text in texts]
        if self._is_word_local:
            return [count for group in groups(texts) for count in self._counts_by_word(group)]
        parts = [_parts(text) for text in texts]
        batch = [part.of(text) for text, own in zip(texts, parts, strict=True) for part in own]
        num_tokens = iter([len(encoding) for encoding in self._library.encode_batch_fast(batch, add_special_tokens=False)])
        return [sum(next(num_tokens) for _ in own) for own in parts]

    def _counts_by_word(self, texts: Sequence[str]) -> list[int]:
        words, starts = self._words("\n".join(texts), 0)
        cuts = self._pieces(words)
        before = list(accumulate((cuts[word].num_tokens for word in words), initial=0))
        num_before = [before[bisect_left(starts, first)] for first in first_chars(texts)]
        return list(map(sub, num_before[1:], num_before))

    def _offsets_by_part(self, text: str) -> Offsets:
        parts = _parts(text)
        encodings = self._library.encode_batch([part.of(text) for part in parts], add_special_tokens=False)
        found = Offsets([], [])
        for part, encoding in zip(parts, encodings, strict=True):
            starts, ends = _solid(encoding.offsets)
            found.starts.extend(part.start + start for start in starts)
            found.ends.extend(part.start + end for end in ends)
        return found

    def _measured_by_word(self, text: str, first: int) -> Part:
        words, word_starts = self._words(text, first)
        known = self._pieces(words)
        cuts = list(map(known.__getitem__, words))

        def moved(edges: Sequence[tuple[int, ...]]) -> array[int]:
            by = chain.from_iterable(map(repeat, word_starts, map(len, edges)))
            return array("q", map(add, chain.from_iterable(edges), by))

        return Part(
            moved([cut.starts for cut in cuts]),
            lambda: moved([cut.ends for cut in cuts]),
            max_token_chars=max(map(attrgetter("max_token_chars"), known.values()), default=0),
            has_blanks=any(map(attrgetter("has_blanks"), known.values())),
            is_sure=all(map(attrgetter("is_whole"), known.values())),
        )

    def _words(self, text: str, first: int) -> tuple[list[str], list[int]]:
        """The pieces of ``text`` that the vocabulary treats one by one, and where they start if the text starts at ``first``."""
        split = _WORD.split(text)
        words, starts = split[1::2], list(accumulate(map(len, split), initial=first))[1:-1:2]
        if self._long_word_pieces is None or max(map(len, words), default=0) <= _LONG_WORD_CHARS:
            return words, starts
        cut: list[tuple[str, int]] = []
        for word, start in zip(words, starts, strict=True):
            if len(word) <= _LONG_WORD_CHARS:
                cut.append((word, start))
            else:
                cut.extend((match.group(), start + match.start()) for match in self._long_word_pieces.finditer(word))
        return [word for word, _ in cut], [start for _, start in cut]

    def _cut(self, words: list[str]) -> dict[str, Cut]:
        """What ``_pieces`` gives, by the library: all words in one call."""
        starts: list[list[int]] = [[] for _ in words]
        ends: list[list[int]] = [[] for _ in words]
        num_empty: Counter[int] = Counter()
        behind = list(accumulate(len(word) + 1 for word in words))
        number = first = 0
        # in one piece: asked for a list, the library imports numpy
        for start, end in self._library.encode(" ".join(words), add_special_tokens=False).offsets if words else ():
            while start >= behind[number]:
                first, number = behind[number], number + 1
            if start == end:
                num_empty[number] += 1
                continue
            starts[number].append(start - first)
            ends[number].append(end - first)
        cuts = (_cut_of(*each, num_empty[number]) for number, each in enumerate(zip(words, starts, ends, strict=True)))
        return {word: self._shared.setdefault(cut, cut) for word, cut in zip(words, cuts, strict=True)}

    def _pieces(self, words: Iterable[str]) -> dict[str, Cut]:
        """How each distinct word is cut."""
        known = self._known
        # every call keeps what it needs for itself, so that threads may share the tokenizer
        pieces = {word: known.get(word) for word in dict.fromkeys(words)}
        missing = [word for word, cut in pieces.items() if cut is None]
        fresh = self._cut(missing)
        if len(known) > _MAX_KNOWN_WORDS:
            self._known, self._shared = {}, {}
            known = self._known
        known.update((word, cut) for word, cut in fresh.items() if len(word) <= _MAX_KNOWN_WORD_CHARS)
        return {word: fresh[word] if cut is None else cut for word, cut in pieces.items()}


def _cut_of(word: str, starts: Sequence[int], ends: Sequence[int], num_empty: int) -> Cut:
    longest = max(map(sub, ends, starts), default=0)
    return Cut(tuple(starts), tuple(ends), len(starts) + num_empty, not num_empty, word.split() != [word], longest)


def _solid(pairs: Iterable[tuple[int, int]]) -> Offsets:
    """The pairs that have characters between them."""
    kept = [(start, end) for start, end in pairs if start < end]
    return Offsets([start for start, _ in kept], [end for _, end in kept])


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
