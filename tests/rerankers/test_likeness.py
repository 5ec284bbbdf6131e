from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.rerankers.likeness import check_by, cosines, terms, vectors_of
from tests.fakes import HashingEncoder


def reference(texts: list[str]) -> list[list[float]]:
    """TF-IDF cosines with all columns, term by term."""
    counted = [{term: terms(text).count(term) for term in terms(text)} for text in texts]
    held = {term: sum(term in counts for counts in counted) for counts in counted for term in counts}
    weighted = [
        {term: (1 + math.log(n)) * (math.log((1 + len(texts)) / (1 + held[term])) + 1) for term, n in counts.items()}
        for counts in counted
    ]
    lengths = [math.sqrt(sum(w * w for w in weights.values())) or 1.0 for weights in weighted]
    return [
        [
            sum(one[t] * other.get(t, 0.0) for t in one) / (lengths[i] * lengths[j]) if i != j else 1.0
            for j, other in enumerate(weighted)
        ]
        for i, one in enumerate(weighted)
    ]


WORDS = st.lists(st.sampled_from(["tower", "bridge", "river", "stone", "330", "東京都", "京都"]), max_size=8).map(" ".join)


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=6), WORDS)
def test_cosines_by_words_equal_the_plain_sums(texts: list[str], query: str) -> None:
    vectors = vectors_of(query, texts)
    found = cosines(vectors.texts)
    assert np.allclose(found, reference(texts), atol=1e-5)
    assert np.all(vectors.texts @ vectors.query <= 1 + 1e-5)


def test_the_question_is_compared_too() -> None:
    vectors = vectors_of("How tall is the tower?", ["A tall tower.", "A wide river.", "Towers, towers."])
    near = vectors.texts @ vectors.query
    assert near[0] > near[2] > near[1] == 0.0


def test_texts_without_words_are_like_nothing_but_themselves() -> None:
    assert cosines(vectors_of("q", ["", "the of", "tower"]).texts).tolist() == np.eye(3).tolist()


def test_an_encoder_is_called_once() -> None:
    encoder = HashingEncoder()
    found = vectors_of("tower", ["a tower", "a river"], "encoder", encoder)
    assert found.texts.shape == (2, 64) and encoder.num_texts_encoded == 2


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ValueError, match="by='meaning': allowed: words, encoder"):
        check_by("meaning", None)
    with pytest.raises(ValueError, match="by='encoder': needs an encoder"):
        check_by("encoder", None)
