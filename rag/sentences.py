"""Sentences and content words of a text, as offsets into it. Knows no model, no index and no chunk.

Quotations are whole sentences, so whoever quotes (the extractive generator, the citation checker) cuts text here and
nowhere else.
"""

from __future__ import annotations

import re
from functools import cache

from rag.core import Span

WRAP_CHARS = 45
"""A line at least this long may have been wrapped, so its line break need not end a sentence."""

_LINE = re.compile(r"[^\n]+")
_ITEM = re.compile(r"\s*(?:[-*+\u2022\u2023\u25aa\u25cf\u2013]\s|\(?\d{1,3}[.)]\s|\(?[a-z][.)]\s|#{1,6}\s|>\s|\||```)")
_END = re.compile(r"[.!?\u2026]")
_FULL_WIDTH_MARKS = "\u3002\uff01\uff1f"
_FULL_WIDTH_END = re.compile(r"(?<=[\u3002\uff01\uff1f])(?![\u3002\uff01\uff1f\u300d\u300f\u201d\uff09])")
_WORD = re.compile(r"[^\W_]+(?:[.,:/'\u2019-][^\W_]+)*|%")
_PART = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*|%")
_SUFFIX = re.compile(r"(?:'s|\u2019s|ies|ing|edly|ed|es|ly|s|e|y)$")

_STOP_WORDS = """
    a about above after again all also although am among an and any are as at be became because become been before being
    between both but by can could did do does doing done during each either else ever few for from further had has have having
    he her here hers him his how however i if in into is it its itself just like made make many may me might more most much
    must my no nor not of off on once one only or other our out over own per please same shall she should since so some such
    than that the their them then there these they this those though through thus to too under until up upon us use used using
    very was we were what when where whether which while who whom whose why will with within without would yet you your source
    sources according tell explain give describe mean means called
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


@cache
def _splitter() -> object:
    import nupunkt

    return nupunkt.sent_spans


def sentence_spans(text: str) -> list[Span]:
    """The sentences of ``text`` in order, without the white space around them.

    A line of a table or a list and a heading are sentences of their own; a line break inside a wrapped line is not an end.

    >>> [span.of("Dr. Yu came. He left.") for span in sentence_spans("Dr. Yu came. He left.")]
    ['Dr. Yu came.', 'He left.']
    """
    split = _splitter()
    is_wide = any(mark in text for mark in _FULL_WIDTH_MARKS)
    spans: list[Span] = []
    for block in _blocks(text):
        body = block.of(text)
        for start, end in split(body) if _may_hold_several(body) else [(0, len(body))]:  # type: ignore[operator]
            begin = start
            for cut in [*(match.start() for match in _FULL_WIDTH_END.finditer(body, start, end)), end] if is_wide else (end,):
                solid = body[begin:cut].rstrip()
                if solid and solid[0].isspace():
                    begin += len(solid) - len(solid.lstrip())
                    solid = solid.lstrip()
                if solid:
                    spans.append(Span(block.start + begin, block.start + begin + len(solid)))
                begin = cut
    return spans


def _may_hold_several(body: str) -> bool:
    """Whether a sentence may end before the last character: if not, the library need not be asked, and it is not cheap."""
    if not ("." in body or "!" in body or "?" in body):
        return False
    first = _END.search(body)
    return first is not None and first.end() < len(body.rstrip())


def _blocks(text: str) -> list[Span]:
    """Runs of lines that may share a sentence."""
    blocks: list[Span] = []
    previous = ""
    for match in _LINE.finditer(text):
        line = match.group()
        if not line.strip():
            previous = ""
            continue
        wrapped = (
            blocks
            and blocks[-1].end == match.start() - 1
            and len(previous) >= WRAP_CHARS
            and " | " not in previous
            and " | " not in line
            and not previous.lstrip().startswith("#")
            and not _ITEM.match(line)
        )
        if wrapped:
            blocks[-1] = Span(blocks[-1].start, match.end())
        else:
            blocks.append(Span(match.start(), match.end()))
        previous = line
    return blocks


def stem(word: str) -> str:
    """A crude, language-blind root: case folded, one common English ending off, at least four letters kept.

    >>> stem("Batteries") == stem("battery"), stem("walked") == stem("walking")
    (True, True)
    """
    folded = word.casefold()
    if len(folded) < 5 or folded[0].isdigit():
        return folded.removesuffix("s") if len(folded) == 4 and folded.isalpha() else folded
    cut = _SUFFIX.sub("", folded, count=1)
    return cut if len(cut) >= 4 else folded


def content_words(text: str) -> dict[str, float]:
    """Roots of the words that carry meaning -> weight: 3 for numbers, 2 for names (capitals inside a sentence), else 1.

    >>> content_words("The tower is 330 m tall, said Eiffel.")
    {'tower': 1.0, '330': 3.0, 'm': 1.0, 'tall': 1.0, 'said': 1.0, 'eiffel': 2.0}
    """
    weights: dict[str, float] = {}
    for match in _WORD.finditer(text):
        before = text[max(0, match.start() - 8) : match.start()].rstrip(" \"'([\u201c\u2018*-")
        starts_sentence = not before or before[-1] in ".!?:\n"
        for part in _PART.findall(match.group()):
            if part.casefold() in STOP_WORDS:
                continue
            if part[0].isdigit():
                weight, root = 3.0, part.replace(",", "").rstrip(".")
            else:
                is_name = any(c.isupper() for c in part[1:]) or (part[0].isupper() and not starts_sentence)
                weight, root = 2.0 if is_name else 1.0, stem(part)
            weights[root] = max(weight, weights.get(root, 0.0))
    return weights
