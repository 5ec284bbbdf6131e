"""How well sentences fit a question: by words, by an encoder or by a reranker. Knows sentences of hits; cuts nothing.

By words it is BM25 over the sentences at hand (Robertson and Zaragoza, 2009; k1 0.9, b 0.4, Lucene's idf), on roots of words that
carry meaning.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rag.core import Encoder, Hit, Reranker, Span
from rag.rerankers.likeness import terms
from rag.sentences import sentence_spans

ScoredBy = Literal["words", "encoder", "reranker"]

K1, B = 0.9, 0.4


@dataclass(frozen=True, slots=True)
class Sentence:
    """Sentence ``number`` of the chunk of hit ``row``; ``span`` counts characters of the document."""

    row: int
    number: int
    hit: Hit
    span: Span

    @property
    def text(self) -> str:
        """Its characters."""
        start = self.hit.chunk.span.start
        return self.hit.chunk.text[self.span.start - start : self.span.end - start]


def sentences_of(hits: Sequence[Hit]) -> list[Sentence]:
    """The sentences of every hit, in order. What stands in two chunks that overlap belongs to the first hit that holds it."""
    found: list[Sentence] = []
    seen: set[tuple[str, Span]] = set()
    for row, hit in enumerate(hits):
        start = hit.chunk.span.start
        for number, local in enumerate(sentence_spans(hit.chunk.text)):
            span = Span(start + local.start, start + local.end)
            if (hit.chunk.doc_id, span) not in seen:
                seen.add((hit.chunk.doc_id, span))
                found.append(Sentence(row, number, hit, span))
    return found


def by_words(query: str, texts: Sequence[str]) -> list[float]:
    """BM25 of each text among ``texts``, none below 0."""
    counted = [Counter(terms(text)) for text in texts]
    wanted = set(terms(query))
    held = Counter(term for counts in counted for term in counts.keys() & wanted)
    idf = {term: math.log(1 + (len(texts) - number + 0.5) / (number + 0.5)) for term, number in held.items()}
    lengths = [sum(counts.values()) for counts in counted]
    mean_length = sum(lengths) / len(lengths) if any(lengths) else 1.0
    return [
        sum(
            idf[term] * counts[term] / (counts[term] + K1 * (1 - B + B * length / mean_length))
            for term in sorted(counts.keys() & wanted)  # sorted: sums of one order, equal in every process
        )
        for counts, length in zip(counted, lengths, strict=True)
    ]


def by_encoder(encoder: Encoder, query: str, texts: Sequence[str]) -> list[float]:
    """Cosine with the question, of all texts in one call."""
    vectors = encoder.encode_documents(texts)
    return [float(cosine) for cosine in vectors @ encoder.encode_queries([query])[0]]


def by_reranker(reranker: Reranker, query: str, sentences: Sequence[Sentence]) -> list[float]:
    """The scores of one call. Raises ``ValueError`` if the reranker leaves some out, since it then says nothing of those."""
    parts = [Hit(sentence.hit.chunk.part(sentence.span), 0.0) for sentence in sentences]
    scores = {(hit.chunk.doc_id, hit.chunk.span): hit.score for hit in reranker.rerank(query, parts)}
    missing = sum((part.chunk.doc_id, part.chunk.span) not in scores for part in parts)
    if missing:
        raise ValueError(f"reranker {type(reranker).__name__} left out {missing} of {len(parts)} sentences; it must score all")
    return [scores[part.chunk.doc_id, part.chunk.span] for part in parts]
