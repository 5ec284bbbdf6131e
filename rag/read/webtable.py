"""Rows of an HTML table. Knows the table model of HTML, not what stands in the cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lxml import etree

from rag.read.draft import Limits
from rag.read.grid import Cell, place, plain_rows
from rag.read.numbering import int_of
from rag.read.visible import is_hidden

_MAX_COLSPAN = 1000  # the bound of the HTML standard


def _own(parent: etree._Element, tags: tuple[str, ...]) -> Iterator[etree._Element]:
    """Descendants with these tags that belong to ``parent`` itself and not to a table inside it."""
    waiting = list(reversed(parent))  # a stack of our own: a page may nest deeper than Python calls may
    while waiting:
        node = waiting.pop()
        if not isinstance(node.tag, str) or node.tag in ("table", "caption") or is_hidden(node):
            continue
        if node.tag in tags:
            yield node
        else:
            waiting.extend(reversed(node))


def is_layout(table: etree._Element) -> bool:
    """Whether the table arranges the page: it says so, holds headings, or has a single cell."""
    if table.get("role") in ("presentation", "none"):
        return True
    if next(table.iter("h1", "h2", "h3", "h4", "h5", "h6"), None) is not None:
        return True
    rows = list(_own(table, ("tr",)))
    return sum(1 for row in rows for _ in _own(row, ("td", "th"))) < 2


def table_rows(table: etree._Element, text_of: Callable[[etree._Element], str], limits: Limits) -> tuple[list[list[str]], int]:
    """Rows of cell texts (``[]``: nothing to say) and how many of them, from the top, are the head.

    The head is what stands in ``thead``, else the leading rows made of ``th`` alone.
    """
    heads: list[bool] = []
    cells: list[list[Cell]] = []
    rows = list(_own(table, ("tr",)))
    in_thead = any(_is_in_thead(row, table) for row in rows)
    for number, row in enumerate(rows):
        line: list[Cell] = []
        reaches, all_th = 1, True
        for node in _own(row, ("td", "th")):
            num_rows = int_of(node.get("rowspan"), 1) or len(rows)
            num_rows = min(max(1, num_rows), len(rows) - number)
            line.append(Cell(text_of(node), num_rows, min(max(1, int_of(node.get("colspan"), 1)), _MAX_COLSPAN)))
            reaches = max(reaches, num_rows)
            all_th &= node.tag == "th"
        cells.append(line)
        heads.append(_is_in_thead(row, table) if in_thead else bool(line) and all_th)
        if heads[-1] and not in_thead and len(line) == 1 and reaches > 1:
            heads[-1] = False  # a label beside the rows below
    num_header_rows = heads.index(False) if False in heads else len(heads) if in_thead else min(1, len(heads))
    return plain_rows(place(cells), num_header_rows, limits), num_header_rows


def _is_in_thead(row: etree._Element, table: etree._Element) -> bool:
    parent = row.getparent()
    while parent is not None and parent is not table:
        if parent.tag == "thead":
            return True
        parent = parent.getparent()
    return False
