"""Text as it is compared: a row of tokens, each with its characters in the text as written. Knows no clause and no chunk.

Two texts are equal here if they say the same words: compatibility forms (NFKC) and case are folded, words that were hyphenated are
whole again (at a line end or inside a line), blanks and punctuation only part words. A token is a word, one character of a script
that puts no blanks between words (Chinese, Japanese, Thai, ...; Korean too, where particles cling to words), or a percent or currency sign.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from functools import cache, cached_property, lru_cache
from typing import NamedTuple

from rag.core import Span

_GAP = "\x1f"  # between tokens; no token holds it
_NO_BLANKS = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3031-\u3035\u3040-\u318f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"
)
_SIGNS = "%\u2030$\u00a2-\u00a5\u20a0-\u20cf"
_HYPHENS = "\\-\u2010\u00ad"
_BREAK = rf"[{_HYPHENS}](?:[^\S\n]*\n\s*)?"
_HYPHENATED = re.compile(rf"[{_HYPHENS}\s]")
_RUN = re.compile("[\x00-\x7f]+(?![^\x00-\x7f])|[\x00-\x7f]?[^\x00-\x7f]+")
"""Characters that fold by themselves, or others together with the one they may be written onto."""
_IGNORED = frozenset("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff")


class _Origins(NamedTuple):
    """Of each character of a folded text: where the characters that it came from start and end."""

    starts: list[int]
    ends: list[int]


class Folded:
    """``text`` as tokens. Made once per document; everything else is looked up."""

    def __init__(self, text: str) -> None:
        self.text = text
        folded, origins = _ascii(text) if text.isascii() else _unicode(text)
        self.tokens: list[str] = []
        self.spans: list[Span] = []
        for match in _pattern().finditer(folded):
            self.tokens.append(_HYPHENATED.sub("", match.group()))
            first, last = match.start(), match.end() - 1
            self.spans.append(Span(first, last + 1) if origins is None else Span(origins.starts[first], origins.ends[last]))

    @cached_property
    def line(self) -> str:
        """The tokens, each between gaps: a row of tokens stands in another if and only if its line stands in the other's."""
        return _GAP + "".join(token + _GAP for token in self.tokens)

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """The different tokens."""
        return frozenset(self.tokens)

    @cached_property
    def _places(self) -> list[int]:
        """Where each token's gap stands in ``line``."""
        places, place = [], 0
        for token in self.tokens:
            places.append(place)
            place += len(token) + 1
        return places

    def find(self, wanted: Folded) -> list[Span]:
        """Every place where the tokens of ``wanted`` stand one after the other, as characters of ``text``; none if it has none."""
        found: list[Span] = []
        place = self.line.find(wanted.line) if wanted.tokens else -1
        while place >= 0:
            first = bisect_left(self._places, place)
            found.append(Span(self.spans[first].start, self.spans[first + len(wanted.tokens) - 1].end))
            place = self.line.find(wanted.line, place + 1)
        return found

    def holds(self, wanted: Folded) -> bool:
        """Whether the tokens of ``wanted``, of which there is at least one, stand somewhere."""
        return bool(wanted.tokens) and wanted.line in self.line


@lru_cache(maxsize=128)
def folded(text: str) -> Folded:
    """``text`` as tokens, kept for the texts that were asked for last: one passage is searched for many quotations."""
    return Folded(text)


def _ascii(text: str) -> tuple[str, None]:
    return text.lower(), None


def _unicode(text: str) -> tuple[str, _Origins]:
    """The folded text, and for each of its characters the characters of ``text`` it came from."""
    folded: list[str] = []
    origins = _Origins([], [])
    for run in _RUN.finditer(text):
        start, end = run.span()
        if run.group().isascii():
            folded.append(run.group().lower())
            origins.starts.extend(range(start, end))
            origins.ends.extend(range(start + 1, end + 1))
            continue
        for after in range(start + 1, end + 1):
            if after < end and _continues(text[after]):
                continue
            piece = _fold(text[start:after])
            folded.append(piece)
            origins.starts.extend([start] * len(piece))
            origins.ends.extend([after] * len(piece))
            start = after
    return "".join(folded), origins


@cache
def _continues(character: str) -> bool:
    """Whether it is written onto the character before it and folds together with that."""
    return character >= "\u0300" and (unicodedata.category(character)[0] == "M" or "\u1160" <= character <= "\u11ff")


@cache
def _fold(piece: str) -> str:
    if piece in _IGNORED:
        return ""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", piece).casefold())


@cache
def _pattern() -> re.Pattern[str]:
    marks = "".join(chr(code) for code in range(0x300, 0x1E950) if unicodedata.category(chr(code))[0] == "M")
    letter = rf"(?:(?![{_NO_BLANKS}])[^\W\d_])"
    word = rf"(?:(?![{_NO_BLANKS}])[^\W_]|[{marks}])"
    joined = rf"(?:(?<=[^\W\d_]){_BREAK}(?={letter}){word}+)"
    return re.compile(rf"[{_NO_BLANKS}][{marks}]*|{word}+{joined}*|[{_SIGNS}]")
