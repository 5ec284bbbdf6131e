"""16 or 32 query tokens side by side on a processor: the largest byte of each, scores with each, rows of codes unpacked. Knows addresses.

Dot products take one of two ways, chosen when a function is compiled: with AVX-512 VNNI four products of bytes are added to a 32-bit
lane by one instruction; anywhere else one place is multiplied at a time, in 16 bits. The same integers come out of both, and
``reference_dots`` says which.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from rag.kernels.llvm_vectors import I8, I16, I32, I64, at, called, loop, place_of, splat, spread, whole

WIDTHS = (16, 32)
"""Lanes of a table: a short query needs half the bytes and half the products."""
ROW_BYTES = 16
"""Rows of levels and of codes are a multiple of this many bytes."""


@cache
def has_vnni() -> bool:
    """Whether this processor has the instruction that adds four products of bytes to a 32-bit lane."""
    import llvmlite.binding

    return bool(llvmlite.binding.get_host_cpu_features().get("avx512vnni", False))


def explain() -> str:
    """Which way dot products go on this machine, and why. For people."""
    return "vnni: the processor has AVX-512 VNNI" if has_vnni() else "plain: the processor has no AVX-512 VNNI"


def packed_lanes(numbers: NDArray[np.int8], vnni: bool | None = None) -> NDArray[Any]:
    """``numbers`` ``(width, dim)`` as the functions below read them: int8 ``(dim / 4, width, 4)`` with VNNI, else int16 ``(dim, width)``."""
    if has_vnni() if vnni is None else vnni:
        return np.ascontiguousarray(numbers.reshape(len(numbers), -1, 4).transpose(1, 0, 2))
    return np.ascontiguousarray(numbers.T.astype(np.int16))


def reference_dots(rows: NDArray[np.uint8], packed: NDArray[Any]) -> NDArray[np.int64]:
    """``(n, width)``: dot products of rows of unsigned numbers ``(n, dim)`` with every lane."""
    numbers = packed.astype(np.int64)
    lanes = numbers if numbers.ndim == 2 else numbers.transpose(0, 2, 1).reshape(-1, numbers.shape[1])
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


def dots(builder: Any, width: int, row: Any, table: Any, num_bytes: Any, vnni: bool) -> Any:
    """Code for the dot products of ``num_bytes`` (a multiple of 16) bytes at ``row`` with ``packed_lanes``: ``width`` 32-bit sums."""
    return (_dots_vnni if vnni else _dots_plain)(builder, width, row, table, num_bytes)


def _dots_vnni(builder: Any, width: int, row: Any, table: Any, num_bytes: Any) -> Any:
    """Four bytes are a group of four places; four groups at once cover the instruction's latency."""
    num_halves = width // 16
    half = ir.VectorType(I32, 16)
    groups, lanes = place_of(builder, row, I32), place_of(builder, table, half)
    num_groups = builder.sdiv(num_bytes, whole(4))
    at_once = ROW_BYTES // 4

    def body(step: Any, state: list[Any]) -> list[Any]:
        new = list(state)
        for turn in range(at_once):
            group = builder.add(builder.mul(step, whole(at_once)), whole(turn))
            four = spread(builder, builder.load(at(builder, groups, group), align=1), 16)
            for number in range(num_halves):
                where = builder.add(builder.mul(group, whole(num_halves)), whole(number))
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


def _dots_plain(builder: Any, width: int, row: Any, table: Any, num_bytes: Any) -> Any:
    """A product of 8 and 7 bits fills 16, so every product is widened before it is added."""
    words, sums = ir.VectorType(I16, width), ir.VectorType(I32, width)
    bytes_of, lanes = place_of(builder, row, I8), place_of(builder, table, words)

    def body(place: Any, state: list[Any]) -> list[Any]:
        level = builder.zext(builder.load(at(builder, bytes_of, place)), I16)
        factor = builder.load(at(builder, lanes, place), align=2)
        return [builder.add(state[0], builder.sext(builder.mul(spread(builder, level, width), factor), sums))]

    return loop(builder, whole(0), num_bytes, [splat(I32, width, 0)], body)[0]


def _unpack(bits: int) -> Any:
    def unpack(typing_context: Any, row: Any, num_bytes: Any, out: Any) -> Any:
        """Part ``p`` of byte ``b`` (of ``num_bytes``, a multiple of 16) at the address ``row`` to byte ``p * num_bytes + b`` at ``out``."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.VectorType(I8, ROW_BYTES)
            source, target = place_of(builder, arguments[0], kind), place_of(builder, arguments[2], I8)

            def body(step: Any, state: list[Any]) -> list[Any]:
                given = builder.load(at(builder, source, step), align=1)
                for part in range(8 // bits):
                    levels = builder.lshr(given, splat(I8, ROW_BYTES, part * bits))
                    levels = builder.and_(levels, splat(I8, ROW_BYTES, (1 << bits) - 1))
                    place = builder.add(builder.mul(step, whole(ROW_BYTES)), builder.mul(arguments[1], whole(part)))
                    builder.store(levels, builder.bitcast(at(builder, target, place), kind.as_pointer()), align=1)
                return []

            loop(builder, whole(0), builder.sdiv(arguments[1], whole(ROW_BYTES)), [], body)
            return context.get_dummy_value()

        return types.void(types.uintp, types.int64, types.uintp), generate

    unpack.__name__ = f"unpack_{bits}"
    return intrinsic(unpack)


unpack_2, unpack_4 = (_unpack(bits) for bits in (2, 4))


def _append_bits(typing_context: Any, plane: Any, num_places: Any, num_fine: Any, out: Any) -> Any:
    """``num_places`` bytes at ``out`` are doubled, and bit ``i`` of those at ``plane`` is added to byte ``i`` below ``num_fine``.

    Both numbers are multiples of 16.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.VectorType(I8, ROW_BYTES)
        words, target = place_of(builder, arguments[0], I16), place_of(builder, arguments[3], kind)

        def doubled(step: Any) -> tuple[Any, Any]:
            place = at(builder, target, step)
            return place, builder.shl(builder.load(place, align=1), splat(I8, ROW_BYTES, 1))

        def fine(step: Any, state: list[Any]) -> list[Any]:
            place, levels = doubled(step)
            flags = builder.bitcast(builder.load(at(builder, words, step), align=1), ir.VectorType(ir.IntType(1), ROW_BYTES))
            builder.store(builder.or_(levels, builder.zext(flags, kind)), place, align=1)
            return []

        def coarse(step: Any, state: list[Any]) -> list[Any]:
            place, levels = doubled(step)
            builder.store(levels, place, align=1)
            return []

        border, end = (builder.sdiv(number, whole(ROW_BYTES)) for number in (arguments[2], arguments[1]))
        loop(builder, whole(0), border, [], fine)
        loop(builder, border, end, [], coarse)
        return context.get_dummy_value()

    return types.void(types.uintp, types.int64, types.int64, types.uintp), generate


append_bits: Any = intrinsic(_append_bits)


def _lane_scores(width: int, wants_vnni: bool | None = None) -> Any:
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

        ``dots``: of ``num_bytes`` (a multiple of 16) bytes at ``row`` with ``packed_lanes``. All but ``num_bytes`` and ``factor`` are
        addresses, those of float32 ``(width,)``.
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            given, size, table, offset, unit, multiplier, base_of, target, best_of = arguments
            vnni = has_vnni() if wants_vnni is None else wants_vnni
            products = dots(builder, width, given, table, size, vnni)
            floats = ir.VectorType(ir.FloatType(), width)
            loaded = [builder.load(place_of(builder, where, floats), align=4) for where in (offset, unit, base_of, best_of)]
            scaled = builder.fmul(loaded[1], spread(builder, multiplier, width))
            value = builder.fadd(loaded[2], builder.fmul(builder.fadd(builder.sitofp(products, floats), loaded[0]), scaled))
            builder.store(value, place_of(builder, target, floats), align=4)
            larger = builder.select(builder.fcmp_ordered(">", value, loaded[3]), value, loaded[3])
            builder.store(larger, place_of(builder, best_of, floats), align=4)
            return context.get_dummy_value()

        address = types.uintp
        signature = types.void(address, types.int64, address, address, address, types.float32, address, address, address)
        return signature, generate

    scores.__name__ = f"scores_{width}"
    return intrinsic(scores)


scores_16, scores_32 = map(_lane_scores, WIDTHS)
