"""How a selector shows passages to a language model, and how it reads a chance. Knows how data is quoted; asks nothing."""

from __future__ import annotations

import math
import re

from rag.prompt import inert, unmarked

_WORD = re.compile(r"\S+")


def quoted(text: str, max_words: int) -> str:
    """``text`` made inert (``rag.prompt``), each line behind ``> ``, cut with an ellipsis after ``max_words`` words.

    >>> quoted("one two\\nthree four", 3)
    '> one two\\n> three \u2026'
    """
    passage = unmarked(inert(text))
    words = list(_WORD.finditer(passage))
    if len(words) > max_words:
        passage = passage[: words[max_words].start()].rstrip() + " \u2026"
    return "\n".join(f"> {line}" for line in passage.splitlines())


def shares(logs: list[float]) -> list[float]:
    """Log-probabilities as shares that add up to 1, without overflow; equal shares if all are impossible."""
    highest = max(logs)
    if highest == -math.inf:
        return [1 / len(logs)] * len(logs)
    weights = [math.exp(log - highest) for log in logs]
    return [weight / sum(weights) for weight in weights]
