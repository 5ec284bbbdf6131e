"""Chunks side by side: positions, and attention with a temperature, against a dense softmax."""

from __future__ import annotations

import pytest
import torch

from rag.kvcache.ape import ParallelAttention, parallel_attention, side_by_side
from rag.kvcache.arena import Arena
from rag.kvcache.cached_pass import Attending, Rows, causal
from tests.kvcache import prompts


def dense(
    queries: torch.Tensor, arena: Arena, slots: torch.Tensor, start: int, end: int, temperature: float, scaling: float
) -> torch.Tensor:
    """Row by row and head by head in float64: the formula of the paper, written out."""
    keys, values = arena.keys[1].double(), arena.values[1].double()
    out = torch.zeros(len(slots), queries.shape[0], values.shape[-1], dtype=torch.float64)
    group = queries.shape[0] // keys.shape[0]
    for row, slot in enumerate(slots.tolist()):
        for head in range(queries.shape[0]):
            scores = queries[head, row].double() @ keys[head // group, : slot + 1].T * 0.25
            if slot < end:
                weights = scores.softmax(0)
            else:
                rest = torch.cat([scores[:start], scores[end:]])
                context = scores[start:end] / temperature
                share = context.logsumexp(0) * temperature * scaling
                total = torch.logaddexp(share, rest.logsumexp(0))
                inside = context.softmax(0) * (share - total).exp()
                outside = (rest - total).exp()
                weights = torch.cat([outside[:start], inside, outside[start:]])
            out[row, head] = weights @ values[head // group, : slot + 1]
    return out


@pytest.mark.parametrize("slots", [[20, 21, 22, 23], [6, 11, 20, 23], [23], [4, 9]])
@pytest.mark.parametrize(("start", "temperature", "scaling"), [(5, 0.9, 0.9), (0, 0.5, 1.3), (5, 1.0, 1.0)])
def test_attention_is_the_formula(slots: list[int], start: int, temperature: float, scaling: float) -> None:
    torch.manual_seed(3)
    arena = Arena(prompts.decoder("llama").traits.geometry, 30)
    arena.num_tokens = 24
    arena.keys[:, :, :24], arena.values[:, :, :24] = torch.randn(4, 2, 24, 16), torch.randn(4, 2, 24, 16)
    where = torch.tensor(slots)
    queries = torch.randn(4, len(slots), 16)
    options = {"scale": 0.25, "window": None, "softcap": None, "sinks": None}
    attending = Attending(1, queries, Rows(arena, where, where), options)
    out = ParallelAttention(start, 18, temperature, scaling)(attending)
    expected = dense(queries, arena, where, start, 18, temperature, scaling)
    assert (out.double() - expected).abs().max() < 1e-5
    plain = causal(attending)
    if temperature == scaling == 1.0:
        assert (out - plain).abs().max() < 1e-5


def test_every_chunk_lies_behind_the_prefix_and_the_question_behind_the_longest() -> None:
    prompt = prompts.glued()  # prefix 5; chunks of 11, 7 and 13 with labels of 2; question 6
    plan = side_by_side(prompts.plan(prompt, prompts.alone("llama", prompt)))
    assert plan.positions is not None
    by_segment = [plan.positions[start : start + len(s.ids)] for start, s in zip(prompt.starts, prompt.segments, strict=True)]
    assert [span[0] for span in by_segment] == [0, 5, 7, 5, 7, 5, 7, 20]
    attention = parallel_attention(plan)
    assert (attention.start, attention.end) == (5, len(prompt) - 6)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"scaling": -1.0}])
def test_bad_options_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ParallelAttention(0, 5, **wrong)
