"""History, merging and driving: their laws."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.core import Chunk, Document, Finding, Found, Hit, Message, Span
from rag.query.drive import Rankings, drive
from rag.query.history import last_turns, messages_of, spoken_turns
from rag.query.merge import distinct, interleaved, merged


def hit(name: str, score: float = 1.0) -> Hit:
    document = Document(Document.id_of(name), name, name)
    return Hit(Chunk.of(document, Span(0, len(name))), score)


rankings = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True).map(lambda names: [hit(name) for name in names]), max_size=4)


@given(rankings)
def test_merging_keeps_every_chunk_once_best_first(given_rankings: list[list[Hit]]) -> None:
    found = merged("stage", given_rankings)
    ids = [each.chunk.id for each in found]
    assert len(ids) == len(set(ids)) and set(ids) == {each.chunk.id for ranking in given_rankings for each in ranking}
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


@given(rankings)
def test_a_chunk_that_is_ahead_everywhere_is_ahead(given_rankings: list[list[Hit]]) -> None:
    first = [hit("best"), *(given_rankings[0] if given_rankings else [])]
    all_rankings = [first, *([hit("best"), *ranking] for ranking in given_rankings[1:])]
    assert merged("stage", all_rankings)[0].chunk.text == "best"


def test_one_ranking_stays_as_it_is() -> None:
    ranking = [hit("a", 3.0), hit("b", 2.0)]
    assert merged("stage", [ranking]) == ranking == interleaved([ranking])
    assert merged("stage", []) == interleaved([]) == []


def test_the_merged_scores_are_the_formula() -> None:
    found = merged("stage", [[hit("a"), hit("b")], [hit("b")]])
    assert [(each.chunk.text, each.score) for each in found] == [("b", 1 / 62 + 1 / 61), ("a", 1 / 61)]
    assert found[0].why["stage"].rank == 1


@given(rankings)
def test_interleaving_keeps_every_chunk_once_in_the_order_of_ranks(given_rankings: list[list[Hit]]) -> None:
    found = [each.chunk.text for each in interleaved(given_rankings)]
    best = {
        name: min(r.index(name) for r in ([h.chunk.text for h in rank] for rank in given_rankings) if name in r) for name in found
    }
    assert len(found) == len(set(found)) and [best[name] for name in found] == sorted(best.values())


def test_distinct_queries() -> None:
    assert distinct(["a  b", "A b", " ", "c"]) == ["a b", "c"]


def test_history_takes_what_callers_have() -> None:
    turns = [{"role": "user", "content": "a"}, ("assistant", "b"), ["system", "c"], Message("user", "d")]
    assert messages_of(turns) == (Message("user", "a"), Message("assistant", "b"), Message("system", "c"), Message("user", "d"))
    assert messages_of(()) == messages_of(iter([])) == ()


@pytest.mark.parametrize(
    ("history", "place"),
    [(["hello"], 0), ([("user", "a"), ("tool", "b")], 1), ([("user", 3)], 0), ("hello", 0), ([{"role": "user"}], 0), ([()], 0)],
)
def test_a_turn_that_is_none_is_named(history: object, place: int) -> None:
    with pytest.raises(ValueError, match=rf"history\[{place}\] is .*; allowed: a Message, a pair"):
        messages_of(history)  # type: ignore[arg-type]


def test_turns_nobody_saw_are_not_read_and_long_ones_are_cut() -> None:
    history = [
        Message("system", "s"),
        Message("user", "a\u200b"),
        Message("assistant", "<!-- x -->"),
        Message("user", "b" * 30_000),
    ]
    assert [len(turn.content) for turn in spoken_turns(history)] == [1, 20_000]
    assert len(spoken_turns([Message("user", "a")] * 500)) == 100


@given(st.lists(st.lists(st.sampled_from(["one", "two"]), min_size=1, max_size=30), max_size=8), st.integers(0, 60))
def test_the_last_turns_fit_and_are_the_last(words: list[list[str]], max_tokens: int) -> None:
    def count(text: str) -> int:
        return len(text.split())

    turns = [Message("user", " ".join(each)) for each in words]
    kept = last_turns(turns, max_tokens, count)
    assert sum(count(turn.content) for turn in kept) <= max_tokens
    ends = turns[len(turns) - len(kept) :] if kept else []
    assert all(whole.content.endswith(turn.content.removeprefix("\u2026 ")) for turn, whole in zip(kept, ends, strict=True))
    assert kept == turns or sum(map(count, (turn.content for turn in turns))) > max_tokens


class Hops:
    """Searches ``rounds`` times for two queries each."""

    rewrites = True

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds

    def find(self, question: str, history: Sequence[Message]) -> Finding:
        found: list[list[Hit]] = []
        for number in range(self.rounds):
            found += yield [f"{question}{number}", f"{question}{number}'"]
        return Found(question, merged("hops", found))


def test_questions_share_searches_and_each_gets_its_own_hits() -> None:
    batches: list[list[str]] = []

    def search(queries: Sequence[str]) -> Rankings:
        batches.append(list(queries))
        yield "words", [[hit(query), hit("both")] for query in queries], 1.0
        yield "fuse", [[hit(query)] for query in queries], 0.5

    one, other = drive("hops", Hops(2), ["a", "b"], (), search)
    assert batches == [["a0", "a0'", "b0", "b0'"], ["a1", "a1'", "b1", "b1'"]]
    assert {each.chunk.text for each in one.found.hits} == {"a0", "a0'", "a1", "a1'"}
    stages = {name: ([each.chunk.text for each in hits], seconds) for name, hits, seconds in other.stages()}
    assert stages["words"] == (["b0", "b0'", "b1", "b1'", "both"], 1.0) and stages["fuse"][1] == 0.5


@pytest.mark.parametrize("asked", [[], [" "], [3]])
def test_a_stage_that_asks_for_nothing_is_named(asked: list[str]) -> None:
    class Broken:
        rewrites = True

        def find(self, question: str, history: Sequence[Message]) -> Finding:
            yield asked
            return Found(question, ())

    with pytest.raises(ValueError, match="query stage 'broken' asked to search for"):
        drive("broken", Broken(), ["q"], (), lambda queries: [])
