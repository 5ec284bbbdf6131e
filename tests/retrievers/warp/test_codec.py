"""Coding beside its step-by-step reference, and the choice of the largest beside sorting."""

from __future__ import annotations

import numpy as np
import pytest

from rag.retrievers.warp.nearest import largest_of
from tests.retrievers.warp.made import coded, documents


@pytest.mark.parametrize("bits", [2, 4, 5, 8])
def test_coding_is_what_the_reference_does(bits: int) -> None:
    rng = np.random.default_rng(bits)
    codec, _ = coded(rng, bits, num_documents=80, dim=64)
    vectors = codec.turn(np.concatenate(documents(np.random.default_rng(bits), 80, 64)))  # those it was trained on
    mine, wanted = codec.encode(vectors), codec.reference_encode(vectors)
    same = mine.centroid == wanted.centroid
    # Only some cells are looked at, and vectors are rounded there: a nearest centroid that is missed is nearly as near.
    assert same.mean() > 0.5 and mine.norms.mean() < 1.02 * wanted.norms.mean()
    np.testing.assert_allclose(mine.norms[same], wanted.norms[same], rtol=1e-4)
    assert np.abs(mine.scales[same].astype(int) - wanted.scales[same]).max() <= 1
    assert (mine.codes[same] == wanted.codes[same]).mean() > 0.995  # a step's border may round either way
    left = np.linalg.norm(vectors - codec.decode(mine.centroid, mine.codes, mine.scales), axis=1)
    assert (left / mine.norms).mean() < {2: 0.45, 4: 0.13, 5: 0.09, 8: 0.02}[bits]


def test_the_largest_of_each_row() -> None:
    scores = np.random.default_rng(0).standard_normal((50, 9)).astype(np.float32)
    np.testing.assert_array_equal(largest_of(scores, 4), np.argsort(-scores, axis=1)[:, :4])
