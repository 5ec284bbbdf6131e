"""Attention of many chunks, each alone behind one beginning, with rotation, and their keys and values kept. Knows borders; no model, no store.

Chunk c is the rows ``borders[c] .. borders[c + 1]`` of packed queries, keys and values that are not yet rotated. Its token t stands at position
``P + t``, where P is the length of the beginning: it sees the beginning and its own chunk up to itself, no other chunk. What is kept for later are
the keys before rotation and the values, as they are or as codes (see ``quantise``): a chunk's own scales, whatever it is packed with.
Floor: ``4 Hq D sum(visible keys)`` operations; one read of queries, keys and values, one write of the output and of what is kept. Up to some 500
tokens a chunk the bytes bound it, so rotated keys are not written and read again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from rag.kernels.assemble import Kind, LayerKV
from rag.kernels.choose import choose
from rag.kernels.rotate import Style, check_table

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def ingest_prefill(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    borders: Sequence[int],
    cos: Tensor,
    sin: Tensor,
    style: Style,
    into: LayerKV,
    *,
    before: tuple[Tensor, Tensor] | None = None,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """``(T, Hq, Dv)`` in the queries' type; ``into`` (see ``room_for``) receives the keys before rotation and the values.

    ``queries`` ``(Hq, T, Dk)``, ``keys`` ``(Hkv, T, Dk)``, ``values`` ``(Hkv, T, Dv)``, none rotated; ``borders`` ascend from 0 to T. ``cos``, ``sin``
    float32 ``(positions, R/2)``: row p turns to position p. ``before``: keys ``(Hkv, P, Dk)``, rotated, and values ``(Hkv, P, Dv)`` that every chunk
    stands behind. ``window``, ``softcap``, ``sinks`` as in ``selective_attention``. Raises ``ValueError`` for shapes and borders that do not fit.
    """
    _check(queries, keys, values, borders, cos, sin, style, into, before, window)
    run = _implementation(choose(queries, keys, values, *(before or ())).name)
    return run(
        queries, keys, values, borders, cos, sin, style, into,
        before=before, scale=scale, window=window, softcap=softcap, sinks=sinks,
    )  # fmt: skip


def room_for(
    num_heads: int,
    num_chunks: int,
    num_tokens: int,
    key_dim: int,
    value_dim: int,
    kind: Kind,
    dtype: torch.dtype,
    *,
    num_layers: int | None = None,
    device: torch.device | str = "cpu",
) -> LayerKV:
    """Packed keys and values of some chunks, yet to be filled: ``(Hkv, T, Dk)`` and ``(Hkv, T, Dv)``, plain numbers of ``dtype`` or codes.

    Codes come with ``key_scales`` ``(chunks, Hkv, Dk)`` and ``value_scales`` ``(Hkv, T)``. With ``num_layers`` all have the layers in front
    (see ``quantise.layer_of`` for one of them); see ``chunk_of`` for one chunk.
    """
    import torch

    front = () if num_layers is None else (num_layers,)
    stored, packed = {"plain": (dtype, 1), "int8": (torch.int8, 1), "int4": (torch.uint8, 2)}[kind]
    keys, values = (
        torch.empty(*front, num_heads, num_tokens, dim // packed, dtype=stored, device=device) for dim in (key_dim, value_dim)
    )
    if kind == "plain":
        return LayerKV(keys, values)
    key_scales = torch.empty(*front, num_chunks, num_heads, key_dim, device=device)
    return LayerKV(keys, values, key_scales, torch.empty(*front, num_heads, num_tokens, device=device), kind)


def chunk_of(kept: LayerKV, number: int, borders: Sequence[int]) -> LayerKV:
    """Chunk ``number`` of packed keys and values, of one layer or with the layers in front: views, no copies."""
    rows = slice(borders[number], borders[number + 1])
    keys, values = kept.keys[..., rows, :], kept.values[..., rows, :]
    if kept.key_scales is None or kept.value_scales is None:
        return LayerKV(keys, values)
    return LayerKV(keys, values, kept.key_scales[..., number, :, :], kept.value_scales[..., rows], kept.kind)


def keep(keys: Tensor, values: Tensor, borders: Sequence[int], into: LayerKV) -> None:
    """Fills ``into`` chunk by chunk, in torch."""
    from rag.kernels.quantise import quantise_reference

    for number, (first, last) in enumerate(pairwise(borders)):
        chunk = LayerKV(keys[:, first:last], values[:, first:last])
        if into.kind != "plain":
            chunk = quantise_reference(chunk.keys, chunk.values, into.kind)
        for room, kept in zip(chunk_of(into, number, borders)[:4], chunk[:4], strict=True):
            if room is not None and kept is not None:
                room.copy_(kept)


def _implementation(name: str) -> Callable[..., Tensor]:
    if name == "triton":
        from rag.kernels.ingest_triton import ingest_triton

        return ingest_triton
    return _ingest_prefill_cpu if name == "cpu" else ingest_prefill_reference


def _ingest_prefill_cpu(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    borders: Sequence[int],
    cos: Tensor,
    sin: Tensor,
    style: Style,
    into: LayerKV,
    *,
    before: tuple[Tensor, Tensor] | None,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Chunk by chunk: rotated keys behind the beginning in a buffer of the chunk's own, then attention by position over it."""
    import torch

    from rag.kernels.attention_cpu import attention_cpu
    from rag.kernels.crew import each
    from rag.kernels.rotate import rotate

    num_heads, num_tokens, _ = queries.shape
    old = before or (keys[:, :0], values[:, :0])
    num_before = old[0].shape[1]
    out = queries.new_empty(num_tokens, num_heads, values.shape[2])

    def attend(chunk: tuple[int, int]) -> None:
        rows, end = slice(*chunk), num_before + chunk[1] - chunk[0]
        turns = (cos[num_before:end], sin[num_before:end], style)
        seen = torch.cat([old[0], rotate(keys[:, rows], *turns)], 1)
        shown = torch.cat([old[1], values[:, rows]], 1)
        out[rows], _ = attention_cpu(
            rotate(queries[:, rows], *turns), seen, shown, torch.arange(num_before, end),
            num_keys=end, scale=scale, window=window, softcap=softcap, sinks=sinks,
        )  # fmt: skip

    chunks = sorted(pairwise(borders), key=lambda chunk: chunk[0] - chunk[1])
    if len(chunks) < 2 * torch.get_num_threads():  # too few to share out: the threads share each chunk
        for chunk in chunks:
            attend(chunk)
    else:
        each(chunks, attend)
    keep(keys, values, borders, into)
    return out


def ingest_prefill_reference(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    borders: Sequence[int],
    cos: Tensor,
    sin: Tensor,
    style: Style,
    into: LayerKV,
    *,
    before: tuple[Tensor, Tensor] | None = None,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """The same in float64, chunk by chunk and head by head."""
    import torch

    from rag.kernels.rotate import rotate_reference
    from rag.kernels.selective_attention import selective_attention_reference

    old = before or (keys[:, :0], values[:, :0])
    num_before = old[0].shape[1]
    outs = [queries.new_empty(0, queries.shape[0], values.shape[2])]
    for first, last in pairwise(borders):
        end = num_before + last - first
        turns = (cos[num_before:end].double(), sin[num_before:end].double(), style)
        query, fresh = (rotate_reference(part[:, first:last].double(), *turns) for part in (queries, keys))
        seen, shown = torch.cat([old[0].double(), fresh], 1), torch.cat([old[1], values[:, first:last]], 1)
        positions = torch.arange(num_before, end, device=queries.device)
        out, _ = selective_attention_reference(
            query, seen, shown, positions, num_keys=end, scale=scale, window=window, softcap=softcap, sinks=sinks
        )
        outs.append(out.to(queries.dtype))
    keep(keys, values, borders, into)
    return torch.cat(outs)


def _check(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    borders: Sequence[int],
    cos: Tensor,
    sin: Tensor,
    style: str,
    into: LayerKV,
    before: tuple[Tensor, Tensor] | None,
    window: int | None,
) -> None:
    tokens = keys.shape[1]
    if (
        queries.ndim != 3 or keys.ndim != 3 or values.shape[:2] != keys.shape[:2] or queries.shape[1:] != keys.shape[1:]
        or queries.shape[0] % keys.shape[0]
    ):  # fmt: skip
        raise ValueError(
            f"queries {tuple(queries.shape)}, keys {tuple(keys.shape)} and values {tuple(values.shape)} do not fit: "
            "heads must divide, tokens and dimensions agree"
        )
    if not borders or borders[0] != 0 or borders[-1] != tokens or any(last <= first for first, last in pairwise(borders)):
        raise ValueError(f"borders must ascend from 0 to {tokens}, the number of tokens, without an empty chunk")
    num_before = 0
    if before is not None:
        num_before = before[0].shape[1]
        for old, new in zip(before, (keys, values), strict=True):
            if old.shape != (new.shape[0], num_before, new.shape[2]):
                raise ValueError(
                    f"what stands before is {tuple(old.shape)}, the chunks are {tuple(new.shape)}: heads or dimensions differ"
                )
    if into.kind == "int4" and (keys.shape[2] % 2 or values.shape[2] % 2):
        raise ValueError(f"int4 needs even head dimensions, not {keys.shape[2]} and {values.shape[2]}")
    check_table(style, keys.shape[2], num_before + max((b - a for a, b in pairwise(borders)), default=0), cos, sin)
    if window is not None and window < 1:
        raise ValueError(f"a window of {window} keys shows nothing")
    wanted = room_for(len(keys), len(borders) - 1, tokens, keys.shape[2], values.shape[2], into.kind, keys.dtype, device="meta")
    for have, need in zip(into[:4], wanted[:4], strict=True):
        if (have is None) != (need is None) or (have is not None and need is not None and have.shape != need.shape):
            raise ValueError(
                f"room for {into.kind} keys and values is {[tuple(t.shape) for t in into[:4] if t is not None]}; "
                f"{[tuple(t.shape) for t in wanted[:4] if t is not None]} is needed"
            )
