"""Where the tokens of a text lie, for size limits and offsets, and tokens that need no vocabulary. Knows characters; knows no model, loads neither torch nor transformers.

Offsets are characters of the text that was handed in, whatever a vocabulary normalises. Three facts that users of
offsets must know: a token of a byte-level vocabulary may start with the blank before its word, several such tokens may
share the offsets of one character, and a vocabulary with a cap on word length makes one token of a word of any length.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import accumulate
from operator import sub
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from rag.core import Span, Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
"""Characters of scripts that put no blanks between words (Thai, Lao, Burmese, Khmer, Han, kana), inside ``[...]``."""

SURE_BLANKS = " \t\n\r"
"""The blanks at which every vocabulary that treats words one by one ends a word."""

_BLOCK_CHARS = 16_384  # what a text takes beside its offsets is bounded by what a block takes
_SURE_BLANK = re.compile(f"[{SURE_BLANKS}]")
_UNSPACED = re.compile(f"[{UNSPACED}]")


class Offsets(NamedTuple):
    """The first character of each token and the one behind its last, in order."""

    starts: list[int]
    ends: list[int]


class Part(NamedTuple):
    """The tokens of a stretch of text. ``ends`` are made when they are asked for, since measuring seldom needs them."""

    starts: array[int]
    ends: Callable[[], Sequence[int]]
    max_token_chars: int
    has_blanks: bool
    """Whether a token may start with a blank."""
    is_sure: bool
    """Whether what stands between two of ``SURE_BLANKS`` is known to have as many tokens by itself."""


@runtime_checkable
class Measuring(Protocol):
    """A tokenizer that does more than it must, in less time: without a list of pairs, a part at a time, many texts at once."""

    def offsets(self, text: str) -> Offsets:
        """``Tokenizer.spans`` in two lists."""

    def measured(self, text: str) -> Iterator[Part]:
        """The same a part at a time."""

    def counts(self, texts: Sequence[str]) -> list[int]:
        """``Tokenizer.count`` of each text."""


def offsets_of(tokenizer: Tokenizer, text: str) -> Offsets:
    """``tokenizer.spans(text)`` in two lists; a ``Measuring`` one makes it without a list of pairs."""
    if isinstance(tokenizer, Measuring):
        return tokenizer.offsets(text)
    spans = tokenizer.spans(text)
    return Offsets([span.start for span in spans], [span.end for span in spans])


def counts_of(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """``tokenizer.count`` of each text; a ``Measuring`` one does all texts in one go."""
    if isinstance(tokenizer, Measuring):
        return tokenizer.counts(texts)
    return [tokenizer.count(text) for text in texts]


def measured(tokenizer: Tokenizer, text: str) -> Iterator[Part]:
    """``offsets_of`` a part at a time, in order. Parts end at blanks; a tokenizer that does not treat words one by one gives one part."""
    if isinstance(tokenizer, Measuring):
        yield from tokenizer.measured(text)
        return
    starts, ends = offsets_of(tokenizer, text)
    yield Part(array("q", starts), lambda: ends, len(text), has_blanks=True, is_sure=False)


class WordTokenizer:
    """Runs of word characters and runs of other marks; each character of an unspaced script (Han, Thai, ...) by itself.

    Needs no model. Accents, vowel signs and joiners stay with the character before them.

    >>> [span.of("It's naïve: 東京!") for span in WordTokenizer().spans("It's naïve: 東京!")]
    ['It', "'", 's', 'naïve', ':', '東', '京', '!']
    """

    name = "words"

    def spans(self, text: str) -> list[Span]:
        """The characters of each token, in order."""
        return list(map(Span, *self.offsets(text)))

    def count(self, text: str) -> int:
        """How many tokens ``text`` has."""
        return len(self.offsets(text).starts)

    def counts(self, texts: Sequence[str]) -> list[int]:
        """``count`` of each text."""
        starts = self.offsets("\n".join(texts)).starts
        num_before = [bisect_left(starts, first) for first in first_chars(texts)]
        return list(map(sub, num_before[1:], num_before))

    def offsets(self, text: str) -> Offsets:
        """The characters of each token."""
        return joined(self.measured(text))

    def measured(self, text: str) -> Iterator[Part]:
        """See ``measured``."""
        for start, block in blocks(text):
            starts, ends = self._edges(block)
            yield Part(
                _array(starts + start), (ends + start).tolist, int((ends - starts).max(initial=0)), has_blanks=False, is_sure=True
            )

    def _edges(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        import numpy as np  # which a vocabulary of its own does without

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
        if len(ends) < len(starts):
            ends = np.append(ends, len(classes))
        return starts, ends

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
    import numpy as np

    classes = (_character_class(chr(code)) if code < _TABLE_SIZE else _ALONE for code in range(_TABLE_SIZE + 1))
    return np.fromiter(classes, np.uint8, _TABLE_SIZE + 1)


def _code_points(text: str) -> NDArray[np.uint32]:
    import numpy as np

    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _array(places: NDArray[np.int64]) -> array[int]:
    made = array("q")
    made.frombytes(places.tobytes())
    return made


def first_chars(texts: Sequence[str]) -> Iterator[int]:
    """Where each text starts if they are joined by one character, and where one more would."""
    return accumulate((len(text) + 1 for text in texts), initial=0)


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """The blocks of ``text``, cut after blanks, and where they start."""
    start = 0
    while start < len(text):
        blank = _SURE_BLANK.search(text, start + _BLOCK_CHARS)
        end = blank.end() if blank else len(text)
        yield start, text[start:end]
        start = end


def groups(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """``texts`` in groups of about a block; an empty one for no texts."""
    first = num_chars = 0
    for place, text in enumerate(texts):
        num_chars += len(text)
        if num_chars > _BLOCK_CHARS:
            yield texts[first : place + 1]
            first, num_chars = place + 1, 0
    yield texts[first:]


def joined(parts: Iterable[Part]) -> Offsets:
    """The offsets of all parts."""
    found = Offsets([], [])
    for part in parts:
        found.starts.extend(part.starts)
        found.ends.extend(part.ends())
    return found
