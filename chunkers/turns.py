"""Where the turns of a transcript begin and where what was said in them does. Knows line breaks and colons; knows no tokens."""

from __future__ import annotations

import re
from typing import NamedTuple

MIN_TURNS = 4
MIN_SHARE_OF_LINES = 1 / 3
"""Of the lines that hold anything, those that must name a speaker: the rest are taken for turns that go on."""

_TURN = re.compile(
    r"^[^\S\n]*(?:[\[(]?\d{1,2}:\d\d(?::\d\d(?:\.\d+)?)?[\])]?[^\S\n]*)?(?P<speaker>[^\W_][^\n:]{0,39}):(?=\s|$)", re.MULTILINE
)
_LINE = re.compile(r"^[^\n]*\S", re.MULTILINE)


class Turn(NamedTuple):
    """``start``: the first character of its line that is not blank; ``said``: the first one after the name."""

    start: int
    said: int


def turns(text: str) -> list[Turn]:
    """The turns of a text whose lines mostly read ``Name: words`` (a time may stand before the name); none if it is no transcript.

    In a transcript names come back: at least ``MIN_TURNS`` turns, and half as many names at the most.
    """
    found = list(_TURN.finditer(text))
    names = {match["speaker"].casefold() for match in found}
    num_lines = sum(1 for _ in _LINE.finditer(text)) if found else 0
    if len(found) < MIN_TURNS or 2 * len(names) > len(found) or len(found) < MIN_SHARE_OF_LINES * num_lines:
        return []
    return [Turn(match.start() + len(match.group()) - len(match.group().lstrip()), match.end()) for match in found]
