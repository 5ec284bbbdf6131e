"""How far apart two elements that follow one another stand, in lines of text. Knows boxes; knows no text and no graph."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from rag.core import Element

TURN_LINES = 2.0
"""From the last element of a page or column to the first of the next, where geometry says nothing: between the gap that
parts paragraphs (about 1) and the one that parts sections (3 and more)."""

STEP_LINES = 1.0
"""Between neighbours without boxes: the gap between paragraphs."""

HEADING_LINES = 4.0
"""What a heading is farther from the element above it than it looks, where headings mean anything."""

USUAL_LINE_HEIGHT = 12.0
"""Points; where no element has a box."""

_MAX_STEP_LINES = 8.0
_CHAR_WIDTH_LINES = 0.4


def line_height(elements: Iterable[Element]) -> float:
    """Height of a line of text in points: the median over the boxes of paragraphs and lists, weighed by characters.

    A box of width w and height h that holds c characters has lines of height sqrt(w h / (0.4 c)), if a character of running
    text is 0.4 lines wide; and no line is higher than its box.
    """
    heights, weights = [], []
    for element in elements:
        if element.bbox is not None and element.kind in ("paragraph", "list"):
            left, top, right, bottom = element.bbox
            area = (right - left) * (bottom - top)
            if area > 0 and element.span:
                heights.append(min(math.sqrt(area / (_CHAR_WIDTH_LINES * len(element.span))), bottom - top))
                weights.append(len(element.span))
    if not heights:
        return USUAL_LINE_HEIGHT
    order = np.argsort(heights, kind="stable")
    middle = np.cumsum(np.array(weights)[order]).searchsorted(sum(weights) / 2)
    return heights[int(order[int(middle)])]


def step_lines(before: Element, element: Element, line: float = USUAL_LINE_HEIGHT) -> float:
    """Distance in lines of ``line`` points between the edges of two elements that follow one another in reading order."""
    if before.page != element.page:
        return TURN_LINES
    if before.bbox is None or element.bbox is None:
        return STEP_LINES
    if element.bbox[3] <= before.bbox[1]:  # the reading order goes up: the top of the next column
        return TURN_LINES
    across = max(before.bbox[0] - element.bbox[2], element.bbox[0] - before.bbox[2], 0.0)
    down = max(element.bbox[1] - before.bbox[3], 0.0)
    return min(math.hypot(across, down) / line, _MAX_STEP_LINES)
