"""Computes the keys and values of chunks, each alone behind one context. Knows no store, no text and no prompt.

What stands before a chunk when it is encoded is a policy of its own (``POLICIES`` in ``rag.kvcache.key``); for this module it is just a
run of ids: nothing (``bare``), the start token (``bos-dropped``: its row is not kept), the instructions every prompt begins with
(``shared-prefix``: the chunk sees the attention sinks it will see at request time; APE, arXiv 2502.05431), or the true beginning of a prompt
(``in-situ``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag.kvcache.arena import Arena
from rag.kvcache.cached_pass import CachedPass, Rows
from rag.kvcache.load import load

if TYPE_CHECKING:
    import torch

    from rag.kernels.assemble import LayerKV
    from rag.kvcache.plan import Cached
    from rag.kvcache.prefill import Decoder


@dataclass(frozen=True, slots=True)
class FreshKV:
    """Keys ``[L, Hkv, T, Dk]`` before rotation and values ``[L, Hkv, T, Dv]`` of some tokens, and the seconds they took."""

    keys: torch.Tensor
    values: torch.Tensor
    seconds: float

    @property
    def num_tokens(self) -> int:
        return int(self.keys.shape[2])

    def layer(self, index: int) -> LayerKV:
        from rag.kernels.assemble import LayerKV

        return LayerKV(self.keys[index], self.values[index])


def prefill_chunks(
    decoder: Decoder, context: Sequence[tuple[Cached, int]], chunks: Sequence[Sequence[int]], max_tokens: int = 4096
) -> Iterator[FreshKV]:
    """The keys and values of each of ``chunks`` behind ``context`` (what, first slot; without gaps), in order.

    Chunks are packed into passes of at most ``max_tokens`` tokens (one chunk at least); no row is padding, none sees another chunk.
    Raises ``ValueError`` for an empty chunk.
    """
    for number, ids in enumerate(chunks):
        if not ids:
            raise ValueError(f"chunk {number} has no tokens, so it has no keys")
    batch: list[Sequence[int]] = []
    for ids in chunks:
        if batch and sum(map(len, batch)) + len(ids) > max_tokens:
            yield from _packed(decoder, context, batch)
            batch = []
        batch.append(ids)
    if batch:
        yield from _packed(decoder, context, batch)


def _packed(decoder: Decoder, context: Sequence[tuple[Cached, int]], batch: Sequence[Sequence[int]]) -> list[FreshKV]:
    import torch

    started = time.perf_counter()
    num_context = sum(cached.num_tokens for cached, _ in context)
    with torch.inference_mode():
        requests = [_rows(decoder, context, num_context, len(ids)) for ids in batch]
        CachedPass(decoder.network, decoder.layers, decoder.traits, requests).logits([decoder.ids(ids) for ids in batch])
    per_token = (time.perf_counter() - started) / sum(map(len, batch))
    return [_fresh(rows, per_token * len(ids)) for rows, ids in zip(requests, batch, strict=True)]


def _rows(decoder: Decoder, context: Sequence[tuple[Cached, int]], num_context: int, num_tokens: int) -> Rows:
    import torch

    arena = Arena(decoder.traits.geometry, num_context + num_tokens, decoder.device)
    arena.num_tokens = num_context + num_tokens
    slots = torch.arange(arena.num_tokens, device=decoder.device)
    tables = [rotary.table(slots, arena.keys[0]) for rotary in decoder.traits.rotaries] if context else []
    load(arena, decoder.traits, context, tables, overlap=False)
    return Rows(arena, slots[num_context:], slots[num_context:], captured={})


def _fresh(rows: Rows, seconds: float) -> FreshKV:
    import torch

    assert rows.captured is not None
    layers = [rows.captured[index] for index in range(len(rows.captured))]
    return FreshKV(torch.stack([keys for keys, _ in layers]), torch.stack([values for _, values in layers]), seconds)
