"""``rag eval synth``: arguments in, a test set out. Knows typer; ``rag.eval.synth`` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def synth(
    index: Annotated[Path, typer.Argument(help="Folder of the index.")],
    out: Annotated[Path, typer.Argument(help="Folder of the test set; one that was begun is gone on with.")],
    lm: Annotated[
        str,
        typer.Option("--lm", help="none (heading and cloze questions), or the name of a model in the configuration: lm, judge."),
    ] = "lm",
    num_questions: Annotated[int, typer.Option("-n", "--questions", min=1, help="How many questions to keep.")] = 50,
    types: Annotated[str, typer.Option("--types", help="Types between commas; default: all.")] = "",
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="A question must bring its evidence back among so many hits.")] = 10,
    seed: Annotated[int, typer.Option(help="Decides which passages come first.")] = 0,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", envvar="RAG_CONFIG", help="YAML configuration; default: the index's own.")
    ] = None,
    corpus: Annotated[bool, typer.Option(help="Write the documents beside the questions.")] = True,
) -> None:
    """Make a test set from your own documents: questions with evidence, checked and counted."""
    from rag.errors import RagError
    from rag.eval.synth import Synthesis
    from rag.pipeline import Rag
    from rag.progress import progress_bar

    rag = Rag.open(index, config)
    _ = rag.catalog
    encoder = rag.components.model("encoder") if "encoder" in rag.config.models else None
    named = [name.strip() for name in types.split(",") if name.strip()]
    made = Synthesis(rag, out, _model(rag, lm), num_questions=num_questions, types=named, k=k, seed=seed, encoder=encoder)
    try:
        with progress_bar("questions kept") as on_progress:
            made.run(on_progress)
    except KeyboardInterrupt:
        raise RagError(
            f"interrupted; {len(made.store.questions)} questions are in {out}, the same command goes on from there"
        ) from None
    if corpus:
        made.write_corpus()
    _show(made.report(), out, num_questions, made_by=lm)


def _model(rag: Any, name: str) -> Any:
    """The named language model; ``None`` for ``none``. Raises ``ConfigError``."""
    from rag.errors import ConfigError

    if name == "none":
        return None
    if name not in ("lm", "judge"):
        raise ConfigError(f"--lm {name!r}: allowed are none, lm, judge")
    if name not in rag.config.models:
        raise ConfigError(
            f"there is no models.{name} in the configuration; add `models: {{{name}: {{use: openai, model: ...}}}}`, "
            "or say --lm none for heading and cloze questions"
        )
    return rag.components.model(name)


def _show(report: Any, out: Path, wanted: int, *, made_by: str) -> None:
    from rag.terminal import out as terminal

    kinds = ", ".join(f"{number} {kind}" for kind, number in report.by_type.items())
    terminal.print(f"{report.num_questions} questions in {out} ({kinds}), from {report.num_passages} passages", markup=False)
    for reason, number in report.dropped.items():
        terminal.print(f"  dropped: {number} {reason}", markup=False)
    if report.num_refused:
        terminal.print(f"  refused: {report.num_refused} clauses that no source holds word for word", markup=False)
    if report.num_questions < wanted:
        terminal.print(f"  fewer than {wanted}: the passages are used up", markup=False)
    if made_by == "none":
        terminal.print(
            "  These questions compare settings (heading ones better than cloze ones); "
            "they are no measure of answers to people's questions."
        )
