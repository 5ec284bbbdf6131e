"""Shows hits with what stands around them in their documents. Knows the corpus by its protocol; searches nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rag.core import Chunk, Corpus, Hit
from rag.rerankers.joined import Ranked, join, number_of, placed
from rag.rerankers.worth import check_limits


class NeighboursSelector:
    """The ``k`` best hits, each with ``before`` chunks before it and ``after`` behind it; chunks that then stand side by side are one.

    Only documents of the hits are read, so nobody sees more documents than without it. The joined chunk has exactly the document's
    characters; score and ``why`` are those of its best hit. A piece of a chunk (``compress``) becomes whole again. It makes hits
    larger: a ``budget`` after it (``use: steps``) says how large they may be together.
    """

    def __init__(self, corpus: Corpus, before: int = 1, after: int = 1, k: int = 5) -> None:
        check_limits(k=k)
        for name, value in (("before", before), ("after", after)):
            if value < 0:
                raise ValueError(f"{name}={value}: must be at least 0")
        self.corpus = corpus
        self.before = before
        self.after = after
        self.k = k

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """At most ``k`` hits, those of better hits first, ``why["neighbours"]`` added."""
        found: list[Ranked] = []
        chunks: dict[str, dict[int, Chunk]] = {}  # document -> number in it -> chunk
        shown: dict[str, dict[int, list[Ranked]]] = {}  # document -> number in it -> hits that start there
        for rank, hit in enumerate(hits[: self.k]):
            stretch = self.corpus.near(hit.chunk.doc_id, hit.chunk.span, self.before, self.after)
            if not stretch.chunks:  # the document is gone
                found.append((rank, hit))
                continue
            chunks.setdefault(hit.chunk.doc_id, {}).update(enumerate(stretch.chunks, start=stretch.first))
            shown.setdefault(hit.chunk.doc_id, {}).setdefault(number_of(hit, stretch), []).append((rank, hit))
        for doc_id, numbered in chunks.items():
            for run in _runs(sorted(numbered)):
                inside = [ranked for number in run for ranked in shown[doc_id].get(number, ())]
                found += join(self.corpus, [numbered[number] for number in run], inside)
        return placed("neighbours", found)


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Ascending numbers in runs without a gap."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs
