"""The project's own reader: reads well with everything computed, loses when chunks are taken as they were encoded alone, and methods mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.kv_quality import FOLDER, Reader, table
from rag import Rag
from rag.eval.kvquality import Quality

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


def test_the_example_answers_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE.parents[1])
    rag = Rag.open(tmp_path / "reader.index", EXAMPLE / "rag.yaml")
    rag.ingest(sorted(EXAMPLE.glob("*.txt")))
    answer = rag.ask("What does Cairo sell?")
    assert "peaches" in answer.text
    assert answer.usage.cached_tokens > 50 and answer.usage.recomputed_tokens > 0
