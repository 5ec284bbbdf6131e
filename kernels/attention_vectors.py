"""Products of rows with keys and of weights with values in registers. Knows addresses of scratch memory; see ``attention_tiles_cpu``.

Rows lie in lanes: a vector holds one number of sixteen rows. Then the largest score of a row, its sum and its mask are lanes of a vector too (see
``softmax_vectors``), and keys and values are read where they lie, one number at a time for all rows. With AVX-512 a tile is eight keys (or eight dimensions of values) by one to
three vectors of rows, 24 sums in 32 registers; with AVX2 two by two, each vector in two registers. In bfloat16 a "number" of 32 bits is two neighbours, multiplied and added to the float32 sum by one instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rag.kernels.choose import processor_has
from rag.kernels.exponential import F32
from rag.kernels.llvm_vectors import I32, I64, at, called, loop, place_of, splat, spread, whole
from rag.kernels.row_vectors import write_sixteen

LANES = 16
"""Float32 of a register."""
MOST_VECTORS, TILE_KEYS = (3, 8) if processor_has("avx512f") else (2, 2)
"""Vectors of rows of a tile, and keys of a tile of scores, dimensions of a tile of outputs: as many sums as stay in 32 registers of sixteen numbers, or in 16 of eight."""
FLOATS, WORDS = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)


class _BFloat(ir.types.Type):  # type: ignore[misc]
    """bfloat16, for which llvmlite has no word."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_PAIRS = ir.VectorType(_BFloat(), 2 * LANES)


def vector_at(builder: Any, base: Any, number: Any) -> Any:
    """The address of vector ``number`` behind ``base``, a whole vector of float32 that scratch memory aligns."""
    return at(builder, place_of(builder, base, FLOATS), number)


def load_vector(builder: Any, base: Any, number: int) -> Any:
    return builder.load(vector_at(builder, base, whole(number)), align=64)


def store_vector(builder: Any, base: Any, number: int, value: Any) -> None:
    builder.store(value, vector_at(builder, base, whole(number)), align=64)


def _added(builder: Any, like: Any, one: Any, other: Any, total: Any) -> Any:
    if like == types.float32:
        return called(builder, f"llvm.fma.v{LANES}f32", FLOATS, [one, other, total])
    pairs = [builder.bitcast(each, _PAIRS) for each in (one, other)]
    return called(builder, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, [total, *pairs])


def _tile(
    builder: Any, like: Any, vectors: int, rows: Any, steps: Any, base: Any, across: Any, along: Any, last: Any
) -> list[list[Any]]:
    """``sums[i][v] = sum_s rows[s][v] * word(base + min(i, last) * across + s * along)`` over ``steps``."""
    starts = []
    for number in range(TILE_KEYS):
        inside = builder.icmp_signed("<", whole(number), last)
        starts.append(builder.add(base, builder.mul(across, builder.select(inside, whole(number), last))))

    def step(place: Any, state: list[Any]) -> list[Any]:
        first = builder.mul(place, whole(vectors))
        asked = [builder.load(vector_at(builder, rows, builder.add(first, whole(v))), align=64) for v in range(vectors)]
        shift = builder.mul(place, along)
        new = []
        for number, start in enumerate(starts):
            word = builder.load(place_of(builder, builder.add(start, shift), F32), align=2)
            repeated = spread(builder, word, LANES)
            new += [_added(builder, like, asked[v], repeated, state[number * vectors + v]) for v in range(vectors)]
        return new

    sums = loop(builder, whole(0), steps, [splat(F32, LANES, 0.0)] * (TILE_KEYS * vectors), step)
    return [sums[number * vectors : (number + 1) * vectors] for number in range(TILE_KEYS)]


def turned(builder: Any, rows: list[Any]) -> list[Any]:
    """Sixteen vectors of sixteen, columns for rows: each of four steps exchanges blocks of twice the size."""
    size = 1
    while size < LANES:
        lanes = range(LANES)
        upper = ir.Constant(WORDS, [lane if not lane & size else LANES + lane - size for lane in lanes])
        lower = ir.Constant(WORDS, [lane + size if not lane & size else LANES + lane for lane in lanes])
        new = list(rows)
        for number in lanes:
            if not number & size:
                one, other = rows[number], rows[number + size]
                new[number] = builder.shuffle_vector(one, other, upper)
                new[number + size] = builder.shuffle_vector(one, other, lower)
        rows, size = new, 2 * size
    return rows


def _gather(typing_context: Any, places: Any, shift: Any, out: Any, step: Any) -> Any:
    """Sixteen words behind each of sixteen addresses, ``shift`` bytes on, to ``out``: a word of all of them is a vector, vectors ``step`` bytes apart."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        listed, shifted, target, apart = arguments
        rows = []
        for number in range(LANES):
            base = builder.load(at(builder, place_of(builder, listed, I64), whole(number)))
            rows.append(builder.load(place_of(builder, builder.add(base, shifted), FLOATS), align=2))
        for number, column in enumerate(turned(builder, rows)):
            where = builder.add(target, builder.mul(apart, whole(number)))
            builder.store(column, place_of(builder, where, FLOATS), align=64)
        return context.get_dummy_value()

    return types.void(types.uintp, types.int64, types.uintp, types.int64), generate


def _scatter(typing_context: Any, like: Any, given: Any, step: Any, shares: Any, places: Any, shift: Any) -> Any:
    """The way back, sixteen dimensions of sixteen rows, in the type of ``like``; ``shares`` is what the sums of each row are multiplied with."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, apart, factors, listed, shifted = arguments
        factor = load_vector(builder, factors, 0)
        columns = []
        for number in range(LANES):
            where = builder.add(source, builder.mul(apart, whole(number)))
            columns.append(builder.fmul(builder.load(place_of(builder, where, FLOATS), align=64), factor))
        for number, row in enumerate(turned(builder, columns)):
            base = builder.load(at(builder, place_of(builder, listed, I64), whole(number)))
            write_sixteen(builder, like, builder.add(base, shifted), whole(0), row)
        return context.get_dummy_value()

    return types.void(like, types.uintp, types.int64, types.uintp, types.uintp, types.int64), generate


def by_vectors(name: str, arguments: Sequence[Any], generate: Callable[[Any, Any, int, list[Any]], None]) -> Any:
    """An intrinsic of numba ``name(vectors, like, ...)``: the code that ``generate`` gives for one, two or three vectors of rows.

    ``arguments`` are numba's types of those behind ``like``, a number of the type of keys and values; ``generate`` is handed the builder, that type, how
    many vectors, and the arguments.
    """

    def choose(typing_context: Any, vectors: Any, like: Any, given: Any) -> Any:
        def switch(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            listed = [builder.extract_value(values[2], number) for number in range(len(arguments))]
            for number in range(1, MOST_VECTORS + 1):
                with builder.if_then(builder.icmp_signed("==", values[0], whole(number))):
                    generate(builder, like, number, listed)
            return context.get_dummy_value()

        given_types: Any = types.Tuple
        return types.void(types.int64, like, given_types(arguments)), switch

    choose.__name__ = name
    return intrinsic(choose)


def _score(builder: Any, like: Any, vectors: int, arguments: list[Any]) -> None:
    if like == types.int16:  # see ``attention_matrix``
        return
    rows, steps, keys, across, last, factor, out = arguments
    factors = spread(builder, factor, LANES)
    for number, line in enumerate(_tile(builder, like, vectors, rows, steps, keys, across, whole(4), last)):
        for v, total in enumerate(line):
            store_vector(builder, out, number * vectors + v, builder.fmul(total, factors))


def _add_values(builder: Any, like: Any, vectors: int, arguments: list[Any]) -> None:
    if like == types.int16:
        return
    weights, steps, values, along, last, fade, out = arguments
    sums = _tile(builder, like, vectors, weights, steps, values, whole(4), along, last)
    fades = [load_vector(builder, fade, v) for v in range(vectors)]
    for number, line in enumerate(sums):
        for v, total in enumerate(line):
            before = load_vector(builder, out, number * vectors + v)
            value = called(builder, f"llvm.fma.v{LANES}f32", FLOATS, [before, fades[v], total])
            store_vector(builder, out, number * vectors + v, value)


gather_16: Any = intrinsic(_gather)
"""``gather_16(places, shift, out, step)``; only for compiled code, as all of these."""
scatter_16: Any = intrinsic(_scatter)
"""``scatter_16(like, given, step, shares, places, shift)``."""
_ADDRESS, _NUMBER = types.uintp, types.int64
score = by_vectors("score", (_ADDRESS, _NUMBER, _ADDRESS, _NUMBER, _NUMBER, types.float32, _ADDRESS), _score)
"""``score(vectors, like, (rows, steps, keys, across, last, factor, out))``: ``out[i] = factor * rows . keys[min(i, last)]`` for ``TILE_KEYS`` keys, ``across`` bytes apart; rows
``(steps, vectors, 16)`` words."""
add_values = by_vectors("add_values", (_ADDRESS, _NUMBER, _ADDRESS, _NUMBER, _NUMBER, _ADDRESS, _ADDRESS), _add_values)
"""``add_values(vectors, like, (weights, steps, values, along, last, fade, out))``: ``out[i] = fade * out[i] + sum_s weights[s] * values[s][min(i, last)]`` for ``TILE_KEYS``
dimensions; ``values`` are ``along`` bytes apart."""
