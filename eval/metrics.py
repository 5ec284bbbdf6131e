"""Ranking measures per query. Knows rankings of names and judgements of names; knows no index, no chunk and no text.

The sums are ir-measures' (trec_eval's nDCG and recall, MS MARCO's reciprocal rank), so that the numbers compare with
those of others. Those programs order a ranking by score and break ties in their own way; here a ranking is a list, and
each place gets a score of its own, so there is nothing to break.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rag.errors import MissingExtra

MEASURES: Mapping[str, tuple[str, int]] = {
    "nDCG@10": ("nDCG", 10),
    "recall@10": ("R", 10),
    "recall@100": ("R", 100),
    "MRR@10": ("RR", 10),
}
"""Name in reports -> name in ir-measures and the depth it looks at. The gain of nDCG is the judgement itself."""

MAIN = "nDCG@10"
"""The measure that a report puts first."""

Qrels = Mapping[str, Mapping[str, int]]
"""Query id -> document id -> judgement; above 0 is relevant."""


def measurable(k: int) -> list[str]:
    """The measures that a ranking of ``k`` places can be judged by. Raises ``ValueError`` if there are none."""
    names = [name for name, (_, depth) in MEASURES.items() if depth <= k]
    if not names:
        least = min(depth for _, depth in MEASURES.values())
        raise ValueError(f"k is {k}, but the shallowest measure looks at {least} places; allowed: {least} or more")
    return names


def per_query(
    rankings: Mapping[str, Sequence[str]], qrels: Qrels, measures: Sequence[str] = tuple(MEASURES)
) -> dict[str, dict[str, float]]:
    """Measure -> query id -> value, for every query of ``qrels``, in its order; a query that has no ranking scores 0.

    ``rankings``: query id -> document ids, best first. Raises ``ValueError`` for an unknown measure and for a document
    that stands in one ranking twice, and ``rag.errors.MissingExtra`` without ir-measures.
    """
    if unknown := [name for name in measures if name not in MEASURES]:
        raise ValueError(f"unknown measure {unknown[0]!r}; allowed: {', '.join(MEASURES)}")
    run = {query: _strict_scores(query, documents) for query, documents in rankings.items() if query in qrels}
    ir_measures = _ir_measures()
    names = {getattr(ir_measures, MEASURES[name][0]) @ MEASURES[name][1]: name for name in measures}
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(qrels, 0.0) for name in measures}
    for metric in ir_measures.iter_calc(list(names), {query: dict(judged) for query, judged in qrels.items()}, run):
        values[names[metric.measure]][metric.query_id] = float(metric.value)
    return values


def _strict_scores(query: str, documents: Sequence[str]) -> dict[str, float]:
    scores = {name: float(len(documents) - place) for place, name in enumerate(documents)}
    if len(scores) != len(documents):
        twice = next(name for place, name in enumerate(documents) if name in documents[:place])
        raise ValueError(f"document {twice!r} stands twice in the ranking of query {query!r}")
    return scores


def _ir_measures() -> Any:
    try:
        import ir_measures
        import pytrec_eval  # noqa: F401  # without it ir-measures falls back to slower sums or fails late
    except ImportError:
        raise MissingExtra("ir-measures", "eval", "measuring a ranking") from None
    return ir_measures
