"""Prompts of random tokens, their plans, and the answers that transformers itself gives: what the invariants are checked against."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from rag.kernels.assemble import LayerKV
from rag.kvcache.arena import Arena
from rag.kvcache.cached_pass import CachedPass, Rows
from rag.kvcache.chunk_prefill import FreshKV, prefill_chunks
from rag.kvcache.evidence import Selector
from rag.kvcache.plan import Cached, Part, Plan
from rag.kvcache.prefill import Decoder, Prefilled, prefill
from rag.kvcache.prompt import Prompt, Segment
from tests.kvcache import tiny


@cache
def decoder(family: str, dtype: str = "float32") -> Decoder:
    """The probed model of a family."""
    return Decoder.of(tiny.network(family, dtype))


def prompt(chunk_lengths: Sequence[int] = (11, 7, 13), seed: int = 0, num_prefix: int = 5, num_question: int = 6) -> Prompt:
    """Random prefix, chunks and question."""
    chunks = [tiny.ids(length, 100 * seed + number + 1) for number, length in enumerate(chunk_lengths)]
    priors = [float(number % 3) for number in range(len(chunks))]
    return Prompt.of(tiny.ids(num_prefix, 7), chunks, tiny.ids(num_question, 100 * seed + 99), priors)


def glued(seed: int = 0) -> Prompt:
    """The same with a label before every chunk."""
    plain = prompt(seed=seed)
    middle = [
        piece
        for number, segment in enumerate(plain.segments[1:-1])
        for piece in (Segment("glue", tuple(tiny.ids(2, number))), segment)
    ]
    return Prompt((plain.segments[0], *middle, plain.segments[-1]))


def stock_logits(family: str, ids: Sequence[int], dtype: str = "float32") -> torch.Tensor:
    """What transformers says after every token, ``[T, vocabulary]``."""
    with torch.inference_mode():
        return tiny.network(family, dtype)(input_ids=torch.tensor([list(ids)])).logits[0].float()  # type: ignore[no-any-return]


def true_rows(family: str, ids: Sequence[int], dtype: str = "float32") -> FreshKV:
    """Keys (not rotated) and values of every token of a full prefill."""
    (fresh,) = prefill_chunks(decoder(family, dtype), [], [list(ids)])
    return fresh


class Slice:
    """Some tokens of a longer run of keys and values."""

    def __init__(self, whole: FreshKV, start: int, end: int) -> None:
        self._part = FreshKV(LayerKV(whole.kv.keys[:, :, start:end], whole.kv.values[:, :, start:end]), 0.0)
        self.num_tokens, self.layer = self._part.num_tokens, self._part.layer


def alone(family: str, of: Prompt, dtype: str = "float32") -> list[Cached]:
    """Keys and values of each segment but the last: of the prefix, and of everything else behind the prefix alone."""
    decode = decoder(family, dtype)
    (prefix,) = prefill_chunks(decode, [], [of.prefix])
    return [prefix, *prefill_chunks(decode, [(prefix, 0)], [segment.ids for segment in of.segments[1:-1]])]


def in_place(family: str, of: Prompt, dtype: str = "float32") -> list[Cached]:
    """Keys and values of each segment but the last as the full prefill of this prompt makes them."""
    whole = true_rows(family, of.ids, dtype)
    return [Slice(whole, start, start + len(segment.ids)) for start, segment in zip(of.starts, of.segments[:-1], strict=False)]


def plan(of: Prompt, cached: Sequence[Cached | None]) -> Plan:
    """Prefix exact, chunks reused, glue and what has no cache computed."""
    sources = {"prefix": "exact", "chunk": "reused"}
    parts = []
    for number, (start, segment) in enumerate(zip(of.starts, of.segments, strict=True)):
        held = cached[number] if number < len(cached) and segment.kind in sources else None
        source: Any = sources[segment.kind] if held is not None else "computed"
        parts.append(Part(start, len(segment.ids), source, held, segment.prior))
    return Plan(of, tuple(parts))


def cold(of: Prompt) -> Plan:
    """Nothing is cached."""
    return plan(of, [])


def answer(family: str, what: Plan, selector: Selector, recompute: float, dtype: str = "float32", **more: Any) -> Prefilled:
    """The prefill of a plan by a family's model."""
    return prefill(decoder(family, dtype), what, selector, recompute, **more)


def row_logits(family: str, of: Prompt, cached: Sequence[Cached | None], slots: Sequence[int]) -> torch.Tensor:
    """Logits ``[T, vocabulary]`` at ``slots`` when these rows are computed over the cached rest, in one pass."""
    decode, whole = decoder(family), plan(of, cached)
    arena = Arena(decode.traits.geometry, len(of))
    arena.num_tokens = len(of)
    everywhere = torch.arange(len(of))
    tables = [rotary.table(everywhere, arena.keys[0]) for rotary in decode.traits.rotaries]
    from rag.kvcache.load import load

    load(arena, decode.traits, list(whole.cached_parts()), tables, overlap=False)
    rows = Rows(arena, torch.tensor(slots), torch.tensor(slots), num_logits=len(slots))
    ids = torch.tensor(of.ids)[torch.tensor(slots)]
    return CachedPass(decode.network, decode.layers, decode.traits, [rows]).logits([ids])[0]
