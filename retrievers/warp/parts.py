"""Documents of several segments in one order, block by block. Knows segments and rows; knows no training and no file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rag.retrievers.warp.segment import WarpSegment

BLOCK_TOKENS = 32_768


@dataclass(frozen=True)
class Part:
    """The documents ``rows`` (ascending) of a segment."""

    segment: WarpSegment
    rows: NDArray[np.int64]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document."""
        starts = self.segment.token_starts
        found: NDArray[np.int64] = starts[self.rows + 1] - starts[self.rows]
        return found

    @property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())


def keys_of(parts: Sequence[Part]) -> NDArray[np.int64]:
    """The keys of all parts, ascending."""
    return np.sort(np.concatenate([np.empty(0, np.int64), *(part.segment.keys[part.rows] for part in parts)]))


def blocks(parts: Sequence[Part]) -> Iterator[tuple[Part, NDArray[np.int64]]]:
    """All documents by ascending key as pieces of one part and about ``BLOCK_TOKENS`` tokens at most."""
    keys = np.concatenate([np.empty(0, np.int64), *(part.segment.keys[part.rows] for part in parts)])
    order = np.argsort(keys, kind="stable")
    if not len(order):
        return
    source = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])[order]
    rows = np.concatenate([part.rows for part in parts])[order]
    ends = np.cumsum(np.concatenate([part.lengths for part in parts])[order])
    changes = np.append(np.flatnonzero(np.diff(source)) + 1, len(order))
    first = 0
    while first < len(order):
        change = int(changes[np.searchsorted(changes, first, side="right")])
        before = int(ends[first - 1]) if first else 0
        full = int(np.searchsorted(ends, before + BLOCK_TOKENS, side="right"))
        last = min(change, max(first + 1, full))
        yield parts[source[first]], rows[first:last]
        first = last


def sample(parts: Sequence[Part], num_tokens: int, seed: int) -> NDArray[np.float16]:
    """The token vectors of documents drawn at random until there are ``num_tokens``; ``(tokens, encoder dim)``."""
    lengths = np.concatenate([part.lengths for part in parts])
    source = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])
    rows = np.concatenate([part.rows for part in parts])
    drawn = np.random.default_rng(seed).permutation(len(rows))
    drawn = np.sort(drawn[: int(np.searchsorted(np.cumsum(lengths[drawn]), num_tokens)) + 1])
    found = np.empty((int(lengths[drawn].sum()), parts[0].segment.header.dim), np.float16)
    end = 0
    for number, part in enumerate(parts):
        own = rows[drawn[source[drawn] == number]]
        for start in range(0, len(own), 512):
            some = part.segment.originals(own[start : start + 512])
            found[end : end + len(some)] = some
            end += len(some)
    return found
