"""XLSX: the filled regions of each sheet as tables. Knows SpreadsheetML by way of openpyxl; computes no formula.

A region is what touches along an edge (diagonals do not count), grown to its rectangle. Values are those the file
stores: dates in ISO 8601, percentages as percentages, formulas by their last result.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from datetime import date, datetime, time
from typing import Any

from lxml import etree
from openpyxl import load_workbook
from openpyxl.utils import get_column_letter, quote_sheetname
from openpyxl.utils.cell import range_boundaries
from openpyxl.utils.exceptions import InvalidFileException

from rag.errors import FileTooLarge, ReadError
from rag.read.archive import Container
from rag.read.bounded import BoundedBuilder, check_page_count
from rag.read.chart import Chart, add_chart, drawn_text, read_chart
from rag.read.draft import CELL_SEPARATOR, Draft, Limits
from rag.read.grid import Cell, plain_rows
from rag.read.numbering import child_of, int_of, value_of
from rag.read.region import Region, regions
from rag.read.xml_safe import local_name

_MAX_ROWS = 1_048_576
_MERGE = re.compile(rb'<(?:\w+:)?mergeCell\s[^>]{0,200}?ref="([A-Z]{1,3}\d{1,7}:[A-Z]{1,3}\d{1,7})"')
_UNCOMPUTED = re.compile(
    rb"(?:</(?:\w+:)?f>|<(?:\w+:)?f(?:\s[^>]{0,200})?/>)(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v></(?:\w+:)?v>)?</(?:\w+:)?c>"
)


def read_xlsx(data: bytes, limits: Limits) -> Draft:
    """Per visible sheet: its name as a heading, then regions, charts and text boxes from the top left.

    ``source`` is ``Sheet1!A1:F9``. ``meta``: ``num_sheets``, ``hidden_sheets`` (names; not read), ``num_uncomputed``
    (formulas without a stored result). Raises the errors of ``rag.read.archive.Container``.
    """
    container = Container(data, limits, "save it as .xlsx")
    parts = _sheet_parts(container)
    builder = BoundedBuilder(limits)
    num_uncomputed, hidden = 0, []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl warns of print settings and extensions that hold no text
            book = load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
            check_page_count(len(book.worksheets), limits, "sheets")
            for sheet in book.worksheets:
                if sheet.sheet_state != "visible":
                    hidden.append(sheet.title)
                    continue
                part = parts.get(sheet.title, "")
                raw = container.read(part) or b""
                num_uncomputed += sum(1 for _ in _UNCOMPUTED.finditer(raw))
                _Sheet(builder, sheet.title, _values(sheet, limits), list(_merges(raw)), limits).add(_drawings(container, part))
            book.close()
    except (
        InvalidFileException,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        OSError,
        SyntaxError,
    ) as error:
        raise ReadError("", f"not a readable workbook: {type(error).__name__}: {error}") from error
    meta = {"num_sheets": len(book.worksheets), "hidden_sheets": hidden, "num_uncomputed": num_uncomputed or None}
    return builder.finish({**container.properties(), **meta})


def _sheet_parts(container: Container) -> dict[str, str]:
    """Sheet name -> name of its part."""
    main = container.main_part("xl/workbook.xml")
    relations = container.relations(main)
    sheets = child_of(container.xml(main), "sheets")
    named = {value_of(node, "name") or "": value_of(node, "id") or "" for node in (() if sheets is None else sheets)}
    return {name: relations[relation].target for name, relation in named.items() if relation in relations}


def _merges(raw: bytes) -> Iterator[Region]:
    for found in _MERGE.finditer(raw):
        left, top, right, bottom = range_boundaries(found[1].decode("ascii"))
        if None not in (left, top, right, bottom) and left <= right and top <= bottom <= _MAX_ROWS:  # type: ignore[operator]
            yield Region(top, left, bottom, right)  # type: ignore[arg-type]


def _values(sheet: Any, limits: Limits) -> dict[int, dict[int, str | Cell]]:
    """Row -> column -> text of the filled cells; numbers and dates come as a ``Cell``, so that a head can be told from them."""
    sheet.reset_dimensions()  # what a file says of its own size is often wrong
    rows: dict[int, dict[int, str | Cell]] = {}
    num_chars = 0
    for number, row in enumerate(sheet.iter_rows(), start=1):
        if number > _MAX_ROWS:
            raise ReadError("", f"the sheet {sheet.title!r} has rows past {_MAX_ROWS:,}")
        texts: dict[int, str | Cell] = {}
        for column, cell in enumerate(row, start=1):
            if cell.value is not None and (shown := _shown(cell)):
                texts[column] = shown
                num_chars += len(CELL_SEPARATOR) + len(shown if isinstance(shown, str) else shown.text)
        if texts:
            rows[number] = texts
            if num_chars > limits.max_text_chars:
                raise FileTooLarge("", f"the sheet {sheet.title!r} passes {limits.max_text_chars:,} characters")
    return rows


def _shown(cell: Any) -> str | Cell:
    value = cell.value
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return Cell(str(value).upper())
    if isinstance(value, datetime):
        return Cell(value.date().isoformat() if value.time() == time() else value.isoformat(sep=" ", timespec="seconds"))
    if isinstance(value, (date, time)):
        return Cell(value.isoformat())
    if isinstance(value, (int, float)):
        if "%" in (cell.number_format or ""):
            return Cell(f"{value * 100:.10g}%")
        return Cell(f"{value:.15g}" if isinstance(value, float) else str(value))
    return Cell(str(value))


def _drawings(container: Container, part: str) -> list[tuple[int, int, Chart | str]]:
    """Row, column and content of the charts and text boxes that float over a sheet."""
    found: list[tuple[int, int, Chart | str]] = []
    for drawing in (
        [relation.target for relation in container.relations(part).values() if relation.kind == "drawing"] if part else []
    ):
        links = container.relations(drawing)
        root = container.xml(drawing)
        for anchor in () if root is None else root:
            row, column = (int_of(_text(child_of(anchor, "from", name)), 0) + 1 for name in ("row", "col"))
            for node in anchor.iter():
                if local_name(node) == "txBody" and (text := drawn_text(node)):
                    found.append((row, column, text))
                elif local_name(node) == "chart" and (relation := links.get(value_of(node, "id") or "")) is not None:
                    space = container.xml(relation.target)
                    chart = read_chart(space) if space is not None else None
                    if chart is not None:
                        found.append((row, column, chart))
    return found


def _text(node: etree._Element | None) -> str | None:
    return node.text if node is not None else None


class _Sheet:
    def __init__(
        self, builder: BoundedBuilder, name: str, values: dict[int, dict[int, str | Cell]], merges: list[Region], limits: Limits
    ) -> None:
        self._builder = builder
        self._name = name
        self._quoted = name if name.isidentifier() else quote_sheetname(name)
        self._values = values
        self._limits = limits
        self._merges = {(merge.top, merge.left): merge for merge in merges if merge.left in values.get(merge.top, {})}

    def add(self, drawings: list[tuple[int, int, Chart | str]]) -> None:
        """Adds the heading and everything on the sheet, from the top left."""
        columns = {row: set(texts) for row, texts in self._values.items()}
        found: list[tuple[int, int, Region | Chart | str]] = [
            (area.top, area.left, area) for area in regions(columns, self._merges.values())
        ]
        found += drawings
        if not found:
            return
        self._builder.add(self._name, "heading", level=2, source=self._quoted)
        for row, column, thing in sorted(found, key=lambda item: item[:2]):
            place = f"{self._quoted}!{get_column_letter(column)}{row}"
            if isinstance(thing, Region):
                self._add_region(thing)
            elif isinstance(thing, Chart):
                add_chart(self._builder, thing, None, place)
            else:
                self._builder.add(thing, source=place)

    def _add_region(self, area: Region) -> None:
        rows = [self._values.get(row, {}) for row in range(area.top, area.bottom + 1)]
        filled = [[column for column in range(area.left, area.right + 1) if column in row] for row in rows]
        title = _plain(rows[0][filled[0][0]]) if len(filled[0]) == 1 else ""
        if title and (len(rows) == 1 or (len(rows) > 2 and len(filled[1]) > 1 and isinstance(rows[0][filled[0][0]], str))):
            self._builder.add(
                title, "paragraph" if len(rows) == 1 else "caption", source=self._place(area._replace(bottom=area.top))
            )
            rows, area = rows[1:], area._replace(top=area.top + 1)
        if not rows:
            return
        is_head = len(rows) > 1 and all(
            isinstance(cell, str) for column, cell in rows[0].items() if area.left <= column <= area.right
        )
        if any(area.top <= row <= area.bottom and area.left <= column <= area.right for row, column in self._merges):
            texts = plain_rows(self._placed(area, rows), int(is_head), self._limits)
        else:
            texts = [[_plain(row.get(column, "")) for column in range(area.left, area.right + 1)] for row in rows]
        self._builder.add_table(texts, num_header_rows=int(is_head), source=self._place(area))

    def _placed(self, area: Region, rows: list[dict[int, str | Cell]]) -> list[dict[int, Cell]]:
        placed: list[dict[int, Cell]] = []
        for number, row in enumerate(rows, start=area.top):
            here: dict[int, Cell] = {}
            for column, cell in row.items():
                if area.left <= column <= area.right:
                    merge = self._merges.get((number, column))
                    here[column] = Cell(_plain(cell))
                    if merge is not None:
                        num_rows, num_columns = min(merge.bottom, area.bottom) - number + 1, merge.right - column + 1
                        here[column] = Cell(_plain(cell), num_rows, num_columns)
            placed.append(here)
        return placed

    def _place(self, area: Region) -> str:
        ends = [f"{get_column_letter(area.left)}{area.top}", f"{get_column_letter(area.right)}{area.bottom}"]
        return f"{self._quoted}!{':'.join(dict.fromkeys(ends))}"


def _plain(cell: str | Cell) -> str:
    return cell if isinstance(cell, str) else cell.text
