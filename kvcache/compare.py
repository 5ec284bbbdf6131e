"""How far an answer over cached keys and values is from that of the full prefill. Knows engines and ids, no text and no verdict.

The full prefill's greedy answer is forced on the other, so that both say what they think of the same tokens: KL(full || other) per token
in nats is the loss in the model's own terms, equal greedy answers are what a user sees.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag.kvcache.cached_pass import CachedPass
from rag.kvcache.decode import next_row
from rag.kvcache.engine import KVEngine
from rag.kvcache.gate import Measured
from rag.kvcache.methods import METHODS
from rag.kvcache.prefill import Decoder, Prefilled
from rag.kvcache.prompt import Prompt

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Reply:
    """A greedy answer (ids without the end token) and the float32 log-probabilities ``[n, vocabulary]`` at its tokens and its end."""

    tokens: tuple[int, ...]
    logprobs: torch.Tensor


def reply(decoder: Decoder, ready: Prefilled, num_tokens: int, ends: Collection[int], forced: Sequence[int] | None = None) -> Reply:
    """At most ``num_tokens`` greedy tokens after ``ready``; with ``forced``, what is thought of each of those tokens instead."""
    import torch

    tokens: list[int] = []
    rows = [ready.logits.log_softmax(-1)]
    while len(tokens) < num_tokens:
        token = int(rows[-1].argmax()) if forced is None else forced[len(tokens)] if len(tokens) < len(forced) else -1
        if token in ends or token < 0:
            break
        tokens.append(token)
        if len(tokens) < num_tokens:
            with torch.inference_mode():
                row = next_row(decoder, ready)
                found = CachedPass(decoder.network, decoder.layers, decoder.traits, [row]).logits([decoder.ids([token])])
            rows.append(found[0][-1].log_softmax(-1))
    return Reply(tuple(tokens), torch.stack(rows))


def kl_nats(true: Reply, other: Reply) -> float:
    """Mean KL(true || other) over the tokens both were asked about."""
    num = min(len(true.logprobs), len(other.logprobs))
    p, q = true.logprobs[:num], other.logprobs[:num]
    return float((p.exp() * (p - q)).sum(-1).mean().clamp(min=0))


def check(
    engine: KVEngine,
    prompts: Sequence[Prompt],
    shares: Sequence[float],
    ends: Collection[int],
    num_tokens: int = 16,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Measured]:
    """The engine's method against the full prefill on ``prompts``, at each share. Chunks are computed and kept on the way."""
    full = engine.with_method(METHODS["full"], 1.0)
    engines = [engine.with_method(engine.method, share) for share in shares]
    sums = [[0.0, 0.0] for _ in shares]
    for number, prompt in enumerate(prompts):
        engine.remember(prompt)
        true = reply(full.decoder, full.prefill(prompt, num_tokens), num_tokens, ends)
        for row, one in zip(sums, engines, strict=True):
            forced = reply(one.decoder, one.prefill(prompt, num_tokens), num_tokens, ends, true.tokens)
            free = reply(one.decoder, one.prefill(prompt, num_tokens), num_tokens, ends)
            row[0] += kl_nats(true, forced)
            row[1] += free.tokens == true.tokens
        on_progress(number + 1, len(prompts))
    count = max(len(prompts), 1)
    return [
        Measured(engine.method.name, share, kl / count, match / count, len(prompts))
        for share, (kl, match) in zip(shares, sums, strict=True)
    ]
