"""DOCX: the body of a Word document in reading order. Knows WordprocessingML (ECMA-376 part 1, 17), no layout and no pages.

Left out: headers and footers, comments, deleted (tracked) text, and text that no reader of the printed page sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lxml import etree

from rag.core import ElementKind
from rag.errors import ReadError
from rag.read.archive import Container
from rag.read.bounded import BoundedBuilder
from rag.read.draft import Draft, Limits
from rag.read.grid import Cell, plain_rows
from rag.read.numbering import BULLET, Numbering, child_of, int_of, value_of
from rag.read.wordstyle import Style, Styles, is_invisible
from rag.read.xml_safe import local_name

_WRAPPERS = frozenset(
    ("hyperlink", "ins", "moveTo", "smartTag", "sdt", "sdtContent", "fldSimple", "customXml", "bdo", "dir", "rubyBase", "ruby")
)
_TEXT_OF = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
_NOTES = {"footnoteReference": "footnote", "endnoteReference": "endnote"}


def read_docx(data: bytes, limits: Limits) -> Draft:
    """Headings by style or outline level, paragraphs, lists with their printed numbers, tables, text boxes, notes at the end.

    ``source`` is ``paragraph 12``, ``table 2`` or ``footnote 1``. Raises the errors of ``rag.read.archive.Container``.
    """
    container = Container(data, limits, "save it as .docx")
    main = container.main_part("word/document.xml")
    root = container.xml(main)
    body = child_of(root, "body")
    if root is None or body is None:
        raise ReadError("", "no Word document inside")
    parts = {relation.kind: container.xml(relation.target) for relation in container.relations(main).values()
             if relation.kind in ("styles", "numbering", "footnotes", "endnotes")}  # fmt: skip
    styles = Styles(parts.get("styles"))
    reader = _Body(BoundedBuilder(limits), styles, Numbering(parts.get("numbering"), styles.number_ids()), limits)
    reader.page_is_white = child_of(root, "background") is None
    reader.blocks(body)
    reader.flush()
    reader.notes(parts)
    return reader.builder.finish(container.properties())


@dataclass(frozen=True, slots=True)
class _Paragraph:
    text: str
    style: Style
    label: str | None
    list_level: int
    heading_level: int | None
    boxes: list[etree._Element]


class _Body:
    def __init__(self, builder: BoundedBuilder, styles: Styles, numbering: Numbering, limits: Limits) -> None:
        self.builder = builder
        self.page_is_white = True
        self._styles = styles
        self._numbering = numbering
        self._limits = limits
        self._lines: list[str] = []  # of the list or code block that is being collected
        self._kind: ElementKind = "list"
        self._source = ""
        self._num_paragraphs = 0
        self._num_tables = 0
        self._notes: list[tuple[str, str]] = []  # kind and id, in order of reference

    def blocks(self, parent: etree._Element, on_page: bool = True) -> None:
        """Adds the paragraphs and tables under ``parent``; ``on_page``: what has no shading of its own stands on the bare page."""
        for node in _unwrapped(parent, ("p", "tbl")):
            if local_name(node) == "p":
                self._add_paragraph(self._paragraph(node, on_page), on_page)
            else:
                self._add_table(node)

    def flush(self) -> None:
        """Adds the list or code block collected so far."""
        self.builder.add("\n".join(self._lines), self._kind, source=self._source)
        self._lines = []

    def notes(self, parts: dict[str, etree._Element | None]) -> None:
        """Adds the footnotes and endnotes that the text refers to, in order of reference."""
        for number, (kind, name) in enumerate(self._notes, start=1):
            root = parts.get(f"{kind}s")
            for node in () if root is None else root:
                if value_of(node, "id") == name:
                    texts = [self._paragraph(paragraph, True).text for paragraph in _unwrapped(node, ("p",))]
                    self.builder.add(f"[{number}] " + " ".join(text.strip() for text in texts).strip(), source=f"{kind} {number}")

    def _collect(self, kind: ElementKind, line: str) -> None:
        if self._lines and self._kind != kind:
            self.flush()
        if not self._lines:
            self._kind, self._source = kind, f"paragraph {self._num_paragraphs}"
        self._lines.append(line)

    def _add_paragraph(self, paragraph: _Paragraph, on_page: bool) -> None:
        self._num_paragraphs += 1
        text = paragraph.text.strip()
        if paragraph.style.is_code and paragraph.text:
            self._collect("code", paragraph.text)
        elif not text:
            self.flush()
        elif paragraph.heading_level is not None:
            self.flush()
            label = f"{paragraph.label} " if paragraph.label and paragraph.label != BULLET else ""
            self.builder.add(f"{label}{text}", "heading", level=paragraph.heading_level, source=f"paragraph {self._num_paragraphs}")
        elif paragraph.label is not None or paragraph.style.is_contents:
            label = f"{paragraph.label} " if paragraph.label else ""
            self._collect("list", "  " * paragraph.list_level + label + " ".join(text.split("\n")))
        else:
            self.flush()
            kind: ElementKind = "caption" if paragraph.style.is_caption else "paragraph"
            self.builder.add(text, kind, source=f"paragraph {self._num_paragraphs}")
        for box in paragraph.boxes:
            self.blocks(box, on_page=False)
            self.flush()

    def _paragraph(self, node: etree._Element, on_page: bool) -> _Paragraph:
        properties = child_of(node, "pPr")
        style = self._styles[value_of(child_of(properties, "pStyle"))]
        pieces: list[str] = []
        boxes: list[etree._Element] = []
        shaded = not on_page or not self.page_is_white or style.is_shaded or child_of(properties, "shd") is not None
        self._inline(node, style, shaded, pieces, boxes)
        text = "".join(pieces)
        label, level = None, 0
        if text.strip():
            number_id = value_of(child_of(properties, "numPr", "numId")) or style.number_id
            stated = value_of(child_of(properties, "numPr", "ilvl"))
            if number_id is not None:
                linked = self._numbering.level_of_style(number_id, style.id)
                level = int_of(stated, linked if linked is not None else style.number_level)
                label = self._numbering.label(number_id, level)
        outline = int_of(value_of(child_of(properties, "outlineLvl")), -1)
        heading = style.heading_level if not 0 <= outline < 9 else min(outline + 1, 6)
        return _Paragraph(text, style, label, level, heading, boxes)

    def _inline(self, node: etree._Element, style: Style, shaded: bool, pieces: list[str], boxes: list[etree._Element]) -> None:
        for child in node:
            name = local_name(child)
            if name == "r":
                properties = child_of(child, "rPr")
                run_style = self._styles[value_of(child_of(properties, "rStyle"))]
                if not is_invisible(properties, (run_style, style), shaded):
                    self._run(child, style, shaded, pieces, boxes)
            elif name in _WRAPPERS:
                self._inline(child, style, shaded, pieces, boxes)
            elif name in ("oMath", "oMathPara"):
                pieces.append("".join(leaf.text or "" for leaf in child.iter() if local_name(leaf) == "t"))
            elif name == "AlternateContent":
                self._run(child, style, shaded, pieces, boxes, wrapped=True)

    def _run(
        self, run: etree._Element, style: Style, shaded: bool, pieces: list[str], boxes: list[etree._Element], wrapped: bool = False
    ) -> None:
        for node in [run] if wrapped else list(run):
            name = local_name(node)
            if name == "t":
                pieces.append(node.text or "")
            elif name in _TEXT_OF:
                pieces.append(_TEXT_OF[name])
            elif name in _NOTES:
                self._notes.append((_NOTES[name], value_of(node, "id") or ""))
                pieces.append(f"[{len(self._notes)}]")
            elif name in ("drawing", "pict", "object"):
                boxes.extend(_text_boxes(node))
            elif name == "AlternateContent":  # the same thing said twice, for newer and older programs
                variants = [variant for variant in node if local_name(variant) in ("Choice", "Fallback")]
                if variants:
                    self._run(variants[0], style, shaded, pieces, boxes)
            elif name == "ruby":
                self._inline(node, style, shaded, pieces, boxes)

    def _add_table(self, table: etree._Element) -> None:
        self.flush()
        rows = [row for row in _unwrapped(table, ("tr",)) if child_of(row, "trPr", "del") is None]
        cells = [list(_unwrapped(row, ("tc",))) for row in rows]
        if len(cells) == 1 and len(cells[0]) == 1:  # a frame around text
            self.blocks(cells[0][0], on_page=False)
            self.flush()
            return
        self._num_tables += 1
        placed: list[dict[int, Cell]] = []
        owners: dict[int, tuple[int, int]] = {}  # column -> row and column of the cell that spans down through it
        for number, row in enumerate(rows):
            column = max(0, int_of(value_of(child_of(row, "trPr", "gridBefore")), 0))
            here: dict[int, Cell] = {}
            below: dict[int, tuple[int, int]] = {}
            for cell in cells[number]:
                properties = child_of(cell, "tcPr")
                merge = child_of(properties, "vMerge")
                width = min(max(1, int_of(value_of(child_of(properties, "gridSpan")), 1)), 1000)
                if merge is not None and value_of(merge) != "restart" and column in owners:
                    top, left = below[column] = owners[column]
                    placed[top][left] = placed[top][left]._replace(num_rows=number - top + 1)
                elif value_of(child_of(properties, "hMerge")) != "continue":
                    here[column] = Cell(self._cell_text(cell), 1, width)
                    if merge is not None:
                        below[column] = (number, column)
                column += width
            placed.append(here)
            owners = below
        num_header_rows = next((n for n, row in enumerate(rows) if child_of(row, "trPr", "tblHeader") is None), len(rows))
        if not num_header_rows and len(rows) > 1:
            num_header_rows = int(_first_row_is_special(child_of(table, "tblPr", "tblLook")))
        texts = plain_rows(placed, num_header_rows, self._limits)
        self.builder.add_table(texts, num_header_rows=num_header_rows, source=f"table {self._num_tables}")

    def _cell_text(self, cell: etree._Element) -> str:
        texts: list[str] = []
        for node in _unwrapped(cell, ("p", "tbl")):
            if local_name(node) == "p":
                paragraph = self._paragraph(node, on_page=False)
                label = f"{paragraph.label} " if paragraph.label and paragraph.label != BULLET else ""
                texts.append(label + paragraph.text.strip())
                texts.extend(self._cell_text(box) for box in paragraph.boxes)
            else:
                texts.extend(self._cell_text(inner) for row in _unwrapped(node, ("tr",)) for inner in _unwrapped(row, ("tc",)))
        return " ".join(text for text in texts if text)


def _unwrapped(parent: etree._Element, names: tuple[str, ...]) -> Iterator[etree._Element]:
    """Children with one of these tags, also where content controls, insertions or alternatives stand in between."""
    for node in parent:
        name = local_name(node)
        if name in names:
            yield node
        elif name in ("sdt", "sdtContent", "customXml", "ins", "moveTo"):
            yield from _unwrapped(node, names)
        elif name == "AlternateContent" and len(node):
            yield from _unwrapped(node[0], names)


def _text_boxes(node: etree._Element) -> Iterator[etree._Element]:
    for child in node:
        if local_name(child) == "txbxContent":
            yield child
        elif local_name(child) == "AlternateContent":
            yield from _text_boxes(child[0]) if len(child) else ()
        else:
            yield from _text_boxes(child)


def _first_row_is_special(look: etree._Element | None) -> bool:
    """What the table says of its first row; Word's own default for new tables is yes."""
    stated = value_of(look, "firstRow")
    if stated is not None:
        return stated in ("1", "true", "on")
    mask = value_of(look)
    return (
        look is None
        or mask is None
        or bool(int(mask, 16) & 0x20 if all(c in "0123456789abcdefABCDEF" for c in mask) and mask else 0x20)
    )
