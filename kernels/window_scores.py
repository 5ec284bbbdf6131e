"""What each key receives from a window of queries whose log-sum-exps are known, by key head. Knows scores; no model, no selection.

``score_j = sum over rows i and query heads h of the key head of exp(scale q_hi k_j - lse_hi)``: the attention that the window pays to key j, as SnapKV
(arXiv 2404.14469) and ChunkKV (arXiv 2502.00299) rank keys by, before any pooling. kvpress averages over the heads of a group where this adds: the
order is the same. With the log-sum-exp that attention has left behind (``selective_attention(..., return_lse=True)``) no denominator is computed
again; ``column_mass`` is the sum over key heads for those who have none.
Floor: ``2 Hq D sum(visible keys)`` operations and one read of the keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rag.kernels.choose import choose
from rag.kernels.selective_attention import check_attention, finite, visible_scores_reference

if TYPE_CHECKING:
    from torch import Tensor


def window_scores(
    queries: Tensor,
    keys: Tensor,
    positions: Tensor,
    lse: Tensor,
    *,
    num_keys: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Float32 ``(Hkv, num_keys)``; ``queries`` ``(Hq, Q, Dk)`` at ``positions`` int64 ``(Q,)`` ascending, ``keys`` ``(Hkv, capacity, Dk)``.

    ``lse`` float32 ``(Hq, Q)``: natural logarithms of the denominators, sinks included where there are any. A row of minus infinity saw nothing and
    counts nothing. Masks are those of ``selective_attention``. Raises ``ValueError`` as it does, and for logarithms of another shape.
    """
    check_attention(queries, keys, positions, num_keys, window)
    if lse.shape != queries.shape[:2]:
        raise ValueError(f"logarithms are {tuple(lse.shape)}; {tuple(queries.shape[:2])} is needed, (query heads, queries)")
    run = _implementation(choose(queries, keys).name)
    return run(queries, keys, positions, lse, num_keys=num_keys, scale=scale, window=window, softcap=softcap)


def _implementation(name: str) -> Callable[..., Tensor]:
    if name == "triton":
        from rag.kernels.attention_triton import window_scores_triton

        return window_scores_triton
    return window_scores_cpu if name == "cpu" else window_scores_reference


def window_scores_cpu(
    queries: Tensor,
    keys: Tensor,
    positions: Tensor,
    lse: Tensor | None,
    *,
    num_keys: int,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Tile by tile, as a tile holds all keys of its rows. Without ``lse`` the tile's own softmax is taken, in which ``sinks`` count."""
    import torch

    from rag.kernels.attention_torch_cpu import SCORE_ROWS, tile_scores
    from rag.kernels.crew import each
    from rag.kernels.visibility import seeing_rows

    heads, num_heads = keys.shape[0], queries.shape[0]
    first, last = seeing_rows(positions, num_keys, window)
    tokens = max(1, SCORE_ROWS // num_heads)
    asked = queries.view(heads, -1, *queries.shape[1:])
    total = torch.zeros(heads, num_keys)
    parts: list[tuple[int, int, Tensor]] = []

    def add(start: int) -> None:
        tile = slice(start, min(start + tokens, last))
        rows = asked[:, :, tile].transpose(1, 2).flatten(1, 2)
        weights, begin, end = tile_scores(
            rows, keys, positions[tile], num_keys=num_keys, scale=scale, window=window, softcap=softcap
        )
        if lse is not None:
            logs = finite(lse[:, tile].float()).reshape(heads, -1, tile.stop - tile.start)
            weights.sub_(logs.transpose(1, 2).reshape(heads, -1, 1)).exp_()
        else:
            if sinks is not None:
                sink = sinks.float().view(heads, -1).repeat(1, tile.stop - tile.start)[..., None]
                weights = torch.cat([weights, sink], 2)
            torch.softmax(weights, 2, out=weights)
        parts.append((begin, end, weights[..., : end - begin].sum(1)))

    each(range(first, last, tokens), add)
    for begin, end, part in sorted(parts, key=lambda part: part[:2]):  # one order of sums, whichever thread was first
        total[:, begin:end] += part
    return total


def window_scores_reference(
    queries: Tensor,
    keys: Tensor,
    positions: Tensor,
    lse: Tensor,
    *,
    num_keys: int,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """The same in torch, in float64, head by head."""
    import torch

    group = queries.shape[0] // keys.shape[0]
    total = torch.zeros(keys.shape[0], num_keys, dtype=torch.float64, device=keys.device)
    for head in range(queries.shape[0]):
        scores = visible_scores_reference(queries[head], keys[head // group, :num_keys], positions, scale, window, softcap)
        total[head // group] += torch.exp(scores - finite(lse[head].double())[:, None]).sum(0)
    return total.float()
