from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.rerankers.likeness import vectors_of
from rag.rerankers.mmr import MMRSelector
from rag.rerankers.worth import unit_scores
from rag.tokenizer import WordTokenizer
from tests.fakes import HashingEncoder
from tests.rerankers.hit_lists import hits_of, numbers_in

TEXTS = st.lists(
    st.lists(st.sampled_from(["tower", "bridge", "river", "stone", "iron", "arch"]), min_size=1, max_size=6).map(" ".join),
    min_size=1,
    max_size=9,
)


def test_a_repetition_comes_after_something_new() -> None:
    hits = hits_of("The iron tower is tall.", "Iron tower, tall, the.", "A river runs north.", scores=[1.0, 0.9, 0.8])
    ranked = MMRSelector(relevance=0.5).rerank("tower", hits)
    assert numbers_in(ranked, hits) == [0, 2, 1]
    assert [hit.score for hit in ranked] == pytest.approx([0.5, 0.0, 0.25 - 0.5])
    assert numbers_in(MMRSelector(relevance=1.0).rerank("tower", hits), hits) == [0, 1, 2]


@settings(deadline=None)
@given(TEXTS, st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.randoms(use_true_random=False))
def test_every_step_takes_the_greatest_value(texts: list[str], relevance: float, drawn: object) -> None:
    scores = [drawn.uniform(-3, 3) for _ in texts]  # type: ignore[attr-defined]
    hits = hits_of(*texts, scores=scores)
    ranked = MMRSelector(relevance=relevance, k=None, max_tokens=10_000, tokenizer=WordTokenizer()).rerank("q", hits)
    matrix = vectors_of("q", texts).texts
    own = unit_scores(hits)
    taken: list[int] = []
    for hit in ranked:
        left = [n for n in range(len(hits)) if n not in taken]
        values = {
            n: relevance * own[n] - (1 - relevance) * max([0.0, *(float(matrix[n] @ matrix[t]) for t in taken)]) for n in left
        }
        (number,) = numbers_in([hit], hits)
        assert values[number] == pytest.approx(max(values.values()), abs=1e-6)
        assert hit.score == pytest.approx(values[number], abs=1e-6)
        taken.append(number)
    assert len(taken) == len(hits)
    assert np.all(np.diff([hit.score for hit in ranked]) <= 0)


def test_number_and_tokens_both_end_it() -> None:
    hits = hits_of("one two three", "four five six seven", "eight")
    assert numbers_in(MMRSelector(WordTokenizer(), max_tokens=4).rerank("q", hits), hits) == [0, 2]
    assert len(MMRSelector(k=1).rerank("q", hits)) == 1
    assert numbers_in(MMRSelector(WordTokenizer(), max_tokens=1, k=2).rerank("q", hits[:2]), hits) == [0]


def test_by_an_encoder() -> None:
    encoder = HashingEncoder()
    hits = hits_of("iron tower", "iron tower", "river", scores=[1.0, 0.9, 0.8])
    assert numbers_in(MMRSelector(encoder=encoder, by="encoder", relevance=0.5).rerank("q", hits), hits) == [0, 2, 1]
    assert encoder.num_texts_encoded == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relevance": 1.5}, "relevance=1.5"),
        ({"k": 0}, "k=0"),
        ({"k": None}, "k and max_tokens are both missing"),
        ({"max_tokens": 5}, "max_tokens=5: needs a tokenizer"),
        ({"by": "sound"}, "by='sound'"),
        ({"by": "encoder"}, "needs an encoder"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MMRSelector(**options)  # type: ignore[arg-type]
