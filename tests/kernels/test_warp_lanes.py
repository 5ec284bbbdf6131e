"""All ways of the lane functions give the integers of their references, for every width."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rag.kernels import warp_score_lanes as lanes
from rag.kernels.choose import processor_has
from rag.kernels.warp_score_codes import num_fine, row_bytes, unpacked
from rag.kernels.warp_score_dots import scores_of
from rag.kernels.warp_score_lanes import packed_lanes, reference_dots

WAYS: list[lanes.Way] = ["plain"]
WAYS += ["pairs"] if processor_has("avx2") else []
WAYS += ["vnni"] if processor_has("avx512vnni") else []


def compiled(scores: Any, dim: int, fine: int) -> Any:
    @numba.njit
    def run(rows: Any, packed: Any, offsets: Any, units: Any, factor: Any, base: Any, out: Any, best: Any) -> None:
        for row in range(rows.shape[0]):
            scores(
                rows.ctypes.data + row * rows.shape[1], dim, fine, packed.ctypes.data, offsets.ctypes.data, units.ctypes.data,
                factor, base.ctypes.data, out.ctypes.data + row * out.shape[1] * 4, best.ctypes.data,
            )  # fmt: skip

    return run


def some_lanes(rng: np.random.Generator, width: int, dim: int) -> NDArray[np.int8]:
    """Two of them as far from 0 as there are."""
    numbers = rng.integers(-127, 128, (width, dim), dtype=np.int8)
    numbers[0], numbers[1] = 127, -127
    return numbers


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("width", lanes.WIDTHS)
def test_scores_are_those_of_the_reference(width: int, way: lanes.Way) -> None:
    rng = np.random.default_rng(width)
    for dim in (16, 128, 80):
        run = compiled(scores_of(8, width, way), dim, dim)
        packed = packed_lanes(some_lanes(rng, width, dim), way)
        rows = rng.integers(0, 256, (7, dim), dtype=np.uint8)
        rows[0], rows[1] = 255, 0  # the largest sums there are
        offsets, base = (rng.standard_normal(width).astype(np.float32) for _ in range(2))
        units = rng.random(width).astype(np.float32)
        out, best = np.empty((7, width), np.float32), np.full(width, -0.5, np.float32)
        run(rows, packed, offsets, units, np.float32(0.25), base, out, best)
        wanted = base + (reference_dots(rows, packed) + offsets) * (units * np.float32(0.25))
        np.testing.assert_allclose(out, wanted, rtol=2e-6, atol=1e-5)
        np.testing.assert_array_equal(best, np.maximum(out.max(0), np.float32(-0.5)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("width", lanes.WIDTHS)
@pytest.mark.parametrize("bits", [2, 4, 5])
def test_scores_of_codes_are_those_of_their_levels(bits: int, width: int, way: lanes.Way) -> None:
    """All bytes and planes, in rows that end where the memory of the last one does."""
    rng = np.random.default_rng(width)
    for dim in (64, 128, 192):
        numbers = some_lanes(rng, width, dim)
        codes = rng.integers(0, 256, (7, row_bytes(dim, bits)), dtype=np.uint8)
        codes[0], codes[1] = 255, 0
        nothing, units = np.zeros(width, np.float32), np.ones(width, np.float32)
        out, best = np.empty((7, width), np.float32), np.full(width, -np.inf, np.float32)
        packed = packed_lanes(numbers, way)
        compiled(scores_of(bits, width, way), dim, num_fine(dim, bits))(
            codes, packed, nothing, units, np.float32(1), nothing, out, best
        )
        levels = unpacked(torch.from_numpy(codes), dim, bits).numpy()
        np.testing.assert_array_equal(out, reference_dots(levels, packed))


@pytest.mark.parametrize("way", WAYS)
def test_the_order_of_packed_lanes_does_not_change_products(way: lanes.Way) -> None:
    rng = np.random.default_rng(0)
    numbers, rows = rng.integers(-127, 128, (32, 48), dtype=np.int8), rng.integers(0, 256, (5, 48), dtype=np.uint8)
    np.testing.assert_array_equal(reference_dots(rows, packed_lanes(numbers, way)), rows.astype(int) @ numbers.T.astype(int))


@pytest.mark.parametrize("width", lanes.WIDTHS)
def test_lane_max_sums_the_largest_bytes(width: int) -> None:
    lane_max = {16: lanes.lane_max_16, 32: lanes.lane_max_32}[width]

    @numba.njit
    def run(table: Any, rows: Any, first: int, last: int) -> Any:
        return lane_max(table.ctypes.data, rows.ctypes.data, first, last)

    rng = np.random.default_rng(width)
    table = rng.integers(0, 256, (300, width), dtype=np.uint8)
    rows = rng.integers(0, 300, 50).astype(np.uint16)
    for first, last in ((0, 50), (3, 4), (7, 7)):
        assert run(table, rows, first, last) == table[rows[first:last]].max(0, initial=0).astype(int).sum()
    assert run(np.full((1, width), 255, np.uint8), np.zeros(2, np.uint16), 0, 2) == 255 * width


@pytest.mark.parametrize("width", lanes.WIDTHS)
def test_lanes_at_least_sets_one_bit_per_lane(width: int) -> None:
    at_least = {16: lanes.lanes_at_least_16, 32: lanes.lanes_at_least_32}[width]
    lowest_bit = lanes.lowest_bit

    @numba.njit
    def run(row: Any, least: Any) -> Any:
        return at_least(row.ctypes.data, least.ctypes.data)

    @numba.njit
    def first_of(bits: Any) -> Any:
        return lowest_bit(bits)

    rng = np.random.default_rng(0)
    row, least = (rng.integers(0, 256, width, dtype=np.uint8) for _ in range(2))
    least[3] = row[3]
    bits = run(row, least)
    assert [bool(bits >> lane & 1) for lane in range(width)] == (row >= least).tolist() and bits < 2**width
    assert first_of(np.uint32(0b1011000)) == 3 and first_of(np.uint32(1 << 31)) == 31


def test_the_way_is_explained() -> None:
    assert lanes.explain().startswith(f"{WAYS[-1]}: the processor has ")
