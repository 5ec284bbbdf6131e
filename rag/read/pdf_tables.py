"""Rows of a region that line up in columns, as tables. Knows no ruling lines, no fonts and no reading order.

A table is at least three rows near each other whose cells leave the same stretches of the page blank. What might as well be text
(a numbered list, a table of contents, an equation with its number) stays text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

from rag.read.pdf_order import Row
from rag.read.pdf_words import COLUMN_GAP, Piece, joined

MIN_ROWS = 3
MAX_ROW_DISTANCE = 3.2  # font sizes from row to row
MAX_CELL_CHARS = 60  # median over the cells of a table

_MARKER = re.compile(r"^(\W{1,3}|[(\[]?(\d{1,3}|[A-Za-z]|[ivxIVX]{1,5})[.)\]:]?(\d{1,2}[.)]?)*)$")
_EQUATION_NUMBER = re.compile(r"^\([A-Z]?\d+([.-]\d+)*[a-z]?\)$")
_LEADERS = re.compile(r"(\s?[.·]){4,}")


@dataclass(slots=True)
class Table:
    """Rows of cell texts; every row has the same number of cells."""

    rows: list[Row]
    cells: list[list[str]]
    num_header_rows: int


def split_tables(rows: Sequence[Row]) -> list[Row | Table]:
    """The rows of a region with those of each table put together."""
    groups = [_cell_groups(row) for row in rows]
    parts: list[Row | Table] = []
    at = 0
    while at < len(rows):
        end = _run_end(rows, groups, at) if len(groups[at]) > 1 else at
        table = _table(rows[at:end], groups[at:end]) if end - at >= MIN_ROWS else None
        if table is None:
            parts.append(rows[at])
            at += 1
        else:
            parts.append(table)
            at = end
    return parts


def _cell_groups(row: Row) -> list[list[Piece]]:
    if len(row.pieces) == 1:
        return [row.pieces]
    groups: list[list[Piece]] = []
    for piece in row.pieces:
        if groups and max(piece.left - groups[-1][-1].right, groups[-1][-1].left - piece.right) < 0.9 * COLUMN_GAP * piece.size:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


def _run_end(rows: Sequence[Row], groups: Sequence[list[list[Piece]]], start: int) -> int:
    """Where the rows that may form a table with the one at ``start`` end: the last of them has several cells."""
    end = start + 1
    size = rows[start].main.size
    for number in range(start + 1, len(rows)):
        distance = rows[number].main.middle - rows[number - 1].main.middle
        if distance > MAX_ROW_DISTANCE * size or not 0.6 < rows[number].main.size / size < 1.7:
            break
        if len(groups[number]) > 1:
            end = number + 1
        elif number - end >= 2:
            break
    return end


def _table(rows: Sequence[Row], groups: Sequence[list[list[Piece]]]) -> Table | None:
    several = [group for group in groups if len(group) > 1]
    if len(several) < MIN_ROWS or len(several) * 2 < len(groups):
        return None
    columns = _columns(several, median(row.main.size for row in rows))
    if len(columns) < 2 or mean(map(len, several)) < max(2, 0.55 * len(columns)):
        return None
    cells = [_cells(group, columns) for group in groups]
    filled = [cell for row in cells for cell in row if cell]
    if not any(any(char.isalnum() for char in cell) for cell in filled) or median(map(len, filled)) > MAX_CELL_CHARS:
        return None
    if any(_LEADERS.search(cell) for cell in filled):
        return None
    if len(columns) == 2:
        left, right = ([row[side] for row in cells if row[0] and row[1]] for side in (0, 1))
        if len(left) < MIN_ROWS or sum(bool(_MARKER.match(cell)) for cell in left) * 2 > len(left):
            return None
        if sum(bool(_EQUATION_NUMBER.match(cell)) for cell in right) * 3 > len(right) or median(map(len, left)) > 45:
            return None
    return Table(list(rows), cells, _num_header_rows(rows, cells))


def _columns(groups: Sequence[list[list[Piece]]], size: float) -> list[tuple[float, float]]:
    """Left and right edges of the stretches that the cells cover; a few cells may reach over a blank stretch."""
    events: list[tuple[float, int]] = []
    for group in groups:
        for cell in group:
            left, right = min(piece.left for piece in cell), max(piece.right for piece in cell)
            events += [(left, 1), (max(right, left + 0.1), -1)]
    tolerated = len(groups) // 8 if len(groups) >= 4 else 0
    columns: list[tuple[float, float]] = []
    depth = 0
    start = 0.0
    for x, change in sorted(events):
        if depth <= tolerated < depth + change:
            start = x
        elif depth + change <= tolerated < depth:
            if columns and start - columns[-1][1] < 0.4 * size:
                columns[-1] = (columns[-1][0], x)
            else:
                columns.append((start, x))
        depth += change
    return columns


def _cells(group: Sequence[list[Piece]], columns: Sequence[tuple[float, float]]) -> list[str]:
    texts = [""] * len(columns)
    ends = [right for _, right in columns]
    for cell in group:
        left, right = min(piece.left for piece in cell), max(piece.right for piece in cell)
        at = bisect_right(ends, left)  # the first column that the cell touches, or else the nearest
        if at == len(ends) or columns[at][0] >= right and at and left - ends[at - 1] < columns[at][0] - right:
            at -= 1
        texts[at] = f"{texts[at]} {joined(cell)}".strip()
    return texts


def _num_header_rows(rows: Sequence[Row], cells: Sequence[list[str]]) -> int:
    if rows[0].main.bold and not rows[-1].main.bold:
        return next(number for number, row in enumerate(rows) if not row.main.bold)
    digits = [any(char.isdigit() for char in "".join(row)) for row in cells]
    return int(not digits[0] and sum(digits) * 3 >= 2 * (len(digits) - 1) > 0)
