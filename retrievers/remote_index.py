"""Dense search on a server, as an index: what qdrant and pgvector have in common. Knows segments and filters; knows no server."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag.core import Chunk, Encoder, Interaction, Matches, OnProgress, Segment, StandAlone, digest
from rag.errors import ConfigError, IndexMismatch
from rag.retrievers import remote
from rag.retrievers.dense_merged import best_of, look_up, merged, rows_of
from rag.retrievers.dense_search import search_exact
from rag.retrievers.query_cache import QueryCache
from rag.retrievers.remote import Floats, Keys, RemoteSegment, Selection, ServerRows, VectorServer


class RemoteIndex(StandAlone):
    """Finds chunks whose meaning is near the query's: inner product of ``encoder`` vectors of ``chunk.indexed_text``, kept on a server.

    A search sends the smaller of two sets of keys, those that may appear or those that may not, so its cost grows with the filter.
    """

    def __init__(self, encoder: Encoder, num_cached_queries: int) -> None:
        if num_cached_queries < 0:
            raise ConfigError(f"num_cached_queries must be at least 0, not {num_cached_queries}")
        self.encoder = encoder
        self._queries = QueryCache(lambda queries: list(encoder.encode_queries(queries)), num_cached_queries)

    @property
    @abstractmethod
    def server(self) -> VectorServer:
        """Where the vectors are. Opens no connection."""

    @property
    def fingerprint(self) -> str:
        return digest("remote", self.encoder.fingerprint)

    def build(
        self,
        keys: Keys,
        chunks: Sequence[Chunk],
        texts: Mapping[str, str] | None = None,
        beside: Sequence[Segment] = (),
    ) -> RemoteSegment:
        """Encodes the chunks; nothing is sent before the segment is saved. Raises ``ValueError`` unless there is one ascending key each."""
        keys = np.array(keys, np.int64)
        if keys.shape != (len(chunks),) or np.any(keys[1:] <= keys[:-1]):
            raise ValueError(f"{len(chunks)} chunks need as many ascending keys, not {keys.shape} {keys[:5]}...")
        vectors = self.encoder.encode_documents([chunk.indexed_text for chunk in chunks])
        return RemoteSegment(keys, np.asarray(vectors, np.float32), self.fingerprint, self.server)

    def load(self, folder: Path) -> RemoteSegment:
        """See ``remote.load_segment``."""
        return remote.load_segment(folder, self.fingerprint, self.server)

    def merge(
        self,
        segments: Sequence[Segment],
        live: NDArray[np.bool_],
        beside: Sequence[Segment] = (),
        on_progress: OnProgress | None = None,
    ) -> RemoteSegment:
        """Vectors travel when the result is saved, block by block: from the server and back to it, as another segment."""
        keys, rows = merged([_own(segment) for segment in segments], live, self.encoder.dim)
        return RemoteSegment(keys, rows, self.fingerprint, self.server)

    def reader(self, segments: Sequence[Segment], live: NDArray[np.bool_]) -> RemoteReader:
        parts = [_own(segment) for segment in segments]
        for part in parts:
            if part.fingerprint != self.fingerprint:
                raise IndexMismatch("a segment holds vectors of another encoder")
        return RemoteReader(parts, live, self)

    def query_vectors(self, queries: Sequence[str]) -> Floats:
        """``(queries, dim)``, remembered ones without an encoder call."""
        return np.stack(self._queries.of(queries))

    def check(self, folder: Path) -> None:
        """Fetches every vector of the segment and compares them with what was saved."""
        remote.check_vectors(folder, self.load(folder))

    def discard(self, folder: Path) -> None:
        """Removes the segment's vectors from the server."""
        remote.discard(folder, self.server)


class RemoteReader:
    """Some segments as they stood at one commit."""

    def __init__(self, segments: Sequence[RemoteSegment], live: NDArray[np.bool_], index: RemoteIndex) -> None:
        self._index = index
        self._parts = [(segment, look_up(live, segment.keys)) for segment in segments if len(segment.keys)]

    def search(self, queries: Sequence[str], k: int, allow: NDArray[np.bool_] | None = None) -> list[Matches]:
        """Raises ``ValueError`` if ``k`` is not positive, ``ServerError``, and ``DamagedIndex`` if a newer commit took a segment away."""
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        found: list[list[Matches]] = [[] for _ in queries]
        if queries and self._parts:
            vectors = self._index.query_vectors(queries)
            stored: list[tuple[str, Keys, NDArray[np.bool_]]] = []
            for segment, live in self._parts:
                allowed = live if allow is None else live & look_up(allow, segment.keys)
                if isinstance(segment.vectors, ServerRows):
                    stored.append((segment.vectors.name, segment.keys, allowed))
                    continue
                for number, (rows, scores) in enumerate(search_exact(segment.vectors, vectors, k, allowed)):
                    found[number].append(Matches(segment.keys[rows], scores))
            selection = _selection(stored)
            if selection is not None:
                for number, matches in enumerate(self._index.server.nearest(vectors, k, selection)):
                    found[number].append(matches)
                for segment, _ in self._parts:
                    segment.check_in_place()
        return [best_of(parts, k) for parts in found]

    def vectors(self, queries: Sequence[str], keys: Sequence[Keys]) -> list[Interaction]:
        """One row per query and one per chunk. Raises ``ValueError`` for a key that is not live, ``ServerError``, ``DamagedIndex``."""
        if not queries:
            return []
        asked = self._index.query_vectors(queries)
        return [Interaction(query[None], rows_of(self._parts, some)) for query, some in zip(asked, keys, strict=True)]


def _selection(stored: Sequence[tuple[str, Keys, NDArray[np.bool_]]]) -> Selection | None:
    """What to ask for, told by the smaller set of keys; ``None`` if nothing may appear."""
    some = [(name, keys, allowed) for name, keys, allowed in stored if allowed.any()]
    if not some:
        return None
    names = [name for name, _, _ in some]
    only = np.concatenate([keys[allowed] for _, keys, allowed in some])
    without = np.concatenate([keys[~allowed] for _, keys, allowed in some])
    if len(without) <= len(only):
        return Selection(names, None, without if len(without) else None)
    return Selection(names, only, None)


def _own(segment: Segment) -> RemoteSegment:
    if not isinstance(segment, RemoteSegment):
        raise TypeError(f"expected a segment whose vectors are on a server, not {type(segment).__name__}")
    return segment
