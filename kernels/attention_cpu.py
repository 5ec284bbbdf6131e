"""Attention by position in memory: which way rows go. Knows rows; checks no shape.

A single token, too few rows for registers, is one call of torch's attention or goes to ``decode_cpu``; ``choose.decoding_way`` says which, and why. Other rows go through
``attention_tiles_cpu`` where the processor has the instructions, or as products of torch's (``attention_torch_cpu``), as ``choose.processor_way`` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.kernels.choose import decoding_way, processor_way
from rag.kernels.selective_attention import with_sinks
from rag.kernels.visibility import seeing_rows, seen_keys

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def attention_cpu(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    *,
    num_keys: int,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Output and logarithm of the denominator; see ``selective_attention.selective_attention``. Float32 or bfloat16."""
    from rag.kernels.attention_torch_cpu import attention_torch_cpu

    num_tokens, key_dim = queries.shape[1:]
    in_rows = queries.stride(2) == keys.stride(2) == values.stride(2) == 1
    if num_tokens == 1 and in_rows and (found := _one_token(queries, keys, values, positions, num_keys, scale, window, softcap)):
        return with_sinks(*found, sinks)
    way = processor_way(queries.dtype, key_dim)
    if way.name == "torch" or not in_rows:
        return attention_torch_cpu(
            queries, keys, values, positions,
            num_keys=num_keys, scale=scale, window=window, softcap=softcap, sinks=sinks,
        )  # fmt: skip
    seeing = slice(*seeing_rows(positions, num_keys, window))
    if way.in_tiles or seeing.start == seeing.stop:
        out, lse = _in_vectors(queries, keys, values, positions, seeing, num_keys, scale, window, softcap)
    else:
        begin, _, end = seen_keys(positions[seeing], num_keys, window)
        wide = (queries.float(), keys[:, begin:end].float(), values[:, begin:end].float())
        out, lse = _in_vectors(*wide, positions - begin, seeing, end - begin, scale, window, softcap)
    out, lse = with_sinks(out, lse, sinks)
    return out.to(queries.dtype), lse


def _one_token(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    num_keys: int,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor] | None:
    """Nothing for a token that sees no key, and for heads of sizes that neither way takes."""
    from rag.kernels.attention_torch_cpu import one_token_torch_cpu
    from rag.kernels.decode_cpu import decode_cpu, takes

    begin, _, end = seen_keys(positions, num_keys, window)
    if begin >= end:
        return None
    key_dim, value_dim = queries.shape[2], values.shape[2]
    if decoding_way(queries.dtype).name == "torch" and key_dim == value_dim and not softcap:
        return one_token_torch_cpu(queries, keys[:, begin:end], values[:, begin:end], scale)
    if not takes(len(queries) // len(keys), key_dim, value_dim):
        return None
    found, logs = decode_cpu(queries[:, 0], keys, values, begin, end, scale=scale, softcap=softcap)
    return found[None], logs[:, None]


def _in_vectors(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    seeing: slice,
    num_keys: int,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    import torch

    from rag.kernels.attention_tiles_cpu import attend

    num_heads, num_tokens, _ = queries.shape
    out = queries.new_zeros(num_tokens, num_heads, values.shape[2])
    lse = torch.full((num_heads, num_tokens), float("-inf"))
    num_rows = seeing.stop - seeing.start
    jobs, bounds = jobs_by_position(queries, keys, values, positions, seeing, num_keys, window, out, lse, num_rows)
    attend(jobs, queries, values, num_heads // len(keys), scale=scale, softcap=softcap)
    del bounds  # their addresses are good until here
    return out, lse


def jobs_by_position(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    seeing: slice,
    num_keys: int,
    window: int | None,
    out: Tensor,
    lse: Tensor,
    num_rows: int,
) -> tuple[NDArray[np.int64], list[Tensor]]:
    """Jobs of ``attention_tiles_cpu`` for the tokens ``seeing``, those that see most first, and what must live until they are done.

    ``num_rows``: tokens of all that are computed together, by which jobs are sized.
    """
    import numpy as np
    import torch

    from rag.kernels.attention_tiles_cpu import jobs_of, tokens_of_a_job

    num_heads, group = len(queries), len(queries) // len(keys)
    highest = positions.clamp(max=num_keys - 1).int().contiguous()
    lowest = (positions - window + 1).clamp(min=0).int().contiguous() if window else torch.zeros_like(highest)
    tokens = tokens_of_a_job(group, num_heads * num_rows)
    begins = np.arange(seeing.start, seeing.stop, tokens)[::-1]
    ends = np.minimum(begins + tokens, seeing.stop)
    jobs = jobs_of(queries, keys, values, out, lse, lowest, highest, begins, ends, np.zeros_like(begins))
    return jobs, [lowest, highest]
