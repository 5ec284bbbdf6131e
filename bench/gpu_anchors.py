"""What others offer for the same work, ready to be timed: torch's attentions, compiled expressions, carried wheels. Knows no kernel of ours.

Each function gets ready outside the clock and returns what is timed. What is not there (an old torch, no GPU, a missing wheel) raises; ``gpu_timing``
tells the reason beside the figures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.gpu_timing import Missing, Run

WHEELS = ("flash-maxsim", "fast-plaid", "xtr-warp-rs")
"""Engines for late interaction that fit beside a GPU's torch. The first has a kernel to call; the others need an index of their own, see
``multivector_peers``."""


def wheels() -> dict[str, str]:
    """Which of the wheels are installed here, and which versions."""
    found = {}
    for name in WHEELS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def compiled(expression: Callable[..., Any], *given: Any) -> Run:
    """``torch.compile`` of an expression of tensors; compiled here, with these."""
    quick: Any = torch.compile(expression, dynamic=False)
    quick(*given)
    return partial(quick, *given)


def sdpa(queries: Tensor, keys: Tensor, values: Tensor, **how: Any) -> Run:
    """Torch's attention of ``(H, T, D)`` with whatever backend it takes; ``attn_mask`` or ``is_causal``."""
    return partial(scaled_dot_product_attention, queries[None], keys[None], values[None], enable_gqa=True, **how)


def cudnn(queries: Tensor, keys: Tensor, values: Tensor, **how: Any) -> Run:
    """The same by cuDNN alone."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    attend = sdpa(queries, keys, values, **how)

    def run() -> Any:
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
            return attend()

    return run


def flex(queries: Tensor, keys: Tensor, values: Tensor, seen: Callable[..., Tensor]) -> Run:
    """FlexAttention of ``(H, T, D)``, compiled; ``seen(batch, head, row, key)``. Its mask of blocks is made before, which is not timed."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask = create_block_mask(seen, None, None, queries.shape[1], keys.shape[1], device=queries.device)
    return compiled(
        lambda q, k, v: flex_attention(q, k, v, block_mask=mask, enable_gqa=True), queries[None], keys[None], values[None]
    )


def varlen(queries: Tensor, keys: Tensor, values: Tensor, borders: Tensor, longest: int, causal: bool) -> Run:
    """Torch's attention within texts; ``(H, T, D)`` with as many key heads as query heads, ``borders`` int32."""
    from torch.nn.attention.varlen import varlen_attn

    if queries.device.type != "cuda":
        raise Missing("varlen_attn runs on a GPU only")
    q, k, v = (part.transpose(0, 1).contiguous() for part in (queries, keys, values))
    how: dict[str, Any] = {"window_size": (-1, 0)} if causal else {}
    try:
        varlen_attn(q, k, v, borders, borders, longest, longest, **how)
    except TypeError:  # torch 2.11 and before name it otherwise
        how = {"is_causal": causal}
    return partial(varlen_attn, q, k, v, borders, borders, longest, longest, **how)


def by_text(queries: Tensor, keys: Tensor, values: Tensor, borders: list[int], causal: bool) -> Run:
    """Torch's attention, text by text: what there is without padding where nothing else is."""

    def run() -> list[Tensor]:
        parts = [[part[None, :, first:last] for part in (queries, keys, values)] for first, last in pairwise(borders)]
        return [scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True) for q, k, v in parts]

    return run


def flash_maxsim(query: Tensor, vectors: Tensor, borders: Tensor, longest: int) -> Run:
    """The wheel's kernel over packed documents, in its own half precision."""
    try:
        score = import_module("flash_maxsim").flash_maxsim_packed
    except ImportError as error:
        raise Missing("flash-maxsim is not installed") from error
    return partial(score, query.half(), vectors.half(), borders.to(torch.int32), longest)
