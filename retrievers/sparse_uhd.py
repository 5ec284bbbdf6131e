"""Text -> a very wide binary code from the token vectors of a dense encoder. Knows projections and winners; knows no index.

The shape is that of UHD (arXiv 2104.07198): each token vector is projected to a very wide layer, cut into buckets; in each bucket the
winner takes all, and a text has the winners of all its tokens. There the projection is trained and the buckets are layers of BERT;
here nothing is trained: the buckets are random projections of the last layer and the winner is the direction, of either sign, nearest
to the vector (the cross-polytope hash of arXiv 1509.02897). Two tokens share a term the likelier the smaller their angle.

What it is worth (nDCG@10, bench/learned_sparse.py, with the embedded encoder; BM25 and that encoder's one vector per text in brackets):
.740 on the Anthropic documentation questions (.751, .683), .761 on MTRAG (.800, .766), .981 on PubMedQA (.978, .985). So it is never
the best of the three; it gains on one vector where texts are longer than the encoder reads at once, and writes some two thousand
postings per text. It needs no download and finds meaning with posting lists alone. A trained SPLADE model is the better choice where
one can be had.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from rag.core import SparseVectors, TokenEncoder, digest
from rag.errors import ConfigError
from rag.retrievers.posting_merge import starts_of

_VERSION = 1
_MOST_TERMS = 1 << 31


class UhdEncoder:
    """Binary codes of ``num_buckets * width`` terms from the token vectors of ``encoder``. A ``rag.core.SparseEncoder``.

    Every token gives one term per bucket. All terms of a document weigh ``1 / sqrt(number of its terms)``, so that long texts do not win
    by their length (without it, nDCG@10 fell from .72 to .13 on the set with the longest texts); terms of a query weigh 1.
    ``overlap_tokens``: of the windows in which long texts are read. More buckets cost time and postings and bring a little; a wider
    bucket makes a match rarer. Raises ``ConfigError`` for options out of range or an encoder without token vectors.
    """

    def __init__(self, encoder: TokenEncoder, num_buckets: int = 16, width: int = 1024, overlap_tokens: int = 32) -> None:
        if not isinstance(encoder, TokenEncoder):
            raise ConfigError(f"the sparse encoder 'uhd' needs an encoder with token vectors; {type(encoder).__name__} has none")
        if num_buckets < 1:
            raise ConfigError(f"num_buckets must be at least 1, not {num_buckets}")
        if width < 2 or width % 2:
            raise ConfigError(f"width must be an even number of at least 2, not {width}")
        if num_buckets * width >= _MOST_TERMS:
            raise ConfigError(f"num_buckets * width must be below {_MOST_TERMS}, not {num_buckets * width}")
        if overlap_tokens < 0:
            raise ConfigError(f"overlap_tokens must be at least 0, not {overlap_tokens}")
        self.encoder = encoder
        self.num_buckets = num_buckets
        self.width = width
        self.overlap_tokens = overlap_tokens

    @property
    def num_terms(self) -> int:
        return self.num_buckets * self.width

    @property
    def binary(self) -> bool:
        return True

    @property
    def fingerprint(self) -> str:
        options = (_VERSION, self.num_buckets, self.width, self.overlap_tokens)
        return digest("uhd", self.encoder.fingerprint, *map(str, options))

    def encode_documents(self, texts: Sequence[str]) -> SparseVectors:
        found = self._codes(texts)
        sizes = np.diff(found.starts)
        return found._replace(weights=np.repeat(1 / np.sqrt(np.maximum(sizes, 1)), sizes).astype(np.float32))

    def encode_queries(self, texts: Sequence[str]) -> SparseVectors:
        return self._codes(texts)

    def _codes(self, texts: Sequence[str]) -> SparseVectors:
        found: list[list[NDArray[np.int32]]] = [[] for _ in texts]
        for row, _, vectors in self.encoder.token_vectors(list(texts), self.overlap_tokens):
            if len(vectors):
                found[row].append(np.unique(self.winners(vectors)))
        rows = [np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int32) for parts in found]
        starts = starts_of(np.array([len(row) for row in rows], np.int64))
        return SparseVectors(starts, np.concatenate([np.zeros(0, np.int32), *rows]), np.ones(int(starts[-1]), np.float32))

    def winners(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """The winning term of each vector ``(tokens, dim)`` in each bucket, ``(tokens, buckets)``: direction ``d`` of a bucket is its
        term ``2 d``, and ``2 d + 1`` where the vector points against it.
        """
        near = (vectors @ self._directions).reshape(len(vectors), self.num_buckets, self.width // 2)
        best = np.abs(near).argmax(axis=2)
        against = np.take_along_axis(near, best[:, :, None], axis=2)[:, :, 0] < 0
        terms: NDArray[np.int32] = (np.arange(self.num_buckets) * self.width + 2 * best + against).astype(np.int32)
        return terms

    @cached_property
    def _directions(self) -> NDArray[np.float32]:
        """Unit vectors, ``(dim, buckets * width / 2)``; RandomState's numbers are the same in every version of numpy."""
        drawn = np.random.RandomState(0).standard_normal((self.encoder.dim, self.num_terms // 2))
        return np.ascontiguousarray(drawn / np.linalg.norm(drawn, axis=0), np.float32)
