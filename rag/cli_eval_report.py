"""``rag eval report``: a full-chain report as a page and as tables, alone or against an earlier run. Knows typer; measures nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

if TYPE_CHECKING:
    from rag.eval.chain_report import ChainReport


def report(
    file: Annotated[Path, typer.Argument(help="report.json of rag eval chain or rag tune.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the page to this file (.html).")] = None,
    compare: Annotated[
        Path | None,
        typer.Option("--compare", help="An earlier report: what changed per stage, which questions are newly lost or found."),
    ] = None,
) -> None:
    """Show a report: the result in words and tables, and as one HTML page that needs no network."""
    from rich.console import Console

    from rag.eval.html_report import write_html
    from rag.eval.report_tables import tables
    from rag.eval.report_words import headline
    from rag.eval.run_diff import compare_runs
    from rag.eval.run_diff_page import changes_section, changes_tables
    from rag.terminal import out as console

    now = load(file)
    before = None if compare is None else load(compare)
    changes = [] if before is None else compare_runs(now, before)
    if out is not None:
        write_html(now, out, [] if before is None else [changes_section(changes, before.name)])
    wide = Console(width=max(console.width, 200), highlight=False)  # a table that wraps cannot be read
    for sentence in headline(now):
        console.print(sentence, markup=False)
    for table in changes_tables(changes) if changes else tables(now):
        wide.print(table, soft_wrap=True)
    for remark in now.remarks:
        console.print(f"- {remark}", markup=False)
    if out is not None:
        console.print(f"wrote {out}", markup=False)


def load(path: Path) -> ChainReport:
    """The report in ``path``. Raises ``FileNotFoundError`` or ``ValueError`` in one line."""
    from rag.eval.chain_report import ChainReport

    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such report")
    try:
        return ChainReport.load(path)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path} is no report of rag eval chain: {place + ': ' if place else ''}{first['msg']}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no report of rag eval chain: it is not UTF-8 text") from None
