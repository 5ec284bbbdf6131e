"""Clusters of unit vectors by Ward's criterion on cosine distances, and their means, in compiled loops. Knows no document.

Merging two clusters changes the squared distance to a third one by the formula of Lance and Williams,
``s(k, ij) = ((n_i + n_k) s(k, i) + (n_j + n_k) s(k, j) - n_k s(i, j)) / (n_i + n_j + n_k)``. The loops follow chains of nearest
neighbours (Murtagh 1983), which finds the same merges as looking for the nearest pair each time, in time quadratic in the number
of vectors. ``ward_by_scipy`` and ``means_by_numpy`` are the references.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_NO_LENGTH = 1e-6
_COLUMNS_AT_ONCE = 128  # a multiple of 4; 192 KB at 384 numbers


def ward_labels(tokens: NDArray[np.floating[Any]], num_clusters: int) -> NDArray[np.int64]:
    """The cluster of each vector, ``(tokens,)``, numbered by first member; exactly ``num_clusters``, at equal distances too.

    ``tokens``: ``(tokens, dim)``, finite. Memory: 8 bytes for each pair of tokens.
    """
    if not 1 <= num_clusters <= len(tokens):
        raise ValueError(f"num_clusters={num_clusters}: must be between 1 and {len(tokens)}, the number of tokens")
    labels = np.empty(len(tokens), np.int64)
    _compiled().ward(np.ascontiguousarray(tokens), num_clusters, labels)
    return labels


def cluster_means(tokens: NDArray[np.float32], labels: NDArray[np.int64], num_clusters: int) -> NDArray[np.float32]:
    """``(num_clusters, dim)``: means made unit vectors; where the members cancel out, the first one stands for all."""
    means = np.zeros((num_clusters, tokens.shape[1]), np.float32)
    _compiled().means(np.ascontiguousarray(tokens), labels, np.full(num_clusters, -1), means)
    return means


def ward_by_scipy(tokens: NDArray[np.floating[Any]], num_clusters: int) -> NDArray[np.int64]:
    """The reference of ``ward_labels``. Makes fewer clusters where merges of equal height straddle the cut."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(tokens) == 1:
        return np.zeros(1, np.int64)
    distances = np.clip(1 - (tokens @ tokens.T).astype(np.float64), 0, 2)
    return by_first_member(fcluster(linkage(squareform(distances, checks=False), "ward"), num_clusters, "maxclust"))


def means_by_numpy(tokens: NDArray[np.float32], labels: NDArray[np.int64], num_clusters: int) -> NDArray[np.float32]:
    """The reference of ``cluster_means``."""
    means = np.zeros((num_clusters, tokens.shape[1]), np.float32)
    for number in range(num_clusters):
        members = tokens[labels == number]
        total = members.sum(0, dtype=np.float64)
        length = np.linalg.norm(total)
        means[number] = total / length if length > _NO_LENGTH else members[0]
    return means


def by_first_member(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same clusters, numbered from 0 in the order of their first members."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], np.int64)


# Compiled loops --------------------------------------------------------------------------------------------------------


def _ward(tokens: Any, num_clusters: Any, labels: Any) -> None:
    """Clusters stand in the first rows of ``squared``; the last one moves where a row falls free, so scans read live ones only.

    The products stand here because a BLAS with threads waits for these: on busy cores for longer than all of this takes. Four rows
    are multiplied at once, by columns that fit into the cache.
    """
    num_tokens, dim = tokens.shape
    squared = np.empty((num_tokens, num_tokens), np.float64)
    for start in range(0, num_tokens, _COLUMNS_AT_ONCE):
        for row in range(start, num_tokens, 4):
            end = num_tokens - 1  # past it the last row is computed again
            rows = (row, min(row + 1, end), min(row + 2, end), min(row + 3, end))
            a, b, c, d = tokens[rows[0]], tokens[rows[1]], tokens[rows[2]], tokens[rows[3]]
            for column in range(start, min(start + _COLUMNS_AT_ONCE, rows[3] + 1)):
                e = tokens[column]
                ae, be, ce, de = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                for place in range(dim):
                    ae += a[place] * e[place]
                    be += b[place] * e[place]
                    ce += c[place] * e[place]
                    de += d[place] * e[place]
                products = (ae, be, ce, de)
                for number in range(4):
                    distance = max(1.0 - np.float64(products[number]), 0.0)
                    squared[rows[number], column] = squared[column, rows[number]] = distance * distance
    for row in range(num_tokens):
        squared[row, row] = np.inf
    sizes = np.ones(num_tokens, np.float64)
    names = np.arange(num_tokens)  # a member of the cluster in each row
    merged = np.empty((num_tokens - 1, 2), np.int64)
    heights = np.empty(num_tokens - 1, np.float64)
    chain = np.empty(num_tokens + 1, np.int64)
    length = 0
    num_live = num_tokens
    for step in range(num_tokens - 1):
        if length == 0:
            chain[0] = 0
            length = 1
        while True:
            one = chain[length - 1]
            nearest = squared[one]
            best = nearest[0]
            for row in range(num_live):
                best = min(best, nearest[row])
            # At equal distances the chain turns back, or it would run in a circle.
            if length > 1 and nearest[chain[length - 2]] <= best:
                other = chain[length - 2]
                break
            other = 0
            while nearest[other] != best:
                other += 1
            chain[length] = other
            length += 1
        length -= 2
        merged[step, 0] = names[one]
        merged[step, 1] = names[other]
        heights[step] = best
        gone, kept = squared[one], squared[other]
        both = sizes[one] + sizes[other]
        for row in range(num_live):
            size = sizes[row]
            kept[row] = ((sizes[one] + size) * gone[row] + (sizes[other] + size) * kept[row] - size * best) / (both + size)
        kept[other] = np.inf
        for row in range(num_live):
            squared[row, other] = kept[row]
        sizes[other] = both
        num_live -= 1
        if one != num_live:
            last = squared[num_live]
            for row in range(num_live):
                gone[row] = last[row]
                squared[row, one] = last[row]
            gone[one] = np.inf
            sizes[one] = sizes[num_live]
            names[one] = names[num_live]
            for place in range(length):
                if chain[place] == num_live:
                    chain[place] = one
    order = np.argsort(heights, kind="mergesort")
    roots = np.arange(num_tokens)  # of trees whose root is the first member
    for place in range(num_tokens - num_clusters):  # the lowest merges; the others are not made
        low, high = merged[order[place], 0], merged[order[place], 1]
        while roots[low] != low:
            low = roots[low]
        while roots[high] != high:
            high = roots[high]
        roots[max(low, high)] = min(low, high)
    num_labels = 0
    for token in range(num_tokens):
        if roots[token] == token:
            labels[token] = num_labels
            num_labels += 1
        else:
            labels[token] = labels[roots[token]]  # a root stands before its members


def _means(tokens: Any, labels: Any, firsts: Any, means: Any) -> None:
    num_tokens, dim = tokens.shape
    for token in range(num_tokens):
        label = labels[token]
        if firsts[label] < 0:
            firsts[label] = token
        for place in range(dim):
            means[label, place] += tokens[token, place]
    for label in range(len(means)):
        squares = np.float32(0.0)
        for place in range(dim):
            squares += means[label, place] * means[label, place]
        length = np.sqrt(squares)
        for place in range(dim):
            means[label, place] = means[label, place] / length if length > _NO_LENGTH else tokens[firsts[label], place]


class _Loops(NamedTuple):
    ward: Callable[..., None]
    means: Callable[..., None]


@cache
def _compiled() -> _Loops:
    """Imports numba and compiles the loops, or loads them from numba's cache where it may keep one."""
    import numba

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"nnan", "nsz", "reassoc", "contract"}}
    try:
        return _Loops(*(numba.njit(cache=True, **options)(loops) for loops in (_ward, _means)))
    except RuntimeError:  # "no locator available": neither the package's folder nor the user's cache folder can be written
        return _Loops(*(numba.njit(**options)(loops) for loops in (_ward, _means)))
