"""Moves the vectors of a query until it ranks candidates more as a second opinion does. Knows vectors and scores; knows no index, hit or text.

Guided query refinement (arXiv 2510.05038): over some candidates, ``p1`` is the softmax of the query's own scores and ``p2`` that of
the other retriever's. Each step moves the query by Adam against the gradient of ``KL((p1 + p2) / 2 || p1)``, the mean held fixed.
That gradient is ``(p1 - p2) / 2`` per score, half the one of ``KL(p2 || p1)``; Adam divides by its size, so the two aims walk alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
"""float32, or float64 where exactness matters more than time: what is computed has the type of what is given."""

_KEPT_MEAN, _KEPT_SQUARE, _EPSILON = 0.9, 0.999, 1e-8  # Adam's own (arXiv 1412.6980)


class Candidates:
    """Chunks as rows of vectors: the score of one is the sum over query rows of the best inner product with a row of it."""

    def __init__(self, chunks: Sequence[Floats]) -> None:
        """``chunks``: ``(t, dim)`` each. Raises ``ValueError`` if there is none, or one without a row."""
        lengths = np.array([len(rows) for rows in chunks])
        if not len(lengths) or not lengths.all():
            raise ValueError(f"every candidate needs at least one vector, found numbers {lengths.tolist()[:10]}")
        self._rows = np.concatenate(chunks)
        places = np.arange(lengths.max())[None]
        # A shorter chunk repeats its first row: that moves no maximum, and of equals the first is taken anyway.
        self._places = np.where(places < lengths[:, None], places, 0) + (np.cumsum(lengths) - lengths)[:, None]

    def __len__(self) -> int:
        return len(self._places)

    def scores(self, query: Floats) -> Floats:
        """``(q, dim)`` -> ``(chunks,)``."""
        return self._scored(query)[0]

    def _scored(self, query: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """The scores, and the number of the row that was best for each row of the query, ``(q, chunks)``."""
        products = (query @ self._rows.T)[:, self._places]  # (q, chunks, longest)
        best = products.argmax(axis=2)
        scores: Floats = np.take_along_axis(products, best[..., None], axis=2)[..., 0].sum(axis=0)
        return scores, self._places[np.arange(len(self))[None], best]

    def gradient(self, query: Floats, guide: Floats, temperature: float) -> Floats:
        """Of ``KL(target || p1)`` by the query, ``(q, dim)``: ``p1 = softmax(scores / temperature)``, ``target = (p1 + guide) / 2`` fixed.

        Of equally good rows of a chunk the first one is followed.
        """
        scores, best = self._scored(query)
        by_score = (softmax(scores / temperature) - guide) / (2 * temperature)
        gradient: Floats = by_score @ self._rows[best]  # (chunks,) @ (q, chunks, dim)
        return gradient


def refined(
    query: Floats, candidates: Candidates, guide: Floats, *, steps: int, learning_rate: float, temperature: float = 1.0
) -> Floats:
    """The query ``(q, dim)`` after ``steps`` steps of Adam towards ``guide`` ``(chunks,)``, a distribution over the candidates."""
    moved, guide = query.copy(), guide.astype(query.dtype)
    mean, square = np.zeros_like(moved), np.zeros_like(moved)
    for step in range(1, steps + 1):
        gradient = candidates.gradient(moved, guide, temperature)
        mean = _KEPT_MEAN * mean + (1 - _KEPT_MEAN) * gradient
        square = _KEPT_SQUARE * square + (1 - _KEPT_SQUARE) * gradient**2
        root = np.sqrt(square / (1 - _KEPT_SQUARE**step)) + _EPSILON
        moved = moved - learning_rate * (mean / (1 - _KEPT_MEAN**step)) / root
    return moved


def softmax(scores: Floats) -> Floats:
    """``exp(scores)`` scaled to sum to 1."""
    powers = np.exp(scores - scores.max())
    shares: Floats = powers / powers.sum()
    return shares
