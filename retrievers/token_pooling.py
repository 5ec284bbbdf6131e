"""Fewer token vectors per document: clusters of tokens become their means. Knows unit vectors; knows no model and no index.

Source: token pooling, arXiv 2409.14683. Only documents are pooled, when they are indexed; queries never.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rag.errors import ConfigError
from rag.retrievers.token_clusters import by_first_member, cluster_means, ward_labels

PoolMethod = Literal["ward", "sequential", "kmeans"]
MAX_FACTOR = 64

WINDOW_TOKENS = 2_000
"""Tokens that are clustered together at most: the distances of 2,000 take 32 MB, twice. Longer documents are cut into as few
windows as that allows, of equal length, and each has its share of the clusters; the sum over all windows is the same."""

_MAX_ROUNDS = 20  # of k-means; it stands still after about 8 on text


def check_pooling(factor: int, method: str, num_protected: int) -> None:
    """Raises ``ConfigError`` that names the option, its value and what is allowed."""
    if isinstance(factor, bool) or not isinstance(factor, int) or not 1 <= factor <= MAX_FACTOR:
        raise ConfigError(f"factor {factor!r} is not a whole number from 1 (no pooling) to {MAX_FACTOR}; usual are 2 and 3")
    if method not in get_args(PoolMethod):
        raise ConfigError(f"method {method!r} is not one of {', '.join(get_args(PoolMethod))}")
    if isinstance(num_protected, bool) or not isinstance(num_protected, int) or num_protected < 0:
        raise ConfigError(f"num_protected {num_protected!r} is not a whole number from 0 on")


def pool_tokens(
    vectors: Sequence[NDArray[np.float32]],
    factor: int,
    method: PoolMethod = "ward",
    num_protected: int = 1,
    num_threads: int = 1,
) -> list[NDArray[np.float32]]:
    """Per document ``(tokens, dim)`` -> ``(pooled, dim)``: unit vectors, in the order of each cluster's first token.

    The first ``num_protected`` tokens stay as they are (1 for a model that starts texts with a ``[CLS]``). The ``n`` others become
    ``max(1, n // factor)`` vectors, the means of their clusters made unit vectors again; where members cancel out, the first one
    stands for all. ``ward``: Ward's criterion on cosine distances; ``kmeans``: k-means on the sphere, from a fixed seed;
    ``sequential``: neighbours in the text. ``factor`` 1 gives back what was given. ``num_threads``: documents pooled at once, 0 is one
    per core; the compiled loops let other threads run.

    Raises ``ConfigError`` for options out of range, ``ValueError`` for vectors that are not finite or not of length 1 (or 0).
    """
    check_pooling(factor, method, num_protected)
    if factor == 1:
        return list(vectors)
    for number, tokens in enumerate(vectors):
        _check(number, tokens)

    def pooled(tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        return _pool(tokens, factor, _METHODS[method], num_protected)

    workers = min(num_threads or os.cpu_count() or 1, len(vectors))
    if workers <= 1:
        return [pooled(tokens) for tokens in vectors]
    with ThreadPoolExecutor(workers) as crew:
        return list(crew.map(pooled, vectors))


def _check(number: int, tokens: NDArray[np.float32]) -> None:
    if tokens.ndim != 2 or tokens.dtype != np.float32:
        raise ValueError(f"document {number}: needs float32 (tokens, dim), not {tokens.dtype} {tokens.shape}")
    squares = np.einsum("td,td->t", tokens, tokens)
    wrong = np.flatnonzero(~((np.abs(squares - 1) < 0.02) | (squares == 0)))  # NaN is neither
    if len(wrong):
        length = float(np.sqrt(squares[wrong[0]]))
        where = f"document {number}, token {wrong[0]}"
        raise ValueError(f"{where}: the length of the vector is {length:.6g}; allowed: 1 (or 0, for a vector of zeros)")


def _pool(tokens: NDArray[np.float32], factor: int, label: Label, num_protected: int) -> NDArray[np.float32]:
    free = tokens[num_protected:]
    num_clusters = max(1, len(free) // factor)
    if len(free) <= 1:
        return tokens
    num_windows = -(-len(free) // WINDOW_TOKENS)
    parts = [tokens[:num_protected]]
    for number in range(num_windows):
        start, stop = (len(free) * place // num_windows for place in (number, number + 1))
        share = num_clusters * (number + 1) // num_windows - num_clusters * number // num_windows
        window = free[start:stop]
        parts.append(cluster_means(window, label(window, share), share))
    return np.concatenate(parts)


# Which token belongs to which cluster: (tokens, dim), number of clusters -> (tokens,), numbered by first member -------------

Label = Callable[[NDArray[np.float32], int], NDArray[np.int64]]


def _by_place(tokens: NDArray[np.float32], num_clusters: int) -> NDArray[np.int64]:
    return np.arange(len(tokens)) * num_clusters // len(tokens)


def _by_kmeans(tokens: NDArray[np.float32], num_clusters: int) -> NDArray[np.int64]:
    """Lloyd's rounds on the sphere from k-means++ seeds; a cluster that runs empty takes the token that fits its own one worst."""
    places = np.arange(len(tokens))
    centroids = tokens[_seeds(tokens, num_clusters)]
    labels = np.full(len(tokens), -1)
    for _ in range(_MAX_ROUNDS):
        similarities = tokens @ centroids.T
        found = similarities.argmax(1)
        counts = np.bincount(found, minlength=num_clusters)
        if not counts.all():
            fits = similarities[places, found]
            for empty in np.flatnonzero(counts == 0):
                taken = int(np.where(counts[found] > 1, fits, np.inf).argmin())
                counts[found[taken]] -= 1
                counts[empty] = 1
                found[taken], fits[taken] = empty, np.inf
        labels, before = by_first_member(found), labels
        if np.array_equal(labels, before):
            break
        centroids = cluster_means(tokens, labels, num_clusters)
    return labels


def _seeds(tokens: NDArray[np.float32], num_clusters: int) -> NDArray[np.int64]:
    draws = np.random.default_rng(0).random(num_clusters)
    seeds = np.empty(num_clusters, np.int64)
    seeds[0] = int(draws[0] * len(tokens))
    nearest = np.full(len(tokens), np.inf)
    for number in range(1, num_clusters):
        nearest = np.minimum(nearest, np.clip(1 - tokens @ tokens[seeds[number - 1]], 0, 2))
        sums = np.cumsum(nearest)
        seeds[number] = min(int(np.searchsorted(sums, draws[number] * sums[-1], "right")), len(tokens) - 1)
    return seeds


_METHODS: Mapping[str, Label] = {"ward": ward_labels, "sequential": _by_place, "kmeans": _by_kmeans}
