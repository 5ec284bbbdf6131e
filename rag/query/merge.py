"""One ranking of the rankings of several queries. Knows hits and ranks; knows no index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rag.core import Hit, rescored

K = 60
"""Reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009): how little the first places count more than later ones."""


def merged(stage: str, rankings: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Every chunk of any ranking once, by ``sum 1 / (60 + rank)``; equal sums keep the order of chunk ids.

    One ranking stays as it is, scores included: there is nothing to merge.
    """
    if len(rankings) == 1:
        return list(rankings[0])
    first: dict[str, Hit] = {}
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, hit in enumerate(ranking, start=1):
            first.setdefault(hit.chunk.id, hit)
            scores[hit.chunk.id] = scores.get(hit.chunk.id, 0.0) + 1.0 / (K + rank)
    return rescored(stage, ((hit, scores[name]) for name, hit in first.items()))


def interleaved(rankings: Sequence[Sequence[Hit]]) -> list[Hit]:
    """Every chunk once: the first of each ranking, then the second of each, and so on. Scores stay those of the search."""
    found: dict[str, Hit] = {}
    for place in range(max(map(len, rankings), default=0)):
        for ranking in rankings:
            if place < len(ranking):
                found.setdefault(ranking[place].chunk.id, ranking[place])
    return list(found.values())


def distinct(queries: Iterable[str]) -> list[str]:
    """The queries without blank ones and repeats (whatever the case), in order."""
    known: dict[str, str] = {}
    for query in queries:
        line = " ".join(query.split())
        if line:
            known.setdefault(line.casefold(), line)
    return list(known.values())
