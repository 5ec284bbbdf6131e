"""Puts the chosen hits in the order in which they are to be read. Knows places and ranks, drops nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from rag.core import Hit

Order = Literal["best-ends", "document", "stable"]


class OrderSelector:
    """All hits, in another order; the last step before a prompt is written.

    ``by``:

    - ``best-ends``: the best first, the second last, the third second, and so on, so that the weakest stand in the middle, where
      long prompts are read worst (Liu et al., Lost in the Middle, arXiv 2307.03172);
    - ``document``: the documents by their best hit, inside each the order of reading;
    - ``stable``: by document id and place. The same hits stand in the same order whatever was asked, so a server that keeps the
      keys and values of prompts it has read finds more of them again. (What only the cache knows, which sources it holds, the
      generator uses itself: ``generator: {use: kv, method: prefix, reorder: true}``.)
    """

    def __init__(self, by: Literal["best-ends", "document", "stable"] = "best-ends") -> None:
        if by not in get_args(Order):
            raise ValueError(f"by={by!r}: allowed: {', '.join(get_args(Order))}")
        self.by = by

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """Every hit once, scores unchanged, its place in ``why["order"]``."""
        return [hit.placed("order", hit.score, rank) for rank, hit in enumerate(self._ordered(hits), start=1)]

    def _ordered(self, hits: Sequence[Hit]) -> list[Hit]:
        if self.by == "best-ends":
            return [*hits[::2], *hits[1::2][::-1]]
        if self.by == "stable":
            return sorted(hits, key=lambda hit: (hit.chunk.doc_id, hit.chunk.span, hit.chunk.id))
        rank_of: dict[str, int] = {}
        for rank, hit in enumerate(hits):
            rank_of.setdefault(hit.chunk.doc_id, rank)
        return sorted(hits, key=lambda hit: (rank_of[hit.chunk.doc_id], hit.chunk.span))
