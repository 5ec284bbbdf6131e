"""Generated tasks: the same on every call, answerable from their evidence, and not from less."""

from __future__ import annotations

import re

import pytest

from rag.eval.reader.tasks import KINDS, Instance, Question, make, pick

SEEDS = range(20)
COUNTS = (2, 3, 4, 6, 10)


def _instances() -> list[Instance]:
    return [make(seed, count) for seed in SEEDS for count in COUNTS]


def _questions(kind: str) -> list[tuple[Instance, Question]]:
    return [(instance, question) for instance in _instances() for question in instance.questions if question.kind == kind]


def test_the_same_seed_gives_the_same_instance() -> None:
    assert make(7, 5) == make(7, 5)
    assert make(7, 5) != make(8, 5)
    assert make(0, 2).chunks[0].startswith("The ")


@pytest.mark.parametrize("count", [1, 13])
def test_a_bad_number_of_chunks_is_named(count: int) -> None:
    with pytest.raises(ValueError, match=f"not {count}"):
        make(0, count)


def test_bad_bounds_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(3, 2\)"):
        make(0, 4, facts_per_chunk=(3, 2))
    with pytest.raises(ValueError, match=r"\(0, 2\)"):
        make(0, 4, num_relations=(0, 2))


def test_crowded_instances_are_written_too() -> None:
    for seed in SEEDS:
        make(seed, 12, facts_per_chunk=(6, 6), num_relations=(1, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_values_stand_in_the_evidence(kind: str) -> None:
    asked = _questions(kind)
    assert asked
    for instance, question in asked:
        assert question.value in instance.chunks[question.evidence[-1]]
        assert question.answer.endswith(question.value)
        assert len(set(question.evidence)) == (1 if kind == "direct" else 2)


def test_direct_evidence_names_the_subject() -> None:
    for instance, question in _questions("direct"):
        chunk = instance.chunks[question.evidence[0]]
        assert any(
            fact.subject in question.text and fact.value == question.value and fact.sentence in chunk for fact in instance.facts
        )


def test_two_hop_questions_do_not_name_who_the_answer_is_about() -> None:
    for instance, question in _questions("two-hop"):
        first, second = question.evidence
        link = next(f for f in instance.facts if f.chunk == first and f.subject in question.text and f.value in question.answer)
        assert link.value not in question.text and link.value in instance.chunks[second]


def test_cross_chunk_subjects_end_the_chunk_before_and_are_not_in_the_chunk() -> None:
    for instance, question in _questions("cross-chunk"):
        before, chunk = question.evidence
        assert chunk == before + 1
        fact = next(f for f in instance.facts if f.carried and f.chunk == chunk and f.value == question.value)
        assert instance.chunks[before].endswith(f"{fact.subject}.")
        assert re.match(r"(She|He|It) ", instance.chunks[chunk])
        assert fact.sentence in instance.chunks[chunk]
        assert not re.search(rf"\b{fact.subject}\b", instance.chunks[chunk].removesuffix(f"{fact.subject}."))


def test_in_the_middle_a_named_fact_about_another_kind_of_thing_stands_first() -> None:
    pronouns = set[str]()
    for seed in SEEDS:
        for count in (*COUNTS, 12):
            instance = make(seed, count, carried_at="middle")
            assert instance == make(seed, count, carried_at="middle")
            for number in {fact.chunk for fact in instance.facts if fact.carried}:
                first, *rest = [fact for fact in instance.facts if fact.chunk == number]
                assert not first.carried and rest[0].carried
                pronoun = rest[0].sentence.split()[0]
                assert instance.chunks[number].startswith(f"{first.sentence} {pronoun} ")
                assert (len(first.subject.split()) == 1) == (pronoun != "It"), "a town before a person and the other way round"
                pronouns.add(pronoun)
    assert pronouns == {"She", "He", "It"}


def test_a_carried_sentence_has_its_like_in_another_chunk() -> None:
    for instance in _instances():
        if len(instance.chunks) < 3:
            continue
        carried = [fact for fact in instance.facts if fact.carried]
        for fact in carried:
            likes = [f for f in carried if f.relation == fact.relation and f.chunk != fact.chunk]
            assert likes and all(like.value != fact.value and like.subject != fact.subject for like in likes)


def test_a_question_has_one_answer() -> None:
    for instance in _instances():
        answers: dict[str, set[str]] = {}
        for question in instance.questions:
            answers.setdefault(question.text, set()).add(question.answer)
        assert all(len(found) == 1 for found in answers.values())


def test_pick_draws_by_kind() -> None:
    instance = make(3, 6)
    drawn = pick(instance, "direct", 0)
    assert drawn is not None and drawn.kind == "direct" and drawn == pick(instance, "direct", 0)
    assert pick(Instance((), (), ()), "direct", 0) is None
