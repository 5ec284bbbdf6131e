"""The best documents of one segment for one query. Knows segments and query vectors; knows no text, no model and no other segment.

Coded segments are searched in two steps. Candidates are ranked by the centroids of their tokens: all documents (``interaction``), or in
large segments those that probing meets (``probing``). The best candidates are then scored with their codes (``decompression``), a
block at a time, until the next one's estimate, with the mean gain of those before it and ``confidence`` standard deviations on top,
stays below the k-th best score. Small allowed sets skip the first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.retrievers.warp.codec import Codec
from rag.retrievers.warp.crew import Crew
from rag.retrievers.warp.decompression import score_rows
from rag.retrievers.warp.exact import exact_scores
from rag.retrievers.warp.interaction import SPAN, ScoreTable, best_rows, interact, score_centroids, table_of
from rag.retrievers.warp.lanes import WIDTHS, LaneTable, lane_table
from rag.retrievers.warp.probing import probe, warp_select
from rag.retrievers.warp.segment import WarpSegment

_NO_MASK = np.zeros(0, np.bool_)


class Found(NamedTuple):
    """``rows`` int64 and their ``scores`` float32, best first, ties by row."""

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much a search looks at; see ``WarpIndex`` for the options."""

    confidence: float
    first_block: int
    most_candidates: int
    num_probes: int
    probe_above_runs: int
    rescore: int


@dataclass(frozen=True, slots=True)
class Lanes:
    """Up to 32 query tokens against the centroids of one codec."""

    table: LaneTable
    scores: ScoreTable


def lanes_of(codec: Codec, query: NDArray[np.float32], crew: Crew) -> list[Lanes]:
    """A query ``(q, encoder dim)`` in groups of 32 tokens; the same for all segments of one codec."""
    turned = codec.turn(query)
    return [_lanes(codec, turned[start : start + WIDTHS[-1]], crew) for start in range(0, len(turned), WIDTHS[-1])]


def _lanes(codec: Codec, query: NDArray[np.float32], crew: Crew) -> Lanes:
    table, centroids = lane_table(query), codec.centroids
    scores = np.empty((len(centroids.levels), table.width), np.float32)
    largest: list[NDArray[np.float32]] = []

    def work(first: int, last: int) -> None:
        own = np.full(table.width, -np.inf, np.float32)
        score_centroids(
            centroids.levels, centroids.steps, table.numbers, table.units, table.totals, first, last, scores, own
        )  # fmt: skip
        largest.append(own)

    crew.split(len(scores), 4096, work)
    return Lanes(table, table_of(scores, np.max(largest, axis=0)))


def search_segment(
    segment: WarpSegment,
    query: NDArray[np.float32],
    lanes: Sequence[Lanes],
    k: int,
    allowed: NDArray[np.bool_] | None,
    effort: Effort,
    crew: Crew,
) -> Found:
    """At most ``k`` of the documents that ``allowed`` ``(documents,)`` admits. ``lanes``: of the segment's codec, if it has one."""
    if segment.codec is None:
        assert segment.vectors is not None
        rows = np.arange(len(segment.keys)) if allowed is None else np.flatnonzero(allowed)
        return best(rows, exact_scores(segment.vectors, segment.token_starts, query, None if allowed is None else rows), k)
    found = _search_coded(segment, segment.codec, lanes, max(k, effort.rescore), allowed, effort, crew)
    if effort.rescore and segment.vectors is not None:
        rows = np.sort(found.rows)
        return best(rows, exact_scores(segment.vectors, segment.token_starts, query, rows), k)
    return Found(found.rows[:k], found.scores[:k])


def _search_coded(
    segment: WarpSegment,
    codec: Codec,
    lanes: Sequence[Lanes],
    k: int,
    allowed: NDArray[np.bool_] | None,
    effort: Effort,
    crew: Crew,
) -> Found:
    num_allowed = len(segment.keys) if allowed is None else int(np.count_nonzero(allowed))
    block = max(effort.first_block, 2 * k)
    if num_allowed <= block:
        rows = np.arange(len(segment.keys)) if allowed is None else np.flatnonzero(allowed)
        return best(rows, _scores(segment, codec, lanes, rows, crew), k)
    rows, estimates = _candidates(segment, lanes, max(block, min(effort.most_candidates, num_allowed)), allowed, effort, crew)
    scores = np.empty(len(rows), np.float32)
    done = 0
    while done < len(rows):
        size = min(block, len(rows) - done)
        scores[done : done + size] = _scores(segment, codec, lanes, rows[done : done + size], crew)
        done += size
        if done < len(rows):
            gains = scores[:done] - estimates[:done]
            worst = np.partition(scores[:done], done - k)[done - k]
            if estimates[done] + gains.mean() + effort.confidence * gains.std() < worst:
                break
        block = done // 2
    return best(rows[:done], scores[:done], k)


def _candidates(
    segment: WarpSegment, lanes: Sequence[Lanes], num_wanted: int, allowed: NDArray[np.bool_] | None, effort: Effort, crew: Crew
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows and their estimated scores, best first."""
    tokens, mask = segment.tokens, _NO_MASK if allowed is None else allowed
    sums, base = np.zeros(len(segment.keys), np.int32), 0.0
    probes = why_probe(len(tokens.runs), effort) is not None
    for each in lanes:
        num_tokens = each.table.num_tokens
        table = each.scores.table
        base += float(each.scores.floors[:num_tokens].sum())
        if probes:
            starts, rows = segment.lists
            own, centroids, values, imputed = warp_select(table, num_tokens, starts, effort.num_probes, 0)
            probe(own, centroids, values, imputed, starts, rows, sums)
            base += float(imputed.sum()) * SPAN / 255
        else:

            def work(first: int, last: int, table: NDArray[np.uint8] = table) -> None:
                interact(table, tokens.runs, tokens.run_starts, mask, first, last, sums)

            crew.split(len(sums), 2048, work)
    if probes and allowed is not None:
        sums[~allowed] = -1
    largest = 255 * sum(each.table.width for each in lanes)
    rows = best_rows(sums, num_wanted, largest)
    values = sums[rows]
    order = np.argsort(-values, kind="stable")
    return rows[order], (base + values[order] * (SPAN / 255)).astype(np.float32)


def why_probe(num_runs: int, effort: Effort) -> str | None:
    """Why a segment's lists are probed, in words; ``None`` where all its documents are read."""
    if num_runs <= effort.probe_above_runs:
        return None
    return f"{num_runs} runs are more than probe_above_runs={effort.probe_above_runs}"


def _scores(segment: WarpSegment, codec: Codec, lanes: Sequence[Lanes], rows: NDArray[np.int64], crew: Crew) -> NDArray[np.float32]:
    out = np.zeros(len(rows), np.float32)
    unit = np.float32(codec.scale_unit)
    for each in lanes:
        table = each.table

        def work(first: int, last: int, each: Lanes = each, table: LaneTable = table) -> None:
            score_rows(
                rows, first, last, each.scores.scores, segment.tokens, unit,
                table.numbers, table.units, table.totals, table.num_tokens, codec.bits, out,
            )  # fmt: skip

        crew.split(len(rows), 32, work)
    return out


def best(rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> Found:
    """The ``k`` best, ties by row."""
    if len(rows) > 4 * k:
        border = np.partition(scores, len(rows) - k)[len(rows) - k]
        kept = np.flatnonzero(scores >= border)
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))[:k]
    return Found(rows[order], scores[order])
