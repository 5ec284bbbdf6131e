"""BM25 over immutable segments. Knows queries, corpus statistics and options; postings and loops have files of their own.

Statistics are those of the live chunks of all segments together, taken when a search needs them: number of chunks, their mean
length, and per query term the number of chunks that hold it. Adding or deleting chunks therefore rewrites nothing, and scores are
those of an index built afresh. ``idf = ln(1 + (N - n + 0.5) / (n + 0.5))`` as in Lucene: never negative.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag.core import Chunk, Interaction, KeptInFolder, Matches, OnProgress, Segment, StandAlone
from rag.errors import ConfigError, NoVectors
from rag.retrievers.analyse import Analyser
from rag.retrievers.bm25_segment import BM25Segment, build_segment, load_segment, merge_segments
from rag.retrievers.posting_merge import alive_mask
from rag.retrievers.posting_score import Chooser, Engine, Ranges, Scored
from rag.retrievers.posting_search import checked_threads, search_postings

_MAX_REMEMBERED_TERMS = 1 << 16


class BM25Index(StandAlone, KeptInFolder):
    """Lexical search: finds chunks by their rare words, exact names and numbers. A ``rag.core.Index``.

    ``k1`` >= 0: how much repeated words count; ``b`` in 0..1: how much long chunks are held back (the defaults are the common
    ones; bench/sparse.py measures others); ``language``: a Snowball algorithm or ``none``; ``stop_words``: leave them out of
    queries; ``engine``: ``auto``, ``numpy`` or ``numba``; ``num_threads``: for large batches of queries, 0 means one per core.
    Only ``language`` changes what is stored. Raises ``ConfigError`` (a ``ValueError``) for values outside these.
    """

    def __init__(
        self,
        k1: float = 1.2,
        b: float = 0.75,
        language: str = "english",
        stop_words: bool = True,
        engine: Engine = "auto",
        num_threads: int = 0,
    ) -> None:
        if not (math.isfinite(k1) and k1 >= 0):
            raise ConfigError(f"k1 must be a finite number of at least 0, got {k1!r}")
        if not 0 <= b <= 1:
            raise ConfigError(f"b must be between 0 and 1, got {b!r}")
        self.k1 = k1
        self.b = b
        self.analyser = Analyser(language, stop_words=stop_words)
        self.num_threads = checked_threads(num_threads)
        self._chooser = Chooser(engine)

    @property
    def fingerprint(self) -> str:
        """Names the analysis: segments of one analysis can be searched and merged together."""
        return f"bm25/{self.analyser.fingerprint}"

    def build(
        self,
        keys: NDArray[np.int64],
        chunks: Sequence[Chunk],
        texts: Mapping[str, str] | None = None,
        beside: Sequence[Segment] = (),
    ) -> BM25Segment:
        """The postings of ``chunk.indexed_text``; ``keys`` ascend, one per chunk. Raises ``ValueError`` if they do not."""
        return build_segment(keys, [chunk.indexed_text for chunk in chunks], self.analyser, self.fingerprint)

    def load(self, folder: Path) -> BM25Segment:
        """Memory-maps a saved segment. Raises ``DamagedIndex``, or ``IndexMismatch`` if another analysis made it."""
        return load_segment(folder, self.fingerprint)

    def merge(
        self,
        segments: Sequence[Segment],
        live: NDArray[np.bool_],
        beside: Sequence[Segment] = (),
        on_progress: OnProgress | None = None,
    ) -> BM25Segment:
        """One segment of the live keys, equal to a fresh build of their chunks; no text is read."""
        return merge_segments(_own(segments), live, self.fingerprint)

    def reader(self, segments: Sequence[Segment], live: NDArray[np.bool_]) -> BM25Reader:
        """A view of the chunks with ``live[key]``."""
        return BM25Reader(_own(segments), live, self.k1, self.b, self.analyser, self._chooser, self.num_threads)

    def explain(self) -> str:
        """Which path scores now, and why."""
        choice = self._chooser.now()
        return f"{choice.engine}: {choice.why}"


class _Term:
    """A query term in one state of the index: its idf, and per segment its range of postings, ``(segments, 2)``."""

    __slots__ = ("idf", "num_postings", "ranges")

    def __init__(self, idf: float, ranges: list[tuple[int, int]]) -> None:
        self.idf = idf
        self.ranges = ranges
        self.num_postings = sum(end - start for start, end in ranges)


class BM25Reader:
    """A ``rag.core.Reader``. Safe to search from many threads at once."""

    def __init__(
        self,
        segments: Sequence[BM25Segment],
        live: NDArray[np.bool_],
        k1: float,
        b: float,
        analyser: Analyser,
        chooser: Chooser,
        num_threads: int,
    ) -> None:
        self._segments = [segment for segment in segments if segment.num_chunks]
        self._analyser = analyser
        self._chooser = chooser
        self._num_threads = num_threads
        alive = [alive_mask(segment.keys, live) for segment in self._segments]
        self._alive = [None if mask.all() else mask for mask in alive]
        self.num_chunks = sum(int(np.count_nonzero(mask)) for mask in alive)
        num_terms = sum(
            int(segment.postings.lengths.sum(where=mask, dtype=np.int64))
            for segment, mask in zip(self._segments, alive, strict=True)
        )
        self.mean_length = num_terms / self.num_chunks if self.num_chunks else 0.0
        self._k1 = k1
        per_term = k1 * b / self.mean_length if self.mean_length else 0.0
        self._scored = [
            Scored(
                segment.postings.ordinals,
                segment.postings.counts,
                np.where(mask, k1 * (1 - b) + per_term * segment.postings.lengths, np.inf).astype(np.float32),
                None,
                segment.keys,
            )
            for segment, mask in zip(self._segments, alive, strict=True)
        ]
        self._terms: dict[str, _Term] = {}

    def search(self, queries: Sequence[str], k: int, allow: NDArray[np.bool_] | None = None) -> list[Matches]:
        """At most ``k`` chunks that share a term with the query, best first, ties by ascending key.

        A term that stands twice in the query counts twice. Raises ``ValueError`` if ``k`` is below 1.
        """
        asked = [self._weighted(query) for query in queries]
        weights = np.array([weight for terms in asked for weight, _ in terms], np.float32)
        starts = np.array(list(accumulate(map(len, asked), initial=0)), np.int64)
        terms = [term for terms in asked for _, term in terms]
        ranges = [
            Ranges(
                np.array([term.ranges[number][0] for term in terms], np.int64),
                np.array([term.ranges[number][1] for term in terms], np.int64),
                weights,
                starts,
            )
            for number in range(len(self._segments))
        ]
        return search_postings(len(asked), self._scored, ranges, k, allow, self._chooser, self._num_threads)

    def vectors(self, queries: Sequence[str], keys: Sequence[NDArray[np.int64]]) -> list[Interaction]:
        """Raises ``NoVectors``: words are counted here, not embedded."""
        raise NoVectors("bm25")

    def _weighted(self, query: str) -> list[tuple[float, _Term]]:
        """The terms that some chunk holds, each with repeats * idf * (k1 + 1); the rarest first."""
        found = []
        for term, repeats in Counter(self._analyser.query_terms(query)).items():
            known = self._terms.get(term) or self._look_up(term)
            if known.num_postings:
                found.append((repeats * known.idf * (self._k1 + 1), known))
        found.sort(key=lambda pair: -pair[1].idf)  # one order of adding, however the chunks are spread over segments
        return found

    def _look_up(self, term: str) -> _Term:
        ranges = [segment.posting_range(term) for segment in self._segments]
        holding = 0
        for segment, alive, (start, end) in zip(self._segments, self._alive, ranges, strict=True):
            holding += end - start if alive is None else int(np.count_nonzero(alive[segment.postings.ordinals[start:end]]))
        found = _Term(math.log1p((self.num_chunks - holding + 0.5) / (holding + 0.5)), ranges)
        if len(self._terms) >= _MAX_REMEMBERED_TERMS:
            self._terms = {}  # a new table: another thread may be reading the old one
        self._terms[term] = found
        return found


def _own(segments: Sequence[Segment]) -> list[BM25Segment]:
    own = [segment for segment in segments if isinstance(segment, BM25Segment)]
    if len(own) != len(segments):
        raise ValueError(f"a BM25 index takes BM25 segments, got {sorted({type(segment).__name__ for segment in segments})}")
    return own
