"""Which implementation of a kernel runs for given tensors, and why. Knows devices and types of tensors; knows no kernel.

``RAG_KERNELS`` forces one: ``reference`` (torch, slow, for comparison), ``cpu`` (numba and torch) or ``triton``.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, NamedTuple, cast, get_args

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Name = Literal["reference", "cpu", "triton"]
VARIABLE = "RAG_KERNELS"


class Choice(NamedTuple):
    """``name`` of the implementation, and in ``why`` a sentence for people."""

    name: Name
    why: str


def choose(*tensors: Tensor) -> Choice:
    """The implementation for a call with these tensors (quantised ones need not be among them).

    Raises ``ValueError`` for tensors on different devices and for an unknown word in ``RAG_KERNELS``.
    """
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1:
        raise ValueError(f"tensors on different devices: {', '.join(sorted(map(str, devices)))}")
    forced = os.environ.get(VARIABLE, "")
    if forced:
        if forced not in get_args(Name):
            raise ValueError(f"{VARIABLE} is {forced!r}; it can be {', '.join(get_args(Name))}")
        return Choice(cast(Name, forced), f"{VARIABLE}={forced}")
    kind = devices.pop().type
    if kind == "cuda":
        return gpu_choice()
    types = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors if tensor.is_floating_point()}
    if kind == "cpu" and types <= {"float32", "bfloat16"}:
        return Choice("cpu", "tensors in memory")
    return Choice("reference", f"no kernel for {', '.join(sorted(types))} on {kind}")


def gpu_choice() -> Choice:
    """What runs for tensors on a GPU."""
    if _has_triton():
        return Choice("triton", "tensors on a GPU")
    return Choice("reference", "tensors on a GPU and triton is not installed")


@lru_cache(maxsize=1)
def multiplies_bfloat16_tiles() -> bool:
    """Whether this processor has matrix registers for bfloat16 (AMX) and the system lets us use them, for which it is asked. Elsewhere torch's attention is no slower in
    float32, and exacter."""
    from torch import cpu

    return cpu._is_amx_tile_supported() and cpu._init_amx()


class Way(NamedTuple):
    """How rows of attention go in memory: in ``vectors`` of our own, with products in a ``matrix`` register, ``widened`` to float32, or by products of ``torch``; and why."""

    name: Literal["vectors", "matrix", "widened", "torch"]
    why: str

    @property
    def in_tiles(self) -> bool:
        """Whether ``attention_tiles_cpu`` takes the numbers as they are."""
        return self.name in ("vectors", "matrix")


def processor_way(dtype: torch.dtype, key_dim: int) -> Way:
    """How attention between keys of ``dtype``, float32 or bfloat16, is computed on this processor."""
    if processor_has("avx512f"):
        wide = "AVX-512"
    elif processor_has("avx2") and processor_has("fma"):
        wide = "AVX2"
    else:
        return Way("torch", "the processor has no AVX2")
    if str(dtype) == "torch.float32":
        return Way("vectors", f"the processor has {wide}")
    if multiplies_bfloat16_tiles():
        if key_dim % 32 == 0 and processor_has("avx512f") and processor_has("amx-bf16"):
            return Way("matrix", "the processor has matrix registers for bfloat16 (AMX)")
        return Way("torch", "the processor has matrix registers for bfloat16 (AMX), which ours fill with 32 dimensions")
    if not (processor_has("avx512f") and processor_has("avx512bf16")):
        return Way("widened", f"the processor has {wide}, without products of bfloat16")
    if key_dim % 2:
        return Way("widened", f"{key_dim} dimensions are no whole pairs of bfloat16")
    return Way("vectors", "the processor has AVX-512 with products of bfloat16")


def decoding_way(dtype: torch.dtype) -> Way:
    """How attention of a single token between keys of ``dtype``, float32 or bfloat16, is computed: in ``vectors`` of our own or by ``torch``."""
    if str(dtype) == "torch.float32":
        return Way("torch", "torch's attention reads float32 as fast as the memory gives it")
    if multiplies_bfloat16_tiles():
        return Way("torch", "the processor has matrix registers for bfloat16 (AMX)")
    return Way("vectors", "torch's attention in bfloat16 is slow without matrix registers")


@lru_cache
def processor_has(feature: str) -> bool:
    """Whether compiled loops may use a feature of the processor, in LLVM's word for it. What ``NUMBA_CPU_FEATURES`` says counts, since numba compiles for that;
    with ``NUMBA_CPU_NAME`` alone nothing is known."""
    told = os.environ.get("NUMBA_CPU_FEATURES")
    if told is not None:
        return f"+{feature}" in told.split(",")
    if os.environ.get("NUMBA_CPU_NAME", "host") != "host":
        return False
    import llvmlite.binding

    return bool(llvmlite.binding.get_host_cpu_features().get(feature, False))


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return find_spec("triton") is not None
