"""Reading order of the pieces of a page: regions (columns and what spans them), and the rows inside a region. Knows no PDF and no words.

A region is cut at a gutter: the left edge that many pieces share and that few cross. What crosses it (titles, wide tables) cuts the
region into bands that are read one after the other; a band whose both sides read like columns is read left side first, and each
side is cut again. OCR boxes go through the same code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rag.read.pdf_words import Piece

MIN_COLUMN_ROWS = 3  # fewer rows than this beside each other are no columns
PROSE_CHARS = 22  # a column of text has at least so many characters in its median row
MIN_COLUMN_CHARS = 6  # ... or so many, if the page's own stream runs down the columns too
MAX_DEPTH = 8


@dataclass(slots=True)
class Row:
    """Pieces side by side, in reading order."""

    pieces: list[Piece]

    @property
    def main(self) -> Piece:
        """The piece that gives the row its height: the largest, then the longest."""
        return max(self.pieces, key=lambda piece: (round(piece.size, 1), len(piece.text)))

    @property
    def left(self) -> float:
        """Left edge."""
        return min(piece.left for piece in self.pieces)

    @property
    def right(self) -> float:
        """Right edge."""
        return max(piece.right for piece in self.pieces)

    @property
    def top(self) -> float:
        """Upper edge."""
        return min(piece.top for piece in self.pieces)

    @property
    def bottom(self) -> float:
        """Lower edge."""
        return max(piece.bottom for piece in self.pieces)


def regions(pieces: Sequence[Piece], depth: int = 0) -> list[list[Piece]]:
    """The pieces of a page (or of a part of it) in groups that each read from top to bottom, in reading order."""
    if len(pieces) < 2 * MIN_COLUMN_ROWS or depth == MAX_DEPTH:
        return [list(pieces)] if pieces else []
    best: list[list[Piece] | _Band] = []
    best_height = 0.0
    for gutter in _gutters(pieces):
        cut, height = _cut(pieces, gutter)
        if height > best_height:
            best, best_height = cut, height
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
    for piece in sorted(pieces, key=lambda piece: (piece.middle, piece.order)):
        best = -1
        best_overlap = 0.0
        for number in range(max(0, len(found) - 4), len(found)):
            core = cores[number]
            overlap = min(piece.bottom, core.bottom) - max(piece.top, core.top)
            if overlap > 0.5 * min(piece.bottom - piece.top, core.bottom - core.top) and overlap > best_overlap:
                if not any(_stacked(piece, other) for other in found[number].pieces):
                    best, best_overlap = number, overlap
        if best < 0:
            found.append(Row([piece]))
            cores.append(piece)
        else:
            found[best].pieces.append(piece)
            if piece.size > cores[best].size * 1.05:
                cores[best] = piece
    for row in found:
        leftward = sum(_is_rtl(piece.text) * len(piece.text) for piece in row.pieces) * 2 > sum(len(p.text) for p in row.pieces)
        row.pieces.sort(key=lambda piece: -piece.right if leftward else piece.left)
    return sorted(found, key=lambda row: row.main.middle)


def _stacked(piece: Piece, other: Piece) -> bool:
    shared = min(piece.right, other.right) - max(piece.left, other.left)
    return shared > 0.5 * min(piece.right - piece.left, other.right - other.left)


def _is_rtl(text: str) -> bool:
    return sum("\u0590" <= char <= "\u08ff" for char in text) * 2 > len(text)


@dataclass(slots=True)
class _Band:
    """A stretch of a region with nothing across the gutter."""

    left: list[Piece]
    right: list[Piece]

    @property
    def top(self) -> float:
        return min(piece.top for piece in (*self.left, *self.right))

    @property
    def bottom(self) -> float:
        return max(piece.bottom for piece in (*self.left, *self.right))

    def shared_height(self) -> float:
        """How far the two sides stand beside each other."""
        if not self.left or not self.right:
            return 0.0
        top = max(min(piece.top for piece in self.left), min(piece.top for piece in self.right))
        return min(max(piece.bottom for piece in self.left), max(piece.bottom for piece in self.right)) - top

    def is_columnar(self) -> bool:
        """Whether the sides are columns of text and not cells of a table or labels of a drawing."""
        if self.shared_height() <= 0:
            return False
        num_chars, num_rows = [], []
        for side in (self.left, self.right):
            lengths: Counter[int] = Counter()
            for piece in side:
                lengths[round(piece.middle / max(piece.size, 1) * 1.6)] += len(piece.text)
            num_rows.append(len(lengths))
            num_chars.append(median(lengths.values()))
        if min(num_rows) < MIN_COLUMN_ROWS:
            return False
        if min(num_chars) >= PROSE_CHARS and max(num_rows) > MIN_COLUMN_ROWS:
            return True
        return min(num_chars) >= MIN_COLUMN_CHARS and min(num_rows) >= 2 * MIN_COLUMN_ROWS and self._stream_switches() <= 2

    def _stream_switches(self) -> int:
        sides = sorted([(piece.order, 0) for piece in self.left] + [(piece.order, 1) for piece in self.right])
        return sum(before[1] != after[1] for before, after in zip(sides, sides[1:], strict=False))


def _gutters(pieces: Sequence[Piece]) -> list[float]:
    """Left edges that several pieces share, the most shared first."""
    first = min(piece.left for piece in pieces)
    edges = Counter(round(piece.left / 3) for piece in pieces)
    exact: dict[int, float] = {}
    for piece in pieces:
        edge = round(piece.left / 3)
        exact[edge] = min(piece.left, exact.get(edge, piece.left))
    shared = [(edges[edge] + edges[edge + 1] + edges[edge - 1], edge) for edge in edges if edges[edge] >= 2 and exact[edge] > first + 36]
    return [exact[edge] for count, edge in sorted(shared, key=lambda pair: (-pair[0], pair[1]))[:8] if count >= MIN_COLUMN_ROWS]


def _cut(pieces: Sequence[Piece], gutter: float) -> tuple[list[list[Piece] | _Band], float]:
    """The region as bands and pieces across, from top to bottom, and the height of what reads in columns."""
    across: list[Piece] = []
    bands: list[_Band] = []
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
    height = sum(part.shared_height() for part in parts if isinstance(part, _Band))
    merged: list[list[Piece] | _Band] = []
    for part in parts:
        if isinstance(part, _Band) or not merged or isinstance(merged[-1], _Band):
            merged.append(part)
        else:
            merged[-1].extend(part)
    return merged, height


def _strata(band: _Band) -> list[list[Piece] | _Band]:
    """A band cut where both sides are blank at once; strata that read alike stay together. Only columns stay bands."""
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
    if len(strata) > 1 and not band.is_columnar() and not any(stratum.is_columnar() for stratum in strata):
        return [band.left + band.right]
    joined: list[tuple[_Band, bool]] = []  # whether it is known to be a table or a drawing
    for stratum in strata:
        is_grid = bool(stratum.left and stratum.right) and not stratum.is_columnar() and len(strata) > 1
        if joined and joined[-1][1] == is_grid:
            joined[-1][0].left.extend(stratum.left)
            joined[-1][0].right.extend(stratum.right)
        else:
            joined.append((stratum, is_grid))
    return [part if not is_grid and part.is_columnar() else part.left + part.right for part, is_grid in joined]
