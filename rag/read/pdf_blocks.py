"""Rows of a region as blocks: paragraphs, list items, captions, code, tables. Knows no pages and no heading levels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Literal

from rag.read.pdf_order import Row, reads_leftwards
from rag.read.pdf_tables import Table, split_tables
from rag.read.pdf_words import SOFT_HYPHEN, joined

BlockKind = Literal["heading", "paragraph", "table", "list", "caption", "code"]

INDENT = 0.6  # font sizes: less is no indent
SIZE_STEP = 1.08  # a ratio of font sizes that the eye sees
MAX_HEADING_CHARS = 200
LINE_PITCH = 1.2  # font sizes from line to line, where a region is too short to tell

_BULLET = re.compile(r"^[•●○◦▪▫■□‣⁃∙·➢➤►✓✔❖\uf0b7\uf0a7\uf0d8\uf076o–—-]\s+\S")
_NUMBER = re.compile(r"^[(\[]?(\d{1,3}|[a-zA-Z]|[ivx]{1,5})[.)\]]\s+\S")
_SYMBOL_BULLETS = str.maketrans(dict.fromkeys("\uf0b7\uf0a7\uf0d8\uf076", "•"))
_CAPTION = re.compile(
    r"^(figure|fig\.?|table|tab\.|chart|exhibit|listing|algorithm|scheme|plate|abbildung|abb\.|tabelle|tableau|figura|tabla|cuadro|"
    r"tabela|图|表|図)\s?[A-Z]?\d+([.\-–]\d+)*[a-z]?\s?([:.|–—]|-\s|$)",
    re.IGNORECASE,
)
_LEADERS = re.compile(r"(\s?[.·…]){4,}\s*")
_ENDED = re.compile(r".*[.!?:;。！？…][\"'”’»)\]]{0,3}\d{0,2}$")
_OPENS = re.compile(r"^[\"'“‘«(\[]?[^\Wa-z_]")
_URL_END = re.compile(r"(https?:|www\.)\S*[/\-_.=?&]$")
_CODE_SIGN = re.compile(r"[;{}=]|\(\)")
_AUTHOR_SIGN = re.compile("[†‡∗]")
_HEADING_NUMBER = re.compile(r"^(\d{1,2}(\.\d{1,2})*\.?|[IVX]{1,5}\.|[A-H](\.\d{1,2})*\.?)\s+\S")


@dataclass(slots=True)
class Line:
    """One row as text. ``left`` is where it starts to read: a row that reads leftwards is mirrored (both edges negated, swapped)."""

    text: str
    left: float
    top: float
    right: float
    bottom: float
    base: float  # middle of the main piece: what line distances are measured by
    size: float
    bold: bool
    mono: bool
    mark: bool  # starts as a footnote does


@dataclass(slots=True)
class Block:
    """One element to be. ``lines`` is empty for a table, ``table`` is None for everything else."""

    kind: BlockKind
    lines: list[Line] = field(default_factory=list)
    table: Table | None = None
    left: float = float("inf")
    right: float = float("-inf")
    bold: bool = True  # all of it

    def add(self, line: Line) -> None:
        """Appends a line."""
        self.lines.append(line)
        self.left, self.right = min(self.left, line.left), max(self.right, line.right)
        self.bold = self.bold and line.bold

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        parts: Sequence[Line | Row] = self.table.rows if self.table else self.lines
        edges = [
            abs(edge) if edge < 0 and abs(part.right) < abs(part.left) else edge
            for part in parts
            for edge in (part.left, part.right)
        ]
        return min(edges), min(part.top for part in parts), max(edges), max(part.bottom for part in parts)

    @property
    def size(self) -> float:
        """The font size of most of its characters."""
        return max(self.lines, key=lambda line: len(line.text)).size if self.lines else 0.0


@dataclass(frozen=True, slots=True)
class Words:
    """What the document says elsewhere: decides whether a hyphen at a line end belongs to the word."""

    whole: frozenset[str] = frozenset()
    hyphenated: frozenset[str] = frozenset()

    def keeps_hyphen(self, before: str, after: str) -> bool:
        """Whether ``before-after`` was broken at a hyphen it has anyway."""
        before, after = before.lower(), after.lower()
        if f"{before}-{after}" in self.hyphenated:
            return True
        return before + after not in self.whole and min(len(before), len(after)) >= 5 and {before, after} <= self.whole


def line_of(row: Row) -> Line:
    """A row as a line of text."""
    if len(row.pieces) == 1:
        main = first = row.pieces[0]
        text, mark, bold, mono = main.text, main.mark, main.bold, main.mono
    else:
        main, first = row.main, row.pieces[0]
        letters = [piece for piece in row.pieces if any(map(str.isalnum, piece.text))] or row.pieces
        bold, mono = all(piece.bold for piece in letters), all(piece.mono for piece in letters)
        text, mark = joined(row.pieces), first.mark
        if len(first.text) <= 3 and first.size < 0.8 * main.size and not first.text.isalpha():
            text, mark = f"{first.text} {joined(row.pieces[1:])}", True
    if "..." in text or ". ." in text:
        text = _LEADERS.sub(" … ", text).strip()
    left, right = row.left, row.right
    if reads_leftwards(text):
        left, right = -right, -left
    return Line(text, left, row.top, right, row.bottom, main.middle, main.size, bold, mono, mark)


def blocks(rows: Sequence[Row], body_size: float, body_is_mono: bool) -> list[Block]:
    """The rows of one region as blocks, in order."""
    found: list[Block] = []
    lines: list[Line] = []
    for part in split_tables(rows):
        if isinstance(part, Table):
            found += _text_blocks(lines, body_size, body_is_mono) + [Block("table", [], part)]
            lines = []
        else:
            lines.append(line_of(part))
    return found + _text_blocks(lines, body_size, body_is_mono)


def _text_blocks(lines: list[Line], body_size: float, body_is_mono: bool) -> list[Block]:
    if not lines:
        return []
    steps = [(b.base - a.base) / a.size for a, b in pairwise(lines) if abs(a.size - b.size) < 0.05 * a.size]
    steps = [step for step in steps if 0.7 < step < 2.6]
    pitch = min(median(steps), 2.4) if len(steps) >= 4 else min([LINE_PITCH * 1.1, *steps])
    hanging = _hangs(lines)
    found: list[Block] = []
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else None
        if not found or _parts(found[-1], line, following, pitch, hanging, body_size, body_is_mono):
            found.append(Block(_kind(line, following, body_is_mono)))
        found[-1].add(line)
    for block in found:
        if block.kind == "paragraph" and _is_heading(block, body_size):
            block.kind = "heading"
    return found


def _kind(line: Line, following: Line | None, body_is_mono: bool) -> BlockKind:
    if _CAPTION.match(line.text):
        return "caption"
    if line.mono and not body_is_mono and (following is not None and following.mono or _CODE_SIGN.search(line.text)):
        return "code"
    if _BULLET.match(line.text) or _NUMBER.match(line.text) and not line.bold or " … " in line.text:
        return "list"
    return "paragraph"


def _hangs(lines: Sequence[Line]) -> bool:
    """Whether indented lines continue a paragraph (a list of references) and do not start one."""
    starts = continues = 0
    for before, line in pairwise(lines):
        if INDENT * line.size < line.left - before.left < 6 * line.size and abs(before.size - line.size) < 0.05 * line.size:
            if _ended(before.text):
                starts += 1
            else:
                continues += 1
    return continues > max(starts, 2)


def _parts(
    block: Block, line: Line, following: Line | None, pitch: float, hanging: bool, body_size: float, body_is_mono: bool
) -> bool:
    """Whether ``line`` starts a new block after ``block``."""
    before = block.lines[-1]
    size = max(before.size, line.size)
    step = (line.base - before.base) / size
    if block.kind == "code":
        return not line.mono or step > 3
    if line.mono and not body_is_mono and not before.mono:
        return step > 1.22 * pitch + 0.05 or following is not None and following.mono
    if step > 1.22 * pitch + 0.05 or step < -0.5 or line.mark:
        return True
    resized = max(before.size, line.size) > SIZE_STEP * min(before.size, line.size) and min(len(before.text), len(line.text)) > 3
    if resized or _CAPTION.match(line.text) and _ended(before.text):
        return True
    if before.bold != line.bold and block.bold != line.bold:
        if line.bold or not _OPENS.match(line.text) or len(block.lines) > 3 or block.kind == "caption":
            return line.bold and (_ended(before.text) or _is_short(before, line))
        return True
    if _BULLET.match(line.text) and (line.text[0] not in "o–—-" or _ended(before.text) or block.kind == "list"):
        return True
    ended = _ended(before.text)
    if " … " in before.text or " … " in line.text:
        return True
    if _NUMBER.match(line.text) and (
        ended or block.kind == "list" and line.left < before.left + INDENT * size or _is_short(before, line)
    ):
        return True
    shift = line.left - before.left
    if block.bold and line.bold or line.size > SIZE_STEP * body_size and before.size > SIZE_STEP * body_size:
        return False  # lines of a heading, perhaps centred
    if block.kind == "list":
        inside = line.left > block.lines[0].left + INDENT * size or len(block.lines) > 1 and abs(shift) < INDENT * size
        return not inside and ended and (len(block.lines) > 1 or _is_short(before, line))
    if hanging:
        if shift < -INDENT * size and (ended or _OPENS.match(line.text)):
            return True
    elif shift > INDENT * size and shift < 6 * size and block.kind != "caption":
        returns = following is None or following.left < line.left - INDENT * size / 2 or following.size != line.size
        if returns and (ended or _OPENS.match(line.text)) or ended and len(block.lines) > 1:
            return True
    elif len(block.lines) > 1 and line.left < block.left - INDENT * size and ended:
        return True
    return (ended and bool(_OPENS.match(line.text)) or not _opens_small(line.text)) and _has_room(block, line, ended)


def _ended(text: str) -> bool:
    return _ENDED.match(text, max(len(text) - 6, 0)) is not None


def _opens_small(text: str) -> bool:
    return text[:1].islower() or not text[:1].isalnum()


def _is_short(before: Line, line: Line) -> bool:
    return before.right < line.right - 6 * line.size


def _has_room(block: Block, line: Line, ended: bool) -> bool:
    """Whether the first word of ``line`` would have fitted on the line before it, so that the break was meant."""
    before = block.lines[-1]
    if before.text.endswith((SOFT_HYPHEN, "-", ",")):
        return False
    edge = max(line.right, block.right)
    word = (line.right - line.left) * len(line.text.split(" ", 1)[0]) / max(len(line.text), 1)
    return edge - before.right > word + (1.0 if ended else 4.0) * line.size


def _is_heading(block: Block, body_size: float) -> bool:
    """Whether the block stands out: larger than the body, or all bold and short."""
    if not block.bold and block.size <= SIZE_STEP * body_size or len(block.lines) > 4:
        return False
    text = " ".join(line.text for line in block.lines)
    num_letters = sum(map(str.isalpha, text))
    if len(text) > MAX_HEADING_CHARS or num_letters < 2 or num_letters * 2 < len(text.replace(" ", "")):
        return False
    if _AUTHOR_SIGN.search(text):
        return False
    if block.size > SIZE_STEP * body_size:
        return True
    if len(block.lines) > 2 or len(text) > 120 or block.size < 0.9 * body_size:
        return False
    if _HEADING_NUMBER.match(text) or _NUMBER.match(text) and not _ended(text):
        return True
    return bool(_OPENS.match(text)) and not text.endswith((".", ",", ";", ":", "-")) and num_letters >= 3


def text_of(lines: Sequence[Line], words: Words) -> str:
    """The lines as running text: hyphens at line ends are taken back where the word goes on in lower case.

    A hyphen at the very end stays ``SOFT_HYPHEN``: the next column may continue the word.
    """
    text = lines[0].text if lines else ""
    for line in lines[1:]:
        text = continued(text, line.text, words)
    return text.translate(_SYMBOL_BULLETS)


def continued(text: str, following: str, words: Words) -> str:
    """``text`` and the line after it as one."""
    if not text or not following:
        return text + following
    last, first = text[-1], following[0]
    if last == SOFT_HYPHEN or last == "-" and text[-2:-1].isalpha():
        before = re.search(r"([^\W\d_]*)[^\w]?$", text[:-1] + "-")
        after = re.match(r"[^\W\d_]*", following)
        assert before is not None and after is not None
        if first.islower() and before.group(1) and not words.keeps_hyphen(before.group(1), after.group()):
            return text[:-1] + following
        return f"{text[:-1]}-{following}"
    is_tight = (
        last in "–—@" and not text[-2:-1].isspace() or last in "-/" and text[-2:-1].isdigit() or bool(_URL_END.search(text[-300:]))
    )
    if is_tight and first.isalnum():
        return text + following
    if last > "\u2e7f" and first > "\u2e7f" and not ("\uac00" <= last <= "\ud7a3"):  # Chinese and Japanese write no blanks
        return text + following
    return f"{text} {following}"


def caption_mark(text: str) -> str:
    """What stands behind the number of a caption: a colon, a full stop, a bar, a dash or nothing."""
    match = _CAPTION.match(text)
    return match.group(3).strip() if match else ""


def is_open(text: str) -> bool:
    """Whether ``text`` stops in mid-sentence."""
    return not _ended(text) and any(map(str.isalpha, text))


def depth_of_number(text: str) -> int:
    """How many parts the number of a heading has (``2.4 Method`` has two), 0 without one."""
    match = _HEADING_NUMBER.match(text)
    return match.group(1).strip(".").count(".") + 1 if match else 0
