"""What a compiled loop tells the memory: what it will read, and that what it wrote is to be seen. Knows addresses; no kernel."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from rag.kernels.llvm_vectors import I8, I32, place_of


def _prefetch(typing_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = place_of(builder, arguments[0], I8)
        name = "llvm.prefetch.p0"
        known = builder.module.globals.get(name)
        if known is None:
            known = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32]), name)
        builder.call(known, [pointer, ir.Constant(I32, 0), ir.Constant(I32, 3), ir.Constant(I32, 1)])
        return context.get_dummy_value()

    return types.void(types.uintp), generate


def _fence(typing_context: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


prefetch: Any = intrinsic(_prefetch)
"""``prefetch(address)`` asks for the 64 bytes around an address, which will be read soon; only for compiled code."""
fence: Any = intrinsic(_fence)
"""``fence()``: what was written before, past the caches too, is seen by other threads before what is written after; only for compiled code."""
