"""``rag eval data check | convert | mark``: arguments in, tables out. Knows typer; ``rag.eval`` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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


@data_app.command()
def mark(
    path: PathArgument,
    folder: Annotated[Path, typer.Argument(help="New folder for questions.jsonl and the documents.")],
    config: Annotated[
        Path, typer.Option("--config", "-c", envvar="RAG_CONFIG", help="YAML configuration with the language model under models.")
    ],
    lm: Annotated[str, typer.Option("--lm", help="Which model of the configuration marks: lm or judge.")] = "lm",
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Passages that the model is shown per question.")] = 6,
) -> None:
    """Let a language model mark what answers must contain, word for word in your documents; exit code 1 if some are left unmarked."""
    import shutil

    from rag.cli_eval_judge import configured_model
    from rag.errors import RagError
    from rag.eval.marking import Marking
    from rag.eval.read_own import check_new, write_own
    from rag.eval.read_questions import read_questions
    from rag.progress import progress_bar

    given = read_questions(path)
    check_new(folder)
    begun = folder.with_name(folder.name + ".part")
    marking = Marking(given, configured_model(config, lm), begun / "marked.sqlite", k=k)
    try:
        with progress_bar("questions") as on_progress:
            marked = marking.run(on_progress)
    except KeyboardInterrupt:
        raise RagError(f"interrupted; what was marked is in {begun}, the same command goes on from there") from None
    finally:
        marking.close()
    write_own(marked, folder)
    shutil.rmtree(begun)
    _show_marking(marking.report, folder)


def _show_marking(report: Any, folder: Path) -> None:
    from rag.terminal import out

    out.print(
        f"wrote {folder}: {report.num_marked} questions marked, {report.num_ready} had points or evidence, "
        f"{report.num_unanswerable} unanswerable", markup=False,
    )  # fmt: skip
    if report.num_refused:
        out.print(f"  refused: {report.num_refused} clauses and terms that no passage holds", markup=False)
    for question, reason in report.failures.items():
        out.print(f"  not marked: {question}: {reason}", markup=False)
    if report.failures:
        out.print(f"  `rag eval data mark {folder} NEW` asks for these {len(report.failures)} again", markup=False)
        raise typer.Exit(1)
