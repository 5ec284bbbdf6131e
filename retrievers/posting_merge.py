"""Posting lists of several segments made into one set. Knows rows, ordinals and values; knows no term and no file.

Row ``r`` has the postings ``starts[r]:starts[r + 1]``; ordinals number the chunks of a segment in key order and ascend within a row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MERGE_POSTINGS = 1 << 19
_MAX_BYTES_IN_MEMORY = 1 << 24


class Lists(NamedTuple):
    """Posting lists: ``starts`` ``(rows + 1,)``, ``ordinals`` and ``values`` ``(postings,)``."""

    starts: NDArray[np.int64]
    ordinals: NDArray[np.int32]
    values: NDArray[Any]


class Source(NamedTuple):
    """What one segment brings to a merge: which chunks live, and the ``rows`` whose terms live in ``sizes`` chunks."""

    keys: NDArray[np.int64]
    lists: Lists
    alive: NDArray[np.bool_]
    rows: NDArray[np.int64]
    sizes: NDArray[np.int64]


def source_of(keys: NDArray[np.int64], lists: Lists, live: NDArray[np.bool_]) -> Source:
    """One segment as a source."""
    alive = alive_mask(keys, live)
    sizes = live_sizes(lists, alive)
    rows = np.flatnonzero(sizes)
    return Source(keys, lists, alive, rows, sizes[rows])


def merged_chunks(sources: Sequence[Source], per_chunk: Sequence[NDArray[Any]]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The live keys of all sources, ascending, and what ``per_chunk`` says of each. Raises ``ValueError`` if a key is in two sources."""
    keys = np.concatenate([np.zeros(0, np.int64), *(source.keys[source.alive] for source in sources)])
    empty = [np.zeros(0, per_chunk[0].dtype)] if per_chunk else [np.zeros(0, np.float32)]
    values = np.concatenate([*empty, *(each[source.alive] for each, source in zip(per_chunk, sources, strict=True))])
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    if not np.diff(keys).all():
        raise ValueError("a live key is in two of the segments to merge")
    return keys, values


def merged_lists(sources: Sequence[Source], new_rows: Sequence[NDArray[np.int64]], num_rows: int, keys: NDArray[np.int64]) -> Lists:
    """The live postings of all sources; ``new_rows``: where each of a source's ``rows`` goes; ``keys``: of the merged chunks.

    Rows are merged in blocks of about half a million postings; above 16 MiB the new postings go to a temporary file.
    """
    new_ordinals = [np.where(source.alive, np.searchsorted(keys, source.keys), -1) for source in sources]
    sizes = np.zeros(num_rows, np.int64)
    for source, rows in zip(sources, new_rows, strict=True):
        sizes[rows] += source.sizes
    starts = starts_of(sizes)
    widest = np.result_type(*(source.lists.values.dtype for source in sources)) if sources else np.dtype(np.uint8)
    merged_ordinals: NDArray[np.int32] = _room(int(starts[-1]), np.dtype(np.int32))
    merged_values: NDArray[Any] = _room(int(starts[-1]), widest)
    for lo, hi in pairwise(_blocks(starts)):
        block = slice(starts[lo], starts[hi])
        found = [_live_postings(*each, lo, hi, len(keys)) for each in zip(sources, new_rows, new_ordinals, strict=True)]
        places = np.concatenate([place for place, _ in found])
        order = np.argsort(places, kind="stable")
        merged_ordinals[block] = places[order] % len(keys)
        merged_values[block] = np.concatenate([values for _, values in found])[order]
    return Lists(starts, merged_ordinals, merged_values)


def alive_mask(keys: NDArray[np.int64], live: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the ascending ``keys`` have ``live[key]``; keys past its end do not."""
    mask = np.zeros(len(keys), np.bool_)
    inside = int(np.searchsorted(keys, len(live)))
    mask[:inside] = live[keys[:inside]]
    return mask


def starts_of(sizes: NDArray[Any]) -> NDArray[np.int64]:
    """Where rows of these sizes begin, and where the last ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[starts[0], starts[0] + 1, ...]`` of ``sizes[0]`` numbers, then those of the next, ..."""
    ends = np.cumsum(sizes)
    return np.arange(int(sizes.sum())) + np.repeat(starts - ends + sizes, sizes)


def live_sizes(lists: Lists, alive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many live chunks hold each term, ``(rows,)``."""
    if alive.all():
        return np.diff(lists.starts)
    sizes = np.zeros(len(lists.starts) - 1, np.int64)
    for lo, hi in pairwise(_blocks(lists.starts)):
        start, end = lists.starts[lo], lists.starts[hi]
        before = starts_of(alive[lists.ordinals[start:end]])
        sizes[lo:hi] = np.diff(before[lists.starts[lo : hi + 1] - start])
    return sizes


def _blocks(starts: NDArray[np.int64]) -> Iterator[int]:
    """Row numbers, from 0 to the last, that cut the rows into blocks of bounded postings (or one row)."""
    row, last = 0, len(starts) - 1
    yield row
    while row < last:
        row = max(row + 1, int(np.searchsorted(starts, starts[row] + _MERGE_POSTINGS, "right")) - 1)
        yield row


def _live_postings(
    source: Source, new_rows: NDArray[np.int64], new_ordinals: NDArray[np.int64], lo: int, hi: int, num_chunks: int
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Live postings whose new rows are in ``[lo, hi)``: ``(new row - lo) * num_chunks + new ordinal``, and their values."""
    block = slice(*np.searchsorted(new_rows, [lo, hi]))
    starts = source.lists.starts[source.rows[block]]
    sizes = source.lists.starts[source.rows[block] + 1] - starts
    positions = ranges(starts, sizes)
    ordinals = new_ordinals[source.lists.ordinals[positions]]
    alive = ordinals >= 0
    places = np.repeat(new_rows[block] - lo, sizes) * num_chunks + ordinals
    return places[alive], source.lists.values[positions[alive]]


def _room(length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    if length * dtype.itemsize <= _MAX_BYTES_IN_MEMORY:
        return np.empty(length, dtype)
    with tempfile.TemporaryFile() as file:  # the mapping outlives the open file
        return np.asarray(np.memmap(file, dtype, "w+", shape=(length,)))
