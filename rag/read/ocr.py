"""Text in pictures, with the recogniser of the ``ocr`` extra (RapidOCR, whose models come inside its wheel). Knows pixels, not PDF.

The recogniser gives boxes row by row across columns; reading order is our own, the same as for printed pages.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import FileTooLarge, ReadError
from rag.read.draft import Draft, Limits
from rag.read.pdf_assemble import assemble
from rag.read.pdf_words import PageText, Piece, Turned

RENDER_DPI = 200
MIN_CONFIDENCE = 0.5
MAX_PIXELS = 100_000_000
MISSING = "it holds pictures of text only; reading them needs: pip install 'ragstone[ocr]'"


def is_available() -> bool:
    """Whether the ``ocr`` extra is installed."""
    return all(importlib.util.find_spec(name) for name in ("rapidocr", "onnxruntime"))


@cache
def _recogniser() -> Any:
    from rapidocr import RapidOCR

    recogniser = RapidOCR(params={"Global.log_level": "critical"})
    logging.getLogger("RapidOCR").setLevel(logging.CRITICAL)
    return recogniser


def recognise(pixels: NDArray[np.uint8], dpi: float, rotation: int = 0) -> PageText:
    """The text of an image ``(height, width, 3)``, RGB, as a page whose points are pixels * 72 / ``dpi``."""
    found = _recogniser()(np.ascontiguousarray(pixels[:, :, ::-1]))
    scale = 72.0 / dpi
    pieces: list[Piece] = []
    boxes = found.boxes if found.boxes is not None else ()
    for number, (box, text, score) in enumerate(zip(boxes, found.txts or (), found.scores or (), strict=True)):
        if score < MIN_CONFIDENCE or not text.strip():
            continue
        (x0, y0), (x1, y1) = np.min(box, 0) * scale, np.max(box, 0) * scale
        line_height = min(math.dist(box[0], box[3]), math.dist(box[0], box[1])) * scale
        size = round(line_height * 0.8 * 2) / 2 or 0.5  # the boxes hold some air
        pieces.append(Piece(text.strip(), float(x0), float(y0), float(x1), float(y1), size, order=number))
    height, width = pixels.shape[0] * scale, pixels.shape[1] * scale
    return PageText([Turned(rotation, pieces)] if pieces else [], width, height, rotation, sum(len(piece.text) for piece in pieces))


def read_image(data: bytes, limits: Limits) -> Draft:
    """A picture (PNG, JPEG, TIFF with one or many pages, ...) as text.

    Raises ``FileTooLarge`` past ``limits.max_pages`` or 100 megapixels a page and ``ReadError`` if the bytes are no picture or
    the ``ocr`` extra is not installed.
    """
    if not is_available():
        raise ReadError("", MISSING)
    pages = [recognise(pixels, dpi) for pixels, dpi in _frames(data, limits)]
    return assemble(pages, {"num_pages": len(pages), "pages_from_ocr": list(range(1, len(pages) + 1))})


def _frames(data: bytes, limits: Limits) -> Iterator[tuple[NDArray[np.uint8], float]]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data))
        num_frames = getattr(image, "n_frames", 1)
        if num_frames > limits.max_pages:
            raise FileTooLarge("", f"{num_frames} pages, more than the limit of {limits.max_pages}")
        for number in range(num_frames):
            image.seek(number)
            if image.width * image.height > MAX_PIXELS:
                raise FileTooLarge("", f"{image.width} x {image.height} pixels, more than the limit of {MAX_PIXELS}")
            stated = image.info.get("dpi", (0, 0))[0]
            upright = ImageOps.exif_transpose(image).convert("RGB")
            yield np.asarray(upright), float(stated) if 50 <= float(stated) <= 1200 else float(RENDER_DPI)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise ReadError(
            "", f"not a readable picture: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error
