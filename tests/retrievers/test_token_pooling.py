"""Pooling against its slow references, and its laws: counts, lengths, protected tokens, order, windows."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag.errors import ConfigError
from rag.retrievers import token_pooling
from rag.retrievers.token_clusters import by_first_member, cluster_means, means_by_numpy, ward_by_scipy, ward_labels
from rag.retrievers.token_pooling import PoolMethod, pool_tokens

METHODS = get_args(PoolMethod)
LAWS = settings(deadline=None, max_examples=60)
SEEDS = st.integers(0, 2**32 - 1)


def unit(num_tokens: int, dim: int = 12, seed: int = 0) -> NDArray[np.float32]:
    """Random directions around a few centres, as tokens lie."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_tokens // 4 + 1, dim))
    found = centres[rng.integers(0, len(centres), num_tokens)] + 0.5 * rng.normal(size=(num_tokens, dim))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def slow_ward(tokens: NDArray[np.float64], num_clusters: int) -> NDArray[np.int64]:
    """Merges the nearest pair of clusters until so many are left: the definition, cubic in the number of tokens."""
    squared = np.clip(1 - (tokens @ tokens.T).astype(np.float64), 0, 2) ** 2
    np.fill_diagonal(squared, np.inf)
    sizes, labels = np.ones(len(tokens)), np.arange(len(tokens))
    for _ in range(len(tokens) - num_clusters):
        i, j = divmod(int(squared.argmin()), len(tokens))
        rest = np.isfinite(squared[i]) & np.isfinite(squared[j])
        both, n = sizes[i] + sizes[j], sizes[rest]
        row = ((sizes[i] + n) * squared[i, rest] + (sizes[j] + n) * squared[j, rest] - n * squared[i, j]) / (both + n)
        squared[i, rest] = squared[rest, i] = row
        squared[j], squared[:, j] = np.inf, np.inf
        sizes[i] = both
        labels[labels == j] = i
    return by_first_member(labels)


@given(st.integers(1, 40) | st.integers(126, 140), SEEDS, st.data())
@LAWS
def test_ward_equals_its_references(num_tokens: int, seed: int, data: st.DataObject) -> None:
    tokens = unit(num_tokens, seed=seed).astype(np.float64)  # so that no two distances are equal but for rounding
    num_clusters = data.draw(st.integers(1, num_tokens))
    found = ward_labels(tokens, num_clusters)
    np.testing.assert_array_equal(found, ward_by_scipy(tokens, num_clusters))
    np.testing.assert_array_equal(found, slow_ward(tokens, num_clusters))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.data())
@LAWS
def test_ward_makes_as_many_clusters_as_asked_of_equal_tokens_too(kinds: list[int], data: st.DataObject) -> None:
    tokens = unit(6, seed=1)[kinds]
    num_clusters = data.draw(st.integers(1, len(kinds)))
    labels = ward_labels(tokens, num_clusters)
    assert len(set(labels.tolist())) == num_clusters
    np.testing.assert_array_equal(labels, by_first_member(labels))
    if num_clusters <= len(set(kinds)):  # equal tokens are the nearest
        assert all(len(set(labels[np.array(kinds) == kind].tolist())) == 1 for kind in set(kinds))


@given(st.integers(1, 40), SEEDS)
@LAWS
def test_means_equal_their_reference(num_tokens: int, seed: int) -> None:
    tokens = unit(num_tokens, seed=seed)
    labels = by_first_member(np.random.default_rng(seed).integers(0, 7, num_tokens))
    num_clusters = int(labels.max()) + 1
    np.testing.assert_allclose(cluster_means(tokens, labels, num_clusters), means_by_numpy(tokens, labels, num_clusters), atol=1e-5)


def test_members_that_cancel_out_leave_the_first() -> None:
    tokens = np.array([[1, 0], [-1, 0], [0, 1]], np.float32)
    for means in (cluster_means, means_by_numpy):
        np.testing.assert_array_equal(means(tokens, np.array([0, 0, 1]), 2), [[1, 0], [0, 1]])
    np.testing.assert_array_equal(pool_tokens([tokens[:2]], 2, num_protected=0)[0], [[1, 0]])


@given(st.lists(st.integers(0, 30), max_size=5), SEEDS, st.integers(1, 7), st.sampled_from(METHODS), st.integers(0, 3))
@LAWS
def test_counts_lengths_and_protected_tokens(
    lengths: list[int], seed: int, factor: int, method: PoolMethod, num_protected: int
) -> None:
    documents = [unit(length, seed=seed + number) for number, length in enumerate(lengths)]
    before = [tokens.copy() for tokens in documents]
    found = pool_tokens(documents, factor, method, num_protected, num_threads=1)
    assert len(found) == len(documents)
    for tokens, pooled, untouched in zip(documents, found, before, strict=True):
        np.testing.assert_array_equal(tokens, untouched)
        num_free = max(0, len(tokens) - num_protected)
        num_wanted = max(1, num_free // factor) if num_free else 0
        assert pooled.dtype == np.float32 and pooled.shape == (min(num_protected, len(tokens)) + num_wanted, 12)
        np.testing.assert_array_equal(pooled[:num_protected], tokens[:num_protected])
        np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1, atol=1e-5)
        if factor == 1:
            np.testing.assert_array_equal(pooled, tokens)
    for one, other in zip(found, pool_tokens(documents, factor, method, num_protected, num_threads=3), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_the_result_stands_in_the_order_of_first_members(method: PoolMethod) -> None:
    kinds = np.eye(4, dtype=np.float32)
    order = [2, 0, 2, 3, 0, 3, 1, 1] if method != "sequential" else [2, 2, 0, 0, 3, 3, 1, 1]
    (pooled,) = pool_tokens([kinds[order]], 2, method, num_protected=0)
    np.testing.assert_allclose(pooled, kinds[[2, 0, 3, 1]], atol=1e-6)


@given(st.integers(2, 30), SEEDS, st.integers(2, 5))
@LAWS
def test_ward_does_not_ask_where_a_token_stands(num_tokens: int, seed: int, factor: int) -> None:
    tokens = unit(num_tokens, seed=seed)
    shuffled = tokens[np.random.default_rng(seed).permutation(num_tokens)]
    one, other = pool_tokens([tokens, shuffled], factor, "ward", num_protected=0)
    np.testing.assert_allclose((one @ other.T).max(1), 1, atol=1e-4)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=24), st.data())
@LAWS
def test_kmeans_leaves_no_cluster_empty(kinds: list[int], data: st.DataObject) -> None:
    num_clusters = data.draw(st.integers(1, len(kinds)))
    labels = token_pooling._METHODS["kmeans"](unit(4, seed=1)[kinds], num_clusters)
    assert set(labels.tolist()) == set(range(num_clusters))
    np.testing.assert_array_equal(labels, by_first_member(labels))


def test_sequential_pools_neighbours() -> None:
    tokens = unit(9)
    (pooled,) = pool_tokens([tokens], 4, "sequential", num_protected=1)
    np.testing.assert_allclose(pooled[1:], means_by_numpy(tokens[1:], np.array([0, 0, 0, 0, 1, 1, 1, 1]), 2), atol=1e-5)


def test_ward_and_kmeans_put_together_what_is_near_and_sequential_does_not() -> None:
    tokens = unit(200, seed=3)
    loss: dict[str, float] = {}
    for method in METHODS:
        (pooled,) = pool_tokens([tokens], 4, method, num_protected=0)
        loss[method] = float(1 - (tokens @ pooled.T).max(1).mean())
    assert loss["ward"] < 0.5 * loss["sequential"] and loss["kmeans"] < 0.5 * loss["sequential"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_tokens", [64, 65, 130, 999])
def test_long_documents_are_clustered_in_windows(monkeypatch: pytest.MonkeyPatch, method: PoolMethod, num_tokens: int) -> None:
    seen: list[int] = []
    true = token_pooling._METHODS[method]

    def watched(tokens: NDArray[np.float32], num_clusters: int) -> NDArray[np.int64]:
        seen.append(len(tokens))
        return true(tokens, num_clusters)

    monkeypatch.setattr(token_pooling, "WINDOW_TOKENS", 64)
    monkeypatch.setattr(token_pooling, "_METHODS", {method: watched})
    tokens = unit(num_tokens + 1)
    (pooled,) = pool_tokens([tokens], 3, method, num_protected=1)
    assert len(pooled) == 1 + num_tokens // 3
    assert sum(seen) == num_tokens and len(seen) == -(-num_tokens // 64) and max(seen) - min(seen) <= 1 and max(seen) <= 64
    first = tokens[1 : 1 + seen[0]]
    (alone,) = pool_tokens([first], 3, method, num_protected=0)
    np.testing.assert_allclose(pooled[1 : 1 + len(alone)], alone, atol=1e-6)


def test_the_highest_factor_leaves_vectors_in_the_shortest_window() -> None:
    num_tokens = token_pooling.WINDOW_TOKENS + 1
    (pooled,) = pool_tokens([unit(num_tokens)], token_pooling.MAX_FACTOR, num_protected=0)
    assert len(pooled) == num_tokens // token_pooling.MAX_FACTOR


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 0}, "factor 0 is not a whole number from 1"),
        ({"factor": 65}, "factor 65 is not a whole number from 1"),
        ({"factor": 2.5}, "factor 2.5 is not a whole number"),
        ({"factor": True}, "factor True is not a whole number"),
        ({"method": "words"}, "method 'words' is not one of ward, sequential, kmeans"),
        ({"num_protected": -1}, "num_protected -1 is not a whole number from 0 on"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pool_tokens([unit(4)], **{"factor": 2, **options})


def test_vectors_that_are_no_unit_vectors_are_named() -> None:
    for value, message in ((np.nan, "nan"), (np.inf, "inf"), (3.0, "3")):
        bad = unit(5)
        bad[3] = [value, *[0] * 11]
        with pytest.raises(ValueError, match=rf"document 1, token 3: the length of the vector is {message}"):
            pool_tokens([unit(4), bad], 2)
    with pytest.raises(ValueError, match=r"document 0: needs float32 \(tokens, dim\), not float64"):
        pool_tokens([unit(4).astype(np.float64)], 2)
    zeros = unit(5)
    zeros[2] = 0
    assert np.isfinite(pool_tokens([zeros], 2)[0]).all()
    assert pool_tokens([], 2) == []
    with pytest.raises(ValueError, match="num_clusters=9: must be between 1 and 4"):
        ward_labels(unit(4), 9)
