"""Dense search: chunks and queries as vectors of one encoder. Knows segments, filters and query vectors; knows no model.

How a segment is searched (exactly, by bits, by a graph) is told in dense_find; which graph and why, in dense_graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rag.core import Chunk, Encoder, Interaction, KeptInFolder, Matches, OnProgress, Segment, TokenEncoder, digest
from rag.errors import ConfigError, IndexMismatch
from rag.retrievers.dense_codes import bits_of, to_int8
from rag.retrievers.dense_find import Effort, find
from rag.retrievers.dense_merged import best_of, look_up, merged, rows_of
from rag.retrievers.dense_search import Vectors
from rag.retrievers.dense_segment import DenseSegment, Store, load_segment
from rag.retrievers.query_cache import QueryCache

Pooling = Literal["chunk", "late"]


class FaissIndex(KeptInFolder):
    """Finds chunks whose meaning is near the query's: cosine of ``encoder`` vectors, between -1 and 1.

    ``pooling="chunk"``: the vector of a chunk is that of ``chunk.indexed_text``. ``"late"`` (late chunking, arXiv 2409.04701): it is
    the mean of the token vectors of its span, read within the whole document; documents above the encoder's limit are read in
    windows that share ``late_overlap_tokens``; the chunk's ``context`` is not read, and an edit encodes the document anew. Needs a
    mean-pooled encoder: ``build`` raises ``ConfigError`` for any other.

    ``dimensions``: keep the first so many components, scaled to length 1 again; for encoders trained for it (Matryoshka
    representation learning, arXiv 2205.13147). More than the encoder has raises ``ConfigError`` at the first text.

    ``store`` says how vectors are kept; another one needs no rebuild, new and merged segments take it. ``float16`` halves the files
    and moves a score by up to 5e-4, ``int8`` quarters them (dense_codes tells how). ``binary`` adds one bit per component to int8: a
    search reads the bits, scores ``oversample`` candidates per hit (at least 20 hits' worth) from the int8 rows, and needs no graph
    however many rows there are; up to that many rows it is as exact as ``int8``. bench/dense_stores.py measures what each costs and loses.

    ``ef_search`` is the beam of a graph search: 128 found all of the true top 10 among 60,000 made-up vectors (bench/dense.py).
    ``num_cached_queries`` query vectors are remembered, so that the same question with another filter or ``k`` costs no encoder
    call. Raises ``ConfigError`` for options out of range.
    """

    def __init__(
        self,
        encoder: Encoder,
        exact_below: int = 50_000,
        store: Store = "float32",
        ef_search: int = 128,
        num_cached_queries: int = 256,
        pooling: Pooling = "chunk",
        late_overlap_tokens: int = 64,
        dimensions: int | None = None,
        oversample: int = 20,
    ) -> None:
        if pooling not in get_args(Pooling):
            raise ConfigError(f"pooling {pooling!r} is not one of {', '.join(get_args(Pooling))}")
        if store not in get_args(Store):
            raise ConfigError(f"store {store!r} is not one of {', '.join(get_args(Store))}")
        for name, value, least in (
            ("exact_below", exact_below, 0), ("ef_search", ef_search, 1), ("num_cached_queries", num_cached_queries, 0),
            ("late_overlap_tokens", late_overlap_tokens, 0), ("dimensions", 1 if dimensions is None else dimensions, 1),
            ("oversample", oversample, 1),
        ):  # fmt: skip
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, not {value}")
        self.encoder = encoder
        self.effort = Effort(exact_below, ef_search, oversample)
        self.store: Store = store
        self.pooling: Pooling = pooling
        self.late_overlap_tokens = late_overlap_tokens
        self.dimensions = dimensions
        self._queries = QueryCache(lambda queries: list(self._shortened(encoder.encode_queries(queries))), num_cached_queries)

    @property
    def fingerprint(self) -> str:
        late = ["late", str(self.late_overlap_tokens)] if self.pooling == "late" else []
        shorter = ["dimensions", str(self.dimensions)] if self.dimensions is not None else []
        return digest("dense", self.encoder.fingerprint, *late, *shorter)

    @property
    def reads_documents(self) -> bool:
        return self.pooling == "late"

    @property
    def trains(self) -> bool:
        return False

    @property
    def efforts(self) -> Mapping[str, Sequence[float]]:
        return {"oversample": (2, 5, 10, 20, 40, 80)} if self.store == "binary" else {"ef_search": (16, 32, 64, 128, 256, 512)}

    def build(
        self,
        keys: NDArray[np.int64],
        chunks: Sequence[Chunk],
        texts: Mapping[str, str] | None = None,
        beside: Sequence[Segment] = (),
    ) -> DenseSegment:
        """Encodes the chunks. Raises ``ValueError`` unless there is one key per chunk and the keys ascend."""
        keys = np.array(keys, np.int64)
        if keys.shape != (len(chunks),) or (len(keys) > 1 and not np.all(keys[1:] > keys[:-1])):
            raise ValueError(f"{len(chunks)} chunks need as many ascending keys, not {keys.shape} {keys[:5]}...")
        vectors = self._shortened(self._encode(chunks, texts))
        if self.store in ("float32", "float16"):
            segment = self._segment(keys, vectors.astype(self.store, copy=False))
        else:
            rows = to_int8(vectors)
            segment = self._segment(keys, rows)
            segment.bits = bits_of(rows) if self.store == "binary" else None
        if segment.recipe is not None:
            segment.graph = segment.build_graph()
        return segment

    def _encode(self, chunks: Sequence[Chunk], texts: Mapping[str, str] | None) -> NDArray[np.float32]:
        if self.pooling == "chunk":
            return self.encoder.encode_documents([chunk.indexed_text for chunk in chunks])
        from rag.retrievers.late import late_vectors_of

        if not isinstance(self.encoder, TokenEncoder):
            raise ConfigError(f"pooling 'late' needs an encoder with token vectors; {type(self.encoder).__name__} has none")
        return late_vectors_of(self.encoder, chunks, texts or {}, self.late_overlap_tokens)

    def _shortened(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.dimensions is None:
            return vectors
        if self.dimensions > vectors.shape[1]:
            raise ConfigError(f"dimensions must be between 1 and {vectors.shape[1]}, what the encoder gives, not {self.dimensions}")
        head = vectors[:, : self.dimensions]
        lengths = np.linalg.norm(head, axis=1, keepdims=True)
        shortened: NDArray[np.float32] = np.divide(head, lengths, where=lengths > 0, out=np.zeros_like(head))
        return shortened

    def load(self, folder: Path) -> DenseSegment:
        """Raises ``DamagedIndex`` if the files do not fit together, ``IndexMismatch`` if another encoder made them."""
        return load_segment(folder, self.fingerprint, self.effort)

    def merge(
        self,
        segments: Sequence[Segment],
        live: NDArray[np.bool_],
        beside: Sequence[Segment] = (),
        on_progress: OnProgress | None = None,
    ) -> DenseSegment:
        """Reads no vector before the result is saved or searched, and then block by block."""
        keys, rows = merged([_own(segment) for segment in segments], live, self.dimensions or self.encoder.dim)
        return self._segment(keys, rows)

    def reader(self, segments: Sequence[Segment], live: NDArray[np.bool_]) -> DenseReader:
        parts = [_own(segment) for segment in segments]
        for part in parts:
            if part.fingerprint != self.fingerprint:
                raise IndexMismatch("a segment holds vectors of another encoder")
        return DenseReader(parts, live, self)

    def query_vectors(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """``(queries, dim)``, remembered ones without an encoder call."""
        return np.stack(self._queries.of(queries))

    def _segment(self, keys: NDArray[np.int64], vectors: Vectors) -> DenseSegment:
        graph = None
        if self.store != "binary" and len(keys) > self.effort.exact_below:
            from rag.retrievers.dense_graph import recipe

            graph = recipe(len(keys), self.effort.exact_below)
        return DenseSegment(keys, vectors, self.fingerprint, self.store, graph, self.effort)


class DenseReader:
    """Some segments as they stood at one commit."""

    def __init__(self, segments: Sequence[DenseSegment], live: NDArray[np.bool_], index: FaissIndex) -> None:
        self._index = index
        self._parts = [(segment, look_up(live, segment.keys)) for segment in segments if len(segment.keys)]

    def search(self, queries: Sequence[str], k: int, allow: NDArray[np.bool_] | None = None) -> list[Matches]:
        """Raises ``ValueError`` if ``k`` is not positive."""
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        found: list[list[Matches]] = [[] for _ in queries]
        if queries and self._parts:
            vectors = self._index.query_vectors(queries)
            for segment, live in self._parts:
                allowed = live if allow is None else live & look_up(allow, segment.keys)
                for number, (rows, scores) in enumerate(find(segment, vectors, k, allowed, self._index.effort)):
                    found[number].append(Matches(segment.keys[rows], scores))
        return [best_of(parts, k) for parts in found]

    def vectors(self, queries: Sequence[str], keys: Sequence[NDArray[np.int64]]) -> list[Interaction]:
        """One row per query and one per chunk. Raises ``ValueError`` for a key that is not live."""
        if not queries:
            return []
        asked = self._index.query_vectors(queries)
        return [Interaction(query[None], rows_of(self._parts, some)) for query, some in zip(asked, keys, strict=True)]


def _own(segment: Segment) -> DenseSegment:
    if not isinstance(segment, DenseSegment):
        raise TypeError(f"FaissIndex reads its own segments, not {type(segment).__name__}")
    return segment
