"""XML: journal articles (JATS, ANSI/NISO Z39.96) with their structure, any other vocabulary as the text of its elements."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

from lxml import etree

from rag.core import ElementKind
from rag.read.bounded import BoundedBuilder
from rag.read.draft import Draft, Limits
from rag.read.numbering import child_of
from rag.read.web import read_html
from rag.read.webtable import table_rows
from rag.read.xml_safe import local_name, parse_xml

_BLOCK_TAGS = """
    p sec list disp-quote verse-group boxed-text fig fig-group table-wrap table-wrap-group disp-formula disp-formula-group
    supplementary-material code preformat def-list statement speech app ack fn-group fn ref-list glossary notes media
    title
"""
_BLOCKS = frozenset(_BLOCK_TAGS.split())
_SILENT_TAGS = """
    object-id permissions related-object alt-text long-desc processing-meta counts
"""
_SILENT = frozenset(_SILENT_TAGS.split())
_CITATIONS = ("mixed-citation", "element-citation", "citation", "nlm-citation")
_SECTIONS = frozenset(("sec", "app", "ack", "boxed-text", "fn-group", "glossary", "notes"))
_WHOLE = frozenset(("disp-formula", "statement", "speech", "fn", "def-list"))
_TITLES_OF_PARTS = {
    "ack": "Acknowledgements",
    "ref-list": "References",
    "fn-group": "Notes",
    "glossary": "Glossary",
    "app": "Appendix",
}


def read_xml(data: bytes, limits: Limits) -> Draft:
    """An article: title, authors, abstract, sections, lists, captions, tables, references as a list.

    Any other XML: a paragraph per element that holds text; records of leaves as ``name: value`` lines. Entities and DTDs are
    never expanded. Raises ``rag.errors.ReadError``.
    """
    root = parse_xml(data)
    builder = BoundedBuilder(limits)
    if local_name(root) == "html":
        return read_html(data, limits)
    article = next((node for node in root.iter() if local_name(node) == "article" and child_of(node, "front") is not None), None)
    if article is None:
        _Generic(builder).add(root)
        return builder.finish({})
    meta = _Article(builder).add(article)
    return builder.finish(meta)


def text_of(node: etree._Element | None) -> str:
    """All characters below an element on one line; entity references that HTML knows are resolved, others dropped."""
    return " ".join("".join(_pieces(node)).split()) if node is not None else ""


def _pieces(node: etree._Element, without: frozenset[str] = frozenset()) -> Iterator[str]:
    if isinstance(node, etree._Entity):
        yield html.unescape(node.text or "") if (node.text or "").startswith("&") else ""
        return
    name = local_name(node)
    if not name or name in _SILENT:
        return
    if (
        name in ("alternatives", "disp-formula", "inline-formula")
        and (tex := next((x for x in node.iter() if local_name(x) == "tex-math"), None)) is not None
    ):
        yield _bare_tex(tex.text or "")
        return
    if node.text:
        yield node.text
    for child in node:
        if local_name(child) not in without:
            if local_name(child) in ("p", "break", "title", "td", "th", "list-item"):
                yield " "
            yield from _pieces(child, without)
            if local_name(child) in ("p", "break", "title", "td", "th", "list-item", "label"):
                yield " "
        if child.tail:
            yield child.tail


def _bare_tex(tex: str) -> str:
    """The formula without the document that some publishers wrap around it."""
    _, begin, inner = tex.partition("\\begin{document}")
    return (inner if begin else tex).partition("\\end{document}")[0].strip().strip("$")


class _Article:
    def __init__(self, builder: BoundedBuilder) -> None:
        self._builder = builder

    def add(self, article: etree._Element) -> dict[str, Any]:
        """Adds the whole article and returns what it says about itself."""
        front = child_of(article, "front", "article-meta")
        title = text_of(child_of(front, "title-group", "article-title"))
        self._builder.add(title, "heading", level=1, source="front")
        self._builder.add(text_of(child_of(front, "title-group", "subtitle")), source="front")
        authors = [_name(contrib) for contrib in _all(front, "contrib") if contrib.get("contrib-type", "author") == "author"]
        authors = [name for name in authors if name]
        self._builder.add(", ".join(authors), source="front")
        affiliations = dict.fromkeys(" ".join("".join(_pieces(node, frozenset(("label",)))).split()) for node in _all(front, "aff"))
        self._builder.add("; ".join(text for text in affiliations if text), source="front")
        for abstract in _all(front, "abstract"):
            if child_of(abstract, "title") is None:
                self._builder.add("Abstract", "heading", level=2, source="abstract")
            self.blocks(abstract, 2, "abstract")
        for part in article:
            name = local_name(part)
            if name in ("body", "back"):
                self.blocks(part, 1, name)
            elif name in ("sub-article", "response"):
                stub = child_of(part, "front-stub")
                heading = text_of(child_of(stub, "title-group", "article-title")) or text_of(
                    child_of(part, "front", "article-meta", "title-group")
                )
                self._builder.add(heading, "heading", level=2, source=name)
                for body in part:
                    if local_name(body) in ("body", "back"):
                        self.blocks(body, 2, name)
        identifiers = {node.get("pub-id-type"): text_of(node) for node in _all(front, "article-id")}
        journal = text_of(next(iter(_all(child_of(article, "front", "journal-meta"), "journal-title")), None))
        return {
            "title": title,
            "author": ", ".join(authors),
            "date": _date(front),
            "doi": identifiers.get("doi"),
            "journal": journal,
        }

    def blocks(self, parent: etree._Element, depth: int, source: str) -> None:
        """Adds the block elements of a section whose own heading has level ``depth``."""
        label = text_of(child_of(parent, "label"))
        for node in parent:
            if local_name(node) == "title":
                self._builder.add(f"{label} {text_of(node)}".strip(), "heading", level=min(depth, 6), source=source)
            else:
                self._block(node, depth, source)

    def _block(self, node: etree._Element, depth: int, source: str) -> None:
        name = local_name(node)
        if not name or name in _SILENT or name == "label":
            return
        place = node.get("id") or source
        if name == "p":
            self._paragraph(node, depth, source)
        elif name == "list":
            self._builder.add("\n".join(_list_lines(node, 0)), "list", source=source)
        elif name in ("fig", "media", "supplementary-material"):
            self._caption(node, place)
        elif name == "table-wrap":
            self._table(node, place)
        elif name in ("code", "preformat"):
            self._builder.add("".join(_pieces(node)), "code", source=source)
        elif name == "ref-list":
            self._references(node, depth)
        elif name in _WHOLE or not any(local_name(child) in _BLOCKS for child in node):
            self._builder.add(text_of(node), source=place)
        else:
            if name in _TITLES_OF_PARTS and child_of(node, "title") is None and child_of(node, "sec") is None:
                self._builder.add(_TITLES_OF_PARTS[name], "heading", level=min(depth + 1, 6), source=place)
            self.blocks(node, depth + (name in _SECTIONS), place)

    def _paragraph(self, node: etree._Element, depth: int, source: str) -> None:
        """Figures, tables and lists inside a paragraph cut it in two."""
        pieces = [node.text or ""]
        for child in node:
            if local_name(child) in _BLOCKS:
                self._builder.add(" ".join("".join(pieces).split()), source=source)
                self._block(child, depth, source)
                pieces = []
            else:
                pieces += _pieces(child)
            pieces.append(child.tail or "")
        self._builder.add(" ".join("".join(pieces).split()), source=source)

    def _caption(self, node: etree._Element, source: str) -> None:
        caption = child_of(node, "caption")
        words = [text_of(child_of(node, "label")), *(text_of(part) for part in (() if caption is None else caption))]
        self._builder.add(" ".join(word for word in words if word), "caption", source=node.get("id") or source)

    def _table(self, wrap: etree._Element, source: str) -> None:
        self._caption(wrap, source)
        for table in _all(wrap, "table"):
            rows, num_header_rows = table_rows(table, text_of, self._builder.limits)
            self._builder.add_table(rows, num_header_rows=num_header_rows, source=wrap.get("id") or source)
        self._builder.add(text_of(child_of(wrap, "table-wrap-foot")), source=wrap.get("id") or source)

    def _references(self, node: etree._Element, depth: int) -> None:
        self._builder.add(text_of(child_of(node, "title")) or "References", "heading", level=min(depth + 1, 6), source="references")
        lines = []
        for reference in _all(node, "ref"):
            citation = next((child for name in _CITATIONS for child in _all(reference, name)), None)
            if citation is not None and (text := _citation(citation)):
                lines.append(f"- {text}")
        self._builder.add("\n".join(lines), "list", source="references")


def _all(node: etree._Element | None, name: str) -> list[etree._Element]:
    return [] if node is None else [found for found in node.iter() if local_name(found) == name]


def _name(contrib: etree._Element) -> str:
    for node in contrib.iter():
        if local_name(node) == "name":
            return " ".join(part for part in (text_of(child_of(node, "given-names")), text_of(child_of(node, "surname"))) if part)
        if local_name(node) in ("collab", "string-name"):
            return text_of(node)
    return ""


def _citation(node: etree._Element) -> str:
    """Mixed citations have their punctuation; element citations get some."""
    if local_name(node) != "element-citation":
        return text_of(node)
    people = [" ".join(part for part in (text_of(child_of(name, "surname")), text_of(child_of(name, "given-names"))) if part)
              for name in _all(node, "name")]  # fmt: skip
    parts = [", ".join(people)]
    parts += [text_of(child) for child in node if local_name(child) not in ("person-group", "name", "year", "fpage", "lpage")]
    pages = "-".join(page for page in (text_of(child_of(node, "fpage")), text_of(child_of(node, "lpage"))) if page)
    return ". ".join(part.rstrip(".") for part in (*parts, pages, text_of(child_of(node, "year"))) if part)


def _date(front: etree._Element | None) -> str:
    for node in _all(front, "pub-date"):
        year, month, day = (text_of(child_of(node, part)) for part in ("year", "month", "day"))
        if year:
            return "-".join(part.zfill(2) for part in (year, month, day if month else "") if part)
    return ""


def _list_lines(node: etree._Element, depth: int) -> Iterator[str]:
    is_numbered = node.get("list-type") in ("order", "alpha-lower", "alpha-upper", "roman-lower", "roman-upper")
    for number, item in enumerate((child for child in node if local_name(child) == "list-item"), start=1):
        label = text_of(child_of(item, "label")) or (f"{number}." if is_numbered else "-")
        text = " ".join("".join(_pieces(item, frozenset(("list", "label")))).split())
        yield f"{'  ' * depth}{label} {text}"
        for inner in _all_lists(item):
            yield from _list_lines(inner, depth + 1)


def _all_lists(item: etree._Element) -> Iterator[etree._Element]:
    for child in item:
        if local_name(child) == "list":
            yield child
        elif local_name(child) == "p":
            yield from _all_lists(child)


class _Generic:
    def __init__(self, builder: BoundedBuilder) -> None:
        self._builder = builder

    def add(self, node: etree._Element) -> None:
        """Adds the text below an element of an unknown vocabulary."""
        children = [child for child in node if local_name(child)]
        is_mixed = bool((node.text or "").strip()) or any((child.tail or "").strip() for child in node)
        source = f"line {node.sourceline}" if node.sourceline else None
        if is_mixed or not children:
            kind: ElementKind = "heading" if local_name(node).lower() in ("title", "head", "heading") else "paragraph"
            self._builder.add(text_of(node), kind, level=2 if kind == "heading" else None, source=source)
        elif len(children) > 1 and not any(len(child) for child in children) and len({local_name(child) for child in children}) > 1:
            lines = [f"{local_name(child)}: {text}" for child in children if (text := text_of(child))]
            self._builder.add("\n".join(lines), source=source)
        else:
            for child in children:
                self.add(child)
