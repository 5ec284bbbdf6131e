"""``rag eval chain``: arguments in, a report out. Knows typer; ``rag.eval.chain`` does the work."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag.errors import ConfigError, RagError

if TYPE_CHECKING:
    from rag.eval.chain import Progress
    from rag.eval.question_set import QuestionSet

DEFAULT = "default"


def chain(
    configs: Annotated[
        str, typer.Argument(help="YAML configurations between commas; the first is the baseline. 'default' is the built-in one.")
    ],
    path: Annotated[Path, typer.Argument(metavar="DATA", help="Question set; `rag eval data check DATA` tells what is in it.")],
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for report.json, report.html and what a next run takes over.")
    ] = Path("report"),
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only so many questions, drawn by --seed.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw and of the bootstrap.")] = 0,
    no_answers: Annotated[bool, typer.Option("--no-answers", help="End the chain at the selection: generate nothing.")] = False,
    fail_under: Annotated[
        list[str] | None,
        typer.Option("--fail-under", help="MEASURE=NUMBER, such as recall@answer=0.8: exit code 1 below it (repeatable)."),
    ] = None,
) -> None:
    """Judge every stage of the chain: what was read, cut, found, ranked, selected, shown and answered, and which stage lost what."""
    from rich.console import Console

    from rag.eval.chain import evaluate_chain
    from rag.eval.chain_targets import missed_targets, target_of
    from rag.eval.html_report import write_html
    from rag.eval.read_questions import read_questions
    from rag.eval.report_tables import tables
    from rag.terminal import err, out

    targets = [target_of(text) for text in fail_under or ()]
    named = _named(configs)
    given = _drawn(read_questions(path), limit, seed)
    out_folder.mkdir(parents=True, exist_ok=True)
    try:
        with _progress() as on_progress:
            report = evaluate_chain(
                given, named, on_progress=on_progress, cache_folder=out_folder / "cache", seed=seed, answers=not no_answers
            )
    except KeyboardInterrupt:
        raise RagError("interrupted; the questions that were finished are kept, and the same command goes on from there") from None
    report.save(out_folder / "report.json")
    wide = Console(
        width=max(out.width, 160), highlight=False
    )  # a table that wraps cannot be read, one that is too wide can be scrolled
    for table in tables(report):
        wide.print(table, soft_wrap=True)
        wide.print()
    for remark in report.remarks:
        out.print(f"- {remark}", markup=False)
    write_html(report, out_folder / "report.html")
    out.print(f"wrote {out_folder / 'report.html'} and {out_folder / 'report.json'}", markup=False)
    if missed := missed_targets(report, targets):
        for line in missed:
            err.print(line, style="red", markup=False)
        raise typer.Exit(1)


def _named(configs: str) -> dict[str, Any]:
    """Name -> configuration file; a file's name without its ending, or all of its path if two are called alike."""
    paths = [part.strip() for part in configs.split(",") if part.strip()]
    if not paths:
        raise ConfigError("there is no configuration; name YAML files between commas, or 'default'")
    stems = [Path(path).stem for path in paths]
    names = [stem if stems.count(stem) == 1 else path for path, stem in zip(paths, stems, strict=True)]
    if len(set(names)) < len(names):
        raise ConfigError(f"configuration {next(name for name in names if names.count(name) > 1)!r} is named twice")
    return {name: None if path == DEFAULT else Path(path) for name, path in zip(names, paths, strict=True)}


def _drawn(given: QuestionSet, limit: int | None, seed: int) -> QuestionSet:
    """At most ``limit`` questions, in their order; the draw of a smaller limit lies in that of a larger one."""
    if limit is None or limit >= len(given.questions):
        return given
    order = list(range(len(given.questions)))
    random.Random(seed).shuffle(order)
    return given.some([given.questions[number] for number in sorted(order[:limit])])


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """A bar on stderr when that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from rag.terminal import err

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def advance(step: Progress) -> None:
            if step.config not in tasks:
                tasks[step.config] = bar.add_task(step.config, total=step.num_questions)
            kept = f" ({step.num_kept} kept)" if step.num_kept else ""
            bar.update(tasks[step.config], completed=step.num_done, description=f"{step.config}{kept}")

        yield advance
