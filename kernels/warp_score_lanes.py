"""16 or 32 query tokens side by side on a processor: how they are packed, the largest byte of each. Knows addresses; no code and no score.

Their products take one of two ways (``warp_score_dots``), chosen when a function is compiled, and each has its own order of numbers.
"""

from __future__ import annotations

from typing import Any

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


def has_vnni() -> bool:
    """Whether this processor has the instruction that adds four products of bytes to a 32-bit lane."""
    return processor_has("avx512vnni")


def explain() -> str:
    """Which way dot products go on this machine, and why. For people."""
    return "vnni: the processor has AVX-512 VNNI" if has_vnni() else "plain: the processor has no AVX-512 VNNI"


def packed_lanes(numbers: NDArray[np.int8], vnni: bool | None = None) -> NDArray[Any]:
    """``numbers`` ``(width, dim)`` as products read them: int8 ``(dim / 16, width, 16)`` with VNNI, lanes by ``lane_place``, else int16 ``(dim, width)``."""
    if has_vnni() if vnni is None else vnni:
        chunks = numbers.reshape(len(numbers), -1, ROW_BYTES).transpose(1, 0, 2)
        return np.ascontiguousarray(chunks[:, lane_place(np.arange(len(numbers)))])  # a place's lane is the lane's place
    return np.ascontiguousarray(numbers.T.astype(np.int16))


def lane_place(lane: Any) -> Any:
    """Where a lane stands among the packed ones.

    Its four sums lie side by side in a register; added up as four registers are transposed, they come out in the order of lanes.
    """
    return (lane & 16) | (lane & 3) << 2 | (lane >> 2 & 3)


def reference_dots(rows: NDArray[np.uint8], packed: NDArray[Any]) -> NDArray[np.int64]:
    """``(n, width)``: dot products of rows of unsigned numbers ``(n, dim)`` with every lane."""
    numbers = packed.astype(np.int64)
    if numbers.ndim == 3:
        numbers = numbers[:, lane_place(np.arange(numbers.shape[1]))].transpose(0, 2, 1).reshape(-1, numbers.shape[1])
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
            whole_numbers = builder.fptoui(value, ir.VectorType(I32, width))
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
