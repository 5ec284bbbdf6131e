"""PDF files, with pdfium. Knows how to open, refuse and describe one; what stands on a page is told by the ``pdf_*`` modules."""

from __future__ import annotations

import re
from typing import Any

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from rag.errors import EncryptedFile, FileTooLarge, ReadError
from rag.read import ocr
from rag.read.draft import Draft, Limits
from rag.read.pdf_assemble import assemble
from rag.read.pdf_words import PageText, page_text

MIN_PAGE_CHARS = 20  # a page with fewer and with a large picture is a scan
MIN_PICTURE_SHARE = 0.25  # of the page
MAX_RENDERED_SIDE = 5000  # pixels

_NO_TITLE = re.compile(
    r"^(untitled.*|microsoft word - .*|document\d*|.*\.(docx?|exe|dvi|tex|indd|qxd|pdf|ps|pptx?|xlsx?|rtf|txt|wpd|tmp|odt|html?))$",
    re.IGNORECASE,
)


def read_pdf(data: bytes, limits: Limits) -> Draft:
    """The text of a PDF in reading order, every element with page and box.

    ``meta`` has ``num_pages``, ``title`` and ``author`` where known, ``pages_from_ocr`` and ``pages_without_text`` (numbers from 1)
    where there are any. Raises ``EncryptedFile`` if it asks for a password, ``FileTooLarge`` past ``limits.max_pages`` or
    ``limits.max_text_chars``, ``ReadError`` if it is damaged, or if it is a scan and the ``ocr`` extra is not installed.
    """
    document = _opened(data)
    try:
        num_pages = len(document)
        if num_pages > limits.max_pages:
            raise FileTooLarge("", f"{num_pages} pages, more than the limit of {limits.max_pages}")
        if num_pages == 0:
            raise ReadError("", "damaged PDF: it has no pages")
        return _draft(document, num_pages, limits)
    finally:
        document.close()


def _opened(data: bytes) -> pdfium.PdfDocument:
    try:
        return pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        code = getattr(error, "err_code", None)
        if code in (pdfium_c.FPDF_ERR_PASSWORD, pdfium_c.FPDF_ERR_SECURITY):
            raise EncryptedFile("", "it asks for a password") from error
        if b"%PDF-" not in data[:1024]:
            raise ReadError("", "not a PDF: the mark %PDF- is missing") from error
        raise ReadError("", "damaged or truncated PDF") from error


def _draft(document: pdfium.PdfDocument, num_pages: int, limits: Limits) -> Draft:
    pages: list[PageText] = []
    from_ocr: list[int] = []
    without_text: list[int] = []
    num_chars = num_broken = 0
    can_recognise = ocr.is_available()
    for number in range(1, num_pages + 1):
        try:
            page = document[number - 1]
        except pdfium.PdfiumError:
            pages.append(PageText([], 0.0, 0.0, 0, 0))
            without_text.append(number)
            num_broken += 1
            continue
        try:
            text = page_text(page)
            if text.num_chars < MIN_PAGE_CHARS and _is_scan(page):
                if can_recognise:
                    text = _recognised(page)
                    from_ocr.append(number)
                else:
                    without_text.append(number)
        finally:
            page.close()
        num_chars += text.num_chars
        if num_chars > limits.max_text_chars:
            raise FileTooLarge("", f"more than {limits.max_text_chars} characters of text")
        pages.append(text)
    if num_broken == num_pages:
        raise ReadError("", "damaged PDF: none of its pages can be read")
    if without_text and num_chars == 0:
        raise ReadError("", ocr.MISSING)
    return assemble(pages, _meta(document, num_pages, from_ocr, without_text))


def _meta(document: pdfium.PdfDocument, num_pages: int, from_ocr: list[int], without_text: list[int]) -> dict[str, Any]:
    stated = document.get_metadata_dict(skip_empty=True)
    meta: dict[str, Any] = {"num_pages": num_pages}
    title = " ".join(str(stated.get("Title", "")).split())
    if title and not _NO_TITLE.match(title):
        meta["title"] = title
    if author := " ".join(str(stated.get("Author", "")).split()):
        meta["author"] = author
    if from_ocr:
        meta["pages_from_ocr"] = from_ocr
    if without_text:
        meta["pages_without_text"] = without_text
    return meta


def _is_scan(page: pdfium.PdfPage) -> bool:
    width, height = page.get_size()
    covered = 0.0
    for picture in page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_IMAGE], max_depth=4):
        left, bottom, right, top = picture.get_bounds()
        covered += max(right - left, 0) * max(top - bottom, 0)
    return bool(covered >= MIN_PICTURE_SHARE * width * height)


def _recognised(page: pdfium.PdfPage) -> PageText:
    width, height = page.get_size()
    scale = min(ocr.RENDER_DPI / 72, MAX_RENDERED_SIDE / max(width, height, 1))
    pixels = page.render(scale=scale, rev_byteorder=True, draw_annots=False).to_numpy()
    return ocr.recognise(pixels[:, :, :3], scale * 72, page.get_rotation())
