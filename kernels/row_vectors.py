"""One row of a head in vectors of 16: read, widened, scaled, turned, rounded, written, summed. Knows addresses and types; see ``rotate``, ``quantise``.

numba proves of no two rows that they are apart, so it checks, at every row of 64 numbers, whether it may use vectors at all. Here they are
spelled out. What is moved goes through the operations of the plain loops (``rotate_cpu.turn_row``) one by one, and so are the bits.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rag.kernels.llvm_vectors import I8, I16, I32, at, called, loop, place_of, splat, spread, whole

LANES = 16
F32 = ir.FloatType()
_FUSED = f"llvm.fmuladd.v{LANES}f32"
_FLOATS, _WORDS, _HALVES, _BYTES = (ir.VectorType(kind, LANES) for kind in (F32, I32, I16, I8))


def fits(dim: int, pairs: int, packed: bool) -> bool:
    """Whether rows of ``dim`` numbers whose first ``2 * pairs`` turn, ``i`` with ``i + pairs``, are whole vectors."""
    return dim % (2 * LANES if packed else LANES) == 0 and pairs % LANES == 0


def _read(builder: Any, kind: Any, base: Any, place: Any, dim: Any) -> Any:
    """Sixteen numbers from ``place`` on as float32, not scaled; uint8 are two dimensions a byte, as ``quantise`` packs them."""
    if kind == types.float32:
        return builder.load(builder.bitcast(at(builder, place_of(builder, base, F32), place), _FLOATS.as_pointer()), align=4)
    if kind == types.uint16:
        found = builder.load(builder.bitcast(at(builder, place_of(builder, base, I16), place), _HALVES.as_pointer()), align=2)
        return builder.bitcast(builder.shl(builder.zext(found, _WORDS), splat(I32, LANES, 16)), _FLOATS)
    if kind == types.uint8:
        half = builder.lshr(dim, whole(1))
        upper = builder.icmp_signed(">=", place, half)
        place = builder.select(upper, builder.sub(place, half), place)
        found = builder.load(builder.bitcast(at(builder, place_of(builder, base, I8), place), _BYTES.as_pointer()), align=1)
        shift = builder.select(upper, ir.Constant(I8, 4), ir.Constant(I8, 0))
        code = builder.and_(builder.lshr(found, spread(builder, shift, LANES)), splat(I8, LANES, 15))
        return builder.fsub(builder.uitofp(code, _FLOATS), splat(F32, LANES, 8.0))
    found = builder.load(builder.bitcast(at(builder, place_of(builder, base, I8), place), _BYTES.as_pointer()), align=1)
    return builder.sitofp(found, _FLOATS)


def write_sixteen(builder: Any, kind: Any, base: Any, place: Any, numbers: Any, past_caches: bool = False) -> None:
    """Sixteen float32 to ``place``, rounded half to even where the row is bfloat16; an aligned vector where it is written past the caches."""
    if kind == types.float32:
        to = builder.bitcast(at(builder, place_of(builder, base, F32), place), _FLOATS.as_pointer())
        stored = builder.store(numbers, to, align=4 * LANES if past_caches else 4)
        if past_caches:
            stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(I32, 1)]))
        return
    bits = builder.bitcast(numbers, _WORDS)
    odd = builder.and_(builder.lshr(bits, splat(I32, LANES, 16)), splat(I32, LANES, 1))
    upper = builder.lshr(builder.add(builder.add(bits, splat(I32, LANES, 0x7FFF)), odd), splat(I32, LANES, 16))
    upper = builder.select(builder.fcmp_unordered("uno", numbers, numbers), splat(I32, LANES, 0x7FC0), upper)
    to = builder.bitcast(at(builder, place_of(builder, base, I16), place), _HALVES.as_pointer())
    stored = builder.store(builder.trunc(upper, _HALVES), to, align=2 * LANES if past_caches else 2)
    if past_caches:
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(I32, 1)]))


def _mover(scaled: str, past_caches: bool = False) -> Any:
    def move(
        typing_context: Any, stored: Any, like: Any, scale: Any, cos: Any, sin: Any, dim: Any, pairs: Any, out: Any, to: Any
    ) -> Any:
        """Moves ``dim`` numbers of the type of ``like`` at ``stored`` to ``out``, of the type of ``to``; rows and tables are addresses."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            source, _, factor, cosines, sines, num, turned, target, _ = arguments

            def number(place: Any) -> Any:
                found = _read(builder, like, source, place, num)
                if scaled == "not":
                    return found
                factors = spread(builder, factor, LANES) if scaled == "rows" else _read(builder, types.float32, factor, place, num)
                return builder.fmul(found, factors)

            def turn(block: Any, state: list[Any]) -> list[Any]:
                place = builder.mul(block, whole(LANES))
                other = builder.add(place, turned)
                one, two = number(place), number(other)
                c, s = (_read(builder, types.float32, table, place, num) for table in (cosines, sines))
                write_sixteen(builder, to, target, place, builder.fsub(builder.fmul(one, c), builder.fmul(two, s)), past_caches)
                write_sixteen(builder, to, target, other, builder.fadd(builder.fmul(two, c), builder.fmul(one, s)), past_caches)
                return []

            def copy(block: Any, state: list[Any]) -> list[Any]:
                place = builder.mul(block, whole(LANES))
                write_sixteen(builder, to, target, place, number(place), past_caches)
                return []

            blocks, turned_blocks = (builder.sdiv(length, whole(LANES)) for length in (num, turned))
            loop(builder, whole(0), turned_blocks, [], turn)
            loop(builder, builder.mul(turned_blocks, whole(2)), blocks, [], copy)
            return context.get_dummy_value()

        factor_type = types.float32 if scaled == "rows" else types.uintp
        given = (types.uintp, like, factor_type, types.uintp, types.uintp, types.int64, types.int64, types.uintp, to)
        return types.void(*given), generate

    move.__name__ = f"move_row_{scaled}_scaled{'_past_caches' if past_caches else ''}"
    return intrinsic(move)


def _add_row(typing_context: Any, stored: Any, like: Any, weight: Any, dim: Any, sums: Any) -> Any:
    """Adds ``weight`` times each of ``dim`` numbers of the type of ``like`` at ``stored`` to the float32 at ``sums``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, _, factor, num, total = arguments
        weights = spread(builder, factor, LANES)

        def add(block: Any, state: list[Any]) -> list[Any]:
            place = builder.mul(block, whole(LANES))
            numbers, so_far = _read(builder, like, source, place, num), _read(builder, types.float32, total, place, num)
            write_sixteen(builder, types.float32, total, place, called(builder, _FUSED, _FLOATS, [numbers, weights, so_far]))
            return []

        loop(builder, whole(0), builder.sdiv(num, whole(LANES)), [], add)
        return context.get_dummy_value()

    return types.void(types.uintp, like, types.float32, types.int64, types.uintp), generate


def _dot_row(typing_context: Any, numbers: Any, stored: Any, like: Any, dim: Any) -> Any:
    """Dot product of ``dim`` float32 at ``numbers`` with numbers of the type of ``like`` at ``stored``, in sixteen sums that are added in the end."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        known, source, _, num = arguments

        def add(block: Any, state: list[Any]) -> list[Any]:
            place = builder.mul(block, whole(LANES))
            one, other = _read(builder, types.float32, known, place, num), _read(builder, like, source, place, num)
            return [called(builder, _FUSED, _FLOATS, [one, other, state[0]])]

        (sums,) = loop(builder, whole(0), builder.sdiv(num, whole(LANES)), [splat(F32, LANES, 0.0)], add)
        width = LANES
        while width > 1:  # halves onto halves: LLVM's own sum goes lane after lane
            width //= 2
            upper = ir.Constant(ir.VectorType(I32, width), list(range(width, 2 * width)))
            lower = ir.Constant(ir.VectorType(I32, width), list(range(width)))
            nothing = ir.Constant(sums.type, ir.Undefined)
            sums = builder.fadd(builder.shuffle_vector(sums, nothing, lower), builder.shuffle_vector(sums, nothing, upper))
        return builder.extract_element(sums, ir.Constant(I32, 0))

    return types.float32(types.uintp, types.uintp, like, types.int64), generate


move_row = _mover("not")
"""``move_row(stored, like, 0, cos, sin, dim, pairs, out, to)``; only for compiled code."""
move_key_codes = _mover("channels")
"""The same of codes with a scale per dimension: its third argument is the address of the scales."""
move_value_codes = _mover("rows")
"""The same of codes with one scale for the row, its third argument."""
move_row_past_caches, move_key_codes_past_caches, move_value_codes_past_caches = (
    _mover(scaled, past_caches=True) for scaled in ("not", "channels", "rows")
)
"""The same with stores that pass the caches by: a row of memory is then not read before it is written. Rows of whole aligned vectors only; ``fence`` at the end."""
add_row: Any = intrinsic(_add_row)
"""``add_row(stored, like, weight, dim, sums)``; only for compiled code."""
dot_row: Any = intrinsic(_dot_row)
"""``dot_row(numbers, stored, like, dim)``; only for compiled code."""
