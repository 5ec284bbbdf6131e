"""``rag eval data check`` and ``rag eval data convert``: arguments in, tables out. Knows typer; ``rag.eval`` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(help="Look after question sets.", no_args_is_help=True)

PathArgument = Annotated[Path, typer.Argument(help="Folder or file of a question set; its layout is told from its content.")]


@data_app.command()
def check(
    path: PathArgument,
    max_faults: Annotated[int, typer.Option("--max-faults", min=1, help="Faults to print of each kind.")] = 10,
) -> None:
    """Count what a set has, and name what is wrong with it: exit code 1 if something is."""
    from rag.eval.question_check import check_set
    from rag.eval.read_questions import read_questions
    from rag.terminal import out

    report = check_set(read_questions(path))
    for table in report.tables():
        out.print(table)
    for kind, faults in report.faults.items():
        out.print(f"[red]{kind}[/]: {len(faults)}")
        for fault in faults[:max_faults]:
            out.print(f"  {fault}", markup=False)
        if len(faults) > max_faults:
            out.print(f"  ... and {len(faults) - max_faults} more")
    for remark in report.remarks:
        out.print(f"- {remark}", markup=False)
    if report.faults:
        raise typer.Exit(1)
    out.print("nothing is wrong")


@data_app.command()
def convert(
    path: PathArgument, folder: Annotated[Path, typer.Argument(help="New folder for questions.jsonl and the documents.")]
) -> None:
    """Write a set in our own layout: questions.jsonl beside corpus.jsonl or documents/."""
    from rag.eval.question_check import with_points
    from rag.eval.read_own import write_own
    from rag.eval.read_questions import read_questions

    given = with_points(read_questions(path))
    write_own(given, folder)
    what = f"{len(given.documents)} documents" if given.documents else f"the files of {', '.join(map(str, given.files))}"
    typer.echo(f"wrote {folder}: {len(given.questions)} questions, {what}")
