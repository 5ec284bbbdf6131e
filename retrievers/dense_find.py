"""The nearest rows of one segment, by the way that suits it. Knows vectors, bits and graphs; knows no key, file or model.

| the segment has | rows allowed | its way |
| --- | --- | --- |
| vectors only | any | exact: every allowed row is scored |
| bits (``store: binary``) | up to ``num_candidates`` | exact |
| | more | the rows whose signs are nearest, then those scored |
| a graph (more than ``exact_below`` rows) | up to ``exact_below`` or 2 % of the rows | exact |
| | more | a walk through the graph, then what it met scored |

Scores always come from the stored vectors, filters always apply before the top k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rag.retrievers.dense_codes import Words, nearest_by_bits
from rag.retrievers.dense_search import Floats, Found, Vectors, rescore, search_exact

_FEW_ROWS_SHARE = 0.02
_SAMPLE_QUERIES = 100
_SAMPLE_K = 10


class Effort(NamedTuple):
    """How hard to look: rows that are always searched exactly, the beam of a graph, and candidates by bits per hit wanted."""

    exact_below: int
    ef_search: int
    oversample: int


class Searchable(Protocol):
    """What is searched of a segment."""

    @property
    def vectors(self) -> Vectors: ...

    @property
    def bits(self) -> Words | None: ...

    @property
    def graph(self) -> Any: ...


def find(part: Searchable, queries: Floats, k: int, allowed: NDArray[np.bool_] | None, effort: Effort) -> list[Found]:
    """At most ``k`` of the allowed rows for each of ``queries`` ``(queries, dim)``; ``None`` allows all."""
    num_rows = part.vectors.shape[0]
    num_allowed = num_rows if allowed is None else int(np.count_nonzero(allowed))
    mask = None if num_allowed == num_rows else allowed
    if part.bits is not None and num_allowed > num_candidates(k, effort):
        rows = nearest_by_bits(part.bits, queries, num_candidates(k, effort), mask)
        return [rescore(part.vectors, query, np.sort(some), k) for query, some in zip(queries, rows, strict=True)]
    few = num_allowed <= max(effort.exact_below, _FEW_ROWS_SHARE * num_rows)
    if part.graph is None or few or k * 4 > num_allowed:
        return search_exact(part.vectors, queries, k, mask)
    return _walk(part, queries, k, mask, min(k, num_allowed), effort)


def num_candidates(k: int, effort: Effort) -> int:
    """How many rows the bits pick for ``k`` hits. The floor keeps a search for one hit as sure as one for 20."""
    return effort.oversample * max(k, 20)


def _walk(
    part: Searchable, queries: Floats, k: int, mask: NDArray[np.bool_] | None, num_wanted: int, effort: Effort
) -> list[Found]:
    from rag.retrievers.dense_graph import candidates

    # Twice as many as asked for: the graph ranks by 8-bit copies, and the true top k must be among what is scored again.
    rows = candidates(part.graph, queries, max(2 * k, 16), mask, effort.ef_search)
    found = [rescore(part.vectors, query, np.unique(some[some >= 0]), k) for query, some in zip(queries, rows, strict=True)]
    short = [number for number, matches in enumerate(found) if len(matches.rows) < num_wanted]
    if short:  # the walk ended in a corner with too few allowed rows
        for number, matches in zip(short, search_exact(part.vectors, queries[short], k, mask), strict=True):
            found[number] = matches
    return found


def recall_estimate(part: Searchable, effort: Effort) -> float:
    """The share of the true 10 nearest that ``find`` finds, for 100 evenly spread rows as queries, themselves left out.

    Truth is exact search over the stored vectors: what int8 itself costs is not in it. Rows of the corpus are easier queries
    than questions are, so read it as "the graph is sound", not as what questions will see. 1 where ``find`` is exact.
    """
    num_rows = part.vectors.shape[0]
    inexact = part.bits is not None and num_rows > num_candidates(_SAMPLE_K + 1, effort) or part.graph is not None
    if not inexact or num_rows <= _SAMPLE_K:
        return 1.0
    sample = np.unique(np.linspace(0, num_rows - 1, _SAMPLE_QUERIES).astype(np.int64))
    queries = np.asarray(part.vectors[sample], np.float32)
    wanted = _others(sample, search_exact(part.vectors, queries, _SAMPLE_K + 1))
    found = _others(sample, find(part, queries, _SAMPLE_K + 1, None, effort))
    # By score and not by row: of rows that are equally near, any will do.
    hits = [np.count_nonzero(mine >= theirs[-1]) for mine, theirs in zip(found, wanted, strict=True)]
    return round(float(np.mean(hits)) / _SAMPLE_K, 4)


def _others(sample: NDArray[np.int64], found: Sequence[Found]) -> list[Floats]:
    """Scores of the best ``_SAMPLE_K`` rows besides the query's own."""
    return [each.scores[each.rows != row][:_SAMPLE_K] for row, each in zip(sample, found, strict=True)]
