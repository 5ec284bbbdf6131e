"""Compares the token vectors of query and passage (late interaction). Knows a multi-vector encoder, no index and no corpus."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rag.core import Hit, MultiVectorEncoder, reordered
from rag.errors import ModelError
from rag.rerankers.report import ReportingReranker, Reranked, RerankReport, at_least


class MaxSimReranker(ReportingReranker):
    """Orders hits by the mean over query tokens of the largest cosine with any token of the passage, -1 to 1.

    Khattab and Zaharia, ColBERT (SIGIR 2020); the sum is divided by the number of query tokens, so that scores of queries of any length
    compare. Takes candidates of any index, with or without token vectors of its own. ``weight``: below 1 the score is
    ``weight * own + (1 - weight) * incoming``, both stretched to 0..1 over the candidates. ``batch_size``: passages encoded at a
    time; only their scores are kept.
    """

    stage: ClassVar[str] = "maxsim"

    def __init__(self, token_encoder: MultiVectorEncoder, weight: float = 1.0, batch_size: int = 32) -> None:
        if not 0.0 < weight <= 1.0:
            raise ValueError(f"weight={weight}: must be above 0 and at most 1")
        at_least(1, batch_size=batch_size)
        self.token_encoder = token_encoder
        self.weight = weight
        self.batch_size = batch_size

    def rerank_with_report(self, query: str, hits: Sequence[Hit]) -> Reranked:
        """All hits, best first. In the report, calls are the encoder's and tokens are vectors, those of the query among them."""
        if not hits:
            return Reranked([], RerankReport())
        started = time.perf_counter()
        (asked,) = self.token_encoder.encode_queries([query])
        num_vectors = len(asked)
        own: list[float] = []
        for start in range(0, len(hits), self.batch_size):
            texts = [hit.chunk.indexed_text for hit in hits[start : start + self.batch_size]]
            vectors = self.token_encoder.encode_documents(texts)
            num_vectors += sum(map(len, vectors))
            own += (summed_maxima(asked, vectors) / len(asked)).tolist()
        if not np.isfinite(own).all():
            raise ModelError("the token encoder gives vectors that are not finite: are its weights damaged?")
        ranked = reordered(self.stage, zip(hits, self._blended(own, hits), strict=True))
        num_calls = 1 + -(-len(hits) // self.batch_size)
        seconds = time.perf_counter() - started
        return Reranked(
            ranked, RerankReport(num_calls=num_calls, num_prompts=1 + len(hits), prompt_tokens=num_vectors, seconds=seconds)
        )

    def _blended(self, own: list[float], hits: Sequence[Hit]) -> list[float]:
        if self.weight == 1.0:
            return own
        incoming = stretched([hit.score for hit in hits])
        return [self.weight * a + (1 - self.weight) * b for a, b in zip(stretched(own), incoming, strict=True)]


def summed_maxima(query: NDArray[np.float32], passages: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """MaxSim of ``(query tokens, dim)`` with each of some passages ``(passage tokens, dim)``, ``(passages,)``; all have rows."""
    sums: NDArray[np.float32] = token_maxima(query, passages).sum(0, dtype=np.float32)
    return sums


def token_maxima(query: NDArray[np.float32], passages: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Of every token of a query the largest product with any token of each passage, ``(query tokens, passages)``."""
    import torch

    from rag.kernels.maxsim import maxsim

    borders = torch.from_numpy(np.cumsum([0, *map(len, passages)]))
    tokens = torch.from_numpy(np.concatenate(passages).astype(np.float32, copy=False))
    asked = torch.from_numpy(np.require(query, np.float32, "W"))  # torch warns of arrays that it may not write to
    found: NDArray[np.float32] = maxsim(asked, torch.arange(len(query) + 1), tokens, borders).numpy()
    return found


def stretched(values: Sequence[float]) -> list[float]:
    """``values`` moved and scaled to 0..1; all 0 if they are equal.

    >>> stretched([2.0, 4.0, 3.0])
    [0.0, 1.0, 0.5]
    """
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]
