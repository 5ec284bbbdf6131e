"""Late interaction: finds chunks that have, for every token of the query, a token like it. Knows options, segments and filters.

Knows no model (any ``rag.core.MultiVectorEncoder`` will do) and no file. Small segments are plain and searched exactly, larger ones are
coded and searched in two steps (see ``search``). Adding writes a new segment beside the others, coded with their codec; deleting is a
mask; merging copies codes and trains anew only when the codec no longer fits (see ``build``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from re import fullmatch
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rag.core import Chunk, Interaction, KeptInFolder, Matches, MultiVectorEncoder, OnProgress, Segment, digest
from rag.errors import ConfigError, IndexMismatch
from rag.kernels.crew import Crew, num_cores
from rag.kernels.warp_score_codes import BITS
from rag.retrievers.dense_merged import look_up
from rag.retrievers.query_cache import QueryCache
from rag.retrievers.token_pooling import PoolMethod, check_pooling, pool_tokens
from rag.retrievers.warp.build import Plan, joined_segment, plain_segment, stored_segment
from rag.retrievers.warp.judge import judge_of
from rag.retrievers.warp.parts import Part
from rag.retrievers.warp.search import Effort, Found, Lanes, scored_lanes, search_segment
from rag.retrievers.warp.segment import WarpSegment, load_segment

if TYPE_CHECKING:
    import torch


class WarpIndex(KeptInFolder):
    """MaxSim over token vectors, compressed: ``score = sum over query tokens of the largest cosine with a token of the chunk``.

    Storage: ``bits`` (2, 4, 5 or 8) per dimension of a residual; ``dim``: project vectors onto that many principal axes, learnt from the
    first coded segment (``None``: keep all); ``exact_below``: segments of fewer tokens keep their vectors as float16 and are searched
    exactly; ``rescore``: keep the vectors of coded segments too and score that many of the best again exactly (0: do not); ``pool_factor``:
    cluster a chunk's tokens to one in so many (``pool_method``, ``num_protected``: see ``token_pooling``).

    Search: ``confidence``: standard deviations of doubt before candidates are no longer looked at (more: better recall, slower);
    ``most_candidates``: never score more; ``num_probes``: centroids per query token in segments above ``probe_above_runs`` (below,
    all documents are read); ``num_threads``: 0 means one per core; ``device``: ``cpu``, or a GPU (``cuda``) that holds a copy of
    the codes of every coded segment and looks at ``most_candidates`` at once. ``seed``: of training. Raises ``ConfigError`` for options out of range.
    """

    def __init__(
        self,
        token_encoder: MultiVectorEncoder,
        bits: int = 4,
        dim: int | None = None,
        exact_below: int = 16_384,
        rescore: int = 0,
        pool_factor: int = 1,
        pool_method: PoolMethod = "ward",
        num_protected: int = 0,
        confidence: float = 3.5,
        most_candidates: int = 4096,
        num_probes: int = 128,
        probe_above_runs: int = 15_000_000,
        num_threads: int = 0,
        device: str = "cpu",
        num_cached_queries: int = 256,
        seed: int = 0,
    ) -> None:
        if bits not in BITS:
            raise ConfigError(f"bits must be one of {', '.join(map(str, BITS))}, not {bits!r}")
        if dim is not None and dim < 1:
            raise ConfigError(f"dim must be at least 1 (or null), not {dim}")
        if not confidence >= 0:
            raise ConfigError(f"confidence must be at least 0, not {confidence}")
        for name, value, least in (
            ("exact_below", exact_below, 0), ("rescore", rescore, 0), ("most_candidates", most_candidates, 1),
            ("num_probes", num_probes, 1), ("probe_above_runs", probe_above_runs, 0), ("num_threads", num_threads, 0),
            ("num_cached_queries", num_cached_queries, 0), ("seed", seed, 0),
        ):  # fmt: skip
            if value < least:
                raise ConfigError(f"{name} must be at least {least}, not {value}")
        if not fullmatch(r"cpu|cuda(:\d+)?", device):
            raise ConfigError(f"device must be cpu, cuda or cuda:NUMBER, not {device!r}")
        check_pooling(pool_factor, pool_method, num_protected)
        self.token_encoder = token_encoder
        self.pool_factor = pool_factor
        self.pool_method: PoolMethod = pool_method
        self.num_protected = num_protected
        self.plan = Plan(bits, dim, exact_below, rescore > 0, seed)
        self.effort = Effort(confidence, 128, most_candidates, num_probes, probe_above_runs, rescore)
        self.crew = Crew(num_threads or num_cores())
        self._device = device
        self._queries = QueryCache(token_encoder.encode_queries, num_cached_queries)

    @property
    def fingerprint(self) -> str:
        pooling = [str(self.pool_factor), self.pool_method, str(self.num_protected)] if self.pool_factor > 1 else []
        return digest("warp", self.token_encoder.fingerprint, "vectors" if self.plan.keep_vectors else "codes", *pooling)

    @cached_property
    def device(self) -> torch.device:
        """Where coded segments are searched. Raises ``ConfigError`` if it is a GPU that is not there."""
        import torch

        if self._device != "cpu" and not torch.cuda.is_available():
            raise ConfigError(f"device is {self._device!r}, but torch sees no GPU here; cpu works everywhere")
        return torch.device(self._device)

    @property
    def reads_documents(self) -> bool:
        return False

    @property
    def trains(self) -> bool:
        return True

    @property
    def efforts(self) -> Mapping[str, Sequence[float]]:
        return {"confidence": (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0)}

    def build(
        self,
        keys: NDArray[np.int64],
        chunks: Sequence[Chunk],
        texts: Mapping[str, str] | None = None,
        beside: Sequence[Segment] = (),
    ) -> WarpSegment:
        """Encodes ``chunk.indexed_text``. Raises ``ValueError`` unless there is one key per chunk and the keys ascend, and for token
        vectors that are no vectors (not finite, of length 0, of another width), naming the chunk.
        """
        keys = np.array(keys, np.int64)
        if keys.shape != (len(chunks),) or (len(keys) > 1 and not np.all(keys[1:] > keys[:-1])):
            raise ValueError(f"{len(chunks)} chunks need as many ascending keys, not {keys.shape} {keys[:5]}...")
        vectors = self.token_encoder.encode_documents([chunk.indexed_text for chunk in chunks])
        for chunk, some in zip(chunks, vectors, strict=True):
            check_vectors(some, self.token_encoder.dim, f"chunk {chunk.id!r}")
        return self.build_vectors(keys, vectors, beside)

    def build_vectors(
        self, keys: NDArray[np.int64], vectors: Sequence[NDArray[np.float32]], beside: Sequence[Segment] = ()
    ) -> WarpSegment:
        """A segment of ready-made token vectors ``(tokens, dim)``, one array per key; ``build`` without an encoder."""
        if self.pool_factor > 1:
            vectors = pool_tokens(vectors, self.pool_factor, self.pool_method, self.num_protected, self.crew.num_threads)
        return self._built(plain_segment(keys, vectors, self.token_encoder.dim, self.fingerprint), beside)

    def build_stored(
        self,
        keys: NDArray[np.int64],
        token_starts: NDArray[np.int64],
        vectors: NDArray[np.float16],
        beside: Sequence[Segment] = (),
        on_progress: OnProgress | None = None,
    ) -> WarpSegment:
        """A segment of token vectors that stand ready, ``(tokens, dim)``, those of ``keys[i]`` from ``token_starts[i]`` to ``token_starts[i + 1]``.

        A mapped file is read block by block when the segment is saved, and never held in memory as a whole. Raises ``ValueError`` for
        shapes that do not fit, a document without tokens, and options that pool: clusters are found in ``build_vectors``.
        """
        if self.pool_factor > 1:
            raise ValueError(f"stored vectors are taken as they are; pool_factor is {self.pool_factor}")
        return self._built(
            stored_segment(keys, token_starts, vectors, self.token_encoder.dim, self.fingerprint), beside, on_progress
        )

    def _built(self, plain: WarpSegment, beside: Sequence[Segment], on_progress: OnProgress | None = None) -> WarpSegment:
        if plain.num_tokens < max(self.plan.exact_below, 1):
            return plain
        return self._join([Part(plain, np.arange(len(plain.keys)))], [_own(segment) for segment in beside], on_progress)

    def load(self, folder: Path) -> WarpSegment:
        """Raises ``DamagedIndex`` if the files do not fit together, ``IndexMismatch`` if another encoder or another version made them."""
        return load_segment(folder, self.fingerprint)

    def merge(
        self,
        segments: Sequence[Segment],
        live: NDArray[np.bool_],
        beside: Sequence[Segment] = (),
        on_progress: OnProgress | None = None,
    ) -> WarpSegment:
        """Reads nothing before the result is saved or searched, and then block by block; encodes no text again."""
        own = [_own(segment) for segment in segments]
        parts = [Part(segment, np.flatnonzero(look_up(live, segment.keys))) for segment in own]
        return self._join(parts, [_own(segment) for segment in beside], on_progress)

    def _join(self, parts: Sequence[Part], beside: Sequence[WarpSegment], on_progress: OnProgress | None = None) -> WarpSegment:
        parts = [part for part in parts if len(part.rows)]
        judge = judge_of(parts, self.effort, self.crew, self.plan.seed)
        return joined_segment(parts, beside, self.plan, self.fingerprint, self.token_encoder.dim, judge, self.crew, on_progress)

    def reader(self, segments: Sequence[Segment], live: NDArray[np.bool_]) -> WarpReader:
        own = [_own(segment) for segment in segments]
        for segment in own:
            if segment.fingerprint != self.fingerprint:
                raise IndexMismatch("a segment holds vectors of another token encoder")
        return WarpReader(own, live, self)

    def query_vectors(self, queries: Sequence[str]) -> list[NDArray[np.float32]]:
        """``(tokens, dim)`` per query. Raises ``ValueError`` for what is no vector."""
        found = self._queries.of(queries)
        for query, vectors in zip(queries, found, strict=True):
            check_vectors(vectors, self.token_encoder.dim, f"query {query[:60]!r}")
        return found


class WarpReader:
    """Some segments as they stood at one commit. Safe to search from many threads at once."""

    def __init__(self, segments: Sequence[WarpSegment], live: NDArray[np.bool_], index: WarpIndex) -> None:
        self._index = index
        self._parts = []
        for segment in segments:
            alive = look_up(live, segment.keys)
            if alive.any():
                self._parts.append((segment, None if alive.all() else alive))

    @property
    def effort(self) -> Effort:
        """How much its searches look at."""
        return self._index.effort

    def search(self, queries: Sequence[str], k: int, allow: NDArray[np.bool_] | None = None) -> list[Matches]:
        """Raises ``ValueError`` if ``k`` is not positive."""
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        vectors = self._index.query_vectors(queries) if queries and self._parts else [np.empty((0, 0), np.float32)] * len(queries)
        return self.search_vectors(vectors, k, allow)

    def search_vectors(
        self, queries: Sequence[NDArray[np.float32]], k: int, allow: NDArray[np.bool_] | None = None
    ) -> list[Matches]:
        """``search`` for ready-made query vectors ``(tokens, dim)``."""
        masks = [alive if allow is None else _both(alive, look_up(allow, segment.keys)) for segment, alive in self._parts]
        return [self._search(query, k, masks) for query in queries]

    def vectors(self, queries: Sequence[str], keys: Sequence[NDArray[np.int64]]) -> list[Interaction]:
        """The token vectors as they were encoded, or as near as the codes come, then in the codec's space.

        Raises ``ValueError`` for a key that is not live.
        """
        if not queries:
            return []
        asked = self._index.query_vectors(queries)
        return [Interaction(query, *self._vectors(np.asarray(some, np.int64))) for query, some in zip(asked, keys, strict=True)]

    def _vectors(self, keys: NDArray[np.int64]) -> tuple[list[NDArray[np.float32]], NDArray[np.float32] | None]:
        """Token vectors per key and the basis of their space: the codec's where one codec holds them all, else the encoder's.

        Turning millions of numbers back costs more than turning a query.
        """
        places = [self._place(int(key)) for key in keys]
        codecs = {None if segment.codec is None or segment.vectors is not None else segment.codec.name for segment, _ in places}
        held = next(iter(codecs), None) if len(codecs) == 1 else None
        found: list[NDArray[np.float32]] = [np.empty((0, 0), np.float32)] * len(keys)
        for segment in {id(segment): segment for segment, _ in places}.values():
            own = sorted((row, number) for number, (other, row) in enumerate(places) if other is segment)
            rows = np.array([row for row, _ in own])
            vectors = segment.originals(rows) if held is None else segment.decoded(rows)
            ends = np.cumsum(np.diff(segment.token_starts)[rows])
            for (_, number), some in zip(own, np.split(vectors, ends[:-1]), strict=True):
                found[number] = some
        return found, None if held is None else places[0][0].codec.basis  # type: ignore[union-attr]

    def _place(self, key: int) -> tuple[WarpSegment, int]:
        for segment, alive in self._parts:
            row = int(np.searchsorted(segment.keys, key))
            if row < len(segment.keys) and segment.keys[row] == key and (alive is None or alive[row]):
                return segment, row
        raise ValueError(f"there is no live chunk with the key {key}")

    def _search(self, query: NDArray[np.float32], k: int, masks: Sequence[NDArray[np.bool_] | None]) -> Matches:
        index = self._index
        lanes: dict[str, list[Lanes]] = {}
        found: list[tuple[WarpSegment, Found]] = []
        for (segment, _), mask in zip(self._parts, masks, strict=True):
            codec = segment.codec
            if codec is not None and codec.name not in lanes:
                lanes[codec.name] = scored_lanes(codec, query, index.crew, index.device)
            own = lanes[codec.name] if codec is not None else []
            found.append((segment, search_segment(segment, query, own, k, mask, index.effort, index.crew)))
        keys = np.concatenate([np.empty(0, np.int64), *(segment.keys[some.rows] for segment, some in found)])
        scores = np.concatenate([np.empty(0, np.float32), *(some.scores for _, some in found)])
        order = np.lexsort((keys, -scores))[:k]
        return Matches(keys[order], scores[order])


def check_vectors(vectors: NDArray[np.float32], dim: int, what: str) -> None:
    """Raises ``ValueError`` that names ``what`` unless these are ``(tokens, dim)`` finite vectors, none of length 0, at least one."""
    if vectors.ndim != 2 or vectors.shape[1] != dim or not len(vectors):
        raise ValueError(f"{what}: token vectors must have the shape (tokens, {dim}) with at least one token, not {vectors.shape}")
    squares = np.einsum("ij,ij->i", vectors, vectors)
    if not np.isfinite(squares).all():
        raise ValueError(f"{what}: token {int(np.flatnonzero(~np.isfinite(squares))[0])} has a vector that is not finite")
    if not squares.all():
        raise ValueError(f"{what}: token {int(np.flatnonzero(squares == 0)[0])} has a vector of length 0")


def _both(alive: NDArray[np.bool_] | None, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return allowed if alive is None else alive & allowed


def _own(segment: Segment) -> WarpSegment:
    if not isinstance(segment, WarpSegment):
        raise TypeError(f"WarpIndex reads its own segments, not {type(segment).__name__}")
    return segment
