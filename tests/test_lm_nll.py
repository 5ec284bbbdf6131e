"""Log-probabilities in little memory, against plain log-softmax of whole forward passes of tiny random networks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rag import lm_nll
from rag.kernels import token_logprob as kernel
from rag.lm import TransformersLM
from rag.lm_nll import TokenReader, plain_head, windows
from tests.tiny_models import save_llama

VOCABULARY = 300
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
PLAIN: dict[str, dict[str, Any]] = {
    "Llama": {**SIZES, "num_key_value_heads": 2},
    "Qwen3": {**SIZES, "num_key_value_heads": 2, "head_dim": 8},
    "Mistral": {**SIZES, "num_key_value_heads": 2, "sliding_window": 16},
    "Phi": SIZES,  # its head has a bias
    "GPT2": {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "GPTNeoX": SIZES,
}
SCALED: dict[str, dict[str, Any]] = {
    "Gemma2": {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 0.5, "sliding_window": 16},
    "Cohere": {**SIZES, "num_key_value_heads": 2, "logit_scale": 0.0625},
    "Granite": {**SIZES, "num_key_value_heads": 2, "logits_scaling": 4.0},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for one another cost more than these networks do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def network(family: str = "Llama", **more: Any) -> Any:
    import transformers

    options: dict[str, Any] = {**PLAIN, **SCALED}[family] | {"max_position_embeddings": 512, "pad_token_id": 0} | more
    torch.manual_seed(0)
    built = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(**options)).eval()
    head = built.get_output_embeddings()
    if head.bias is not None:
        torch.nn.init.normal_(head.bias)
    return built


def row(length: int, seed: int = 0) -> list[int]:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def plain(net: Any, ids: list[int]) -> list[float]:
    """The slow reference: one pass, all logits, log-softmax."""
    with torch.inference_mode():
        logprobs = net(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return [float(logprobs[i, ids[i + 1]]) for i in range(len(ids) - 1)]


@given(st.integers(0, 200), st.integers(2, 50))
def test_windows_score_each_token_once_and_read_at_most_a_third_more(num_tokens: int, room: int) -> None:
    found = windows(num_tokens, room)
    scored = [place for window in found for place in range(window.scored, window.end)]
    assert scored == list(range(1, num_tokens))
    assert sum(window.end - window.begin for window in found) <= num_tokens * max(4 / 3, room / (room - 1))
    for window in found:
        assert window.end - window.begin <= room
        assert window.begin == 0 or window.scored - window.begin >= max(room // 4, 1)


def test_a_context_of_one_token_beside_the_start_token() -> None:
    assert [tuple(window) for window in windows(3, 1)] == [(0, 1, 1), (1, 1, 2), (2, 2, 3)]
    ids = row(4)
    found = TokenReader(network(), [7], 2).read([ids])[0]
    assert found[1:] == pytest.approx([plain(network(), [7, token])[0] for token in ids[1:]], abs=1e-5)


@pytest.mark.parametrize("family", [*PLAIN, *SCALED])
def test_values_equal_plain_log_softmax(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_nll, "BLOCK_TOKENS", 22)
    monkeypatch.setattr(kernel, "VOCABULARY_BLOCK", 64)
    net = network(family)
    rows = [row(50), row(9, 1), [5], [], row(9, 2), row(2, 3), row(31, 4)]
    for ids, values in zip(rows, TokenReader(net, [], 512, batch_size=3).read(rows), strict=True):
        assert len(values) == len(ids)
        assert all(map(math.isnan, values[:1]))
        assert values[1:] == pytest.approx(plain(net, ids) if len(ids) > 1 else [], abs=1e-5)


@pytest.mark.parametrize("family", ["Llama", "GPT2", "Gemma2"])
@pytest.mark.parametrize("starts", [[], [7]])
def test_a_long_text_equals_a_fresh_reading_of_each_window(family: str, starts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_nll, "BLOCK_TOKENS", 10)
    net, context = network(family), 24
    ids = row(101)
    reader = TokenReader(net, starts, context)
    found = reader.read([ids, row(20, 5)])
    room = context - len(starts)
    assert len(windows(101, room)) > 5
    for begin, scored, end in windows(101, room):
        expected = plain(net, starts + ids[begin:end])[len(starts) + scored - begin - 1 :]
        assert found[0][scored:end] == pytest.approx(expected, abs=1e-5)
    assert found[1][1:] == pytest.approx(plain(net, starts + row(20, 5))[len(starts) :], abs=1e-5)


def test_positions_stay_inside_the_context_and_the_network_reads_at_most_two_tokens_per_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, seen, scored = network(), [], []
    body, score = net.base_model.forward, kernel.token_logprob

    def reading(**named: Any) -> Any:
        seen.append(named["position_ids"])
        return body(**named)

    def scoring(hidden: torch.Tensor, *others: Any) -> torch.Tensor:
        scored.append(len(hidden))
        return score(hidden, *others)

    reader = TokenReader(net, [], 64)
    assert reader._head is not None and reader._accepts
    monkeypatch.setattr(net.base_model, "forward", reading)
    monkeypatch.setattr(lm_nll, "token_logprob", scoring)
    reader.read([row(500)])
    assert max(int(places.max()) for places in seen) < 64
    assert 500 < sum(places.numel() for places in seen) == reader.num_read <= 500 * 4 / 3
    assert sum(scored) == 499  # what is read again does not pass the head again


@pytest.mark.parametrize("family", PLAIN)
def test_a_plain_head_is_found(family: str) -> None:
    found = plain_head(network(family))
    assert found is not None and found[0].shape == (VOCABULARY, 32)
    assert (found[1] is not None) == (family == "Phi")


@pytest.mark.parametrize("family", SCALED)
def test_a_network_that_changes_its_logits_makes_them_itself(family: str) -> None:
    assert plain_head(network(family)) is None


def test_a_cap_that_a_probe_cannot_see_is_read_from_the_configuration() -> None:
    assert plain_head(network("Gemma2", final_logit_softcapping=1e6)) is None
    assert plain_head(network("Gemma2", final_logit_softcapping=None)) is not None


def test_a_network_that_changes_its_logits_in_silence_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(rms_norm_eps=1e-5)
    forward = net.forward

    def louder(**named: Any) -> Any:
        out = forward(**named)
        out.logits = out.logits * 1.01
        return out

    assert plain_head(net) is not None
    monkeypatch.setattr(net, "forward", louder)
    assert plain_head(net) is None


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most numbers in any tensor that an operation made."""

    num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
        is_new = isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in read  # no view of a weight
        if is_new and out.dtype.is_floating_point:
            self.num = max(self.num, out.numel())
        return out


@pytest.mark.parametrize("most_dim", [0, 2048], ids=["torch", "vectors"])
@pytest.mark.parametrize("family", ["Llama", "Granite"])
def test_no_tensor_grows_with_text_and_vocabulary_together(family: str, most_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "MOST_DIM", most_dim)
    monkeypatch.setattr(lm_nll, "BLOCK_TOKENS", 32)
    monkeypatch.setattr(kernel, "VOCABULARY_BLOCK", 256)
    monkeypatch.setattr(lm_nll, "MAX_LOGITS", 32 * 256)
    net = network(family, vocab_size=2000)
    reader = TokenReader(net, [], 128)
    reader.read([row(50)])
    largest = []
    for length in (120, 480):
        with Largest() as mode:  # type: ignore[no-untyped-call]
            reader.read([row(length)])
        largest.append(mode.num)
    assert max(largest) <= 32 * 256
    assert most_dim or largest[0] == largest[1]  # in vectors no logit is kept, and a text's own keys are the largest that is left


def test_each_text_is_tokenised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = TransformersLM(str(save_llama(tmp_path)), device="cpu", max_context_tokens=16)
    assert lm._starts == []
    tokenizer, texts = lm._tokenizer, []

    def counting(text: str, **options: Any) -> Any:
        texts.append(text)
        return tokenizer(text, **options)

    monkeypatch.setitem(lm.__dict__, "_tokenizer", counting)
    asked = ["The river flows through the city. " * 9, "Ducks"]
    found = lm.logprobs(asked)
    assert texts == asked
    assert [len(each.spans) for each in found] == [len(each.logprobs) for each in found]
    assert len(found[0].spans) > 4 * 16
