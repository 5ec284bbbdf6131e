"""The index ``qdrant``: dense vectors on a Qdrant server. Knows Qdrant's points and filters; knows no catalog and no model."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from rag.core import Encoder, Matches
from rag.errors import ConfigError, MissingExtra
from rag.retrievers.remote import Floats, Keys, Selection, refused
from rag.retrievers.remote_index import RemoteIndex

_KEYS_AT_A_TIME = 1_000_000  # 8 MB or so of a request
_MOST_TIES = 1024  # beyond this many chunks with one score, which of them come first is left to the server


class QdrantIndex(RemoteIndex):
    """Finds chunks whose meaning is near the query's, by inner product of ``encoder`` vectors that a Qdrant server keeps and searches.

    ``url``: of the server; ``collection``: where on it, made at the first ingest; several indexes may share one. ``api_key``: best
    written ``${env:NAME}``. ``exact``: score every vector that may appear; otherwise Qdrant decides by the filter between that and a
    walk through its graph with a beam of ``ef_search``. Nothing but vectors, keys and names of segments is sent: no text, no permission.
    Raises ``ConfigError`` for options out of range, ``MissingExtra`` without qdrant-client.
    """

    def __init__(
        self,
        encoder: Encoder,
        url: str = "http://localhost:6333",
        collection: str = "ragstone",
        api_key: str | None = None,
        exact: bool = False,
        ef_search: int = 128,
        timeout_seconds: float = 30.0,
        num_cached_queries: int = 256,
    ) -> None:
        super().__init__(encoder, num_cached_queries)
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"url must be that of a Qdrant server, such as http://localhost:6333, not {url!r}")
        if not collection:
            raise ConfigError("collection must not be empty")
        if ef_search < 1 or not timeout_seconds > 0:
            raise ConfigError(f"ef_search={ef_search}, timeout_seconds={timeout_seconds}: must be above 0")
        self._exact = exact
        self._server = QdrantServer(url, collection, api_key, None if exact else ef_search, timeout_seconds)

    @property
    def server(self) -> QdrantServer:
        return self._server

    @property
    def efforts(self) -> Mapping[str, Sequence[float]]:
        return {} if self._exact else {"ef_search": (16, 32, 64, 128, 256, 512)}


class QdrantServer:
    """One collection: points of one vector and the payload ``{"segment", "key"}``. A ``VectorServer``.

    ``ef_search``: the beam of a graph search, ``None`` for exact ones.
    """

    def __init__(self, url: str, collection: str, api_key: str | None, ef_search: int | None, timeout_seconds: float) -> None:
        self._url, self._collection = url, collection
        self._api_key, self._ef_search, self._timeout_seconds = api_key, ef_search, timeout_seconds
        self._client: Any = None
        self._lock = threading.Lock()

    @contextmanager
    def _asking(self) -> Iterator[tuple[Any, Any]]:
        """The client and its vocabulary; its errors become ours."""
        try:
            from qdrant_client import models
            from qdrant_client.http.exceptions import ApiException
        except ImportError:
            raise MissingExtra("qdrant-client", "qdrant", "the index 'qdrant'") from None
        with self._lock:
            if self._client is None:
                self._client = connect(self._url, self._api_key, self._timeout_seconds)
        try:
            yield self._client, models
        except ApiException as error:
            raise refused(f"Qdrant at {self._url}", error) from error

    def create(self, dim: int) -> None:
        with self._asking() as (client, models):
            if not client.collection_exists(self._collection):
                client.create_collection(
                    self._collection, vectors_config=models.VectorParams(size=dim, distance=models.Distance.DOT)
                )
                client.create_payload_index(self._collection, "segment", models.PayloadSchemaType.KEYWORD)
                client.create_payload_index(self._collection, "key", models.PayloadSchemaType.INTEGER)
            vectors = client.get_collection(self._collection).config.params.vectors
            if getattr(vectors, "size", None) != dim or vectors.distance != models.Distance.DOT:
                raise ConfigError(
                    f"the collection {self._collection!r} of Qdrant at {self._url} is not made for inner products of {dim} numbers; "
                    "name another one with `collection:`"
                )

    def put(self, segment: str, keys: Keys, vectors: Floats) -> None:
        payloads = [{"segment": segment, "key": key} for key in keys.tolist()]
        with self._asking() as (client, models):
            points = models.Batch(ids=_names(segment, keys), vectors=vectors.tolist(), payloads=payloads)
            client.upsert(self._collection, points=points, wait=True)

    def count(self, segment: str) -> int:
        with self._asking() as (client, models):
            if not client.collection_exists(self._collection):
                return 0
            return int(client.count(self._collection, count_filter=_of_segments(models, [segment]), exact=True).count)

    def fetch(self, segment: str, keys: Keys) -> dict[int, Floats]:
        with self._asking() as (client, _):
            names = _names(segment, keys)
            points = client.retrieve(self._collection, ids=names, with_payload=["key"], with_vectors=True, timeout=None)
            return {int(point.payload["key"]): np.array(point.vector, np.float32) for point in points}

    def nearest(self, queries: Floats, k: int, selection: Selection) -> list[Matches]:
        """Asks for more where the last of the ``k`` are as good as the next, so that ties go by key."""
        found: list[Matches | None] = [None] * len(queries)
        limit = k + 1
        while missing := [number for number, matches in enumerate(found) if matches is None]:
            for number, (keys, scores) in zip(missing, self._ask(queries[missing], limit, selection), strict=True):
                if len(keys) < limit or scores[k - 1] > scores[-1] or limit >= k + _MOST_TIES:
                    best = np.lexsort((keys, -scores))[:k]
                    found[number] = Matches(keys[best], scores[best])
            limit = k + min(_MOST_TIES, 8 * (limit - k))
        return [matches for matches in found if matches is not None]

    def _ask(self, queries: Floats, limit: int, selection: Selection) -> list[Matches]:
        with self._asking() as (client, models):
            params = models.SearchParams(exact=True) if self._ef_search is None else models.SearchParams(hnsw_ef=self._ef_search)
            wanted = _of_segments(models, selection.segments, selection.only, selection.without)
            asked = [
                models.QueryRequest(query=query.tolist(), filter=wanted, params=params, limit=limit, with_payload=["key"])
                for query in queries
            ]
            num_keys = max(1, sum(len(keys) for keys in (selection.only, selection.without) if keys is not None))
            at_a_time = max(1, _KEYS_AT_A_TIME // num_keys)  # every query of a request carries the filter
            answers = [
                answer
                for start in range(0, len(asked), at_a_time)
                for answer in client.query_batch_points(self._collection, requests=asked[start : start + at_a_time])
            ]
        return [
            Matches(
                np.array([point.payload["key"] for point in answer.points], np.int64),
                np.array([point.score for point in answer.points], np.float32),
            )
            for answer in answers
        ]

    def drop(self, segment: str) -> None:
        with self._asking() as (client, models):
            if client.collection_exists(self._collection):
                client.delete(
                    self._collection, points_selector=models.FilterSelector(filter=_of_segments(models, [segment])), wait=True
                )


def connect(url: str, api_key: str | None, timeout_seconds: float) -> Any:
    """A client; it connects when it is first asked something."""
    from qdrant_client import QdrantClient

    # `timeout` takes whole seconds; the version check would ask the server before anybody asked us
    return QdrantClient(url, api_key=api_key, timeout=max(1, round(timeout_seconds)), check_compatibility=False)


def _names(segment: str, keys: Keys) -> list[str]:
    """The ids of points: 64 bits of the segment's name, 64 of the key."""
    high = hashlib.blake2b(segment.encode(), digest_size=8).digest()
    return [str(uuid.UUID(bytes=high + key.to_bytes(8, "big"))) for key in keys.tolist()]


def _of_segments(models: Any, segments: Sequence[str], only: Keys | None = None, without: Keys | None = None) -> Any:
    def one_of(name: str, values: list[Any]) -> Any:
        return models.FieldCondition(key=name, match=models.MatchAny(any=values))

    must = [one_of("segment", list(segments))] + ([one_of("key", only.tolist())] if only is not None else [])
    return models.Filter(must=must, must_not=[one_of("key", without.tolist())] if without is not None else None)
