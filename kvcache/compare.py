"""How far an answer over cached keys and values is from that of the full prefill. Knows engines and ids, no text and no verdict.

The full prefill's greedy answer is forced on the other, so that both say what they think of the same tokens: KL(full || other) per token
in nats is the loss in the model's own terms, equal greedy answers are what a user sees.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rag.kvcache.cached_pass import CachedPass, Rows
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


def reply(decoder: Decoder, ready: Prefilled, num_tokens: int, ends: Collection[int]) -> Reply:
    """At most ``num_tokens`` greedy tokens after ``ready``."""
    import torch

    tokens: list[int] = []
    rows = [ready.logits.log_softmax(-1)]
    while len(tokens) < num_tokens:
        token = int(rows[-1].argmax())
        if token in ends:
            break
        tokens.append(token)
        if len(tokens) < num_tokens:
            rows.append(_after(decoder, ready, [token])[0])
    return Reply(tuple(tokens), torch.stack(rows))


def forced_reply(decoder: Decoder, ready: Prefilled, num_tokens: int, tokens: Sequence[int]) -> Reply:
    """What is thought of each of ``tokens`` (and, if they are fewer than ``num_tokens``, of what follows them): one pass."""
    import torch

    tokens = tokens[:num_tokens]
    rows = [ready.logits.log_softmax(-1)[None]]
    if told := tokens[: num_tokens - 1]:
        rows.append(_after(decoder, ready, told))
    return Reply(tuple(tokens), torch.cat(rows))


def _after(decoder: Decoder, ready: Prefilled, tokens: Sequence[int]) -> torch.Tensor:
    """Float32 log-probabilities ``[T, vocabulary]`` after each of ``tokens``, which continue ``ready``."""
    import torch

    slots = decoder.ids(range(ready.arena.num_tokens, ready.arena.num_tokens + len(tokens)))
    positions = decoder.ids(range(ready.next_position, ready.next_position + len(tokens)))
    ready.arena.num_tokens += len(tokens)
    ready.next_position += len(tokens)
    rows = Rows(ready.arena, slots, positions, num_logits=len(tokens), attention=ready.attention)
    with torch.inference_mode():
        (found,) = CachedPass(decoder.network, decoder.layers, decoder.traits, [rows]).logits([decoder.ids(tokens)])
    return found.log_softmax(-1)


def says_the_same(forced: Reply, num_tokens: int, ends: Collection[int]) -> bool:
    """Whether the greedy answer is the one that was forced: every token, and the end if there was room for it, is the likeliest."""
    greedy = forced.logprobs.argmax(-1).tolist()
    ended = len(forced.tokens) == num_tokens or greedy[-1] in ends
    return greedy[: len(forced.tokens)] == list(forced.tokens) and ended


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
    """The engine's method against the full prefill on ``prompts``, at each share, or at its own if it has one. Chunks are computed and kept on the way."""
    shares = shares if engine.method.recompute is None else [engine.method.recompute]
    full = engine.with_method(METHODS["full"], 1.0)
    engines = [engine.with_method(engine.method, share) for share in shares]
    sums = [[0.0, 0.0] for _ in shares]
    for number, prompt in enumerate(prompts):
        engine.remember(prompt)
        true = reply(full.decoder, full.prefill(prompt, num_tokens), num_tokens, ends)
        for row, one in zip(sums, engines, strict=True):
            forced = forced_reply(one.decoder, one.prefill(prompt, num_tokens), num_tokens, true.tokens)
            row[0] += kl_nats(true, forced)
            row[1] += says_the_same(forced, num_tokens, ends)
        on_progress(number + 1, len(prompts))
    count = max(len(prompts), 1)
    return [
        Measured(engine.method.name, share, kl / count, match / count, len(prompts))
        for share, (kl, match) in zip(shares, sums, strict=True)
    ]
