"""The steps of a search in compressed token vectors, each a function: centroids, candidates, codes, the best. Knows tensors; no segment, no text.

A token vector is stored as its nearest centroid and a coded residual (PLAID, arXiv 2205.09707; WARP, arXiv 2501.17788). A search scores
all centroids once (``centroid_scores``), ranks documents by the best centroid they have for each token of the query (``interaction``,
``top_rows``), and scores the best of them with their codes (``document_scores``): a token's score is that of its centroid plus
``scale * (q . levels)``, so that no vector is rebuilt. Documents lie one behind the other, so both reductions, the maximum over a document's
tokens and the sum over the query's, are loops over neighbours: nothing is sorted or merged.

Floors: ``interaction`` reads 2 bytes a run (a distinct centroid of a document), ``document_scores`` ``dim * bits / 8 + 1`` bytes a token. A query is rounded
to bytes (``lanes_of``), so that products are of integers: the processor's and the GPU's are the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from rag.kernels.choose import Name, choose
from rag.kernels.crew import split as split_among_threads
from rag.kernels.warp_score_codes import BITS, Coded, row_bytes, unpacked

if TYPE_CHECKING:
    from torch import Tensor

MOST_LANES = 32
SPAN = 0.75
"""Cosine below the best centroid at which similarities of unit vectors no longer matter for the best documents."""
Split = Callable[[int, int, Callable[[int, int], None]], None]
"""``split(num_items, least, work)`` calls ``work(first, last)`` over ranges that cover the items, none much shorter than ``least``."""


class Lanes(NamedTuple):
    """Up to 32 tokens of a query, every one in whole numbers of its own ``units``; lanes without a token are zero.

    ``numbers`` int8 ``(width, dim)``, width 16 or 32; ``units`` float32 ``(width,)``; ``num_tokens`` lanes hold a token; ``packed``: the numbers
    in the order in which this processor reads them; ``by``: the implementation that made them and takes the steps that follow.
    """

    numbers: Tensor
    units: Tensor
    num_tokens: int
    packed: Tensor
    by: Name


class CentroidScores(NamedTuple):
    """``scores`` float32 ``(C, width)``; byte ``b`` of lane ``j`` of ``table`` uint8 ``(C, width)`` stands for ``floors[j] + b * SPAN / 255``."""

    scores: Tensor
    table: Tensor
    floors: Tensor


def lanes_of(query: Tensor) -> Lanes:
    """A ``query`` float32 ``(q, dim)``, q up to 32, every token scaled to integers of up to 127. Raises ``ValueError`` for another shape."""
    import torch

    if query.ndim != 2 or not 0 < len(query) <= MOST_LANES or query.shape[1] % 16:
        raise ValueError(f"a query must be (1 to {MOST_LANES} tokens, a multiple of 16 dimensions), not {tuple(query.shape)}")
    name = choose(query).name
    if name == "cpu":
        from rag.kernels.warp_score_cpu import lanes_of_cpu

        return Lanes(*lanes_of_cpu(query, _width(len(query))), name)
    wide = torch.zeros(_width(len(query)), query.shape[1], device=query.device)
    wide[: len(query)] = query
    units = wide.abs().amax(1) / 127
    numbers = (wide / units.clamp(min=1e-30)[:, None]).round().to(torch.int8)
    return Lanes(numbers, units, len(query), numbers, name)


def _width(num_tokens: int) -> int:
    return MOST_LANES // 2 if num_tokens <= MOST_LANES // 2 else MOST_LANES


def centroid_scores(lanes: Lanes, levels: Tensor, steps: Tensor, *, split: Split | None = None) -> CentroidScores:
    """Scores of all centroids, ``(levels[c] - 128) * steps[c]``, for every lane, and the same as bytes: what is more than ``SPAN`` below the best is 0.

    ``levels`` uint8 ``(C, dim)``, ``steps`` float32 ``(C,)``; ``split``: how a processor's threads share the work. Raises ``ValueError`` for shapes and types that do not fit.
    """
    import torch

    if (
        levels.dtype != torch.uint8
        or levels.ndim != 2
        or levels.shape[1] != lanes.numbers.shape[1]
        or steps.shape != levels.shape[:1]
    ):
        raise ValueError(
            f"levels {levels.dtype} {tuple(levels.shape)} and steps {tuple(steps.shape)} must be uint8 (C, {lanes.numbers.shape[1]}) and (C,)"
        )
    if not len(levels):
        raise ValueError("there must be at least one centroid")
    _on_one_device(lanes, levels)
    if lanes.by == "triton":
        from rag.kernels.warp_score_triton import centroid_scores_triton

        return CentroidScores(*centroid_scores_triton(lanes, levels, steps, SPAN))
    if lanes.by == "cpu":
        from rag.kernels.warp_score_cpu import centroid_scores_cpu

        return CentroidScores(*centroid_scores_cpu(lanes, levels, steps, SPAN, split or _split))
    return centroid_scores_reference(lanes, levels, steps)


def centroid_scores_reference(lanes: Lanes, levels: Tensor, steps: Tensor) -> CentroidScores:
    """The same in float64."""
    import torch

    query = lanes.numbers.double() * lanes.units.double()[:, None]
    exact = (levels.double() - 128) * steps.double()[:, None] @ query.T
    floors = exact.amax(0) - SPAN
    table = ((exact - floors) * (255 / SPAN)).round().clamp(0, 255).to(torch.uint8)
    return CentroidScores(exact.float(), table, floors.float())


def interaction(
    table: Tensor, runs: Tensor, run_starts: Tensor, allowed: Tensor | None = None, *, split: Split | None = None
) -> Tensor:
    """Int32 ``(documents,)``: the sum over lanes of the largest byte that a document has, centroid interaction.

    ``table`` uint8 ``(C, width)``; document ``i`` has the centroids ``runs[run_starts[i]:run_starts[i + 1]]`` (uint16, int64). Not ``allowed`` (bool ``(documents,)``): -1.
    Centroids are not looked at: one past the table reads what is not its own. Raises ``ValueError`` for shapes and types that do not fit.
    """
    import torch

    if table.dtype != torch.uint8 or table.ndim != 2 or table.shape[1] not in (MOST_LANES // 2, MOST_LANES):
        raise ValueError(f"table must be uint8 (C, 16 or 32), not {table.dtype} {tuple(table.shape)}")
    if runs.dtype != torch.uint16 or run_starts.dtype != torch.int64 or not len(run_starts):
        raise ValueError(
            f"runs must be uint16 and run_starts int64 borders, not {runs.dtype} and {run_starts.dtype} {tuple(run_starts.shape)}"
        )
    if allowed is not None and (allowed.dtype != torch.bool or len(allowed) != len(run_starts) - 1):
        raise ValueError(f"allowed must be bool ({len(run_starts) - 1},), not {allowed.dtype} {tuple(allowed.shape)}")
    name = choose(table, runs, run_starts).name
    if name == "triton":
        from rag.kernels.warp_score_triton import interaction_triton

        return interaction_triton(table, runs, run_starts, allowed)
    if name == "cpu":
        from rag.kernels.warp_score_cpu import interaction_cpu

        return interaction_cpu(table, runs, run_starts, allowed, split or _split)
    return interaction_reference(table, runs, run_starts, allowed)


def interaction_reference(table: Tensor, runs: Tensor, run_starts: Tensor, allowed: Tensor | None = None) -> Tensor:
    """The same document by document."""
    import torch

    borders, wide = run_starts.tolist(), table.long()
    found = torch.zeros(len(borders) - 1, dtype=torch.int32, device=table.device)
    for row in range(len(found)):
        own = wide[runs[borders[row] : borders[row + 1]].long()]
        found[row] = own.amax(0).sum() if len(own) else 0
    return found if allowed is None else torch.where(allowed, found, -1)


def top_rows(values: Tensor, k: int, largest: int) -> Tensor:
    """Int64 ``(n,)``, n up to ``k``: the rows of the largest ``values`` that are not negative, best first, of equal ones the first.

    ``values`` int32 ``(documents,)``, none above ``largest``. Raises ``ValueError`` for another type, and if ``k`` or ``largest`` is out of range.
    """
    import torch

    if values.dtype != torch.int32 or values.ndim != 1:
        raise ValueError(f"values must be int32 (documents,), not {values.dtype} {tuple(values.shape)}")
    if k < 1 or largest < 0:
        raise ValueError(f"k must be at least 1 and largest not negative, not {k} and {largest}")
    name = choose(values).name
    if name == "triton":
        from rag.kernels.warp_score_triton import top_rows_triton

        return top_rows_triton(values, k)
    if name == "cpu":
        from rag.kernels.warp_score_cpu import top_rows_cpu

        return top_rows_cpu(values, k, largest)
    return top_rows_reference(values, k)


def top_rows_reference(values: Tensor, k: int) -> Tensor:
    """The same by sorting everything."""
    order = values.sort(descending=True, stable=True).indices
    return order[values[order] >= 0][:k]


def document_scores(lanes: Lanes, centroids: CentroidScores, coded: Coded, rows: Tensor, *, split: Split | None = None) -> Tensor:
    """Float32 ``(n,)``: MaxSim of the documents ``rows`` int64 ``(n,)`` with the query, from their codes.

    ``centroids``: what ``centroid_scores`` gave for these lanes. A document without tokens scores minus infinity. Raises ``ValueError`` for codes of another width
    and for types that do not fit; rows are not looked at.
    """
    import torch

    if coded.bits not in BITS or coded.codes.shape[1:] != (row_bytes(coded.dim, coded.bits),):
        raise ValueError(
            f"codes of {coded.bits} bits must have {row_bytes(coded.dim, coded.bits)} bytes a row, not {tuple(coded.codes.shape)}"
        )
    if lanes.numbers.shape[1] != coded.dim:
        raise ValueError(f"the query has {lanes.numbers.shape[1]} dimensions and the codes {coded.dim}")
    if rows.dtype != torch.int64:
        raise ValueError(f"rows must be int64, not {rows.dtype}")
    _on_one_device(lanes, coded.codes)
    if lanes.by == "triton":
        from rag.kernels.warp_score_triton import document_scores_triton

        return document_scores_triton(lanes, centroids, coded, rows)
    if lanes.by == "cpu":
        from rag.kernels.warp_score_cpu import document_scores_cpu

        return document_scores_cpu(lanes, centroids, coded, rows, split or _split)
    return document_scores_reference(lanes, centroids, coded, rows)


def document_scores_reference(lanes: Lanes, centroids: CentroidScores, coded: Coded, rows: Tensor) -> Tensor:
    """The same document by document in float64, residuals decompressed."""
    import torch

    query = lanes.numbers.double() * lanes.units.double()[:, None]
    zero = torch.from_numpy(coded.middles).double().to(query.device)
    tokens, runs = coded.token_starts.tolist(), coded.run_starts.tolist()
    out = torch.empty(len(rows), device=query.device)
    for place, row in enumerate(rows.tolist()):
        some, mine = slice(tokens[row], tokens[row + 1]), slice(runs[row], runs[row + 1])
        centroid = torch.repeat_interleave(coded.runs[mine].long(), coded.run_lengths[mine].long())
        left = (unpacked(coded.codes[some], coded.dim, coded.bits).double() - zero) * (
            coded.scales[some].double() * coded.scale_unit
        )[:, None]
        scores = centroids.scores[centroid].double() + left @ query.T
        lowest = scores.new_full((lanes.num_tokens,), float("-inf"))
        out[place] = (scores[:, : lanes.num_tokens].amax(0) if len(scores) else lowest).sum()
    return out


def _on_one_device(lanes: Lanes, index: Tensor) -> None:
    if lanes.units.device != index.device:
        raise ValueError(f"the query is on {lanes.units.device}, what it is compared with on {index.device}")


def _split(num_items: int, least: int, work: Callable[[int, int], None]) -> None:
    split_among_threads(num_items, work)
