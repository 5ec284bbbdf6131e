"""How a tuning went, as a section of the report page and as tables for a terminal. Knows the result; decides nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rag.eval.html_charts import COLOURS
from rag.eval.html_sections import section
from rag.eval.html_shapes import INK, MUTED, RULE, apart, chart, cut, label, ticks
from rag.eval.html_text import Cell, Safe, join, number, table, tag
from rag.eval.report_values import SECONDS
from rag.eval.report_words import is_share, said
from rag.eval.tune_result import Tried, Tuning

if TYPE_CHECKING:
    from rich.table import Table

_FAINT = "#b3bcc5"
_MAX_LABELS = 8


def tuning_section(tuning: Tuning) -> tuple[str, str, Safe]:
    """For ``write_html``: the words, the race as a picture, rungs and configurations as tables."""
    notes = tag("ul", *(tag("li", sentence) for sentence in tuning.words()))
    picture = tag("figure", _race(tuning)) if len(tuning.rungs) > 1 else None
    head = ["configuration", "n", _measure(tuning), "seconds per question", "on the front", "how it ended"]
    front = {each.name for each in tuning.front()}
    rows = [_row(tuning, each, each.name in front) for each in _sorted(tuning)]
    note = (
        "Each rung asks the configurations that are left more questions, the same for all. A line ends where its configuration was dropped; means of "
        "different rungs are over different numbers of questions."
    )
    parts = [
        notes,
        picture,
        _rungs(tuning),
        tag("details", tag("summary", "All configurations"), table("All configurations", head, rows)),
    ]
    return "tuning", "Tuning", section("tuning", "How the configuration was found", *parts, note=note)


def _measure(tuning: Tuning) -> str:
    return f"{said(tuning.measure)}{', %' if is_share(tuning.measure) else ''}"


def _shown(tuning: Tuning, value: float) -> str:
    return f"{100 * value:.1f}" if is_share(tuning.measure) else f"{value:.3f}"


def _sorted(tuning: Tuning) -> list[Tried]:
    """Those that came furthest first, then by mean."""
    return sorted(
        tuning.tried,
        key=lambda each: (each.name != tuning.best, -each.num_questions, -(each.mean if each.mean is not None else -math.inf)),
    )


def _row(tuning: Tuning, each: Tried, on_front: bool) -> list[Cell | str]:
    spent = each.cost.get(SECONDS)
    mean = number("") if each.mean is None else number(_spread(tuning, each), each.mean)
    seconds = number("" if spent is None else f"{spent:.3g}", spent)
    return [
        Cell(each.name),
        number(f"{each.num_questions:,}", each.num_questions),
        mean,
        seconds,
        "yes" if on_front else "",
        each.end,
    ]


def _spread(tuning: Tuning, each: Tried) -> Safe:
    assert each.mean is not None and each.low is not None and each.high is not None
    spread = f"{_shown(tuning, each.low)} to {_shown(tuning, each.high)}"
    return join([tag("span", _shown(tuning, each.mean), class_="mean"), tag("span", spread, class_="interval")])


def _rungs(tuning: Tuning) -> Safe:
    rows: list[list[Cell | str]] = []
    for place, rung in enumerate(tuning.rungs, start=1):
        best = next(iter(rung.means))
        rows.append(
            [
                Cell(str(place), place), number(f"{rung.num_questions:,}", rung.num_questions), number(f"{len(rung.means):,}", len(rung.means)),
                number(_shown(tuning, rung.means[best]), rung.means[best]), best, number(f"{len(rung.kept):,}", len(rung.kept)),
                number(f"{len(rung.kept_for_noise):,}", len(rung.kept_for_noise)),
            ]
        )  # fmt: skip
    head = ["rung", "questions", "configurations", f"highest {_measure(tuning)}", "by", "went on", "of these, inside the noise"]
    return table("Rungs", head, rows, sortable=False)


def _race(tuning: Tuning, width: float = 1070, height: float = 340) -> Safe:
    """Mean against number of questions, a line per configuration; the best one bold, with its name."""
    left, right, top, bottom = 52.0, 360.0, 26.0, 44.0
    sizes = [rung.num_questions for rung in tuning.rungs]
    means = [mean for rung in tuning.rungs for mean in rung.means.values()]
    room = 0.06 * (max(means) - min(means)) or 0.05
    low, high = min(means) - room, max(means) + room

    def across(size: int) -> float:
        return left + (width - left - right) * (math.log(size / sizes[0]) / math.log(sizes[-1] / sizes[0]))

    def down(mean: float) -> float:
        return height - bottom - (height - top - bottom) * (mean - low) / (high - low)

    parts: list[str] = [label(left - 40, 12, f"{said(tuning.measure)}{', %' if is_share(tuning.measure) else ''}", fill=MUTED)]
    for tick in ticks(low, high):
        parts.append(tag("line", x1=left, x2=width - right, y1=down(tick), y2=down(tick), stroke=RULE))
        parts.append(
            label(
                left - 6, down(tick) + 4, f"{100 * tick:.3g}" if is_share(tuning.measure) else f"{tick:.3g}", at="end", fill=MUTED
            )
        )
    parts += [label(across(size), height - bottom + 18, f"{size:,}", at="middle", fill=MUTED) for size in sizes]
    parts.append(label((left + width - right) / 2, height - 6, "questions asked (log scale)", at="middle", fill=MUTED))
    finalists = list(tuning.rungs[-1].means)
    for name in [*(name for name in tuning.rungs[0].means if name not in finalists), *reversed(finalists)]:
        places = [(across(rung.num_questions), down(rung.means[name])) for rung in tuning.rungs if name in rung.means]
        parts.append(_way(places, is_best=name == tuning.best, is_finalist=name in finalists))
    named = finalists[:_MAX_LABELS]
    ends = [down(tuning.rungs[-1].means[name]) for name in named]
    for name, end, at in zip(named, ends, apart(ends, 15.0, top, height - bottom), strict=True):
        parts.append(tag("line", x1=width - right + 4, y1=end, x2=width - right + 12, y2=at, stroke=MUTED, stroke_width=0.7))
        weight = "600" if name == tuning.best else None
        parts.append(
            label(width - right + 14, at + 4, cut(name, 50), fill=COLOURS[0] if name == tuning.best else INK, weight=weight)
        )
    return chart(width, height, f"{said(tuning.measure)} of every configuration, rung by rung", *parts)


def _way(places: list[tuple[float, float]], *, is_best: bool, is_finalist: bool) -> Safe:
    colour = COLOURS[0] if is_best else MUTED if is_finalist else _FAINT
    wide = 2.6 if is_best else 1.2
    line = tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places), fill="none", stroke=colour, stroke_width=wide)
    return join([line, *(tag("circle", cx=x, cy=y, r=3.2 if is_best else 2.0, fill=colour) for x, y in places)])


def tuning_table(tuning: Tuning, num_rows: int = 12) -> Table:
    """For a terminal: the configurations that came furthest."""
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    made = Table(
        title=f"The {min(num_rows, len(tuning.tried))} that came furthest, of {len(tuning.tried):,}",
        title_justify="left",
        title_style="bold",
        box=SIMPLE,
    )
    for place, name in enumerate(
        ["configuration", "how it ended", _measure(tuning), "95 % interval", "n", "s per question", "on the front"]
    ):
        made.add_column(name, justify="left" if place < 2 else "right")
    front = {each.name for each in tuning.front()}
    for each in _sorted(tuning)[:num_rows]:
        spent = each.cost.get(SECONDS)
        mean, spread = "", ""
        if each.mean is not None and each.low is not None and each.high is not None:
            mean, spread = _shown(tuning, each.mean), f"{_shown(tuning, each.low)} to {_shown(tuning, each.high)}"
        cells = [
            each.name,
            each.end,
            mean,
            spread,
            f"{each.num_questions:,}",
            "" if spent is None else f"{spent:.3g}",
            "yes" if each.name in front else "",
        ]
        made.add_row(*(escape(cell) for cell in cells))
    return made
