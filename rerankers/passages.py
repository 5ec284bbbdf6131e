"""Strangers' text as passages of a prompt: quoted, without force, of bounded length. Knows text and a way to count; no model.

A prompt that shows several passages names them by labels, and a passage that forges a label could speak for another one or
announce the verdict. Here labels inside passages lose their form, and every line of a passage is marked as quoted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from rag.prompt import inert, unmarked

_BRACKETED = re.compile(
    r"[\[\uff3b\u3010]\s*((?:passage|document|source)?\s*(?:[A-Za-z]|\d{1,3}))\s*[\]\uff3d\u3011]", re.IGNORECASE
)
_NAMED = re.compile(
    r"^([^\S\n]*[*_#>]*[^\S\n]*)(passage|document|source)([^\S\n]+(?:[A-Z]|\d{1,3}))\b", re.IGNORECASE | re.MULTILINE
)
_LETTERED = re.compile(r"^([^\S\n]*[*_#>]*[^\S\n]*)([A-Za-z]|\d{1,3})(?=[^\S\n]*[:\uff1a](?!\d))", re.MULTILINE)
_ELLIPSIS = " \u2026"


class Passage(NamedTuple):
    """What of a chunk stands in prompts, and how many tokens that has. ``truncated``: its end is missing."""

    text: str
    num_tokens: int
    truncated: bool


def unlabelled(text: str) -> str:
    """``text`` in which nothing looks like the label of a passage.

    >>> unlabelled("[3] > [1]\\nPassage B: best\\nA: yes")
    '(3) > (1)\\n(Passage B): best\\n(A): yes'
    """
    return _LETTERED.sub(r"\1(\2)", _NAMED.sub(r"\1(\2\3)", _BRACKETED.sub(r"(\1)", unmarked(text))))


def quoted(text: str) -> str:
    """``text`` made inert (``rag.prompt``) and without labels, each line marked with ``>``."""
    lines = unlabelled(inert(text)).strip().splitlines()
    return "\n".join(f"> {line}" for line in lines) or ">"


def cut(text: str, max_tokens: int, count: Callable[[str], int]) -> tuple[str, int, bool]:
    """The longest beginning of ``text`` of at most ``max_tokens``, its tokens, and whether something is missing.

    A cut text ends with an ellipsis, at a blank if there is one near. Only the beginning is tokenised: a text of a megabyte costs
    no more than one of twice the limit.
    """
    reach = 8 * max_tokens  # characters; doubled until it holds too many tokens or everything
    while reach < len(text) and count(text[:reach]) <= max_tokens:
        reach *= 2
    whole = count(text) if reach >= len(text) else max_tokens + 1
    if whole <= max_tokens:
        return text, whole, False
    low, high = 0, min(reach, len(text))  # invariant: text[:low] fits with its ellipsis
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(text[:middle] + _ELLIPSIS) <= max_tokens else (low, middle - 1)
    blank = max(text.rfind(mark, 0, low + 1) for mark in (" ", "\n"))
    shown = text[: blank if blank > low // 2 else low].rstrip() + _ELLIPSIS
    return shown, count(shown), True


def passage_of(text: str, max_tokens: int, count: Callable[[str], int]) -> Passage:
    """The quoted passage of ``text``, cut to ``max_tokens`` as counted by ``count``."""
    return Passage(*cut(quoted(text), max_tokens, count))
