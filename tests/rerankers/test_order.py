"""Orders of reading, and selectors one after another."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.core import Chunk, Document, Hit, Span
from rag.rerankers.order import OrderSelector
from rag.rerankers.steps import StepsSelector
from rag.rerankers.top import TopSelector
from tests.rerankers.hit_lists import hits_of, numbers_in

DOCUMENTS = [Document(Document.id_of(name), name, "abcdefgh") for name in "xy"]


def at(document: int, start: int) -> Hit:
    return Hit(Chunk.of(DOCUMENTS[document], Span(start, start + 1)), 0.5)


def test_the_weakest_stand_in_the_middle() -> None:
    hits = hits_of(*"abcde")
    assert numbers_in(OrderSelector().rerank("q", hits), hits) == [0, 2, 4, 3, 1]
    assert numbers_in(OrderSelector().rerank("q", hits[:4]), hits) == [0, 2, 3, 1]


def test_documents_by_their_best_hit_each_in_the_order_of_reading() -> None:
    hits = [at(1, 5), at(0, 3), at(1, 2), at(0, 1)]
    ordered = OrderSelector("document").rerank("q", hits)
    assert [(DOCUMENTS[1].id == hit.chunk.doc_id, hit.chunk.span.start) for hit in ordered] == [(1, 2), (1, 5), (0, 1), (0, 3)]


@settings(deadline=None)
@given(st.permutations(range(6)))
def test_a_stable_order_does_not_see_the_ranks(order: list[int]) -> None:
    hits = [at(n % 2, n) for n in range(6)]
    stable = OrderSelector("stable")
    assert [h.chunk for h in stable.rerank("q", [hits[n] for n in order])] == [h.chunk for h in stable.rerank("q", hits)]


@settings(deadline=None)
@given(st.integers(0, 12), st.sampled_from(["best-ends", "document", "stable"]))
def test_every_hit_once_with_its_score(number: int, by: str) -> None:
    hits = hits_of(*(str(n) for n in range(number)))
    ordered = OrderSelector(by).rerank("q", hits)  # type: ignore[arg-type]
    assert sorted(numbers_in(ordered, hits)) == list(range(number))
    assert all(hit.score == hits[n].score for hit, n in zip(ordered, numbers_in(ordered, hits), strict=True))


def test_an_unknown_order_is_named() -> None:
    with pytest.raises(ValueError, match="by='best': allowed: best-ends, document, stable"):
        OrderSelector("best")  # type: ignore[arg-type]


def test_steps_follow_one_another() -> None:
    hits = hits_of(*"abcdefg")
    steps = StepsSelector([TopSelector(5), OrderSelector(), TopSelector(3)])
    found = steps.rerank("q", hits)
    assert numbers_in(found, hits) == [0, 2, 4]
    assert set(found[0].why) == {"top", "order", "steps"} and found[2].why["steps"] == (found[2].score, 3)
    with pytest.raises(ValueError, match="selectors is empty"):
        StepsSelector([])
