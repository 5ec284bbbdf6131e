"""Pictures of chunks: which boxes, which colours, and what is refused."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from rag.core import Chunk, Document, Span
from rag.draw import COLOURS, chunk_boxes, draw_page, pages_with_boxes
from rag.errors import MissingExtra, ReadError
from rag.read.draft import TextBuilder


@pytest.fixture(scope="module")
def pdf() -> bytes:
    """Two empty pages of 200 x 300 points."""
    import pypdfium2

    document = pypdfium2.PdfDocument.new()
    for _ in range(2):
        document.new_page(200, 300)
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


@pytest.fixture
def document() -> Document:
    builder = TextBuilder()
    builder.add("abcdefghij", page=1, bbox=(20, 20, 180, 120))
    builder.add("klmno", page=1, bbox=(20, 150, 180, 200))
    builder.add("no box", page=1)
    builder.add("overleaf", page=2, bbox=(20, 20, 180, 60))
    return builder.draft().document("file.pdf")


def chunks_of(document: Document, *spans: tuple[int, int]) -> list[Chunk]:
    return [Chunk.of(document, Span(*span)) for span in spans]


def test_each_chunk_has_its_share_of_an_element(document: Document) -> None:
    chunks = chunks_of(document, (0, 4), (4, 17), (17, len(document.text)))
    assert pages_with_boxes(document) == [1, 2]
    boxes = chunk_boxes(document, chunks, 1)
    assert [(drawn.chunk, drawn.order) for drawn in boxes] == [(1, 1), (2, 1), (2, 2)]
    assert [drawn.box for drawn in boxes] == [(20, 20, 180, 60), (20, 60, 180, 120), (20, 150, 180, 200)]
    assert [(drawn.chunk, drawn.order, drawn.box) for drawn in chunk_boxes(document, chunks, 2)] == [(3, 1, (20, 20, 180, 60))]


def test_boxes_are_drawn_in_the_colour_of_their_chunk(document: Document, pdf: bytes) -> None:
    picture = draw_page(pdf, document, chunks_of(document, (0, 10), (12, 17)), 1, dpi=144)
    assert picture.width == 400 and picture.height > 600  # the legend is below the page
    assert picture.getpixel((200, 39)) == COLOURS[0]  # the upper edge of the box
    assert picture.getpixel((200, 299)) == COLOURS[1]

    def shade(x: int, y: int) -> Any:
        return picture.getpixel((x, y))

    assert shade(200, 140) != (255, 255, 255) and shade(200, 140) != shade(200, 350)
    assert shade(200, 270) == (255, 255, 255)
    legend = picture.crop((0, 600, 400, picture.height)).convert("L").getextrema()
    assert legend == (0, 255)


def test_a_chunk_has_its_number_at_its_first_box(document: Document, pdf: bytes) -> None:
    picture = draw_page(pdf, document, chunks_of(document, (0, 17)), 1, dpi=144)
    beside = [{picture.getpixel((x, y)) for x in range(20, 36) for y in range(top, top + 12)} for top in (40, 300)]
    assert COLOURS[0] in beside[0] and beside[1] == {(255, 255, 255)}


def test_a_huge_page_makes_no_huge_picture(document: Document) -> None:
    import pypdfium2

    new = pypdfium2.PdfDocument.new()
    new.new_page(14_000, 14_000)
    buffer = io.BytesIO()
    new.save(buffer)
    picture = draw_page(buffer.getvalue(), document, [], 1)
    assert 3_990 <= picture.width <= 4_010


def test_what_cannot_be_drawn_is_refused(document: Document, pdf: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"page 3: file.pdf has pages 1 to 2"):
        draw_page(pdf, document, [], 3)
    with pytest.raises(ReadError, match="file.pdf: cannot be drawn, only PDF pages can"):
        draw_page(b"# Ducks", document, [], 1)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"drawing a page needs the package 'pillow': pip install 'ragstone\[ocr\]'"):
        draw_page(pdf, document, [], 1)
