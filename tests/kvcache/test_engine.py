"""An engine over a store: the same answers whatever is cached, wherever it lies, whatever was damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rag.kvcache.compare import forced_reply, reply, says_the_same
from rag.kvcache.decode import decode
from rag.kvcache.engine import KVEngine
from rag.kvcache.hooked import Unsupported
from rag.kvcache.methods import METHODS, method
from rag.kvcache.prefill import _Prefill
from rag.kvcache.prompt import Prompt, Segment
from rag.kvcache.store import KVStore
from rag.lm_sampling import Sampling
from tests.kvcache import prompts, tiny

LIKELIEST = Sampling().chooser([])
every_word = pytest.mark.parametrize("word", METHODS)


def engine(word: str, family: str = "llama", store: KVStore | None = None, **more: Any) -> KVEngine:
    options: dict[str, Any] = {"recompute": 0.3, "start_ids": [1], **more}
    return KVEngine(prompts.decoder(family), store or KVStore(ram_bytes=1 << 24), f"tiny {family}", method(word), **options)


def warmed(word: str, prompt: Prompt, family: str = "llama", **more: Any) -> KVEngine:
    made = engine(word, family, **more)
    made.warm(prompt.prefix, [segment.ids for segment in prompt.segments if segment.kind == "chunk"])
    return made


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() <= 2e-4 * max(1.0, float(other.abs().max())))


@every_word
@pytest.mark.parametrize("family", ["llama", "qwen3", "glm-partial-interleaved"])
def test_a_cold_store_gives_the_full_prefill(word: str, family: str) -> None:
    prompt = prompts.glued()
    if word == "ape":
        pytest.skip("chunks side by side have other positions than a prompt")
    assert near(engine(word, family).prefill(prompt).logits, prompts.stock_logits(family, prompt.ids)[-1])


@every_word
def test_what_was_warmed_is_found_and_the_second_time_nothing_is_computed(word: str) -> None:
    prompt = prompts.glued()
    made = warmed(word, prompt)
    first, second = made.prefill(prompt), made.prefill(prompt)
    assert torch.equal(first.logits, second.logits) or word == "prefix" or METHODS[word].variants  # it keeps what it repaired
    reads = METHODS[word].reads
    assert (first.trace.num_exact > 0) == (reads != "nothing")
    assert first.trace.num_reused == (31 if reads == "chunks" else 0)
    again = made.warm(prompt.prefix, [segment.ids for segment in prompt.segments if segment.kind == "chunk"])
    assert (again.num_computed, again.num_known) == (0, 3)


@pytest.mark.parametrize("word", [word for word in METHODS if METHODS[word].exact])
def test_exact_methods_are_exact_and_prefixes_are_kept(word: str) -> None:
    made, one, other = engine(word), prompts.prompt((11, 7, 13)), prompts.prompt((11, 7, 13))
    other = Prompt((*one.segments[:3], *prompts.prompt((9,), seed=5).segments[1:]))
    assert near(made.prefill(one).logits, prompts.stock_logits("llama", one.ids)[-1])
    done = made.prefill(other)
    assert near(done.logits, prompts.stock_logits("llama", other.ids)[-1])
    assert done.trace.num_exact == (5 + 11 + 7 if word == "prefix" else 0)


def test_i15_a_prefix_kept_from_an_exact_prompt_and_chunks_share_one_coordinate_system() -> None:
    prompt = prompts.prompt()
    store = KVStore(ram_bytes=1 << 24)
    engine("prefix", store=store).prefill(Prompt((*prompt.segments[:2], prompt.segments[-1])))
    made = engine("first-k", store=store)
    made.warm(prompt.prefix, [segment.ids for segment in prompt.segments[1:-1]])
    done = made.prefill(prompt)
    assert (done.trace.num_exact, done.trace.num_reused) == (5 + 11, 20)
    everything = KVEngine(made.decoder, store, "tiny llama", method("first-k"), 1.0).prefill(prompt)
    assert near(everything.logits, prompts.stock_logits("llama", prompt.ids)[-1])


def test_the_first_chunk_right_behind_the_prefix_is_exact() -> None:
    prompt = prompts.prompt((11, 7))
    assert warmed("first-k", prompt).prefill(prompt).trace.num_exact == 5 + 11
    for policy in ("bare", "bos-dropped"):
        assert warmed("first-k", prompt, policy=policy).prefill(prompt).trace.num_exact == 5


def test_compared_methods_reuse_chunks_as_they_were_encoded_alone() -> None:
    prompt, store = prompts.prompt((11, 7, 13)), KVStore(ram_bytes=1 << 24)
    engine("prefix", store=store).prefill(prompt)
    made = engine("block", store=store, policy="bare")
    made.remember(prompt)
    assert made.prefill(prompt).trace.num_exact == 5 + 31, "everything is in place: better than reuse, and no measure of it"
    compared = made.with_method(made.method, 0.0)
    for each in (made, compared):
        each.worth.saw_compute(1000, 1e-9)
        each.worth.saw_load("ram", 1, 1.0)
    assert made.prefill(prompt).trace.num_exact == 0, "loading does not pay"
    done = compared.prefill(prompt)
    assert (done.trace.num_exact, done.trace.num_reused) == (5, 31)
    assert not near(done.logits, prompts.stock_logits("llama", prompt.ids)[-1])


@every_word
def test_i12_a_batch_of_ragged_requests_is_its_requests_one_by_one(word: str) -> None:
    batch = [prompts.prompt(lengths, seed) for seed, lengths in enumerate([(11, 7, 13), (3,), (20, 5)])]

    def answers(group: list[Prompt]) -> list[list[int]]:
        made, out = engine(word), [list[int]() for _ in group]
        for each in group:
            made.warm(each.prefix, [segment.ids for segment in each.segments if segment.kind == "chunk"])
        ready = [made.prefill(each, room=8) for each in group]
        for tokens in decode(made.decoder, ready, lambda number, token: len(out[number]) < 3 + number, [LIKELIEST] * len(group)):
            for number, token in enumerate(tokens):
                if token is not None:
                    out[number].append(token)
        return out

    together = answers(batch)
    assert [len(tokens) for tokens in together] == [3, 4, 5]
    assert together[0] == answers(batch[:1])[0] and [together[1][:3]] == [tokens[:3] for tokens in answers(batch[1:2])]


def test_the_pass_of_the_question_computes_what_stands_before_the_choice_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = prompts.glued()
    made = engine("query", recompute=0.2)
    chunks = [segment.ids for segment in prompt.segments if segment.kind == "chunk"]
    made.warm(prompt.prefix, chunks[1:])
    done = made.prefill(prompt)
    assert 0 < len(done.chosen) and done.computed[0] > prompt.starts[2], (
        "the first chunk, not cached, was computed by the first pass"
    )
    with monkeypatch.context() as patch:
        patch.setattr(_Prefill, "_still_to_compute", lambda self, chosen: self._computed)
        twice = made.prefill(prompt)
    assert torch.equal(done.chosen, twice.chosen) and len(done.computed) < len(twice.computed)
    assert near(done.logits, twice.logits)


@pytest.mark.parametrize(("word", "asks"), [("query", {"question"}), ("combined", set()), ("full", set())])
def test_the_trace_names_every_phase(word: str, asks: set[str]) -> None:
    done = warmed(word, prompts.glued()).prefill(prompts.glued())
    assert set(done.trace.seconds) == {"plan", "load", "assemble", "compute", "first token"} | asks
    assert all(seconds >= 0 for seconds in done.trace.seconds.values())
    assert (done.trace.seconds["assemble"] > 0) == (word != "full") and done.trace.seconds["first token"] > 0


def test_combined_costs_what_first_k_costs() -> None:
    prompt = prompts.glued()
    traces = [warmed(word, prompt).prefill(prompt).trace for word in ("combined", "first-k")]
    assert traces[0].num_computed == traces[1].num_computed and traces[0].num_chosen == traces[1].num_chosen > 0
    assert traces[0].seconds.keys() == traces[1].seconds.keys(), "no pass of the question"


@every_word
def test_an_answer_forced_in_one_pass_is_thought_of_as_token_by_token(word: str) -> None:
    prompt = prompts.glued()
    made = warmed(word, prompt)
    if METHODS[word].variants:
        made.planner.variants.store.clear()  # nothing cached, everything computed: it would know more the second time
    free = reply(made.decoder, made.prefill(prompt, room=6), 6, ends=())
    forced = forced_reply(made.decoder, made.prefill(prompt, room=6), 6, free.tokens)
    assert near(free.logprobs, forced.logprobs) and says_the_same(forced, 6, ends=())
    (last,) = forced_reply(made.decoder, made.prefill(prompt, room=6), 1, free.tokens).logprobs
    assert near(last, free.logprobs[0])
    wrong = (*free.tokens[:3], (free.tokens[3] + 1) % 50)
    other = forced_reply(made.decoder, made.prefill(prompt, room=6), 6, wrong)
    assert other.logprobs.shape[0] == 5 and not says_the_same(other, 6, ends=range(10_000))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_decoding_is_what_transformers_generates(family: str) -> None:
    prompt = prompts.prompt()
    made = engine("full", family)
    steps = decode(made.decoder, [made.prefill(prompt, room=12)], lambda number, token: True, [LIKELIEST])
    ours = [tokens[0] for tokens in steps]
    network = tiny.network(family)
    with torch.inference_mode():
        theirs = network.generate(
            torch.tensor([prompt.ids]), max_new_tokens=13, min_new_tokens=13, do_sample=False, eos_token_id=None
        )
    assert ours == theirs[0, len(prompt) :].tolist()


@every_word
def test_stale_garbage_behind_the_prompt_changes_nothing(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = prompts.glued()
    expected = warmed(word, prompt).prefill(prompt, room=5).logits
    empty = torch.empty

    def poisoned(*size: int, **options: object) -> torch.Tensor:
        made = empty(*size, **options)  # type: ignore[call-overload]
        return made.fill_(float("nan")) if made.is_floating_point() else made  # type: ignore[no-any-return]

    monkeypatch.setattr(torch, "empty", poisoned)
    assert torch.equal(warmed(word, prompt).prefill(prompt, room=5).logits, expected)


def test_remember_makes_the_next_prompt_find_its_chunks() -> None:
    prompt, made = prompts.glued(), engine("combined")
    assert made.prefill(prompt).trace.num_reused == 0
    assert made.remember(prompt).num_computed == 3
    done = made.prefill(prompt)
    assert (done.trace.num_reused, done.trace.num_chosen) == (31, 9)
    assert any("3 of 3 chunks" in reason for reason in done.trace.reasons)


def damage(folder: Path) -> int:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size > 4096]
    for path in files:
        content = bytearray(path.read_bytes())
        content[len(content) * 3 // 4] ^= 0x10
        path.write_bytes(content)
    return len(files)


@pytest.mark.parametrize("overlap", [True, False])
def test_damage_on_the_disk_is_a_miss_and_never_a_wrong_answer(tmp_path: Path, overlap: bool) -> None:
    prompt = prompts.glued()
    store = KVStore(tmp_path, ram_bytes=1 << 24, disk_bytes=1 << 26)
    made = warmed("combined", prompt, store=store)
    expected = made.prefill(prompt).logits
    store.close()
    assert damage(tmp_path) == 4, "three chunks and the prefix"
    reopened = engine("combined", store=KVStore(tmp_path, ram_bytes=1 << 24, disk_bytes=1 << 26), overlap=overlap)
    done = reopened.prefill(prompt)
    assert near(done.logits, prompts.stock_logits("llama", prompt.ids)[-1]), "all damaged: everything is computed"
    assert reopened.remember(prompt).num_computed == 3
    assert near(reopened.prefill(prompt).logits, expected)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: engine("combined", recompute=1.2), "recompute=1.2"),
        (lambda: engine("combined", policy="loose"), "policy='loose'"),
        (lambda: engine("combined", policy="bos-dropped", start_ids=[]), "start token"),
        (lambda: method("blendd"), "blendd.*combined"),
        (lambda: Prompt((Segment("chunk", (1,)),)), "question"),
        (lambda: Segment("question", ()), "at least one token"),
        (lambda: Segment("chunky", (1,)), "chunky"),  # type: ignore[arg-type]
    ],
)
def test_bad_options_are_named(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()


def test_chunks_side_by_side_are_refused_to_models_with_windows() -> None:
    with pytest.raises(Unsupported, match="sliding windows"):
        engine("ape", "mistral-sliding")
