"""The best documents of one segment for one query. Knows segments and query vectors; knows no text, no model and no other segment.

Coded segments are searched in two steps, with the kernels of ``rag.kernels.warp_score``. Candidates are ranked by the centroids of their
tokens: all documents, or in large segments those that probing meets (``probing``). The best candidates are then scored with their codes, a
block at a time, until the next one's estimate, with the mean gain of those before it and ``confidence`` standard deviations on top,
stays below the k-th best score. Small allowed sets skip the first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.kernels.crew import Crew
from rag.kernels.warp_score import (
    MOST_LANES,
    SPAN,
    CentroidScores,
    centroid_scores,
    document_scores,
    interaction,
    lanes_of,
    top_rows,
)
from rag.kernels.warp_score import Lanes as Numbers
from rag.kernels.warp_score_codes import Coded
from rag.retrievers.warp.arrays import as_tensor, frozen
from rag.retrievers.warp.codec import Codec
from rag.retrievers.warp.exact import exact_scores
from rag.retrievers.warp.probing import probe, warp_select
from rag.retrievers.warp.segment import WarpSegment

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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

    numbers: Numbers
    scores: CentroidScores


def scored_lanes(codec: Codec, query: NDArray[np.float32], crew: Crew, device: torch.device) -> list[Lanes]:
    """A query ``(q, encoder dim)`` in groups of 32 tokens; the same for all segments of one codec."""
    turned = as_tensor(frozen(codec.turn(query))).to(device)
    levels, steps = codec.centroids.on(device)
    found = []
    for start in range(0, len(turned), MOST_LANES):
        numbers = lanes_of(turned[start : start + MOST_LANES])
        found.append(Lanes(numbers, centroid_scores(numbers, levels, steps, split=crew.split)))
    return found


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
    found = _search_coded(segment, lanes, max(k, effort.rescore), allowed, effort, crew)
    if effort.rescore and segment.vectors is not None:
        rows = np.sort(found.rows)
        return best(rows, exact_scores(segment.vectors, segment.token_starts, query, rows), k)
    return Found(found.rows[:k], found.scores[:k])


def _search_coded(
    segment: WarpSegment,
    lanes: Sequence[Lanes],
    k: int,
    allowed: NDArray[np.bool_] | None,
    effort: Effort,
    crew: Crew,
) -> Found:
    num_allowed = len(segment.keys) if allowed is None else int(np.count_nonzero(allowed))
    block = max(effort.first_block, 2 * k)
    device = _device(lanes)
    held = segment.coded(device)
    if num_allowed <= block:
        rows = np.arange(len(segment.keys)) if allowed is None else np.flatnonzero(allowed)
        return best(rows, _scores(held, lanes, as_tensor(frozen(rows)).to(device), crew), k)
    candidates, estimates = _candidates(
        segment, held, lanes, max(block, min(effort.most_candidates, num_allowed)), allowed, effort, crew
    )
    num_candidates = len(estimates)
    if device.type != "cpu":
        block = num_candidates  # to ask a GPU whether to go on takes longer than to go on
    scores = np.empty(num_candidates, np.float32)
    done, gain_sum, square_sum = 0, 0.0, 0.0
    while done < num_candidates:
        end = min(done + block, num_candidates)
        scores[done:end] = _scores(held, lanes, candidates[done:end], crew)
        gains = np.subtract(scores[done:end], estimates[done:end], dtype=np.float64)
        gain_sum, square_sum = gain_sum + float(gains.sum()), square_sum + float(gains @ gains)
        done = end
        if done < num_candidates:
            mean = gain_sum / done
            deviation = max(square_sum / done - mean * mean, 0.0) ** 0.5
            worst = np.partition(scores[:done], done - k)[done - k]
            if estimates[done] + mean + effort.confidence * deviation < worst:
                break
        block = done // 2
    return best(candidates[:done].cpu().numpy(), scores[:done], k)


def _candidates(
    segment: WarpSegment,
    held: Coded,
    lanes: Sequence[Lanes],
    num_wanted: int,
    allowed: NDArray[np.bool_] | None,
    effort: Effort,
    crew: Crew,
) -> tuple[Tensor, NDArray[np.float32]]:
    """Rows int64 on the device of ``held``, and their estimated scores, best first."""
    device = _device(lanes)
    probes = device.type == "cpu" and why_probe(len(held.runs), effort) is not None
    base = sum(float(each.scores.floors[: each.numbers.num_tokens].sum()) for each in lanes)
    if probes:
        sums, imputed = _probed(segment, lanes, effort.num_probes, allowed)
        base += imputed
    else:
        mask = None if allowed is None else as_tensor(frozen(allowed)).to(device)
        sums = interaction(lanes[0].scores.table, held.runs, held.run_starts, mask, split=crew.split)
        for each in lanes[1:]:
            sums += interaction(each.scores.table, held.runs, held.run_starts, mask, split=crew.split)
    rows = top_rows(sums, num_wanted, 255 * sum(len(each.numbers.units) for each in lanes))
    values = sums[rows].cpu().numpy()
    return rows, (base + values * (SPAN / 255)).astype(np.float32)


def _probed(
    segment: WarpSegment, lanes: Sequence[Lanes], num_probes: int, allowed: NDArray[np.bool_] | None
) -> tuple[Tensor, float]:
    """Sums of the documents that the lists of the best centroids name, and what the least of them imputes to all."""
    import torch

    sums, imputed_sum = np.zeros(len(segment.keys), np.int32), 0.0
    starts, rows = segment.lists
    for each in lanes:
        table = each.scores.table.numpy()
        own, centroids, values, imputed = warp_select(table, each.numbers.num_tokens, starts, num_probes, 0)
        probe(own, centroids, values, imputed, starts, rows, sums)
        imputed_sum += float(imputed.sum()) * SPAN / 255
    if allowed is not None:
        sums[~allowed] = -1
    return torch.from_numpy(sums), imputed_sum


def why_probe(num_runs: int, effort: Effort) -> str | None:
    """Why a segment's lists are probed, in words; ``None`` where all its documents are read."""
    if num_runs <= effort.probe_above_runs:
        return None
    return f"{num_runs} runs are more than probe_above_runs={effort.probe_above_runs}"


def _scores(held: Coded, lanes: Sequence[Lanes], rows: Tensor, crew: Crew) -> NDArray[np.float32]:
    found = document_scores(lanes[0].numbers, lanes[0].scores, held, rows, split=crew.split)
    for each in lanes[1:]:
        found += document_scores(each.numbers, each.scores, held, rows, split=crew.split)
    scores: NDArray[np.float32] = found.cpu().numpy()
    return scores


def _device(lanes: Sequence[Lanes]) -> torch.device:
    return lanes[0].scores.table.device


def best(rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> Found:
    """The ``k`` best, ties by row."""
    if len(rows) > 4 * k:
        border = np.partition(scores, len(rows) - k)[len(rows) - k]
        kept = np.flatnonzero(scores >= border)
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))[:k]
    return Found(rows[order], scores[order])
