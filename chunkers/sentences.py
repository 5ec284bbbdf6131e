"""Where sentences, lines, clauses and words begin inside a stretch of text. Knows punctuation; knows no tokens, no layout.

Every function takes ``(text, start, end)`` and returns the places strictly inside ``(start, end)`` where something new
begins, ascending: the places where one may cut. What begins there is never blank.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable

from rag.core import Splitter
from rag.sentences import sentence_spans

Boundaries = Callable[[str, int, int], list[int]]

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*(?=\S)")
_LINE = re.compile(r"\n\s*(?=\S)")
_BLANK = re.compile(r"\s+(?=\S)")
_CLAUSE = re.compile(r"[,;:)\]\u2013\u2014]\s+(?=\S)|[\uff0c\uff1b\uff1a\u3001\u060c\u061b](?=\S)")
_CELL = re.compile(r"\s*\|\s*(?=[^\s|])")
# nupunkt knows English; these end a sentence wherever they stand: Devanagari, Arabic, Armenian, Ethiopic, Khmer, Burmese, CJK
_OTHER_MARKS = "\u0964\u0965\u061f\u06d4\u0589\u1362\u17d4\u104b\uff61\u3002\uff01\uff1f"
_OTHER_END = re.compile(rf"[{_OTHER_MARKS}]+[\u300d\u300f\u201d\u2019\uff09\u3011\u300b\"')]*\s*(?=\S)")
_LIKELY_END = re.compile(r"[.!?\n\u0589-\uffff]")


def _places(pattern: re.Pattern[str], text: str, start: int, end: int) -> list[int]:
    return [place for match in pattern.finditer(text, start, end) if start < (place := match.end()) < end]


def paragraphs(text: str, start: int, end: int) -> list[int]:
    """After blank lines."""
    return _places(_PARAGRAPH, text, start, end)


def lines(text: str, start: int, end: int) -> list[int]:
    """After line breaks."""
    return _places(_LINE, text, start, end)


def sentences(text: str, start: int, end: int) -> list[int]:
    """Where ``rag.sentences`` finds a sentence, and after full stops of scripts that it does not know."""
    piece = text[start:end]
    if not _LIKELY_END.search(piece):
        return []
    found = {start + span.start for span in sentence_spans(piece)}
    if not piece.isascii() and any(mark in piece for mark in _OTHER_MARKS):
        found.update(_places(_OTHER_END, text, start, end))
    return sorted(place for place in found if start < place < end)


def sentences_by(splitter: Splitter | None, text: str) -> Boundaries:
    """``sentences``, or where ``splitter``, asked once about the whole of ``text``, finds them; for stretches of ``text`` only."""
    if splitter is None:
        return sentences
    starts = [span.start for span in splitter.spans(text)]

    def found(text: str, start: int, end: int) -> list[int]:
        return starts[bisect_right(starts, start) : bisect_left(starts, end)]

    return found


def clauses(text: str, start: int, end: int) -> list[int]:
    """After commas, semicolons, colons, closing brackets and dashes."""
    return _places(_CLAUSE, text, start, end)


def words(text: str, start: int, end: int) -> list[int]:
    """After blanks."""
    return _places(_BLANK, text, start, end)


def cells(text: str, start: int, end: int) -> list[int]:
    """After the bars between the cells of a table row."""
    return _places(_CELL, text, start, end)
