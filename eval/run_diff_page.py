"""What changed between two runs, as a section of the report page and as tables for a terminal. Knows the changes; finds none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag.eval.html_sections import section
from rag.eval.html_text import Cell, Safe, number, table, tag
from rag.eval.report_words import signed
from rag.eval.run_diff import ConfigChange, Moved, StageChange

if TYPE_CHECKING:
    from rich.table import Table

MAX_LISTED = 200
_RECALL = "recall"
_HEAD = ("stage", "before", "now", "difference", "95 % interval", "n", "p", "in words", "lost before", "lost now")
_NUM_WORDS = 1


def changes_section(changes: Sequence[ConfigChange], before_name: str) -> tuple[str, str, Safe]:
    """For ``write_html``: per configuration a table of stages and the questions whose fate changed."""
    parts = [part for change in changes for part in _config(change)]
    note = (
        f"Against the run {before_name!r}, over the questions that both have. Recall in per cent, differences in points, paired; p is not corrected for the "
        "number of stages."
    )
    return "changes", "Changes", section("changes", "What changed", *parts, note=note)


def _config(change: ConfigChange) -> list[Safe]:
    rows: list[list[Cell | str]] = []
    for place, each in enumerate(change.stages):
        cells = _cells(each)
        rows.append([Cell(each.stage, place), *(cell if column == 6 else number(cell) for column, cell in enumerate(cells[1:]))])
    parts = [
        tag("h3", change.now),
        tag("p", change.words()),
        table(f"Stages of {change.now}, before and now", _HEAD, rows, sortable=False),
    ]
    for title, moved in (
        ("Newly lost", change.newly_lost),
        ("Newly found", change.newly_found),
        ("Lost at another stage", change.moved),
    ):
        if moved:
            listed = table(
                f"{title}: {change.now}", ["id", "question", "before", "now"], [_moved(each) for each in moved[:MAX_LISTED]]
            )
            more = tag("p", f"The first {MAX_LISTED} are listed.", class_="note") if len(moved) > MAX_LISTED else None
            parts.append(tag("details", tag("summary", f"{title}: {len(moved):,}"), listed, more, open=title == "Newly lost"))
    return parts


def _moved(each: Moved) -> list[str]:
    return [each.id, each.question, each.before or "came through", each.now or "came through"]


def _cells(each: StageChange) -> list[str]:
    """One row of ``_HEAD``."""
    shares = ["" if value is None else f"{100 * value:.1f}" for value in (each.before, each.now)]
    found = each.difference
    if found is None:
        said = ["", "", "", "", "no such stage before" if each.before is None else "no such stage now"]
    else:
        word = "inside the noise" if found.inside_noise else "better" if found.mean > 0 else "worse"
        said = [
            signed(_RECALL, found.mean), f"{signed(_RECALL, found.low)} to {signed(_RECALL, found.high)}", f"{found.num_queries:,}", f"{found.p:.4f}", word,
        ]  # fmt: skip
    return [each.stage, *shares, *said, f"{each.lost_before:,}", f"{each.lost_now:,}"]


def changes_tables(changes: Sequence[ConfigChange], num_listed: int = 10) -> list[Table]:
    """For a terminal: stages per configuration, and the first questions that were newly lost or found."""
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    def made(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], num_words: int) -> Table:
        found = Table(title=escape(title), title_justify="left", title_style="bold", box=SIMPLE)
        for place, name in enumerate(head):
            found.add_column(name, justify="left" if place < num_words or name == "in words" else "right")
        for row in rows:
            found.add_row(*(escape(cell) for cell in row))
        return found

    tables = []
    for change in changes:
        tables.append(made(change.words(), _HEAD, [_cells(each) for each in change.stages], _NUM_WORDS))
        for title, moved in (("newly lost", change.newly_lost), ("newly found", change.newly_found)):
            if moved:
                rows = [_moved(each) for each in moved[:num_listed]]
                tables.append(made(f"{len(moved):,} {title} by {change.now}", ["id", "question", "before", "now"], rows, 4))
    return tables
