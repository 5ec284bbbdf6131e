"""What order a language model meant that was asked for ``[2] > [1] > ...``. Knows digits and repairs; no model, no hits."""

from __future__ import annotations

import re

KINDS = ("ok", "wrong format", "repetition", "missing")
"""What a reply can be; the first that fits of: other characters than ``[1] > [2]`` needs, a number said twice, numbers left out, ok."""

_DIGITS = re.compile(r"\d+")
_FORM = re.compile(r"[\d\[\]>\s]*")


def read_permutation(reply: str, num_items: int) -> tuple[list[int], str]:
    """The order, as places from 0, and the kind of the reply. Every reply gives a permutation.

    Runs of digits count, wherever they stand; of a number said twice the first counts; numbers that name nothing are dropped; what is not
    named follows in the order in which it was shown (the rules of RankGPT and RankLLM).

    >>> read_permutation("[3] > [1] > [3] > [9]", 4)
    ([2, 0, 1, 3], 'repetition')
    """
    said = [int(run) - 1 for run in _DIGITS.findall(reply) if len(run) < 10]
    valid = [place for place in said if 0 <= place < num_items]
    named = list(dict.fromkeys(valid))
    order = [*named, *(place for place in range(num_items) if place not in set(named))]
    if not _FORM.fullmatch(reply) or not said:
        return order, "wrong format"
    if len(set(said)) < len(said):
        return order, "repetition"
    return order, "missing" if len(named) < num_items else "ok"
