"""The large charts of the report page, as SVG that needs no script. Knows scales and where names have room; is told what to draw.

Told apart in grey and by the colour-blind: every line has its own dash and mark and its name beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from rag.eval.html_shapes import INK, MUTED, RULE, apart, chart, cut, label, ticks
from rag.eval.html_text import Safe, join, tag

COLOURS = ("#0b5cad", "#b84300", "#00725a", "#7d3c98", "#7a5c00", "#3d4752")
_DASHES = (None, "7 3", "2 3", "9 3 2 3", "4 2", "12 4")
_LETTER = 7.0  # width of a letter at 12 px, on the safe side
MAX_LINES = len(COLOURS)


Box = tuple[float, float, float, float]


class Line(NamedTuple):
    """A line of a chart: (x, mean, low, high) from left to right."""

    label: str
    points: Sequence[tuple[float, float, float, float]]


class Mark(NamedTuple):
    """A point of a scatter plot; ``low`` and ``high``: its interval, if it has one."""

    label: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    on_front: bool = False


def _haloed(x: float, y: float, said: str, weight: str | None) -> Safe:
    """Text that stays readable on a line."""
    return tag(
        "text",
        said,
        x=x,
        y=y,
        fill=INK,
        font_size=12,
        font_weight=weight,
        stroke="#fff",
        stroke_width=4,
        stroke_linejoin="round",
        paint_order="stroke",
    )


def lines(title: str, x_title: str, y_title: str, drawn: Sequence[Line], width: float = 1070, height: float = 360) -> Safe:
    """Shares (0 to 1) against a number on a log scale, each line with its interval as a band and its name at its end."""
    left, right, top, bottom = 52.0, 350.0, 26.0, 44.0
    every_x = sorted({point[0] for line in drawn for point in line.points})
    low, high = math.log(every_x[0]), math.log(every_x[-1])

    def across(x: float) -> float:
        return left + (width - left - right) * ((math.log(x) - low) / (high - low) if high > low else 0.5)

    def down(y: float) -> float:
        return height - bottom - (height - top - bottom) * min(max(y, 0.0), 1.0)

    parts: list[str] = [label(left - 40, 12, y_title, fill=MUTED)]
    for y in ticks(0, 1):
        parts.append(tag("line", x1=left, x2=width - right, y1=down(y), y2=down(y), stroke=INK if y == 0 else RULE))
        parts.append(label(left - 6, down(y) + 4, f"{100 * y:.0f}", at="end", fill=MUTED))
    for x in every_x:
        parts.append(label(across(x), height - bottom + 18, f"{x:,g}", at="middle", fill=MUTED))
    parts.append(label((left + width - right) / 2, height - 6, x_title, at="middle", fill=MUTED))
    ends = apart([down(line.points[-1][1]) for line in drawn], 15.0, top, height - bottom)
    for number, line in enumerate(drawn):
        parts.append(_band(number, [(across(x), down(lower), down(upper)) for x, _, lower, upper in line.points]))
    for number, line in enumerate(drawn):
        places = [(across(x), down(mean)) for x, mean, _, _ in line.points]
        parts.append(_line(number, places))
        label_x = width - right + 12
        parts.append(
            tag(
                "line",
                x1=places[-1][0] + 5,
                y1=places[-1][1],
                x2=label_x - 2,
                y2=ends[number],
                stroke=_colour(number),
                stroke_width=0.7,
            )
        )
        parts.append(label(label_x, ends[number] + 4, cut(line.label, 46), fill=_colour(number), weight="600"))
    return chart(width, height, title, *parts)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _band(number: int, places: Sequence[tuple[float, float, float]]) -> Safe:
    around = [(x, upper) for x, _, upper in places] + [(x, lower) for x, lower, _ in reversed(places)]
    return tag("polygon", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in around), fill=_colour(number), fill_opacity=0.1)


def _line(number: int, places: Sequence[tuple[float, float]]) -> Safe:
    path = tag(
        "polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places), fill="none", stroke=_colour(number), stroke_width=1.8,
        stroke_dasharray=_DASHES[number % len(_DASHES)],
    )  # fmt: skip
    return join([path, *(shape(number, x, y) for x, y in places)])


def shape(number: int, x: float, y: float, size: float = 4.0) -> Safe:
    """The mark of line ``number``: a circle, a square, a triangle, a diamond, ..."""
    colour, kind = _colour(number), number % 6
    if kind in (0, 4):
        return tag("circle", cx=x, cy=y, r=size, fill=colour if kind == 0 else "#fff", stroke=colour, stroke_width=1.5)
    if kind in (1, 5):
        return tag(
            "rect",
            x=x - size,
            y=y - size,
            width=2 * size,
            height=2 * size,
            fill=colour if kind == 1 else "#fff",
            stroke=colour,
            stroke_width=1.5,
        )
    high = size * 1.3
    corners = (
        [(x, y - high), (x + high, y + size), (x - high, y + size)]
        if kind == 2
        else [(x, y - high), (x + high, y), (x, y + high), (x - high, y)]
    )
    return tag("polygon", points=" ".join(f"{across:.1f},{down:.1f}" for across, down in corners), fill=colour)


def scatter(title: str, x_title: str, y_title: str, marks: Sequence[Mark], width: float = 1070, height: float = 380) -> Safe:
    """Quality (shares) against cost, with intervals and the front of those that nothing beats. Full marks are on the front."""
    left, right, top, bottom = 52.0, 30.0, 26.0, 44.0
    x_high = max(mark.x for mark in marks) * 1.12 or 1.0
    lows = [mark.y if mark.low is None else mark.low for mark in marks]
    highs = [mark.y if mark.high is None else mark.high for mark in marks]
    room = 0.08 * (max(highs) - min(lows)) or 0.05
    y_low, y_high = min(lows) - room, max(highs) + room

    def place(mark_x: float, mark_y: float) -> tuple[float, float]:
        across = left + (width - left - right) * mark_x / x_high
        return across, height - bottom - (height - top - bottom) * (mark_y - y_low) / (y_high - y_low)

    parts: list[str] = [label(left - 40, 12, y_title, fill=MUTED)]
    for y in ticks(y_low, y_high):
        parts.append(tag("line", x1=left, x2=width - right, y1=place(0, y)[1], y2=place(0, y)[1], stroke=RULE))
        parts.append(label(left - 6, place(0, y)[1] + 4, f"{100 * y:.3g}", at="end", fill=MUTED))
    for x in ticks(0, x_high):
        parts.append(label(place(x, 0)[0], height - bottom + 18, f"{x:,g}", at="middle", fill=MUTED))
    parts.append(tag("line", x1=left, x2=width - right, y1=height - bottom, y2=height - bottom, stroke=INK))
    parts.append(label((left + width - right) / 2, height - 6, x_title, at="middle", fill=MUTED))
    front = sorted((mark.x, mark.y) for mark in marks if mark.on_front)
    if len(front) > 1:
        parts.append(_front([place(x, y) for x, y in front]))
    places = [place(mark.x, mark.y) for mark in marks]
    for mark, (x, y) in zip(marks, places, strict=True):
        if mark.low is not None and mark.high is not None:
            parts.append(tag("line", x1=x, x2=x, y1=place(0, mark.low)[1], y2=place(0, mark.high)[1], stroke=MUTED, stroke_width=1))
        fill = COLOURS[0] if mark.on_front else "#fff"
        parts.append(
            tag(
                "circle",
                tag("title", mark.label),
                cx=x,
                cy=y,
                r=5.0,
                fill=fill,
                stroke=COLOURS[0] if mark.on_front else MUTED,
                stroke_width=1.6,
            )
        )
    parts += _labels(marks, places, width)
    return chart(width, height, title, *parts)


def _front(places: Sequence[tuple[float, float]]) -> Safe:
    """Steps: up to the next better one only at its cost."""
    corners = [places[0]]
    for x, y in places[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    return tag("polyline", points=points, fill="none", stroke=COLOURS[0], stroke_width=1.2, stroke_dasharray="5 3")


def _labels(marks: Sequence[Mark], places: Sequence[tuple[float, float]], width: float) -> list[Safe]:
    """Names beside the marks, where they cover neither each other nor a mark; without room for a name, its first word (the key)."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    drawn = []
    for number in sorted(range(len(marks)), key=lambda number: not marks[number].on_front):
        label_of = marks[number].label
        for said in (cut(label_of, 46), label_of.split(" ")[0]):
            corner = _free_corner(places[number], len(said) * _LETTER, taken, width)
            if corner is not None:
                drawn.append(_haloed(*corner, said, "600" if marks[number].on_front else None))
                break
    return drawn


def _free_corner(place: tuple[float, float], long: float, taken: list[Box], width: float) -> tuple[float, float] | None:
    """Where a text of that length may begin, which is taken from then on; ``None`` if there is no room around ``place``."""
    x, y = place
    for across in (x + 8, x - 8 - long):
        for down in (y - 8, y + 17, y + 4):
            box = (across, down - 11, across + long, down + 3)
            if box[0] > 50 and box[2] < width - 2 and not any(_meet(box, other) for other in taken):
                taken.append(box)
                return across, down
    return None


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
