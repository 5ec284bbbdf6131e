"""DOCX, PPTX and XLSX built on the spot: merged cells, hidden text, notes, charts, regions, dates."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import docx
import openpyxl
import pptx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from hypothesis import example, given
from hypothesis import strategies as st
from openpyxl.chart import BarChart, Reference
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from rag.core import Element
from rag.read.draft import Draft, Limits
from rag.read.grid import Cell, place, plain_rows
from rag.read.region import Region, regions
from rag.read.sheet import read_xlsx
from rag.read.slides import read_pptx
from rag.read.word import read_docx


def saved(document: Any) -> bytes:
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


def changed(container: bytes, name: str, change: Callable[[bytes], bytes], also: dict[str, bytes] | None = None) -> bytes:
    """The zip with one part changed and others added."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(container)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(old.read(entry)) if entry.filename == name else old.read(entry))
        for added, content in (also or {}).items():
            new.writestr(added, content)
    return stream.getvalue()


def texts(draft: Draft) -> list[tuple[str, str]]:
    return [(element.kind, element.span.of(draft.text)) for element in draft.elements]


def tables(draft: Draft) -> list[Element]:
    return [element for element in draft.elements if element.kind == "table"]


# DOCX ---------------------------------------------------------------------------------------------------------------------


def test_docx_order_levels_and_properties() -> None:
    document = docx.Document()
    document.core_properties.title, document.core_properties.author = "Ducks", "A. Duck"
    document.add_heading("The Title", 0)
    document.add_heading("Part", 2)
    document.add_paragraph("Before\tthe table")
    table = document.add_table(2, 3)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "wide"
    table.cell(0, 2).text, table.cell(1, 0).text, table.cell(1, 1).text, table.cell(1, 2).text = "c", "1", "2\n3", "4"
    document.add_paragraph("a", style="List Bullet")
    document.add_paragraph("b", style="List Bullet")
    document.add_paragraph("n", style="List Number")
    document.add_paragraph("Figure 1", style="Caption")
    document.sections[0].header.paragraphs[0].text = "HEADER"
    draft = read_docx(saved(document), Limits())
    assert texts(draft) == [
        ("heading", "The Title"), ("heading", "Part"), ("paragraph", "Before\tthe table"), ("table", "wide | wide | c\n1 | 2 3 | 4"),
        ("list", "- a\n- b\n1. n"), ("caption", "Figure 1"),
    ]  # fmt: skip
    assert [element.level for element in draft.elements[:2]] == [1, 2]
    assert (draft.meta["title"], draft.meta["author"]) == ("Ducks", "A. Duck")
    assert (tables(draft)[0].num_header_rows, tables(draft)[0].source) == (1, "table 1")


RUNS = {
    "<w:r><w:rPr><w:vanish/></w:rPr><w:t>SECRET</w:t></w:r>": False,
    '<w:r><w:rPr><w:vanish w:val="0"/></w:rPr><w:t>SECRET</w:t></w:r>': True,
    '<w:r><w:rPr><w:color w:val="FFFFFF"/></w:rPr><w:t>SECRET</w:t></w:r>': False,
    '<w:r><w:rPr><w:color w:val="FFFFFF"/><w:shd w:fill="000000"/></w:rPr><w:t>SECRET</w:t></w:r>': True,
    '<w:r><w:rPr><w:sz w:val="2"/></w:rPr><w:t>SECRET</w:t></w:r>': False,
    "<w:del><w:r><w:delText>SECRET</w:delText></w:r></w:del>": False,
    "<w:ins><w:r><w:t>SECRET</w:t></w:r></w:ins>": True,
    "<w:r><w:instrText>SECRET</w:instrText></w:r>": False,
    "<w:hyperlink><w:r><w:t>SECRET</w:t></w:r></w:hyperlink>": True,
    "<w:sdt><w:sdtContent><w:r><w:t>SECRET</w:t></w:r></w:sdtContent></w:sdt>": True,
}


@pytest.mark.parametrize(("run", "is_seen"), RUNS.items())
def test_docx_text_that_nobody_sees(run: str, is_seen: bool) -> None:
    document = docx.Document()
    document.element.body.insert(0, parse_xml(f"<w:p {nsdecls('w')}><w:r><w:t>seen </w:t></w:r>{run}</w:p>"))
    assert read_docx(saved(document), Limits()).text == ("seen SECRET" if is_seen else "seen")


def test_docx_white_text_in_a_table_may_stand_on_dark_shading() -> None:
    document = docx.Document()
    cells = document.add_table(1, 2).rows[0].cells
    cells[0].text = "a"
    cells[1].paragraphs[0]._p.append(parse_xml(f'<w:r {nsdecls("w")}><w:rPr><w:color w:val="FFFFFF"/></w:rPr><w:t>b</w:t></w:r>'))
    assert read_docx(saved(document), Limits()).text == "a | b"


def test_docx_text_boxes_footnotes_frames_and_vertical_merges() -> None:
    document = docx.Document()
    box = f"""<w:p {nsdecls("w")} xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"><w:r><w:t>Anchor</w:t></w:r>
      <w:r><mc:AlternateContent><mc:Choice Requires="wps"><w:drawing><w:txbxContent><w:p><w:r><w:t>In the box</w:t></w:r></w:p></w:txbxContent></w:drawing>
      </mc:Choice><mc:Fallback><w:pict><w:txbxContent><w:p><w:r><w:t>In the box</w:t></w:r></w:p></w:txbxContent></w:pict></mc:Fallback>
      </mc:AlternateContent></w:r><w:r><w:footnoteReference w:id="7"/></w:r></w:p>"""
    document.element.body.insert(0, parse_xml(box))
    document.add_table(1, 1).cell(0, 0).text = "Framed"
    table = document.add_table(3, 2)
    table.cell(1, 0).merge(table.cell(2, 0)).text = "tall"
    for row in range(3):
        table.cell(row, 1).text = f"r{row}"
    notes = (
        f'<w:footnotes {nsdecls("w")}><w:footnote w:id="7"><w:p><w:r><w:t>The note.</w:t></w:r></w:p></w:footnote></w:footnotes>'
    )
    relation = b'<Relationship Id="rIdN" Type="http://x/footnotes" Target="footnotes.xml"/></Relationships>'
    file = changed(
        saved(document),
        "word/_rels/document.xml.rels",
        lambda part: part.replace(b"</Relationships>", relation),
        {"word/footnotes.xml": notes.encode()},
    )
    assert texts(read_docx(file, Limits())) == [
        ("paragraph", "Anchor[1]"), ("paragraph", "In the box"), ("paragraph", "Framed"), ("table", "| r0\ntall | r1\ntall | r2"),
        ("paragraph", "[1] The note."),
    ]  # fmt: skip


def test_docx_with_macros_and_with_broken_relations_is_read() -> None:
    document = docx.Document()
    document.add_paragraph("still here")
    file = changed(
        saved(document), "[Content_Types].xml", lambda part: part.replace(b"wordprocessingml.document.main", b"macroEnabled.main")
    )
    file = changed(file, "word/_rels/document.xml.rels", lambda part: part.replace(b"styles.xml", b"../NULL"))
    assert read_docx(file, Limits()).text == "still here"


# PPTX ---------------------------------------------------------------------------------------------------------------------


def test_pptx_order_tables_charts_notes_and_hidden_shapes() -> None:
    deck = pptx.Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[1])
    first.shapes.title.text = "First"
    first.placeholders[1].text = "point\nother"
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Second"
    for left, top, text in [
        (5, 3, "right"),
        (1, 3.05, "left"),
        (1, 5, "low\vline"),
        (1, 2, "high"),
        (30, 3, "OFF SLIDE"),
        (1, 4, "HIDDEN"),
    ]:
        box = slide.shapes.add_textbox(Inches(left), Inches(top), Inches(1), Inches(0.5))
        box.text_frame.text = text
        if text == "HIDDEN":
            box._element.nvSpPr.cNvPr.set("hidden", "1")
    table = slide.shapes.add_table(3, 2, Inches(1), Inches(6), Inches(4), Inches(0.5)).table
    for row in range(3):
        for column in range(2):
            table.cell(row, column).text = f"{row}{column}"
    table.cell(1, 0).merge(table.cell(2, 0))
    chart_data: Any = CategoryChartData()  # type: ignore[no-untyped-call]
    chart_data.categories = ["2023", "2024"]
    chart_data.add_series("Ducks", (1.5, 2))
    chart = slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, Inches(1), Inches(7), Inches(3), Inches(0.4), chart_data).chart
    chart.has_title = True
    chart.chart_title.text_frame.text = "Flock"
    slide.notes_slide.notes_text_frame.text = "say this"
    draft = read_pptx(saved(deck), Limits())
    assert texts(draft) == [
        ("heading", "First"), ("list", "- point\n- other"), ("heading", "Second"), ("paragraph", "high"), ("paragraph", "left"),
        ("paragraph", "right"), ("paragraph", "low\nline"), ("table", "00 | 01\n10 20 | 11\n10 20 | 21"), ("caption", "Flock (bar chart)"),
        ("table", "| Ducks\n2023 | 1.5\n2024 | 2"), ("paragraph", "say this"),
    ]  # fmt: skip
    assert [element.page for element in draft.elements] == [1, 1] + [2] * 9
    assert [element.level for element in draft.elements if element.kind == "heading"] == [1, 2]
    assert draft.elements[-1].source == "slide 2 notes"
    assert draft.meta["num_slides"] == 2


# XLSX ---------------------------------------------------------------------------------------------------------------------


def test_xlsx_regions_values_merges_and_hidden_sheets() -> None:
    book = openpyxl.Workbook()
    sheet: Any = book.active
    sheet.title = "My data"
    for row in [
        ["name", "born", "share", "ok"],
        ["mallard", date(2024, 5, 1), 0.255, True],
        ["eider", datetime(2024, 5, 1, 13, 30), 0.1 + 0.2, False],
    ]:
        sheet.append(row)
    sheet["C2"].number_format = "0.0%"
    sheet["F2"], sheet["F3"], sheet["G3"], sheet["F4"], sheet["G4"] = "A title", "k", "v", "x", 1
    sheet["A7"] = "alone"
    sheet["A9"], sheet["A11"], sheet["B9"], sheet["B10"], sheet["B11"] = "tall", "other", 1, 2, 3
    sheet.merge_cells("A9:A10")
    book.create_sheet("Secret").sheet_state = "hidden"
    book["Secret"]["A1"] = "HIDDEN"
    book.create_sheet("Empty")
    book.create_sheet("F")["A1"] = "=1+1"
    draft = read_xlsx(saved(book), Limits())
    assert [(element.kind, element.source, element.num_header_rows, element.span.of(draft.text)) for element in draft.elements] == [
        ("heading", "'My data'", 0, "My data"),
        (
            "table",
            "'My data'!A1:D3",
            1,
            "name | born | share | ok\nmallard | 2024-05-01 | 25.5% | TRUE\neider | 2024-05-01 13:30:00 | 0.3 | FALSE",
        ),
        ("caption", "'My data'!F2:G2", 0, "A title"),
        ("table", "'My data'!F3:G4", 1, "k | v\nx | 1"),
        ("paragraph", "'My data'!A7", 0, "alone"),
        ("table", "'My data'!A9:B11", 0, "tall | 1\ntall | 2\nother | 3"),
    ]
    assert (draft.meta["num_sheets"], draft.meta["hidden_sheets"], draft.meta["num_uncomputed"]) == (4, ["Secret"], 1)


def test_xlsx_charts_are_read_from_the_drawing() -> None:
    book = openpyxl.Workbook()
    sheet: Any = book.active
    for row in [["year", "ducks"], ["2023", 5], ["2024", 7]]:
        sheet.append(row)
    chart = BarChart()
    chart.title = "Flock"
    chart.add_data(Reference(sheet, min_col=2, min_row=1, max_row=3), titles_from_data=True)
    sheet.add_chart(chart, "D2")
    draft = read_xlsx(saved(book), Limits())
    assert ("caption", "Flock (bar chart)") in texts(draft)
    assert draft.elements[-1].source == "Sheet!D2"


# rectangles and merged cells against slow references ----------------------------------------------------------------------


def slow_regions(filled: set[tuple[int, int]]) -> list[Region]:
    """Flood fill, then unite rectangles that share a cell until nothing changes."""
    boxes: list[Region] = []
    left = set(filled)
    while left:
        todo = [left.pop()]
        box = Region(*todo[0], *todo[0])
        while todo:
            row, column = todo.pop()
            box = box.union(Region(row, column, row, column))
            for near in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if near in left:
                    left.remove(near)
                    todo.append(near)
        boxes.append(box)
    while True:
        pairs = [(a, b) for a in boxes for b in boxes if a != b and a.meets(b)]
        if not pairs:
            return sorted(set(boxes))
        a, b = pairs[0]
        boxes = [box for box in boxes if box not in (a, b)] + [a.union(b)]


@example({*((1, column) for column in range(1, 6)), (2, 1), (3, 1), (3, 3)})  # one begins on the last row of the other
@given(st.sets(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=40))
def test_regions_equal_flood_fill(filled: set[tuple[int, int]]) -> None:
    columns: dict[int, set[int]] = {}
    for row, column in filled:
        columns.setdefault(row, set()).add(column)
    assert regions(columns) == slow_regions(filled)


@given(st.lists(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=4), max_size=5))
def test_placed_cells_keep_clear_of_cells_from_above(spans: list[list[tuple[int, int]]]) -> None:
    rows = [[Cell(f"{r}.{c}", *span) for c, span in enumerate(row)] for r, row in enumerate(spans)]
    placed = place(rows)
    assert [list(row.values()) for row in placed] == rows
    for number, row in enumerate(placed):
        assert sorted(row) == list(row)
        for above, upper in enumerate(placed[:number]):
            for column, cell in upper.items():
                if above + cell.num_rows > number:
                    assert not set(range(column, column + cell.num_columns)) & set(row)
    shown = {text for row in plain_rows(placed, 1, Limits()) for text in row}
    assert {cell.text for row in rows for cell in row} <= shown


def test_merged_labels_repeat_and_prose_does_not() -> None:
    placed = place([[Cell("wide", 1, 2), Cell("c")], [Cell("tall", 2), Cell("x" * 100, 2), Cell("1")], [Cell("2")]])
    assert plain_rows(placed, 1, Limits()) == [["wide", "wide", "c"], ["tall", "x" * 100, "1"], ["tall", "", "2"]]
