"""Generated tasks: the same for a seed, answerable from their evidence, and the cross-chunk kind not from its chunk alone."""

from __future__ import annotations

import pytest

from rag.eval.reader import batches, tasks
from rag.eval.reader.vocabulary import build

SEEDS = range(40)


def instances(num_chunks: int = 6) -> list[tasks.Instance]:
    return [tasks.make(seed, num_chunks) for seed in SEEDS]


def test_a_seed_is_an_instance() -> None:
    assert tasks.make(3, 5) == tasks.make(3, 5) != tasks.make(4, 5)
    kinds = {question.kind for instance in instances() for question in instance.questions}
    assert kinds == set(tasks.KINDS)


def test_the_value_of_every_answer_stands_in_its_evidence() -> None:
    for instance in instances():
        for question in instance.questions:
            value = question.answer.rsplit(" ", 1)[-1]
            assert any(value in instance.chunks[chunk] for chunk in question.evidence), question


def test_a_question_has_one_answer() -> None:
    for instance in instances():
        answers: dict[str, set[str]] = {}
        for question in instance.questions:
            answers.setdefault(question.text, set()).add(question.answer)
        assert all(len(found) == 1 for found in answers.values())


def test_cross_chunk_facts_name_their_subject_in_the_chunk_before_only() -> None:
    num_seen = 0
    for instance in instances():
        for fact in instance.facts:
            if fact.carried:
                num_seen += 1
                assert fact.subject not in fact.sentence and fact.sentence in instance.chunks[fact.chunk]
                assert instance.chunks[fact.chunk - 1].rstrip(".").endswith(fact.subject)
                rivals = [other for other in instance.facts if other.carried and other.relation == fact.relation and other != fact]
                assert rivals, "without the chunk before it the sentence could be told from no other"
    assert num_seen > 50


@pytest.mark.parametrize(("arguments", "named"), [((1, 1), "num_chunks"), ((1, 13), "num_chunks")])
def test_bad_sizes_are_named(arguments: tuple[int, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        tasks.make(*arguments)


def test_any_text_survives_the_tokenizer_and_words_are_tokens() -> None:
    tokenizer = build()
    for text in ("Alba Moreau is a baker.", "Zürich \U0001f986\n\ttabs  blanks", "", "BEGIN SOURCE\n"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert len(tokenizer) <= 4000
    chunk = tasks.make(1, 3).chunks[0]
    assert len(tokenizer(chunk, add_special_tokens=False)["input_ids"]) <= len(chunk.split()) + chunk.count(".") + 1


def test_a_prompt_is_its_segments_and_the_chat_template_writes_the_same() -> None:
    tokenizer = build()
    encoder, instance = batches.Encoder(tokenizer), tasks.make(1, 3)
    question = instance.questions[0]
    prefix, sources, asked = encoder.segments(instance.chunks, question.text)
    ids = [*prefix, *(token for label, body in sources for token in (*label, *body)), *asked]
    texts = "".join(batches.label(number) + batches.body(text) for number, text in enumerate(instance.chunks, 1))
    messages = [{"role": "system", "content": "Anything."}, {"role": "user", "content": f"{texts}Question: {question.text}"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == tokenizer.decode(ids)


def test_blocks_see_the_context_and_themselves_and_blocked_chunks_only_the_prefix() -> None:
    encoder, instance = batches.Encoder(build()), tasks.make(2, 3)
    row = encoder.row(instance, instance.questions[:2], [instance.facts[0].sentence])
    batch = encoder.batch([row, row], [False, True])
    groups, sees = batch.groups[0], batch.mask[:, 0] == 0
    first, second = (groups == 1).nonzero()[:, 0], (groups == 2).nonzero()[:, 0]
    assert not sees[0][second][:, first].any() and sees[0][second[-1], groups == 0].all()
    owners = row.owners
    chunk_two = [place for place, owner in enumerate(owners) if owner == 2]
    chunk_one = [place for place, owner in enumerate(owners) if owner == 1]
    assert sees[0][chunk_two[0], chunk_one].all() and not sees[1][chunk_two][:, chunk_one].any()
    assert sees[1][chunk_two[0], : len(encoder.prefix)].all()
    assert sees[1][second[-1], chunk_one].all()
    assert [token for token, wanted in zip(row.ids, row.targets, strict=True) if wanted][-1] == row.ids[-1]
