"""One ranking per index for some queries, all of one commit. Knows the catalog and the readers; fuses and reranks nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rag.catalog import Catalog
from rag.catalog_read import Read
from rag.core import Chunk, Hit, Index, Interaction, Reader
from rag.errors import ConfigError, DamagedIndex
from rag.filter import Filter
from rag.segments import SegmentStore
from rag.snapshot import Snapshot, take

Rankings = list[tuple[str, list[list[Hit]], float]]
"""(index name, hits per query, seconds) of each index."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What the indexes found for ``queries``, with the readers that found it: one commit, whatever is written meanwhile.

    ``keys``: chunk id -> key of every chunk that was found.
    """

    queries: Sequence[str]
    rankings: Rankings
    readers: Mapping[str, Reader]
    keys: Mapping[str, int]

    def of(self, number: int) -> dict[str, list[Hit]]:
        """Index name -> hits of query ``number``."""
        return {name: batch[number] for name, batch, _ in self.rankings}

    def vectors_of(self, number: int) -> QueryVectors:
        """What a fusion may ask of the indexes about query ``number``."""
        return QueryVectors(self.queries[number], self.readers, self.keys)


@dataclass(frozen=True, slots=True)
class QueryVectors:
    """``query`` and chunks as an index compares them; ``keys``: chunk id -> key of every chunk that may be asked for."""

    query: str
    readers: Mapping[str, Reader]
    keys: Mapping[str, int]

    def __call__(self, index: str, hits: Sequence[Hit]) -> Interaction:
        """The query and the chunks of ``hits``, whichever index found them.

        Raises ``NoVectors`` if that index has none, ``ConfigError`` for an unknown index.
        """
        if index not in self.readers:
            raise ConfigError(f"there is no index {index!r}; allowed: {', '.join(self.readers)}")
        import numpy as np

        keys = np.array([self.keys[hit.chunk.id] for hit in hits], np.int64)
        (found,) = self.readers[index].vectors([self.query], [keys])
        return found


class Retrieval:
    """Keeps the readers of the last commit it saw. Safe to use from several threads."""

    def __init__(self, store: SegmentStore) -> None:
        self._store = store
        self._snapshot: Snapshot | None = None
        self._lock = threading.Lock()

    def search(
        self,
        catalog: Catalog,
        indexes: Mapping[str, Index],
        queries: Sequence[str],
        k: int,
        expression: Filter | None,
        principals: Sequence[str],
        rankings: Rankings,
    ) -> Retrieved:
        """At most ``k`` hits per query and index, among the chunks that pass the filter and that ``principals`` may read.

        ``rankings``: an empty list to fill in: it tells how far the search came if an index raises. Raises ``DamagedIndex`` or ``IndexMismatch``.
        """
        try:
            return self._search(catalog, indexes, queries, k, expression, principals, rankings)
        except DamagedIndex:
            with catalog.reading() as read:
                same_commit = self._snapshot is not None and self._snapshot.generation == read.generation
            if same_commit:
                raise
            # A compaction in another process took the files of the commit that was being read: the next one has others.
            rankings.clear()
            return self._search(catalog, indexes, queries, k, expression, principals, rankings)

    def _search(
        self,
        catalog: Catalog,
        indexes: Mapping[str, Index],
        queries: Sequence[str],
        k: int,
        expression: Filter | None,
        principals: Sequence[str],
        rankings: Rankings,
    ) -> Retrieved:
        keys: dict[str, int] = {}
        with catalog.reading() as read:  # one transaction over search and hydration: no other commit comes between
            snapshot = self._current(read, indexes)
            allow = snapshot.allow(read, principals, expression)
            for name, reader in snapshot.readers.items():
                started = time.perf_counter()
                found = reader.search(queries, k, allow)
                chunks = read.chunks(sorted({int(key) for matches in found for key in matches.keys}))
                keys.update({chunk.id: key for key, chunk in chunks.items()})
                if not snapshot.only_public:
                    _check_readers(catalog, read, chunks.values(), principals)
                batch = []
                for matches in found:
                    pairs = zip(matches.keys.tolist(), matches.scores.tolist(), strict=True)
                    hits = [Hit(chunks[key], score) for key, score in pairs if key in chunks]
                    batch.append([hit.placed(name, hit.score, rank) for rank, hit in enumerate(hits, start=1)])
                rankings.append((name, batch, time.perf_counter() - started))
        return Retrieved(queries, rankings, snapshot.readers, keys)

    def _current(self, read: Read, indexes: Mapping[str, Index]) -> Snapshot:
        with self._lock:
            if self._snapshot is None or self._snapshot.generation != read.generation:
                self._snapshot = take(read, self._store, indexes)
            return self._snapshot


def _check_readers(catalog: Catalog, read: Read, chunks: Iterable[Chunk], principals: Sequence[str]) -> None:
    """Second lock on the door: what was found is compared with the sealed rows, not with the index that found it."""
    for row in read.documents(sorted({chunk.doc_id for chunk in chunks})):
        if not set(row.principals) & set(principals):
            raise DamagedIndex(catalog.path, f"the permissions of {row.source!r} have changed")
