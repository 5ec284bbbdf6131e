"""Fonts and sizes of the characters on a PDF page, asked for once per text object. Knows pdfium's C functions, no words."""

from __future__ import annotations

import ctypes
import math
import re
from typing import Any, NamedTuple

import pypdfium2.raw as pdfium_c

MAX_FONT_SIZE_PT = 5000.0

_BOLD_NAME = re.compile(r"bold|black|heavy|demi|[-_,.]bd\b|medi\b|cmbx|sfbx|cmssbx|-b\b", re.IGNORECASE)
_MONO_NAME = re.compile(r"mono|courier|consol|typewriter|cmtt|sftt|menlo|inconsolata", re.IGNORECASE)


def _bare(function: Any, result: Any, *arguments: Any) -> Any:
    # pypdfium2's typed pointers cost more per call than the call itself; plain addresses do not
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return ctypes.CFUNCTYPE(result, *arguments)(address)


_address = ctypes.c_void_p
loose_box = _bare(pdfium_c.FPDFText_GetLooseCharBox, ctypes.c_int, _address, ctypes.c_int, _address)
_object_of = _bare(pdfium_c.FPDFText_GetTextObject, _address, _address, ctypes.c_int)
_matrix_of = _bare(pdfium_c.FPDFText_GetMatrix, ctypes.c_int, _address, ctypes.c_int, _address)
_size_of = _bare(pdfium_c.FPDFText_GetFontSize, ctypes.c_double, _address, ctypes.c_int)
_font_of = _bare(pdfium_c.FPDFTextObj_GetFont, _address, _address)
_font_name = _bare(pdfium_c.FPDFFont_GetBaseFontName, ctypes.c_size_t, _address, _address, ctypes.c_size_t)
_font_flags = _bare(pdfium_c.FPDFFont_GetFlags, ctypes.c_int, _address)


class Style(NamedTuple):
    """What all letters of one text object share. ``x``, ``y``: origin in page space, y up."""

    size: float
    angle: int
    x: float
    y: float
    bold: bool
    mono: bool


class Styles:
    """Styles of one page, asked for once per text object."""

    def __init__(self, text_page: int) -> None:
        self._text_page = text_page
        self._by_object: dict[int | None, Style] = {}
        self._by_font: dict[int | None, tuple[bool, bool]] = {}
        self._matrix = pdfium_c.FS_MATRIX()

    def of_all(self, indices: list[int]) -> list[Style]:
        """The styles of the characters at ``indices``: ``of`` without a call for each."""
        text_page, known = self._text_page, self._by_object
        objects = [_object_of(text_page, index) for index in indices]
        return [known.get(each) or self.of(index) for each, index in zip(objects, indices, strict=True)]

    def of(self, index: int) -> Style:
        """The style of the character at ``index``."""
        text_object = _object_of(self._text_page, index)
        style = self._by_object.get(text_object)
        if style is None:
            style = self._by_object[text_object] = self._ask(text_object, index)
        return style

    def _ask(self, text_object: int | None, index: int) -> Style:
        matrix = self._matrix
        _matrix_of(self._text_page, index, ctypes.addressof(matrix))
        size = _size_of(self._text_page, index) * math.hypot(matrix.c, matrix.d)
        turn = math.degrees(math.atan2(matrix.b, matrix.a))
        angle = round(turn / 90) * 90 % 360 if math.isfinite(turn) else 0
        font = _font_of(text_object) if text_object else None
        if font not in self._by_font:
            self._by_font[font] = _bold_and_mono(font)
        if not 0.1 < size < MAX_FONT_SIZE_PT:  # false for NaN too
            size = 1.0
        return Style(size, angle, matrix.e, matrix.f, *self._by_font[font])


def _bold_and_mono(font: int | None) -> tuple[bool, bool]:
    if not font:
        return False, False
    buffer = ctypes.create_string_buffer(128)
    _font_name(font, ctypes.addressof(buffer), 128)
    name = buffer.value.decode("latin-1").partition("+")[2] or buffer.value.decode("latin-1")
    flags = _font_flags(font)
    return bool(_BOLD_NAME.search(name)) or flags > 0 and bool(flags & 1 << 18), bool(
        _MONO_NAME.search(name)
    ) or flags > 0 and bool(flags & 1)
