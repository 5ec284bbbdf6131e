"""The answer, token by token, from prefilled arenas: several requests of any lengths at once. Knows no text and no stop string."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rag.kvcache.cached_pass import CachedPass, Rows
from rag.kvcache.common import common_slots
from rag.kvcache.prefill import Decoder, Prefilled

if TYPE_CHECKING:
    import torch


Choose = Callable[["torch.Tensor"], int]
"""Float32 logits ``[vocabulary]`` -> the token (``rag.lm_sampling.Sampling.chooser``)."""


def decode(
    decoder: Decoder, batch: Sequence[Prefilled], going_on: Callable[[int, int], bool], choosers: Sequence[Choose]
) -> Iterator[list[int | None]]:
    """One token per request and step; ``None`` for a request that is over, the end when all are.

    ``choosers``: of each request, how its tokens are chosen. ``going_on(request, token)`` says whether a request goes on after ``token``.
    A request whose arena has no free slot left is over. The arenas are written to: a ``Prefilled`` can be continued once. A beginning
    that all requests have in common is read once a step for all of them.
    """
    import torch

    logits = [prefilled.logits for prefilled in batch]
    active = list(range(len(batch)))
    plain = all(prefilled.attention is None for prefilled in batch)
    common = common_slots([prefilled.arena for prefilled in batch]) if plain else 0
    while active:
        tokens = {number: choosers[number](logits[number]) for number in active}
        yield [tokens.get(number) for number in range(len(batch))]
        active = [number for number in active if going_on(number, tokens[number]) and _free(batch[number])]
        if active:
            with torch.inference_mode():
                rows = [next_row(decoder, batch[number]) for number in active]
                ids = [decoder.ids([tokens[number]]) for number in active]
                found = CachedPass(
                    decoder.network, decoder.layers, decoder.traits, rows, common=common if len(rows) > 1 else 0
                ).logits(ids)
            for number, one in zip(active, found, strict=True):
                logits[number] = one[-1]


def _free(prefilled: Prefilled) -> bool:
    return prefilled.arena.num_tokens < prefilled.arena.capacity


def next_row(decoder: Decoder, prefilled: Prefilled) -> Rows:
    """The next slot of a request, taken into use."""
    arena = prefilled.arena
    slot, position = decoder.ids([arena.num_tokens]), decoder.ids([prefilled.next_position])
    arena.num_tokens += 1
    prefilled.next_position += 1
    return Rows(arena, slot, position, attention=prefilled.attention)
