"""Rows read together with common beginnings, against one plain pass per row, over tiny random networks of many families."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rag import lm_shared
from rag.lm_shared import SharedReader, Target, refusal

VOCABULARY = 120
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
WINDOW = 7
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {**SIZES, "num_key_value_heads": 2},
    "Qwen3": {**SIZES, "num_key_value_heads": 2, "head_dim": 8},
    "Mistral": {**SIZES, "num_key_value_heads": 2, "sliding_window": WINDOW},
    "Gemma2": {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 5.0, "sliding_window": WINDOW},
    "Gemma3Text": {
        **SIZES,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "GPT2": {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "Bloom": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "n_layer": 2,
        "n_head": 4,
    },  # takes no positions: distances come from the mask
    "Cohere": {**SIZES, "num_key_value_heads": 2, "logit_scale": 0.0625},
}
REFUSING: dict[str, tuple[dict[str, Any], str]] = {
    "Llama": (
        {**FAMILIES["Llama"], "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
        "dynamic rotary",
    ),
    "Lfm2": ({**SIZES, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}, "cannot be given more rows"),
    "Mamba": ({"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, "keeps no keys and values"),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def network(family: str) -> Any:
    return built(family, FAMILIES[family])


def built(family: str, options: dict[str, Any]) -> Any:
    import transformers

    own = {} if family in ("GPT2", "Bloom", "Mamba") else {"max_position_embeddings": 64}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**options, **own, **ids, initializer_range=0.3)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def random_ids(length: int, seed: int) -> list[int]:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def ragged_rows() -> list[list[int]]:
    """Pairs of passages of unlike lengths behind one system text, with doubles, a row that another continues, and a stranger."""
    system, passages = random_ids(9, 0), [random_ids(length, length) for length in (4, 13, 8)]
    pairs = [system + a + [5] + b + [6] for a in passages for b in passages if a is not b]
    return [*pairs, pairs[0], pairs[1][:-3], system[:4], random_ids(11, 99), [7]]


def targets_of(rows: list[list[int]]) -> list[list[Target]]:
    """Of every row the last place, with several tokens, and some in the middle."""
    return [
        [Target(len(row) - 1, 5), Target(len(row) - 1, 17), *(Target(at, (at * 7) % VOCABULARY) for at in range(0, len(row), 4))]
        for row in rows
    ]


def plain(net: Any, rows: list[list[int]], targets: list[list[Target]]) -> list[list[float]]:
    """The slow reference: every row alone, all logits."""
    found = []
    for row, some in zip(rows, targets, strict=True):
        with torch.inference_mode():
            logprobs = net(torch.tensor([row])).logits[0].float().log_softmax(-1)
        found.append([float(logprobs[target.position, target.token]) for target in some])
    return found


def flat(values: list[list[float]]) -> list[float]:
    return [value for row in values for value in row]


@pytest.mark.parametrize("sharing", ["never", "always", "auto"])
@pytest.mark.parametrize("family", FAMILIES)
def test_shared_rows_equal_plain_passes(family: str, sharing: Literal["never", "always", "auto"]) -> None:
    net, rows = network(family), ragged_rows()
    targets = targets_of(rows)
    expected = flat(plain(net, rows, targets))
    for batch_size, batch_tokens in ((32, 8192), (2, 8192), (32, 70), (1, 1)):
        found = SharedReader(net, batch_size, batch_tokens, sharing).logprobs(rows, targets)
        assert flat(found) == pytest.approx(expected, abs=1e-4), (batch_size, batch_tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_these_families_can_share(family: str) -> None:
    assert refusal(network(family)) == ""


@pytest.mark.parametrize("family", REFUSING)
def test_whatever_cannot_be_expanded_is_read_whole(family: str) -> None:
    options, why = REFUSING[family]
    net, rows = built(family, options), [[9] * 20 + row for row in ragged_rows()]
    targets = targets_of(rows)
    reader = SharedReader(net, 8, 8192)
    assert why in reader.refusal and why in reader.plan(rows).why and why not in reader.plan(rows[:1]).why
    assert flat(reader.logprobs(rows, targets)) == pytest.approx(flat(plain(net, rows, targets)), abs=1e-4)
    assert reader.begun(rows) is None
    assert reader.plan(rows).num_tokens > plan_tokens(rows)


def plan_tokens(rows: list[list[int]]) -> int:
    return SharedReader(network("Llama"), 8, 8192).plan(rows).num_tokens


def test_a_network_that_reads_beginnings_otherwise_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    expanded = lm_shared.State.expanded

    def shifted(self: lm_shared.State, rows: list[int]) -> Any:
        return expanded(lm_shared.State(tuple((k.flip(2), v) for k, v in self.layers), self.lengths), rows)

    monkeypatch.setattr(lm_shared.State, "expanded", shifted)
    assert "come out otherwise" in refusal(network("Llama"))


def test_fewer_tokens_are_read() -> None:
    net = network("Llama")
    system, passages = random_ids(25, 0), [random_ids(8, n) for n in range(1, 6)]
    rows = [system + a + b for a in passages for b in passages]
    readers = [SharedReader(net, 32, 8192, how) for how in ("never", "auto")]
    for reader in readers:
        reader.logprobs(rows, [[Target(len(row) - 1, 4)] for row in rows])
    never, auto = (reader.num_read for reader in readers)
    assert (never, auto) == (25 * 41, 25 + 5 * 8 + 25 * 8)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=14), min_size=1, max_size=8),
    st.sampled_from(["Llama", "Gemma3Text", "GPT2"]),
    st.integers(1, 4),
)
def test_any_rows(rows: list[list[int]], family: str, batch_size: int) -> None:
    targets = [[Target(at, 4) for at in range(len(row))] for row in rows]
    found = SharedReader(network(family), batch_size, 64, "always").logprobs(rows, targets)
    assert flat(found) == pytest.approx(flat(plain(network(family), rows, targets)), abs=1e-4)


def continued_alike(family: str, rows: list[list[int]]) -> SharedReader:
    """Greedy steps from the cache that ``begun`` gives, long enough to leave every window, are those of each row alone."""
    net = network(family)
    reader = SharedReader(net, 8, 8192)
    begun = reader.begun(rows)
    assert begun is not None
    logits, cache_, mask = begun
    written = [list(row) for row in rows]
    for _ in range(6):
        tokens = logits.argmax(-1).tolist()
        for row, token in zip(written, tokens, strict=True):
            row.append(token)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        places = {} if family == "Bloom" else {"position_ids": mask.sum(-1, keepdim=True) - 1}
        with torch.inference_mode():
            out = net(torch.tensor(tokens)[:, None], attention_mask=mask, past_key_values=cache_, use_cache=True, **places)
        logits, cache_ = out.logits[:, -1], out.past_key_values
    for row in written:
        with torch.inference_mode():
            expected = net(torch.tensor([row])).logits[0].argmax(-1).tolist()
        assert row[-6:] == expected[-7:-1]
    return reader


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_beginning_is_continued_as_each_row_alone(family: str) -> None:
    beginning = random_ids(20, 1)
    continued_alike(family, [beginning + random_ids(length, length) for length in (1, 6, 3)])


@pytest.mark.parametrize("family", FAMILIES)
def test_beginnings_that_grow_are_read_once_and_forked(family: str) -> None:
    """As notes at the margins ask: after each segment of one text, the same task."""
    segments, task = [random_ids(18, 1), random_ids(20, 2), random_ids(14, 3)], random_ids(3, 9)
    rows = [[*itertools.chain(*segments[: number + 1]), *task] for number in range(3)]
    reader = continued_alike(family, [rows[1], rows[0], rows[2], rows[0]])
    alone = sum(map(len, rows)) + len(rows[0])
    assert (alone, reader.num_read) == (138, 18 + 20 + 2 * 3 + 2 * 17), "two segments once, then ends; the last two in one batch"


def test_a_row_that_another_one_continues_has_an_end_of_its_own() -> None:
    longest = random_ids(60, 1)
    continued_alike("Llama", [longest, longest[:40], longest[:40], longest[:59], longest])


def test_prompts_without_a_worthy_beginning_are_not_begun() -> None:
    reader = SharedReader(network("Llama"), 8, 8192)
    assert reader.begun([[1, 2, 3]]) is None
    assert reader.begun([[1, 2, 3], [1, 2, 4]]) is None
    assert reader.begun([[5] * 40, [6] * 40]) is None


def test_nothing_asked_is_nothing_read() -> None:
    reader = SharedReader(network("Llama"), 8, 8192)
    assert reader.logprobs([], []) == [] and reader.num_read == 0
