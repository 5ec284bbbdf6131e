"""16 or 32 query tokens side by side on a processor: how they are packed, the largest byte of each. Knows addresses; no code and no score.

Their products take one of three ways (``warp_score_dots``), chosen when a function is compiled, and each has its own order of numbers.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from rag.kernels.choose import processor_has
from rag.kernels.llvm_vectors import I8, I16, I32, I64, at, called, loop, place_of, splat, spread

WIDTHS = (16, 32)
"""Lanes of a table: a short query needs half the bytes and half the products."""
ROW_BYTES = 16
"""Rows of levels and of codes are a multiple of this many bytes."""


Way = Literal["vnni", "pairs", "plain"]
GROUPS: dict[Way, int] = {"vnni": 16, "pairs": 4, "plain": 1}
"""By way: how many dimensions of a lane lie side by side among packed numbers."""


def product_way() -> Way:
    """Which instructions multiply bytes: one that adds four products to a 32-bit lane, those that add two to a 16-bit one, or any."""
    if processor_has("avx512vnni"):
        return "vnni"
    return "pairs" if processor_has("avx2") else "plain"


def explain() -> str:
    """Which way dot products go on this machine, and why. For people."""
    reasons: dict[Way, str] = {
        "vnni": "the processor has AVX-512 VNNI",
        "pairs": "the processor has AVX2 but no AVX-512 VNNI",
        "plain": "the processor has neither AVX-512 VNNI nor AVX2",
    }
    return f"{product_way()}: {reasons[product_way()]}"


def packed_lanes(numbers: NDArray[np.int8], way: Way | None = None) -> NDArray[Any]:
    """``numbers`` ``(width, dim)`` as products read them: ``(dim / group, width, group)``, int8 or on the plain way int16, lanes by ``lane_places``."""
    way = way or product_way()
    groups = numbers.reshape(len(numbers), -1, GROUPS[way]).transpose(1, 0, 2)
    placed = groups[:, lane_places(len(numbers), way)]  # a place's lane is the lane's place
    return np.ascontiguousarray(placed, np.int16 if way == "plain" else np.int8)


def lane_places(width: int, way: Way) -> NDArray[np.int64]:
    """Where each lane stands among the packed ones.

    With VNNI a lane's four sums lie side by side in a register; added up as four registers are transposed, they come out in the order of lanes.
    """
    lanes = np.arange(width)
    return (lanes & 16) | (lanes & 3) << 2 | (lanes >> 2 & 3) if way == "vnni" else lanes


def reference_dots(rows: NDArray[np.uint8], packed: NDArray[Any]) -> NDArray[np.int64]:
    """``(n, width)``: dot products of rows of unsigned numbers ``(n, dim)`` with every lane."""
    _, width, group = packed.shape
    way = next(way for way, size in GROUPS.items() if size == group)
    numbers = packed.astype(np.int64)[:, lane_places(width, way)].transpose(0, 2, 1).reshape(-1, width)
    found: NDArray[np.int64] = rows.astype(np.int64) @ numbers
    return found


def _lane_max(width: int) -> Any:
    def lane_max(typing_context: Any, table: Any, rows: Any, first: Any, last: Any) -> Any:
        """The sum over lanes of the largest byte of each lane over ``table[rows[first:last]]``.

        ``table``: address of uint8 ``(C, width)``; ``rows``: address of uint16.
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            row_kind, sums = ir.VectorType(I8, width), ir.VectorType(I32, width)
            source, numbers = place_of(builder, arguments[0], row_kind), place_of(builder, arguments[1], I16)

            def body(place: Any, state: list[Any]) -> list[Any]:
                number = builder.zext(builder.load(at(builder, numbers, place)), I64)
                row = builder.load(at(builder, source, number), align=1)
                return [builder.select(builder.icmp_unsigned(">", row, state[0]), row, state[0])]

            (best,) = loop(builder, arguments[2], arguments[3], [splat(I8, width, 0)], body)
            return called(builder, f"llvm.vector.reduce.add.v{width}i32", I32, [builder.zext(best, sums)])

        return types.int32(types.uintp, types.uintp, types.int64, types.int64), generate

    lane_max.__name__ = f"lane_max_{width}"
    return intrinsic(lane_max)


lane_max_16, lane_max_32 = map(_lane_max, WIDTHS)


def _lane_bytes(width: int) -> Any:
    def lane_bytes(typing_context: Any, row: Any, floors: Any, factor: Any, out: Any) -> Any:
        """Writes ``(row - floors) * factor``, rounded and cut to 0 ... 255, as ``width`` bytes to ``out``. All but ``factor`` are addresses."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            floats = ir.VectorType(ir.FloatType(), width)
            given, floor = (builder.load(place_of(builder, where, floats), align=4) for where in arguments[:2])
            value = builder.fmul(builder.fsub(given, floor), spread(builder, arguments[2], width))
            value = builder.fadd(value, splat(ir.FloatType(), width, 0.5))
            for border, order in ((0.0, ">"), (255.0, "<")):
                limit = splat(ir.FloatType(), width, border)
                value = builder.select(builder.fcmp_ordered(order, value, limit), value, limit)
            whole_numbers = builder.fptosi(value, ir.VectorType(I32, width))  # AVX2 has no instruction for unsigned ones
            kind = ir.VectorType(I8, width)
            builder.store(builder.trunc(whole_numbers, kind), place_of(builder, arguments[3], kind), align=1)
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp, types.float32, types.uintp), generate

    lane_bytes.__name__ = f"lane_bytes_{width}"
    return intrinsic(lane_bytes)


lane_bytes_16, lane_bytes_32 = map(_lane_bytes, WIDTHS)


def _lanes_at_least(width: int) -> Any:
    def lanes_at_least(typing_context: Any, row: Any, least: Any) -> Any:
        """Bit ``i`` is set where byte ``i`` of those at ``row`` is not below byte ``i`` of those at ``least``."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.VectorType(I8, width)
            given, limit = (builder.load(place_of(builder, argument, kind), align=1) for argument in arguments)
            found = builder.bitcast(builder.icmp_unsigned(">=", given, limit), ir.IntType(width))
            return builder.zext(found, I32) if width < 32 else found

        return types.uint32(types.uintp, types.uintp), generate

    lanes_at_least.__name__ = f"lanes_at_least_{width}"
    return intrinsic(lanes_at_least)


lanes_at_least_16, lanes_at_least_32 = map(_lanes_at_least, WIDTHS)


def _lowest_bit(typing_context: Any, bits: Any) -> Any:
    """The number of the lowest bit that is set; ``bits`` is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint32(types.uint32), generate


lowest_bit: Any = intrinsic(_lowest_bit)
