"""Rows and matches of several segments as one: looked up by key, merged, put in order. Knows keys, arrays and maps; knows no file."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rag.core import Matches
from rag.retrievers.dense_codes import Int8Rows
from rag.retrievers.dense_search import Vectors


class Keyed(Protocol):
    """Vectors by ascending key."""

    @property
    def keys(self) -> NDArray[np.int64]: ...

    @property
    def vectors(self) -> Vectors: ...


class MergedRows:
    """Rows of several sources in a new order, read when asked for: ``vectors[i] == sources[source[i]][row[i]]``."""

    def __init__(self, sources: Sequence[Vectors], source: NDArray[np.int32], row: NDArray[np.int64], dim: int) -> None:
        self._sources = sources
        self._source = source
        self._row = row
        self._dim = dim

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self._row), self._dim)

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> NDArray[np.float32 | np.float16]:
        source, row = self._source[rows], self._row[rows]
        out = np.empty((len(row), self._dim), np.float32)
        for number in np.unique(source):
            here = source == number
            out[here] = self._sources[number][row[here]]
            _let_go_of_pages(self._sources[number])
        return out


def _let_go_of_pages(vectors: Vectors) -> None:
    """A merge reads every source once, block by block: pages that were read need not stay in memory."""
    stored = vectors.codes if isinstance(vectors, Int8Rows) else vectors
    pages = getattr(stored, "base", None)
    if isinstance(pages, mmap.mmap):
        pages.madvise(mmap.MADV_DONTNEED)


def look_up(flags: NDArray[np.bool_], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """``flags[key]`` for every key; ``False`` for keys past the end."""
    inside = keys < len(flags)
    out = np.zeros(len(keys), np.bool_)
    out[inside] = flags[keys[inside]]
    return out


def merged(parts: Sequence[Keyed], live: NDArray[np.bool_], dim: int) -> tuple[NDArray[np.int64], MergedRows]:
    """The live keys of all parts, ascending, and their rows, of which none is read yet. ``dim``: of the rows, if there is no part."""
    kept = [np.flatnonzero(look_up(live, part.keys)) for part in parts]
    keys = np.concatenate([np.empty(0, np.int64), *(part.keys[rows] for part, rows in zip(parts, kept, strict=True))])
    source = np.repeat(np.arange(len(parts), dtype=np.int32), [len(rows) for rows in kept])
    row = np.concatenate([np.empty(0, np.int64), *kept])
    order = np.argsort(keys, kind="stable")
    dim = int(parts[0].vectors.shape[1]) if parts else dim
    return keys[order], MergedRows([part.vectors for part in parts], source[order], row[order], dim)


def rows_of(parts: Sequence[tuple[Keyed, NDArray[np.bool_]]], keys: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """The vector of each of ``keys`` as ``(1, dim)``. ``parts``: with which of their rows live. Raises ``ValueError`` for a key that does not."""
    found: dict[int, NDArray[np.float32]] = {}
    for part, live in parts:
        places = np.searchsorted(part.keys, keys)
        places[places == len(part.keys)] = 0
        here = (part.keys[places] == keys) & live[places]
        if here.any():
            rows = part.vectors[places[here]].astype(np.float32)
            found.update(zip(keys[here].tolist(), rows[:, None], strict=True))
    missing = [key for key in keys.tolist() if key not in found]
    if missing:
        raise ValueError(f"no live chunk has the key {missing[0]}")
    return [found[key] for key in keys.tolist()]


def best_of(parts: Sequence[Matches], k: int) -> Matches:
    """The best ``k`` of all, ties by ascending key."""
    keys = np.concatenate([np.empty(0, np.int64), *(part.keys for part in parts)])
    scores = np.concatenate([np.empty(0, np.float32), *(part.scores for part in parts)])
    best = np.lexsort((keys, -scores))[:k]
    return Matches(keys[best], scores[best])
