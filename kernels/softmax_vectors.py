"""The softmax of scores as they go along, in registers. Knows addresses of scratch memory; see ``attention_vectors`` for how scores lie there.

A block of scores is ``(keys, vectors, 16)`` float32, multiplied with the logarithm of e to base 2: exponents are those of two. FlashAttention, arXiv 2205.14135:
the largest score so far is a row's measure; when a larger one comes, earlier sums fade.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rag.kernels.attention_vectors import FLOATS, LANES, WORDS, by_vectors, load_vector, store_vector, vector_at
from rag.kernels.exponential import F32, LOG2_E, hyperbolic_tangent, power_of_two
from rag.kernels.llvm_vectors import I32, called, loop, splat, spread, whole

NOTHING = -1e30
"""The largest score of a row before its first key: finite, so that nothing minus nothing is no NaN."""


def _cap(typing_context: Any, scores: Any, num_vectors: Any, cap: Any) -> Any:
    """Scores times the logarithm of e, as ``score`` leaves them, become ``cap tanh(score / cap)``, again in that measure."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, count, limit = arguments
        measure = builder.fmul(limit, ir.Constant(F32, LOG2_E))
        factors = spread(builder, measure, LANES)
        shares = spread(builder, builder.fdiv(ir.Constant(F32, 1.0), measure), LANES)

        def body(place: Any, state: list[Any]) -> list[Any]:
            where = vector_at(builder, target, place)
            ratio = builder.fmul(builder.load(where, align=64), shares)
            builder.store(builder.fmul(hyperbolic_tangent(builder, ratio), factors), where, align=64)
            return []

        loop(builder, whole(0), count, [], body)
        return context.get_dummy_value()

    return types.void(types.uintp, types.int64, types.float32), generate


def _hide(builder: Any, like: Any, vectors: int, arguments: list[Any]) -> None:
    scores, num_keys, first, lowest, highest = arguments
    bounds = [[builder.bitcast(load_vector(builder, each, v), WORDS) for v in range(vectors)] for each in (lowest, highest)]
    nothing = splat(F32, LANES, float("-inf"))

    def body(place: Any, state: list[Any]) -> list[Any]:
        key = spread(builder, builder.trunc(builder.add(first, place), I32), LANES)
        for v in range(vectors):
            where = _place(builder, scores, place, v, vectors)
            seen = builder.and_(builder.icmp_signed(">=", key, bounds[0][v]), builder.icmp_signed("<=", key, bounds[1][v]))
            builder.store(builder.select(seen, builder.load(where, align=64), nothing), where, align=64)
        return []

    loop(builder, whole(0), num_keys, [], body)


def _weigh(builder: Any, like: Any, vectors: int, arguments: list[Any]) -> None:
    scores, num_keys, largest, total, fade = arguments

    def score(key: Any, v: int) -> Any:
        return builder.load(_place(builder, scores, key, v, vectors), align=64)

    def higher(key: Any, state: list[Any]) -> list[Any]:
        given = [score(key, v) for v in range(vectors)]
        return [builder.select(builder.fcmp_ordered(">", one, peak), one, peak) for one, peak in zip(given, state, strict=True)]

    before = [load_vector(builder, largest, v) for v in range(vectors)]
    peaks = loop(builder, whole(0), num_keys, before, higher)
    fades = [power_of_two(builder, builder.fsub(old, new)) for old, new in zip(before, peaks, strict=True)]

    def weight(key: Any, v: int) -> Any:
        return power_of_two(builder, builder.fsub(score(key, v), peaks[v]))

    def single(key: Any, state: list[Any]) -> list[Any]:
        weights = [weight(key, v) for v in range(vectors)]
        for v in range(vectors):
            builder.store(weights[v], _place(builder, scores, key, v, vectors), align=64)
        return [builder.fadd(one, other) for one, other in zip(state, weights, strict=True)]

    def pair(number: Any, state: list[Any]) -> list[Any]:
        key, new = builder.mul(number, whole(2)), []
        for v in range(vectors):
            one, other = weight(key, v), weight(builder.add(key, whole(1)), v)
            builder.store(_paired(builder, one, other), _place(builder, scores, number, v, vectors), align=64)
            new.append(builder.fadd(state[v], builder.fadd(one, other)))
        return new

    nothing = [splat(F32, LANES, 0.0)] * vectors
    if like == types.float32:
        sums = loop(builder, whole(0), num_keys, nothing, single)
    else:
        sums = loop(builder, whole(0), builder.lshr(builder.add(num_keys, whole(1)), whole(1)), nothing, pair)
    for v in range(vectors):
        so_far = called(builder, f"llvm.fma.v{LANES}f32", FLOATS, [load_vector(builder, total, v), fades[v], sums[v]])
        for where, value in ((largest, peaks[v]), (fade, fades[v]), (total, so_far)):
            store_vector(builder, where, v, value)


def _place(builder: Any, scores: Any, key: Any, v: int, vectors: int) -> Any:
    return vector_at(builder, scores, builder.add(builder.mul(key, whole(vectors)), whole(v)))


def _paired(builder: Any, one: Any, other: Any) -> Any:
    """Two weights as bfloat16 in one word. They are no less than 0, so adding half of the last place rounds them, half up."""
    lower, upper = (builder.add(builder.bitcast(each, WORDS), splat(I32, LANES, 0x8000)) for each in (one, other))
    both = builder.or_(builder.lshr(lower, splat(I32, LANES, 16)), builder.and_(upper, splat(I32, LANES, 0xFFFF0000)))
    return builder.bitcast(both, FLOATS)


_ADDRESS, _NUMBER = types.uintp, types.int64
cap: Any = intrinsic(_cap)
"""``cap(scores, num_vectors, cap)``; only for compiled code, as all of these."""
hide = by_vectors("hide", (_ADDRESS, _NUMBER, _NUMBER, _ADDRESS, _ADDRESS), _hide)
"""``hide(vectors, like, (scores, num_keys, first, lowest, highest))``: minus infinity for the keys ``first, first + 1, ...`` outside of ``lowest .. highest`` of a row,
addresses of int32 ``(vectors, 16)``."""
weigh = by_vectors("weigh", (_ADDRESS, _NUMBER, _ADDRESS, _ADDRESS, _ADDRESS), _weigh)
"""``weigh(vectors, like, (scores, num_keys, largest, total, fade))``: scores become weights in their place, in pairs of keys where ``like`` is bfloat16; ``largest`` and
``total`` of the rows go on, ``fade`` is what earlier sums are worth now. The total is that of the weights before rounding."""
