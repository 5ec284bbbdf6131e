"""How a token sequence that is longer than a model's input is read in overlapping windows. Knows numbers, no text and no model."""

from __future__ import annotations

import itertools
from typing import NamedTuple


class Window(NamedTuple):
    """Tokens ``start:stop`` are read together; the vectors of ``first:last`` of them are kept (positions in the whole text)."""

    start: int
    stop: int
    first: int
    last: int


def plan_windows(num_tokens: int, room: int, overlap: int) -> list[Window]:
    """As few windows of at most ``room`` tokens as can share ``overlap`` tokens with their neighbours, evened out in length.

    Every token is kept from exactly one window, the one in which it lies most centrally: neighbours divide their shared
    tokens in the middle. Tokens read altogether: at most ``num_tokens * (1 + overlap / (room - overlap))``.
    Raises ``ValueError`` unless ``0 <= overlap < room``.

    >>> plan_windows(10, room=6, overlap=2)
    [Window(start=0, stop=6, first=0, last=5), Window(start=4, stop=10, first=5, last=10)]
    """
    if not 0 <= overlap < room:
        raise ValueError(f"overlap={overlap}: must be between 0 and {room - 1} (one less than the window's {room} tokens)")
    if num_tokens == 0:
        return []
    num_more = max(0, -(-(num_tokens - room) // (room - overlap)))
    step = (num_tokens - overlap) / (num_more + 1)
    starts = [round(number * step) for number in range(num_more + 1)]
    stops = [start + overlap for start in starts[1:]] + [num_tokens]
    borders = [0, *((start + stop + 1) // 2 for start, stop in zip(starts[1:], stops[:-1], strict=True)), num_tokens]
    return [Window(*ends, *kept) for ends, kept in zip(zip(starts, stops, strict=True), itertools.pairwise(borders), strict=True)]
