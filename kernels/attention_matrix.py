"""Products of rows with keys and of weights with values in the matrix registers of a processor (AMX), bfloat16. Knows addresses of scratch memory; see ``attention_tiles_cpu``.

A register holds 16 rows of 64 bytes; one instruction multiplies 16 keys of 32 dimensions with 16 rows and adds to 16 x 16 float32. What ``attention_vectors``
keeps for sixteen lanes fits as it is: a query tile, two dimensions a word, is the right factor of scores, and weights, two keys a word, are that of values. Keys are the
left factor where they lie; values are turned first, so that a row is one dimension of many keys. A type of its own, int16, asks for this way: where it is not compiled
for, nothing here is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from rag.kernels.attention_vectors import FLOATS, LANES, WORDS, by_vectors, load_vector, turned, vector_at
from rag.kernels.exponential import F32
from rag.kernels.llvm_vectors import I8, I16, called, loop, place_of, splat, spread, whole

TILE = 16
"""Rows of a register, and words of a row."""
STEP_KEYS = 2 * TILE
"""Keys whose weights one instruction takes."""
AS_MATRIX = np.int16(0)
"""Stands for bfloat16 that goes in matrix registers."""
_NONE = ir.VoidType()
_LEFT, _RIGHT = 3, 4  # registers 0, 1 and 2 are sums, one for every vector of rows


CONFIGURATION: NDArray[np.uint8] = np.zeros(64, np.uint8)
"""What a thread tells its processor first: all eight registers are whole."""
CONFIGURATION[0] = 1
CONFIGURATION[16:32:2] = 64
CONFIGURATION[48:56] = TILE


def _register(number: int) -> Any:
    return ir.Constant(I8, number)


def _load(builder: Any, number: int, base: Any, step: Any) -> None:
    called(builder, "llvm.x86.tileloadd64", _NONE, [_register(number), place_of(builder, base, I8), step])


def _store(builder: Any, number: int, base: Any, step: Any) -> None:
    called(builder, "llvm.x86.tilestored64", _NONE, [_register(number), place_of(builder, base, I8), step])


def _multiply(builder: Any, vectors: int, steps: Any, left: Any, step: Any, right: Any) -> None:
    """Adds to the sums: the left factor goes on by 64 bytes, the right one by 16 words of all rows."""
    wide = 64 * vectors

    def some(place: Any, state: list[Any]) -> list[Any]:
        _load(builder, _LEFT, builder.add(left, builder.mul(place, whole(64))), step)
        base = builder.add(right, builder.mul(place, whole(TILE * wide)))
        for v in range(vectors):
            _load(builder, _RIGHT + v, builder.add(base, whole(64 * v)), whole(wide))
        for v in range(vectors):
            called(builder, "llvm.x86.tdpbf16ps", _NONE, [_register(v), _register(_LEFT), _register(_RIGHT + v)])
        return []

    loop(builder, whole(0), builder.sdiv(steps, whole(TILE)), [], some)


def _score(builder: Any, like: Any, vectors: int, arguments: list[Any]) -> None:
    if like != types.int16:
        return
    rows, steps, keys, across, factor, out = arguments
    for v in range(vectors):
        called(builder, "llvm.x86.tilezero", _NONE, [_register(v)])
    _multiply(builder, vectors, steps, keys, across, rows)
    for v in range(vectors):
        _store(builder, v, builder.add(out, whole(64 * v)), whole(64 * vectors))
    factors = spread(builder, factor, LANES)

    def scale(place: Any, state: list[Any]) -> list[Any]:
        where = vector_at(builder, out, place)
        builder.store(builder.fmul(builder.load(where, align=64), factors), where, align=64)
        return []

    loop(builder, whole(0), whole(TILE * vectors), [], scale)


def _add_values(builder: Any, like: Any, vectors: int, arguments: list[Any]) -> None:
    if like != types.int16:
        return
    weights, steps, values, along, fade, out = arguments
    fades = [load_vector(builder, fade, v) for v in range(vectors)]
    fading = ir.Constant(I16, 0)
    for each in fades:
        fading = builder.or_(fading, builder.bitcast(builder.fcmp_unordered("!=", each, splat(F32, LANES, 1.0)), I16))

    def faded(place: Any, state: list[Any]) -> list[Any]:
        for v in range(vectors):
            where = vector_at(builder, out, builder.add(builder.mul(place, whole(vectors)), whole(v)))
            builder.store(builder.fmul(builder.load(where, align=64), fades[v]), where, align=64)
        return []

    with builder.if_then(builder.icmp_unsigned("!=", fading, ir.Constant(I16, 0))):
        loop(builder, whole(0), whole(TILE), [], faded)
    for v in range(vectors):
        _load(builder, v, builder.add(out, whole(64 * v)), whole(64 * vectors))
    _multiply(builder, vectors, steps, values, along, weights)
    for v in range(vectors):
        _store(builder, v, builder.add(out, whole(64 * v)), whole(64 * vectors))


def _turn_pairs(typing_context: Any, like: Any, values: Any, step: Any, num_keys: Any, out: Any, along: Any) -> Any:
    """Sixteen dimensions of 32 keys, ``step`` bytes apart, to ``out``: a row of sixteen words, two keys each, for every dimension. Past ``num_keys`` stands the first key again: it has no weight there."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, base, across, count, target, apart = arguments
        halves = ir.VectorType(I16, LANES)

        def row(key: int) -> Any:
            inside = builder.icmp_signed("<", whole(key), count)
            where = builder.add(base, builder.mul(across, builder.select(inside, whole(key), whole(0))))
            return builder.zext(builder.load(place_of(builder, where, halves), align=2), WORDS)

        upper = ir.Constant(WORDS, [16] * LANES)
        pairs = [builder.or_(row(2 * pair), builder.shl(row(2 * pair + 1), upper)) for pair in range(TILE)]
        for number, dimension in enumerate(turned(builder, [builder.bitcast(pair, FLOATS) for pair in pairs])):
            where = builder.add(target, builder.mul(apart, whole(number)))
            builder.store(dimension, place_of(builder, where, FLOATS), align=64)
        return context.get_dummy_value()

    return types.void(like, types.uintp, types.int64, types.int64, types.uintp, types.int64), generate


def _open_registers(typing_context: Any, like: Any, told: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if like == types.int16:
            called(builder, "llvm.x86.ldtilecfg", _NONE, [place_of(builder, arguments[1], I8)])
        return context.get_dummy_value()

    return types.void(like, types.uintp), generate


def _close_registers(typing_context: Any, like: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if like == types.int16:
            called(builder, "llvm.x86.tilerelease", _NONE, [])
        return context.get_dummy_value()

    return types.void(like), generate


_ADDRESS, _NUMBER = types.uintp, types.int64
score_16 = by_vectors("score_16", (_ADDRESS, _NUMBER, _ADDRESS, _NUMBER, types.float32, _ADDRESS), _score)
"""``score_16(vectors, like, (rows, steps, keys, across, factor, out))``: as ``attention_vectors.score``, of sixteen keys; only for compiled code, as all of these."""
add_values_16 = by_vectors("add_values_16", (_ADDRESS, _NUMBER, _ADDRESS, _NUMBER, _ADDRESS, _ADDRESS), _add_values)
"""``add_values_16(vectors, like, (weights, steps, values, along, fade, out))``: as ``attention_vectors.add_values``, of sixteen dimensions, of values that were turned."""
turn_pairs: Any = intrinsic(_turn_pairs)
"""``turn_pairs(like, values, step, num_keys, out, along)``."""
open_registers: Any = intrinsic(_open_registers)
"""``open_registers(like, configuration)``: before the first product in a thread."""
close_registers: Any = intrinsic(_close_registers)
"""``close_registers(like)``: after the last; a thread that keeps them has more to save whenever it waits."""
