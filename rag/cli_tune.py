"""The command ``rag tune``: the best configuration of a sweep, found with few evaluations. Knows typer; ``rag.eval.tune`` decides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rag.errors import RagError

if TYPE_CHECKING:
    from rag.eval.chain_report import ChainReport
    from rag.eval.tune_result import Tuning

BEST, RESULT, REPORT, PAGE, LEDGER, CACHE = "best.yaml", "tune.json", "report.json", "report.html", "evaluations.jsonl", "cache"
STANDING = "as it stands"
"""The configuration without its sweep: it is asked too, so that the result can say whether anything was gained on it."""


def tune(
    config: Annotated[Path, typer.Argument(help="YAML configuration with sweep: a mapping of dotted keys to lists of values.")],
    data: Annotated[Path, typer.Argument(help="Questions and documents, in any layout that rag eval chain reads.")],
    minutes: Annotated[float | None, typer.Option("--minutes", help="Begin nothing that would end later than this.")] = None,
    evaluations: Annotated[
        int | None, typer.Option("--evaluations", min=1, help="Ask at most so many questions, over all configurations.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for best.yaml, the report and what makes a second run go on.")] = Path(
        "tune"
    ),
    measure: Annotated[
        str | None, typer.Option("--measure", help="What to be best by, such as recall@select; default: recall at the last stage.")
    ] = None,
    answers: Annotated[bool, typer.Option("--answers/--no-answers", help="Generate answers, or end at the stage select.")] = True,
    seed: Annotated[int, typer.Option("--seed", help="Of the order of the questions, and of the intervals.")] = 0,
) -> None:
    """Find the best values of a configuration's sweep: lists, within a budget, on your own questions."""
    from rich.console import Console

    from rag import sweep, terminal
    from rag.eval.tune import tune as search
    from rag.eval.tune_page import tuning_table

    raw = sweep.read(config)
    configs = {each.name: each.raw for each in sweep.expand(raw)}
    base = {key: value for key, value in raw.items() if key != sweep.KEY}
    baseline = next((name for name, each in configs.items() if each == base), STANDING)
    configs.setdefault(baseline, base)
    ids, evaluate = evaluation(data, out / CACHE, answers=answers, seed=seed)
    out.mkdir(parents=True, exist_ok=True)

    def progress(said: str) -> None:
        terminal.err.print(said, style="dim", markup=False)

    try:
        found = search(
            configs, ids, evaluate, baseline=baseline, measure=measure, evaluations=evaluations, minutes=minutes, seed=seed,
            ledger=out / LEDGER, on_progress=progress,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise RagError(f"interrupted; what was measured is kept in {out}, and the same command goes on from there") from None
    write(found, out)
    wide = Console(width=max(terminal.out.width, 160), highlight=False)  # a table that wraps cannot be read
    wide.print(tuning_table(found), soft_wrap=True)
    for sentence in found.words():
        terminal.out.print(f"- {sentence}", markup=False)
    terminal.out.print(f"wrote {out / BEST}, {out / RESULT}, {out / REPORT} and {out / PAGE}", markup=False)


def evaluation(data: Path, cache: Path, *, answers: bool, seed: int) -> tuple[list[str], Any]:
    """The ids of the questions in ``data``, and what evaluates configurations on some of them (``rag.eval.tune.Evaluate``)."""
    from rag import terminal
    from rag.eval.chain import evaluate_chain
    from rag.eval.read_questions import read_questions

    given = read_questions(data)
    by_id = {question.id: question for question in given.questions}

    def step(progress: Any) -> None:
        if terminal.err.is_terminal:
            terminal.err.print(
                f"{progress.config}: {progress.num_done} of {progress.num_questions}", style="dim", markup=False, end="\r"
            )

    def evaluate(configs: Mapping[str, Mapping[str, Any]], questions: Sequence[str]) -> ChainReport:
        some = given.some([by_id[name] for name in questions])
        made: ChainReport = evaluate_chain(some, configs, on_progress=step, cache_folder=cache, seed=seed, answers=answers)
        return made

    return list(by_id), evaluate


def write(tuning: Tuning, folder: Path) -> None:
    """The advised configuration as YAML, the result and the last report as JSON, and the page."""
    from rag.eval.html_report import write_html
    from rag.eval.tune_page import tuning_section

    (folder / BEST).write_text(best_yaml(tuning), encoding="utf-8")
    (folder / RESULT).write_text(json.dumps(tuning.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    tuning.report.save(folder / REPORT)
    write_html(tuning.report, folder / PAGE, [tuning_section(tuning)])


def best_yaml(tuning: Tuning) -> str:
    """The advised configuration, ready for ``--config``, with what was found as a comment. ``${env:NAME}`` stays as written."""
    import yaml

    said = [f"# {' '.join(sentence.split())}" for sentence in tuning.words()]
    return "\n".join(said) + "\n" + yaml.safe_dump(tuning.configs[tuning.advised], sort_keys=False, allow_unicode=True)
