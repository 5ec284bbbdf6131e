"""16 or 32 query tokens side by side: the largest byte of each, and scores with each. Knows addresses and lanes, no index.

Dot products take one of two ways, chosen when a function is compiled: with AVX-512 VNNI four products of bytes are added to a 32-bit
lane by one instruction; anywhere else one place is multiplied at a time, in 16 bits. The same integers come out of both, and
``reference_dots`` says which.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from rag.retrievers.warp.vectors import I8, I16, I32, I64, at, called, loop, place_of, splat, spread, whole

WIDTHS = (16, 32)
"""Lanes of a table: a short query needs half the bytes and half the products."""
ROW_BYTES = 16
"""Rows of levels and of codes are a multiple of this many bytes."""


class LaneTable(NamedTuple):
    """Up to 32 query tokens as the functions below read them; lanes without a token are zero.

    ``numbers``: int8 ``(dim / 4, width, 4)`` with VNNI, else int16 ``(dim, width)``; ``units`` float32 ``(width,)``: what one step of a
    lane is; ``totals`` float32 ``(width,)``: the sum of a lane's numbers; ``num_tokens``: how many lanes hold a token.
    """

    numbers: NDArray[Any]
    units: NDArray[np.float32]
    totals: NDArray[np.float32]
    num_tokens: int

    @property
    def width(self) -> int:
        return len(self.units)


@cache
def has_vnni() -> bool:
    """Whether this processor has the instruction that adds four products of bytes to a 32-bit lane."""
    import llvmlite.binding

    return bool(llvmlite.binding.get_host_cpu_features().get("avx512vnni", False))


def explain() -> str:
    """Which way dot products go on this machine, and why. For people."""
    return "vnni: the processor has AVX-512 VNNI" if has_vnni() else "plain: the processor has no AVX-512 VNNI"


def lane_table(query: NDArray[np.float32], vnni: bool | None = None) -> LaneTable:
    """``query`` ``(q, dim)``, q up to 32, every token scaled to integers of up to 127; ``dim`` is a multiple of ``ROW_BYTES``."""
    num_tokens, dim = query.shape
    width = WIDTHS[0] if num_tokens <= WIDTHS[0] else WIDTHS[1]
    assert num_tokens <= width and dim % ROW_BYTES == 0
    units = np.zeros(width, np.float32)
    units[:num_tokens] = np.maximum(np.abs(query).max(1, initial=0), np.float32(1e-30)) / np.float32(127)
    lanes = np.zeros((width, dim), np.int16)
    lanes[:num_tokens] = np.rint(query / units[:num_tokens, None])
    totals = lanes.sum(1, dtype=np.int64).astype(np.float32)
    if has_vnni() if vnni is None else vnni:
        numbers = lanes.astype(np.int8).reshape(width, -1, 4).transpose(1, 0, 2)
        return LaneTable(np.ascontiguousarray(numbers), units, totals, num_tokens)
    return LaneTable(np.ascontiguousarray(lanes.T), units, totals, num_tokens)


def reference_dots(rows: NDArray[np.uint8], table: LaneTable) -> NDArray[np.int64]:
    """``(n, width)``: dot products of rows of unsigned numbers ``(n, dim)`` with every lane."""
    numbers = table.numbers.astype(np.int64)
    lanes = numbers if numbers.ndim == 2 else numbers.transpose(0, 2, 1).reshape(-1, table.width)
    found: NDArray[np.int64] = rows.astype(np.int64) @ lanes
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


def _dots_vnni(builder: Any, bits: int, width: int, row: Any, table: Any, num_bytes: Any) -> Any:
    """Four bytes are a group of four places for each of their parts; four groups at once cover the instruction's latency."""
    num_parts, num_halves = 8 // bits, width // 16
    half = ir.VectorType(I32, 16)
    groups, lanes = place_of(builder, row, I32), place_of(builder, table, half)
    num_groups = builder.sdiv(num_bytes, whole(4))
    at_once = ROW_BYTES // 4

    def body(step: Any, state: list[Any]) -> list[Any]:
        new = list(state)
        for turn in range(at_once):
            group = builder.add(builder.mul(step, whole(at_once)), whole(turn))
            packed = spread(builder, builder.load(at(builder, groups, group), align=1), 16)
            for part in range(num_parts):
                four = packed
                if num_parts > 1:
                    mask = ((1 << bits) - 1) * 0x01010101
                    four = builder.and_(builder.lshr(packed, splat(I32, 16, part * bits)), splat(I32, 16, mask))
                place = builder.add(group, builder.mul(num_groups, whole(part)))
                for number in range(num_halves):
                    where = builder.add(builder.mul(place, whole(num_halves)), whole(number))
                    own = turn * num_halves + number
                    factor = builder.load(at(builder, lanes, where), align=1)
                    new[own] = called(builder, "llvm.x86.avx512.vpdpbusd.512", half, [new[own], four, factor])
        return new

    zero = [splat(I32, 16, 0)] * (at_once * num_halves)
    sums = loop(builder, whole(0), builder.sdiv(num_groups, whole(at_once)), zero, body)
    halves = []
    for number in range(num_halves):
        total = sums[number]
        for turn in range(1, at_once):
            total = builder.add(total, sums[turn * num_halves + number])
        halves.append(total)
    if num_halves == 1:
        return halves[0]
    return builder.shuffle_vector(*halves, ir.Constant(ir.VectorType(I32, width), list(range(width))))


def _dots_plain(builder: Any, bits: int, width: int, row: Any, table: Any, num_bytes: Any) -> Any:
    """A product of 8 and 7 bits fills 16, so every product is widened before it is added."""
    words, sums = ir.VectorType(I16, width), ir.VectorType(I32, width)
    bytes_of, lanes = place_of(builder, row, I8), place_of(builder, table, words)

    def body(byte: Any, state: list[Any]) -> list[Any]:
        packed, total = builder.load(at(builder, bytes_of, byte)), state[0]
        for part in range(8 // bits):
            level = builder.and_(builder.lshr(packed, ir.Constant(I8, part * bits)), ir.Constant(I8, (1 << bits) - 1))
            place = builder.add(byte, builder.mul(num_bytes, whole(part)))
            factor = builder.load(at(builder, lanes, place), align=2)
            total = builder.add(total, builder.sext(builder.mul(spread(builder, builder.zext(level, I16), width), factor), sums))
        return [total]

    return loop(builder, whole(0), num_bytes, [splat(I32, width, 0)], body)[0]


def _lane_scores(bits: int, width: int, wants_vnni: bool | None = None) -> Any:
    def scores(
        typing_context: Any,
        row: Any,
        num_bytes: Any,
        numbers: Any,
        offsets: Any,
        units: Any,
        factor: Any,
        base: Any,
        out: Any,
        best: Any,
    ) -> Any:
        """``out = base + (dots + offsets) * units * factor`` in every lane, and ``best = max(best, out)``.

        ``dots``: of the ``bits`` wide parts of ``num_bytes`` (a multiple of 16) bytes at ``row`` with ``LaneTable.numbers``; part ``p``
        of byte ``b`` is place ``p * num_bytes + b``. All but ``num_bytes`` and ``factor`` are addresses, those of float32 ``(width,)``.
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            given, size, table, offset, unit, multiplier, base_of, target, best_of = arguments
            vnni = has_vnni() if wants_vnni is None else wants_vnni
            dots = (_dots_vnni if vnni else _dots_plain)(builder, bits, width, given, table, size)
            floats = ir.VectorType(ir.FloatType(), width)
            loaded = [builder.load(place_of(builder, where, floats), align=4) for where in (offset, unit, base_of, best_of)]
            scaled = builder.fmul(loaded[1], spread(builder, multiplier, width))
            value = builder.fadd(loaded[2], builder.fmul(builder.fadd(builder.sitofp(dots, floats), loaded[0]), scaled))
            builder.store(value, place_of(builder, target, floats), align=4)
            larger = builder.select(builder.fcmp_ordered(">", value, loaded[3]), value, loaded[3])
            builder.store(larger, place_of(builder, best_of, floats), align=4)
            return context.get_dummy_value()

        address = types.uintp
        signature = types.void(address, types.int64, address, address, address, types.float32, address, address, address)
        return signature, generate

    scores.__name__ = f"scores_{bits}_{width}"
    return intrinsic(scores)


scores_2_16, scores_2_32 = (_lane_scores(2, width) for width in WIDTHS)
scores_4_16, scores_4_32 = (_lane_scores(4, width) for width in WIDTHS)
scores_8_16, scores_8_32 = (_lane_scores(8, width) for width in WIDTHS)
