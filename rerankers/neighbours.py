"""Shows hits with what stands around them in their documents. Knows the corpus by its protocol; searches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rag.core import Chunk, Corpus, Hit, Stretch, Tokenizer
from rag.rerankers.joined import Ranked, join, number_of, placed
from rag.rerankers.worth import check_limits, check_tokenizer, token_costs

Place = tuple[str, int]
"""A document and the number of a chunk in it."""


@dataclass(frozen=True, slots=True)
class _Page:
    """What is shown of one document: chunks by their number in it, and the hits by the number of the chunk in which they start."""

    chunks: dict[int, Chunk] = field(default_factory=dict)
    hits: dict[int, list[Ranked]] = field(default_factory=dict)

    def with_chunk(self, number: int, chunk: Chunk, hits: Sequence[Ranked]) -> _Page:
        """This page with one chunk more, shown for ``hits`` or, if there are none, as a neighbour."""
        shown = {**self.hits, number: [*self.hits.get(number, ()), *hits]} if hits else self.hits
        return _Page({**self.chunks, number: chunk}, shown)

    def joined(self, corpus: Corpus) -> list[Ranked]:
        """A hit per run of chunks."""
        runs: list[list[int]] = []
        for number in sorted(self.chunks):
            if runs and number == runs[-1][-1] + 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        found: list[Ranked] = []
        for run in runs:
            inside = [ranked for number in run for ranked in self.hits.get(number, ())]
            found += join(corpus, [self.chunks[number] for number in run], inside)
        return found


class NeighboursSelector:
    """The ``k`` best hits, each with ``before`` chunks before it and ``after`` behind it; chunks side by side become one.

    With ``max_tokens`` (contexts included) the hits come first, as many as fit, and then their neighbours, nearest first, as many
    as fit; the best hit is kept even if it alone is above the limit. Only documents of the hits are read, so nobody sees more
    documents than without it; a filter that looks at chunks (``page = 3``) chooses hits, not their neighbours. The joined chunk has
    exactly the document's characters; score and ``why`` are those of its best hit. A piece of a chunk (``compress``) becomes whole
    again.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer | None = None,
        before: int = 1,
        after: int = 1,
        k: int = 5,
        max_tokens: int | None = None,
    ) -> None:
        check_limits(k=k, max_tokens=max_tokens)
        check_tokenizer(tokenizer, max_tokens)
        for name, value in (("before", before), ("after", after)):
            if value < 0:
                raise ValueError(f"{name}={value}: must be at least 0")
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.before = before
        self.after = after
        self.k = k
        self.max_tokens = max_tokens

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """At most ``k`` hits, those of better hits first, ``why["neighbours"]`` added."""
        pages: dict[str, _Page] = {}
        costs: dict[str, int] = {}
        near: list[tuple[Place, Stretch]] = []

        def show(place: Place, chunk: Chunk, shown_for: Sequence[Ranked] = ()) -> bool:
            doc_id, number = place
            page = pages.get(doc_id, _Page()).with_chunk(number, chunk, shown_for)
            cost = self._cost(page)
            others = sum(costs.values()) - costs.get(doc_id, 0)
            if self.max_tokens is not None and pages and others + cost > self.max_tokens:
                return False
            pages[doc_id], costs[doc_id] = page, cost
            return True

        for rank, hit in enumerate(hits[: self.k]):
            stretch = self.corpus.near(hit.chunk.doc_id, hit.chunk.span, self.before, self.after)
            if not stretch.chunks:  # its document is gone: it stands alone
                show((f"{hit.chunk.doc_id} {rank}", 0), hit.chunk, [(rank, hit)])
                continue
            place = (hit.chunk.doc_id, number_of(hit, stretch))
            if show(place, stretch.chunks[place[1] - stretch.first], [(rank, hit)]):
                near.append((place, stretch))
        for (doc_id, number), chunk, next_to in self._around(near):
            if number not in pages[doc_id].chunks and next_to in pages[doc_id].chunks:
                show((doc_id, number), chunk)
        return placed("neighbours", [ranked for page in pages.values() for ranked in page.joined(self.corpus)])

    def _around(self, near: Sequence[tuple[Place, Stretch]]) -> list[tuple[Place, Chunk, int]]:
        """The neighbours of all places, each with the number of the chunk beside it on the side of its hit.

        Those next to a hit come first, of the best hit first, what follows it before what precedes it.
        """
        found: list[tuple[Place, Chunk, int]] = []
        for distance in range(1, max(self.before, self.after) + 1):
            for (doc_id, number), stretch in near:
                for step, reach in ((1, self.after), (-1, self.before)):
                    other = number + step * distance
                    if distance <= reach and 0 <= other - stretch.first < len(stretch.chunks):
                        found.append(((doc_id, other), stretch.chunks[other - stretch.first], other - step))
        return found

    def _cost(self, page: _Page) -> int:
        """Tokens of a page, if anybody asks."""
        if self.max_tokens is None or self.tokenizer is None:
            return 0
        return sum(token_costs(self.tokenizer, [hit for _, hit in page.joined(self.corpus)]))
