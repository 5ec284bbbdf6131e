"""All documents laid end to end, in characters and in tokens. Knows no question and no chunker.

A token is counted where its first character that is no blank stands, so counts add up: an interval has as many tokens as its two
halves together, whatever the vocabulary does with the blank before a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from rag.core import Document, Span, Tokenizer
from rag.eval.overlap import Intervals, intervals


class Axis:
    """Characters of the documents of one set, numbered through, and their tokens, numbered through as well.

    Raises ``ValueError`` if a document is there twice.
    """

    def __init__(self, documents: Sequence[Document], tokenizer: Tokenizer) -> None:
        self._first: dict[str, int] = {}
        starts: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        ends: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        num_chars = 0
        for document in documents:
            if document.id in self._first:
                raise ValueError(f"document {document.source!r} stands twice in the set")
            self._first[document.id] = num_chars
            own = intervals(_without_blanks(document.text, tokenizer.spans(document.text))) + num_chars
            starts.append(own[:, 0])
            ends.append(own[:, 1])
            num_chars += len(document.text)
        self.num_chars = num_chars
        self._starts, self._ends = np.concatenate(starts), np.concatenate(ends)
        self.num_tokens = len(self._starts)

    def chars(self, doc_id: str, spans: Iterable[tuple[int, int]]) -> Intervals:
        """Spans of one document as intervals of characters. Raises ``ValueError`` for a document that is not of this set."""
        if doc_id not in self._first:
            raise ValueError(f"document {doc_id!r} is not of this set")
        return intervals(spans) + self._first[doc_id]

    def tokens(self, chars: Intervals) -> Intervals:
        """The tokens that start in each interval of characters, as intervals of tokens."""
        return np.searchsorted(self._starts, chars).astype(np.int64)

    def cut(self, chars: Intervals, tokens: Intervals, costs: NDArray[np.int64], budget: int) -> tuple[Intervals, Intervals, bool]:
        """The head of a list that fits into ``budget`` tokens, as characters and as tokens, and whether the list went on.

        ``costs``: tokens that each item takes before its text (its context). The item that does not fit whole keeps what fits of it,
        as a prompt would: every list is cut at the same number of tokens, and big items are not left out for being big.
        """
        lengths = tokens[:, 1] - tokens[:, 0]
        before = np.concatenate([[0], np.cumsum(costs + lengths)])
        num_whole = int(np.searchsorted(before, budget, side="right")) - 1
        went_on = bool(before[-1] >= budget)
        if num_whole >= len(tokens):
            return chars, tokens, went_on
        room = budget - int(before[num_whole]) - int(costs[num_whole])
        if room <= 0:
            return chars[:num_whole], tokens[:num_whole], went_on
        head_chars, head_tokens = chars[: num_whole + 1].copy(), tokens[: num_whole + 1].copy()
        head_tokens[-1, 1] = head_tokens[-1, 0] + room
        head_chars[-1, 1] = self._ends[head_tokens[-1, 1] - 1]
        return head_chars, head_tokens, went_on


def _without_blanks(text: str, spans: Iterable[Span]) -> list[tuple[int, int]]:
    """``spans`` from their first character that is no blank; those of nothing but blanks are gone."""
    solid = []
    for start, end in spans:
        while start < end and text[start].isspace():
            start += 1
        if start < end:
            solid.append((start, end))
    return solid
