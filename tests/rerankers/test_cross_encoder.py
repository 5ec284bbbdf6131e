"""The cross-encoder reranker, against sentence-transformers' own scores of a tiny random BERT."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag.core import Chunk, Document, Hit, Span
from rag.errors import ModelError
from rag.rerankers.cross_encoder import CrossEncoderReranker
from tests.tiny_models import save_cross_encoder

TEXTS = ["the tower is 330 metres tall", "ducks and swans live by the water", "the bridge was opened in 1932", "yes no maybe " * 60]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(tmp_path_factory.mktemp("bert"))


def hits(texts: list[str], context: str = "") -> list[Hit]:
    found = []
    for text in texts:
        document = Document(Document.id_of(text), text, text)
        found.append(Hit(Chunk.of(document, Span(0, len(text)), context), 0.5))
    return found


def test_scores_are_the_models_and_sort_the_hits(folder: Path) -> None:
    from sentence_transformers import CrossEncoder

    ranked = CrossEncoderReranker(str(folder), batch_size=2, device="cpu").rerank("the river", hits(TEXTS, "city"))
    expected = CrossEncoder(str(folder), device="cpu").predict(
        [("the river", f"city\n{text}") for text in TEXTS], show_progress_bar=False
    )
    assert {hit.chunk.text: hit.score for hit in ranked} == pytest.approx(
        dict(zip(TEXTS, map(float, expected), strict=True)), abs=1e-5
    )
    assert [hit.score for hit in ranked] == sorted((hit.score for hit in ranked), reverse=True)
    assert len({round(hit.score, 4) for hit in ranked}) > 1
    assert [hit.why["cross-encoder"].rank for hit in ranked] == [1, 2, 3, 4]


def test_nothing_is_loaded_for_no_hits() -> None:
    reranker = CrossEncoderReranker("/no/such/folder")
    assert reranker.rerank("x", []) == []
    with pytest.raises(ModelError, match="no/such/folder"):
        reranker.rerank("x", hits(TEXTS))


def test_a_model_with_several_outputs_is_refused(tmp_path: Path) -> None:
    reranker = CrossEncoderReranker(str(save_cross_encoder(tmp_path, num_labels=3)), device="cpu")
    with pytest.raises(ModelError, match="one is needed"):
        reranker.rerank("x", hits(TEXTS))


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"max_length_tokens": 1}])
def test_bad_options_are_named(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        CrossEncoderReranker("x", **options)  # type: ignore[arg-type]
