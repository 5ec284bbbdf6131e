"""The published method, piece by piece, against its formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag.chunkers.s2 import Box, clusters, cut_in_sequence, num_clusters, runs, s2_weights


def unit(num: int, seed: int = 0) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(num, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def test_weights_are_the_mean_of_nearness_in_points_and_cosine() -> None:
    boxes: list[Box | None] = [(0, 0, 10, 10), (30, 40, 40, 50), None, (0, 0, 10, 10)]
    vectors = unit(4)
    weights = s2_weights(boxes, vectors)
    for i, one in enumerate(boxes):
        for j, two in enumerate(boxes):
            near = 1.0 if i == j else 0.0
            if one is not None and two is not None:
                centres = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (one, two)]
                near = 1 / (1 + math.dist(*centres))
            cosine = min(max(float(vectors[i] @ vectors[j]), 0.0), 1.0)
            assert weights[i, j] == pytest.approx((near + cosine) / 2, abs=1e-6)
    assert weights[0, 3] == pytest.approx((1 + max(float(vectors[0] @ vectors[3]), 0.0)) / 2, abs=1e-6)
    assert (weights == weights.T).all() and (weights > 0).all()


def test_number_of_clusters() -> None:
    weights = np.full((10, 10), 0.25)
    assert num_clusters(weights, 1000, 100) == 7  # int(10 * 0.75)
    assert num_clusters(weights, 90, 100) == 1
    assert num_clusters(weights, 100_000, 100) == 10  # no more than there are nodes


def blocks(labels: list[int]) -> NDArray[np.float64]:
    same = np.equal.outer(labels, labels)
    return np.where(same, 0.9, 0.05) + np.eye(len(labels)) * 0.1


def test_spectral_clustering_finds_blocks_and_is_the_same_every_time() -> None:
    truth = [0, 1, 0, 2, 2, 1, 0, 1, 2, 0]
    found = clusters(blocks(truth), 3)
    assert found.tolist() == truth  # numbered by first appearance
    assert all((clusters(blocks(truth), 3) == found).all() for _ in range(3))


def test_one_cluster_and_one_for_each() -> None:
    assert clusters(blocks([0, 1, 2]), 1).tolist() == [0, 0, 0]
    assert clusters(blocks([0, 1, 2]), 3).tolist() == [0, 1, 2]
    assert sorted(set(clusters(blocks([0, 1, 2]), 2).tolist())) == [0, 1]


def test_clusters_are_filled_in_reading_order() -> None:
    labels, sizes = np.array([0, 1, 0, 0, 1]), np.array([4, 4, 4, 4, 4])
    assert cut_in_sequence(labels, sizes, 8).tolist() == [0, 1, 0, 2, 1]
    assert cut_in_sequence(labels, sizes, 100).tolist() == [0, 1, 0, 0, 1]
    assert cut_in_sequence(labels, np.array([9, 1, 1, 1, 1]), 8).tolist() == [0, 1, 2, 2, 1]  # above the limit: alone


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), max_size=30), st.integers(1, 15))
@settings(max_examples=80, deadline=None)
def test_no_published_chunk_is_above_the_limit(nodes: list[tuple[int, int]], max_size: int) -> None:
    labels, sizes = (np.array(column, dtype=np.int64) for column in (zip(*nodes, strict=True) if nodes else ([], [])))
    chunk_of = cut_in_sequence(labels, sizes, max_size)
    for chunk in set(chunk_of.tolist()):
        members = chunk_of == chunk
        assert sizes[members].sum() <= max_size or members.sum() == 1
        assert len(set(labels[members].tolist())) == 1
    assert sorted(set(chunk_of.tolist())) == list(range(len(set(chunk_of.tolist()))))


def test_runs() -> None:
    assert runs(np.array([0, 0, 1, 0, 0, 2])) == [0, 2, 3, 5]
    assert runs(np.array([], dtype=np.int64)) == []
