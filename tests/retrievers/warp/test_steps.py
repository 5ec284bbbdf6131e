"""Probing and exact MaxSim beside their references; the other steps of a search are kernels (tests/kernels/test_warp_score.py)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.retrievers.warp.exact import exact_scores
from rag.retrievers.warp.exact import reference_scores as reference_exact
from rag.retrievers.warp.probing import probe, reference_probe, warp_select
from tests.retrievers.warp.made import unit

LAWS = settings(deadline=None, max_examples=30)


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
