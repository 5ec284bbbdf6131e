"""`rag tune`: what it writes, what it says, and that it goes on after an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from rag import cli, cli_tune, config
from rag.eval.chain_report import ChainReport
from tests.eval.generated_report import generated_report

SWEPT = """
models: {tokenizer: {use: words}}
chunker: {use: fixed}
indexes: {words: {use: bm25}}
generator: {use: extractive}
sweep:
  chunker.max_tokens: [16, 64]
  select: [{use: top, k: 1}, {use: top, k: 4}]
"""
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs the command line in ``tmp_path``; exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rag.yaml").write_text(SWEPT)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["rag", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], int]]:
    """Generated reports in place of the chain; the calls that were made."""
    made = generated_report(40, 4, answers=False)
    calls: list[tuple[list[str], int]] = []

    def evaluate(configs: Mapping[str, Mapping[str, Any]], questions: Sequence[str]) -> ChainReport:
        calls.append((list(configs), len(questions)))
        chosen = [
            made.configs[len(name) % 4].model_copy(update={"name": name, "config": dict(raw)}) for name, raw in configs.items()
        ]
        kept = [each.model_copy(update={"questions": [q for q in each.questions if q.id in set(questions)]}) for each in chosen]
        return made.model_copy(update={"configs": kept, "num_questions": len(questions), "baseline": None, "comparisons": []})

    def evaluation(data: Path, cache: Path, *, answers: bool, seed: int) -> tuple[list[str], Any]:
        return [question.id for question in made.configs[0].questions], evaluate

    monkeypatch.setattr(cli_tune, "evaluation", evaluation)
    return calls


def test_it_writes_a_configuration_a_result_a_report_and_a_page(command: Command, evaluated: list[Any], tmp_path: Path) -> None:
    code, said, _ = command("tune", "rag.yaml", "questions", "--out", "found", "--seed", "3")
    assert code == 0 and "Best of 5 configurations by recall at the stage prompt" in said
    found = json.loads((tmp_path / "found" / "tune.json").read_text())
    best = yaml.safe_load((tmp_path / "found" / "best.yaml").read_text())
    assert best == found["configs"][found["best"]] and "sweep" not in best
    assert config.load(tmp_path / "found" / "best.yaml").chunker.use == "fixed"
    assert (tmp_path / "found" / "best.yaml").read_text().startswith("# Best of 5 configurations")
    assert ChainReport.load(tmp_path / "found" / "report.json").num_questions == found["rungs"][-1]["num_questions"]
    page = (tmp_path / "found" / "report.html").read_text()
    assert "How the configuration was found" in page and "select=top(k=4) max_tokens=64" in page
    calls = len(evaluated)
    assert command("tune", "rag.yaml", "questions", "--out", "found", "--seed", "3")[0] == 0
    assert len(evaluated) <= calls + 1  # only the last report is asked for again
    code, _, error = command("tune", "rag.yaml", "questions", "--out", "found", "--seed", "4")
    assert code == 2 and "holds a tuning of other configurations, questions or settings; choose another --out" in error


def test_an_interrupt_is_one_line_and_keeps_what_was_measured(
    command: Command, evaluated: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inner = cli_tune.evaluation(Path("x"), Path("y"), answers=True, seed=0)

    def interrupted(data: Path, cache: Path, *, answers: bool, seed: int) -> tuple[list[str], Any]:
        def evaluate(configs: Any, questions: Any) -> ChainReport:
            if len(evaluated) == 1:
                raise KeyboardInterrupt
            found: ChainReport = inner[1](configs, questions)
            return found

        return inner[0], evaluate

    monkeypatch.setattr(cli_tune, "evaluation", interrupted)
    code, _, error = command("tune", "rag.yaml", "questions", "--out", "found")
    assert code == 1 and "error: interrupted; what was measured is kept in found, and the same command goes on from there" in error
    assert len((tmp_path / "found" / "evaluations.jsonl").read_text().splitlines()) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tune", "none.yaml", "questions"], "error: cannot read the configuration none.yaml"),
        (["tune", "plain.yaml", "questions"], "error: sweep: is missing; for example sweep: {chunker.max_tokens: [128, 256]}"),
        (
            ["tune", "rag.yaml", "questions", "--evaluations", "3"],
            "error: evaluations: 3; 2 configurations at 10 questions need 20",
        ),
        (
            ["tune", "rag.yaml", "questions", "--measure", "recall@promt"],
            "has no measure 'recall@promt' (did you mean 'recall@prompt'?)",
        ),
    ],
)
def test_misuse_is_one_clear_line(
    command: Command, evaluated: list[Any], tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "plain.yaml").write_text("chunker: {use: fixed}\n")
    code, _, error = command(*arguments)
    assert code == 2 and message in error and "Traceback" not in error


def test_the_real_chain_is_tuned(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("rag.eval.chain")
    lines = [
        f"Station {number} is painted in colour number {number * 7}. It opened long ago and few people go there today."
        for number in range(24)
    ]
    (tmp_path / "set" / "documents").mkdir(parents=True)
    (tmp_path / "set" / "documents" / "stations.txt").write_text("\n\n".join(lines))
    questions = [
        {"id": str(n), "question": f"What colour number is station {n} painted in?", "evidence": [{"source": "stations.txt", "text": f"Station {n} is painted in colour number {n * 7}."}]}
        for n in range(24)
    ]  # fmt: skip
    (tmp_path / "set" / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    code, said, error = command("tune", "rag.yaml", "set", "--out", "found", "--no-answers", "--evaluations", "96")
    assert code == 0, error
    found = json.loads((tmp_path / "found" / "tune.json").read_text())
    assert found["num_evaluations"] <= 96 and found["measure"] == "recall@select"
    assert "k=1" not in found["best"] and "max_tokens" in said and found["baseline"] == "as it stands"
    assert json.loads((tmp_path / "found" / "report.json").read_text())["configs"]
