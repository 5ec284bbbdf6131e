"""One decoding step of several requests that begin the same: the common keys are read once for all of them. Knows rows; no prompt, no cache.

Request b attends to the common keys and to keys of its own. All queries together go over the common ones, each goes over its own, and the two
states become one (see ``merge_states``). Sources: ChunkAttention, arXiv 2402.15220; cascade attention of FlashInfer, arXiv 2501.01005.
Floor: one read of the common keys and values (not one a request), and of each request's own. Sliding windows are not known here: a window leaves the
beginning behind, and what it still sees differs from request to request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rag.kernels.choose import choose

if TYPE_CHECKING:
    from torch import Tensor


def cascade_decode(
    queries: Tensor,
    common_keys: Tensor,
    common_values: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    num_keys: Sequence[int],
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """``(B, Hq, Dv)`` in the queries' type: attention of one query a request, ``queries`` ``(B, Hq, Dk)``.

    Request b sees all of ``common_keys`` ``(Hkv, P, Dk)``, ``common_values`` ``(Hkv, P, Dv)`` and the first ``num_keys[b]`` rows of ``keys[b]``
    ``(Hkv, capacity, Dk)`` and ``values[b]`` ``(Hkv, capacity, Dv)``; the rest of them is never read. Either may be empty. ``softcap``, ``sinks`` as in
    ``selective_attention``. Raises ``ValueError`` for shapes and counts that do not fit.
    """
    _check(queries, common_keys, common_values, keys, values, num_keys)
    run = _implementation(choose(queries, common_keys, common_values, *keys, *values).name)
    return run(queries, common_keys, common_values, keys, values, num_keys, scale=scale, softcap=softcap, sinks=sinks)


def _implementation(name: str) -> Callable[..., Tensor]:
    if name == "triton":
        from rag.kernels.cascade_triton import cascade_triton

        return cascade_triton
    return _cascade_decode_cpu if name == "cpu" else cascade_decode_reference


def _cascade_decode_cpu(
    queries: Tensor,
    common_keys: Tensor,
    common_values: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    num_keys: Sequence[int],
    *,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Every thread takes some heads of the common keys or the own keys of a request, the longest work first."""
    import torch

    from rag.kernels.attention_cpu import attention_cpu
    from rag.kernels.crew import each
    from rag.kernels.merge_cpu import merge_cpu
    from rag.kernels.selective_attention import with_sinks

    num_requests, num_heads, _ = queries.shape
    heads, num_common = common_keys.shape[:2]
    group = num_heads // heads
    outs = queries.new_empty(2, num_requests, num_heads, common_values.shape[2])
    lses = torch.empty(2, num_heads, num_requests)
    rows = queries.transpose(0, 1)

    def attend(part: tuple[int, int]) -> None:
        own, number = part
        if own:
            some, asked = slice(None), slice(number, number + 1)
            seen, shown, count = keys[number], values[number], num_keys[number]
        else:
            some, asked = slice(number * group, (number + step) * group), slice(None)
            seen, shown, count = common_keys[number : number + step], common_values[number : number + step], num_common
        query = rows[some, asked]
        last = torch.full((query.shape[1],), count - 1)
        out, lse = attention_cpu(query, seen, shown, last, num_keys=count, scale=scale, window=None, softcap=softcap, sinks=None)
        outs[own, asked, some], lses[own, some, asked] = out, lse

    step = -(-heads // torch.get_num_threads())
    by_length = sorted(range(num_requests), key=lambda number: -num_keys[number])
    each([*((0, head) for head in range(0, heads, step)), *((1, number) for number in by_length)], attend)
    return with_sinks(*merge_cpu(outs, lses), sinks)[0]


def cascade_decode_reference(
    queries: Tensor,
    common_keys: Tensor,
    common_values: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    num_keys: Sequence[int],
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """The same in float64, request by request over all its keys in a row."""
    import torch

    from rag.kernels.selective_attention import selective_attention_reference

    outs = [queries.new_empty(0, queries.shape[1], common_values.shape[2])]
    for query, own_keys, own_values, count in zip(queries, keys, values, num_keys, strict=True):
        all_keys, all_values = (
            torch.cat([common_keys, own_keys[:, :count]], 1),
            torch.cat([common_values, own_values[:, :count]], 1),
        )
        num = all_keys.shape[1]
        last = torch.tensor([num - 1], device=queries.device)
        out, _ = selective_attention_reference(
            query[:, None], all_keys, all_values, last, num_keys=num, scale=scale, softcap=softcap, sinks=sinks
        )
        outs.append(out)
    return torch.cat(outs)


def _check(
    queries: Tensor,
    common_keys: Tensor,
    common_values: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    num_keys: Sequence[int],
) -> None:
    if (
        queries.ndim != 3
        or common_keys.ndim != 3
        or queries.shape[2] != common_keys.shape[2]
        or queries.shape[1] % len(common_keys)
    ):
        raise ValueError(
            f"queries {tuple(queries.shape)} do not fit common keys {tuple(common_keys.shape)}: heads must divide, dimensions agree"
        )
    if common_keys.shape[:2] != common_values.shape[:2]:
        raise ValueError(
            f"common keys are {tuple(common_keys.shape)} and values {tuple(common_values.shape)}: heads or rows differ"
        )
    if not len(queries) == len(keys) == len(values) == len(num_keys):
        raise ValueError(
            f"{len(queries)} queries, {len(keys)} keys, {len(values)} values, {len(num_keys)} counts: one of each a request"
        )
    for number, (own_keys, own_values, count) in enumerate(zip(keys, values, num_keys, strict=True)):
        for own, common in ((own_keys, common_keys), (own_values, common_values)):
            if own.ndim != 3 or (own.shape[0], own.shape[2]) != (common.shape[0], common.shape[2]):
                raise ValueError(
                    f"request {number} has {tuple(own.shape)}, the common rows are {tuple(common.shape)}: heads or dimensions differ"
                )
            if not 0 <= count <= own.shape[1]:
                raise ValueError(f"request {number} has {count} keys in a buffer of {own.shape[1]}")
