"""Shows a whole section where enough of it was found. Knows the corpus by its protocol; searches nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rag.core import Chunk, Corpus, Hit, Stretch, Tokenizer
from rag.rerankers.joined import Ranked, join, number_of, placed
from rag.rerankers.worth import check_limits

Section = tuple[str, int]
"""A document and the number of the section's first chunk in it."""


class ParentsSelector:
    """The ``k`` best hits; those of a section become the section where they are at least ``min_share`` of its chunks.

    A section is the chunks in a row that stand under the same headings (``headings`` in their meta); where a document has none,
    each ``group_size`` chunks, counted from its start. A section with more than ``max_tokens`` tokens, context included, stays in
    pieces. Only documents of the hits are read, so nobody sees more documents than without it; a filter that looks at chunks
    (``page = 3``) chooses hits, not the rest of a section. The joined chunk has exactly the document's characters; score and
    ``why`` are those of its best hit.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        corpus: Corpus,
        min_share: float = 0.5,
        max_tokens: int = 1000,
        group_size: int = 4,
        k: int = 5,
    ) -> None:
        if not 0 < min_share <= 1:
            raise ValueError(f"min_share={min_share}: must be above 0 and at most 1")
        check_limits(max_tokens=max_tokens, group_size=group_size, k=k)
        self.tokenizer = tokenizer
        self.corpus = corpus
        self.min_share = min_share
        self.max_tokens = max_tokens
        self.group_size = group_size
        self.k = k

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """At most ``k`` hits, those of better hits first, ``why["parents"]`` added."""
        ranked = list(enumerate(hits[: self.k]))
        found: list[Ranked] = []
        members: dict[Section, dict[int, Chunk]] = {}
        inside: dict[Section, dict[int, list[Ranked]]] = {}  # section -> number in the document -> hits that start there
        num_hits = Counter(hit.chunk.doc_id for _, hit in ranked)
        for rank, hit in ranked:
            doc_id = hit.chunk.doc_id
            number, section = self._section(hit, num_hits[doc_id] / self.min_share)
            if not section:  # the document is gone
                found.append((rank, hit))
                continue
            key = (doc_id, min(section))
            members.setdefault(key, section)
            inside.setdefault(key, {}).setdefault(number, []).append((rank, hit))
        for key, section in members.items():
            own = [each for some in inside[key].values() for each in some]
            found += self._joined(section, len(inside[key]), own)
        return placed("parents", found)

    def _section(self, hit: Hit, max_chunks: float) -> tuple[int, dict[int, Chunk]]:
        """The number of the chunk in which ``hit`` starts, and the section around it: number -> chunk.

        Of a section with more than ``max_chunks`` chunks, of which too few can have been found, it may be a part.
        """
        reach = self.group_size
        while True:
            stretch = self.corpus.near(hit.chunk.doc_id, hit.chunk.span, reach, reach)
            if not stretch.chunks:
                return 0, {}
            number = number_of(hit, stretch)
            section = self._around(stretch, number)
            goes_on_before = min(section) == stretch.first > 0
            goes_on_behind = max(section) == stretch.first + len(stretch.chunks) - 1 >= number + reach
            if len(section) > max_chunks or not (goes_on_before or goes_on_behind):
                return number, section
            reach *= 2

    def _around(self, stretch: Stretch, number: int) -> dict[int, Chunk]:
        """The chunks of the section around chunk ``number`` by their numbers, as far as ``stretch`` reaches."""
        numbered = dict(enumerate(stretch.chunks, start=stretch.first))
        names = {n: chunk.meta.get("headings") or n // self.group_size for n, chunk in numbered.items()}
        first = last = number
        while names.get(first - 1) == names[number]:
            first -= 1
        while names.get(last + 1) == names[number]:
            last += 1
        return {n: numbered[n] for n in range(first, last + 1)}

    def _joined(self, section: dict[int, Chunk], num_found: int, hits: list[Ranked]) -> list[Ranked]:
        """The section as one hit if enough of it was found and it is not too long, else ``hits``."""
        if num_found < self.min_share * len(section):
            return hits
        whole = join(self.corpus, [section[number] for number in sorted(section)], hits)
        too_long = any(self.tokenizer.count(hit.chunk.indexed_text) > self.max_tokens for _, hit in whole)
        return hits if too_long else whole
