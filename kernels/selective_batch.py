"""Attention of several requests at scattered positions, each over keys of its own, at once. Knows rows; no prompt, no cache.

Rows of all requests lie end to end, as many of each as it has; every request has its own buffers and its own positions. A row sees what it would
see in ``selective_attention`` of its request alone. One launch on a GPU, one list of work for all threads of a processor: requests of a few rows do
not wait for each other. Floor: that of the requests together, ``4 Hq D sum(visible keys)`` operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from rag.kernels.choose import choose, processor_way
from rag.kernels.selective_attention import check_attention, selective_attention_reference, with_sinks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def selective_attention_batch(
    queries: Tensor,
    starts: Sequence[int],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    positions: Tensor,
    *,
    num_keys: Sequence[int],
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``(T, Hq, Dv)`` in the queries' type, and the natural logarithm of the denominators float32 ``(Hq, T)``.

    ``queries`` ``(Hq, T, Dk)``: request n has the rows ``starts[n] .. starts[n + 1]``, ``positions`` int64 ``(T,)`` ascending within it, and sees the first
    ``num_keys[n]`` rows of ``keys[n]`` ``(Hkv, capacity, Dk)`` and ``values[n]`` ``(Hkv, capacity, Dv)`` as ``selective_attention`` says, which also has ``window``,
    ``softcap`` and ``sinks``. Raises ``ValueError`` as it does, and for borders and lists that do not fit.
    """
    _check(queries, starts, keys, values, positions, num_keys, window)
    run = _implementation(choose(queries, *keys, *values).name)
    out, lse = run(queries, starts, keys, values, positions, num_keys=num_keys, scale=scale, window=window, softcap=softcap)
    return with_sinks(out, lse, sinks)


def _implementation(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    if name == "triton":
        from rag.kernels.selective_batch_triton import selective_batch_triton

        return selective_batch_triton
    return selective_batch_cpu if name == "cpu" else selective_batch_reference


def selective_batch_cpu(
    queries: Tensor,
    starts: Sequence[int],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    positions: Tensor,
    *,
    num_keys: Sequence[int],
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """Tiles of all requests as one list; single rows, and all where the processor has no registers for tiles, request by request."""
    import numpy as np
    import torch

    from rag.kernels.attention_cpu import attention_cpu, jobs_by_position
    from rag.kernels.attention_tiles_cpu import attend
    from rag.kernels.visibility import seeing_rows

    num_heads, num_rows, key_dim = queries.shape
    in_vectors = processor_way(queries.dtype, key_dim).in_tiles and queries.stride(2) == 1
    out = queries.new_zeros(num_rows, num_heads, values[0].shape[2] if values else 0)
    lse = torch.full((num_heads, num_rows), float("-inf"))
    jobs: list[NDArray[np.int64]] = []
    held: list[Tensor] = []
    for (start, end), seen, shown, count in zip(pairwise(starts), keys, values, num_keys, strict=True):
        asked, places = queries[:, start:end], positions[start:end]
        first, last = seeing_rows(places, count, window)
        if last - first > 1 and in_vectors and seen.stride(2) == shown.stride(2) == 1:
            into, logs = out[start:end], lse[:, start:end]
            some, bounds = jobs_by_position(asked, seen, shown, places, slice(first, last), count, window, into, logs, num_rows)
            jobs.append(some)
            held += bounds
        elif first < last:
            out[start:end], lse[:, start:end] = attention_cpu(
                asked, seen, shown, places, num_keys=count, scale=scale, window=window, softcap=softcap, sinks=None
            )
    if jobs:
        attend(np.concatenate(jobs), queries, values[0], num_heads // len(keys[0]), scale=scale, softcap=softcap)
    del held  # the bounds' addresses are good until here
    return out, lse


def selective_batch_reference(
    queries: Tensor,
    starts: Sequence[int],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    positions: Tensor,
    *,
    num_keys: Sequence[int],
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The same in float64, request by request."""
    num_heads, num_rows, _ = queries.shape
    out = queries.new_zeros(num_rows, num_heads, values[0].shape[2] if values else 0)
    lse = out.new_zeros(num_heads, num_rows).float()
    for (start, end), seen, shown, count in zip(pairwise(starts), keys, values, num_keys, strict=True):
        out[start:end], lse[:, start:end] = selective_attention_reference(
            queries[:, start:end], seen, shown, positions[start:end], num_keys=count, scale=scale, window=window, softcap=softcap
        )
    return out, lse


def _check(
    queries: Tensor,
    starts: Sequence[int],
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    positions: Tensor,
    num_keys: Sequence[int],
    window: int | None,
) -> None:
    if not len(starts) - 1 == len(keys) == len(values) == len(num_keys):
        raise ValueError(
            f"{len(starts)} starts, {len(keys)} keys, {len(values)} values, {len(num_keys)} counts: one of each a request, and the end"
        )
    num_rows = queries.shape[1] if queries.ndim == 3 else 0
    if starts[0] != 0 or starts[-1] != num_rows or any(end < start for start, end in pairwise(starts)):
        raise ValueError(f"starts must ascend from 0 to {num_rows}, the number of queries")
    for number, ((start, end), seen, shown, count) in enumerate(zip(pairwise(starts), keys, values, num_keys, strict=True)):
        check_attention(queries[:, start:end], seen, positions[start:end], count, window)
        first = (keys[0].shape[0], keys[0].shape[2], values[0].shape[2])
        if seen.shape[:2] != shown.shape[:2] or (seen.shape[0], seen.shape[2], shown.shape[2]) != first:
            raise ValueError(
                f"request {number} has keys {tuple(seen.shape)} and values {tuple(shown.shape)}: heads, rows or dimensions differ"
            )
