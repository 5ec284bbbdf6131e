"""From sentences to chunks, for chunkers that only decide where a new topic begins. Knows layout and tokens, no way to decide.

*Units* are what is never cut unless it alone is too long: a sentence with the heading above it, a table, a list, a row of a
table that is too long.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise

from rag.chunkers.assemble import check_limit, chunks_of, within_limit
from rag.chunkers.context import ContextWriter
from rag.chunkers.layout import Block, Layout
from rag.chunkers.pack import Level, spans_of, split
from rag.chunkers.ruler import Ruler
from rag.chunkers.units import fitted, unit_levels, unit_starts
from rag.core import Chunk, Document, Span, Splitter, Tokenizer

WHOLE = frozenset({"table", "list", "code"})

Beginnings = Callable[[Sequence[Span]], Collection[int]]
"""``beginnings(units)``: the numbers of the units with which something new begins. Units fill the text without gaps."""


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

    def chunks(self, document: Document, beginnings: Beginnings) -> list[Chunk]:
        """The chunks of ``document``; ``beginnings`` is called once, and not at all for a blank text."""
        text = document.text
        layout = Layout(document)
        if not layout.blocks:
            return []
        ruler = Ruler(text, self.tokenizer)
        levels = unit_levels(text, layout)
        starts = self._units(ruler, layout, levels)
        begun = {starts[number] for number in beginnings(spans_of(starts, len(text)))}
        begun.update(block.span.start for before, block in layout.starting(0, len(text)) if _is_section(before, block))
        pieces = self._pieces(ruler, starts, begun)
        between = Level(lambda start, end: starts[bisect_right(starts, start) : bisect_left(starts, end)])

        def recut(span: Span, max_tokens: int) -> list[Span]:
            return spans_of(split(ruler, *span, [between, *levels], max_tokens), span.end)

        spans = within_limit(text, spans_of(pieces, len(text)), self.tokenizer, self.max_tokens, recut, ruler)
        return chunks_of(document, spans, layout.meta, ContextWriter(document, layout, self.tokenizer, self.max_context_tokens))

    def _units(self, ruler: Ruler, layout: Layout, levels: Sequence[Level]) -> list[int]:
        """Where units start: those of ``rag.chunkers.units``, but tables, lists and code that fit are one each."""
        starts = unit_starts(ruler, layout, self.splitter, self.max_tokens)
        inside: set[int] = set()
        for block in layout.blocks:
            if block.kind in WHOLE and ruler.count(*block.span) <= self.max_tokens:
                inside.update(starts[bisect_right(starts, block.span.start) : bisect_left(starts, block.span.end)])
        return fitted(ruler, [start for start in starts if start not in inside], levels, self.max_tokens)

    def _pieces(self, ruler: Ruler, starts: Sequence[int], begun: Collection[int]) -> list[int]:
        """Where chunks start. One walk over the units; ``num_before[i]`` tokens stand before unit ``i``."""
        num_before = ruler.indexes([*starts, len(ruler.text)])
        pieces = [0]  # numbers of units: everything between two beginnings, cut where it is too long
        for number in range(1, len(starts)):
            if starts[number] in begun or num_before[number + 1] - num_before[pieces[-1]] > self.max_tokens:
                pieces.append(number)
        merged = [0]
        for piece, following in pairwise([*pieces[1:], len(starts)]):
            if num_before[following] - num_before[merged[-1]] > self.target_tokens:
                merged.append(piece)
        return [starts[number] for number in merged]


def _is_section(before: Block, block: Block) -> bool:
    return block.kind == "heading" and before.kind != "heading"
