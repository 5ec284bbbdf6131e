"""From sentences to chunks, for chunkers that only decide where a new topic begins. Knows layout and tokens, no way to decide.

*Units* are what is never cut unless it alone is too long: a sentence with the heading above it, a table, a list, a row of a
table that is too long.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection
from itertools import pairwise

from rag.chunkers.assemble import check_limit, chunks_of, within_limit
from rag.chunkers.context import ContextWriter
from rag.chunkers.layout import Block, Layout
from rag.chunkers.pack import Level, spans_of, split
from rag.chunkers.ruler import Ruler
from rag.chunkers.units import fitted, unit_levels, unit_starts
from rag.core import Chunk, Document, Span, Splitter, Tokenizer

WHOLE = frozenset({"table", "list", "code"})


class UnitMerger:
    """Makes chunks of units, given where something new begins.

    Length is a matter of its own, after Meta-Chunking (arXiv 2410.12788): first all units between two beginnings belong
    together; what then is above ``max_tokens`` is cut between its units; last, neighbours are merged, from the left, as long as they
    have at most ``target_tokens`` together (default: ``max_tokens``). Headings always begin something new, so a section is
    merged with the one before it only as a whole. Raises ``ValueError`` for limits that cannot be kept.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int,
        target_tokens: int | None,
        max_context_tokens: int,
        splitter: Splitter | None = None,
    ) -> None:
        check_limit(max_tokens)
        self.target_tokens = max_tokens if target_tokens is None else target_tokens
        if not 1 <= self.target_tokens <= max_tokens:
            raise ValueError(f"target_tokens={target_tokens}: must be between 1 and {max_tokens} (max_tokens)")
        if max_context_tokens < 0:
            raise ValueError(f"max_context_tokens={max_context_tokens}: must be at least 0")
        self.tokenizer = tokenizer
        self.splitter = splitter
        self.max_tokens = max_tokens
        self.max_context_tokens = max_context_tokens

    def cut(self, document: Document) -> Cut:
        """The units of ``document``: those of ``rag.chunkers.units``, but tables, lists and code that fit are one each."""
        return Cut(self, document)


class Cut:
    """One document in units, which fill its text without gaps; a blank text has none."""

    def __init__(self, merger: UnitMerger, document: Document) -> None:
        self._merger, self._document, self._layout = merger, document, Layout(document)
        self._starts: list[int] = []
        if self._layout.blocks:
            self._ruler = Ruler(document.text, merger.tokenizer)
            self._levels = unit_levels(document.text, self._layout)
            self._starts = self._unit_starts()
        self.units = spans_of(self._starts, len(document.text)) if self._starts else []

    def _unit_starts(self) -> list[int]:
        ruler, layout, max_tokens = self._ruler, self._layout, self._merger.max_tokens
        starts = unit_starts(ruler, layout, self._merger.splitter, max_tokens)
        inside: set[int] = set()
        for block in layout.blocks:
            if block.kind in WHOLE and ruler.count(*block.span) <= max_tokens:
                inside.update(starts[bisect_right(starts, block.span.start) : bisect_left(starts, block.span.end)])
        return fitted(ruler, [start for start in starts if start not in inside], self._levels, max_tokens)

    def chunks(self, beginnings: Collection[int]) -> list[Chunk]:
        """The chunks, given the numbers of the units with which something new begins."""
        if not self.units:
            return []
        merger, document, layout, starts = self._merger, self._document, self._layout, self._starts
        text = document.text
        begun = {starts[number] for number in beginnings}
        begun.update(block.span.start for before, block in layout.starting(0, len(text)) if _is_section(before, block))
        pieces = self._pieces(begun)
        between = Level(lambda start, end: starts[bisect_right(starts, start) : bisect_left(starts, end)])

        def recut(span: Span, max_tokens: int) -> list[Span]:
            return spans_of(split(self._ruler, *span, [between, *self._levels], max_tokens), span.end)

        spans = within_limit(text, spans_of(pieces, len(text)), merger.tokenizer, merger.max_tokens, recut, self._ruler)
        return chunks_of(document, spans, layout.meta, ContextWriter(document, layout, merger.tokenizer, merger.max_context_tokens))

    def _pieces(self, begun: Collection[int]) -> list[int]:
        """Where chunks start. One walk over the units; ``num_before[i]`` tokens stand before unit ``i``."""
        starts, merger = self._starts, self._merger
        num_before = self._ruler.indexes([*starts, len(self._ruler.text)])
        pieces = [0]  # numbers of units: everything between two beginnings, cut where it is too long
        for number in range(1, len(starts)):
            if starts[number] in begun or num_before[number + 1] - num_before[pieces[-1]] > merger.max_tokens:
                pieces.append(number)
        merged = [0]
        for piece, following in pairwise([*pieces[1:], len(starts)]):
            if num_before[following] - num_before[merged[-1]] > merger.target_tokens:
                merged.append(piece)
        return [starts[number] for number in merged]


def _is_section(before: Block, block: Block) -> bool:
    return block.kind == "heading" and before.kind != "heading"
