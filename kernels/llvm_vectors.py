"""Pieces of LLVM code that numba's functions are made of: addresses, loops and constants of vectors. Knows no kernel.

numba turns a plain loop over a row of 32 bytes into 32 scalar steps; as one vector of 32 bytes the same row is one AVX2 or two NEON
instructions, whatever the processor: LLVM splits vectors that it has no register for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def place_of(builder: Any, given: Any, kind: Any) -> Any:
    """A number as the address of a ``kind``."""
    return builder.inttoptr(given, kind.as_pointer())


def whole(value: int) -> Any:
    """A 64-bit constant."""
    return ir.Constant(I64, value)


def splat(kind: Any, width: int, value: float) -> Any:
    """A constant vector of equal numbers."""
    return ir.Constant(ir.VectorType(kind, width), [value] * width)


def spread(builder: Any, value: Any, width: int) -> Any:
    """A vector of ``width`` copies of a value."""
    kind = ir.VectorType(value.type, width)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), splat(I32, width, 0))


def joined(builder: Any, vectors: list[Any]) -> Any:
    """One vector of the elements of 1, 2, 4 ... vectors of one kind."""
    while len(vectors) > 1:
        size = 2 * vectors[0].type.count
        order = ir.Constant(ir.VectorType(I32, size), list(range(size)))
        vectors = [builder.shuffle_vector(one, other, order) for one, other in zip(vectors[::2], vectors[1::2], strict=True)]
    return vectors[0]


def at(builder: Any, base: Any, place: Any) -> Any:
    """The element ``place`` behind an address."""
    return builder.gep(base, [place])


def loop(builder: Any, first: Any, last: Any, initial: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """``for i in range(first, last): state = body(i, state)``; returns the state."""
    before, function = builder.block, builder.function
    inside, after = function.append_basic_block("lanes"), function.append_basic_block("done")
    builder.cbranch(builder.icmp_signed("<", first, last), inside, after)
    builder.position_at_end(inside)
    place = builder.phi(I64)
    place.add_incoming(first, before)
    state = [builder.phi(value.type) for value in initial]
    for phi, value in zip(state, initial, strict=True):
        phi.add_incoming(value, before)
    changed = body(place, state)
    following = builder.add(place, whole(1))
    place.add_incoming(following, builder.block)
    for phi, value in zip(state, changed, strict=True):
        phi.add_incoming(value, builder.block)
    last_block = builder.block
    builder.cbranch(builder.icmp_signed("<", following, last), inside, after)
    builder.position_at_end(after)
    result = [builder.phi(value.type) for value in initial]
    for phi, value, new in zip(result, initial, changed, strict=True):
        phi.add_incoming(value, before)
        phi.add_incoming(new, last_block)
    return result


def called(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """A call of LLVM's own function of that name, which is declared once in a module."""
    known = builder.module.globals.get(name)
    if known is None:
        known = ir.Function(builder.module, ir.FunctionType(result, [argument.type for argument in arguments]), name)
    return builder.call(known, arguments)
