"""``rag eval chunking`` and ``rag eval sections``: arguments in, tables out. Knows typer; ``rag.eval`` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from rag.eval.chunking import Within

FolderArgument = Annotated[
    Path, typer.Argument(help="Folder with questions_df.csv and corpora/*.md, or with meeting transcripts as *.jsonl.")
]
ChunkersOption = Annotated[
    str, typer.Option("--chunkers", help="Words between commas, or a YAML file that maps names to chunker blocks.")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="RAG_CONFIG", help="YAML configuration of everything but the chunker.")
]
WithinOption = Annotated[str, typer.Option("--within", help="What is searched: all documents, or the question's own document.")]


def chunking(
    folder: FolderArgument,
    chunkers: ChunkersOption = "structure,recursive,sentence,fixed",
    config: ConfigOption = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Chunks per question in the first table.")] = 5,
    budgets: Annotated[str, typer.Option("--budgets", help="Numbers of returned tokens between commas.")] = "100,200,400,800,1600",
    within: WithinOption = "all",
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything, every question's values included, to this file.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw recall against returned tokens (.png, .svg, .pdf).")] = None,
) -> None:
    """Compare chunkers: recall, precision and IoU of marked answers, at k chunks and at equal numbers of returned tokens."""
    from rich.console import Console

    from rag.eval.chunking import evaluate_chunking
    from rag.eval.chunking_plot import check_plot, draw
    from rag.eval.contenders import contenders_of
    from rag.eval.spans import read_spans
    from rag.terminal import err, out

    if plot is not None:
        check_plot(plot)
    _check_folder_of(json_file)
    report = evaluate_chunking(
        read_spans(folder), contenders_of(chunkers), config=config, k=k, budgets=_numbers(budgets), within=cast("Within", within), seed=seed,
        on_progress=lambda said: err.print(said, style="dim", markup=False),
    )  # fmt: skip
    wide = Console(
        width=max(out.width, 200), highlight=False
    )  # a table that wraps cannot be read, one that is too wide can be scrolled
    wide.print(report.heading(), markup=False, soft_wrap=True)
    for table in report.tables():
        wide.print(table, soft_wrap=True)
    for remark in report.remarks():
        wide.print(f"- {remark}", markup=False, soft_wrap=True)
    if json_file is not None:
        json_file.write_text(report.json(per_question=True) + "\n", encoding="utf-8")
    if plot is not None:
        draw(report, plot)


def sections(
    folder: Annotated[Path, typer.Argument(help="Folder of documents with headings (PDF, DOCX, HTML, ...), or one file.")],
    chunkers: ChunkersOption = "structure,recursive,spatial",
    config: ConfigOption = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything, document by document, to this file.")] = None,
) -> None:
    """Compare chunkers: how well their chunks keep to the sections between headings (NMI, purity)."""
    from rag.core import Document
    from rag.errors import ReadError
    from rag.eval.contenders import contenders_of
    from rag.eval.sections import evaluate_sections
    from rag.read.walk import walk
    from rag.read.worker import read_file
    from rag.terminal import err, out

    if not folder.exists():
        raise FileNotFoundError(f"{folder}: there is no such file or folder")
    _check_folder_of(json_file)
    documents: list[Document] = []
    for found in walk([folder]):
        try:
            if isinstance(found, ReadError):
                raise found
            documents.append(read_file(found))
        except ReadError as error:
            err.print(f"left out: {error}", style="dim", markup=False)
    report = evaluate_sections(
        documents, contenders_of(chunkers), config, on_progress=lambda said: err.print(said, style="dim", markup=False)
    )
    out.print(report.table())
    if report.left_out:
        out.print(f"- {len(report.left_out)} documents have fewer than two sections and are left out.", markup=False)
    if json_file is not None:
        json_file.write_text(report.json() + "\n", encoding="utf-8")


def _check_folder_of(json_file: Path | None) -> None:
    """Before anything is measured. Raises ``FileNotFoundError``."""
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise FileNotFoundError(f"{json_file.parent}: there is no such folder for the JSON file")


def _numbers(said: str) -> list[int]:
    try:
        return [int(number) for number in said.split(",")]
    except ValueError:
        raise ValueError(f"budgets are whole numbers between commas, not {said!r}") from None
