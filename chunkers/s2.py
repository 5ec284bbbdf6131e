"""S2 chunking as published: spectral clustering of layout and meaning together. Knows boxes, vectors and token counts; no text.

Source: "S2 Chunking: a hybrid framework for document segmentation through integrated spatial and semantic analysis", arXiv
2501.05485, and its reference implementation s2-chunking-lib. Kept for comparison: see ``SpatialChunker``. As published, page
numbers are ignored. Different from the reference implementation: a fixed ``random_state``, cosines below 0 count as 0 (the
clustering wants weights that are not negative), an element without a box is far from all others, and an element above the token
limit comes as several nodes (the reference implementation leaves it whole, above the limit). Clusters are scattered over a text only
if it holds several subjects: a document of one section may well come out as contiguous chunks.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]

RANDOM_STATE = 0
_LEAST_WEIGHT = 1e-9  # a node with no neighbour at all has no place in the spectrum


def s2_weights(boxes: Sequence[Box | None], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """``(1 / (1 + d) + cosine) / 2`` for all pairs, ``(nodes, nodes)``; d is the distance between centroids in points.

    ``vectors`` ``(nodes, dim)`` are L2-normalised.
    """
    corners = np.array([box if box is not None else (np.nan,) * 4 for box in boxes], dtype=np.float64).reshape(-1, 4)
    centres = (corners[:, :2] + corners[:, 2:]) / 2.0
    apart = np.linalg.norm(centres[:, None, :] - centres[None, :, :], axis=2)
    near = np.nan_to_num(1.0 / (1.0 + apart), nan=0.0)
    np.fill_diagonal(near, 1.0)
    cosine = np.clip(vectors.astype(np.float64) @ vectors.astype(np.float64).T, 0.0, 1.0)
    weights: NDArray[np.float64] = np.maximum((near + (cosine + cosine.T) / 2.0) / 2.0, _LEAST_WEIGHT)
    return weights


def num_clusters(weights: NDArray[np.float64], num_tokens: int, max_tokens: int) -> int:
    """``max(1, int(tokens / max_tokens * (1 - mean weight)))``, the mean over the whole matrix; no more than there are nodes."""
    wanted = int(num_tokens / max_tokens * (1.0 - float(weights.mean())))
    return min(max(1, wanted), len(weights))


def clusters(weights: NDArray[np.float64], number: int) -> NDArray[np.int64]:
    """The spectral cluster of each node, ``(nodes,)``, numbered by first appearance."""
    if number <= 1:
        return np.zeros(len(weights), dtype=np.int64)
    if number >= len(weights):
        return np.arange(len(weights), dtype=np.int64)
    from sklearn.cluster import SpectralClustering

    with warnings.catch_warnings():  # about graphs that are nearly in pieces, and about k-means that found fewer clusters
        warnings.simplefilter("ignore")
        labels = SpectralClustering(n_clusters=number, affinity="precomputed", random_state=RANDOM_STATE).fit_predict(weights)
    _, first, numbers = np.unique(labels, return_index=True, return_inverse=True)
    return first.argsort().argsort()[numbers].astype(np.int64)


def cut_in_sequence(labels: NDArray[np.int64], sizes: NDArray[np.int64], max_size: int) -> NDArray[np.int64]:
    """Clusters cut so that none is above ``max_size``: each is filled in reading order, then the next begins.

    The published chunk of each node, ``(nodes,)``, numbered by first appearance. A node above the limit is alone.
    """
    chunk_of = np.zeros(len(labels), dtype=np.int64)
    open_chunk: dict[int, tuple[int, int]] = {}  # cluster -> its chunk that is being filled, and the tokens in it
    number = 0
    for node, (label, size) in enumerate(zip(labels.tolist(), sizes.tolist(), strict=True)):
        chunk, held = open_chunk.get(label, (-1, 0))
        if chunk < 0 or held + size > max_size:
            chunk, held, number = number, 0, number + 1
        open_chunk[label] = (chunk, held + size)
        chunk_of[node] = chunk
    return chunk_of


def runs(chunk_of: NDArray[np.int64]) -> list[int]:
    """The nodes at which a contiguous run of one published chunk starts."""
    return [0, *(np.flatnonzero(np.diff(chunk_of)) + 1).tolist()] if len(chunk_of) else []
