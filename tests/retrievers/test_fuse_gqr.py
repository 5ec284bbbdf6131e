"""Fusion by guided query refinement: who guides, what the missing get, and the whole chain from files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.core import Chunk, Hit, Interaction, Placed, Span
from rag.errors import ConfigError, NoVectors
from rag.pipeline import Rag
from rag.retrievers.fuse_gqr import GuidedQueryRefinement
from rag.retrievers.refine import Candidates, refined, softmax
from tests.fakes import HashingEncoder, document

QUERY = np.array([[1.0, 0.0]], np.float32)
CHUNKS = {"a": [0.9, 0.1], "b": [0.8, 0.6], "c": [0.5, 0.8], "d": [0.1, 0.2], "e": [0.7, -0.7]}


def hits(stage: str, scores: dict[str, float]) -> list[Hit]:
    ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return [
        Hit(Chunk(name, "doc", Span(0, 1), "x"), score, {stage: Placed(score, rank)})
        for rank, (name, score) in enumerate(ordered, 1)
    ]


def vectors(index: str, wanted: Sequence[Hit]) -> Interaction:
    """``dense`` has the vectors above, ``other`` those turned around, ``sparse`` none."""
    if index == "sparse":
        raise NoVectors("bm25")
    turn = 1 if index == "dense" else -1
    return Interaction(QUERY, [np.array([CHUNKS[hit.chunk.id][::turn]], np.float32) for hit in wanted])


def dense(names: str) -> list[Hit]:
    return hits("dense", {name: CHUNKS[name][0] for name in names})


def by_hand(guides: dict[str, float], everything: str, steps: int = 25, rate: float = 1e-3) -> dict[str, float]:
    """Scores after refinement by the guides given, in units of their deviation."""
    own = Candidates([np.array([CHUNKS[name]], np.float32) for name in guides])
    told = np.array(list(guides.values()))
    moved = refined(
        QUERY, own, softmax(told / told.std()), steps=steps, learning_rate=rate, temperature=float(own.scores(QUERY).std())
    )
    return {name: float((moved @ np.array(CHUNKS[name], np.float32))[0]) for name in everything}


def gqr(**options: Any) -> GuidedQueryRefinement:
    return GuidedQueryRefinement(**{"steps": 25, "learning_rate": 1e-3, "temperature": 1.0, **options})


def scores_of(found: list[Hit]) -> dict[str, float]:
    return {hit.chunk.id: hit.score for hit in found}


def test_what_the_complement_did_not_find_counts_as_its_lowest() -> None:
    rankings = {"dense": dense("abe"), "sparse": hits("sparse", {"c": 12.0, "b": 7.0})}
    found = gqr(steps=40, learning_rate=0.02).fuse(rankings, vectors)
    wanted = by_hand({"a": 7.0, "b": 7.0, "e": 7.0, "c": 12.0}, "abce", 40, 0.02)
    assert scores_of(found) == pytest.approx(wanted, abs=1e-6)
    assert found[0].chunk.id == "c" or wanted["c"] > CHUNKS["c"][0]
    assert {hit.chunk.id: set(hit.why) for hit in found} == {
        "a": {"dense", "fuse"}, "b": {"dense", "sparse", "fuse"}, "e": {"dense", "fuse"}, "c": {"sparse", "fuse"},
    }  # fmt: skip


def test_a_complement_with_vectors_scores_what_it_did_not_find() -> None:
    rankings = {"dense": dense("abe"), "other": hits("other", {"c": 0.8, "b": 0.6})}
    found = gqr(complement="other").fuse(rankings, vectors)
    assert scores_of(found) == pytest.approx(by_hand({"a": 0.1, "b": 0.6, "e": -0.7, "c": 0.8}, "abce"), abs=1e-6)


def test_the_complement_turns_the_order_and_without_steps_or_guidance_the_query_stays() -> None:
    rankings = {"dense": dense("abcd"), "sparse": hits("sparse", {"c": 20.0, "b": 9.0, "a": 1.0, "d": 1.0})}
    plain = ["a", "b", "c", "d"]
    assert [hit.chunk.id for hit in gqr(steps=50, learning_rate=0.05).fuse(rankings, vectors)][:2] != plain[:2]
    still = gqr(steps=0).fuse(rankings, vectors)
    assert [hit.chunk.id for hit in still] == plain and scores_of(still) == pytest.approx({n: CHUNKS[n][0] for n in plain})
    alone = gqr(steps=50, learning_rate=0.05).fuse({"dense": dense("abcd"), "sparse": []}, vectors)
    assert scores_of(alone) == scores_of(still)


def test_hits_past_the_candidates_and_of_other_indexes_are_scored_but_guide_nothing() -> None:
    rankings = {"dense": dense("abe"), "sparse": hits("sparse", {"c": 9.0, "b": 3.0}), "late": hits("late", {"d": 1.0})}
    found = gqr(candidates=1).fuse(rankings, vectors)
    assert scores_of(found) == pytest.approx(by_hand({"a": 3.0, "c": 9.0}, "abcde"), abs=1e-6)


def test_scores_as_published() -> None:
    rankings = {"dense": dense("ab"), "sparse": hits("sparse", {"c": 9.0, "b": 3.0})}
    found = gqr(scale="none", temperature=0.5).fuse(rankings, vectors)
    own = Candidates([np.array([CHUNKS[name]], np.float32) for name in "abc"])
    moved = refined(QUERY, own, softmax(np.array([3.0, 3.0, 9.0]) / 0.5), steps=25, learning_rate=1e-3, temperature=0.5)
    assert scores_of(found) == pytest.approx({n: float((moved @ np.array(CHUNKS[n], np.float32))[0]) for n in "abc"}, abs=1e-6)


def test_many_vectors_per_text_are_the_same_form() -> None:
    rng = np.random.default_rng(0)
    tokens: dict[str, NDArray[np.float32]] = {
        name: rng.standard_normal((n + 1, 4)).astype(np.float32) for n, name in enumerate("abc")
    }
    asked = rng.standard_normal((3, 4)).astype(np.float32)
    own = Candidates(list(tokens.values()))
    ranking = hits("dense", dict(zip("abc", own.scores(asked).tolist(), strict=True)))
    told = {"a": 1.0, "b": 2.0, "c": 5.0}
    found = gqr(scale="none").fuse(
        {"dense": ranking, "sparse": hits("sparse", told)},
        lambda _, wanted: Interaction(asked, [tokens[hit.chunk.id] for hit in wanted]),
    )
    moved = refined(asked, own, softmax(np.array([1.0, 2.0, 5.0])), steps=25, learning_rate=1e-3)
    assert scores_of(found) == pytest.approx(dict(zip("abc", own.scores(moved).tolist(), strict=True)), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"primary": "x", "complement": "x"}, "must be two indexes, both are 'x'"),
        ({"steps": -1}, "steps must be at least 0, not -1"),
        ({"candidates": 0}, "candidates must be at least 1, not 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a number above 0, not 0.0"),
        ({"temperature": float("nan")}, "temperature must be a number above 0, not nan"),
        ({"scale": "std"}, "scale 'std' is not one of deviation, none"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GuidedQueryRefinement(**options)


def test_a_bad_index_is_named_with_the_allowed_ones() -> None:
    rankings = {"dense": dense("a"), "sparse": hits("sparse", {"a": 1.0}), "other": []}
    with pytest.raises(ConfigError, match="primary names the unknown index 'denes'; allowed: dense, sparse, other"):
        GuidedQueryRefinement(primary="denes").fuse(rankings, vectors)
    with pytest.raises(ConfigError, match="complement names the unknown index 'words'; allowed: dense, sparse, other"):
        GuidedQueryRefinement(complement="words").fuse(rankings, vectors)
    with pytest.raises(ConfigError, match=r"primary: the index 'sparse' \(bm25\) keeps no vectors; allowed: dense, other"):
        GuidedQueryRefinement(primary="sparse", complement="dense").fuse(rankings, vectors)


# The whole chain -------------------------------------------------------------------------------------------------------

TEXTS = {
    "duck": "the mallard duck swims on the pond",
    "reed": "reed and weed grow around the pond",
    "pump": "the pump drains water from the pond into the valve",
    "bird": "a heron stands in the reed",
}


@pytest.fixture
def open_with(tmp_path: Path) -> Callable[..., Rag]:
    def opened(**fuse: Any) -> Rag:
        config = {"chunker": {"use": "fixed", "max_tokens": 60}, "fuse": {"use": "gqr", **fuse}}
        return Rag.open(tmp_path / "index", config, components={"encoder": HashingEncoder(256)})

    return opened


def test_the_pipeline_gives_the_fusion_vectors_of_the_commit_it_searched(open_with: Callable[..., Rag]) -> None:
    with open_with(steps=5, learning_rate=0.01, temperature=1.0) as rag:
        rag.ingest_documents([document(f"{name}.txt", text) for name, text in TEXTS.items()])
        found = rag.search("heron pond valve")
        assert len(found) == 4 and all({"dense", "fuse"} <= set(hit.why) for hit in found)
        encoder = HashingEncoder(256)
        names = [hit.chunk.text for hit in found]
        own = Candidates([rows[None] for rows in encoder.encode_documents(names)])
        asked = encoder.encode_queries(["heron pond valve"])
        told = [hit.why["sparse"].score if "sparse" in hit.why else None for hit in found]
        least = min(score for score in told if score is not None)
        guide = np.array([least if score is None else score for score in told])
        moved = refined(
            asked, own, softmax(guide / guide.std()), steps=5, learning_rate=0.01, temperature=float(own.scores(asked).std())
        )
        np.testing.assert_allclose([hit.score for hit in found], own.scores(moved), atol=1e-5)
        some = rag.search("heron pond valve", where="source = 'reed.txt'")
        assert [hit.chunk.text for hit in some] == [TEXTS["reed"]]
        batch = rag.search_each(["mallard", "heron pond valve"], 10)
        assert [(hit.chunk.id, hit.score) for hit in batch[1]["fused"]] == [(hit.chunk.id, hit.score) for hit in found]


def test_a_primary_without_vectors_is_refused_by_name(open_with: Callable[..., Rag]) -> None:
    with open_with(primary="sparse", complement="dense") as rag:
        rag.ingest_documents([document("duck.txt", TEXTS["duck"])])
        with pytest.raises(ConfigError, match=r"primary: the index 'sparse' \(bm25\) keeps no vectors; allowed: dense"):
            rag.search("duck")


def test_an_index_that_is_not_configured_is_named(open_with: Callable[..., Rag]) -> None:
    with open_with(primary="tokens") as rag:
        rag.ingest_documents([document("duck.txt", TEXTS["duck"])])
        with pytest.raises(ConfigError, match="primary names the unknown index 'tokens'; allowed: dense, sparse"):
            rag.search("duck")
