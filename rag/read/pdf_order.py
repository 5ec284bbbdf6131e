"""Reading order of the pieces of a page: regions (columns and what spans them), and the rows inside a region. Knows no PDF and no words.

A region is cut at a gutter: the left edge that many pieces share and that few cross. What crosses it (titles, wide tables) cuts the
region into bands that are read one after the other; a band whose both sides read like columns is read left side first, and each
side is cut again. OCR boxes go through the same code.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from rag.read.pdf_words import Piece

_RTL = re.compile("[\u0590-\u08ff]")

MIN_COLUMN_ROWS = 3  # fewer rows than this beside each other are no columns
PROSE_CHARS = 22  # a column of text has at least so many characters in its median row
MIN_COLUMN_CHARS = 6  # ... or so many, if the page's own stream runs down the columns too
MAX_DEPTH = 8
MAX_FORMULA_ROWS = 6
MAX_FORMULA_CHARS = 8  # a piece, on average
TANGLED = 0.8  # font sizes from one row to the next: less is no line of text
GOOD_SHARE = 0.8  # of the height of a region: a gutter that long needs no rival


@dataclass(slots=True)
class Row:
    """Pieces side by side, in reading order."""

    pieces: list[Piece]

    @property
    def main(self) -> Piece:
        """The piece that gives the row its height: the largest, then the longest."""
        if len(self.pieces) == 1:
            return self.pieces[0]
        return max(self.pieces, key=lambda piece: (round(piece.size, 1), len(piece.text)))

    @property
    def left(self) -> float:
        """Left edge."""
        return min([piece.left for piece in self.pieces])

    @property
    def right(self) -> float:
        """Right edge."""
        return max([piece.right for piece in self.pieces])

    @property
    def top(self) -> float:
        """Upper edge."""
        return min([piece.top for piece in self.pieces])

    @property
    def bottom(self) -> float:
        """Lower edge."""
        return max([piece.bottom for piece in self.pieces])


def regions(pieces: Sequence[Piece], depth: int = 0) -> list[list[Piece]]:
    """The pieces of a page (or of a part of it) in groups that each read from top to bottom, in reading order."""
    if len(pieces) < 2 * MIN_COLUMN_ROWS or depth == MAX_DEPTH:
        return [list(pieces)] if pieces else []
    best: list[list[Piece] | _Band] = []
    best_height = 0.0
    extent = max(piece.bottom for piece in pieces) - min(piece.top for piece in pieces)
    for gutter in _gutters(pieces):
        cut, height = _cut(pieces, gutter)
        if cut and (not best or height > best_height):
            best, best_height = cut, height
            if height > GOOD_SHARE * extent:
                break
    if not best:
        return [list(pieces)]
    ordered: list[list[Piece]] = []
    for part in best:
        for side in (part.left, part.right) if isinstance(part, _Band) else (part,):
            ordered.extend(regions(side, depth + 1))
    return ordered


def rows(pieces: Sequence[Piece]) -> list[Row]:
    """The pieces of one region as rows from top to bottom. Raised and lowered marks stay in the row of their word."""
    found: list[Row] = []
    cores: list[Piece] = []  # the piece of each row that decides what lies beside it
    for piece in sorted(pieces, key=lambda piece: (piece.top + piece.bottom, piece.order)):
        top, bottom = piece.top, piece.bottom
        best = -1
        best_overlap = 0.5
        for number in range(len(found) - 1, max(len(found) - 5, -1), -1):
            core = cores[number]
            if core.bottom <= top:
                continue
            overlap = (min(core.bottom, bottom)) - (max(core.top, top))
            overlap /= min(bottom - top, core.bottom - core.top) or 1.0
            if overlap > best_overlap and (overlap > 0.9 or not any(_stacked(piece, other) for other in found[number].pieces)):
                best, best_overlap = number, overlap
        if best < 0:
            found.append(Row([piece]))
            cores.append(piece)
        else:
            found[best].pieces.append(piece)
            if piece.size > cores[best].size * 1.05:
                cores[best] = piece
    for row in found:
        if len(row.pieces) > 1:
            leftward = reads_leftwards("".join(piece.text for piece in row.pieces))
            row.pieces.sort(key=lambda piece: -piece.right if leftward else piece.left)
    return _untangled(sorted(found, key=lambda row: row.main.middle))


def _untangled(found: list[Row]) -> list[Row]:
    """Rows of one formula (fractions, matrices, limits under a sum) as one row in the page's own order, the order of the formula.

    Rows belong to one formula if they overlap, or if a few rows of short pieces were drawn across each other.
    """
    untangled: list[Row] = []
    previous: Piece | None = None
    for row in found:
        main = row.main
        if previous is not None and main.middle - previous.middle < TANGLED * max(main.size, previous.size):
            last = untangled[-1]
            last.pieces = sorted(last.pieces + row.pieces, key=lambda piece: piece.order)
        else:
            untangled.append(row)
        previous = main
    merged: list[Row] = []
    run: list[Row] = []
    reached = -1
    middle = 0.0
    for row in untangled:
        main = row.main
        orders = [piece.order for piece in row.pieces]
        if run and (min(orders) > reached or main.middle - middle > 2.5 * main.size):
            merged += run if len(run) == 1 else _formula(run)
            run, reached = [], -1
        run.append(row)
        reached, middle = max(reached, *orders), main.middle
    return merged + (run if len(run) < 2 else _formula(run))


def _formula(run: list[Row]) -> list[Row]:
    pieces = [piece for row in run for piece in row.pieces]
    if len(run) > MAX_FORMULA_ROWS or sum(len(piece.text) for piece in pieces) > MAX_FORMULA_CHARS * len(pieces):
        return run
    return [Row(sorted(pieces, key=lambda piece: piece.order))]


def _stacked(piece: Piece, other: Piece) -> bool:
    shared = min(piece.right, other.right) - max(piece.left, other.left)
    return shared > 0.5 * min(piece.right - piece.left, other.right - other.left)


def reads_leftwards(text: str) -> bool:
    """Whether most of ``text`` is Hebrew, Arabic or the like."""
    return not text.isascii() and len(_RTL.findall(text)) * 2 > len(text)


@dataclass(slots=True)
class _Band:
    """A stretch of a region with nothing across the gutter."""

    left: list[Piece]
    right: list[Piece]

    def shared_height(self) -> float:
        """How far the two sides stand beside each other."""
        if not self.left or not self.right:
            return 0.0
        top = max(min(piece.top for piece in self.left), min(piece.top for piece in self.right))
        return min(max(piece.bottom for piece in self.left), max(piece.bottom for piece in self.right)) - top

    def is_columnar(self) -> bool:
        """Whether the sides are columns of text and not cells of a table or labels of a drawing."""
        if min(len(self.left), len(self.right)) < MIN_COLUMN_ROWS or self.shared_height() <= 0:
            return False
        num_rows = [_num_rows(side) for side in (self.left, self.right)]
        num_chars = min(_typical_chars(self.left), _typical_chars(self.right))
        if min(num_rows) < MIN_COLUMN_ROWS:
            return False
        if num_chars >= PROSE_CHARS and max(num_rows) > MIN_COLUMN_ROWS:
            return True
        if num_chars < MIN_COLUMN_CHARS or min(num_rows) < 2 * MIN_COLUMN_ROWS or self._stream_switches() > 2:
            return False
        # an index, a list of names or of symbols: one short entry a row, and entries are words
        if any(len(side) > 2.5 * count for side, count in zip((self.left, self.right), num_rows, strict=True)):
            return False
        return all(sum(any(map(str.isalpha, piece.text)) for piece in side) * 2 > len(side) for side in (self.left, self.right))

    def has_prose(self) -> bool:
        """Whether one side reads like a column of text."""
        return any(_typical_chars(side) >= PROSE_CHARS and _num_rows(side) >= MIN_COLUMN_ROWS for side in (self.left, self.right))

    def _stream_switches(self) -> int:
        sides = sorted([(piece.order, 0) for piece in self.left] + [(piece.order, 1) for piece in self.right])
        return sum(before[1] != after[1] for before, after in pairwise(sides))


def _num_rows(side: Sequence[Piece]) -> int:
    return len({int((piece.top + piece.bottom) / piece.size) for piece in side})


def _typical_chars(side: Sequence[Piece]) -> float:
    return median([len(piece.text) for piece in side if len(piece.text) > 2] or [0])


def _gutters(pieces: Sequence[Piece]) -> list[float]:
    """Left edges that several pieces share, the most shared first."""
    first = min(piece.left for piece in pieces)
    edges: Counter[int] = Counter()
    exact: dict[int, float] = {}
    for piece in pieces:
        if len(piece.text) >= MIN_COLUMN_CHARS:
            edge = round(piece.left / 3)
            edges[edge] += 1
            exact[edge] = min(piece.left, exact.get(edge, piece.left))
    shared = [
        (edges[edge] + edges[edge + 1] + edges[edge - 1], edge) for edge in edges if edges[edge] >= 2 and exact[edge] > first + 36
    ]
    return [exact[edge] for count, edge in sorted(shared, key=lambda pair: (-pair[0], pair[1]))[:8] if count >= MIN_COLUMN_ROWS]


def _cut(pieces: Sequence[Piece], gutter: float) -> tuple[list[list[Piece] | _Band], float]:
    """The region as bands and pieces across, from top to bottom, and the height of what reads in columns."""
    across: list[Piece] = []
    sided: list[tuple[Piece, bool]] = []
    for piece in pieces:
        slack = 0.5 * piece.size
        if piece.left < gutter - slack and piece.right > gutter - 0.5:
            across.append(piece)
        else:
            sided.append((piece, piece.left >= gutter - slack))
    if len(across) > len(sided):
        return [], 0.0
    across.sort(key=lambda piece: piece.middle)
    sided.sort(key=lambda pair: pair[0].middle)
    events = sorted(
        [(piece.middle, 0, number) for number, piece in enumerate(across)]
        + [(piece.middle, 1, number) for number, (piece, _) in enumerate(sided)]
    )
    parts: list[list[Piece] | _Band] = []
    for _, is_sided, number in events:
        if not is_sided:
            if parts and isinstance(parts[-1], list):
                parts[-1].append(across[number])
            else:
                parts.append([across[number]])
            continue
        piece, is_right = sided[number]
        last = parts[-1] if parts else None
        if not isinstance(last, _Band):
            parts.append(last := _Band([], []))
        (last.right if is_right else last.left).append(piece)
    parts = [part for whole in parts for part in (_strata(whole) if isinstance(whole, _Band) else [whole])]
    if not any(isinstance(part, _Band) for part in parts):
        return [], 0.0
    height = sum(part.shared_height() for part in parts if isinstance(part, _Band))
    # an edge inside a column (a hanging indent) makes columns too, but many rows reach over it
    height -= 2 * sum(piece.bottom - piece.top for piece in across)
    merged: list[list[Piece] | _Band] = []
    for part in parts:
        if isinstance(part, _Band) or not merged or isinstance(merged[-1], _Band):
            merged.append(part)
        else:
            merged[-1].extend(part)
    return merged, height


def _strata(band: _Band) -> list[list[Piece] | _Band]:
    """A band cut where both sides are blank at once; strata that read alike stay together. Only columns stay bands."""
    if min(len(band.left), len(band.right)) < MIN_COLUMN_ROWS:
        return [band.left + band.right]
    marked = sorted([(piece, False) for piece in band.left] + [(piece, True) for piece in band.right], key=lambda pair: pair[0].top)
    sizes = sorted(piece.size for piece, _ in marked)
    gap = 1.2 * sizes[len(sizes) // 2]
    strata: list[_Band] = []
    bottom = -1e9
    for piece, is_right in marked:
        if piece.top > bottom + gap:
            strata.append(_Band([], []))
        (strata[-1].right if is_right else strata[-1].left).append(piece)
        bottom = max(bottom, piece.bottom)
    if len(strata) == 1:
        return [band if band.is_columnar() else band.left + band.right]
    joined: list[tuple[_Band, bool]] = []  # whether it is known to be a table or a drawing
    for stratum in strata:
        is_grid = bool(stratum.left and stratum.right) and not stratum.is_columnar() and not stratum.has_prose()
        if joined and joined[-1][1] == is_grid:
            joined[-1][0].left.extend(stratum.left)
            joined[-1][0].right.extend(stratum.right)
        else:
            joined.append((stratum, is_grid))
    return [part if not is_grid and part.is_columnar() else part.left + part.right for part, is_grid in joined]
