"""How much a reranker's result depends on the order in which it is given the hits. Knows rerankers by their protocol only.

A reranker that scores each passage by itself is not moved at all (1.0); one that compares passages in a prompt is, by positions.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from rag.core import Hit, Reranker


def order_sensitivity(reranker: Reranker, query: str, hits: Sequence[Hit], num_shuffles: int = 5, seed: int = 0) -> float:
    """Mean Kendall tau between the results for ``num_shuffles`` shuffles of ``hits``, over all pairs of results; 1 is insensitive.

    Raises ``ValueError`` for fewer than 2 shuffles or hits.
    """
    if num_shuffles < 2 or len(hits) < 2:
        raise ValueError(f"num_shuffles={num_shuffles}, {len(hits)} hits: at least 2 of both are needed to compare orders")
    generator = random.Random(seed)
    results = [
        [hit.chunk.id for hit in reranker.rerank(query, generator.sample(list(hits), len(hits)))] for _ in range(num_shuffles)
    ]
    taus = [kendall_tau(one, other) for one, other in itertools.combinations(results, 2)]
    return sum(taus) / len(taus)


def kendall_tau(one: Sequence[str], other: Sequence[str]) -> float:
    """(Pairs in the same order - pairs in opposite order) / pairs, over what both rankings hold; 1 if that is less than two things.

    Kendall, "A New Measure of Rank Correlation" (Biometrika 1938). Rankings have no ties.
    """
    place = {item: number for number, item in enumerate(other)}
    places = [place[item] for item in one if item in place]
    pairs = list(itertools.combinations(places, 2))
    return sum(1 if a < b else -1 for a, b in pairs) / len(pairs) if pairs else 1.0
