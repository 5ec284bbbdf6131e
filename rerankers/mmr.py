"""Trades relevance against repetition, one hit at a time. Knows how alike texts are; knows no corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rag.core import Encoder, Hit, Tokenizer
from rag.rerankers.likeness import check_trade, vectors_of
from rag.rerankers.worth import token_costs, unit_scores


class MMRSelector:
    """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): the next hit has the greatest

    ``relevance * r - (1 - relevance) * (the greatest cosine with a hit that was taken before)``,

    where ``r`` is its score scaled to 0 to 1 among the hits given. At most ``k`` hits (``null``: any number) and ``max_tokens``
    tokens, contexts included; a hit that does not fit any more is passed over, the first is always taken. ``by``: cosines of
    ``words`` (TF-IDF over the hits given) or of the ``encoder``, which then reads all of them in one call. ``relevance: 1`` is
    ``top``.

    Measured on chunking_evaluation, at equal numbers of tokens, it brought no more of the answers than the ranking itself, and less
    within 200 and 400 (``bench/selection.py``): it is meant for collections that say the same thing often, and for questions with
    several sides.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None = None,
        encoder: Encoder | None = None,
        relevance: float = 0.7,
        k: int | None = 5,
        max_tokens: int | None = None,
        by: Literal["words", "encoder"] = "words",
    ) -> None:
        check_trade(tokenizer, encoder, relevance, k, max_tokens, by)
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.relevance = relevance
        self.k = k
        self.max_tokens = max_tokens
        self.by: Literal["words", "encoder"] = by

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """The hits as they were taken, each with the value it had then, which never rises. Equal values: the earlier hit."""
        if not hits:
            return []
        import numpy as np

        texts = vectors_of(query, [hit.chunk.indexed_text for hit in hits], self.by, self.encoder).texts
        costs = np.zeros(len(hits)) if self.max_tokens is None else np.array(token_costs(self._counting(), hits))
        room = np.inf if self.max_tokens is None else max(self.max_tokens, 0)
        worth = self.relevance * np.array(unit_scores(hits))
        repeated = np.zeros(len(hits))
        is_open = np.ones(len(hits), dtype=bool)
        taken: list[Hit] = []
        while len(taken) < (self.k or len(hits)):
            allowed = is_open & (costs <= room) if taken else is_open & ((costs <= room) | ~(costs <= room).any())
            if not allowed.any():
                break
            values = np.where(allowed, worth - (1 - self.relevance) * repeated, -np.inf)
            best = int(np.argmax(values))
            taken.append(hits[best].placed("mmr", float(values[best]), len(taken) + 1))
            is_open[best] = False
            room -= costs[best]
            repeated = np.maximum(repeated, texts @ texts[best])
        return taken

    def _counting(self) -> Tokenizer:
        assert self.tokenizer is not None  # see check_tokenizer
        return self.tokenizer
