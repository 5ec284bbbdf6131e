"""Shapes that the charts of the report page are made of, and the two smallest charts. Knows SVG; knows no report.

Told apart in grey and by the colour-blind: no meaning hangs on a colour alone. Bars start at zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from rag.eval.html_text import Safe, join, tag

INK, MUTED, RULE = "#1d2733", "#5a6672", "#dfe3e7"
_KEPT, _LOST = "#8fb3d3", "#b84300"


class Step(NamedTuple):
    """A row of a waterfall: how many were lost here; ``None``: there is no such stage."""

    label: str
    num_lost: int | None


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``.

    >>> ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = (high - low) / about or 1.0
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def label(x: float, y: float, said: str, *, at: str = "start", fill: str = INK, size: int = 12, weight: str | None = None) -> Safe:
    """Text whose baseline is at ``y``."""
    return tag("text", said, x=x, y=y, text_anchor=at, fill=fill, font_size=size, font_weight=weight)


def chart(width: float, height: float, title: str, *parts: str | None) -> Safe:
    """A drawing with a title for those who do not see it."""
    return tag(
        "svg", tag("title", title), *parts, viewBox=f"0 0 {width:g} {height:g}", role="img", class_="chart", width=f"{width:g}"
    )


def cut(said: str, num_letters: int) -> str:
    """``said`` with an ellipsis if it is longer than ``num_letters``."""
    return said if len(said) <= num_letters else said[: num_letters - 1].rstrip() + "\u2026"


def waterfall(title: str, num_all: int, steps: Sequence[Step], width: float = 500) -> Safe:
    """Questions that each stage lost, from all of them down to those that came through. The scale starts at 0."""
    left, right, row = 150.0, 66.0, 22.0
    scale = (width - left - right) / max(num_all, 1)
    parts = [_bar_row(0, row, left, "all questions", 0, num_all, f"{num_all:,}", _KEPT, scale)]
    remaining = num_all
    for place, step in enumerate(steps, start=1):
        if step.num_lost is None:
            parts.append(_row_label(left, place * row, row, step.label, MUTED))
            parts.append(label(left + 6, place * row + 15, "not in this chain", fill=MUTED, size=11))
            parts.append(_guide(left + remaining * scale, place * row, row, through=True))
            continue
        remaining -= step.num_lost
        said = f"\u2212{step.num_lost:,}" if step.num_lost else "0"
        parts.append(_bar_row(place, row, left, step.label, remaining, step.num_lost, said, _LOST, scale))
        parts.append(_guide(left + remaining * scale, place * row, row))
    share = f"{remaining:,} ({remaining / max(num_all, 1):.0%})"
    parts.append(_bar_row(len(steps) + 1, row, left, "came through", 0, remaining, share, _KEPT, scale))
    height = (len(steps) + 2) * row + 4
    axis = tag("line", x1=left, x2=left, y1=0, y2=height - 2, stroke=INK, stroke_width=1)
    return chart(width, height, title, *parts, axis)


def _row_label(left: float, top: float, row: float, said: str, fill: str = INK) -> Safe:
    return label(left - 8, top + row - 7, cut(said, 22), at="end", fill=fill)


def _guide(x: float, top: float, row: float, *, through: bool = False) -> Safe:
    """From the end of one bar to the next; ``through`` a row that has none."""
    return tag("line", x1=x, x2=x, y1=top + (-3 if through else row - 3), y2=top + row + 3, stroke=MUTED, stroke_width=0.8)


def _bar_row(place: int, row: float, left: float, name: str, start: int, length: int, said: str, fill: str, scale: float) -> Safe:
    top = place * row
    x, long = left + start * scale, max(length * scale, 1.0 if length else 0.0)
    bar = tag("rect", x=x, y=top + 3, width=long, height=row - 6, fill=fill)
    return join([_row_label(left, top, row, name), bar, label(x + long + 6, top + row - 7, said, size=12)])


def apart(wanted: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Heights as near to ``wanted`` as may be, at least ``distance`` from each other, between ``low`` and ``high`` if there is room.

    >>> apart([10.0, 12.0], 15.0, 0.0, 100.0)
    [10.0, 25.0]
    """
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    placed = [0.0] * len(wanted)
    last = low - distance
    for number in order:
        placed[number] = last = max(wanted[number], last + distance)
    below = high + distance
    for number in reversed(order):
        placed[number] = below = min(placed[number], below - distance)
    return placed


def interval_glyph(mean: float, low: float, high: float) -> Safe:
    """A small picture for a table: a share between 0 and 1 as a bar from zero, its interval as a line over the end of the bar."""
    wide, tall = 64.0, 12.0
    low, mean, high = (min(max(value, 0.0), 1.0) * wide for value in (low, mean, high))
    return tag(
        "svg", tag("rect", x=0, y=0, width=wide, height=tall, fill="#eef1f4"), tag("rect", x=0, y=2, width=mean, height=tall - 4, fill=_KEPT),
        tag("line", x1=low, x2=max(high, low + 1), y1=tall / 2, y2=tall / 2, stroke=INK, stroke_width=2),
        viewBox=f"0 0 {wide:g} {tall:g}", width=f"{wide:g}", height=f"{tall:g}", class_="glyph", aria_hidden="true",
    )  # fmt: skip
