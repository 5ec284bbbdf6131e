"""The project's own reader: reads well with everything computed, loses when chunks are taken as they were encoded alone, and methods mend it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.kv_quality import FOLDER, Reader, table
from rag import Rag
from rag.cli import app
from rag.eval.kvquality import Quality
from rag.eval.reader.tasks import Place

EXAMPLE = Path(__file__).parents[2] / "examples" / "reader"
NUM_QUESTIONS = 90
METHODS = [("full", 1.0), ("reuse", 0.0), ("first-k", 0.3), ("lot", 0.3)]


@pytest.fixture(scope="module")
def quality() -> Quality:
    return table(Reader(FOLDER / "reader"), NUM_QUESTIONS, (3, 6), METHODS, first_seed=7_000_000)


def test_the_reader_tells_methods_apart(quality: Quality) -> None:
    full, reuse, first, lot = (sum(quality.correct[method]) / NUM_QUESTIONS for method in METHODS)
    assert full >= 0.9
    assert reuse <= full - 0.15
    assert first >= reuse + 0.1 and first >= lot


def test_kl_is_nothing_for_the_full_prefill_and_falls_with_recomputation(quality: Quality) -> None:
    kl = {method: sum(each.kl_nats for each in quality.answered[method]) for method in METHODS}
    assert kl["full", 1.0] < 1e-3 < kl["first-k", 0.3] < kl["reuse", 0.0]


def test_budgets_are_kept(quality: Quality) -> None:
    for each in quality.answered["first-k", 0.3]:
        assert abs(each.num_chosen - 0.3 * each.num_reused) <= 1


@pytest.mark.parametrize("carried_at", ["start", "middle"])
def test_the_block_tuned_twin_needs_nothing_computed_anew(carried_at: Place) -> None:
    methods = [("full", 1.0), ("block", 0.0)]
    quality = table(Reader(FOLDER / "reader-block", "bare"), NUM_QUESTIONS, (3, 6), methods, 7_000_000, carried_at)
    full, block = (sum(quality.correct[method]) / NUM_QUESTIONS for method in methods)
    assert full >= 0.95 and block >= full - 0.02
    by_kind = next(row.by_kind for row in quality.rows() if row.method == "block")
    assert by_kind["cross-chunk"] >= 0.9, "the questions that chunks encoded alone cannot answer"
    assert all(each.num_chosen == 0 < each.num_reused for each in quality.answered["block", 0.0])


@pytest.mark.parametrize("config", ["rag.yaml", "block.yaml"])
def test_the_example_answers_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str) -> None:
    monkeypatch.chdir(EXAMPLE.parents[1])
    rag = Rag.open(tmp_path / "reader.index", EXAMPLE / config)
    rag.ingest(sorted(EXAMPLE.glob("*.txt")))
    answer = rag.ask("What does Cairo sell?")
    assert "peaches" in answer.text
    assert answer.usage.cached_tokens > 50 and (answer.usage.recomputed_tokens > 0) == (config == "rag.yaml")


def test_the_command_answers_by_the_twin_over_an_index_of_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE.parents[1])
    Rag.open(tmp_path / "reader.index", EXAMPLE / "rag.yaml").ingest(sorted(EXAMPLE.glob("*.txt")))
    twin = ["--kv", "block", "--lm", str(FOLDER / "reader-block"), "--index", str(tmp_path / "reader.index")]
    for question, value in (("Which pet does Selma Kern keep?", "mouse"), ("Who is the mentor of Alba Zimmer?", "Rahel Turner")):
        first, again = (CliRunner().invoke(app, ["ask", question, *twin, "--json"]) for _ in range(2))
        assert first.exit_code == again.exit_code == 0, first.output
        told = json.loads(again.stdout)
        assert value in told["text"], "a fact whose subject stands at the end of the page before"
        assert json.loads(first.stdout)["text"] == told["text"], "computed, then from the cache"
        assert told["usage"]["cached_tokens"] > 100 and told["usage"]["recomputed_tokens"] == 0
    assert "0 of them computed anew" in CliRunner().invoke(app, ["ask", question, *twin]).output


def test_the_check_passes_the_twin_and_fails_weights_that_were_not_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE.parents[1])
    Rag.open(tmp_path / "reader.index", EXAMPLE / "rag.yaml").ingest(sorted(EXAMPLE.glob("*.txt")))
    questions = ("Which pet does Selma Kern keep?", "Who is the mentor of Alba Zimmer?", "What does Cairo sell?")
    (tmp_path / "asked.txt").write_text("\n".join(questions))
    asked = ["--kv", "block", "--questions", str(tmp_path / "asked.txt"), "--index", str(tmp_path / "reader.index"), "--json"]
    for name, passes in (("reader-block", True), ("reader", False)):
        done = CliRunner().invoke(app, ["kv", "check", *asked, "--lm", str(FOLDER / name)])
        (row,) = json.loads(done.stdout)["measured"]
        assert (row["passes"], done.exit_code) == (passes, 0 if passes else 1)
