"""Dot products of coded token vectors with 16 or 32 query tokens on a processor, levels unpacked in registers. Knows addresses; no document.

Sixteen levels at a time are taken out of their codes. With AVX-512 VNNI they are repeated four times over a register and multiplied with the
same sixteen places of four lanes, four products of bytes being added to a 32-bit sum by one instruction. With AVX2 four of them are repeated
eight times and multiplied with the same four places of eight lanes, two products being added in 16 bits, which hold eight products of at
most 5 and 7 bits; levels of 8 bits go as two halves. Anywhere else one place is multiplied with all lanes at a time, in 16 bits. The same
integers come out of all three: ``warp_score_lanes.reference_dots``.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rag.kernels.llvm_vectors import I8, I16, I32, at, called, joined, loop, place_of, splat, spread, whole
from rag.kernels.warp_score_lanes import ROW_BYTES, WIDTHS, Way, product_way

SUMS = 16
"""32-bit sums in a register of AVX-512: four of each of four lanes."""
PAIR_SUMS = 8
"""32-bit sums in a register of AVX2, one of each of eight lanes."""


def dots(builder: Any, width: int, row: Any, table: Any, dim: Any, way: Way, bits: int = 8, num_fine: Any = None) -> Any:
    """Code for the dot products of ``dim`` levels coded at ``row`` with ``packed_lanes`` at ``table``: ``width`` 32-bit sums.

    Codes as ``warp_score_codes.unpacked`` has them, whole rows of 16 bytes; ``num_fine`` is read with 5 bits only.
    """
    plain = 4 if bits == 5 else bits
    num_steps = builder.sdiv(builder.mul(dim, whole(plain)), whole(8 * ROW_BYTES))
    codes = place_of(builder, row, ir.VectorType(I8, ROW_BYTES))
    size, add = {"vnni": (SUMS, _add_vnni), "pairs": (PAIR_SUMS, _add_pairs), "plain": (width, _add_plain)}[way]
    num_sums = width // 4 if way == "vnni" else width // size

    def body(step: Any, state: list[Any]) -> list[Any]:
        given = builder.load(at(builder, codes, step), align=1)
        for part in range(8 // plain):
            chunk = builder.add(step, builder.mul(num_steps, whole(part))) if part else step
            levels = _part(builder, given, part, plain)
            if bits == 5:
                levels = _with_flags(builder, levels, row, dim, num_fine, chunk, always=not part)
            state = add(builder, width, levels, bits, table, chunk, state)
        return state

    sums = loop(builder, whole(0), num_steps, [splat(I32, size, 0)] * num_sums, body)
    return _in_lanes(builder, width, sums) if way == "vnni" else joined(builder, sums)


def _part(builder: Any, given: Any, part: int, bits: int) -> Any:
    if bits == 8:
        return given
    if part:
        given = builder.lshr(given, splat(I8, ROW_BYTES, part * bits))
    return given if (part + 1) * bits == 8 else builder.and_(given, splat(I8, ROW_BYTES, (1 << bits) - 1))


def _with_flags(builder: Any, levels: Any, row: Any, dim: Any, num_fine: Any, chunk: Any, always: bool) -> Any:
    """Twice the levels, and one more where the plane behind the row, which the first ``num_fine`` dimensions have, has a bit."""
    plane = place_of(builder, builder.add(row, builder.sdiv(dim, whole(2))), I16)
    if always:  # at least half of the dimensions are fine
        flags = builder.load(at(builder, plane, chunk), align=1)
    else:
        num_chunks = builder.sdiv(num_fine, whole(ROW_BYTES))
        inside = builder.icmp_signed("<", chunk, num_chunks)
        last = builder.sub(num_chunks, whole(1))
        flags = builder.load(at(builder, plane, builder.select(inside, chunk, last)), align=1)
        flags = builder.select(inside, flags, ir.Constant(I16, 0))
    ones = builder.zext(builder.bitcast(flags, ir.VectorType(ir.IntType(1), ROW_BYTES)), levels.type)
    return builder.or_(builder.add(levels, levels), ones)


def _add_vnni(builder: Any, width: int, levels: Any, bits: int, table: Any, chunk: Any, state: list[Any]) -> list[Any]:
    kind = ir.VectorType(I32, SUMS)
    four = builder.bitcast(levels, ir.VectorType(I32, 4))
    repeated = ir.Constant(ir.VectorType(I32, SUMS), [0, 1, 2, 3] * 4)
    wide = builder.shuffle_vector(four, ir.Constant(four.type, ir.Undefined), repeated)
    factors = at(builder, place_of(builder, table, kind), builder.mul(chunk, whole(len(state))))
    new = []
    for number, total in enumerate(state):
        factor = builder.load(at(builder, factors, whole(number)), align=1)
        new.append(called(builder, "llvm.x86.avx512.vpdpbusd.512", kind, [total, wide, factor]))
    return new


def _in_lanes(builder: Any, width: int, sums: list[Any]) -> Any:
    """Register ``i`` of four has the sums of lanes ``i, 4 + i, 8 + i, 12 + i``, four each: the total of each, by lane."""

    def paired(one: Any, other: Any, size: int) -> Any:
        # within each quarter of a register: numbers of ``one`` and ``other`` by turns, ``size`` at a time, first halves plus second halves
        orders: list[list[int]] = [[], []]
        for start in range(0, SUMS, 4):
            for half in range(2):
                for turn in range(0, 2, size):
                    place = start + 2 * half + turn
                    for source in (0, SUMS):
                        orders[half] += [source + place + inside for inside in range(size)]
        kind = ir.VectorType(I32, SUMS)
        first, second = (builder.shuffle_vector(one, other, ir.Constant(kind, order)) for order in orders)
        return builder.add(first, second)

    halves = []
    for start in range(0, len(sums), 4):
        first, second = paired(sums[start], sums[start + 1], 1), paired(sums[start + 2], sums[start + 3], 1)
        halves.append(paired(first, second, 2))
    return joined(builder, halves)


def _add_pairs(builder: Any, width: int, levels: Any, bits: int, table: Any, chunk: Any, state: list[Any]) -> list[Any]:
    """Two products of levels below 32 with 7 bits fill 13 of 16 bits, those of four groups 15; a level of 8 bits is one below 16 and 16 times another."""
    pairs, sums, factors_kind = (ir.VectorType(kind, n) for kind, n in ((I16, 16), (I32, PAIR_SUMS), (I8, 32)))
    parts = [(levels, 1)]
    if bits == 8:
        parts = [(_part(builder, levels, 0, 4), 1), (_part(builder, levels, 1, 4), 16)]
    factors = at(builder, place_of(builder, table, factors_kind), builder.mul(chunk, whole(4 * len(state))))
    new = list(state)
    for part, weight in parts:
        four = builder.bitcast(part, ir.VectorType(I32, 4))
        undefined = ir.Constant(four.type, ir.Undefined)
        repeated = [
            builder.bitcast(builder.shuffle_vector(four, undefined, splat(I32, PAIR_SUMS, group)), factors_kind)
            for group in range(4)
        ]
        for number in range(len(state)):
            total = ir.Constant(pairs, [0] * 16)
            for group in range(4):
                factor = builder.load(at(builder, factors, whole(group * len(state) + number)), align=1)
                total = builder.add(total, called(builder, "llvm.x86.avx2.pmadd.ub.sw", pairs, [repeated[group], factor]))
            whole_sums = called(builder, "llvm.x86.avx2.pmadd.wd", sums, [total, splat(I16, 16, weight)])
            new[number] = builder.add(new[number], whole_sums)
    return new


def _add_plain(builder: Any, width: int, levels: Any, bits: int, table: Any, chunk: Any, state: list[Any]) -> list[Any]:
    """A product of 8 and 7 bits fills 16, so every product is widened before it is added."""
    words, sums = ir.VectorType(I16, width), ir.VectorType(I32, width)
    factors = at(builder, place_of(builder, table, words), builder.mul(chunk, whole(ROW_BYTES)))
    total = state[0]
    for place in range(ROW_BYTES):
        level = builder.zext(builder.extract_element(levels, ir.Constant(I32, place)), I16)
        factor = builder.load(at(builder, factors, whole(place)), align=2)
        total = builder.add(total, builder.sext(builder.mul(spread(builder, level, width), factor), sums))
    return [total]


def scores_of(bits: int, width: int, wanted: Way | None = None) -> Any:
    """An intrinsic of numba for codes of ``bits`` and ``width`` lanes; ``wanted``: ``None`` is this processor's way."""

    def scores(
        typing_context: Any,
        row: Any,
        dim: Any,
        num_fine: Any,
        numbers: Any,
        offsets: Any,
        units: Any,
        factor: Any,
        base: Any,
        out: Any,
        best: Any,
    ) -> Any:
        """``out = base + (dots + offsets) * units * factor`` in every lane, and ``best = max(best, out)``.

        All but ``dim``, ``num_fine`` and ``factor`` are addresses, those of float32 ``(width,)``; ``row``: codes, ``numbers``: ``packed_lanes``.
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            given, size, fine, table, offset, unit, multiplier, base_of, target, best_of = arguments
            products = dots(builder, width, given, table, size, wanted or product_way(), bits, fine)
            floats = ir.VectorType(ir.FloatType(), width)
            loaded = [builder.load(place_of(builder, where, floats), align=4) for where in (offset, unit, base_of, best_of)]
            scaled = builder.fmul(loaded[1], spread(builder, multiplier, width))
            value = builder.fadd(loaded[2], builder.fmul(builder.fadd(builder.sitofp(products, floats), loaded[0]), scaled))
            builder.store(value, place_of(builder, target, floats), align=4)
            larger = builder.select(builder.fcmp_ordered(">", value, loaded[3]), value, loaded[3])
            builder.store(larger, place_of(builder, best_of, floats), align=4)
            return context.get_dummy_value()

        address, whole_number = types.uintp, types.int64
        addresses = (address, address, address)
        return types.void(address, whole_number, whole_number, *addresses, types.float32, *addresses), generate

    scores.__name__ = f"scores_{bits}_{width}"
    return intrinsic(scores)


scores_2_16, scores_4_16, scores_5_16, scores_8_16 = (scores_of(bits, WIDTHS[0]) for bits in (2, 4, 5, 8))
scores_2_32, scores_4_32, scores_5_32, scores_8_32 = (scores_of(bits, WIDTHS[1]) for bits in (2, 4, 5, 8))
