"""Where the tokens of one text lie, so that any stretch of it is measured without tokenising again.

Knows offsets and single characters; knows no sentences, no layout and no chunk. The law for a stretch that cuts the text
anywhere: a token belongs to the stretch that holds its first character that is not blank.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from rag.core import Span, Tokenizer
from rag.tokenizer import SURE_BLANKS, UNSPACED, measured

MAX_TOKEN_CHARS = 64
"""A longer token is measured as several: vocabularies with a cap on word length make one token of a word of any length."""

_LONG_TOKEN_STEP_CHARS = 4


class Ruler:
    """The token positions of ``text``. Making one takes the time of one tokenisation, each question a binary search."""

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self.text = text
        places = [np.zeros(0, dtype=np.int64)]
        self._is_sure = True
        for offsets, is_sure in measured(tokenizer, text):
            places.append(_token_places(text, offsets))
            self._is_sure &= is_sure
        self._places = np.concatenate(places)

    def index(self, position: int) -> int:
        """How many tokens lie before character ``position``."""
        return int(self._places.searchsorted(position))

    def indexes(self, positions: Sequence[int]) -> list[int]:
        """``index`` of each position."""
        return self._places.searchsorted(positions).tolist()  # type: ignore[no-any-return]

    def place(self, index: int) -> int:
        """The first character of token number ``index``; the end of the text if there are fewer tokens."""
        return int(self._places[index]) if index < len(self._places) else len(self.text)

    def count(self, start: int, end: int) -> int:
        """How many tokens lie in ``text[start:end]``, as the whole text was cut (a stretch by itself may differ a little)."""
        return self.index(end) - self.index(start)

    def fitting(self, spans: Sequence[Span], max_tokens: int) -> list[bool]:
        """Of each span, whether it is certain without counting again that by itself it has at most ``max_tokens`` tokens."""
        if not self._is_sure:
            return [False] * len(spans)
        text, end = self.text, len(self.text)
        begun = self.indexes([span.start for span in spans])
        ended = self.indexes([span.end for span in spans])
        return [
            after - before <= max_tokens
            and (span.start == 0 or text[span.start - 1] in SURE_BLANKS)
            and (span.end == end or text[span.end] in SURE_BLANKS)
            for span, before, after in zip(spans, begun, ended, strict=True)
        ]

    def cut(self, start: int, end: int, max_tokens: int) -> int:
        """The farthest place in ``(start, end]`` to which there are at most ``max_tokens`` tokens.

        Backs up to the nearest token that starts a word if there is one in the second half; never parts a letter from its
        accents or joined emoji unless nothing else is possible. Goes at least one character ahead.
        """
        first = self.index(start)
        if self.index(end) - first <= max_tokens:
            return end
        last = first + max_tokens
        for token in range(last, max(first + max_tokens // 2 - 1, first), -1):
            place = int(self._places[token])
            if not self._is_inside_word(place):
                return place if place > start else start + 1
        for token in range(last, first, -1):
            place = int(self._places[token])
            if place > start and not is_inside_character(self.text, place):
                return place
        return max(int(self._places[last]), start + 1)

    def word_start(self, low: int, high: int) -> int:
        """The first place in ``[low, high)`` where a token starts that is not inside a word; ``high`` if there is none."""
        for token in range(self.index(low), self.index(high)):
            place = int(self._places[token])
            if not self._is_inside_word(place):
                return place
        return high

    def _is_inside_word(self, place: int) -> bool:
        if not 0 < place < len(self.text):
            return False
        before, after = self.text[place - 1], self.text[place]
        if before.isspace():
            return False
        if before.isalnum() and after.isalnum():
            return not (_is_unspaced(before) or _is_unspaced(after))
        return is_inside_character(self.text, place)


def is_inside_character(text: str, place: int) -> bool:
    """Whether a cut before ``place`` would part a letter from its accent, or the parts of one joined emoji."""
    if not 0 < place < len(text):
        return False
    before, after = text[place - 1], text[place]
    if after < "\u0300" and before < "\u0300":
        return False
    return (
        after == "\u200d"
        or before == "\u200d"
        or unicodedata.category(after).startswith("M")
        or "\U0001f3fb" <= after <= "\U0001f3ff"  # skin tones
        or ("\U0001f1e6" <= before <= "\U0001f1ff" and "\U0001f1e6" <= after <= "\U0001f1ff")  # flags are pairs of letters
    )


@cache
def _unspaced_ranges() -> list[tuple[str, str]]:
    return [(UNSPACED[place - 1], UNSPACED[place + 1]) for place, character in enumerate(UNSPACED) if character == "-"]


def _is_unspaced(character: str) -> bool:
    return character >= "\u0e00" and any(low <= character <= high for low, high in _unspaced_ranges())


def _token_places(text: str, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first character of each token that is not blank, ascending, ``(tokens,)``; long tokens count several times."""
    starts, ends = offsets[:, 0].copy(), offsets[:, 1]
    for token in _blank_starts(text, starts).tolist():
        piece = text[int(starts[token]) : int(ends[token])]
        if not piece.isspace():
            starts[token] += len(piece) - len(piece.lstrip())
    (long_tokens,) = np.nonzero(ends - starts > MAX_TOKEN_CHARS)
    if len(long_tokens):
        extra = [np.arange(starts[token] + _LONG_TOKEN_STEP_CHARS, ends[token], _LONG_TOKEN_STEP_CHARS) for token in long_tokens]
        starts = np.sort(np.concatenate([starts, *extra]))
    return np.maximum.accumulate(starts)


def _blank_starts(text: str, starts: NDArray[np.int64]) -> NDArray[np.intp]:
    """The tokens that start with a blank. Only byte-level and sentencepiece vocabularies have any."""
    if not len(starts):
        return np.zeros(0, dtype=np.intp)
    first = int(starts[0])
    piece = text[first : int(starts[-1]) + 1]
    codes = np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)[starts - first]
    (candidates,) = np.nonzero((codes <= 0x20) | (codes >= 0x80))
    return candidates[np.isin(codes[candidates], _blank_codes())]


@cache
def _blank_codes() -> NDArray[np.uint32]:
    return np.array([code for code in range(0x3001) if chr(code).isspace()], dtype=np.uint32)
