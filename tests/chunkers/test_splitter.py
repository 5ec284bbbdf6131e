"""Sentence splitters as models, and the chunkers that take one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from rag.chunkers.sentence import SentenceChunker
from rag.config import Assembly, Config, load
from rag.core import Document, Span
from rag.errors import ConfigError, ModelError
from rag.sentences import sentence_spans
from rag.splitter import NupunktSplitter, SatSplitter
from rag.tokenizer import WordTokenizer

TEXT = "so we met on monday  then we left\nand\r\n\n went home then slept "


class Sat:
    """Stands in for ``wtpsplit.SaT``: a sentence starts at every ``then``, and every blank stays where it was."""

    made: ClassVar[list[tuple[str, str]]] = []

    def __init__(self, model: str, tokenizer_name_or_path: str) -> None:
        self.made.append((model, tokenizer_name_or_path))

    def split(self, text: str, threshold: float | None, split_on_input_newlines: bool) -> list[str]:
        assert not split_on_input_newlines
        pieces = text.split("then") if threshold is None else [text]
        return [pieces[0], *(f"then{piece}" for piece in pieces[1:])]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    return tmp_path


@pytest.fixture
def wtpsplit(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    module = ModuleType("wtpsplit")
    module.SaT = Sat  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wtpsplit", module)
    Sat.made.clear()
    yield module


def test_nupunkt_is_what_everybody_gets() -> None:
    assert NupunktSplitter().spans("One. Two.\nThree") == sentence_spans("One. Two.\nThree")


def test_sat_gives_spans_of_the_text(folder: Path, wtpsplit: ModuleType) -> None:
    splitter = SatSplitter(str(folder))
    assert [span.of(TEXT) for span in splitter.spans(TEXT)] == [
        "so we met on monday",
        "then we left",
        "and",
        "went home",
        "then slept",
    ]
    assert splitter.spans(" \n") == []
    assert Sat.made == [(str(folder), str(folder))]


def test_a_threshold_is_handed_on(folder: Path, wtpsplit: ModuleType) -> None:
    assert len(SatSplitter(str(folder), threshold=0.5).spans(TEXT)) == 3  # only the lines
    with pytest.raises(ValueError, match="threshold=1: must be between 0 and 1"):
        SatSplitter(str(folder), threshold=1)


def test_lost_text_is_an_error(folder: Path, wtpsplit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sat, "split", lambda self, text, **options: [text[:5], text[8:]])
    with pytest.raises(ModelError, match="lost text near character 5"):
        SatSplitter(str(folder)).spans(TEXT)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer_config.json"])
def test_only_local_folders_with_a_model(folder: Path, wtpsplit: ModuleType, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=f"not a local folder with a {missing}"):
        SatSplitter(str(folder))
    with pytest.raises(ModelError, match="'sat-3l' is not a local folder"):
        SatSplitter("sat-3l")


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wtpsplit", None)
    with pytest.raises(ModelError, match="pip install wtpsplit"):
        SatSplitter(str(folder))


def test_a_model_that_cannot_be_loaded_is_named(folder: Path, wtpsplit: ModuleType) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise KeyError("xlm-token")

    wtpsplit.SaT = broken  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="cannot be loaded.*xlm-token"):
        SatSplitter(str(folder))


def test_the_sentence_chunker_asks_it_once() -> None:
    class Thens:
        asked: ClassVar[list[str]] = []

        def spans(self, text: str) -> list[Span]:
            self.asked.append(text)
            middle = text.index("then")
            return [Span(0, middle - 2), Span(middle, len(text) - 1)]

    splitter = Thens()
    chunks = SentenceChunker(WordTokenizer(), max_tokens=9, splitter=splitter).chunk(Document("id", "source", TEXT))
    assert [chunk.text for chunk in chunks] == ["so we met on monday", "then we left\nand\r\n\n went home then slept"]
    assert splitter.asked == [TEXT]


def test_a_configuration_hands_it_to_the_chunker() -> None:
    config = load({"models": {"splitter": {"use": "nupunkt"}, "tokenizer": {"use": "words"}}, "chunker": {"use": "sentence"}})
    assembly = Assembly(config)
    chunker = assembly.build("chunker", "chunker", config.chunker)
    assert isinstance(chunker.splitter, NupunktSplitter)
    assert Assembly(Config()).build("chunker", "chunker", load({"chunker": {"use": "sentence"}}).chunker).splitter is None


def test_a_splitter_needs_a_model_folder() -> None:
    config = load({"models": {"splitter": {"use": "sat"}}, "chunker": {"use": "sentence"}})
    with pytest.raises(ConfigError, match=r"models.splitter \(sat\): model: is required"):
        Assembly(config).build("chunker", "chunker", config.chunker)
