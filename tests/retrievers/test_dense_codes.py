"""Codes and bits: bounds by hypothesis, nothing moves when codes are given again, Hamming scan against counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag.retrievers.dense_codes import Int8Rows, bits_of, nearest_by_bits, nearest_by_bits_reference, to_bits, to_int8, widened

LAWS = settings(deadline=None, max_examples=60)


def unit_rows(num: int, dim: int, seed: int, outlier: float = 1.0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((num, dim))
    rows[:, 0] *= outlier
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@LAWS
@given(st.integers(0, 30), st.integers(1, 300), st.integers(0, 99), st.sampled_from([0.0, 1.0, 40.0]))
def test_codes_are_the_nearest_ones_and_giving_them_again_changes_nothing(num: int, dim: int, seed: int, outlier: float) -> None:
    vectors = unit_rows(num, dim, seed, outlier) if dim > 1 else np.ones((num, 1), np.float32)
    rows = to_int8(vectors)
    assert rows.shape == (num, dim) and rows.codes.dtype == np.int8 and rows.scales.dtype == np.float16
    steps = rows.scales.astype(np.float64)[:, None]
    assert np.all(np.abs(rows[:].astype(np.float64) - vectors) <= 0.5 * steps * (1 + 1e-6))
    assert np.all(steps[:, 0] * 127 <= np.abs(vectors).max(1, initial=0) * (1 + 2**-10))
    again = to_int8(rows[:])
    np.testing.assert_array_equal(again.codes, rows.codes)
    np.testing.assert_array_equal(again.scales, rows.scales)


def test_every_finite_half_is_widened_as_numpy_does() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = every[np.isfinite(every)].reshape(-1, 2)
    np.testing.assert_array_equal(widened(halves).view(np.uint32), halves.astype(np.float32).view(np.uint32))
    assert widened(halves[:0]).shape == (0, 2) and widened(halves[::3]).shape == halves[::3].shape


@pytest.mark.parametrize("size", [1e-5, 3e-6])
def test_codes_of_tiny_rows_do_not_overflow(size: float) -> None:
    vectors = (size * unit_rows(200, 8, 0)).astype(np.float32)
    rows = to_int8(vectors)
    assert np.all(np.abs(rows[:] - vectors) <= 0.5 * rows.scales.astype(np.float32)[:, None] * (1 + 1e-5))


def test_zeros_stay_zeros() -> None:
    rows = to_int8(np.zeros((2, 5), np.float32))
    assert not rows[:].any() and not rows.scales.any()


@LAWS
@given(st.integers(1, 40), st.integers(0, 99))
def test_products_are_those_of_the_rows(num: int, seed: int) -> None:
    rows, queries = to_int8(unit_rows(num, 48, seed)), unit_rows(3, 48, seed + 1)
    some = np.random.default_rng(seed).permutation(num)[: num // 2 + 1]
    for which in (slice(0, num), some):
        np.testing.assert_allclose(rows.products(queries, which), queries @ rows[which].T, atol=2e-6)


@LAWS
@given(st.integers(0, 9), st.integers(1, 200), st.integers(0, 99))
def test_bits_are_the_signs(num: int, dim: int, seed: int) -> None:
    signs = np.random.default_rng(seed).random((num, dim)) < 0.5
    bits = to_bits(signs)
    assert bits.shape == (num, -(-dim // 64)) and bits.dtype == np.uint64
    np.testing.assert_array_equal(np.unpackbits(bits.view(np.uint8), axis=1)[:, :dim], signs)
    codes = np.where(signs, 3, -3).astype(np.int8)
    np.testing.assert_array_equal(bits_of(Int8Rows(codes, np.ones(num, np.float16))), bits)


@LAWS
@given(st.integers(30, 200), st.sampled_from([8, 64, 100, 384]), st.integers(0, 99), st.sampled_from([None, 0.3, 0.8]))
def test_the_hamming_scan_finds_what_counting_finds(num: int, dim: int, seed: int, share: float | None) -> None:
    rng = np.random.default_rng(seed)
    bits, queries = to_bits(rng.random((num, dim)) < 0.5), unit_rows(4, dim, seed)
    allowed = None if share is None else rng.random(num) < share
    wanted = min(7, num if allowed is None else int(allowed.sum()))
    if not wanted:
        return
    found = nearest_by_bits(bits, queries, wanted, allowed)
    reference = nearest_by_bits_reference(bits, queries, wanted, allowed)
    assert found.shape == reference.shape == (4, wanted)
    asked = to_bits(queries > 0)
    for row in range(4):  # of equally near rows either may be taken
        assert len(set(found[row].tolist())) == wanted and (allowed is None or allowed[found[row]].all())
        far = [np.bitwise_count(bits[rows] ^ asked[row]).sum(1, dtype=np.int64) for rows in (found[row], reference[row])]
        np.testing.assert_array_equal(np.sort(far[0]), far[1])


@pytest.mark.parametrize("dim", [64, 384, 4096])
def test_a_score_moves_little(dim: int) -> None:
    vectors, queries = unit_rows(500, dim, 1), unit_rows(20, dim, 2)
    assert np.abs(queries @ to_int8(vectors)[:].T - queries @ vectors.T).max() < 0.01 * 3 / np.sqrt(dim) * 8
