"""What coding cost a segment: recall of its own tokens as queries. Knows original vectors and the finished segment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rag.kernels.crew import Crew
from rag.retrievers.warp.exact import exact_scores
from rag.retrievers.warp.parts import Part
from rag.retrievers.warp.search import Effort, best, scored_lanes, search_segment
from rag.retrievers.warp.segment import Judge, WarpSegment

_NUM_DOCUMENTS, _NUM_QUERIES, _K, _QUERY_TOKENS = 1024, 24, 10, 32


def judge_of(parts: Sequence[Part], effort: Effort, crew: Crew, seed: int) -> Judge:
    """Measures a coded segment of ``parts``: recall@10 among up to 1,024 of its documents, drawn at random.

    A query is up to 32 tokens of such a document; the truth is exact MaxSim with the vectors that were coded. Questions are harder
    than texts, so this tells whether an index is sound rather than how well it will answer.
    """

    def recall(segment: WarpSegment) -> float:
        import torch

        codec = segment.codec
        assert codec is not None
        rng = np.random.default_rng(seed)
        keys = np.sort(rng.permutation(segment.keys)[:_NUM_DOCUMENTS])
        rows = np.searchsorted(segment.keys, keys)
        pieces = {}
        for part in parts:
            for row in np.flatnonzero(np.isin(part.segment.keys[part.rows], keys)):
                own = part.rows[row : row + 1]
                pieces[int(part.segment.keys[own[0]])] = part.segment.originals(own)
        vectors = [pieces[int(key)] for key in keys]
        starts = np.concatenate([[0], np.cumsum([len(some) for some in vectors])])
        joined = np.concatenate(vectors)
        allowed = np.zeros(len(segment.keys), np.bool_)
        allowed[rows] = True
        found = 0.0
        asked = rng.permutation(len(keys))[:_NUM_QUERIES]
        for number in asked.tolist():
            query = np.ascontiguousarray(vectors[number][:_QUERY_TOKENS])
            truth = best(rows, exact_scores(joined, starts, query), _K).rows
            mine = search_segment(
                segment, query, scored_lanes(codec, query, crew, torch.device("cpu")), _K, allowed, effort, crew
            ).rows
            found += len(np.intersect1d(truth, mine)) / len(truth)
        return round(found / len(asked), 4)

    return recall
