"""How sure a mean over queries is, and a difference of two. Knows only numbers, one per query.

Percentile bootstrap over queries (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13) and the
paired randomisation test by sign flips (Smucker, Allan and Carterette, CIKM 2007). Everything is a function of the
values and the seed: two calls with one seed draw the same queries, so intervals of several systems belong together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 10_000
LEVEL = 0.95
ALPHA = 0.05
_MAX_DRAWN = 2**20  # values drawn at a time: bounds the memory, changes no result
_MAX_ROUNDING = 1e-12  # sums of the same numbers in another order differ by this much


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``num_queries`` queries and the ends of its bootstrap interval."""

    mean: float
    low: float
    high: float
    num_queries: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean paired difference, its bootstrap interval, and the p value of the two-sided sign-flip test."""

    mean: float
    low: float
    high: float
    p: float
    num_queries: int

    @property
    def inside_noise(self) -> bool:
        """Whether these queries cannot tell the two apart: 0 is in the interval, or p is not below 0.05."""
        return self.low <= 0.0 <= self.high or self.p >= ALPHA


def interval(values: Sequence[float], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> Interval:
    """The mean of ``values`` with its 95 % bootstrap interval. Raises ``ValueError`` for no or non-finite values."""
    sample = _checked(values, num_resamples)
    low, high = np.quantile(_resampled_means(sample, seed, num_resamples), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(sample.mean()), float(low), float(high), len(sample))


def difference(
    values: Sequence[float], baseline: Sequence[float], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Difference:
    """``values`` minus ``baseline``, query by query. Raises ``ValueError`` if they do not pair up."""
    if len(values) != len(baseline):
        raise ValueError(f"{len(values)} values cannot be paired with {len(baseline)}: both need one per query, in one order")
    paired = _checked(values, num_resamples) - _checked(baseline, num_resamples)
    drawn = interval(paired.tolist(), seed=seed, num_resamples=num_resamples)
    return Difference(
        drawn.mean, drawn.low, drawn.high, sign_flip_p(paired.tolist(), seed=seed, num_resamples=num_resamples), len(paired)
    )


def sign_flip_p(differences: Sequence[float], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> float:
    """How often the mean is at least as far from 0 when each difference may as well have the other sign.

    Counts all sign patterns if there are no more than ``num_resamples`` of them; else draws that many, and counts the
    observed one too, so the p value is never 0.
    """
    sample = _checked(differences, num_resamples)
    moved = sample[sample != 0.0]  # a tie has the same sum under both signs
    if not len(moved):
        return 1.0
    observed = abs(float(moved.sum())) - _MAX_ROUNDING * float(np.abs(moved).sum())
    if 2.0 ** len(moved) <= num_resamples:
        patterns = np.array(list(itertools.product((1.0, -1.0), repeat=len(moved))))
        return float(np.mean(np.abs(patterns @ moved) >= observed))
    generator = np.random.default_rng(seed)
    num_as_far = 0
    for size in _blocks(num_resamples, len(moved)):
        signs = generator.integers(0, 2, size=(size, len(moved)), dtype=np.int8) * np.int8(2) - np.int8(1)
        num_as_far += int(np.count_nonzero(np.abs(signs @ moved) >= observed))
    return (1 + num_as_far) / (1 + num_resamples)


def _resampled_means(sample: NDArray[np.float64], seed: int, num_resamples: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    return np.concatenate(
        [
            sample[generator.integers(0, len(sample), size=(size, len(sample)))].mean(axis=1)
            for size in _blocks(num_resamples, len(sample))
        ]
    )


def _blocks(num_rows: int, num_columns: int) -> Iterator[int]:
    rows_at_once = max(1, _MAX_DRAWN // num_columns)
    for start in range(0, num_rows, rows_at_once):
        yield min(rows_at_once, num_rows - start)


def _checked(values: Sequence[float] | NDArray[np.float64], num_resamples: int) -> NDArray[np.float64]:
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}; allowed: 1 or more")
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample):
        raise ValueError(f"expected one number per query, found shape {sample.shape}")
    if not np.isfinite(sample).all():
        raise ValueError(
            f"value {int(np.flatnonzero(~np.isfinite(sample))[0])} is {sample[~np.isfinite(sample)][0]}, not a finite number"
        )
    return sample
