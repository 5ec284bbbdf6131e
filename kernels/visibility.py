"""Which keys rows at ascending positions see, as ranges and as rectangles. Knows positions; no query, key or score.

Row i sees key j when ``j <= positions[i]``, ``j < num_keys`` and, with a ``window``, ``j > positions[i] - window``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

FEW_KEYS = 256
"""A rectangle of fewer keys that all its rows see is not worth a call of its own while its rows can still be divided."""


class Rectangle(NamedTuple):
    """Rows ``first .. last`` by keys ``begin .. end``; ``whole``: every row sees every key of it."""

    first: int
    last: int
    begin: int
    end: int
    whole: bool


def rectangles(positions: Sequence[int], num_keys: int, window: int | None, few_rows: int) -> Iterator[Rectangle]:
    """Rectangles that hold every visible pair of row and key once; those that are not ``whole`` have at most ``few_rows`` rows.

    Every row of a rectangle sees at least one of its keys: torch's attention has no logarithm for a row that sees none. What all rows see comes first; what is left is divided by halves of the rows, each half with the keys that its rows still lack. So all but a
    sliver along the edge is attention without a mask, whatever the positions.
    """

    def lacking(first: int, last: int, begin: int, end: int) -> Iterator[Rectangle]:
        first = bisect_left(positions, begin, first, last)
        if window:
            last = bisect_left(positions, end + window - 1, first, last)
        if first == last or begin >= end:
            return
        lowest, highest = positions[first], positions[last - 1]
        end = min(end, highest + 1)
        whole_begin, whole_end = begin, min(end, lowest + 1)
        if window:
            begin = max(begin, lowest - window + 1)
            whole_begin = max(begin, highest - window + 1)
        everything = whole_begin <= begin and whole_end >= end
        if everything or whole_end - whole_begin >= FEW_KEYS:
            yield Rectangle(first, last, whole_begin, whole_end, True)
            if not everything:
                yield from lacking(first, last, begin, whole_begin)
                yield from lacking(first, last, whole_end, end)
        elif last - first <= few_rows:
            yield Rectangle(first, last, begin, end, False)
        else:
            middle = (first + last) // 2
            yield from lacking(first, middle, begin, end)
            yield from lacking(middle, last, begin, end)

    if len(positions):
        yield from lacking(0, len(positions), 0, num_keys)


def seeing_rows(positions: Tensor, num_keys: int, window: int | None) -> tuple[int, int]:
    """The rows that see a key at all: one range, as positions ascend."""
    first = int((positions < 0).sum())
    last = int((positions < num_keys + window - 1).sum()) if window else len(positions)
    return (first, last) if num_keys and first < last else (0, 0)


def seen_keys(positions: Tensor, num_keys: int, window: int | None) -> tuple[int, int, int]:
    """``begin, common, end``: no row sees keys outside ``begin .. end``, every row sees ``begin .. common`` (with a window, all of it or nothing).

    Between ``common`` and ``end`` every row sees at least one key, if there is one.
    """
    first, last = int(positions[0]), int(positions[-1])
    begin, end = max(0, first - window + 1) if window else 0, min(num_keys, last + 1)
    if first == last:
        return begin, end, end
    return begin, begin if window else min(end, first), end


def hidden_keys(positions: Tensor, begin: int, end: int, window: int | None) -> Tensor:
    """Bool ``(rows, end - begin)``: what each row does not see."""
    import torch

    key = torch.arange(begin, end)
    hidden = key > positions[:, None]
    return hidden | (key <= positions[:, None] - window) if window else hidden
