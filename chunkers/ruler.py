"""Where the tokens of one text lie, so that any stretch of it is measured without tokenising again.

Knows offsets and single characters; knows no sentences, no layout and no chunk. The law for a stretch that cuts the text
anywhere: a token belongs to the stretch that holds its first character that is not blank.
"""

from __future__ import annotations

import unicodedata
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from itertools import accumulate

from rag.core import Span, Tokenizer
from rag.tokenizer import SURE_BLANKS, UNSPACED, Part, measured

MAX_TOKEN_CHARS = 64
"""A longer token is measured as several: vocabularies with a cap on word length make one token of a word of any length."""

_LONG_TOKEN_STEP_CHARS = 4


class Ruler:
    """The token positions of ``text``. Making one takes the time of one tokenisation, each question a binary search."""

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self.text = text
        self._places = array("q")  # a list would take five times as much
        self._is_sure = True
        for part in measured(tokenizer, text):
            as_they_are = part.is_sure and not part.has_blanks and part.max_token_chars <= MAX_TOKEN_CHARS
            self._places.extend(part.starts if as_they_are else _token_places(text, part))
            self._is_sure &= part.is_sure

    def index(self, position: int) -> int:
        """How many tokens lie before character ``position``."""
        return bisect_left(self._places, position)

    def indexes(self, positions: Sequence[int]) -> list[int]:
        """``index`` of each position."""
        places = self._places
        return [bisect_left(places, position) for position in positions]

    def place(self, index: int) -> int:
        """The first character of token number ``index``; the end of the text if there are fewer tokens."""
        return self._places[index] if index < len(self._places) else len(self.text)

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
            place = self._places[token]
            if not self._is_inside_word(place):
                return place if place > start else start + 1
        for token in range(last, first, -1):
            place = self._places[token]
            if place > start and not is_inside_character(self.text, place):
                return place
        return max(self._places[last], start + 1)

    def word_start(self, low: int, high: int) -> int:
        """The first place in ``[low, high)`` where a token starts that is not inside a word; ``high`` if there is none."""
        for token in range(self.index(low), self.index(high)):
            place = self._places[token]
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


def _token_places(text: str, part: Part) -> list[int]:
    """The first character of each token that is not blank, ascending; long tokens count several times."""
    places: list[int] = []
    extra: list[int] = []
    for start, end in zip(part.starts, part.ends(), strict=True):
        place = _first_solid(text, start, end) if text[start].isspace() else start
        places.append(place)
        if end - place > MAX_TOKEN_CHARS:
            extra.extend(range(place + _LONG_TOKEN_STEP_CHARS, end, _LONG_TOKEN_STEP_CHARS))
    return list(accumulate(sorted([*places, *extra]) if extra else places, max))


def _first_solid(text: str, start: int, end: int) -> int:
    """The first character in ``[start, end)`` that is not blank; ``start`` if all are."""
    piece = text[start:end].lstrip()
    return end - len(piece) if piece else start
