"""How much of what was asked for lies in what was returned. Knows only intervals of whole numbers, half-open, on one line.

The measures are those of Smith and Troynikov, Evaluating Chunking Strategies for Retrieval (Chroma, 2024). With the references R,
the returned intervals T and all chunks A:

- recall = |R n T| / |R|
- precision = |R n T| / sum of |t|: what is returned twice is counted twice
- IoU = |R n T| / (sum of |t| + |R without T|)
- Precision-Omega = |R n A| / |union of R and of all chunks that touch R|: the precision of a retriever that returns just those

What the numbers count (characters, tokens) is the caller's choice. Intervals are carried from the start and never searched for in
a text, so equal passages cannot be taken for one another. Intervals that only touch share nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Intervals = NDArray[np.int64]
"""``(intervals, 2)``: first number, and the number after the last; an interval may be empty, and they may overlap."""


class Overlap(NamedTuple):
    """Recall, precision and IoU, each from 0 to 1."""

    recall: float
    precision: float
    iou: float


def intervals(pairs: Iterable[tuple[int, int]]) -> Intervals:
    """``pairs`` as an array, also if there are none."""
    return np.array(list(pairs), dtype=np.int64).reshape(-1, 2)


def size(given: Intervals) -> int:
    """The sum of the lengths; overlaps count again."""
    return int((given[:, 1] - given[:, 0]).sum())


def union(given: Intervals) -> Intervals:
    """The same numbers as ascending intervals that neither overlap nor touch."""
    solid = given[given[:, 1] > given[:, 0]]
    if len(solid) < 2:
        return solid
    solid = solid[np.argsort(solid[:, 0], kind="stable")]
    reach = np.maximum.accumulate(solid[:, 1])
    first = np.flatnonzero(np.concatenate([[True], solid[1:, 0] > reach[:-1]]))
    return np.stack([solid[first, 0], reach[np.append(first[1:], len(solid)) - 1]], axis=1)


def common(one: Intervals, other: Intervals) -> int:
    """How many numbers are in both; each must be a ``union``."""
    if not len(one) or not len(other):
        return 0
    before = np.concatenate([[0], np.cumsum(other[:, 1] - other[:, 0])])

    def covered(points: NDArray[np.int64]) -> NDArray[np.int64]:
        """How much of ``other`` lies before each point."""
        number = np.searchsorted(other[:, 0], points, side="right") - 1
        inside = np.minimum(points, other[number, 1]) - other[number, 0]
        found: NDArray[np.int64] = np.where(number < 0, 0, before[number] + inside)
        return found

    return int((covered(one[:, 1]) - covered(one[:, 0])).sum())


def overlap(references: Intervals, returned: Intervals) -> Overlap:
    """Recall, precision and IoU of ``returned`` (precision and IoU are 0 if that is empty).

    Raises ``ValueError`` if ``references`` are empty, since nothing can be recalled then.
    """
    wanted = union(references)
    num_wanted, num_returned = size(wanted), size(returned)
    if not num_wanted:
        raise ValueError("the references are empty: nothing can be recalled")
    num_found = common(wanted, union(returned))
    return Overlap(
        num_found / num_wanted,
        num_found / num_returned if num_returned else 0.0,
        num_found / (num_returned + num_wanted - num_found),
    )


def precision_omega(references: Intervals, chunks: Intervals) -> float:
    """Precision-Omega of ``references`` and all ``chunks``. Raises ``ValueError`` if ``references`` are empty."""
    wanted = union(references)
    if not len(wanted):
        raise ValueError("the references are empty: nothing can be recalled")
    nearest = np.searchsorted(wanted[:, 1], chunks[:, 0], side="right")  # the first reference that ends behind the chunk's start
    is_near = nearest < len(wanted)
    touches = np.zeros(len(chunks), dtype=bool)
    touches[is_near] = np.maximum(wanted[nearest[is_near], 0], chunks[is_near, 0]) < chunks[is_near, 1]
    touching = chunks[touches]
    return common(wanted, union(touching)) / size(union(np.concatenate([wanted, touching])))


def overlap_reference(references: Intervals, returned: Intervals) -> Overlap:
    """What ``overlap`` must equal, number by number."""
    wanted = _numbers(references)
    listed = [number for start, end in returned.tolist() for number in range(start, end)]
    found = wanted & set(listed)
    return Overlap(
        len(found) / len(wanted), len(found) / len(listed) if listed else 0.0, len(found) / (len(listed) + len(wanted - found))
    )


def precision_omega_reference(references: Intervals, chunks: Intervals) -> float:
    """What ``precision_omega`` must equal, number by number."""
    wanted = _numbers(references)
    each = [set(range(start, end)) for start, end in chunks.tolist()]
    covered = wanted & set[int]().union(*each)
    ideal = set[int]().union(wanted, *(chunk for chunk in each if chunk & wanted))
    return len(covered) / len(ideal)


def _numbers(given: Intervals) -> set[int]:
    return {number for start, end in given.tolist() for number in range(start, end)}
