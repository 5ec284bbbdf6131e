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
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from rag.kvcache.arena import Arena
from rag.kvcache.cached_pass import attention_options
from rag.kvcache.hooked import Projected, run
from rag.kvcache.load import load

if TYPE_CHECKING:
    import torch

    from rag.kernels.assemble import LayerKV
    from rag.kvcache.draft import Storage
    from rag.kvcache.plan import Cached
    from rag.kvcache.prefill import Decoder


@dataclass(frozen=True, slots=True)
class FreshKV:
    """Keys ``[L, Hkv, T, Dk]`` before rotation and values ``[L, Hkv, T, Dv]`` of some tokens, or their codes, and the seconds they took."""

    kv: LayerKV
    seconds: float

    @property
    def num_tokens(self) -> int:
        return self.kv.num_tokens

    def layer(self, index: int) -> LayerKV:
        from rag.kernels.quantise import layer_of

        return layer_of(self.kv, index)


def prefill_chunks(
    decoder: Decoder,
    context: Sequence[tuple[Cached, int]],
    chunks: Sequence[Sequence[int]],
    max_tokens: int = 4096,
    kind: Storage = "plain",
) -> Iterator[FreshKV]:
    """The keys and values of each of ``chunks`` behind ``context`` (what, first slot; without gaps), in order.

    Chunks are packed into passes of at most ``max_tokens`` tokens (one chunk at least); no row is padding, none sees another chunk.
    Codes of another ``kind`` are written by the attention kernel itself, those that ``quantise_kv`` makes of the plain numbers.
    Raises ``ValueError`` for an empty chunk, and for ``int4`` with odd head dimensions.
    """
    for number, ids in enumerate(chunks):
        if not ids:
            raise ValueError(f"chunk {number} has no tokens, so it has no keys")
    batch: list[Sequence[int]] = []
    for ids in chunks:
        if batch and sum(map(len, batch)) + len(ids) > max_tokens:
            yield from _packed(decoder, context, batch, kind)
            batch = []
        batch.append(ids)
    if batch:
        yield from _packed(decoder, context, batch, kind)


def _packed(
    decoder: Decoder, context: Sequence[tuple[Cached, int]], batch: Sequence[Sequence[int]], kind: Storage
) -> Iterator[FreshKV]:
    import torch

    from rag.kernels.ingest_prefill import chunk_of

    started = time.perf_counter()
    with torch.inference_mode():
        one = _Ingest(decoder, context, list(map(len, batch)), kind)
        if not one.steady:
            for ids in batch:
                yield from _packed(decoder, context, [ids], kind)
            return
        run(decoder.network, decoder.layers, decoder.ids([token for ids in batch for token in ids]), one.positions, one)
    per_token = (time.perf_counter() - started) / one.borders[-1]
    for number, ids in enumerate(batch):
        yield FreshKV(chunk_of(one.kept, number, one.borders), per_token * len(ids))


class _Ingest:
    """A pass over packed chunks of some lengths: what each layer makes of them goes into ``kept``, the room of a layer with the layers in front.

    ``steady``: whether a token is turned by the same angles whatever chunk it is packed with. It is not where angles depend on the length of what
    is read (dynamic NTK, LongRoPE) and one chunk is longer than the model was made for.
    """

    def __init__(self, decoder: Decoder, context: Sequence[tuple[Cached, int]], lengths: Sequence[int], kind: Storage) -> None:
        import torch

        from rag.kernels.ingest_prefill import room_for

        traits, device = decoder.traits, decoder.device
        geometry = traits.geometry
        num_context = sum(cached.num_tokens for cached, _ in context)
        self._traits, self.borders = traits, [0, *accumulate(lengths)]
        self._before = Arena(geometry, num_context, device)
        self._before.num_tokens = num_context
        num_tokens, dtype = self.borders[-1], self._before.keys.dtype
        self.kept = room_for(
            geometry.num_kv_heads, len(lengths), num_tokens, geometry.key_dim, geometry.value_dim, kind, dtype,
            num_layers=geometry.num_layers, device=device,
        )  # fmt: skip
        slots = torch.arange(num_context + max(lengths), device=device)
        self._tables = [rotary.table(slots, self._before.keys) for rotary in traits.rotaries]
        short = slots[: num_context + min(lengths)]
        self.steady = len(short) == len(slots) or all(
            torch.equal(part, table[: len(short)])
            for rotary, pair in zip(traits.rotaries, self._tables, strict=True)
            for part, table in zip(rotary.table(short, self._before.keys), pair, strict=True)
        )
        self.positions = torch.cat([slots[num_context : num_context + length] for length in lengths])
        if self.steady:
            load(self._before, traits, context, self._tables, overlap=False)

    def before_layer(self, index: int, layer: Any, hidden: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
        """Neutral rotation: the kernel rotates."""
        kwargs["position_embeddings"] = self._traits.neutral[index]
        return hidden

    def attend(self, index: int, projected: Projected) -> torch.Tensor:
        """Each chunk over the context and itself, ``[T, Hq, Dv]``; its keys and values are kept."""
        from rag.kernels.ingest_prefill import ingest_prefill
        from rag.kernels.quantise import layer_of

        which = self._traits.layers[index].rotary
        turns = self._tables[which] if which is not None else (projected.keys.new_empty(0, 0),) * 2
        style = "none" if which is None else self._traits.rotaries[which].style
        before = (self._before.keys[index], self._before.values[index]) if self._before.num_tokens else None
        return ingest_prefill(
            *projected[:3], self.borders, *turns, style, layer_of(self.kept, index),
            before=before, **attention_options(self._traits, index, projected),
        )  # fmt: skip

    def after_layers(self, hidden: torch.Tensor) -> torch.Tensor:
        """No logits are wanted; a row there must be."""
        return hidden[:, -1:]
