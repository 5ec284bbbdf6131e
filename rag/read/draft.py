"""The text of a document while it is being read: pieces go in, one canonical text with exact element spans comes out.

Knows nothing of file formats. Every reader (one file per format) makes a ``Draft`` with a ``TextBuilder``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rag.core import Document, Element, ElementKind, Span

SEPARATOR = "\n\n"  # between elements
CELL_SEPARATOR = " | "  # between the cells of a table row

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_LINE_BREAKS = re.compile(r"\r\n?|[\u2028\u2029\x85]")


def canonical(text: str) -> str:
    """``text`` with ``\\n`` as the only line break and without control characters, lone surrogates and non-characters."""
    return _UNPRINTABLE.sub("", _LINE_BREAKS.sub("\n", text))


@dataclass(frozen=True, slots=True)
class Limits:
    """What reading one file may cost. Passing a limit raises ``rag.errors.FileTooLarge`` and costs that file alone."""

    max_file_bytes: int = 256 * 2**20
    max_expanded_bytes: int = 512 * 2**20  # after decompression, all parts of a zip container together
    max_expansion_ratio: float = 200.0  # of one zip entry, once it passes 1 MiB
    max_archive_entries: int = 10_000
    max_text_chars: int = 100_000_000
    max_pages: int = 20_000
    memory_bytes: int = 4 * 2**30  # address space that the parser process may add
    seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class Draft:
    """A read text that has no name yet: ``document(source)`` gives it one."""

    text: str
    elements: tuple[Element, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)

    def document(self, source: str, *, principals: tuple[str, ...] = ("*",), meta: dict[str, Any] | None = None) -> Document:
        """The document that came from ``source``; ``meta`` is laid over what the reader found."""
        return Document(Document.id_of(source), source, self.text, self.elements, {**self.meta, **(meta or {})}, principals)


class TextBuilder:
    """Collects elements in reading order and keeps their spans.

    >>> builder = TextBuilder()
    >>> builder.add("Ducks", "heading", level=1)
    >>> builder.add_table([["name", "kg"], ["mallard", "1.1"]], num_header_rows=1)
    >>> draft = builder.draft({"title": "Ducks"})
    >>> draft.text
    'Ducks\\n\\nname | kg\\nmallard | 1.1'
    >>> [row.of(draft.text) for row in draft.elements[1].rows]
    ['name | kg', 'mallard | 1.1']
    """

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._elements: list[Element] = []
        self._length = 0

    def __len__(self) -> int:
        """Characters so far."""
        return self._length

    def _append(self, text: str) -> Span:
        if self._parts:
            self._parts.append(SEPARATOR)
            self._length += len(SEPARATOR)
        start = self._length
        self._parts.append(text)
        self._length += len(text)
        return Span(start, self._length)

    def add(
        self,
        text: str,
        kind: ElementKind = "paragraph",
        *,
        level: int | None = None,
        page: int | None = None,
        bbox: tuple[float, float, float, float] | None = None,
        source: str | None = None,
    ) -> None:
        """Adds one element; text that is blank after cleaning adds nothing. Leading and trailing blanks are cut."""
        text = canonical(text).strip("\n")
        text = text.rstrip() if kind == "code" else text.strip()
        if text:
            self._elements.append(Element(self._append(text), kind, level, page, bbox, source=source))

    def add_table(
        self,
        rows: Sequence[Sequence[str]],
        *,
        num_header_rows: int = 0,
        page: int | None = None,
        bbox: tuple[float, float, float, float] | None = None,
        source: str | None = None,
    ) -> None:
        """Adds a table, one line per row; blank rows are left out, line breaks inside a cell become blanks."""
        lines: list[str] = []
        num_kept_header_rows = 0
        for number, row in enumerate(rows):
            cells = [" ".join(canonical(cell).split()) for cell in row]
            if any(cells):
                lines.append(CELL_SEPARATOR.join(cells).strip())
                num_kept_header_rows += number < num_header_rows
        if not lines:
            return
        span = self._append("\n".join(lines))
        spans, start = [], span.start
        for line in lines:
            spans.append(Span(start, start + len(line)))
            start += len(line) + 1
        self._elements.append(Element(span, "table", None, page, bbox, tuple(spans), num_kept_header_rows, source))

    def draft(self, meta: dict[str, Any] | None = None) -> Draft:
        """The canonical text with its elements."""
        return Draft("".join(self._parts), tuple(self._elements), dict(meta or {}))
