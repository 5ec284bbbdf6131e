"""Focused chunks: who leads after each layer, which rows stop, and that the rows which go on see what stands in the prompt."""

from __future__ import annotations

import pytest
import torch

from rag.kvcache.engine import KVEngine
from rag.kvcache.evidence import Evidence, Unchecked, top
from rag.kvcache.focus import Focus
from rag.kvcache.methods import METHODS
from rag.kvcache.plan import Plan
from rag.kvcache.prefill import Prefilled, prefill
from rag.kvcache.store import KVStore
from rag.kvcache.variants import Leaning
from tests.kvcache import prompts, tiny

FAMILIES = ["llama", "qwen3", "mistral-sliding", "gemma3-two-thetas"]


class Every(Unchecked):
    """Chooses as many of the first tokens as it may."""

    wants_mass = False

    def first(self, evidence: Evidence, budget: int) -> torch.Tensor:
        return top(-evidence.slots.float(), budget)


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= 2e-4 * max(1.0, float(other.abs().max())))


def focused(family: str, plan: Plan, recompute: float, **options: float) -> tuple[Focus, Prefilled]:
    leaning = Leaning(plan)
    focus = Focus(leaning, plan, **options)  # type: ignore[arg-type]
    done = prefill(prompts.decoder(family), plan, Every(), recompute, capture=True, watch=focus, going=focus.going)
    return focus, done


@pytest.mark.parametrize("family", FAMILIES)
def test_over_true_rows_it_does_not_matter_which_rows_stop(family: str) -> None:
    prompt = prompts.glued()
    focus, done = focused(family, prompts.plan(prompt, prompts.in_place(family, prompt)), 0.9, share=0.34, patience=1)
    assert focus.num_stopped and near(done.logits, prompts.stock_logits(family, prompt.ids)[-1])


@pytest.mark.parametrize("family", ["llama", "mistral-sliding"])
@pytest.mark.parametrize("patience", [1, 2, 3])
def test_the_leading_chunks_are_those_of_the_models_own_attention(family: str, patience: int) -> None:
    prompt = prompts.prompt((11, 7, 13, 9))
    focus, _ = focused(family, prompts.plan(prompt, prompts.in_place(family, prompt)), 1.0, share=0.5, patience=patience)
    network = tiny.network(family, "float32")
    network.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            attentions = network(input_ids=torch.tensor([list(prompt.ids)]), output_attentions=True).attentions
    finally:
        network.set_attn_implementation("sdpa")
    spans = [(start, start + len(s.ids)) for start, s in zip(prompt.starts, prompt.segments, strict=True) if s.kind == "chunk"]
    total, led, leading, depth = torch.zeros(len(spans)), 0, list[int](), 0
    for layer in attentions:
        asked = layer[0].float().mean(0)[-6:]
        total += torch.stack([asked[:, start:end].sum() for start, end in spans])
        now = total.argsort(descending=True)[:2].tolist()
        led, leading, depth = (led + 1 if now == leading else 1), now, depth + 1
        if led == patience:
            break
    assert (focus.num_layers, list(focus._leading), focus.settled) == (depth, leading, led == patience)


def test_rows_of_other_chunks_stop_and_nothing_else_does() -> None:
    prompt = prompts.glued()
    plan = prompts.plan(prompt, prompts.alone("llama", prompt))
    focus, done = focused("llama", plan, 0.9, share=0.34, patience=1)
    trace, num_layers = done.trace, len(prompts.decoder("llama").layers)
    budget = round(0.9 * trace.num_reused)
    assert trace.num_chosen + focus.num_stopped == budget and focus.num_layers == 1
    assert trace.num_row_layers == num_layers * trace.num_chosen + focus.num_stopped
    (going,) = [plan.parts[focus.leaning.parts[column]] for column in focus._leading]
    assert all(slot in going.slots for slot in done.chosen.tolist())
    assert set(plan.slots("computed")) <= set(done.computed.tolist())
    assert done.captured is not None and len(focus.leaning.mass) == len(done.computed)
    assert all(keys.shape[1] == values.shape[1] == len(done.computed) for keys, values in done.captured.values())


def test_if_all_chunks_are_in_focus_nothing_stops() -> None:
    prompt = prompts.glued()
    plan = prompts.plan(prompt, prompts.alone("llama", prompt))
    focus, done = focused("llama", plan, 0.5, share=1.0, patience=1)
    plain = prefill(prompts.decoder("llama"), plan, Every(), 0.5)
    assert focus.num_stopped == 0 and torch.equal(done.logits, plain.logits)
    assert done.trace.num_row_layers == plain.trace.num_row_layers == done.trace.num_chosen * 4


def test_what_was_not_computed_to_the_end_is_not_kept() -> None:
    prompt = prompts.glued()
    made = KVEngine(prompts.decoder("llama"), KVStore(ram_bytes=1 << 24), "tiny", METHODS["focused"], 1.0)
    made.warm(prompt.prefix, [segment.ids for segment in prompt.segments if segment.kind == "chunk"])
    first = made.prefill(prompt)
    kept = [
        s.ids for s in prompt.segments if s.kind == "chunk" and made.store.holds([made.planner.variants.key(s.ids, 0)]) == [True]
    ]
    assert first.trace.num_row_layers < 4 * first.trace.num_reused and 0 < len(kept) < 3
    assert torch.isfinite(made.prefill(prompt).logits).all()


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": 1.5}, {"patience": 0}])
def test_bad_options_are_named(options: dict[str, float]) -> None:
    prompt = prompts.prompt()
    plan = prompts.cold(prompt)
    with pytest.raises(ValueError, match="share="):
        Focus(Leaning(plan), plan, **options)  # type: ignore[arg-type]
