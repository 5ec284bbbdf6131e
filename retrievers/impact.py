"""Learned sparse search over immutable segments. Knows queries as weighted terms, and options; knows no model and no file.

The score of a chunk is the sum over shared terms of query weight times document weight. Learned weights need no statistics of the
corpus, so nothing but the chunk decides its score. Binary codes are not weighed by anything: for them a query weight is multiplied by
``idf = ln(1 + (N - n + 0.5) / (n + 0.5))`` of the live chunks, as in bm25.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from rag.core import (
    Chunk,
    Interaction,
    KeptInFolder,
    Matches,
    OnProgress,
    Segment,
    SparseEncoder,
    SparseVectors,
    StandAlone,
    digest,
)
from rag.errors import ConfigError, IndexMismatch, NoVectors
from rag.retrievers.impact_segment import ImpactSegment, Store, build_segment, load_segment, merge_segments
from rag.retrievers.posting_files import ascend
from rag.retrievers.posting_merge import alive_mask, live_sizes
from rag.retrievers.posting_score import Chooser, Engine, Ranges, Scored
from rag.retrievers.posting_search import checked_threads, search_postings
from rag.retrievers.sparse_vectors import checked


class ImpactIndex(StandAlone, KeptInFolder):
    """Finds chunks by the terms that ``sparse_encoder`` gives them: SPLADE, its inference-free kin, binary codes. A ``rag.core.Index``.

    ``store``: document weights as ``uint8`` with a scale per chunk, or as ``float32``; ``idf``: multiply query weights by the rarity of
    their terms (``None``: if the encoder is binary, where it was worth .02, .00 and .00 nDCG@10, bench/learned_sparse.py); ``engine``:
    ``auto``, ``numpy`` or ``numba``; ``num_threads``: for large batches of queries, 0 means one per core. Search is exact in what is
    stored: every posting of the query is scored. Raises ``ConfigError`` for values outside these.
    """

    def __init__(
        self,
        sparse_encoder: SparseEncoder,
        store: Store = "uint8",
        idf: bool | None = None,
        engine: Engine = "auto",
        num_threads: int = 0,
    ) -> None:
        if store not in get_args(Store):
            raise ConfigError(f"store {store!r} is not one of {', '.join(get_args(Store))}")
        self.sparse_encoder = sparse_encoder
        self.store: Store = store
        self.idf = idf
        self.num_threads = checked_threads(num_threads)
        self._chooser = Chooser(engine)

    @property
    def fingerprint(self) -> str:
        return digest("impact", self.sparse_encoder.fingerprint, "binary" if self.sparse_encoder.binary else self.store)

    def build(
        self,
        keys: NDArray[np.int64],
        chunks: Sequence[Chunk],
        texts: Mapping[str, str] | None = None,
        beside: Sequence[Segment] = (),
    ) -> ImpactSegment:
        """Encodes ``chunk.indexed_text``. Raises ``ValueError`` unless there is one key per chunk and the keys ascend, and ``ModelError``
        if the encoder gives what no index can hold.
        """
        keys = np.array(keys, np.int64)
        if keys.shape != (len(chunks),) or not ascend(keys):
            raise ValueError(f"{len(chunks)} chunks need as many ascending keys from 0 on, not {keys.shape} {keys[:5]}...")
        binary = self.sparse_encoder.binary
        found = self.sparse_encoder.encode_documents([chunk.indexed_text for chunk in chunks])
        vectors = checked(found, len(chunks), self.sparse_encoder, binary=binary)
        return build_segment(keys, vectors, self.store, binary, self.fingerprint)

    def load(self, folder: Path) -> ImpactSegment:
        """Memory-maps a saved segment. Raises ``DamagedIndex``, or ``IndexMismatch`` if another encoder made it."""
        return load_segment(folder, self.fingerprint)

    def merge(
        self,
        segments: Sequence[Segment],
        live: NDArray[np.bool_],
        beside: Sequence[Segment] = (),
        on_progress: OnProgress | None = None,
    ) -> ImpactSegment:
        """One segment of the live keys, equal to a fresh build of their chunks; nothing is encoded."""
        return merge_segments(self._own(segments), live, self.fingerprint)

    def reader(self, segments: Sequence[Segment], live: NDArray[np.bool_]) -> ImpactReader:
        """A view of the chunks with ``live[key]``."""
        idf = self.sparse_encoder.binary if self.idf is None else self.idf
        return ImpactReader(self._own(segments), live, self.sparse_encoder, idf, self._chooser, self.num_threads)

    def explain(self) -> str:
        """Which path scores now, and why."""
        choice = self._chooser.now()
        return f"{choice.engine}: {choice.why}"

    def _own(self, segments: Sequence[Segment]) -> list[ImpactSegment]:
        own = [segment for segment in segments if isinstance(segment, ImpactSegment)]
        if len(own) != len(segments):
            others = sorted({type(segment).__name__ for segment in segments} - {ImpactSegment.__name__})
            raise ValueError(f"an impact index takes impact segments, got {', '.join(others)}")
        if any(segment.fingerprint != self.fingerprint for segment in own):
            raise IndexMismatch("a segment holds the terms of another encoder, or stores its weights in another way")
        return own


class ImpactReader:
    """A ``rag.core.Reader``. Safe to search from many threads at once."""

    def __init__(
        self,
        segments: Sequence[ImpactSegment],
        live: NDArray[np.bool_],
        encoder: SparseEncoder,
        idf: bool,
        chooser: Chooser,
        num_threads: int,
    ) -> None:
        self._segments = [segment for segment in segments if segment.num_chunks]
        self._encoder = encoder
        self._chooser = chooser
        self._num_threads = num_threads
        alive = [alive_mask(segment.keys, live) for segment in self._segments]
        self._scored = [_scored(segment, mask) for segment, mask in zip(self._segments, alive, strict=True)]
        self._num_chunks = sum(int(np.count_nonzero(mask)) for mask in alive)
        self._sizes: list[NDArray[np.int64]] | None = None  # live chunks of each row, where idf is wanted
        if idf:
            self._sizes = [live_sizes(segment.lists, mask) for segment, mask in zip(self._segments, alive, strict=True)]

    def search(self, queries: Sequence[str], k: int, allow: NDArray[np.bool_] | None = None) -> list[Matches]:
        """At most ``k`` chunks that share a term with the query, best first, ties by ascending key.

        Raises ``ValueError`` if ``k`` is below 1, ``ModelError`` if the encoder gives what no index can search for.
        """
        vectors = _NOTHING
        if len(queries):
            vectors = checked(self._encoder.encode_queries(list(queries)), len(queries), self._encoder, binary=False)
        return self.search_vectors(vectors, k, allow)

    def vectors(self, queries: Sequence[str], keys: Sequence[NDArray[np.int64]]) -> list[Interaction]:
        """Raises ``NoVectors``: postings hold terms, not chunks."""
        raise NoVectors("impact")

    def search_vectors(self, vectors: SparseVectors, k: int, allow: NDArray[np.bool_] | None = None) -> list[Matches]:
        """``search`` for queries that are encoded (and checked) already."""
        rows = [segment.rows(vectors.term_ids) for segment in self._segments]
        weights = vectors.weights
        if self._sizes is not None:
            holding = np.zeros(len(weights), np.int64)
            for sizes, (row, known) in zip(self._sizes, rows, strict=True):
                if len(sizes):
                    holding += sizes[row] * known
            idf = np.log1p((self._num_chunks - holding + 0.5) / (holding + 0.5))
            weights = (weights * idf).astype(np.float32)
        ranges = []
        for segment, (row, known) in zip(self._segments, rows, strict=True):
            starts = segment.arrays.posting_starts
            ends = starts[row + known] * known  # of a segment without terms there is no second start
            ranges.append(Ranges(starts[row] * known, ends, weights, vectors.starts))
        num_queries = len(vectors.starts) - 1
        return search_postings(num_queries, self._scored, ranges, k, allow, self._chooser, self._num_threads)


def _scored(segment: ImpactSegment, alive: NDArray[np.bool_]) -> Scored:
    scales = np.where(alive, segment.arrays.scales, np.float32(0))
    return Scored(segment.arrays.ordinals, segment.values, None, scales, segment.keys)


_NOTHING = SparseVectors(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
