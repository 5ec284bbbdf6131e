"""Both ways of the lane functions give the integers of their references, for every width and number of bits."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from rag.retrievers.warp import lanes
from rag.retrievers.warp.lanes import LaneTable, lane_table, reference_dots

WAYS = [False] + ([True] if lanes.has_vnni() else [])


def made(rng: np.random.Generator, num_tokens: int, dim: int, vnni: bool) -> LaneTable:
    return lane_table(rng.standard_normal((num_tokens, dim)).astype(np.float32), vnni)


def compiled(scores: Any) -> Any:
    @numba.njit
    def run(rows: Any, numbers: Any, offsets: Any, units: Any, factor: Any, base: Any, out: Any, best: Any) -> None:
        for row in range(rows.shape[0]):
            scores(
                rows.ctypes.data + row * rows.shape[1], rows.shape[1], numbers.ctypes.data, offsets.ctypes.data, units.ctypes.data,
                factor, base.ctypes.data, out.ctypes.data + row * out.shape[1] * 4, best.ctypes.data,
            )  # fmt: skip

    return run


@pytest.mark.parametrize("vnni", WAYS)
@pytest.mark.parametrize("width", lanes.WIDTHS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_scores_are_those_of_the_reference(bits: int, width: int, vnni: bool) -> None:
    rng = np.random.default_rng(bits + width)
    run = compiled(lanes._lane_scores(bits, width, vnni))
    for num_bytes in (16, 64, 80):
        table = made(rng, width, num_bytes * 8 // bits, vnni)
        rows = rng.integers(0, 256, (7, num_bytes), dtype=np.uint8)
        rows[0], rows[1] = 255, 0  # the largest sums there are
        offsets, base = (rng.standard_normal(width).astype(np.float32) for _ in range(2))
        out, best = np.empty((7, width), np.float32), np.full(width, -0.5, np.float32)
        run(rows, table.numbers, offsets, table.units, np.float32(0.25), base, out, best)
        places = np.concatenate([(rows >> shift) & (2**bits - 1) for shift in range(0, 8, bits)], axis=1)
        wanted = base + (reference_dots(places, table) + offsets) * (table.units * np.float32(0.25))
        np.testing.assert_allclose(out, wanted, rtol=2e-6, atol=1e-5)
        np.testing.assert_array_equal(best, np.maximum(out.max(0), np.float32(-0.5)))


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


def test_a_short_query_takes_sixteen_lanes_and_keeps_its_numbers() -> None:
    rng = np.random.default_rng(1)
    for num_tokens, width in ((1, 16), (16, 16), (17, 32), (32, 32)):
        query = rng.standard_normal((num_tokens, 32)).astype(np.float32)
        for vnni in (True, False):
            table = lane_table(query, vnni)
            assert (table.width, table.num_tokens) == (width, num_tokens)
            unit_rows = np.eye(32, dtype=np.uint8)
            numbers = reference_dots(unit_rows, table).T[:num_tokens] * table.units[:num_tokens, None]
            np.testing.assert_allclose(numbers, query, atol=float(np.abs(query).max()) / 250)
            assert not table.units[num_tokens:].any()


def test_the_way_is_explained() -> None:
    assert lanes.explain().startswith("vnni" if lanes.has_vnni() else "plain")
