"""Vectors in one byte per component, or in one bit. Knows numbers; knows no key, file or search.

**int8**: a row is ``scale * codes``, the scale of the row a float16 rounded up, so that no code passes 127 and the largest component
gets just that. Then ``scale * code`` is exact in float32 and giving a row its codes again changes nothing (for rows of unit
length up to 16,000 wide): merging segments moves no score. A scale per component of a whole
segment would need new codes at every merge and is no more exact: of the true top 10 chunks of 974 questions .9964 are found with a
scale per row, .9961 with one per component (bench/dense_stores.py).

**bits**: the signs of the codes, in words of 64. Rows whose signs differ in few places point the same way; this only finds
candidates, their scores come from the codes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Words = NDArray[np.uint64]

_LARGEST_CODE = 127
_BLOCK_ROWS = 1 << 12


class Int8Rows:
    """Rows ``scales[i] * codes[i]``, read as float32 by slice or by row numbers. ``codes`` int8 ``(n, dim)``, ``scales`` float16 ``(n,)``."""

    def __init__(self, codes: NDArray[np.int8], scales: NDArray[np.float16]) -> None:
        self.codes = codes
        self.scales = scales

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    def __getitem__(self, rows: slice | Rows, /) -> Floats:
        return self.codes[rows].astype(np.float32) * self.scales[rows, None].astype(np.float32)

    def products(self, queries: Floats, rows: slice | Rows) -> Floats:
        """``queries @ self[rows].T``, but each row is scaled once per score and not once per component."""
        scored: Floats = queries @ self.codes[rows].astype(np.float32).T
        scored *= self.scales[rows].astype(np.float32)
        return scored


def widened(halves: NDArray[np.float16]) -> Floats:
    """``halves.astype(np.float32)`` of finite numbers in a fifth of the time NumPy takes: 10 ms instead of 51 for 50,000 x 384.

    The bits of a float16 without its sign, moved into a float32, are the number times 2**-112.
    """
    bits = halves.view(np.int16).astype(np.int32)
    moved = bits & 0x7FFF
    moved <<= 13
    numbers = moved.view(np.float32)
    numbers *= np.float32(2.0**112)
    bits &= np.int32(-(2**31))
    moved |= bits  # the sign
    return numbers


def to_int8(vectors: Floats) -> Int8Rows:
    """The nearest codes of ``vectors`` ``(n, dim)``. A row of zeros stays one."""
    largest = np.abs(vectors).max(axis=1, initial=0.0)
    scales = _rounded_up(largest / np.float32(_LARGEST_CODE))
    steps = np.where(scales > 0, scales, 1).astype(np.float32)
    return Int8Rows(np.rint(vectors / steps[:, None]).astype(np.int8), scales)


def _rounded_up(numbers: Floats) -> NDArray[np.float16]:
    nearest = numbers.astype(np.float16)
    above = np.nextafter(nearest, np.float16(np.inf))
    return np.where(nearest.astype(np.float32) < numbers, above, nearest)


def to_bits(signs: NDArray[np.bool_]) -> Words:
    """``(n, dim)`` -> ``(n, ceil(dim / 64))``: one bit per component, the rest of the last word 0."""
    packed = np.packbits(signs, axis=1)
    whole = np.zeros((len(signs), -(-signs.shape[1] // 64) * 8), np.uint8)
    whole[:, : packed.shape[1]] = packed
    return whole.view(np.uint64)


def bits_of(rows: Int8Rows) -> Words:
    """The signs of all rows, computed block by block."""
    num_rows = rows.shape[0]
    blocks = [to_bits(rows.codes[start : start + _BLOCK_ROWS] > 0) for start in range(0, num_rows, _BLOCK_ROWS)]
    return np.concatenate(blocks) if blocks else to_bits(np.zeros((0, rows.shape[1]), np.bool_))


def nearest_by_bits(bits: Words, queries: Floats, num: int, allowed: NDArray[np.bool_] | None) -> Rows:
    """``(queries, num)``: allowed rows whose signs differ least from each query's; there must be ``num`` of them.

    By faiss's Hamming scan: 18 to 24 ms for a million rows of 384 bits on one core, where NumPy's popcount takes 67.
    """
    import faiss

    asked = to_bits(queries > 0).view(np.uint8)
    rows = None if allowed is None else np.flatnonzero(allowed)
    searched = bits if rows is None else bits[rows]
    _, found = faiss.knn_hamming(asked, np.ascontiguousarray(searched).view(np.uint8), num)
    return np.asarray(found, np.int64) if rows is None else rows[found]


def nearest_by_bits_reference(bits: Words, queries: Floats, num: int, allowed: NDArray[np.bool_] | None) -> Rows:
    """The same by counting every difference and sorting; among equally near rows it takes the first."""
    rows = np.arange(len(bits)) if allowed is None else np.flatnonzero(allowed)
    asked = to_bits(queries > 0)
    differences = np.bitwise_count(asked[:, None] ^ bits[rows][None]).sum(axis=2, dtype=np.int64)
    return rows[np.argsort(differences, axis=1, kind="stable")[:, :num]]
