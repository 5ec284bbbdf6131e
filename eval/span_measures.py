"""From lists of hits to a value per question and measure, and from chunks to agreement with topics. Knows no pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rag.core import Chunk, Document, Hit
from rag.eval.axis import Axis
from rag.eval.chunking_report import OMEGA, UNITS, Segmented, at_budget, at_k
from rag.eval.overlap import Intervals, overlap, precision_omega, size
from rag.eval.segmentation_scores import boundary_f1, cuts_of, even_cuts, pk, window_diff
from rag.eval.span_set import SpanQuestion, Topics

MEASURES = ("recall", "precision", "iou")
TOLERANCE_UNITS = 2

Both = Mapping[str, Intervals]
"""The same intervals by unit: ``tokens`` and ``characters``."""


class SpanMeasures:
    """Unit -> measure -> a value per question, in the order in which ``note`` heard of them.

    ``returned_tokens``: of the first ``k`` chunks of each question, context included. ``num_short``: budget -> questions whose list
    ended before it though there were more chunks.
    """

    def __init__(self, axis: Axis, k: int, budgets: Sequence[int]) -> None:
        self._axis, self._k, self._budgets = axis, k, budgets
        self.values: dict[str, dict[str, list[float]]] = {unit: {} for unit in UNITS}
        self.returned_tokens: list[int] = []
        self.num_short = dict.fromkeys(budgets, 0)

    def note(self, wanted: Both, hits: Sequence[Hit], costs: Mapping[str, int], chunks: Both, num_searched: int) -> None:
        """Measures one question. ``costs``: context -> its tokens; ``chunks``: all there are, for Precision-Omega;
        ``num_searched``: how many of them could have been found.
        """
        lists = placed(self._axis, [hit.chunk for hit in hits])
        added: NDArray[np.int64] = np.array([costs[hit.chunk.context] for hit in hits], dtype=np.int64)
        head = {unit: lists[unit][: self._k] for unit in UNITS}
        self.returned_tokens.append(size(head["tokens"]) + int(added[: self._k].sum()))
        self._overlaps({name: at_k(name, self._k) for name in MEASURES}, wanted, head)
        for budget in self._budgets:
            chars, tokens, went_on = self._axis.cut(lists["characters"], lists["tokens"], added, budget)
            self.num_short[budget] += not went_on and len(hits) < num_searched
            self._overlaps({name: at_budget(name, budget) for name in MEASURES}, wanted, {"tokens": tokens, "characters": chars})
        for unit in UNITS:
            self.values[unit].setdefault(OMEGA, []).append(precision_omega(wanted[unit], chunks[unit]))

    def _overlaps(self, names: Mapping[str, str], wanted: Both, returned: Both) -> None:
        for unit in UNITS:
            for measure, value in overlap(wanted[unit], returned[unit])._asdict().items():
                self.values[unit].setdefault(names[measure], []).append(value)


def placed(axis: Axis, chunks: Sequence[Chunk]) -> dict[str, Intervals]:
    """Where the chunks lie, in both units, in their order."""
    each = [axis.chars(chunk.doc_id, [chunk.span]) for chunk in chunks]
    chars = np.concatenate(each) if each else np.empty((0, 2), dtype=np.int64)
    return {"tokens": axis.tokens(chars), "characters": chars}


def wanted_of(axis: Axis, question: SpanQuestion) -> dict[str, Intervals]:
    """Where the answers lie, in both units. Raises ``ValueError`` if no token starts there or there is no such document."""
    chars = axis.chars(Document.id_of(question.source), question.spans)
    tokens = axis.tokens(chars)
    if not size(tokens):
        raise ValueError(f"no token starts in the spans of the question {question.query!r}: mark whole words")
    return {"tokens": tokens, "characters": chars}


def segmented(topics: Mapping[str, Topics], chunks: Mapping[str, Sequence[Chunk]]) -> Segmented | None:
    """How well chunk starts agree with marked topics, mean over the documents that have them; ``None`` if none has.

    ``chunks``: document id -> its chunks.
    """
    if not topics:
        return None
    found, even, num_marked, num_cuts = [], [], 0, 0
    for source, marked in topics.items():
        cuts = cuts_of(marked.units, [chunk.span for chunk in chunks[Document.id_of(source)]])
        num_marked, num_cuts = num_marked + len(marked.starts), num_cuts + len(cuts)
        found.append(_agreement(marked, cuts))
        even.append(_agreement(marked, even_cuts(len(cuts), len(marked.units))))
    f1, error, difference = np.mean(found, axis=0).tolist()
    names = dict(zip(("f1", "pk", "window_diff"), np.mean(even, axis=0).tolist(), strict=True))
    number = len(topics)
    return Segmented(number, TOLERANCE_UNITS, num_marked / number, num_cuts / number, f1, error, difference, names)


def _agreement(marked: Topics, cuts: Sequence[int]) -> tuple[float, float, float]:
    """Boundary F1, Pk, WindowDiff."""
    number = len(marked.units)
    f1 = boundary_f1(marked.starts, cuts, TOLERANCE_UNITS).f1
    return f1, pk(marked.starts, cuts, number), window_diff(marked.starts, cuts, number)
