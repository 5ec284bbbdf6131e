"""The text of one PDF page as pieces: runs of words on one baseline, with boxes, sizes and weight. Knows no columns and no paragraphs.

pdfium decides where a word ends and which way a right-to-left run reads; geometry decides where a run of words ends. Boxes are
asked for twice a word, not once a character: that is what keeps this near the speed of pdfium's own text extraction.
"""

from __future__ import annotations

import ctypes
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

SOFT_HYPHEN = "\ufffe"  # what pdfium writes for a hyphen that ends a line inside a word
COLUMN_GAP = 1.0  # of the font size: more may be the space between columns or cells
WORD_GAP = 0.12  # of the font size: less is no blank
ASCENT, DESCENT = 0.8, 0.2  # of the font size: fonts state their own, but some state absurd ones

_RTL = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc"
# pdfium drops the blank where the direction of reading changes, so a change ends a word too
_WORD = re.compile(rf"(?:[{_RTL}]+|[^\s{SOFT_HYPHEN}\x00-\x1f{_RTL}]+){SOFT_HYPHEN}?")
_BOLD_NAME = re.compile(r"bold|black|heavy|demi|[-_,.]bd\b|medi\b|cmbx|sfbx|cmssbx|-b\b", re.IGNORECASE)
_MONO_NAME = re.compile(r"mono|courier|consol|typewriter|cmtt|sftt|menlo|inconsolata", re.IGNORECASE)
_ARABIC_ALEF_LAM = re.compile("[\u0622\u0623\u0625\u0627]\u0644")
_STRAY_ARABIC_MARK = re.compile("^[\u064b-\u0652](?=\\w)")
_NOTE_MARK = re.compile(r"(\d{1,3}|[*∗†‡§¶]{1,3})(?=[^\W\d]|[(\[\"“‘])")
_COMBINING = {"¨": "\u0308", "´": "\u0301", "`": "\u0300", "ˆ": "\u0302", "˜": "\u0303", "ˇ": "\u030c", "¸": "\u0327", "˘": "\u0306",
              "˙": "\u0307", "˚": "\u030a", "˝": "\u030b", "¯": "\u0304"}  # fmt: skip


@dataclass(slots=True)
class Piece:
    """Words on one baseline with no wide gap. The box is in points from the top left corner of the page, as it reads."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    size: float
    bold: bool = False
    mono: bool = False
    order: int = 0  # place in the page's own stream
    mark: bool = False  # starts with a small raised number or sign, as a footnote does

    @property
    def middle(self) -> float:
        """Height of the centre line."""
        return (self.top + self.bottom) / 2


def joined(pieces: Sequence[Piece]) -> str:
    """Pieces side by side as text, with blanks where the page shows a gap."""
    text = ""
    before: Piece | None = None
    for piece in pieces:
        if before is not None:
            gap = max(piece.left - before.right, before.left - piece.right)
            text += " " if gap > WORD_GAP * min(piece.size, before.size) else ""
        text += piece.text
        before = piece
    return text


class Turned(NamedTuple):
    """The pieces of a page whose letters stand at one angle; boxes are in the frame in which they read upright."""

    angle: int  # counter-clockwise, against the unturned page: 0, 90, 180 or 270
    pieces: list[Piece]


class PageText(NamedTuple):
    """All text of a page. ``groups`` starts with the text that reads upright when the page is shown."""

    groups: list[Turned]
    width: float  # as shown
    height: float
    rotation: int  # clockwise, as shown
    num_chars: int  # without blanks

    def shown(self, box: tuple[float, float, float, float], angle: int) -> tuple[float, float, float, float]:
        """A box of the group with that ``angle`` in the frame of the page as it is shown."""
        across, down = (self.height, self.width) if self.rotation % 180 else (self.width, self.height)
        corners = [_turn(*_turn_back(x, y, angle, across, down), self.rotation, across, down) for x, y in (box[:2], box[2:])]
        (x0, y0), (x1, y1) = corners
        return round(min(x0, x1), 2), round(min(y0, y1), 2), round(max(x0, x1), 2), round(max(y0, y1), 2)


def _turn(x: Any, y: Any, angle: int, width: float, height: float) -> tuple[Any, Any]:
    """A point (y down) of an unturned page after the page was turned clockwise by ``angle``."""
    return {0: (x, y), 90: (height - y, x), 180: (width - x, height - y), 270: (y, width - x)}[angle]


def _turn_back(x: float, y: float, angle: int, width: float, height: float) -> tuple[float, float]:
    return {0: (x, y), 90: (y, height - x), 180: (width - x, height - y), 270: (width - y, x)}[angle]


def _bare(function: Any, result: Any, *arguments: Any) -> Any:
    # pypdfium2's typed pointers cost more per call than the call itself; plain addresses do not
    return ctypes.CFUNCTYPE(result, *arguments)(ctypes.cast(function, ctypes.c_void_p).value)


_address = ctypes.c_void_p
_loose_box = _bare(pdfium_c.FPDFText_GetLooseCharBox, ctypes.c_int, _address, ctypes.c_int, _address)
_object_of = _bare(pdfium_c.FPDFText_GetTextObject, _address, _address, ctypes.c_int)
_matrix_of = _bare(pdfium_c.FPDFText_GetMatrix, ctypes.c_int, _address, ctypes.c_int, _address)
_size_of = _bare(pdfium_c.FPDFText_GetFontSize, ctypes.c_double, _address, ctypes.c_int)
_font_of = _bare(pdfium_c.FPDFTextObj_GetFont, _address, _address)
_font_name = _bare(pdfium_c.FPDFFont_GetBaseFontName, ctypes.c_size_t, _address, _address, ctypes.c_size_t)
_font_flags = _bare(pdfium_c.FPDFFont_GetFlags, ctypes.c_int, _address)


class _Style(NamedTuple):
    """What all letters of one text object share. ``x``, ``y``: origin in page space, y up."""

    size: float
    angle: int
    x: float
    y: float
    bold: bool
    mono: bool


class _Styles:
    """Styles of one page, asked for once per text object."""

    def __init__(self, text_page: int) -> None:
        self._text_page = text_page
        self._by_object: dict[int | None, _Style] = {}
        self._by_font: dict[int | None, tuple[bool, bool]] = {}
        self._matrix = pdfium_c.FS_MATRIX()

    def of(self, index: int) -> _Style:
        """The style of the character at ``index``."""
        text_object = _object_of(self._text_page, index)
        style = self._by_object.get(text_object)
        if style is None:
            style = self._by_object[text_object] = self._ask(text_object, index)
        return style

    def _ask(self, text_object: int | None, index: int) -> _Style:
        matrix = self._matrix
        _matrix_of(self._text_page, index, ctypes.addressof(matrix))
        size = _size_of(self._text_page, index) * math.hypot(matrix.c, matrix.d)
        angle = round(math.degrees(math.atan2(matrix.b, matrix.a)) / 90) * 90 % 360
        font = _font_of(text_object) if text_object else None
        if font not in self._by_font:
            self._by_font[font] = _bold_and_mono(font)
        return _Style(size or 1.0, angle, matrix.e, matrix.f, *self._by_font[font])


def _bold_and_mono(font: int | None) -> tuple[bool, bool]:
    if not font:
        return False, False
    buffer = ctypes.create_string_buffer(128)
    _font_name(font, ctypes.addressof(buffer), 128)
    name = buffer.value.decode("latin-1").partition("+")[2] or buffer.value.decode("latin-1")
    flags = _font_flags(font)
    return bool(_BOLD_NAME.search(name)) or flags > 0 and bool(flags & 1 << 18), bool(_MONO_NAME.search(name)) or flags > 0 and bool(flags & 1)


def page_text(page: pdfium.PdfPage) -> PageText:
    """Every piece of text on the page, grouped by the way it is turned, in the order of the page's own stream."""
    left, bottom, right, top = page.get_bbox()
    width, height = right - left, top - bottom
    rotation = page.get_rotation()
    shown = (height, width) if rotation % 180 else (width, height)
    text_page = page.get_textpage()
    try:
        pieces = _pieces(text_page, left, top, width, height)
    finally:
        text_page.close()
    # what stands wholly outside the page cannot be seen
    groups = {
        angle: [p for p in group if p.right > 0 and p.bottom > 0 and p.left < size[0] and p.top < size[1]]
        for angle, group in pieces.items()
        for size in [(height, width) if angle % 180 else (width, height)]
    }
    ordered = sorted((angle for angle in groups if groups[angle]), key=lambda angle: (angle != rotation, angle))
    num_chars = sum(len(piece.text) - piece.text.count(" ") for group in groups.values() for piece in group)
    return PageText([Turned(angle, groups[angle]) for angle in ordered], *shown, rotation, num_chars)


def _page_string(text_page: pdfium.PdfTextPage, num_chars: int) -> str:
    text: str = text_page.get_text_range()
    if len(text) == num_chars:
        return text
    # a character without a code or beyond 16 bits: places in the string would no longer be places on the page
    codes = (pdfium_c.FPDFText_GetUnicode(text_page.raw, index) for index in range(num_chars))
    hyphens = {index for index in range(num_chars) if pdfium_c.FPDFText_IsHyphen(text_page.raw, index) == 1}
    return "".join(
        SOFT_HYPHEN if index in hyphens else chr(code) if 0 < code <= 0x10FFFF else " " for index, code in enumerate(codes)
    )


def _pieces(text_page: pdfium.PdfTextPage, left: float, top: float, width: float, height: float) -> dict[int, list[Piece]]:
    num_chars = text_page.count_chars()
    if num_chars <= 0:
        return {}
    text = _page_string(text_page, num_chars)
    spans = [match.span() for match in _WORD.finditer(text)]
    if not spans:
        return {}
    raw = ctypes.cast(text_page.raw, ctypes.c_void_p).value
    assert raw is not None
    styles = _Styles(raw)
    buffer = (pdfium_c.FS_RECTF * (2 * len(spans)))()
    address, step = ctypes.addressof(buffer), ctypes.sizeof(pdfium_c.FS_RECTF)
    of_words: list[_Style] = []
    marked: set[int] = set()
    for start, end in spans:
        _loose_box(raw, start, address)
        _loose_box(raw, end - 1, address + step)
        address += 2 * step
        first, last = styles.of(start), styles.of(end - 1)
        if last.size > 1.2 * first.size and last.angle == first.angle:
            marked.add(len(of_words))
            first = last
        of_words.append(first)
    boxes = np.frombuffer(buffer, np.float32).astype(np.float64).reshape(len(spans), 2, 4)
    boxes[:, :, 0::2] -= left
    boxes[:, :, 1::2] = top - boxes[:, :, 1::2]
    low, high = boxes[:, :, 0::2].min((1, 2)), boxes[:, :, 0::2].max((1, 2))
    above, below = boxes[:, :, 1::2].min((1, 2)), boxes[:, :, 1::2].max((1, 2))
    groups: dict[int, list[Piece]] = {}
    extents: dict[int, tuple[list[float], list[float]]] = {}
    for angle in {style.angle for style in of_words}:
        x0, _ = _turn(low, above, angle, width, height)
        x1, _ = _turn(high, below, angle, width, height)
        extents[angle] = (np.minimum(x0, x1).tolist(), np.maximum(x0, x1).tolist())
        groups[angle] = []
    run: Piece | None = None
    run_angle = baseline = 0.0
    previous_end = 0
    for number, ((start, end), style) in enumerate(zip(spans, of_words, strict=True)):
        word = text[start:end]
        x0, x1 = extents[style.angle][0][number], extents[style.angle][1][number]
        _, y = _turn(style.x - left, top - style.y, style.angle, width, height)
        if number in marked and (sign := _NOTE_MARK.match(word)):
            word = f"{sign.group()} {word[sign.end() :]}"
        if word in _COMBINING and run is not None and run_angle == style.angle and run.left <= (x0 + x1) / 2 <= run.right:
            _compose(run, word, text_page, spans, text, number, ((x0 + x1) / 2, style, left, top, width, height))
            previous_end = end
            continue
        if "\u0600" <= word[0] <= "\u06ff":
            word = _arabic(word, raw, start)
        if (
            run is not None
            and run_angle == style.angle
            and not run.text.endswith(SOFT_HYPHEN)
            and "\n" not in text[previous_end:start]
            and max(x0 - run.right, run.left - x1) < COLUMN_GAP * max(style.size, run.size)
            and abs(y - baseline) < 0.6 * max(style.size, run.size)
        ):
            gap = max(x0 - run.right, run.left - x1)
            letters_meet = start == previous_end and word[0].isalpha() and run.text[-1].isalpha()  # of two directions
            joint = "" if start == previous_end and gap < WORD_GAP * style.size and not letters_meet else " "
            if mark := _STRAY_ARABIC_MARK.match(word):  # the mark stands over the letter that ends up behind it
                run.text += word[mark.end()] + mark.group() + word[mark.end() + 1 :]
            else:
                run.text += joint + word
            if len(word) > len(run.text) - len(word) or style.size > run.size:
                run.size = style.size
            run.left, run.right = min(run.left, x0), max(run.right, x1)
            run.top, run.bottom = min(run.top, y - ASCENT * style.size), max(run.bottom, y + DESCENT * style.size)
            run.bold = run.bold and (style.bold or not word.isalnum())
            run.mono = run.mono and style.mono
        else:
            run = Piece(word, x0, y - ASCENT * style.size, x1, y + DESCENT * style.size, style.size, style.bold, style.mono, number)
            run.mark = number in marked and " " in word
            run_angle, baseline = style.angle, y
            groups[style.angle].append(run)
        previous_end = end
    return groups


def _arabic(word: str, raw: int, start: int) -> str:
    """``word`` with the letters of each lam-alef ligature in logical order: pdfium turns the two round with the rest of the word."""
    letters = list(word)
    first, second = pdfium_c.FS_RECTF(), pdfium_c.FS_RECTF()
    for match in _ARABIC_ALEF_LAM.finditer(word):
        at = match.start()
        _loose_box(raw, start + at, ctypes.addressof(first))
        _loose_box(raw, start + at + 1, ctypes.addressof(second))
        if abs(first.left - second.left) < 0.1:  # one glyph
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "".join(letters)


def _compose(run: Piece, accent: str, text_page: Any, spans: Any, text: str, number: int, place: Any) -> None:
    """Puts a free-standing accent (TeX's old fonts draw them so) on the letter of ``run`` that it stands over."""
    centre, style, left, top, width, height = place
    box = pdfium_c.FS_RECTF()
    best: tuple[float, int] | None = None
    word_start, word_end = spans[number - 1]
    for index in range(word_start, word_end):
        pdfium_c.FPDFText_GetLooseCharBox(text_page.raw, index, box)
        x, _ = _turn((box.left + box.right) / 2 - left, top - (box.top + box.bottom) / 2, style.angle, width, height)
        if text[index].isalpha() and (best is None or abs(x - centre) < best[0]):
            best = abs(x - centre), word_end - index - 1
    if best is not None:
        at = len(run.text) - best[1]
        run.text = run.text[: at - 1] + unicodedata.normalize("NFC", run.text[at - 1] + _COMBINING[accent]) + run.text[at:]
