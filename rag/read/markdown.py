"""Markdown (CommonMark with tables and strike-through) as readable text. Knows front matter and hands HTML blocks to ``web``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from datetime import date
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from rag.read.bounded import BoundedBuilder
from rag.read.draft import Draft, Limits
from rag.read.plain import decode_text, encoding_meta
from rag.read.visible import UNRENDERED, is_hidden
from rag.read.web import add_html, parse_html, visible_text

_FRONT = re.compile(r"\A(?P<fence>---|\+\+\+)[ \t]*\n(?P<head>.{0,65536}?\n)(?P=fence)[ \t]*(?:\n|\Z)", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_TAG_NAME = re.compile(r"<(/?)([A-Za-z][\w-]*)")
_FRONT_KEYS = ("title", "author", "authors", "date", "description", "summary", "tags", "keywords", "categories", "lang", "language")
_VOID = frozenset(("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"))


def read_markdown(data: bytes, limits: Limits) -> Draft:
    """Headings, paragraphs, lists, code, tables; links become their text, emphasis marks and comments vanish.

    ``source`` is the line. ``meta`` takes plain values of YAML or TOML front matter; ``title`` may come from the first heading.
    """
    text, encoding = decode_text(data, limits)
    meta, text, num_front_lines = _front_matter(text)
    builder = BoundedBuilder(limits)
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    _Blocks(builder, num_front_lines).add(parser.parse(text))
    return builder.finish({**meta, **encoding_meta(encoding)})


def _front_matter(text: str) -> tuple[dict[str, Any], str, int]:
    """Plain values of the front matter, the text after it, and the number of lines it takes."""
    found = _FRONT.match(text)
    if found is None:
        return {}, text, 0
    try:
        head = yaml.safe_load(found["head"]) if found["fence"] == "---" else tomllib.loads(found["head"])
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError, RecursionError):
        return {}, text, 0  # a text that begins with a thematic break
    if not isinstance(head, dict):
        return {}, text, 0
    meta = {key: plain for key in _FRONT_KEYS if (plain := _plain(head.get(key))) is not None}
    return meta, text[found.end() :], found[0].count("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, date):  # also a datetime
        return value.isoformat()
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, list) and len(value) <= 100 and all(isinstance(item, (str, int, float)) for item in value):
        return value
    return None


class _Blocks:
    """Walks the flat token stream of markdown-it; lists collect lines until the outermost one ends."""

    def __init__(self, builder: BoundedBuilder, line_offset: int) -> None:
        self._builder = builder
        self._line_offset = line_offset
        self._lines: list[str] = []
        self._numbers: list[int | None] = []  # of the open lists: next number, None for bullets
        self._marker = ""
        self._list_source = ""
        self._rows: list[list[str]] = []
        self._num_header_rows = 0
        self._in_head = self._in_row = False

    def add(self, tokens: Sequence[Token]) -> None:
        """Adds the blocks of a whole document."""
        heading: int | None = None
        source = ""
        for token in tokens:
            kind = token.type
            if token.map is not None:
                source = f"line {token.map[0] + 1 + self._line_offset}"
            if kind in ("bullet_list_open", "ordered_list_open"):
                if not self._numbers:
                    self._list_source = source
                self._numbers.append(int(token.attrs.get("start", 1)) if kind == "ordered_list_open" else None)
            elif kind in ("bullet_list_close", "ordered_list_close"):
                self._numbers.pop()
                if not self._numbers:
                    self._builder.add("\n".join(self._lines), "list", source=self._list_source)
                    self._lines = []
            elif kind == "list_item_open":
                number = self._numbers[-1]
                self._marker = "- " if number is None else f"{number}. "
                self._numbers[-1] = None if number is None else number + 1
            elif kind == "heading_open":
                heading = int(token.tag[1])
            elif kind == "heading_close":
                heading = None
            elif kind == "inline":
                self._add_inline(inline_text(token), heading, source)
            elif kind in ("fence", "code_block"):
                self._add_block(token.content, "code", source)
            elif kind == "html_block":
                self._add_html(token)
            else:
                self._table(kind, source)

    def _add_inline(self, text: str, heading: int | None, source: str) -> None:
        if self._in_row:
            self._rows[-1].append(text)
        elif self._numbers:
            self._add_lines(text)
        elif heading is not None:
            self._builder.add(" ".join(text.split()), "heading", level=heading, source=source)
        else:
            self._builder.add(text, source=source)

    def _table(self, kind: str, source: str) -> None:
        if kind == "tr_open":
            self._rows.append([])
            self._in_row = True
            self._num_header_rows += self._in_head
        elif kind == "tr_close":
            self._in_row = False
        elif kind in ("thead_open", "thead_close"):
            self._in_head = kind == "thead_open"
        elif kind == "table_close":
            if self._numbers:
                for row in self._rows:
                    self._add_lines(" | ".join(row))
            else:
                self._builder.add_table(self._rows, num_header_rows=self._num_header_rows, source=source)
            self._rows, self._num_header_rows = [], 0

    def _add_block(self, text: str, kind: str, source: str) -> None:
        if self._numbers:
            self._add_lines(text.rstrip("\n"))
        else:
            self._builder.add(text, "code" if kind == "code" else "paragraph", source=source)

    def _add_lines(self, text: str) -> None:
        indent = "  " * (len(self._numbers) - 1)
        for line in text.split("\n"):
            if line.strip():
                self._lines.append(indent + (self._marker or "  ") + line)
                self._marker = ""

    def _add_html(self, token: Token) -> None:
        root = parse_html(_COMMENT.sub("", token.content))
        if root is None:
            return
        if self._numbers:
            self._add_lines(visible_text(root))
        else:
            add_html(self._builder, root, (token.map[0] if token.map else 0) + self._line_offset)


def inline_text(token: Token) -> str:
    """Readable text of an inline token: no marks, links as their text, images as their description, nothing hidden."""
    pieces: list[str] = []
    hidden: list[str] = []  # names of open tags inside the outermost hidden one
    for child in token.children or ():
        if child.type == "html_inline":
            found = _TAG_NAME.match(child.content)
            name = found[2].lower() if found else ""
            if name == "br" and not hidden:
                pieces.append("\n")
            elif found and found[1] and hidden and name in hidden:
                del hidden[len(hidden) - 1 - hidden[::-1].index(name) :]
            elif (
                found
                and not found[1]
                and name not in _VOID
                and not child.content.endswith("/>")
                and (hidden or _hides(child.content, name))
            ):
                hidden.append(name)
        elif hidden:
            continue
        elif child.type in ("text", "code_inline", "image"):
            pieces.append(child.content)
        elif child.type == "softbreak":
            pieces.append(" ")
        elif child.type == "hardbreak":
            pieces.append("\n")
    return "".join(pieces)


def _hides(tag: str, name: str) -> bool:
    if name in UNRENDERED:
        return True
    root = parse_html(tag)
    element = next(root.iter(name), None) if root is not None else None
    return element is not None and is_hidden(element)
