"""Fusion: the formulas by hand, the laws by hypothesis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.core import Chunk, Fusion, Hit, Interaction, Placed, Span
from rag.errors import ConfigError
from rag.registry import component, table
from rag.retrievers.fuse import ConvexFusion, Normalise, ReciprocalRankFusion

MEAN = (0.9 + 0.8 + 0.6) / 3
DEVIATION = math.sqrt(((0.9 - MEAN) ** 2 + (0.8 - MEAN) ** 2 + (0.6 - MEAN) ** 2) / 3)
FUSIONS = sorted(table()["fusion"])


def hits(stage: str, scores: dict[str, float]) -> list[Hit]:
    ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    chunks = [Chunk(name, "doc", Span(0, 1), "x") for name, _ in ordered]
    return [
        Hit(chunk, score, {stage: Placed(score, n)}) for n, (chunk, (_, score)) in enumerate(zip(chunks, ordered, strict=True), 1)
    ]


def fuse(word: str, rankings: dict[str, list[Hit]]) -> list[Hit]:
    """By a fusion with its defaults; the vectors of an index are its scores, ``(1, 1)`` each, 0 for what it has not found."""

    def vectors(index: str, wanted: Sequence[Hit]) -> Interaction:
        assert fusion.reads_vectors, "it says that it does not look behind the scores"
        known = {hit.chunk.id: hit.score for hit in rankings[index]}
        return Interaction(np.ones((1, 1), np.float32), [np.full((1, 1), known.get(hit.chunk.id, 0), np.float32) for hit in wanted])

    fusion: Fusion = component("fusion", word)()
    return fusion.fuse(rankings, vectors)


def scores_of(found: list[Hit]) -> dict[str, float]:
    return {hit.chunk.id: hit.score for hit in found}


def test_reciprocal_ranks_by_hand() -> None:
    rankings = {"dense": hits("dense", {"a": 0.9, "b": 0.8}), "sparse": hits("sparse", {"b": 12.0, "c": 3.0})}
    found = scores_of(ReciprocalRankFusion(k=60, weights={"sparse": 2}).fuse(rankings))
    assert found == pytest.approx({"b": 1 / 62 + 2 / 61, "c": 2 / 62, "a": 1 / 61})
    assert list(found) == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("normalise", "dense"),
    [
        ("theoretical", {"a": 1.0, "b": 0.8 / 0.9, "c": 0.6 / 0.9}),
        ("minmax", {"a": 1.0, "b": 0.2 / 0.3, "c": 0.0}),
        ("zscore", {"a": (0.9 - MEAN) / DEVIATION, "b": (0.8 - MEAN) / DEVIATION, "c": (0.6 - MEAN) / DEVIATION}),
    ],
)
def test_convex_by_hand(normalise: Normalise, dense: dict[str, float]) -> None:
    rankings = {"dense": hits("dense", {"a": 0.9, "b": 0.8, "c": 0.6})}
    assert scores_of(ConvexFusion(normalise=normalise).fuse(rankings)) == pytest.approx(dense)


def test_a_chunk_that_a_ranking_does_not_have_gets_its_floor() -> None:
    rankings = {"dense": hits("dense", {"a": 0.9, "b": 0.45}), "sparse": hits("sparse", {"c": 10.0, "a": 4.0})}
    found = scores_of(ConvexFusion(weights={"dense": 3, "sparse": 1}).fuse(rankings))
    assert found == pytest.approx({"a": 0.75 + 0.25 * 0.4, "b": 0.75 * 0.5 + 0.25 * 0.4, "c": 0.75 * 0.5 + 0.25})


def test_a_floor_is_the_least_possible_score() -> None:
    found = scores_of(ConvexFusion(floors={"dense": -1}).fuse({"dense": hits("dense", {"a": 0.5, "b": -0.25})}))
    assert found == pytest.approx({"a": 1.0, "b": 0.5})
    found = scores_of(ConvexFusion().fuse({"dense": hits("dense", {"a": 0.5, "b": -0.5})}))
    assert found == pytest.approx({"a": 1.0, "b": 0.0})


@pytest.mark.parametrize("normalise", ["theoretical", "minmax", "zscore"])
@pytest.mark.parametrize("score", [0.0, -0.5, 3.0])
def test_equal_scores_divide_by_nothing(normalise: Normalise, score: float) -> None:
    found = ConvexFusion(normalise=normalise).fuse({"dense": hits("dense", {"a": score, "b": score})})
    assert [hit.chunk.id for hit in found] == ["a", "b"] and found[0].score == found[1].score and math.isfinite(found[0].score)


def test_why_of_every_ranking_is_kept() -> None:
    rankings = {"dense": hits("dense", {"a": 0.9}), "sparse": hits("sparse", {"b": 9.0, "a": 4.0})}
    found = {hit.chunk.id: hit for hit in ReciprocalRankFusion().fuse(rankings)}
    assert found["a"].why == {"dense": Placed(0.9, 1), "sparse": Placed(4.0, 2), "fuse": Placed(found["a"].score, 1)}
    assert set(found["b"].why) == {"sparse", "fuse"}


@pytest.mark.parametrize(
    "fusion", [ReciprocalRankFusion(weights={"denes": 1}), ConvexFusion({"denes": 1}), ConvexFusion(floors={"denes": 0})]
)
def test_a_weight_of_an_unknown_index_is_named(fusion: ReciprocalRankFusion | ConvexFusion) -> None:
    with pytest.raises(ConfigError, match="'denes'; allowed: dense"):
        fusion.fuse({"dense": []})


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_bad_options_are_refused(weight: float) -> None:
    for make in (ReciprocalRankFusion, ConvexFusion):
        with pytest.raises(ConfigError, match="weight of 'dense'"):
            make(weights={"dense": weight})
    with pytest.raises(ConfigError, match="k must be"):
        ReciprocalRankFusion(k=weight)
    with pytest.raises(ConfigError, match="theoretical, minmax, zscore"):
        ConvexFusion(normalise="softmax")  # type: ignore[arg-type]


RANKINGS = st.fixed_dictionaries(
    {name: st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-1, 30, width=32)) for name in ("dense", "sparse")},
    optional={"late": st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-1, 30, width=32))},
)


@pytest.mark.parametrize("word", FUSIONS)
@given(RANKINGS)
def test_every_fusion_keeps_the_law(word: str, given_scores: dict[str, dict[str, float]]) -> None:
    rankings = {name: hits(name, scores) for name, scores in given_scores.items()}
    found = fuse(word, rankings)
    assert sorted(hit.chunk.id for hit in found) == sorted({chunk for scores in given_scores.values() for chunk in scores})
    assert [(-hit.score, hit.chunk.id) for hit in found] == sorted((-hit.score, hit.chunk.id) for hit in found)
    assert [hit.why["fuse"] for hit in found] == [Placed(hit.score, rank) for rank, hit in enumerate(found, 1)]
    assert [hit.chunk.id for hit in fuse(word, dict(reversed(rankings.items())))] == [hit.chunk.id for hit in found]


@pytest.mark.parametrize("word", FUSIONS)
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-1, 1, width=32)))
def test_one_ranking_keeps_its_order(word: str, scores: dict[str, float]) -> None:
    ranking = hits("dense", scores)
    fused = fuse(word, {"dense": ranking, "sparse": []})
    by_rank = word == "rrf"
    if by_rank:
        assert [hit.chunk.id for hit in fused] == [hit.chunk.id for hit in ranking]
    else:  # scores that differ by less than float64 can hold after scaling may tie
        values = [scores[hit.chunk.id] for hit in fused]
        assert all(first >= second - 1e-12 for first, second in pairwise(values))
