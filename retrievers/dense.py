"""Dense search: chunks and queries as vectors of one encoder. Knows segments, filters and query vectors; knows no model.

Segments up to ``exact_below`` rows are searched exactly over memory-mapped vectors, larger ones through a faiss graph whose
candidates are scored again exactly (dense_graph tells which graph and why). Filters apply before the top k on every path.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rag.core import Chunk, Encoder, Matches, Segment, TokenEncoder, digest
from rag.errors import ConfigError, IndexMismatch
from rag.retrievers.dense_search import Found, rescore, search_exact
from rag.retrievers.dense_segment import DenseSegment, MergedRows, Store, load_segment

Pooling = Literal["chunk", "late"]

_FEW_ROWS_SHARE = 0.02


class FaissIndex:
    """Finds chunks whose meaning is near the query's: cosine of ``encoder`` vectors, between -1 and 1.

    ``pooling="chunk"``: the vector of a chunk is that of ``chunk.indexed_text``. ``"late"`` (late chunking, arXiv 2409.04701): it is
    the mean of the token vectors of its span, read within the whole document; documents above the encoder's limit are read in
    windows that share ``late_overlap_tokens``; the chunk's ``context`` is not read, and an edit encodes the document anew. Needs a
    mean-pooled encoder: ``build`` raises ``ConfigError`` for any other. ``store="float16"`` halves the files and moves a score by up to
    5e-4. ``ef_search`` is the beam of a graph search: 128 found all of the true top 10 among 60,000 made-up vectors
    (bench/dense.py). ``num_cached_queries`` query vectors are remembered, so that the same question with another filter or
    ``k`` costs no encoder call. Raises ``ConfigError`` for options out of range.
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
    ) -> None:
        if pooling not in get_args(Pooling):
            raise ConfigError(f"pooling {pooling!r} is not one of {', '.join(get_args(Pooling))}")
        if store not in get_args(Store):
            raise ConfigError(f"store {store!r} is not one of {', '.join(get_args(Store))}")
        for name, value, least in (
            ("exact_below", exact_below, 0), ("ef_search", ef_search, 1), ("num_cached_queries", num_cached_queries, 0),
            ("late_overlap_tokens", late_overlap_tokens, 0),
        ):  # fmt: skip
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, not {value}")
        self.encoder = encoder
        self.exact_below = exact_below
        self.store: Store = store
        self.ef_search = ef_search
        self.pooling: Pooling = pooling
        self.late_overlap_tokens = late_overlap_tokens
        self._query_vectors = QueryVectors(encoder, num_cached_queries)

    @property
    def fingerprint(self) -> str:
        late = ["late", str(self.late_overlap_tokens)] if self.pooling == "late" else []
        return digest("dense", self.encoder.fingerprint, *late)

    @property
    def reads_documents(self) -> bool:
        return self.pooling == "late"

    @property
    def trains(self) -> bool:
        return False

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
        vectors = self._encode(chunks, texts).astype(self.store, copy=False)
        segment = self._segment(keys, vectors)
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

    def load(self, folder: Path) -> DenseSegment:
        """Raises ``DamagedIndex`` if the files do not fit together, ``IndexMismatch`` if another encoder made them."""
        return load_segment(folder, self.fingerprint)

    def merge(self, segments: Sequence[Segment], live: NDArray[np.bool_], beside: Sequence[Segment] = ()) -> DenseSegment:
        """Reads no vector before the result is saved or searched, and then block by block."""
        parts = [_own(segment) for segment in segments]
        kept = [np.flatnonzero(look_up(live, part.keys)) for part in parts]
        keys = np.concatenate([np.empty(0, np.int64), *(part.keys[rows] for part, rows in zip(parts, kept, strict=True))])
        source = np.repeat(np.arange(len(parts), dtype=np.int32), [len(rows) for rows in kept])
        row = np.concatenate([np.empty(0, np.int64), *kept])
        order = np.argsort(keys, kind="stable")
        dim = parts[0].dim if parts else self.encoder.dim
        return self._segment(keys[order], MergedRows([part.vectors for part in parts], source[order], row[order], dim))

    def reader(self, segments: Sequence[Segment], live: NDArray[np.bool_]) -> DenseReader:
        parts = [_own(segment) for segment in segments]
        for part in parts:
            if part.fingerprint != self.fingerprint:
                raise IndexMismatch("a segment holds vectors of another encoder")
        return DenseReader(parts, live, self)

    def query_vectors(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """``(queries, dim)``, remembered ones without an encoder call."""
        return self._query_vectors.of(queries)

    def _segment(self, keys: NDArray[np.int64], vectors: NDArray[np.float32] | MergedRows) -> DenseSegment:
        if len(keys) <= self.exact_below:
            return DenseSegment(keys, vectors, self.fingerprint, self.store, None)
        from rag.retrievers.dense_graph import recipe

        return DenseSegment(keys, vectors, self.fingerprint, self.store, recipe(len(keys), self.exact_below))


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
                for number, (rows, scores) in enumerate(self._search_part(segment, vectors, k, allowed)):
                    found[number].append(Matches(segment.keys[rows], scores))
        return [_best(parts, k) for parts in found]

    def _search_part(self, segment: DenseSegment, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_]) -> list[Found]:
        num_allowed = int(np.count_nonzero(allowed))
        few = num_allowed <= max(self._index.exact_below, _FEW_ROWS_SHARE * len(allowed))
        mask = None if num_allowed == len(allowed) else allowed
        if segment.graph is None or few or k * 4 > num_allowed:
            return search_exact(segment.vectors, queries, k, mask)
        from rag.retrievers.dense_graph import candidates

        wanted = min(k, num_allowed)
        # Twice as many as asked for: the graph ranks by 8-bit copies, and the true top k must be among what is scored again.
        rows = candidates(segment.graph, queries, max(2 * k, 16), mask, self._index.ef_search)
        found = [rescore(segment.vectors, query, np.unique(some[some >= 0]), k) for query, some in zip(queries, rows, strict=True)]
        short = [number for number, matches in enumerate(found) if len(matches.rows) < wanted]
        if short:  # the walk ended in a corner with too few allowed rows
            for number, matches in zip(short, search_exact(segment.vectors, queries[short], k, mask), strict=True):
                found[number] = matches
        return found


class QueryVectors:
    """The last query vectors, by text. Thread-safe."""

    def __init__(self, encoder: Encoder, capacity: int) -> None:
        self._encoder = encoder
        self._capacity = capacity
        self._known: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, queries: Sequence[str]) -> NDArray[np.float32]:
        with self._lock:
            known = {query: self._known[query] for query in queries if query in self._known}
        missing = [query for query in dict.fromkeys(queries) if query not in known]
        if missing:
            known.update(zip(missing, self._encoder.encode_queries(missing), strict=True))
        with self._lock:
            for query, vector in known.items():
                if query not in self._known:
                    self._known[query] = vector.copy()  # a view would keep the whole batch in memory
                self._known.move_to_end(query)
            while len(self._known) > self._capacity:
                self._known.popitem(last=False)
        return np.stack([known[query] for query in queries])


def look_up(flags: NDArray[np.bool_], keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """``flags[key]`` for every key; ``False`` for keys past the end."""
    inside = keys < len(flags)
    out = np.zeros(len(keys), np.bool_)
    out[inside] = flags[keys[inside]]
    return out


def _own(segment: Segment) -> DenseSegment:
    if not isinstance(segment, DenseSegment):
        raise TypeError(f"FaissIndex reads its own segments, not {type(segment).__name__}")
    return segment


def _best(parts: Sequence[Matches], k: int) -> Matches:
    if not parts:
        return Matches(np.empty(0, np.int64), np.empty(0, np.float32))
    keys = np.concatenate([part.keys for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    best = np.lexsort((keys, -scores))[:k]
    return Matches(keys[best], scores[best])
