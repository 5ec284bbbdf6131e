"""Powers of two and hyperbolic tangents of whole vectors of float32. Knows numbers; no score and no kernel.

``2^x = 2^n 2^r`` with n the nearest whole number: r lies within half a step, where a polynomial has a relative error of 2e-9 (fitted here to the
least largest relative error); n goes into the exponent's bits. Below -126.5 the result is 0, exactly, and what is no number stays none. From 128
on the result is undefined: a softmax has its largest at 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rag.kernels.llvm_vectors import I32, called, place_of, splat

F32 = ir.FloatType()
LOG2_E = 1.4426950408889634
COEFFICIENTS = (1.0, 0.6931472057, 0.2402264689, 0.05550328777, 0.009618488957, 0.001339993122, 0.0001534581202)
_SMALLEST = -127.0
_SHIFT = 1.5 * 2.0**23 + 127.0
"""Added to a small number, it leaves the nearest whole number plus 127 in the lowest bits: the exponent of a float32."""


def power_of_two(builder: Any, exponent: Any) -> Any:
    """Code for ``2^exponent`` of a vector of float32, below 128; relative error under 2e-7."""
    kind = exponent.type
    width = kind.count
    fused = f"llvm.fma.v{width}f32"
    least = splat(F32, width, _SMALLEST)
    exponent = builder.select(builder.fcmp_ordered("<", exponent, least), least, exponent)
    shift = splat(F32, width, _SHIFT)
    shifted = builder.fadd(exponent, shift)
    rest = builder.fsub(exponent, builder.fsub(shifted, shift))
    total = splat(F32, width, COEFFICIENTS[-1])
    for coefficient in COEFFICIENTS[-2::-1]:
        total = called(builder, fused, kind, [total, rest, splat(F32, width, coefficient)])
    bits = builder.shl(builder.bitcast(shifted, ir.VectorType(I32, width)), splat(I32, width, 23))
    return builder.fmul(total, builder.bitcast(bits, kind))


def hyperbolic_tangent(builder: Any, x: Any) -> Any:
    """Code for ``tanh(x)`` of a vector of float32: ``(1 - e) / (1 + e)`` with ``e = exp(-2 |x|)``, near zero Lambert's fraction; relative error under 4e-7."""
    kind = x.type
    width = kind.count

    def constant(value: float) -> Any:
        return splat(F32, width, value)

    size = called(builder, f"llvm.fabs.v{width}f32", kind, [x])
    faded = power_of_two(builder, builder.fmul(size, constant(-2 * LOG2_E)))
    square = builder.fmul(size, size)
    above, below = constant(21.0), builder.fadd(square, constant(210.0))
    for upper, lower in ((1260.0, 4725.0), (10395.0, 10395.0)):
        above = builder.fadd(builder.fmul(above, square), constant(upper))
        below = builder.fadd(builder.fmul(below, square), constant(lower))
    near = builder.fcmp_ordered("<", size, constant(0.625))
    above = builder.select(near, builder.fmul(size, above), builder.fsub(constant(1.0), faded))
    below = builder.select(near, below, builder.fadd(constant(1.0), faded))
    return called(builder, f"llvm.copysign.v{width}f32", kind, [builder.fdiv(above, below), x])


def _of_sixteen(name: str, function: Callable[[Any, Any], Any]) -> Any:
    def apply(typing_context: Any, given: Any, out: Any) -> Any:
        """``function`` of sixteen numbers, from one address to another."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.VectorType(F32, 16)
            numbers = builder.load(place_of(builder, arguments[0], kind), align=4)
            builder.store(function(builder, numbers), place_of(builder, arguments[1], kind), align=4)
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp), generate

    apply.__name__ = name
    return intrinsic(apply)


powers_16 = _of_sixteen("powers_16", power_of_two)
"""``powers_16(given, out)``; only for compiled code."""
tangents_16 = _of_sixteen("tangents_16", hyperbolic_tangent)
"""``tangents_16(given, out)``; only for compiled code."""
