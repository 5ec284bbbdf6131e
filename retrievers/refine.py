"""Moves the vectors of a query until it ranks candidates more as a second opinion does. Knows vectors and scores; knows no index, hit or text.

Guided query refinement (arXiv 2510.05038): over some candidates, ``p1`` is the softmax of the query's own scores and ``p2`` that of
the other retriever's. Each step moves the query by Adam against the gradient of ``KL((p1 + p2) / 2 || p1)``, the mean held fixed.
That gradient is ``(p1 - p2) / 2`` per score, half the one of ``KL(p2 || p1)``; Adam divides by its size, so the two aims walk alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[Any]
"""float32, or float64 where exactness matters more than time: what is computed has the type of what is given."""

_KEPT_MEAN, _KEPT_SQUARE, _EPSILON = 0.9, 0.999, 1e-8  # Adam's own (arXiv 1412.6980)


class Candidates:
    """Chunks as rows of vectors: the score of one is the sum over query rows of the best inner product with a row of it."""

    def __init__(self, chunks: Sequence[Floats], basis: Floats | None = None) -> None:
        """``chunks``: ``(t, dim')`` each; ``basis`` ``(dim, dim')`` turns a query into their space (without it, it is there).

        Raises ``ValueError`` if there is none, or one without a row.
        """
        lengths = np.array([len(rows) for rows in chunks], np.int64)
        if not len(lengths) or not lengths.all():
            raise ValueError(f"every candidate needs at least one vector, found numbers {lengths.tolist()[:10]}")
        self._rows = np.concatenate(chunks)
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._basis = basis

    def __len__(self) -> int:
        return len(self._starts) - 1

    def first(self, count: int) -> Candidates:
        """The first ``count`` of them; nothing is copied. Raises ``ValueError`` for a count that there is not."""
        if not 0 < count <= len(self):
            raise ValueError(f"there are {len(self)} candidates, not {count}")
        found = Candidates.__new__(Candidates)
        found._rows, found._starts = self._rows[: self._starts[count]], self._starts[: count + 1]
        found._basis = self._basis
        return found

    def scores(self, query: Floats) -> Floats:
        """``(q, dim)`` -> ``(chunks,)``."""
        from rag.kernels.maxsim import maxsim

        found: Floats = maxsim(*self._asked(query))[0].numpy()
        return found

    def _scored(self, query: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """The scores, and the number of the row that was best for each row of the query, ``(q, chunks)``."""
        from rag.kernels.maxsim import maxsim_rows

        scores, rows = maxsim_rows(*self._asked(query))
        return scores[0].numpy(), rows.numpy()

    def _asked(self, query: Floats) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One query and all candidates, as the kernels take them."""
        from torch import from_numpy, tensor

        asked = np.require(query if self._basis is None else query @ self._basis, self._rows.dtype, ["C", "W"])
        return from_numpy(asked), tensor([0, len(asked)]), from_numpy(self._rows), from_numpy(self._starts)

    def gradient(self, query: Floats, guide: Floats, temperature: float) -> Floats:
        """Of ``KL(target || p1)`` by the query, ``(q, dim)``: ``p1 = softmax(scores / temperature)``, ``target = (p1 + guide) / 2`` fixed.

        Of equally good rows of a chunk the first one is followed.
        """
        scores, best = self._scored(query)
        by_score = (softmax(scores / temperature) - guide) / (2 * temperature)
        gradient = np.zeros((len(query), self._rows.shape[1]), self._rows.dtype)
        _add_rows(self._rows, best, by_score.astype(gradient.dtype), gradient)
        return gradient if self._basis is None else gradient @ self._basis.T


@numba.njit(nogil=True, cache=True)
def _add_rows(rows: Any, best: Any, shares: Any, out: Any) -> None:  # pragma: no cover - compiled
    """``out[column] += shares[chunk] * rows[best[column, chunk]]`` for every chunk."""
    for column in range(len(best)):
        for chunk in range(best.shape[1]):
            row = best[column, chunk]
            for place in range(rows.shape[1]):
                out[column, place] += shares[chunk] * rows[row, place]


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
