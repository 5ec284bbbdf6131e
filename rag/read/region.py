"""Filled cells of a sheet to rectangles. Knows only row and column numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Region(NamedTuple):
    """A rectangle of cells; all four numbers count from 1 and are inside."""

    top: int
    left: int
    bottom: int
    right: int

    def union(self, other: Region) -> Region:
        """The smallest rectangle around both."""
        return Region(
            min(self.top, other.top), min(self.left, other.left), max(self.bottom, other.bottom), max(self.right, other.right)
        )

    def meets(self, other: Region) -> bool:
        """Whether they share a cell."""
        return self.top <= other.bottom and other.top <= self.bottom and self.left <= other.right and other.left <= self.right


def regions(columns: Mapping[int, set[int]], merges: Iterable[Region] = ()) -> list[Region]:
    """Rectangles around what touches along an edge, from the top left; rectangles that share a cell become one.

    ``columns``: row -> its filled columns. A merged range counts as filled.

    >>> regions({1: {1, 2}, 2: {1, 2}, 3: {3}, 5: {1}})
    [Region(top=1, left=1, bottom=2, right=2), Region(top=3, left=3, bottom=3, right=3), Region(top=5, left=1, bottom=5, right=1)]
    """
    rows = {row: set(filled) for row, filled in columns.items() if filled}
    tall: list[Region] = []
    for merge in merges:
        rows.setdefault(merge.top, set()).update(range(merge.left, merge.right + 1))
        if merge.bottom > merge.top:
            tall.append(merge)
    closed: list[Region] = []
    last_row = 0
    last: list[tuple[int, int, int]] = []  # runs of the row above: first column, last column, number of its region
    parent: list[int] = []
    boxes: list[Region] = []

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for row in sorted(rows):
        above = last if row == last_row + 1 else []
        last, last_row, at = [], row, 0
        for first, end in _runs(rows[row]):
            number = len(parent)
            parent.append(number)
            boxes.append(Region(row, first, row, end))
            while at < len(above) and above[at][1] < first:
                at += 1
            look = at
            while look < len(above) and above[look][0] <= end:
                old, new = root(above[look][2]), root(number)
                if old != new:
                    parent[new] = old
                    boxes[old] = boxes[old].union(boxes[new])
                look += 1
            last.append((first, end, number))
    closed = [boxes[number] for number in range(len(parent)) if parent[number] == number]
    return _joined([*closed, *tall])


def _runs(filled: set[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for column in sorted(filled):
        if runs and runs[-1][1] == column - 1:
            runs[-1] = (runs[-1][0], column)
        else:
            runs.append((column, column))
    return runs


def _joined(boxes: list[Region]) -> list[Region]:
    """Unites rectangles that share a cell until none do. A sweep downwards: only those still open can meet the next one."""
    while True:
        done: list[Region] = []
        open_boxes: list[Region] = []
        changed = False
        for box in sorted(boxes):
            still_open: list[Region] = []
            for other in open_boxes:
                if other.bottom < box.top:
                    done.append(other)
                elif other.meets(box):
                    box, changed = other.union(box), True
                else:
                    still_open.append(other)
            open_boxes = [*still_open, box]
        boxes = [*done, *open_boxes]
        if not changed:
            return sorted(boxes)
