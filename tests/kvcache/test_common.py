"""Requests with a common beginning decode together as they do alone; what is taken for common is common bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rag.kvcache.arena import Arena
from rag.kvcache.cached_pass import CachedPass, Rows
from rag.kvcache.common import common_slots
from rag.kvcache.decode import decode
from rag.kvcache.prefill import Prefilled
from rag.kvcache.prompt import Prompt
from rag.lm_sampling import Sampling
from tests.kvcache import prompts, tiny
from tests.kvcache.test_engine import engine, near


@pytest.fixture(autouse=True)
def every_common_row_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.kvcache.common.LEAST_SAVED", 1)


def ready(family: str, word: str = "full") -> list[Prefilled]:
    """Three requests with the same 40 tokens before ends of other lengths, each with its own arena."""
    made = engine(word, family)
    asked = [Prompt.of(tiny.ids(40, 7), [tiny.ids(length, length)], tiny.ids(5, length)) for length in (11, 3, 20)]
    for each in asked:
        made.warm(each.prefix, [segment.ids for segment in each.segments if segment.kind == "chunk"])
    return [made.prefill(each, room=9) for each in asked]


def filled(num_tokens: int) -> Arena:
    arena = Arena(prompts.decoder("llama").traits.geometry, 30)
    made = torch.Generator().manual_seed(1)
    arena.keys.copy_(torch.randn(arena.keys.shape, generator=made))
    arena.values.copy_(torch.randn(arena.values.shape, generator=made))
    arena.num_tokens = num_tokens
    return arena


def test_what_is_common_is_common_in_every_layer() -> None:
    one, other, third = filled(25), filled(21), filled(30)
    assert common_slots([one, other, third]) == 21
    other.values[3, 1, 17, 5] += 1
    assert common_slots([one, other, third]) == 17 and common_slots([one, third]) == 25
    third.keys[0, 0, 4, 0] = float("nan")
    assert common_slots([one, other, third]) == 4
    one.keys[2, 0, 0, 0] += 1
    assert common_slots([one, other, third]) == 0
    assert common_slots([one]) == common_slots([]) == 0


def test_a_short_beginning_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.kvcache.common.LEAST_SAVED", 50)
    assert common_slots([filled(25), filled(25)]) == 0 and common_slots([filled(25), filled(25), filled(25)]) == 25


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_step_together_is_the_steps_alone(family: str) -> None:
    decoder, requests = prompts.decoder(family), ready(family, "block")
    common = common_slots([prefilled.arena for prefilled in requests])
    assert common == 40
    ids, alone = [decoder.ids([token]) for token in (9, 30, 31)], []
    rows = []
    for prefilled, token in zip(requests, ids, strict=True):
        arena = prefilled.arena
        slot = decoder.ids([arena.num_tokens])
        arena.num_tokens += 1
        rows.append(Rows(arena, slot, slot))
        alone.append(CachedPass(decoder.network, decoder.layers, decoder.traits, [rows[-1]]).logits([token])[0])
    together = CachedPass(decoder.network, decoder.layers, decoder.traits, rows, common=common).logits(ids)
    for one, other in zip(together, alone, strict=True):
        assert near(one, other)


def test_decoding_reads_the_beginning_once_and_answers_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from rag.kernels import cascade_decode as module

    seen: list[tuple[int, int]] = []
    true = module.cascade_decode

    def counted(queries: torch.Tensor, common_keys: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        seen.append((len(queries), common_keys.shape[1]))
        return true(queries, common_keys, *more, **named)

    monkeypatch.setattr(module, "cascade_decode", counted)
    together = answers(ready("llama", "block"), [3, 4, 5])
    assert set(seen) == {(3, 40), (2, 40)}  # the first request ends before the others, and the last goes on alone
    seen.clear()
    alone = [answers([one], [count])[0] for one, count in zip(ready("llama", "block"), [3, 4, 5], strict=True)]
    assert together == alone and not seen


def answers(batch: list[Prefilled], counts: list[int]) -> list[list[int]]:
    out: list[list[int]] = [[] for _ in batch]
    choosers = [Sampling().chooser(())] * len(batch)
    for tokens in decode(prompts.decoder("llama"), batch, lambda number, _: len(out[number]) < counts[number], choosers):
        for number, token in enumerate(tokens):
            if token is not None:
                out[number].append(token)
    return out
