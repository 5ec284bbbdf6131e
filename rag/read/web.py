"""HTML: the visible text of a page, main content first. Fetches nothing, runs nothing, reads no style sheet."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any, Literal

from lxml import etree
from lxml import html as lxml_html

from rag.core import ElementKind
from rag.errors import ReadError
from rag.read.bounded import NO_TEXT, BoundedBuilder
from rag.read.draft import Draft, Limits, canonical
from rag.read.plain import decode_text
from rag.read.visible import UNRENDERED, is_hidden
from rag.read.webtable import is_layout, table_rows
from rag.read.xml_safe import bom_encoding

_BLOCK_TAGS = """
    address article aside blockquote body button caption center dd details dialog dir div dl dt fieldset figcaption figure
    footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol optgroup option p pre section select
    summary table tbody td textarea tfoot th thead tr ul
"""
_BLOCKS = frozenset(_BLOCK_TAGS.split())
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LISTS = frozenset(("ul", "ol", "menu", "dir", "dl"))
_ITEMS = frozenset(("li", "dt", "dd"))
_KINDS: dict[str, ElementKind] = {**dict.fromkeys(_HEADINGS, "heading"), "figcaption": "caption", "caption": "caption"}
_CHARSET = re.compile(rb"""<meta\b[^>]{0,200}?\bcharset\s*=\s*["']?\s*([A-Za-z][\w.:-]{0,40})""", re.IGNORECASE)
_XML_DECLARATION = re.compile(r"\A\s*<\?xml\b[^>]{0,200}\?>")
_META_NAMES = {
    "author": "author", "article:author": "author", "date": "date", "dc.date": "date", "article:published_time": "date",
    "description": "description",
}  # fmt: skip
_HTML_BEGINS_BYTES = 4096  # where browsers and authors put the charset

Step = Literal["open", "close", "text"]


def read_html(data: bytes, limits: Limits) -> Draft:
    """Headings, paragraphs, lists, tables, code and captions; ``source`` is the line of the file.

    Scripts, styles, comments and hidden elements are dropped, and ``nav`` where the page marks its ``main`` or ``article``.
    A single main element comes first; nothing else is left out. Raises ``rag.errors.ReadError``.
    """
    root = parse_html(_decode(data, limits))
    if root is None:
        raise ReadError("", NO_TEXT)
    builder = BoundedBuilder(limits)
    add_html(builder, root)
    return builder.finish(_stated(root))


def _decode(data: bytes, limits: Limits) -> str:
    declared = _CHARSET.search(data[:_HTML_BEGINS_BYTES]) if bom_encoding(data) is None else None
    if declared and declared[1].lower() not in (b"utf-8", b"utf8"):
        name = declared[1].decode("ascii")
        name = "cp1252" if name.lower() in ("iso-8859-1", "latin1", "us-ascii", "ascii") else name  # as browsers read it
        try:
            return canonical(data.decode(name, "strict"))
        except (UnicodeDecodeError, LookupError, ValueError):
            pass  # a wrong promise; the bytes themselves decide
    return decode_text(data, limits)[0]


def parse_html(text: str) -> etree._Element | None:
    """The root element of a page or a fragment; ``None`` if there is nothing in it."""
    parser = lxml_html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, no_network=True, huge_tree=True)
    raw = _XML_DECLARATION.sub("", text).encode("utf-8", "replace")
    try:
        return lxml_html.document_fromstring(raw, parser=parser) if raw.strip() else None
    except (etree.ParserError, etree.XMLSyntaxError) as error:
        if "empty" in str(error).lower():
            return None
        raise ReadError("", f"not readable HTML: {error}") from error


def add_html(builder: BoundedBuilder, root: etree._Element, line_offset: int = 0) -> None:
    """Adds what is visible under ``root``; ``line_offset`` is added to line numbers (HTML inside Markdown)."""
    mains = [node for node in root.iter("main") if not is_hidden(node)] or [
        node for node in root.iter() if node.get("role") == "main"
    ]
    articles = [node for node in root.iter("article") if not is_hidden(node)]
    page = _Page(builder, bool(mains or articles), line_offset)
    first = mains or articles
    if len(first) == 1 and not _title_stands_before(root, first[0]):
        page.add(first[0], None)
        page.add(root, first[0])
    else:
        page.add(root, None)


def _title_stands_before(root: etree._Element, main: etree._Element) -> bool:
    """Whether the page's only top headings are outside its main element: then the page is read as it stands."""
    return next(main.iter("h1"), None) is None and next(root.iter("h1"), None) is not None


def visible_steps(root: etree._Element, drop: frozenset[str] = UNRENDERED) -> Generator[tuple[Step, Any], bool | None]:
    """``open`` and ``close`` with the element, ``text`` with the characters, in document order; send ``True`` to skip a subtree."""
    walker = etree.iterwalk(root, events=("start", "end"))
    skipped: etree._Element | None = None
    for event, node in walker:
        if event == "start":
            is_tag = isinstance(node.tag, str)
            if not is_tag or (node is not root and (node.tag in drop or is_hidden(node))):
                skipped = node
                walker.skip_subtree()
                continue
            if (yield "open", node):
                walker.skip_subtree()
                yield "text", ""
            elif node.text:
                yield "text", node.text
        else:
            if node is not skipped:
                yield "close", node
            if node is not root and node.tail:
                yield "text", node.tail


def visible_text(root: etree._Element) -> str:
    """All visible text below an element on one line, blocks set apart by blanks."""
    pieces: list[str] = []
    for step, thing in visible_steps(root):
        if step == "text":
            pieces.append(thing)
        elif thing.tag in _BLOCKS or thing.tag == "br":
            pieces.append(" ")
    return " ".join("".join(pieces).split())


class _Page:
    """The page as a stream of steps: inline text collects until a block begins or ends."""

    def __init__(self, builder: BoundedBuilder, drops_nav: bool, line_offset: int) -> None:
        self._builder = builder
        self._drop = UNRENDERED | {"nav"} if drops_nav else UNRENDERED
        self._line_offset = line_offset
        self._pieces: list[str] = []
        self._source = self._list_source = ""
        self._kinds: list[tuple[ElementKind, int | None]] = []  # of the open headings and captions
        self._lists: list[int | None] = []  # of the open lists: the last number, None for bullets
        self._lines: list[str] = []
        self._marker = ""
        self._indent = ""

    def add(self, root: etree._Element, without: etree._Element | None) -> None:
        """Adds all that is visible below ``root``, leaving out the subtree ``without``."""
        steps = visible_steps(root, self._drop)
        answer: bool | None = None
        while True:
            try:
                step, thing = steps.send(answer)
            except StopIteration:
                break
            answer = None
            if step == "text":
                self._pieces.append(re.sub(r"\s+", " ", thing))
            elif step == "open":
                answer = thing is without or self._open(thing)
            elif thing is not without:
                self._close(thing)
        self._flush()
        self._end_list()

    def _open(self, node: etree._Element) -> bool:
        """Whether the subtree is done with."""
        tag = node.tag
        if tag == "br":
            self._pieces.append("\n")
        if tag not in _BLOCKS:
            return False
        self._flush()
        line: Any = node.sourceline
        self._source = f"line {(line or 1) + self._line_offset}"
        if tag in _KINDS and not self._lists:
            self._kinds.append((_KINDS[tag], _HEADINGS.get(tag)))
        elif tag in _LISTS and (self._lists or not _is_framework(node)):
            if not self._lists:
                self._list_source = self._source
            self._lists.append(0 if tag == "ol" else None)
        elif tag in _ITEMS and self._lists:
            self._begin_item(tag)
        elif tag == "table" and not self._lists and not is_layout(node):
            self._add_table(node)
            return True
        elif tag == "pre" and not self._lists:
            text = "".join("\n" if step == "open" and thing.tag == "br" else thing if step == "text" else ""
                           for step, thing in visible_steps(node))  # fmt: skip
            self._builder.add(text, "code", source=self._source)
            return True
        return False

    def _close(self, node: etree._Element) -> None:
        tag = node.tag
        if tag not in _BLOCKS:
            return
        self._flush()
        if tag in _KINDS and self._kinds:
            self._kinds.pop()
        elif tag in _LISTS and self._lists and (len(self._lists) > 1 or not _is_framework(node)):
            self._lists.pop()
            if not self._lists:
                self._end_list()

    def _begin_item(self, tag: str) -> None:
        number = self._lists[-1]
        self._marker = "- "
        if number is not None and tag == "li":
            self._lists[-1] = number + 1
            self._marker = f"{number + 1}. "
        self._indent = "  " * (len(self._lists) - 1 + (tag == "dd"))
        self._marker = "" if tag == "dd" else self._marker

    def _flush(self) -> None:
        text = re.sub(r" *\n *", "\n", re.sub(r" +", " ", "".join(self._pieces))).strip()
        self._pieces = []
        if not text:
            return
        if self._lists:
            lines = text.split("\n")
            self._lines.append(self._indent + self._marker + lines[0])
            self._indent, self._marker = self._indent + " " * len(self._marker), ""
            self._lines.extend(self._indent + line for line in lines[1:])
            return
        kind, level = self._kinds[-1] if self._kinds else ("paragraph", None)
        self._builder.add(" ".join(text.split("\n")) if kind == "heading" else text, kind, level=level, source=self._source)

    def _end_list(self) -> None:
        self._builder.add("\n".join(self._lines), "list", source=self._list_source)
        self._lines, self._marker, self._indent = [], "", ""

    def _add_table(self, table: etree._Element) -> None:
        for caption in table:
            if caption.tag == "caption" and not is_hidden(caption):
                self._builder.add(visible_text(caption), "caption", source=self._source)
        rows, num_header_rows = table_rows(table, visible_text, self._builder.limits)
        self._builder.add_table(rows, num_header_rows=num_header_rows, source=self._source)


def _is_framework(node: etree._Element) -> bool:
    """Whether a list only arranges whole sections of a page (cards), which then count as sections."""
    return next(node.iter("table", "pre", *_HEADINGS), None) is not None


def _stated(root: etree._Element) -> dict[str, Any]:
    title = next(root.iter("title"), None)
    meta: dict[str, Any] = {"title": " ".join("".join(map(str, title.itertext())).split()) if title is not None else ""}
    for node in root.iter("meta"):
        word = _META_NAMES.get((node.get("name") or node.get("property") or "").lower())
        if word:
            meta.setdefault(word, " ".join(canonical(node.get("content", "")).split()))
    meta["language"] = root.get("lang", "")
    return meta
