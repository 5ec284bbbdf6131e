"""The text of one PDF page as pieces: runs of words on one baseline, with boxes, sizes and weight. Knows no columns and no paragraphs.

pdfium decides where a word ends and which way a right-to-left run reads; geometry decides where a run of words ends. Boxes are
asked for twice a word, not once a character: that is what keeps this near the speed of pdfium's own text extraction.
"""

from __future__ import annotations

import ctypes
import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c
from numpy.typing import NDArray

from rag.read.pdf_fonts import Style, Styles, loose_box

SOFT_HYPHEN = "\ufffe"  # what pdfium writes for a hyphen that ends a line inside a word
COLUMN_GAP = 1.0  # of the font size: more may be the space between columns or cells
WORD_GAP = 0.12  # of the font size: less is no blank
FAR_AWAY_PT = 1e6  # damaged files place letters at infinity
ASCENT, DESCENT = 0.8, 0.2  # of the font size: fonts state their own, but some state absurd ones

_RTL = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc"
# pdfium drops the blank where the direction of reading changes, so a change ends a word too
_WORD = re.compile(rf"(?:[{_RTL}]+|[^\s{SOFT_HYPHEN}\x00-\x1f{_RTL}]+){SOFT_HYPHEN}?")
_ARABIC_ALEF_LAM = re.compile("[\u0622\u0623\u0625\u0627]\u0644")
_STRAY_ARABIC_MARK = re.compile("^[\u064b-\u0652](?=\\w)")
_NOTE_SIGN = re.compile(r"(\d{1,3}|[*∗†‡§¶]{1,3})(?=[^\W\d]|[(\[\"“‘])")
_COMBINING = {"¨": "\u0308", "´": "\u0301", "`": "\u0300", "ˆ": "\u0302", "˜": "\u0303", "ˇ": "\u030c", "¸": "\u0327", "˘": "\u0306",
              "˙": "\u0307", "˚": "\u030a", "˝": "\u030b", "¯": "\u0304"}  # fmt: skip
_ACCENT = re.compile(f"[{''.join(_COMBINING)}]")
_SPECIAL = re.compile(f"[{_RTL}]")
_NOTHING = "\x02"  # stands in a page's string where a character was, to keep places


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
            size = min(piece.size, before.size)
            text += " " if gap > WORD_GAP * size or gap < -size / 2 else ""  # far back: one stands above the other
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


class _Words(NamedTuple):
    """The words of a page in stream order: one entry per word in every field. Coordinates in the frame where the word reads upright."""

    spans: list[tuple[int, int]]  # in the string of the page
    styles: list[Style]
    marks: list[bool]  # starts with a small raised sign
    left: NDArray[np.float64]
    right: NDArray[np.float64]
    base: NDArray[np.float64]
    size: NDArray[np.float64]


def _pieces(text_page: pdfium.PdfTextPage, left: float, top: float, width: float, height: float) -> dict[int, list[Piece]]:
    num_chars = text_page.count_chars()
    text = _page_string(text_page, num_chars) if num_chars > 0 else ""
    spans = [match.span() for match in _WORD.finditer(text)]
    if not spans:
        return {}
    raw = ctypes.cast(text_page.raw, ctypes.c_void_p).value
    assert raw is not None
    words = _words(text, spans, raw, (left, top, width, height))
    if _ACCENT.search(text):
        text, words = _composed(text, words, raw)
        spans = words.spans
    is_first = _starts(text, words)
    first = np.flatnonzero(is_first)
    last = np.append(first[1:], len(spans))
    low, high = np.minimum.reduceat(words.left, first).tolist(), np.maximum.reduceat(words.right, first).tolist()
    above = np.minimum.reduceat(words.base - ASCENT * words.size, first).tolist()
    below = np.maximum.reduceat(words.base + DESCENT * words.size, first).tolist()
    needs_care = _SPECIAL.search(text) is not None
    groups: dict[int, list[Piece]] = {}
    for number, (start, end) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        styles = words.styles[start:end]
        style = styles[0]
        run = text[words.spans[start][0] : words.spans[end - 1][1]]
        if needs_care and _SPECIAL.search(run) or True in words.marks[start:end]:
            run = _spelled_out(text, words, start, end, raw)
        elif end - start > 1:
            run = " ".join(run.replace(_NOTHING, "").split())
        size, bold, mono = style.size, style.bold, style.mono
        if any(other is not style for other in styles):
            lengths: dict[float, int] = {}
            for other, (a, b) in zip(styles, words.spans[start:end], strict=True):
                lengths[other.size] = lengths.get(other.size, 0) + b - a
            size = max(lengths, key=lambda each: (lengths[each], each))
            told = [(words.styles[word], text[words.spans[word][0] : words.spans[word][1]]) for word in range(start, end)]
            bold = all(one.bold or not word.isalnum() for one, word in told) and any(one.bold for one in styles)
            mono = all(one.mono for one in styles)
        piece = Piece(run, low[number], above[number], high[number], below[number], size, bold, mono, number, words.marks[start])
        groups.setdefault(style.angle, []).append(piece)
    return groups


def _words(text: str, spans: list[tuple[int, int]], raw: int, page: tuple[float, float, float, float]) -> _Words:
    """Boxes and styles of all words. ``page``: left and top edge, width and height of the unturned page."""
    left, top, width, height = page
    known = Styles(raw)
    buffer = (pdfium_c.FS_RECTF * (2 * len(spans)))()
    step = ctypes.sizeof(pdfium_c.FS_RECTF)
    address = ctypes.addressof(buffer)
    for start, end in spans:
        loose_box(raw, start, address)
        loose_box(raw, end - 1, address + step)
        address += 2 * step
    styles = known.of_all([start for start, _ in spans])
    marks = [False] * len(spans)
    for number, (start, end) in enumerate(spans):
        if end - start > 1 and not text[start].isalpha():
            other, style = known.of(end - 1), styles[number]
            if other.size > 1.2 * style.size and other.angle == style.angle:  # a raised footnote sign is no style
                styles[number], marks[number] = other, _NOTE_SIGN.match(text, start, end) is not None
    boxes = np.frombuffer(buffer, np.float32).astype(np.float64).reshape(len(spans), 2, 4)
    low, high = boxes[:, :, 0::2].min((1, 2)) - left, boxes[:, :, 0::2].max((1, 2)) - left
    above, below = top - boxes[:, :, 1::2].max((1, 2)), top - boxes[:, :, 1::2].min((1, 2))
    x, y = np.array([style.x for style in styles]) - left, top - np.array([style.y for style in styles])
    angles = np.array([style.angle for style in styles])
    base = y
    for angle in set(angles.tolist()) - {0}:
        turned = angles == angle
        (x0, _), (x1, _) = _turn(low, above, angle, width, height), _turn(high, below, angle, width, height)
        low, high = np.where(turned, np.minimum(x0, x1), low), np.where(turned, np.maximum(x0, x1), high)
        base = np.where(turned, _turn(x, y, angle, width, height)[1], base)
    low, high, base = (np.clip(np.nan_to_num(each), -FAR_AWAY_PT, FAR_AWAY_PT) for each in (low, high, base))
    return _Words(spans, styles, marks, low, high, base, np.array([style.size for style in styles]))


def _starts(text: str, words: _Words) -> NDArray[np.bool_]:
    """Whether each word starts a piece: after a line break, a wide gap, a step up or down, or a turn."""
    spans = words.spans
    angles = np.array([style.angle for style in words.styles])
    size = np.maximum(words.size[1:], words.size[:-1])
    gap = np.maximum(words.left[1:] - words.right[:-1], words.left[:-1] - words.right[1:])
    starts = np.ones(len(spans), np.bool_)
    starts[1:] = (
        (gap >= COLUMN_GAP * size)
        | (np.abs(np.diff(words.base)) >= 0.6 * size)
        | (angles[1:] != angles[:-1])
        | np.array(["\n" in text[a[1] : b[0]] or text[a[1] - 1] == SOFT_HYPHEN for a, b in pairwise(spans)], np.bool_)
    )
    return starts


def _spelled_out(text: str, words: _Words, first: int, last: int, raw: int) -> str:
    """The text of words ``first`` to ``last`` where accents stand free, letters read leftwards or a footnote sign leads."""
    run = ""
    previous_end = -1
    for number in range(first, last):
        start, end = words.spans[number]
        word = text[start:end]
        if words.marks[number] and (sign := _NOTE_SIGN.match(word)):
            word = f"{sign.group()} {word[sign.end() :]}"
        if "\u0600" <= word[0] <= "\u06ff":
            word = _arabic(word, raw, start)
        if run and (mark := _STRAY_ARABIC_MARK.match(word)):  # the mark stands over the letter that ends up behind it
            run += word[mark.end()] + mark.group() + word[mark.end() + 1 :]
        elif start == previous_end:  # the direction of reading changes
            gap = max(words.left[number] - words.right[number - 1], words.left[number - 1] - words.right[number])
            apart = gap > WORD_GAP * words.size[number] or word[0].isalpha() and run[-1].isalpha()
            run += f" {word}" if apart else word
        else:
            run += f" {word}" if run else word
        previous_end = end
    return run


def _arabic(word: str, raw: int, start: int) -> str:
    """``word`` with the letters of each lam-alef ligature in logical order: pdfium turns the two round with the rest of the word."""
    letters = list(word)
    first, second = pdfium_c.FS_RECTF(), pdfium_c.FS_RECTF()
    for match in _ARABIC_ALEF_LAM.finditer(word):
        at = match.start()
        loose_box(raw, start + at, ctypes.addressof(first))
        loose_box(raw, start + at + 1, ctypes.addressof(second))
        if abs(first.left - second.left) < 0.1:  # one glyph
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "".join(letters)


def _composed(text: str, words: _Words, raw: int) -> tuple[str, _Words]:
    """Puts accents that TeX's old fonts draw apart on the letters they stand over; such an accent is no word any more."""
    letters = list(text)
    box = pdfium_c.FS_RECTF()

    def centre(index: int) -> tuple[float, float]:
        loose_box(raw, index, ctypes.addressof(box))
        return (box.left + box.right) / 2, (box.top + box.bottom) / 2

    def put(accent: int, candidates: range, reach: float) -> bool:
        x, y = centre(accent)
        near = [(math.dist(centre(index), (x, y)), index) for index in candidates if index != accent and text[index].isalpha()]
        if not near or min(near)[0] > reach:
            return False
        letter = min(near)[1]
        composed = unicodedata.normalize("NFC", text[letter].replace("ı", "i") + _COMBINING[text[accent]])
        if len(composed) == 1:
            letters[letter], letters[accent] = composed, _NOTHING
        return len(composed) == 1

    gone: list[int] = []
    middles = (words.left + words.right) / 2
    for accent in (match.start() for match in _ACCENT.finditer(text)):
        number = bisect_right(words.spans, (accent, len(text))) - 1
        start, end = words.spans[number]
        reach = 0.4 * float(words.size[number])
        if end - start > 1:
            put(accent, range(max(accent - 1, start), min(accent + 2, end)), reach)
            continue
        over = (words.left - 0.5 <= middles[number]) & (words.right + 0.5 >= middles[number])
        over &= np.abs(words.base - words.base[number]) < words.size[number] / 2
        if any(put(accent, range(*words.spans[host]), reach) for host in np.flatnonzero(over).tolist() if host != number):
            gone.append(number)
    for number in gone:
        if (
            0 < number < len(words.spans) - 1
            and abs(words.left[number + 1] - words.right[number - 1]) < WORD_GAP * words.size[number]
        ):
            start, end = words.spans[number - 1][1], words.spans[number + 1][0]
            if "\n" not in text[start:end]:
                letters[start:end] = _NOTHING * (end - start)
    kept = [number for number in range(len(words.spans)) if number not in set(gone)]
    return "".join(letters), _Words(
        [words.spans[number] for number in kept],
        [words.styles[number] for number in kept],
        [words.marks[number] for number in kept],
        *(each[kept] for each in (words.left, words.right, words.base, words.size)),
    )
