"""How much two neighbours on a page belong together: distance in lines along the reading order, and cosine. Knows boxes, not text.

The published weights (S2 chunking, arXiv 2501.05485) take the distance between centroids in pixels, which says next to nothing:
1/(1+pixels) is 0.003-0.005 between neighbours on a page, against cosines a hundred times larger. Here a distance is measured
in lines of text, between the edges of boxes, and adds up along the reading order, so that no pair is near by accident of geometry:
``distance(i, j)`` is the length of the way from ``i`` to ``j`` through all nodes between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rag.chunkers.distance import HEADING_LINES, line_height, step_lines
from rag.chunkers.spatial_nodes import Node


def positions(nodes: Sequence[Node], heading_lines: float = HEADING_LINES) -> NDArray[np.float64]:
    """Where each node lies on the way through all nodes, in lines, ``(nodes,)``: ``distance(i, j) = position j - position i``.

    Pieces of one element are at the same place; a heading under anything else is ``heading_lines`` farther than it looks.
    """
    line = line_height({id(node.block): node.block.element for node in nodes}.values())
    steps = [0.0]
    for before, node in pairwise(nodes):
        if before.block is node.block:
            steps.append(0.0)
            continue
        is_under = node.block.kind == "heading" != before.block.kind
        steps.append(step_lines(before.block.element, node.block.element, line) + is_under * heading_lines)
    return np.cumsum(steps[: len(nodes)])


def band_of(sizes: NDArray[np.int64], max_size: int) -> int:
    """The most nodes that one run of at most ``max_size`` tokens may hold, at least 1."""
    before = np.concatenate([[0], np.cumsum(sizes)])
    last = np.searchsorted(before, before[:-1] + max_size, side="right") - 1
    return max(int((last - np.arange(len(sizes))).max(initial=1)), 1)


def graph_weights(
    places: NDArray[np.float64], vectors: NDArray[np.float32], sizes: NDArray[np.int64], max_size: int, semantic_weight: float
) -> NDArray[np.float64]:
    """Weights of all pairs that may share a run, ``(nodes, band)``; ``[i, d]`` is node ``i`` with node ``i + d``, else nan.

    ``(1 - semantic_weight) / (1 + distance in lines) + semantic_weight * cosine``, the form of the published weight with both
    terms of the same order. ``vectors`` ``(nodes, dim)`` are L2-normalised.
    """
    num_nodes, band = len(places), band_of(sizes, max_size)
    weights = np.full((num_nodes, band), np.nan)
    before = np.concatenate([[0], np.cumsum(sizes)])
    for distance in range(1, min(band, num_nodes)):
        first = slice(0, num_nodes - distance)
        near = 1.0 / (1.0 + places[distance:] - places[first])
        cosine = np.einsum("ij,ij->i", vectors[first], vectors[distance:])
        pair = (1.0 - semantic_weight) * near + semantic_weight * cosine
        fits = before[distance + 1 :] - before[: num_nodes - distance] <= max_size
        weights[first, distance] = np.where(fits, pair, np.nan)
    return weights


def objective(weights: NDArray[np.float64], sizes: NDArray[np.int64], resolution: float) -> NDArray[np.float64]:
    """What a pair adds to the worth of a run: (weight - resolution * mean weight) * tokens * tokens, ``(nodes, band)``.

    This is the constant Potts model of community detection (Traag, Van Dooren and Nesterov, 2011) with tokens as node sizes,
    so that one long paragraph counts as much as the same text in many short ones. The mean is over all pairs that may share a
    run, weighed in the same way; a larger ``resolution`` makes smaller runs.
    """
    num_nodes, band = weights.shape
    padded = np.concatenate([sizes, np.zeros(band, dtype=sizes.dtype)])
    partner = padded[np.arange(num_nodes)[:, None] + np.arange(band)[None, :]]
    mass = np.where(np.isnan(weights), 0.0, sizes[:, None] * partner).astype(np.float64)
    known = np.nan_to_num(weights)
    mean = float((known * mass).sum() / mass.sum()) if mass.any() else 0.0
    return (known - resolution * mean) * mass
