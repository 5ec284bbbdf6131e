"""Pages of a PDF with the chunks of a document drawn over them. Knows boxes and pixels; knows no chunker and no file on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rag.core import Chunk, Document, Element, Span
from rag.errors import MissingExtra, ReadError

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[float, float, float, float]

DPI = 110
MAX_SIDE_PIXELS = 4_000
"""Of a drawn page, whatever size the page says it has."""

COLOURS = (
    (214, 39, 40), (31, 119, 180), (44, 160, 44), (148, 103, 189), (230, 110, 0), (23, 150, 170), (200, 70, 150), (120, 85, 60),
    (85, 107, 47), (65, 75, 200),
)  # fmt: skip
LEGEND = "Coloured boxes: chunks, by number. Small grey numbers: elements in reading order."

_FILL_OPACITY = 46  # of 255
_GREY = (110, 110, 110)
_LEGEND_POINTS = 22


class DrawnBox(NamedTuple):
    """What one chunk has of one element. ``chunk`` counts from 1 in the document, ``order`` from 1 on the page."""

    chunk: int
    order: int
    box: Box  # points from the top left of the page


def pages_with_boxes(document: Document) -> list[int]:
    """The pages that have an element with a box, ascending."""
    return sorted({element.page for element in document.elements if element.page is not None and element.bbox is not None})


def chunk_boxes(document: Document, chunks: Sequence[Chunk], page: int) -> list[DrawnBox]:
    """The boxes to draw on a page, in reading order.

    An element that several chunks share has one box, which is divided between them from top to bottom by characters: near
    enough for text, and the only thing that is known about it.
    """
    elements = [element for element in document.elements if element.page == page and element.bbox is not None]
    return [
        DrawnBox(number, order, box) for order, element in enumerate(elements, start=1) for number, box in _shares(element, chunks)
    ]


def _shares(element: Element, chunks: Sequence[Chunk]) -> list[tuple[int, Box]]:
    """Chunk number -> its part of the element's box."""
    assert element.bbox is not None
    left, top, right, bottom = element.bbox
    start, length = element.span.start, max(len(element.span), 1)
    shares = []
    for number, chunk in enumerate(chunks, start=1):
        if chunk.span.overlaps(element.span):
            held = Span(max(chunk.span.start, start), min(chunk.span.end, element.span.end))
            high, low = ((place - start) / length * (bottom - top) + top for place in held)
            shares.append((number, (left, high, right, low)))
    return shares


def draw_page(data: bytes, document: Document, chunks: Sequence[Chunk], page: int, dpi: int = DPI) -> Image:
    """Page number ``page`` (from 1) of the PDF ``data``, which is what ``document`` was read from, with its chunks.

    Raises ``ValueError`` for a page that the file does not have, ``ReadError`` if it is no PDF or cannot be drawn and
    ``MissingExtra`` if pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ModuleNotFoundError:
        raise MissingExtra("pillow", "ocr", "drawing a page") from None
    picture, scale = _rendered(data, document.source, page, dpi)
    height = picture.height
    legend_height = round(_LEGEND_POINTS * scale)
    canvas = Image.new("RGB", (picture.width, height + legend_height), (255, 255, 255))
    canvas.paste(picture, (0, 0))
    shade = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
    lines, fonts = ImageDraw.Draw(shade), {size: ImageFont.load_default(size * scale) for size in (6.5, 9)}
    boxes = [_scaled(drawn, scale) for drawn in chunk_boxes(document, chunks, page)]
    for number, _, (left, top, right, bottom) in boxes:
        colour = _colour(number)
        lines.rectangle((left - 2, top - 1, right + 2, bottom + 1), (*colour, _FILL_OPACITY), (*colour, 255), 2)
    # numbers last, so that no box hides them; each once, at the first box there is
    for order, (_, top, right, _) in {drawn.order: drawn.box for drawn in reversed(boxes)}.items():
        lines.text((right + 4, top - 1), str(order), (*_GREY, 255), fonts[6.5])
    for number, (left, top, _, _) in {drawn.chunk: drawn.box for drawn in reversed(boxes)}.items():
        _tab(lines, (left - 3, top - 2), number, fonts[9])
    lines.text((8, height + legend_height / 2), LEGEND, (0, 0, 0, 255), fonts[9], anchor="lm")
    canvas.paste(shade, (0, 0), shade)
    return canvas


def _scaled(drawn: DrawnBox, scale: float) -> DrawnBox:
    left, top, right, bottom = drawn.box
    return drawn._replace(box=(left * scale, top * scale, right * scale, bottom * scale))


def _colour(number: int) -> tuple[int, int, int]:
    return COLOURS[(number - 1) % len(COLOURS)]


def _tab(lines: Any, corner: tuple[float, float], number: int, font: Any) -> None:
    """The chunk's number, white on its colour, left of the corner (inside the picture if there is no room)."""
    _, _, width, height = lines.textbbox((0, 0), str(number), font)
    right, top = max(corner[0], width + 6), max(corner[1], 0)
    lines.rectangle((right - width - 6, top, right, top + height + 4), (*_colour(number), 255))
    lines.text((right - width - 3, top + 1), str(number), (255, 255, 255, 255), font)


def _rendered(data: bytes, source: str, page: int, dpi: int) -> tuple[Image, float]:
    """The page as it is shown, and pixels per point."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise ReadError(source, f"cannot be drawn, only PDF pages can ({error})") from None
    try:
        if not 1 <= page <= len(document):
            raise ValueError(f"page {page}: {source} has pages 1 to {len(document)}")
        opened = document[page - 1]
        scale = min(dpi / 72.0, MAX_SIDE_PIXELS / max(*opened.get_size(), 1.0))
        return opened.render(scale=scale).to_pil().convert("RGB"), scale
    except pypdfium2.PdfiumError as error:
        raise ReadError(source, f"page {page} cannot be drawn: {error}") from None
    finally:
        document.close()
