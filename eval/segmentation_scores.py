"""How well cuts between units agree with marked ones. Knows only numbers of units: a cut at ``n`` lies before unit ``n``.

Boundary F1 with a tolerance; Pk (Beeferman, Berger and Lafferty, Machine Learning 34, 1999); WindowDiff (Pevzner and Hearst,
Computational Linguistics 28, 2002). The last two are error rates: lower is better. All of them depend on how many cuts there are, so
a chunker should be compared with as many cuts at equal distances (``even_cuts``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.core import Span


class BoundaryScore(NamedTuple):
    """Precision, recall and F1 of cuts, each from 0 to 1."""

    precision: float
    recall: float
    f1: float


def boundary_f1(marked: Iterable[int], cuts: Iterable[int], tolerance: int = 0) -> BoundaryScore:
    """How many cuts are right: at most ``tolerance`` units from a marked one, each marked one taken once.

    Without marks and without cuts all three are 1. Raises ``ValueError`` for a tolerance below 0.
    """
    if tolerance < 0:
        raise ValueError(f"tolerance is {tolerance}; allowed: 0 or more")
    wanted, given = sorted(set(marked)), sorted(set(cuts))
    if not wanted and not given:
        return BoundaryScore(1.0, 1.0, 1.0)
    num_right = _num_matched(wanted, given, tolerance)
    precision = num_right / len(given) if given else 0.0
    recall = num_right / len(wanted) if wanted else 0.0
    return BoundaryScore(precision, recall, 2 * num_right / (len(given) + len(wanted)))


def _num_matched(one: Sequence[int], other: Sequence[int], tolerance: int) -> int:
    """The size of a largest matching; since all tolerances are equal, taking the leftmost partner is never worse."""
    matched = place = 0
    for number in one:
        while place < len(other) and other[place] < number - tolerance:
            place += 1
        if place < len(other) and other[place] <= number + tolerance:
            matched += 1
            place += 1
    return matched


def pk(marked: Iterable[int], cuts: Iterable[int], num_units: int, window: int | None = None) -> float:
    """The share of pairs of units ``window`` apart that only one of the two puts into the same segment.

    ``window``: by default half the mean length of a marked segment, at least 1. Raises ``ValueError`` for a cut outside
    ``1 .. num_units - 1`` and for a window that does not fit.
    """
    first, second = _segments(marked, num_units), _segments(cuts, num_units)
    apart = _window(first, window)
    return float(np.mean((first[apart:] == first[:-apart]) != (second[apart:] == second[:-apart])))


def window_diff(marked: Iterable[int], cuts: Iterable[int], num_units: int, window: int | None = None) -> float:
    """The share of pairs of units ``window`` apart with another number of cuts between them than is marked. As ``pk`` otherwise."""
    first, second = _segments(marked, num_units), _segments(cuts, num_units)
    apart = _window(first, window)
    return float(np.mean((first[apart:] - first[:-apart]) != (second[apart:] - second[:-apart])))


def even_cuts(num_cuts: int, num_units: int) -> list[int]:
    """``num_cuts`` cuts at equal distances, or as many as there are places.

    >>> even_cuts(2, 9)
    [3, 6]
    """
    whole = min(num_cuts, num_units - 1)
    return [round((number + 1) * num_units / (whole + 1)) for number in range(whole)]


def cuts_of(units: Sequence[Span], spans: Iterable[Span]) -> list[int]:
    """The units before which ``spans`` cut: each start of a span, taken to the nearer end of the unit that it lies in.

    ``units`` ascend. A start before the second unit that is nearer to the first cuts nothing; nor does one behind the middle of the
    last unit.
    """
    firsts = np.array([unit.start for unit in units], dtype=np.int64)
    lasts = np.array([unit.end for unit in units], dtype=np.int64)
    starts = np.array([span.start for span in spans], dtype=np.int64)
    number = np.maximum(np.searchsorted(firsts, starts, side="right") - 1, 0)
    number += (starts - firsts[number]) > (lasts[number] - starts)
    return sorted({int(cut) for cut in number if 0 < cut < len(units)})


def _segments(cuts: Iterable[int], num_units: int) -> NDArray[np.int64]:
    """The number of the segment of each unit, ``(num_units,)``."""
    starts = np.zeros(num_units, dtype=np.int64)
    for cut in cuts:
        if not 0 < cut < num_units:
            raise ValueError(f"cut {cut} is not between units: allowed are 1 to {num_units - 1}")
        starts[cut] = 1
    return np.cumsum(starts)


def _window(marked: NDArray[np.int64], window: int | None) -> int:
    num_units = len(marked)
    if num_units < 2:
        raise ValueError(f"{num_units} units cannot be compared; allowed: 2 or more")
    num_segments = int(marked[-1]) + 1
    apart = max(1, round(num_units / num_segments / 2)) if window is None else window
    if not 0 < apart < num_units:
        raise ValueError(f"window is {apart}; allowed: 1 to {num_units - 1}")
    return apart
