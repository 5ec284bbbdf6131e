from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.core import Chunk, Document, Hit, Placed, Span
from rag.rerankers.compress import CompressSelector
from rag.rerankers.sentence_scores import by_words, sentences_of
from rag.tokenizer import WordTokenizer
from tests.fakes import HashingEncoder
from tests.rerankers.hit_lists import hits_of

TEXT = (
    "The tower was built in 1889. It is made of iron. Many people came to see it. A river runs by. "
    "Ducks live there. The tower is 330 metres tall. Lifts go up."
)
DOCUMENT = Document(Document.id_of("tower"), "tower", f"A preface that no chunk holds.\n\n{TEXT}\n\nAn end.")
START = DOCUMENT.text.index(TEXT)


def tower_hit(context: str = "") -> Hit:
    chunk = Chunk.of(DOCUMENT, Span(START, START + len(TEXT)), context, {"page": 3})
    return Hit(chunk, 0.9, {"rrf": Placed(0.9, 1)})


def test_the_answer_stays_and_is_an_exact_stretch_of_the_document() -> None:
    (piece,) = CompressSelector(WordTokenizer(), max_tokens=8).rerank("How tall is the tower?", [tower_hit()])
    assert piece.chunk.text == "The tower is 330 metres tall."
    assert piece.chunk.span.of(DOCUMENT.text) == piece.chunk.text
    assert piece.chunk.meta == {"page": 3, "parent_chunk": tower_hit().chunk.id}
    assert piece.chunk.id == Chunk.of(DOCUMENT, piece.chunk.span).id
    assert (piece.score, piece.why) == (0.9, {"rrf": Placed(0.9, 1), "compress": Placed(0.9, 1)})


def test_one_gap_is_closed_and_wider_ones_part_the_pieces() -> None:
    options = {"max_tokens": 14, "hit_weight": 0.0}
    pieces = CompressSelector(WordTokenizer(), **options).rerank("tower metres tall", [tower_hit()])  # type: ignore[arg-type]
    assert [piece.chunk.text for piece in pieces] == ["The tower was built in 1889.", "The tower is 330 metres tall."]
    without_end = TEXT[: TEXT.index(" Lifts")]
    room = WordTokenizer().count(without_end)
    wide = CompressSelector(WordTokenizer(), max_tokens=room, max_gap=4).rerank("tower metres tall", [tower_hit()])
    assert [piece.chunk.text for piece in wide] == [without_end]
    (whole,) = CompressSelector(WordTokenizer(), max_tokens=400).rerank("tower metres tall", [tower_hit()])
    assert whole.chunk == tower_hit().chunk


@pytest.mark.parametrize(("max_gap", "num_pieces"), [(0, 3), (1, 2), (2, 1)])
def test_runs_across_gaps_of_one_and_two(max_gap: int, num_pieces: int) -> None:
    text = "Iron one. River. Iron two. River. River. Iron three."
    pieces = CompressSelector(WordTokenizer(), max_tokens=99, min_share=0.5, hit_weight=0.0, max_gap=max_gap).rerank(
        "iron", hits_of(text)
    )
    assert len(pieces) == num_pieces and pieces[0].chunk.text.startswith("Iron one.") and pieces[-1].chunk.text.endswith("three.")


def test_contexts_count() -> None:
    plain = CompressSelector(WordTokenizer(), max_tokens=14).rerank("tower metres tall", [tower_hit()])
    titled = CompressSelector(WordTokenizer(), max_tokens=14).rerank("tower metres tall", [tower_hit("A long title of six words")])
    assert len(plain) == 2 and [piece.chunk.text for piece in titled] == ["The tower is 330 metres tall."]
    assert titled[0].chunk.context == "A long title of six words"


def test_a_relative_threshold() -> None:
    selector = CompressSelector(WordTokenizer(), max_tokens=400, min_share=0.9, hit_weight=0.0)
    assert [piece.chunk.text for piece in selector.rerank("330 metres", [tower_hit()])] == ["The tower is 330 metres tall."]


def test_better_hits_lend_weight_to_their_sentences() -> None:
    hits = hits_of("Towers are tall.", "Towers are tall.", scores=[1.0, 0.0])
    (piece,) = CompressSelector(WordTokenizer(), max_tokens=5).rerank("tall towers", hits[::-1])
    assert piece.chunk == hits[0].chunk


def test_a_sentence_that_two_chunks_share_is_kept_once() -> None:
    spans = [Span(START, START + 48), Span(START + 29, START + len(TEXT))]
    hits = [Hit(Chunk.of(DOCUMENT, span), 1.0) for span in spans]
    assert [s.text for s in sentences_of(hits)].count("It is made of iron.") == 1
    pieces = CompressSelector(WordTokenizer(), max_tokens=6).rerank("iron", hits)
    assert [piece.chunk.text for piece in pieces] == ["It is made of iron."]


class Shortest:
    """Scores a text by how short it is; with ``keep`` it drops the rest."""

    def __init__(self, keep: int = 1000) -> None:
        self.keep = keep

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        return sorted((Hit(hit.chunk, -float(len(hit.chunk.text))) for hit in hits), key=lambda hit: -hit.score)[: self.keep]


def test_by_an_encoder_and_by_a_reranker() -> None:
    encoder = HashingEncoder(dim=4096)
    by_meaning = CompressSelector(WordTokenizer(), encoder, by="encoder", max_tokens=5)
    assert by_meaning.rerank("ducks live there", [tower_hit()])[0].chunk.text == "Ducks live there."
    assert encoder.num_texts_encoded == 7
    shortest = CompressSelector(WordTokenizer(), reranker=Shortest(), by="reranker", max_tokens=4)
    assert shortest.rerank("q", [tower_hit()])[0].chunk.text == "Lifts go up."
    with pytest.raises(ValueError, match="left out 5 of 7 sentences"):
        CompressSelector(WordTokenizer(), reranker=Shortest(2), by="reranker").rerank("q", [tower_hit()])


def test_words_are_weighed_by_how_rare_they_are() -> None:
    scores = by_words("iron tower", ["The tower.", "The tower.", "A tower of iron.", "A river."])
    assert scores[2] > scores[0] == scores[1] > scores[3] == 0.0
    assert by_words("iron", ["", "the"]) == [0.0, 0.0]


PIECES = st.sampled_from(
    ["Iron towers", "a river", "330 m tall", "Dr. Yu", "東京。", "x", " | y | z", "\n- item", "!", ". ", "? ", "\n\n", " "]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=30), st.integers(1, 30), st.integers(0, 3), st.data())
def test_every_piece_lies_in_its_parent_and_reads_as_the_document(
    parts: list[str], max_tokens: int, max_gap: int, data: st.DataObject
) -> None:
    document = Document(Document.id_of("d"), "d", "".join(parts))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(document.text)), max_size=4)) | {0, len(document.text)})
    spans = [Span(*pair) for pair in itertools.pairwise(cuts)]
    hits = [Hit(Chunk.of(document, span, "A title" * (n % 2)), 1.0 - n / 9) for n, span in enumerate(spans)]
    pieces = CompressSelector(WordTokenizer(), max_tokens=max_tokens, max_gap=max_gap).rerank("tall iron tower 東京", hits)
    parents = {hit.chunk.id: hit.chunk for hit in hits}
    last: tuple[int, int] = (0, 0)
    for piece in pieces:
        parent = parents[piece.chunk.meta.get("parent_chunk", piece.chunk.id)]
        span = piece.chunk.span
        assert parent.span.start <= span.start < span.end <= parent.span.end
        assert span.of(document.text) == piece.chunk.text == piece.chunk.text.strip() or piece.chunk == parent
        assert piece.chunk.id == Chunk.of(document, span, parent.context).id
        assert last <= (span.start, span.end) and span.start >= last[1]
        last = (span.start, span.end)
    assert bool(pieces) == any(sentences_of(hits))
    if len(sentences_of(hits)) > 1 and len(pieces) > 1:
        assert sum(WordTokenizer().count(piece.chunk.indexed_text) for piece in pieces) <= max_tokens


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "luck"}, "by='luck': allowed: words, encoder, reranker"),
        ({"by": "encoder"}, "by='encoder': there is no encoder"),
        ({"by": "reranker"}, "by='reranker': there is no reranker"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"min_share": 2.0}, "min_share=2.0"),
        ({"hit_weight": -1.0}, "hit_weight=-1.0"),
        ({"max_gap": -1}, "max_gap=-1"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompressSelector(WordTokenizer(), **options)  # type: ignore[arg-type]
