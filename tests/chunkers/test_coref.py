"""What pronouns stand for, in the context of chunks."""

from __future__ import annotations

import logging
import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rag.chunkers.coref import CorefChunker
from rag.chunkers.fixed import FixedChunker
from rag.config import Assembly, load
from rag.core import Document, Span
from rag.coref import FastcorefResolver
from rag.errors import ConfigError, ModelError
from rag.tokenizer import WordTokenizer
from tests.fakes import ParagraphChunker, SameWordResolver

WORDS = WordTokenizer()
TEXT = "Dr. Jane\nSmith built a drone.\n\nShe flew it home. She loved it.\n\nThen Dr. Smith sold it, because she was old.\n\nNobody spoke."


class Fixed:
    """Two clusters: the doctor and the drone."""

    def clusters(self, text: str) -> list[list[Span]]:
        names = [[r"Dr. Jane\nSmith", r"Dr. Smith", r"\b[Ss]he\b"], [r"a drone", r"\bit\b"]]
        return [[Span(*match.span()) for name in cluster for match in re.finditer(name, text)] for cluster in names]


def contexts(resolver: Any = None, **options: Any) -> list[str]:
    chunker = CorefChunker(WORDS, resolver or Fixed(), ParagraphChunker(), **options)
    return [chunk.context for chunk in chunker.chunk(Document("id", "source", TEXT))]


def test_pronouns_are_explained_unless_the_chunk_does() -> None:
    assert contexts() == ["", "she = Dr. Jane Smith; it = a drone", "it = a drone", ""]


def test_spans_and_texts_stay() -> None:
    document = Document("id", "source", TEXT)
    inner = ParagraphChunker().chunk(document)
    outer = CorefChunker(WORDS, Fixed(), ParagraphChunker()).chunk(document)
    assert [(chunk.span, chunk.text) for chunk in outer] == [(chunk.span, chunk.text) for chunk in inner]
    assert outer[0] == inner[0] and outer[1].id != inner[1].id


def test_what_does_not_fit_is_left_out() -> None:
    assert contexts(max_context_tokens=8)[1] == "she = Dr. Jane Smith"
    assert contexts(max_context_tokens=3)[1] == ""
    with pytest.raises(ValueError, match="max_context_tokens=0: must be at least 1"):
        contexts(max_context_tokens=0)


def test_a_clause_is_no_name() -> None:
    class Long(Fixed):
        def clusters(self, text: str) -> list[list[Span]]:
            return [[Span(0, 65), Span(text.index("She"), text.index("She") + 3)]]

    assert contexts(Long()) == ["", "", "", ""]


def test_nothing_is_resolved_for_nothing() -> None:
    class Never:
        def clusters(self, text: str) -> list[list[Span]]:
            raise AssertionError

    assert CorefChunker(WORDS, Never(), FixedChunker(WORDS)).chunk(Document("id", "source", " \n")) == []


def test_a_configuration_nests_it() -> None:
    config = load({"models": {"tokenizer": {"use": "words"}}, "chunker": {"use": "coref", "chunker": {"use": "sentence"}}})
    chunker = Assembly(config, {"resolver": SameWordResolver()}).build("chunker", "chunker", config.chunker)
    assert [chunk.context for chunk in chunker.chunk(Document("id", "source", TEXT))] == [""]  # one chunk, and it has the name
    with pytest.raises(ConfigError, match=r"needs a model: add `models: \{resolver"):
        Assembly(config).build("chunker", "chunker", config.chunker)


@pytest.fixture
def fastcoref(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stands in for the package: the first and the third word are one, and every import turns the log on."""

    class FCoref:
        def __init__(self, model: str, device: str, nlp: object, enable_progress_bar: bool) -> None:
            assert nlp is None and not enable_progress_bar

        def predict(self, texts: list[list[str]], is_split_into_words: bool) -> list[SimpleNamespace]:
            assert is_split_into_words
            self.words = texts[0]
            return [SimpleNamespace(get_clusters=lambda as_strings: [[(0, 1), (2, 4), None]])]

    package = ModuleType("fastcoref")
    package.FCoref = FCoref  # type: ignore[attr-defined]
    modeling = ModuleType("fastcoref.coref_models.modeling_fcoref")
    modeling.FCorefModel = type("FCorefModel", (), {})  # type: ignore[attr-defined]
    datasets = ModuleType("datasets")
    datasets.disable_progress_bars = lambda: None  # type: ignore[attr-defined]
    for module in (package, modeling, datasets):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "fastcoref.coref_models", ModuleType("fastcoref.coref_models"))

    def imported(name: str) -> ModuleType:
        logging.getLogger().setLevel(logging.INFO)
        logging.getLogger().addHandler(logging.NullHandler())
        return import_module(name)

    monkeypatch.setattr("rag.coref.import_module", imported)
    return package


def test_fastcoref_answers_in_characters(tmp_path: Path, fastcoref: ModuleType) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = logging.getLogger().level, list(logging.getLogger().handlers)
    resolver = FastcorefResolver(str(tmp_path))
    text = "It\n(the  old duck) swam."
    assert [[span.of(text) for span in cluster] for cluster in resolver.clusters(text)] == [["It", "the  old"]]
    assert resolver.clusters(" ") == []
    assert (logging.getLogger().level, logging.getLogger().handlers) == before


def test_fastcoref_needs_a_folder_and_the_package(tmp_path: Path, fastcoref: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="not a local folder"):
        FastcorefResolver("biu-nlp/f-coref")
    (tmp_path / "config.json").write_text("{}")

    def broken(*arguments: Any, **options: Any) -> None:
        raise KeyError("weights")

    fastcoref.FCoref = broken  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="cannot be loaded"):
        FastcorefResolver(str(tmp_path))
    monkeypatch.setitem(sys.modules, "fastcoref", None)
    with pytest.raises(ModelError, match="pip install fastcoref"):
        FastcorefResolver(str(tmp_path))
