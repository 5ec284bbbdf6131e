"""Every command of evaluation and tuning says by its exit code what went wrong: 2 for the call, the configuration or the questions."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rag.cli import main

LIGHT = "models: {tokenizer: {use: words}}\nindexes: {words: {use: bm25}}\nchunker: {use: fixed}\n"
QUESTION = {"id": "q", "question": "What do ducks eat?", "evidence": [{"source": "ducks.txt", "text": "Ducks eat weed."}]}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set" / "documents").mkdir(parents=True)
    (tmp_path / "set" / "documents" / "ducks.txt").write_text("Ducks swim.\n\nDucks eat weed.", encoding="utf-8")
    (tmp_path / "set" / "questions.jsonl").write_text(json.dumps(QUESTION) + "\n", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "questions.jsonl").write_text("{nonsense\n", encoding="utf-8")
    (tmp_path / "light.yaml").write_text(LIGHT, encoding="utf-8")
    (tmp_path / "sweep.yaml").write_text(LIGHT + "sweep: {select.k: [1, 2]}\n", encoding="utf-8")
    (tmp_path / "bad.yaml").write_text("indexes: {words: {use: bm52}}\n", encoding="utf-8")
    (tmp_path / "typo.yaml").write_text(LIGHT + "sweep: {selekt.k: [1, 2]}\n", encoding="utf-8")
    (tmp_path / "note.txt").write_text("no report", encoding="utf-8")
    return tmp_path


CHAIN = ("eval", "chain", "light.yaml")
TUNE = ("tune", "sweep.yaml")
WRONG: list[tuple[str, ...]] = [
    (*CHAIN, "nowhere"),
    (*CHAIN, "empty"),
    (*CHAIN, "broken"),
    (*CHAIN, "note.txt"),
    (*CHAIN, "set", "--fail-under", "recall"),
    (*CHAIN, "set", "--fail-under", "nothing@answer=0.5"),
    (*CHAIN, "set", "--limit", "0"),
    (*CHAIN, "set", "--nonsense"),
    (*CHAIN, "set", "--out", "note.txt"),
    ("eval", "chain", "nowhere.yaml", "set"),
    ("eval", "chain", "bad.yaml", "set"),
    ("eval", "chain", "set", "set"),
    ("eval", "chain", "light.yaml,light.yaml", "set"),
    ("eval", "report", "nowhere.json"),
    ("eval", "report", "note.txt"),
    ("eval", "report", "set"),
    ("eval", "data", "check", "nowhere"),
    ("eval", "data", "check", "empty"),
    ("eval", "data", "check", "broken"),
    ("eval", "data", "mark", "nowhere", "out", "--config", "none.yaml"),
    ("eval", "data", "mark", "set", "out"),
    ("eval", "data", "mark", "set", "out", "--config", "none.yaml"),
    ("eval", "judge", "nowhere"),
    ("eval", "synth", "nowhere", "out"),
    ("eval", "beir", "nowhere"),
    ("eval", "beir", "note.txt"),
    ("eval", "chunking", "nowhere"),
    ("eval", "chunking", "note.txt"),
    ("eval", "sections", "nowhere"),
    (*TUNE, "nowhere"),
    (*TUNE, "empty"),
    (*TUNE, "broken"),
    (*TUNE, "set", "--measure", "nothing"),
    (*TUNE, "set", "--minutes", "0"),
    (*TUNE, "set", "--evaluations", "1"),
    ("tune", "light.yaml", "set"),
    ("tune", "typo.yaml", "set"),
    ("tune", "nowhere.yaml", "set"),
    ("tune", "set", "set"),
]


def code_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rag", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_a_wrong_call_is_2(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert code_of(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert "rror" in said and "Traceback" not in said


def test_what_is_done_is_0_and_what_is_below_a_target_is_1(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (*CHAIN, "set", "--no-answers")
    assert code_of(monkeypatch, *whole, "--fail-under", "recall@select=0.5") == 0
    assert code_of(monkeypatch, *whole, "--fail-under", "recall@select=1.5") == 1
    assert code_of(monkeypatch, "eval", "data", "check", "set") == 0


@pytest.mark.parametrize("arguments", [(*CHAIN, "set"), (*TUNE, "set")], ids=" ".join)
def test_an_interrupt_is_1(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rag.eval.chain._configured", interrupt)
    assert code_of(monkeypatch, *arguments) == 1
    assert "the same command goes on from there" in " ".join(capsys.readouterr().err.split())
