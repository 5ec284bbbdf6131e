"""Keeps the sentences that answer and drops the rest; every piece is an exact stretch of its document. Knows no index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from rag.core import Chunk, Encoder, Hit, Reranker, Span, Tokenizer
from rag.rerankers.sentence_scores import ScoredBy, Sentence, by_encoder, by_reranker, by_words, sentences_of
from rag.rerankers.worth import check_limits, check_share, unit_scores


class CompressSelector:
    """Extractive compression: the best sentences of all hits, as many as fit, each run of neighbours as a hit of its own.

    A sentence is worth its own score plus ``hit_weight`` times that of its hit, both scaled to 0 to 1 over all that are given.
    ``by``: scores of ``words`` (BM25 over the sentences), of the ``encoder`` (cosine), or of the ``reranker`` (a block). Sentences
    are kept best first while the pieces, each with its chunk's context, have at most ``max_tokens`` tokens together; ``min_share``:
    none is kept that is worth less than this share of the best. Kept sentences of one chunk with at most ``max_gap`` dropped ones
    between them are one piece, those included.

    A piece is ``chunk.part(span)``: its text is the document's, so citations stay exact, and its meta has the id of its
    ``parent_chunk``. The best sentence is kept even if it alone is above the limit. A chunk without a sentence (blanks only) is
    dropped.

    Of the answers to 236 questions of chunking_evaluation it brought 72 % of the tokens within 200 tokens, where the ranking cut
    there brings 60 %, and 84 instead of 79 % within 400; from 1,600 tokens on there is no difference by words
    (``bench/selection.py``). What reads best to a model, whole chunks or sentences, was not measured; and a generator that reuses
    keys and values of chunks has none for pieces.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        encoder: Encoder | None = None,
        reranker: Reranker | None = None,
        by: Literal["words", "encoder", "reranker"] = "words",
        max_tokens: int = 800,
        min_share: float | None = None,
        hit_weight: float = 1.0,
        max_gap: int = 1,
    ) -> None:
        if by not in get_args(ScoredBy):
            raise ValueError(f"by={by!r}: allowed: {', '.join(get_args(ScoredBy))}")
        for name, part in (("encoder", encoder), ("reranker", reranker)):
            if by == name and part is None:
                raise ValueError(f"by={by!r}: there is no {name}; by='words' needs none")
        check_limits(max_tokens=max_tokens)
        check_share(min_share=min_share)
        for name, value in (("hit_weight", hit_weight), ("max_gap", max_gap)):
            if value < 0:
                raise ValueError(f"{name}={value}: must be at least 0")
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.reranker = reranker
        self.by: ScoredBy = by
        self.max_tokens = max_tokens
        self.min_share = min_share
        self.hit_weight = hit_weight
        self.max_gap = max_gap

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """The pieces, by hit and then by place; score and ``why`` of the hit they were cut from, ``why["compress"]`` added."""
        sentences = sentences_of(hits)
        if not sentences:
            return []
        worth = self._worth(query, hits, sentences)
        pieces = self._pieces(hits, sentences, worth)
        kept = [(hits[row], chunk) for row in sorted(pieces) for chunk in pieces[row]]
        return [
            Hit(chunk, hit.score, hit.why).placed("compress", hit.score, rank) for rank, (hit, chunk) in enumerate(kept, start=1)
        ]

    def _worth(self, query: str, hits: Sequence[Hit], sentences: Sequence[Sentence]) -> list[float]:
        if self.by == "reranker":
            assert self.reranker is not None  # see __init__
            scores = by_reranker(self.reranker, query, sentences)
        elif self.by == "encoder":
            assert self.encoder is not None
            scores = by_encoder(self.encoder, query, [sentence.text for sentence in sentences])
        else:
            scores = by_words(query, [sentence.text for sentence in sentences])
        own = unit_scores([Hit(sentence.hit.chunk, score) for sentence, score in zip(sentences, scores, strict=True)])
        of_hit = unit_scores(hits)
        return [score + self.hit_weight * of_hit[sentence.row] for sentence, score in zip(sentences, own, strict=True)]

    def _pieces(self, hits: Sequence[Hit], sentences: Sequence[Sentence], worth: Sequence[float]) -> dict[int, list[Chunk]]:
        """Row of a hit -> its pieces in order. A sentence that would lift the whole above the limit is passed over."""
        pieces: dict[int, list[Chunk]] = {}
        kept: dict[int, list[Sentence]] = {}
        costs: dict[int, int] = {}
        order = sorted(range(len(sentences)), key=lambda number: -worth[number])
        floor = None if self.min_share is None else self.min_share * worth[order[0]]
        for place in order:
            if floor is not None and worth[place] < floor:
                break
            row = sentences[place].row
            trial = sorted([*kept.get(row, ()), sentences[place]], key=lambda sentence: sentence.number)
            cut = [hits[row].chunk.part(span) for span in _runs(trial, self.max_gap)]
            cost = sum(self.tokenizer.count(piece.indexed_text) for piece in cut)
            if pieces and sum(costs.values()) - costs.get(row, 0) + cost > self.max_tokens:
                continue
            kept[row], pieces[row], costs[row] = trial, cut, cost
            if sum(costs.values()) >= self.max_tokens:
                break
        return pieces


def _runs(sentences: Sequence[Sentence], max_gap: int) -> list[Span]:
    """Characters of each run of sentences between which at most ``max_gap`` are missing; ``sentences``: of one chunk, in order."""
    runs: list[Span] = []
    last_number = 0
    for sentence in sentences:
        if runs and sentence.number - last_number <= max_gap + 1:
            runs[-1] = Span(runs[-1].start, sentence.span.end)
        else:
            runs.append(sentence.span)
        last_number = sentence.number
    return runs
