"""Triton's interpreter made strict: bfloat16 as a GPU rounds it, addresses checked, programs in any order. Knows Triton; no kernel of ours.

Only with ``TRITON_INTERPRET=1`` and in a process of its own. As it comes the interpreter cuts float32 to bfloat16 instead of rounding, multiplies
the bits of bfloat16 numbers, accepts products that no GPU has, overwrites neighbours and runs programs one after another.
"""

# mypy: disable-error-code="import-untyped, no-untyped-def, no-untyped-call, no-any-return"
from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor
from triton.runtime import interpreter

BUILDER: Any = interpreter.InterpreterBuilder
HANDLE: Any = interpreter.TensorHandle
LEAST_TILE = 16


class Fault(Exception):
    """What a GPU would do wrong silently, or refuse to compile."""


def rounded(x: NDArray[Any]) -> NDArray[np.uint16]:
    """The bits of float32 numbers as bfloat16, half to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    upper = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), upper).astype(np.uint16)


def wide(handle: Any) -> NDArray[Any]:
    """The numbers of a handle, bfloat16 as float32."""
    short = handle.dtype.scalar == tl.bfloat16
    found: NDArray[Any] = (handle.data.astype(np.uint32) << 16).view(np.float32) if short else handle.data
    return found


def install() -> None:
    """Repairs bfloat16 and makes ``tl.dot`` refuse what the compiler refuses. Once a process."""
    cast, binary, unary = BUILDER.cast_impl, BUILDER.binary_op, BUILDER.unary_op

    def cast_impl(self, source, target):
        if tl.bfloat16 not in (source.dtype.scalar, target.scalar) or source.dtype.scalar == target.scalar:
            return cast(self, source, target)
        if target.scalar == tl.bfloat16:
            return HANDLE(rounded(source.data.astype(np.float32)), tl.bfloat16)
        return HANDLE(wide(source).astype(interpreter._get_np_dtype(target)), target.scalar)

    def binary_op(self, a, b, op):
        if a.dtype.scalar != tl.bfloat16:
            return binary(self, a, b, op)
        found = op(wide(a), wide(b))
        return HANDLE(found, tl.int1) if found.dtype == bool else HANDLE(rounded(found), tl.bfloat16)

    def unary_op(self, a, op):
        return HANDLE(rounded(op(wide(a))), tl.bfloat16) if a.dtype.scalar == tl.bfloat16 else unary(self, a, op)

    def dot(self, a, b, start, precision, imprecise):
        sizes = (*a.data.shape[-2:], b.data.shape[-1])
        if min(sizes) < LEAST_TILE:
            raise Fault(f"a product of {sizes}: every side must be at least {LEAST_TILE}")
        if a.dtype.scalar != b.dtype.scalar:
            raise Fault(f"a product of {a.dtype} and {b.dtype}")
        product = np.matmul(wide(a).astype(np.float32), wide(b).astype(np.float32))
        return HANDLE((product + start.data).astype(start.data.dtype), start.dtype.scalar)

    BUILDER.cast_impl, BUILDER.binary_op, BUILDER.unary_op, BUILDER.create_dot = cast_impl, binary_op, unary_op, dot
    BUILDER.create_fp_to_fp = lambda self, source, target, mode: cast_impl(self, source, target)


def extent(tensor: Tensor) -> tuple[int, int]:
    """First address of a tensor's numbers and the one after its last."""
    if not tensor.numel():
        return tensor.data_ptr(), tensor.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


@contextlib.contextmanager
def watched(*tensors: Tensor, seed: int = 0) -> Iterator[None]:
    """Inside, kernels may touch these tensors and those they are launched with; no address is stored to by two programs; any order."""
    known, stores = [extent(tensor) for tensor in tensors], list[tuple[int, NDArray[np.uint64]]]()
    allowed: list[tuple[NDArray[np.uint64], NDArray[np.uint64]]] = []
    load, store, place, run = (
        BUILDER.create_masked_load,
        BUILDER.create_masked_store,
        BUILDER.set_grid_idx,
        interpreter.GridExecutor.__call__,
    )
    order: dict[tuple[int, ...], dict[tuple[int, ...], tuple[int, ...]]] = {}

    def checked(pointers, mask) -> NDArray[np.uint64]:
        data = np.asarray(pointers.data)
        used = data[np.broadcast_to(np.asarray(mask.data, bool), data.shape)].ravel().astype(np.uint64)
        width = np.uint64(max(1, pointers.get_element_ty().primitive_bitwidth // 8))
        starts, ends = allowed[-1]
        inside = ((used[:, None] >= starts) & (used[:, None] + width <= ends)).any(1)
        if not inside.all():
            raise Fault(f"{int((~inside).sum())} of {used.size} addresses outside every tensor")
        return used

    def masked_load(self, pointers, mask, *more):
        checked(pointers, mask)
        return load(self, pointers, mask, *more)

    def masked_store(self, pointers, value, mask, *more):
        used = checked(pointers, mask)
        if len(np.unique(used)) < len(used):
            raise Fault("two lanes store to one address")
        program = int(np.ravel_multi_index(self.grid_idx, self.grid_dim))
        stores.append((program, used))
        return store(self, pointers, value, mask, *more)

    def set_grid_idx(self, *index):
        shape = tuple(self.grid_dim)
        if shape not in order:
            all_of_them = list(itertools.product(*map(range, shape)))
            order[shape] = dict(zip(all_of_them, random.Random(seed).sample(all_of_them, len(all_of_them)), strict=True))
        place(self, *order[shape][index])

    def launch(self, *arguments, **named):
        extents = known + [extent(argument) for argument in arguments if isinstance(argument, Tensor)]
        allowed.append((np.array([e[0] for e in extents], np.uint64), np.array([e[1] for e in extents], np.uint64)))
        stores.clear()
        run(self, *arguments, **named)
        if stores:
            programs = np.concatenate([np.full(len(used), program) for program, used in stores])
            pairs = np.unique(np.stack([np.concatenate([used for _, used in stores]), programs.astype(np.uint64)]), axis=1)
            if len(np.unique(pairs[0])) < pairs.shape[1]:
                raise Fault("two programs store to one address")

    BUILDER.create_masked_load, BUILDER.create_masked_store, BUILDER.set_grid_idx = masked_load, masked_store, set_grid_idx
    executor: Any = interpreter.GridExecutor
    executor.__call__ = launch
    try:
        yield
    finally:
        BUILDER.create_masked_load, BUILDER.create_masked_store, BUILDER.set_grid_idx = load, store, place
        executor.__call__ = run
