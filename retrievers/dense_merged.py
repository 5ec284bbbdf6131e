"""Rows of several segments as one matrix that is read when asked for. Knows arrays and maps; knows no key and no file."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rag.retrievers.dense_codes import Int8Rows
from rag.retrievers.dense_search import Vectors


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
