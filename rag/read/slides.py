"""PPTX: slides in order, shapes from the top left. Knows PresentationML by way of python-pptx, no rendering.

Left out: footers, dates, slide numbers, pictures, and shapes that are hidden or lie off the slide.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from lxml import etree
from pptx import Presentation
from pptx.exc import PythonPptxError

from rag.errors import ReadError
from rag.read.archive import Container
from rag.read.bounded import BoundedBuilder, check_page_count
from rag.read.chart import add_chart, drawn_text, read_chart
from rag.read.draft import Draft, Limits
from rag.read.grid import Cell, plain_rows
from rag.read.numbering import child_of, int_of, number_text, value_of
from rag.read.xml_safe import local_name, parse_xml

_BAND = 0.02  # of the slide's height: shapes whose tops differ by less stand side by side
_FURNITURE = frozenset(("dt", "ftr", "sldNum", "hdr"))
_MAX_GROUP_DEPTH = 50
_NUMBER_STYLES = {"alphaLc": "lowerLetter", "alphaUc": "upperLetter", "romanLc": "lowerRoman", "romanUc": "upperRoman"}


def read_pptx(data: bytes, limits: Limits) -> Draft:
    """Per slide: title as heading (level 1 on the first, 2 after), text, lists, tables, charts, then the speaker's notes.

    ``page`` is the slide number; ``source`` is ``slide 3`` or ``slide 3 notes``. Raises the errors of
    ``rag.read.archive.Container``.
    """
    container = Container(data, limits, "save it as .pptx")
    try:
        presentation = Presentation(io.BytesIO(data))
        slides = list(presentation.slides)
        check_page_count(len(slides), limits, "slides")
        builder = BoundedBuilder(limits)
        size = (presentation.slide_width or 9_144_000, presentation.slide_height or 6_858_000)
        for number, slide in enumerate(slides, start=1):
            _Slide(builder, slide, number, size, limits).read()
    except (PythonPptxError, LookupError, ValueError, AttributeError, TypeError, ArithmeticError, etree.XMLSyntaxError) as error:
        raise ReadError("", f"not a readable presentation: {type(error).__name__}: {error}") from error
    return builder.finish({**container.properties(), "num_slides": len(slides)})


class _Slide:
    def __init__(self, builder: BoundedBuilder, slide: Any, number: int, size: tuple[int, int], limits: Limits) -> None:
        self._builder = builder
        self._slide = slide
        self._number = number
        self._source = f"slide {number}"
        self._width, self._height = size
        self._limits = limits

    def read(self) -> None:
        title = self._slide.shapes.title
        if title is not None and title.has_text_frame:
            text = " ".join(title.text_frame.text.split())
            self._builder.add(text, "heading", level=min(self._number, 2), page=self._number, source=self._source)
        for shape in self._ordered(self._slide.shapes):
            if title is None or shape.shape_id != title.shape_id:
                self._add(shape, 0)
        if self._slide.has_notes_slide and (frame := self._slide.notes_slide.notes_text_frame) is not None:
            self._builder.add(_lines(frame.text), page=self._number, source=f"{self._source} notes")

    def _ordered(self, shapes: Any) -> list[Any]:
        band = max(1, int(self._height * _BAND))
        visible = [shape for shape in shapes if not self._is_unseen(shape)]
        return sorted(visible, key=lambda shape: ((shape.top or 0) // band, shape.left or 0))

    def _is_unseen(self, shape: Any) -> bool:
        properties = next((node for node in shape._element.iter() if local_name(node) == "cNvPr"), None)
        if value_of(properties, "hidden") in ("1", "true"):
            return True
        if shape.is_placeholder and value_of(shape._element.ph, "type") in _FURNITURE:
            return True
        if None in (shape.left, shape.top, shape.width, shape.height):
            return False
        inside_x = shape.left < self._width and shape.left + shape.width >= 0
        return not (inside_x and shape.top < self._height and shape.top + shape.height >= 0)

    def _add(self, shape: Any, depth: int) -> None:
        if hasattr(shape, "shapes"):  # a group: its shapes have coordinates of their own
            band = max(1, int(shape.height or 1) // 50)
            for inner in sorted(shape.shapes, key=lambda inner: ((inner.top or 0) // band, inner.left or 0)):
                if depth < _MAX_GROUP_DEPTH:
                    self._add(inner, depth + 1)
        elif getattr(shape, "has_table", False):
            self._add_table(shape.table)
        elif getattr(shape, "has_chart", False):
            chart = read_chart(shape.chart._chartSpace)
            if chart is not None:
                add_chart(self._builder, chart, self._number, self._source)
        elif shape.has_text_frame:
            self._add_frame(shape)
        else:
            self._add_diagram(shape)

    def _add_table(self, table: Any) -> None:
        placed = [
            {
                column: Cell(_lines(cell.text), *((cell.span_height, cell.span_width) if cell.is_merge_origin else (1, 1)))
                for column, cell in enumerate(row.cells)
                if not cell.is_spanned
            }
            for row in table.rows
        ]
        num_header_rows = int(bool(table.first_row) and len(placed) > 1)
        rows = plain_rows(placed, num_header_rows, self._limits)
        self._builder.add_table(rows, num_header_rows=num_header_rows, page=self._number, source=self._source)

    def _add_frame(self, shape: Any) -> None:
        lines: list[str] = []
        counters: dict[int, int] = {}
        for paragraph in shape.text_frame.paragraphs:
            text = " ".join(_lines(paragraph.text).split())
            bullet = _bullet(paragraph, shape) if text else None
            if bullet is None:
                self._add_list(lines)
                lines, counters = [], {}
                self._builder.add(_lines(paragraph.text), page=self._number, source=self._source)
                continue
            level = paragraph.level
            counters = {deeper: count for deeper, count in counters.items() if deeper <= level}
            label = "-"
            if local_name(bullet) == "buAutoNum":
                counters[level] = counters.get(level, int_of(value_of(bullet, "startAt"), 1) - 1) + 1
                style = value_of(bullet, "type") or ""
                word = next((word for prefix, word in _NUMBER_STYLES.items() if style.startswith(prefix)), "decimal")
                label = number_text(counters[level], word) + ("." if "Period" in style else ")")
            lines.append("  " * level + f"{label} {text}")
        self._add_list(lines)

    def _add_list(self, lines: list[str]) -> None:
        self._builder.add("\n".join(lines), "list", page=self._number, source=self._source)

    def _add_diagram(self, shape: Any) -> None:
        """SmartArt: one list line per point that holds text."""
        links = [node for node in shape._element.iter() if local_name(node) == "relIds"]
        relation = value_of(links[0], "dm") if links else None
        if relation is None or relation not in self._slide.part.rels:
            return
        root = parse_xml(self._slide.part.related_part(relation).blob)
        points = [node for node in root.iter() if local_name(node) == "pt" and value_of(node, "type") in (None, "node", "asst")]
        self._add_list([f"- {' '.join(text.split())}" for node in points if (text := drawn_text(node))])


def _lines(text: str) -> str:
    return text.replace("\v", "\n")


def _bullet(paragraph: Any, shape: Any) -> etree._Element | None:
    """``buChar`` or ``buAutoNum`` that applies to a paragraph, or ``None``: own, the shape's, its layout's, its master's."""
    for properties in _paragraph_properties(paragraph, shape):
        for node in () if properties is None else properties:
            if local_name(node) in ("buNone", "buChar", "buAutoNum", "buBlip"):
                return None if local_name(node) == "buNone" else node
    return None


def _paragraph_properties(paragraph: Any, shape: Any) -> Iterator[etree._Element | None]:
    name = f"lvl{paragraph.level + 1}pPr"
    yield child_of(paragraph._p, "pPr")
    yield child_of(shape._element, "txBody", "lstStyle", name)
    if not shape.is_placeholder:
        return
    base, seen = shape, 0
    while (base := getattr(base, "_base_placeholder", None)) is not None and seen < 3:
        yield child_of(base._element, "txBody", "lstStyle", name)
        seen += 1
    kind = value_of(shape._element.ph, "type") or "obj"
    master = shape.part.slide.slide_layout.slide_master._element if hasattr(shape.part, "slide") else None
    if kind in ("obj", "body", "clipArt", "chart", "tbl", "media"):
        yield child_of(master, "txStyles", "bodyStyle", name)
