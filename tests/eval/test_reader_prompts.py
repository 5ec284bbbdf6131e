"""The reader's tokenizer, its prompts as segments, its masks, and its network beside transformers' Llama."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rag.eval.reader import vocabulary
from rag.eval.reader.batches import PREFIX, Encoder, answered, asked, body, label
from rag.eval.reader.muon import orthogonal
from rag.eval.reader.network import Network, Shape
from rag.eval.reader.tasks import make

TOKENIZER = vocabulary.build()
ENCODER = Encoder(TOKENIZER)


@given(st.text(max_size=60))
def test_any_text_comes_back(text: str) -> None:
    ids = TOKENIZER.backend_tokenizer.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


def test_words_are_one_token_and_offsets_are_exact() -> None:
    text = "The mentor of Alba Moreau is Idris Kane."
    found = TOKENIZER(text, return_offsets_mapping=True, add_special_tokens=False)
    assert len(found.input_ids) == 9
    assert [text[start:end] for start, end in found.offset_mapping][3:5] == [" Alba", " Moreau"]
    assert len(TOKENIZER) <= 4000


def test_every_word_of_a_task_is_one_token() -> None:
    for seed in range(20):
        instance = make(seed, 6)
        for text in (*instance.chunks, *(question.text for question in instance.questions)):
            stops = sum(text.count(mark) for mark in ".?")
            assert len(ENCODER.encoded(f"Answer {text}")) - 1 - stops - len(text.split()) <= 1 + len(text.split("The ")[0])


def test_segments_are_the_prompt() -> None:
    instance = make(1, 3)
    question = instance.questions[0]
    prefix, sources, ask = ENCODER.segments(instance.chunks, question.text)
    ids = prefix + [token for mark, chunk in sources for token in mark + chunk] + ask
    whole = PREFIX + "".join(label(n) + body(text) for n, text in enumerate(instance.chunks, 1)) + asked(question.text)
    assert TOKENIZER.decode(ids) == whole
    row = ENCODER.row(instance, [question])
    assert row.ids == ids + ENCODER.encoded(answered(question.answer))
    assert row.positions == list(range(len(row.ids)))


def test_the_chat_template_writes_the_prompt() -> None:
    instance = make(1, 3)
    sources = "".join(label(n) + body(text) for n, text in enumerate(instance.chunks, 1))
    messages = [{"role": "system", "content": "anything"}, {"role": "user", "content": f"{sources}Question: Who?"}]
    written = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert written == PREFIX + sources + asked("Who?")


def test_blocked_chunks_see_the_prefix_and_themselves_and_blocks_do_not_see_each_other() -> None:
    instance = make(2, 3)
    row = ENCODER.row(instance, instance.questions[:2], [instance.facts[0].sentence])
    batch = ENCODER.batch([row, row], [False, True])
    full, reuse = (batch.mask[:, 0] == 0).unbind()
    owners, groups = torch.tensor(row.owners), torch.tensor(row.groups)
    for i in range(len(row.ids)):
        expected = torch.tensor([j <= i and groups[j].item() in (0, groups[i].item()) for j in range(len(row.ids))])
        assert torch.equal(full[i], expected)
        if owners[i] > 0:
            expected &= (owners == 0) | (owners == owners[i])
        assert torch.equal(reuse[i], expected)
    assert batch.positions[0][groups == 2][0] == (groups == 0).sum()


def test_a_row_that_is_too_long_is_refused() -> None:
    row = ENCODER.row(make(2, 3), [])
    with pytest.raises(ValueError, match=f"{len(row.ids)} tokens"):
        ENCODER.batch([row], [False], length=len(row.ids) - 1)


def test_the_network_is_a_llama(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    shape = Shape(50, width=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, hidden=48)
    network = Network(shape)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    llama = LlamaForCausalLM(shape.config())
    missing = llama.load_state_dict(network.state_dict(), strict=False)
    assert not missing.unexpected_keys and missing.missing_keys in ([], ["lm_head.weight"])
    llama.tie_weights()
    ids, positions = torch.randint(0, 50, (2, 11)), torch.arange(11).expand(2, 11)
    mask = torch.full((11, 11), float("-inf")).triu(1).expand(2, 1, 11, 11)
    with torch.inference_mode():
        torch.testing.assert_close(network.logits(network(ids, positions, mask)), llama(ids).logits, rtol=1e-4, atol=1e-4)


def test_orthogonal_updates_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for size in ((16, 48), (48, 16)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(*size)))
        assert values.min() > 0.5 and values.max() < 1.4
