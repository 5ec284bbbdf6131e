"""Late interaction over any candidates, against loops over token pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.core import Chunk, Document, Hit, Span
from rag.errors import ModelError
from rag.rerankers.maxsim import MaxSimReranker, stretched, summed_maxima, token_maxima
from tests.fakes import HashingTokenEncoder

TEXTS = ["the tower is tall", "ducks live by the water", "a tall tower by the water", "nothing of that"]


def hits(texts: Sequence[str]) -> list[Hit]:
    found = []
    for number, text in enumerate(texts):
        document = Document(Document.id_of(str(number)), str(number), text)
        found.append(Hit(Chunk.of(document, Span(0, len(text))), 10.0 - number))
    return found


def shared(query: str, text: str) -> float:
    """Share of the query's words that stand in the text: what MaxSim is when equal words have equal vectors and others are apart."""
    words = re.findall(r"\w+", query)
    return sum(word in text.split() for word in words) / len(words)


def test_the_score_is_the_mean_of_the_largest_cosines() -> None:
    encoder = HashingTokenEncoder(4096)
    query = "tall tower by the lake"
    ranked, report = MaxSimReranker(encoder, batch_size=3).rerank_with_report(query, hits(TEXTS))
    (asked,) = encoder.encode_queries([query])
    for hit in ranked:
        (passage,) = encoder.encode_documents([hit.chunk.text])
        slow = np.mean([max(float(a @ b) for b in passage) for a in asked])
        assert hit.score == pytest.approx(slow, abs=1e-6)
        assert hit.score == pytest.approx(shared(query, hit.chunk.text), abs=0.08)
    assert [hit.chunk.text for hit in ranked] == sorted(TEXTS, key=lambda text: -shared(query, text))
    assert (report.num_calls, report.num_prompts, report.prompt_tokens) == (3, 5, 5 + sum(len(text.split()) for text in TEXTS))


def test_scores_do_not_grow_with_the_query() -> None:
    encoder = HashingTokenEncoder()
    (score,) = (hit.score for hit in MaxSimReranker(encoder).rerank("the tower is tall", hits(TEXTS[:1])))
    (doubled,) = (hit.score for hit in MaxSimReranker(encoder).rerank("the tower is tall the tower is tall", hits(TEXTS[:1])))
    assert score == pytest.approx(doubled) == pytest.approx(1.0, abs=1e-5)


def test_a_blend_lies_between_its_parts() -> None:
    given = hits(TEXTS)
    own = {hit.chunk.id: hit.score for hit in MaxSimReranker(HashingTokenEncoder()).rerank("tall tower water", given)}
    blended = MaxSimReranker(HashingTokenEncoder(), weight=0.25).rerank("tall tower water", given)
    parts = zip(stretched([own[hit.chunk.id] for hit in given]), stretched([hit.score for hit in given]), strict=True)
    expected = {hit.chunk.id: 0.25 * a + 0.75 * b for hit, (a, b) in zip(given, parts, strict=True)}
    assert {hit.chunk.id: hit.score for hit in blended} == pytest.approx(expected)
    assert [hit.chunk.id for hit in blended] != list(own)


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"weight": 1.5}, {"batch_size": 0}])
def test_bad_options_are_named(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        MaxSimReranker(HashingTokenEncoder(), **options)  # type: ignore[arg-type]


class Broken(HashingTokenEncoder):
    def encode_queries(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        return [np.full((1, 64), np.nan, np.float32) for _ in texts]


def test_vectors_that_are_not_finite_are_named() -> None:
    with pytest.raises(ModelError, match="not finite"):
        MaxSimReranker(Broken()).rerank("q", hits(TEXTS))


def test_maxima_are_those_of_every_pair_of_tokens() -> None:
    drawn = np.random.default_rng(0)
    query, *passages = (drawn.standard_normal((length, 8), np.float32) for length in (5, 1, 9, 4))
    expected = np.stack([(query @ passage.T).max(axis=1) for passage in passages], axis=1)
    np.testing.assert_allclose(token_maxima(query, passages), expected, rtol=1e-6)
    error = 1e-6 * np.abs(expected).sum(axis=0).max()  # of the terms: some sums are nearly nothing
    np.testing.assert_allclose(summed_maxima(query, passages), expected.sum(axis=0), rtol=1e-6, atol=error)
