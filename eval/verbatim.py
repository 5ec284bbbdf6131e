"""Finds words in a text that spells them a little differently, and says where. Knows two texts, no document and no chunk.

Compared are compatibility-decomposed, case-folded characters. A run of blanks is one blank, a hyphen at a line end between small
letters is none, invisible characters are none, and all dashes and all quotation marks of a kind are one. In scripts with blanks
between words a match begins and ends at the edge of a word, so ``art`` is not found in ``party``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from rag.core import Span
from rag.eval.text_scores import is_unspaced

_ALIKE = str.maketrans(
    {**dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"), **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'")}
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
)
_BROKEN_WORD = re.compile(r"(?<=[^\W\d_])[-\u2010\u00ad][^\S\n]*\n[^\S\n]*(?=[^\W\d_])")


@dataclass(frozen=True, slots=True)
class Folded:
    """``text`` as it is compared; its character ``i`` was made of characters ``starts[i]:ends[i]`` of the original."""

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]


@lru_cache(maxsize=128)
def folded(text: str) -> Folded:
    """``text`` as it is compared, without blanks at its ends."""
    breaks = {match.start(): match.end() for match in _BROKEN_WORD.finditer(text) if text[match.end()].islower()}
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    position = 0
    while position < len(text):
        character = text[position]
        if position in breaks:
            position = breaks[position]
            continue
        position += 1
        for made in unicodedata.normalize("NFKD", character.translate(_ALIKE)).casefold():
            if made.isspace():
                if not pieces or pieces[-1] == " ":
                    continue
                made = " "
            elif unicodedata.category(made) in ("Cf", "Cc"):
                continue
            pieces.append(made)
            starts.append(position - 1)
            ends.append(position)
    if pieces and pieces[-1] == " ":
        pieces.pop(), starts.pop(), ends.pop()
    return Folded("".join(pieces), tuple(starts), tuple(ends))


def find_all(text: str, words: str) -> Iterator[Span]:
    """Where ``words`` stand in ``text``, in order and without overlap; nowhere if they have no character that counts.

    >>> [span.of("A \u201cbig  exam-\\nple\u201d.") for span in find_all("A \u201cbig  exam-\\nple\u201d.", '"BIG example"')]
    ['\u201cbig  exam-\\nple\u201d']
    """
    where, wanted = folded(text), folded(words).text
    start = where.text.find(wanted) if wanted else -1
    while start >= 0:
        end = start + len(wanted)
        if _is_edge(where.text, start) and _is_edge(where.text, end):
            yield Span(where.starts[start], where.ends[end - 1])
            start = where.text.find(wanted, end)
        else:
            start = where.text.find(wanted, start + 1)


def find(text: str, words: str) -> Span | None:
    """The first place of ``words`` in ``text``, if there is one."""
    return next(find_all(text, words), None)


def _is_edge(text: str, place: int) -> bool:
    """Whether a word may begin or end before character ``place``."""
    if not 0 < place < len(text):
        return True
    before, after = text[place - 1], text[place]
    if unicodedata.combining(after):
        return False
    return not (before.isalnum() and after.isalnum()) or is_unspaced(before) or is_unspaced(after)


def source_named(name: str, known: Iterable[str]) -> str | None:
    """Which of ``known`` a question means by ``name``: the same, or the only one that ends in it at a path separator.

    >>> source_named("manual.pdf", ["/files/manual.pdf", "/files/old-manual.pdf"])
    '/files/manual.pdf'
    """
    everything = list(known)
    if name in everything:
        return name
    ends = [each for each in everything if each.endswith(("/" + name, "\\" + name))]
    return ends[0] if len(ends) == 1 else None
