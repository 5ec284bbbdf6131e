"""The words put before a chunk that are not in it: title, headings, table head. Knows layout and a token limit."""

from __future__ import annotations

import re

from rag.chunkers.layout import Layout
from rag.chunkers.ruler import Ruler
from rag.core import Document, Span, Tokenizer

HEADING_SEPARATOR = " > "
_EMPTY_CELLS = re.compile(r"\s*\|[\s|]*")


class ContextWriter:
    """``writer(span)``: the context of a chunk, at most ``max_tokens`` tokens.

    The document's title and the headings above the chunk, outermost first, without those that the chunk itself holds; on
    the next line the head of the table inside which the chunk starts. Where it is too long, the outermost heading goes first, the end of the table head last.
    """

    def __init__(self, document: Document, layout: Layout, tokenizer: Tokenizer, max_tokens: int) -> None:
        title = document.meta.get("title")
        self._title = " ".join(title.split()) if isinstance(title, str) else ""
        self._text = document.text
        self._layout = layout
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._known: dict[tuple[tuple[str, ...], str], str] = {}

    def __call__(self, span: Span) -> str:
        if not self._max_tokens:
            return ""
        key = (self._headings(span), self._table_head(span))
        if key not in self._known:
            self._known[key] = self._fitted(*key)
        return self._known[key]

    def _headings(self, span: Span) -> tuple[str, ...]:
        path = self._layout.path(span)
        headings = tuple(heading.text for heading in path if heading.start < span.start)
        is_titled = not self._title or (path and path[0].text.casefold() == self._title.casefold())
        return headings if is_titled else (self._title, *headings)

    def _table_head(self, span: Span) -> str:
        block = self._layout.overlapping(*span)[0]
        rows, num_header_rows = block.element.rows, block.element.num_header_rows
        if block.kind != "table" or not 0 < num_header_rows < len(rows) or span.start < rows[num_header_rows].start:
            return ""
        return "\n".join(_EMPTY_CELLS.sub(" | ", row.of(self._text)).strip(" |") for row in rows[:num_header_rows]).strip()

    def _fitted(self, headings: tuple[str, ...], head: str) -> str:
        head = self._cut(head, self._max_tokens)
        for first in range(len(headings)):
            whole = "\n".join(part for part in (HEADING_SEPARATOR.join(headings[first:]), head) if part)
            if self._tokenizer.count(whole) <= self._max_tokens:
                return whole
        if not headings:
            return head
        # not even the innermost heading fits beside the head: it may take half of the room
        path = self._cut(headings[-1], self._max_tokens // 2 if head else self._max_tokens)
        whole = f"{path}\n{self._cut(head, self._max_tokens - self._tokenizer.count(path))}".strip()
        return whole if self._tokenizer.count(whole) <= self._max_tokens else path

    def _cut(self, text: str, max_tokens: int) -> str:
        """The beginning of ``text`` that fits."""
        limit = max_tokens
        while self._tokenizer.count(text) > max_tokens:
            text = text[: Ruler(text, self._tokenizer).cut(0, len(text), limit)].rstrip() if limit else ""
            limit -= 1
        return text
