"""Fusion by guided query refinement. Knows rankings and asks indexes for vectors; knows no model and no text.

The other fusions add up what retrievers say. This one lets one retriever's scores teach the other's query, and then asks that query
alone, which also orders chunks that neither had ranked well. See ``refine`` for the method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rag.core import Hit, Interaction, VectorsOf, rescored
from rag.errors import ConfigError, NoVectors
from rag.retrievers.fuse import STAGE, merged
from rag.retrievers.refine import Candidates, Floats, refined, softmax

Scale = Literal["deviation", "none"]


class GuidedQueryRefinement:
    """The query of ``primary`` moved towards what ``complement`` thinks (GQR, arXiv 2510.05038), and all hits scored by it.

    ``primary``: an index that keeps vectors, one or many per chunk. ``complement``: any other index. The best ``candidates`` of both
    guide ``steps`` steps of Adam with ``learning_rate``; then every chunk that any index found is scored by the moved query from its
    vectors, whoever found it. A candidate that the complement did not find gets the score that the complement's own vectors give;
    if it keeps none (BM25), the lowest score it gave: a chunk past the end scored at most as much as the last one seen. If the
    complement found nothing, the query stays as it is.

    How far the query moves is ``steps x learning_rate``: 10 steps of 1e-3 and 50 of 2e-4 gave the same nDCG@10 to three digits.
    ``temperature`` divides the scores before each softmax. ``scale="deviation"`` (ours) counts it in standard deviations of the
    candidates' scores, each retriever's own, because BM25 has no upper end and cosines differ in the second digit; ``"none"`` takes
    the scores as they are, as published. Raises ``ConfigError`` for options out of range, and in ``fuse`` for an index that is not
    there or a ``primary`` without vectors.
    """

    reads_vectors = True

    def __init__(
        self,
        primary: str = "dense",
        complement: str = "sparse",
        steps: int = 10,
        learning_rate: float = 1e-3,
        candidates: int = 100,
        temperature: float = 2.0,
        scale: Scale = "deviation",
    ) -> None:
        if primary == complement:
            raise ConfigError(f"primary and complement must be two indexes, both are {primary!r}")
        for name, count, least in (("steps", steps, 0), ("candidates", candidates, 1)):
            if count < least:
                raise ConfigError(f"{name} must be at least {least}, not {count}")
        for name, number in (("learning_rate", learning_rate), ("temperature", temperature)):
            if not (math.isfinite(number) and number > 0):
                raise ConfigError(f"{name} must be a number above 0, not {number}")
        if scale not in get_args(Scale):
            raise ConfigError(f"scale {scale!r} is not one of {', '.join(get_args(Scale))}")
        self.primary = primary
        self.complement = complement
        self.steps = steps
        self.learning_rate = learning_rate
        self.num_candidates = candidates
        self.temperature = temperature
        self.scale: Scale = scale

    def fuse(self, rankings: Mapping[str, Sequence[Hit]], vectors: VectorsOf) -> list[Hit]:
        for option, name in (("primary", self.primary), ("complement", self.complement)):
            if name not in rankings:
                raise ConfigError(f"{option} names the unknown index {name!r}; allowed: {', '.join(rankings) or 'none'}")
        heads = [rankings[name][: self.num_candidates] for name in (self.primary, self.complement)]
        chosen = {hit.chunk.id for head in heads for hit in head}
        # The candidates first, then what was found besides: both are scored, only the former guide.
        hits = sorted(merged(rankings), key=lambda hit: hit.chunk.id not in chosen)
        query, chunks, basis = self._primary_vectors(rankings, vectors, hits)
        if not hits:
            return []
        found = Candidates(chunks, basis)
        if heads[1]:
            own = found.first(len(chosen))
            guide = self._softened(self._opinion(hits[: len(chosen)], rankings[self.complement], vectors))
            temperature = self.temperature * self._unit(own.scores(query))
            query = refined(query, own, softmax(guide), steps=self.steps, learning_rate=self.learning_rate, temperature=temperature)
        return rescored(STAGE, zip(hits, found.scores(query).tolist(), strict=True))

    def _primary_vectors(self, rankings: Mapping[str, Sequence[Hit]], vectors: VectorsOf, hits: Sequence[Hit]) -> Interaction:
        try:
            return vectors(self.primary, hits)
        except NoVectors as error:
            able = [name for name in rankings if name != self.primary and _keeps_vectors(name, vectors)]
            allowed = ", ".join(able) or f"none of {', '.join(rankings)}"
            raise ConfigError(f"primary: the index {self.primary!r} ({error.use}) keeps no vectors; allowed: {allowed}") from error

    def _opinion(self, hits: Sequence[Hit], ranking: Sequence[Hit], vectors: VectorsOf) -> NDArray[np.float64]:
        """The complement's score of each of ``hits``."""
        told = {hit.chunk.id: hit.score for hit in ranking}
        missing = [hit for hit in hits if hit.chunk.id not in told]
        try:
            query, chunks, basis = vectors(self.complement, missing)
            found = Candidates(chunks, basis).scores(query).tolist() if missing else []
        except NoVectors:
            found = [min(told.values())] * len(missing)
        told.update(zip((hit.chunk.id for hit in missing), found, strict=True))
        return np.array([told[hit.chunk.id] for hit in hits])

    def _softened(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return scores / (self.temperature * self._unit(scores))

    def _unit(self, scores: Floats) -> float:
        deviation = float(scores.std())
        return deviation if self.scale == "deviation" and deviation > 0 else 1.0


def _keeps_vectors(name: str, vectors: VectorsOf) -> bool:
    try:
        vectors(name, [])
    except NoVectors:
        return False
    return True
