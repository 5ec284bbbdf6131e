"""Draws recall against milliseconds, a line per index and option. Knows matplotlib, which it loads only to draw; measures nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rag.curve import Curve, Point
from rag.eval.chunking_plot import check_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8c6d1f")  # told apart by the colour-blind
_MARKERS = "osD^vP"


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Writes the plot to ``path``, as PNG, SVG or PDF by its suffix. Raises what ``check_plot`` raises.

    A mark stands at the median, the faint line from it ends at the 95th percentile; a hollow mark is the setting in force. An index
    without recall is a dotted line at its median.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    number = 0
    for curve in curves:
        for option in dict.fromkeys(point.option for point in curve.points):
            _line(axes, curve, [point for point in curve.points if point.option == option], number)
            number += 1
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds per query (median; faint: up to the 95th percentile)")
    axes.set_ylabel(f"recall@{curves[0].k} of an exhaustive search")
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def _line(axes: Axes, curve: Curve, points: Sequence[Point], number: int) -> None:
    colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
    known = [(point, point.recall) for point in points if point.recall is not None]
    if not known:
        spent = points[0].p50_milliseconds
        axes.axvline(spent, color=colour, linestyle=":", linewidth=1.2, label=f"{curve.index}: {points[0].setting}")
        return
    medians, recalls = [point.p50_milliseconds for point, _ in known], [found for _, found in known]
    axes.hlines(recalls, medians, [point.p95_milliseconds for point, _ in known], color=colour, alpha=0.25, linewidth=1.2)
    axes.plot(
        medians, recalls, color=colour, marker=marker, markersize=4.5, linewidth=1.5, label=f"{curve.index}: {points[0].option}"
    )
    told: tuple[float, float] | None = None
    for point, found in known:
        here = (point.p50_milliseconds, found)
        if told is None or here[0] > told[0] * 1.08 or abs(here[1] - told[1]) > 0.002:  # else the numbers would cover each other
            axes.annotate(f"{point.value:g}", here, (4, -10), textcoords="offset points", fontsize=8)
            told = here
        if point.configured:
            axes.plot([here[0]], [here[1]], color=colour, marker=marker, markersize=9, markerfacecolor="none")
