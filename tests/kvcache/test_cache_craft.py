"""Variants of chunks: what they leaned on, which is taken, what is computed anew, and that a chunk in its old place is exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rag.kvcache.cache_craft import CacheCraft, quotas
from rag.kvcache.dependence import ALONE, Dependence, chunk_name
from rag.kvcache.engine import KVEngine
from rag.kvcache.evidence import Evidence
from rag.kvcache.methods import method
from rag.kvcache.prompt import Prompt
from rag.kvcache.store import KVStore
from rag.kvcache.variants import NUM_VARIANTS, Leaning, names_before
from tests.kvcache import prompts, tiny


def engine(store: KVStore | None = None, recompute: float = 0.3, family: str = "llama", salt: str = "") -> KVEngine:
    return KVEngine(
        prompts.decoder(family), store or KVStore(ram_bytes=1 << 24), f"tiny {family}", method("cache-craft"), recompute, salt=salt
    )


def chunks_of(prompt: Prompt) -> list[tuple[int, ...]]:
    return [segment.ids for segment in prompt.segments if segment.kind == "chunk"]


def in_order(prompt: Prompt, order: Sequence[int]) -> Prompt:
    kept = [prompt.segments[1 + number] for number in order]
    return Prompt((prompt.segments[0], *kept, prompt.segments[-1]))


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= 2e-4 * max(1.0, float(other.abs().max())))


def leaned(before: Sequence[int], inter: Sequence[float], left: float = 0.0) -> Dependence:
    fresh = torch.tensor([True, True, True, left == 0])
    return Dependence(tuple(before), (10,) * len(before), tuple(inter), 2.0, torch.tensor([0.1, 0.4, 0.2, 0.3]), fresh, 4 * left)


# What a chunk leaned on ------------------------------------------------------------------------------------------------------


def test_the_formulas_by_hand() -> None:
    known = leaned([1, 2, 3], [4.0, 0.0, 12.0])
    outside, inside = (0.4 + 1.2) / 4, 2.0 / 16
    assert known.impact == pytest.approx(1 / (1 + math.exp(-outside / inside)))
    assert known.overlap([1, 2, 3]) == 1.0 and known.overlap([9, 1, 8, 2, 3]) == 1.0
    assert known.overlap([1]) == pytest.approx(0.25) and known.overlap([3, 7]) == pytest.approx(0.75)
    assert known.overlap([3, 1]) == 0.0, "everything is there, in the opposite order"
    assert known.overlap([2, 1, 3]) == pytest.approx(2 / 3), "one pair of three"
    assert known.overlap([7, 8]) == 0.0
    assert known.need([1]) == pytest.approx(known.impact * 0.75)
    assert leaned([1, 2], [1.0, 1.0], left=0.2).need([1, 2]) == pytest.approx(0.2)


def test_tokens_are_wrong_as_far_as_what_they_leaned_on_is_gone() -> None:
    known = leaned([1, 2], [1.0, 3.0], left=0.1)  # the last token was never computed behind others
    assert known.leaning([2]).tolist() == pytest.approx([0.025, 0.1, 0.05, 0.3])
    assert known.leaning([1, 2]).tolist() == pytest.approx([-math.inf] * 3 + [0.3])
    known.token_inter[3] = math.nan
    assert known.leaning([1, 2]).tolist() == pytest.approx([-math.inf] * 3 + [-4.0])


def test_a_chunk_that_leaned_on_nothing_has_no_impact_beyond_half() -> None:
    assert leaned([1], [0.0]).impact == 0.5 == ALONE
    assert leaned([1], [0.0]).overlap([1]) == 1.0 and leaned([1], [0.0]).overlap([2]) == 0.0


def test_statistics_are_what_they_were() -> None:
    known = leaned([1, -(2**60)], [0.5, 0.25], left=0.125)
    again = Dependence.of(known.statistics())
    assert (again.before, again.sizes, again.inter, again.intra, again.base) == ((1, -(2**60)), (10, 10), (0.5, 0.25), 2.0, 0.5)
    assert torch.equal(again.token_inter, known.token_inter) and torch.equal(again.fresh, known.fresh)


@pytest.mark.parametrize("family", ["llama", "mistral-sliding", "gemma3-two-thetas"])
def test_the_attention_that_is_added_up_is_that_of_the_model(family: str) -> None:
    prompt = prompts.prompt()
    made = engine(family=family)
    with made.planner.planned(prompt, made.method) as plan:
        leaning = Leaning(plan)
        from rag.kvcache.prefill import prefill

        prefill(made.decoder, plan, made.selector, 1.0, watch=leaning)
    network = tiny.network(family, "float32")
    network.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            attentions = network(input_ids=torch.tensor([list(prompt.ids)]), output_attentions=True).attentions
    finally:
        network.set_attn_implementation("sdpa")
    dense = torch.stack([layer[0].float().mean(0) for layer in attentions]).mean(0)  # [rows, keys]
    starts = [(start, start + len(s.ids)) for start, s in zip(prompt.starts, prompt.segments, strict=True) if s.kind == "chunk"]
    expected = torch.stack([dense[:, start:end].sum(1) for start, end in starts], 1)
    assert leaning.mass.shape == expected.shape and bool((leaning.mass - expected).abs().max() < 1e-4)


# What is computed anew -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.integers(1, 40)), min_size=1, max_size=6), st.floats(0, 1))
def test_quotas_keep_to_the_budget_and_go_by_need(chunks: list[tuple[float, int]], share: float) -> None:
    needs, sizes = [need for need, _ in chunks], [size for _, size in chunks]
    budget = int(share * sum(sizes))
    counts = quotas(needs, sizes, budget)
    needy = sum(size for need, size in chunks if need > 0)
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    assert all(count == 0 for count, need in zip(counts, needs, strict=True) if need == 0)
    assert sum(counts) <= budget and sum(counts) >= min(budget, needy) - len(chunks)
    shares = sorted((need, count / size, size) for need, count, size in zip(needs, counts, sizes, strict=True))
    for (less, low, size), (more, high, other) in pairwise(shares):
        assert less == more or low <= high + 1 / size + 1 / other, "a needier chunk gets no smaller share, but for rounding"


def test_in_a_chunk_the_tokens_that_leaned_most_are_computed() -> None:
    def column(*values: float) -> torch.Tensor:
        return torch.tensor(values)

    evidence = Evidence(
        slots=torch.arange(8), chunk=torch.tensor([0] * 4 + [1] * 4), offset=torch.tensor([0, 1, 2, 3] * 2), prior=torch.zeros(8),
        need=column(*[0.0] * 4, *[0.5] * 4), leaning=column(9, 9, 9, 9, 0.1, 0.9, 0.2, 0.8),
    )  # fmt: skip
    assert CacheCraft().first(evidence, 2).tolist() == [5, 7]
    assert CacheCraft().first(evidence, 8).tolist() == [4, 5, 6, 7]


# What is kept and taken ------------------------------------------------------------------------------------------------------


def test_a_chunk_that_was_computed_in_its_place_is_exact_there_and_nothing_of_it_is_computed() -> None:
    prompt, made = prompts.glued(), engine()
    first = made.prefill(prompt)
    assert near(first.logits, prompts.stock_logits("llama", prompt.ids)[-1])
    second = made.prefill(prompt)
    assert (second.trace.num_reused, second.trace.num_chosen) == (7 + 13, 0)
    assert near(second.logits, first.logits)


def test_behind_other_chunks_it_is_computed_in_part_and_what_fits_best_is_taken() -> None:
    prompt, made = prompts.prompt((11, 7, 13, 9)), engine()
    one, other = in_order(prompt, [0, 1, 2]), in_order(prompt, [3, 1, 2])
    made.prefill(one)
    done = made.prefill(other)
    assert 0 < done.trace.num_chosen <= 0.3 * done.trace.num_reused + 1
    again = made.prefill(one)
    assert again.trace.num_chosen == 0 and near(again.logits, prompts.stock_logits("llama", one.ids)[-1]), (
        "the first variant is kept"
    )


def test_what_is_asked_again_is_repaired_further() -> None:
    prompt, made = prompts.glued(), engine(recompute=0.25)
    made.warm(prompt.prefix, chunks_of(prompt))
    true = prompts.stock_logits("llama", prompt.ids)[-1]
    gaps = [float((made.prefill(prompt).logits - true).abs().mean()) for _ in range(8)]
    assert gaps[-1] < 0.8 * gaps[0]


def test_there_are_only_so_many_variants() -> None:
    prompt, store = prompts.prompt((11, 7, 13, 9, 8, 6)), KVStore(ram_bytes=1 << 26)
    made = engine(store)
    for order in ([0, 1], [2, 1], [3, 1], [4, 1], [5, 1], [0, 2, 1], [3, 2, 1], [5, 4, 1]):
        made.prefill(in_order(prompt, order))
    ids = chunks_of(prompt)[1]
    variants = made.planner.variants
    there = store.holds([variants.key(ids, number) for number in range(NUM_VARIANTS + 3)])
    assert there == [True] * NUM_VARIANTS + [False] * 3
    latest = in_order(prompt, [5, 4, 1])
    held, need, dependence = variants.best(ids, names_before(latest, 3), None) or pytest.fail("none is kept")
    with held:
        assert (
            need < 0.5 and dependence is not None and dependence.before == tuple(chunk_name(chunks_of(prompt)[n]) for n in (5, 4))
        )


def test_another_tenant_has_none_of_them_and_damage_is_a_miss() -> None:
    prompt, store = prompts.prompt(), KVStore(ram_bytes=1 << 24)
    engine(store, salt="ann").prefill(prompt)
    assert engine(store, salt="bob").prefill(prompt).trace.num_reused == 0
    made = engine(store, salt="ann")
    assert made.prefill(prompt).trace.num_reused == 7 + 13
    store.clear()
    assert near(made.prefill(prompt).logits, prompts.stock_logits("llama", prompt.ids)[-1])


def test_compaction_keeps_variants_of_chunks_that_are_there() -> None:
    prompt, store = prompts.prompt(), KVStore(ram_bytes=1 << 24)
    made = engine(store)
    made.prefill(prompt)
    before = store.stats().entries
    assert before and store.keep_only(set(chunks_of(prompt)) | {prompt.prefix}) == 0
    assert store.keep_only(set(chunks_of(prompt)[:2]) | {prompt.prefix}) >= 1
    assert made.prefill(prompt).trace.num_reused == 7
