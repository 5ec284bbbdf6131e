"""Draws recall against the number of returned tokens, a line per chunker. Knows matplotlib, which it loads only to draw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.errors import MissingExtra
from rag.eval.chunking_report import ChunkingReport, Row, at_budget, at_k

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".png", ".svg", ".pdf")
# told apart by the colour-blind
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8c6d1f", "#5b5b5b", "#7b3fa0")
_MARKERS = "osD^vPX*"


def check_plot(path: Path) -> None:
    """Raises what ``draw`` would raise for ``path``, before anything is measured: ``ValueError`` for a suffix that names no kind of
    picture, ``FileNotFoundError`` for a missing folder, ``rag.errors.MissingExtra`` without matplotlib.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"plot {str(path)!r} has no suffix of a picture; allowed: {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: there is no such folder for the plot")
    _figure()


def draw(report: ChunkingReport, path: Path) -> None:
    """Writes the plot of ``report`` to ``path``, as PNG, SVG or PDF by its suffix."""
    draw_all([report], path)


def draw_all(reports: list[ChunkingReport], path: Path) -> None:
    """The plots of several sets side by side in one picture; a chunker has one colour in all of them.

    Chunkers that found the same at every budget of every set share a line. A hollow mark stands where the first k chunks are.
    """
    check_plot(path)
    figure = _figure()(figsize=(2.4 + 4.4 * len(reports), 4.6), layout="constrained")
    groups = _same_lines(reports)
    lines: dict[str, Any] = {}
    for place, report in enumerate(reports, start=1):
        axes = figure.add_subplot(1, len(reports), place)
        _frame(axes, report)
        for number, names in enumerate(groups):
            if row := report.rows.get(names[0]):
                lines[" = ".join(names)] = _line(axes, report, row, number)
        if any(report.ceilings[budget] < 0.995 for budget in report.budgets):
            ceiling = [100 * report.ceilings[budget] for budget in report.budgets]
            (lines["(nothing but the answers)"],) = axes.plot(
                report.budgets, ceiling, color="#999999", linestyle=":", linewidth=1.2
            )
    hollow = {"color": "#555555", "marker": "o", "markersize": 9, "markerfacecolor": "none", "linestyle": "none"}
    (lines[f"(hollow: the first {reports[0].k} chunks)"],) = axes.plot([], [], **hollow)
    figure.legend(list(lines.values()), list(lines), loc="outside right upper", frameon=False, fontsize=9)
    figure.savefig(path, dpi=130, metadata=_undated(path))


def _same_lines(reports: list[ChunkingReport]) -> list[list[str]]:
    """The names of the chunkers, those with the same line in every plot together."""
    groups: dict[tuple[float | None, ...], list[str]] = {}
    for name in dict.fromkeys(name for report in reports for name in report.rows):
        measures = [(report.rows.get(name), at_budget("recall", budget)) for report in reports for budget in report.budgets]
        means = [row.scores["tokens"][measure].mean if row else None for row, measure in measures]
        groups.setdefault(tuple(means), []).append(name)
    return list(groups.values())


def _frame(axes: Axes, report: ChunkingReport) -> None:
    searched = "all documents" if report.within == "all" else "own document"
    axes.set_title(f"{report.name}, {report.num_questions} questions, {searched}", fontsize=10, loc="left")
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(report.budgets), [f"{budget:,}" for budget in report.budgets])
    axes.minorticks_off()
    axes.set_xlabel("returned tokens")
    axes.set_ylabel("recall of answer tokens, %")
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _line(axes: Axes, report: ChunkingReport, row: Row, number: int) -> Any:
    """The line with its interval, and a hollow mark where the first k chunks would stand."""
    colour = _COLOURS[number % len(_COLOURS)]
    style = "-" if number < len(_COLOURS) else "--"
    marker = _MARKERS[number % len(_MARKERS)]
    scores = [row.scores["tokens"][at_budget("recall", budget)] for budget in report.budgets]
    lows, highs = [100 * each.low for each in scores], [100 * each.high for each in scores]
    axes.fill_between(report.budgets, lows, highs, color=colour, alpha=0.08, linewidth=0)
    means = [100 * each.mean for each in scores]
    (line,) = axes.plot(report.budgets, means, color=colour, linestyle=style, marker=marker, markersize=4.5, linewidth=1.5)
    if report.budgets[0] <= row.returned_tokens <= report.budgets[-1]:
        at = 100 * row.scores["tokens"][at_k("recall", report.k)].mean
        axes.plot([row.returned_tokens], [at], color=colour, marker=marker, markersize=9, markerfacecolor="none", linestyle="none")
    return line


def _undated(path: Path) -> dict[str, Any]:
    """Without the date that some formats get, so that the same numbers make the same file."""
    return {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower(), {})


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("matplotlib", "report", "--plot") from None
    return Figure
