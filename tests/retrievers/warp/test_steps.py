"""Each compiled step of a search beside its reference: tables, interaction, probing, selection, implicit decompression, exact MaxSim."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag.retrievers.warp.centroids import Centroids, _rounded
from rag.retrievers.warp.decompression import Tokens, reference_maxsim, score_rows
from rag.retrievers.warp.exact import exact_scores
from rag.retrievers.warp.exact import reference_scores as reference_exact
from rag.retrievers.warp.interaction import (
    SPAN,
    best_rows,
    interact,
    reference_interaction,
    reference_scores,
    reference_table,
    score_centroids,
    table_of,
)
from rag.retrievers.warp.lanes import lane_table
from rag.retrievers.warp.probing import probe, reference_probe, warp_select
from tests.retrievers.warp.made import coded, unit

LAWS = settings(deadline=None, max_examples=30)


@pytest.mark.parametrize("num_tokens", [1, 16, 17, 32])
def test_centroid_scores_and_their_table(num_tokens: int) -> None:
    rng = np.random.default_rng(num_tokens)
    centroids = Centroids(*_rounded(unit(rng, 77, 48)), np.zeros((1, 48), np.float32), np.array([0, 77]))
    query = unit(rng, num_tokens, 48)
    lanes = lane_table(query)
    scores, largest = np.empty((77, lanes.width), np.float32), np.full(lanes.width, -np.inf, np.float32)
    for first, last in ((0, 30), (30, 77)):
        score_centroids(centroids.levels, centroids.steps, lanes.numbers, lanes.units, lanes.totals, first, last, scores, largest)
    np.testing.assert_allclose(scores, reference_scores(centroids.levels, centroids.steps, lanes), atol=1e-5)
    np.testing.assert_array_equal(largest, scores.max(0))
    table = table_of(scores, largest)
    wanted = reference_table(centroids.vectors.astype(np.float64) @ query.T)
    own = slice(0, num_tokens)
    assert np.abs(table.table[:, own].astype(int) - wanted.table).max() <= 2  # the query was rounded to 8 bits
    np.testing.assert_allclose(table.floors[own], wanted.floors, atol=0.01)
    assert table.table.max(0)[own].tolist() == [255] * num_tokens
    assert (table.scores >= table.floors - SPAN * 10).all()


@LAWS
@given(seed=st.integers(0, 10**6), width=st.sampled_from([16, 32]), masked=st.booleans())
def test_interaction(seed: int, width: int, masked: bool) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 256, (50, width), dtype=np.uint8)
    starts = np.concatenate([[0], np.cumsum(rng.integers(1, 9, 20))])
    runs = rng.integers(0, 50, starts[-1]).astype(np.uint16)
    allowed = rng.random(20) < 0.5 if masked else np.zeros(0, np.bool_)
    out = np.full(20, 3, np.int32)
    interact(table, runs, starts, allowed, 0, 11, out)
    interact(table, runs, starts, allowed, 11, 20, out)
    wanted = reference_interaction(table, runs, starts, 0, 20) + 3
    np.testing.assert_array_equal(out, np.where(allowed, wanted, -1) if masked else wanted)


@LAWS
@given(values=st.lists(st.integers(-1, 20), max_size=60), wanted=st.integers(1, 70))
def test_best_rows_are_the_largest_and_ascend(values: list[int], wanted: int) -> None:
    rows = best_rows(np.array(values, np.int32), wanted, 20)
    order = sorted((row for row, value in enumerate(values) if value >= 0), key=lambda row: (-values[row], row))[:wanted]
    assert rows.tolist() == sorted(order)


@LAWS
@given(seed=st.integers(0, 10**6), num_tokens=st.integers(1, 32), num_probes=st.integers(1, 40), least=st.integers(0, 200))
def test_probing(seed: int, num_tokens: int, num_probes: int, least: int) -> None:
    rng = np.random.default_rng(seed)
    width = 16 if num_tokens <= 16 else 32
    table = np.minimum(rng.integers(0, 256, (60, width)), rng.integers(0, 256, (60, width))).astype(np.uint8)
    table[:, num_tokens:] = 0
    sizes = rng.integers(0, 9, 60)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    rows = np.concatenate([np.sort(rng.integers(0, 30, size)) for size in sizes]).astype(np.int32)
    lanes, centroids, values, imputed = warp_select(table, num_tokens, starts, num_probes, least)
    for lane in range(num_tokens):
        mine, scores = centroids[lanes == lane], table[:, lane]
        assert sorted(mine.tolist()) == np.flatnonzero(scores >= max(imputed[lane], 1)).tolist()
        enough = len(mine) >= num_probes and sizes[mine].sum() >= least
        assert enough or imputed[lane] == 1
        above = scores > imputed[lane]  # one byte value less would not have been enough
        assert not enough or above.sum() < num_probes or sizes[above].sum() < least
        assert values[lanes == lane].tolist() == sorted(scores[mine].tolist(), reverse=True)
    out = np.zeros(30, np.int32)
    probe(lanes, centroids, values, imputed, starts, rows, out)
    np.testing.assert_array_equal(out, reference_probe(table, imputed, starts, rows, 30))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("num_tokens", [5, 32])
def test_implicit_decompression(bits: int, num_tokens: int) -> None:
    rng = np.random.default_rng(bits)
    codec, tokens = coded(rng, bits, num_documents=40, dim=64)
    query = unit(rng, num_tokens, 64)
    lanes = lane_table(query)
    scores = np.empty((len(codec.centroids.levels), lanes.width), np.float32)
    largest = np.full(lanes.width, -np.inf, np.float32)
    score_centroids(
        codec.centroids.levels, codec.centroids.steps, lanes.numbers, lanes.units, lanes.totals, 0, len(scores), scores, largest
    )
    rows = np.array([3, 0, 39, 17, 17])
    out = np.zeros(5, np.float32)
    _score(rows, scores, tokens, codec.scale_unit, lanes, bits, out)
    wanted = reference_maxsim(rows, codec.centroids.vectors, tokens, codec.scale_unit, query, bits)
    np.testing.assert_allclose(out, wanted, atol=0.004 * num_tokens)  # the query was rounded to 8 bits
    _score(rows, scores, tokens, codec.scale_unit, lanes, bits, out)
    np.testing.assert_allclose(out, 2 * wanted, atol=0.008 * num_tokens)


def _score(
    rows: NDArray[np.int64], scores: NDArray[np.float32], tokens: Tokens, unit_: float,
    lanes: object, bits: int, out: NDArray[np.float32],
) -> None:  # fmt: skip
    table = lanes
    score_rows(
        rows, 0, len(rows), scores, tokens, np.float32(unit_), table.numbers, table.units, table.totals,  # type: ignore[attr-defined]
        table.num_tokens, bits, out,  # type: ignore[attr-defined]
    )  # fmt: skip


@LAWS
@given(seed=st.integers(0, 10**6), half=st.booleans(), some=st.booleans())
def test_exact_scores(seed: int, half: bool, some: bool) -> None:
    rng = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(rng.integers(1, 30, 25))])
    vectors = unit(rng, int(starts[-1]), 20)
    query = unit(rng, 7, 20)
    rows = np.flatnonzero(rng.random(25) < 0.4) if some else None
    given_vectors = vectors.astype(np.float16) if half else vectors
    wanted = reference_exact(given_vectors, starts, query)
    found = exact_scores(given_vectors, starts, query, rows)
    np.testing.assert_allclose(found, wanted if rows is None else wanted[rows], atol=1e-5)


def test_exact_scores_over_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.retrievers.warp.exact._BLOCK_TOKENS", 50)
    rng = np.random.default_rng(3)
    starts = np.concatenate([[0], np.cumsum(rng.integers(1, 120, 25))])
    vectors, query = unit(rng, int(starts[-1]), 20), unit(rng, 7, 20)
    np.testing.assert_allclose(exact_scores(vectors, starts, query), reference_exact(vectors, starts, query), atol=1e-5)
