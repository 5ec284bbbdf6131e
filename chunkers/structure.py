"""Chunks that follow the layout: sections, tables, lists, paragraphs. Knows elements; knows no file format and no model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from rag.chunkers.assemble import check_limit, chunks_of, within_limit
from rag.chunkers.breaks import Breaks, starts_section
from rag.chunkers.context import ContextWriter
from rag.chunkers.layout import DEEPEST_LEVEL, Layout
from rag.chunkers.pack import spans_of, split, spread_tail
from rag.chunkers.recursive import GENTLE, text_levels
from rag.chunkers.ruler import Ruler
from rag.core import Chunk, Document, Span, Tokenizer


class StructureChunker:
    """Sections first, then whole paragraphs, lists and tables, as many as ``max_tokens`` allow; the default chunker.

    Lossless: every character that is not blank is in a chunk.

    - A heading of level ``section_level`` or above starts a new chunk, unless ``merge_small`` joins it: a whole section under
      ``min_tokens`` (by default a fifth of ``max_tokens``) goes with a neighbour if the two fit together.
    - A heading stays with what follows it, a caption with its table or figure, a list with the line that introduces it.
    - Tables are cut between rows, lists between items, code between lines, paragraphs between sentences. A row is cut
      (between cells, if that helps) only if it alone is above the limit.
    - The context of a chunk is the title of the document and the headings above the chunk, ``Title > Section``, and, for a
      chunk that starts inside a table, the table's head. It has at most ``max_context_tokens`` tokens (0: none), so an
      encoder reads at most ``max_tokens + max_context_tokens`` and its special tokens. What does not fit is cut at the outer end.

    A document without elements is cut as the recursive chunker would.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int = 200,
        min_tokens: int | None = None,
        section_level: int = 3,
        merge_small: bool = True,
        max_context_tokens: int = 40,
    ) -> None:
        self.min_tokens = max_tokens // 5 if min_tokens is None else min_tokens
        check_limit(max_tokens, min_tokens=self.min_tokens)
        if not 0 <= section_level <= DEEPEST_LEVEL:
            raise ValueError(f"section_level={section_level}: must be between 0 (no section is kept apart) and {DEEPEST_LEVEL}")
        if max_context_tokens < 0:
            raise ValueError(f"max_context_tokens={max_context_tokens}: must be at least 0")
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.section_level = section_level
        self.merge_small = merge_small
        self.max_context_tokens = max_context_tokens

    def chunk(self, document: Document) -> list[Chunk]:
        text = document.text
        ruler = Ruler(text, self.tokenizer)
        layout = Layout(document)
        breaks = Breaks(layout, text)
        levels = breaks.levels(self.section_level) if layout.has_elements else text_levels(text)
        gentle = breaks.gentle_levels(self.section_level) if layout.has_elements else levels[:GENTLE]

        def recut(span: Span, max_tokens: int) -> list[Span]:
            return spans_of(split(ruler, *span, levels, max_tokens), span.end)

        sections = []
        for section in self._sections(layout, len(text)):
            starts = split(ruler, *section, levels, self.max_tokens, self.min_tokens)
            starts = spread_tail(ruler, starts, section.end, gentle, self.min_tokens, self.max_tokens)
            sections.append(spans_of(starts, section.end))
        spans = self._merge_small(ruler, layout, sections) if self.merge_small else chain.from_iterable(sections)
        spans = within_limit(text, spans, self.tokenizer, self.max_tokens, recut, ruler)
        return chunks_of(document, spans, layout.meta, ContextWriter(document, layout, self.tokenizer, self.max_context_tokens))

    def _sections(self, layout: Layout, end: int) -> list[Span]:
        """Stretches between headings; a heading right after a heading above it starts no section of its own."""
        starts = [0]
        for before, block in layout.starting(0, end):
            if starts_section(before, block, self.section_level):
                starts.append(block.span.start)
        return spans_of(starts, end)

    def _merge_small(self, ruler: Ruler, layout: Layout, sections: Sequence[Sequence[Span]]) -> list[Span]:
        """The spans of all sections; a section under ``min_tokens`` is joined to a neighbouring span if both fit together."""
        merged: list[Span] = []
        last_is_section = False
        for number, spans in enumerate(sections):
            is_section = len(spans) == 1
            if merged and (last_is_section or is_section):
                joined = Span(merged[-1].start, spans[0].end)
                is_small = last_is_section and self._is_small(ruler, merged[-1])
                is_small = is_small or (is_section and self._is_small(ruler, spans[0]))
                following = sections[number + 1][0] if is_section and number + 1 < len(sections) else None
                if is_small and ruler.count(*joined) <= self.max_tokens and not self._opens(ruler, layout, spans[0], following):
                    merged[-1] = joined
                    merged += spans[1:]
                    last_is_section = last_is_section and is_section
                    continue
            merged += spans
            last_is_section = is_section
        return merged

    def _is_small(self, ruler: Ruler, span: Span) -> bool:
        return ruler.count(*span) < self.min_tokens

    def _opens(self, ruler: Ruler, layout: Layout, section: Span, following: Span | None) -> bool:
        """Whether a small section is better joined to the following one, because that lies below its heading."""
        if following is None or not (layout.overlapping(*section) and layout.overlapping(*following)):
            return False
        above = layout.path(section)
        is_below = bool(above) and above[-1].start >= section.start and layout.path(following)[: len(above)] == above
        return is_below and self._is_small(ruler, section) and ruler.count(section.start, following.end) <= self.max_tokens
