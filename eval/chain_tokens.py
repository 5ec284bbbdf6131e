"""How many of the evidence's tokens a stage hands on, and at equal numbers of returned tokens. Knows intervals; knows no pipeline.

The measures are those of ``rag.eval.overlap``. ``select`` and ``prompt`` are measured as they are; the last ranking before the selection is cut
at each budget of returned tokens (contexts included), so that chunkers of different sizes meet on equal terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rag.core import Chunk, Hit, Span
from rag.eval.axis import Axis
from rag.eval.chain_stages import PROMPT, RETRIEVE, SELECT
from rag.eval.overlap import Intervals, overlap, precision_omega, size, union
from rag.eval.span_measures import placed

BUDGETS = (100, 200, 400, 800, 1600)
OMEGA = "chunk/precision_omega"

Stages = Sequence[tuple[str, Sequence[Hit], float | None]]


def at_budget(budget: int, measure: str = "recall") -> str:
    """The name of a measure (``recall``, ``precision``, ``iou``) of the last ranking cut at ``budget`` tokens."""
    return f"ranking/{measure}@{budget}_tokens"


class TokenMeasures:
    """Measures stages against evidence. ``count``: tokens of a context; ``chunks``: all there are."""

    def __init__(
        self, axis: Axis, count: Callable[[str], int], chunks: Mapping[str, Sequence[Chunk]], budgets: Sequence[int]
    ) -> None:
        self._axis, self._count, self._budgets = axis, count, budgets
        self._chunks = placed(axis, [chunk for own in chunks.values() for chunk in own])["tokens"]
        self._costs: dict[str, int] = {"": 0}

    def of(self, evidence: Sequence[tuple[str, Span]], stages: Stages) -> dict[str, float]:
        """``STAGE/token_recall``, ``.../token_precision``, ``.../token_iou``, and the three of the ranking at each budget; empty without evidence."""
        each = [self._axis.chars(doc, [span]) for doc, span in evidence]
        wanted = self._axis.tokens(np.concatenate(each)) if each else np.empty((0, 2), dtype=np.int64)
        if not size(wanted):
            return {}
        wanted = union(wanted)
        measures = {OMEGA: precision_omega(wanted, self._chunks)}
        ranking: Sequence[Hit] = ()
        for stage, hits, _ in stages:
            if stage in (SELECT, PROMPT):
                _, tokens = self._placed(hits)
                found = overlap(wanted, tokens)
                measures.update({f"{stage}/token_{name}": value for name, value in found._asdict().items()})
                measures[f"{stage}/tokens"] = float(size(tokens) + int(self._added(hits).sum()))
            elif stage != RETRIEVE:
                ranking = hits
        chars, tokens = self._placed(ranking)
        for budget in self._budgets if stages else ():
            _, head, _ = self._axis.cut(chars, tokens, self._added(ranking), budget)
            measures.update({at_budget(budget, name): value for name, value in overlap(wanted, head)._asdict().items()})
        return measures

    def _placed(self, hits: Sequence[Hit]) -> tuple[Intervals, Intervals]:
        both = placed(self._axis, [hit.chunk for hit in hits])
        return both["characters"], both["tokens"]

    def _added(self, hits: Sequence[Hit]) -> NDArray[np.int64]:
        """Tokens of the context of each hit."""
        for context in {hit.chunk.context for hit in hits} - self._costs.keys():
            self._costs[context] = self._count(context)
        return np.array([self._costs[hit.chunk.context] for hit in hits], dtype=np.int64)
