"""Neighbours and sections, over documents in memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.core import Chunk, Document, Hit, Placed, Span
from rag.rerankers.neighbours import NeighboursSelector
from rag.rerankers.parents import ParentsSelector
from rag.tokenizer import WordTokenizer
from tests.fakes import ListCorpus


def letters(name: str, number: int, headings: str = "", overlap: int = 0) -> tuple[Document, list[Chunk]]:
    """Chunks ``a a``, ``b b``, ... with a line break between them; ``headings``: a letter per chunk, a blank for none."""
    text = "\n".join(f"{chr(97 + n)} {chr(97 + n)}" for n in range(number))
    document = Document(Document.id_of(name), name, text)
    spans = [Span(max(0, 4 * n - overlap), 4 * n + 3) for n in range(number)]
    metas = [{"headings": [headings[n]]} if headings[n : n + 1].strip() else {} for n in range(number)]
    return document, [
        Chunk.of(document, span, f"at {n}", {"page": n // 3 + 1, **meta})
        for n, (span, meta) in enumerate(zip(spans, metas, strict=True))
    ]


def hits_at(chunks: list[Chunk], *numbers: int) -> list[Hit]:
    return [Hit(chunks[number], 1.0 - rank / 10, {"rrf": Placed(1.0 - rank / 10, rank + 1)}) for rank, number in enumerate(numbers)]


def texts(hits: list[Hit]) -> list[str]:
    return ["".join(hit.chunk.text.split()) for hit in hits]


def test_neighbours_are_joined_and_the_best_hit_names_the_place() -> None:
    document, chunks = letters("d", 9)
    found = NeighboursSelector(ListCorpus([document], chunks)).rerank("q", hits_at(chunks, 7, 1, 3))
    assert texts(found) == ["gghhii", "aabbccddee"]
    assert [hit.score for hit in found] == [1.0, 0.9]
    assert found[1].why == {"rrf": Placed(0.9, 2), "neighbours": Placed(0.9, 2)}
    chunk = found[1].chunk
    assert chunk.context == "at 0" and chunk.meta["pages"] == [1, 2] and chunk.meta["joined_chunks"] == [c.id for c in chunks[:5]]
    assert chunk.id == Chunk.of(document, chunk.span, "at 0").id


def test_as_many_as_asked_for_on_each_side() -> None:
    document, chunks = letters("d", 9)
    corpus = ListCorpus([document], chunks)
    assert texts(NeighboursSelector(corpus, before=0, after=2).rerank("q", hits_at(chunks, 4))) == ["eeffgg"]
    assert texts(NeighboursSelector(corpus, before=9, after=0).rerank("q", hits_at(chunks, 2))) == ["aabbcc"]
    alone = NeighboursSelector(corpus, before=0, after=0).rerank("q", hits_at(chunks, 2, 8))
    assert [hit.chunk for hit in alone] == [chunks[2], chunks[8]]
    assert texts(NeighboursSelector(corpus, k=1).rerank("q", hits_at(chunks, 4, 8))) == ["ddeeff"]


def test_a_budget_takes_hits_first_then_the_nearest_neighbours_of_the_best() -> None:
    document, chunks = letters("d", 12)
    corpus = ListCorpus([document], chunks)
    given = hits_at(chunks, 8, 2)
    for max_tokens, expected in {
        1: ["ii"],  # a chunk has two tokens, its context two
        5: ["ii"],
        7: ["iijj"],
        8: ["ii", "cc"],
        10: ["iijj", "cc"],
        12: ["hhiijj", "cc"],
        14: ["hhiijj", "ccdd"],
        16: ["hhiijj", "bbccdd"],
        18: ["hhiijjkk", "bbccdd"],
    }.items():
        found = NeighboursSelector(corpus, WordTokenizer(), 2, 2, max_tokens=max_tokens).rerank("q", given)
        assert texts(found) == expected, max_tokens


def test_chunks_that_overlap() -> None:
    document, chunks = letters("d", 6, overlap=2)
    found = NeighboursSelector(ListCorpus([document], chunks)).rerank("q", hits_at(chunks, 3))
    assert found[0].chunk.span == Span(chunks[2].span.start, chunks[4].span.end)


def test_a_piece_becomes_whole_again() -> None:
    document, chunks = letters("d", 5)
    piece = Hit(chunks[2].part(Span(chunks[2].span.start + 2, chunks[2].span.end)), 0.7)
    for selector in (
        NeighboursSelector(ListCorpus([document], chunks), before=0, after=0),
        ParentsSelector(WordTokenizer(), ListCorpus([document], chunks), group_size=1),
    ):
        (found,) = selector.rerank("q", [piece])
        assert found.chunk == chunks[2] and found.score == 0.7


def test_a_section_is_shown_whole_when_enough_of_it_was_found() -> None:
    document, chunks = letters("d", 9, headings="AAABBBBCC")
    selector = ParentsSelector(WordTokenizer(), ListCorpus([document], chunks), k=10)
    assert texts(selector.rerank("q", hits_at(chunks, 3, 1, 2))) == ["dd", "aabbcc"]
    assert texts(selector.rerank("q", hits_at(chunks, 3, 4, 8))) == ["ddeeffgg", "hhii"]
    assert texts(selector.rerank("q", hits_at(chunks, 0))) == ["aa"]
    assert texts(ParentsSelector(WordTokenizer(), ListCorpus([document], chunks), k=1).rerank("q", hits_at(chunks, 0, 1))) == ["aa"]
    strict = ParentsSelector(WordTokenizer(), ListCorpus([document], chunks), min_share=1.0)
    assert texts(strict.rerank("q", hits_at(chunks, 1, 2, 7, 8))) == ["bb", "cc", "hhii"]


def test_a_section_is_found_however_far_it_reaches() -> None:
    document, chunks = letters("d", 24, headings="A" * 20 + "BBBB")
    selector = ParentsSelector(WordTokenizer(), ListCorpus([document], chunks), group_size=1, min_share=0.2, k=10)
    found = selector.rerank("q", hits_at(chunks, 9, 0, 19, 10))
    assert [(hit.chunk.span.start, hit.chunk.span.end) for hit in found] == [(0, chunks[19].span.end)]
    assert len(selector.rerank("q", hits_at(chunks, 9, 0, 19))) == 3
    assert len(selector.rerank("q", hits_at(chunks, 21, 22))) == 1


def test_a_long_section_stays_in_pieces() -> None:
    document, chunks = letters("d", 4, headings="AAAA")
    given = hits_at(chunks, 0, 1, 2)
    room = WordTokenizer().count(f"at 0\n{document.text}")
    corpus = ListCorpus([document], chunks)
    assert texts(ParentsSelector(WordTokenizer(), corpus, max_tokens=room).rerank("q", given)) == ["aabbccdd"]
    assert texts(ParentsSelector(WordTokenizer(), corpus, max_tokens=room - 1).rerank("q", given)) == ["aa", "bb", "cc"]


def test_without_headings_chunks_are_grouped_from_the_start_of_the_document() -> None:
    document, chunks = letters("d", 10)
    selector = ParentsSelector(WordTokenizer(), ListCorpus([document], chunks), group_size=3, k=10)
    assert texts(selector.rerank("q", hits_at(chunks, 2, 3, 5))) == ["cc", "ddeeff"]
    assert texts(selector.rerank("q", hits_at(chunks, 9))) == ["jj"]
    mixed, some = letters("e", 6, headings="  A  B")
    selector = ParentsSelector(WordTokenizer(), ListCorpus([mixed], some), group_size=4, min_share=0.5)
    assert texts(selector.rerank("q", hits_at(some, 0, 1, 3))) == ["aabb", "dd"]


def test_a_document_that_is_gone_or_was_changed_is_not_widened() -> None:
    document, chunks = letters("d", 5)
    edited = Document(document.id, "d", "ZZZ" + document.text[3:])
    cut = [Chunk.of(edited, chunk.span, chunk.context) for chunk in chunks]
    given = hits_at(chunks, 0, 1)
    for corpus in (ListCorpus([], []), ListCorpus([edited], cut), ListCorpus([edited], chunks)):
        assert [hit.chunk for hit in NeighboursSelector(corpus).rerank("q", given)] == chunks[:2]
        assert [hit.chunk for hit in ParentsSelector(WordTokenizer(), corpus).rerank("q", given)] == chunks[:2]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=1, max_size=8, unique=True),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([0.2, 0.5, 1.0]),
    st.sampled_from(["", "AAABBCCCCC", "  AAAA  BB"]),
    st.sampled_from([0, 2]),
)
def test_every_hit_is_covered_once_and_nothing_comes_from_elsewhere(
    places: list[tuple[int, int]], before: int, after: int, min_share: float, headings: str, overlap: int
) -> None:
    made = [letters(str(n), 10, headings, overlap) for n in range(3)]
    corpus = ListCorpus([document for document, _ in made], [chunk for _, chunks in made for chunk in chunks])
    given_ = [Hit(made[doc][1][number], 1.0 - rank / 10) for rank, (doc, number) in enumerate(places)]
    for selector in (
        NeighboursSelector(corpus, before=before, after=after, k=8),
        ParentsSelector(WordTokenizer(), corpus, min_share=min_share, group_size=3, k=8),
    ):
        corpus.reads.clear()
        found = selector.rerank("q", given_)
        assert set(corpus.reads) <= {hit.chunk.doc_id for hit in given_}
        for hit in given_:
            over = [f for f in found if f.chunk.doc_id == hit.chunk.doc_id and _holds(f.chunk.span, hit.chunk.span)]
            assert len(over) == 1 and over[0].score >= hit.score
        assert all(hit.chunk.text == hit.chunk.span.of(corpus.texts[hit.chunk.doc_id]) for hit in found)
        assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    tight = NeighboursSelector(corpus, WordTokenizer(), before, after, k=8, max_tokens=17).rerank("q", given_)
    assert _holds(tight[0].chunk.span, given_[0].chunk.span)
    assert sum(WordTokenizer().count(hit.chunk.indexed_text) for hit in tight) <= 17


def _holds(outer: Span, inner: Span) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_share": 0.0}, "min_share=0.0"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"group_size": 0}, "group_size=0"),
        ({"k": 0}, "k=0"),
    ],
)
def test_bad_options_of_parents_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParentsSelector(WordTokenizer(), ListCorpus([], []), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"before": -1}, {"after": -1}, {"k": 0}])
def test_bad_options_of_neighbours_are_named(options: dict[str, int]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        NeighboursSelector(ListCorpus([], []), **options)  # type: ignore[arg-type]
