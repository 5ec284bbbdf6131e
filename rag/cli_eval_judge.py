"""``rag eval judge``: arguments in, tables out. Knows typer; ``rag.eval.judge_check`` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from rag.eval.judge import Way
    from rag.eval.judge_check import CheckedMeasure


def judge(
    labels: Annotated[Path, typer.Argument(help="JSONL: question, answer, sources, references, labels {measure: label}.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", envvar="RAG_CONFIG", help="YAML configuration with models: {judge: ...}.")
    ] = None,
    way: Annotated[
        str, typer.Option("--way", help="json: read what the judge writes; score: read its label probabilities.")
    ] = "json",
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole report to this file.")] = None,
) -> None:
    """Check a judge against labels by people: agreement, kappa, rank correlation, failures, and whether to trust it (exit code 1 if
    not)."""
    from rag.errors import RagError
    from rag.eval.judge import Judge
    from rag.eval.judge_check import check_judge
    from rag.eval.judge_labels import read_labels
    from rag.progress import progress_bar
    from rag.terminal import out

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise FileNotFoundError(f"{json_file.parent}: there is no such folder for the JSON file")
    answers = read_labels(labels)
    asked = Judge(configured_model(config, "judge"), cast("Way", way))
    try:
        with progress_bar("answers judged") as on_progress:
            report = check_judge(asked, answers, seed=seed, on_progress=on_progress)
    except KeyboardInterrupt:
        raise RagError("interrupted; nothing was written") from None
    out.print(f"Judge: {report.judge}; {report.num_answers} labelled answers", markup=False)
    for measure in report.measures:
        _show(measure)
    if json_file is not None:
        json_file.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if not all(measure.is_trusted for measure in report.measures):
        raise typer.Exit(1)


def configured_model(config: Path | None, name: str) -> Any:
    """The language model under ``models: {name: ...}``. Raises ``ConfigError`` if there is none, or if ``name`` is none of lm, judge."""
    from rag import config as configuration
    from rag.errors import ConfigError

    if name not in ("lm", "judge"):
        raise ConfigError(f"--lm {name!r}: allowed are lm, judge")
    loaded = configuration.load(config)
    if name not in loaded.models:
        raise ConfigError(f"there is no models.{name} in the configuration; add `models: {{{name}: {{use: openai, model: ...}}}}`")
    return configuration.Assembly(loaded).model(name)


def _show(measure: CheckedMeasure) -> None:
    from rich.table import Table

    from rag.terminal import out

    verdict = "trusted" if measure.is_trusted else "NOT trusted"
    out.print(f"\n[bold]{measure.measure}[/]: {verdict}: {'; '.join(measure.why)}")
    numbers = Table("", "value", "95 % interval", box=None)
    for name in ("agreement", "kappa", "weighted_kappa", "spearman"):
        found = getattr(measure, name)
        cells = (f"{found.mean:.3f}", f"{found.low:.3f} to {found.high:.3f}") if found else ("undefined", "")
        numbers.add_row(name.replace("_", " "), *cells)
    numbers.add_row("failed", f"{len(measure.failures)} of {measure.num_labelled}", "")
    out.print(numbers)
    table = Table("people \\ judge", *measure.classes, box=None)
    for name, row in zip(measure.classes, measure.confusion, strict=True):
        table.add_row(name, *map(str, row))
    out.print(table)
    for identity, reason in list(measure.failures.items())[:3]:
        out.print(f"  failed: {identity}: {reason}", style="dim", markup=False)
