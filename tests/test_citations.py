"""Citation marks in streams, and the sentences that bear out a claim."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.citations import Mark, MarkParser, cited, quotation, support
from rag.core import Chunk, Document, Hit, Span

TOWER = "The Eiffel Tower is 330 metres tall. It was built in 1889 by Gustave Eiffel. About 6 million people climb it every year."
DOCUMENT = Document(Document.id_of("a"), "a.txt", "Preface. " + TOWER)
HIT = Hit(Chunk.of(DOCUMENT, Span(9, 9 + len(TOWER)), meta={"page": 7, "source": "a.txt"}), 1.0)


def parse(pieces: list[str]) -> list[str | Mark]:
    parser = MarkParser()
    parsed = [part for piece in pieces for part in parser.feed(piece)] + list(parser.finish())
    joined: list[str | Mark] = []
    for part in parsed:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("a [1].", [(1,)]),
        ("a [1, 2].", [(1, 2)]),
        ("a [1][3].", [(1,), (3,)]),
        ("a [1-3].", [(1, 2, 3)]),
        ("a [1\u20133, 7; 7].", [(1, 2, 3, 7)]),
        ("a [source 2] and [Sources 1, 3] and [^4]", [(2,), (1, 3), (4,)]),
        ("a \u30102\u3011", [(2,)]),
        ("[9-1] and [1-900]", [(9, 1), (1, 900)]),
        ("the year [2019], a [link](x), [x], [ ], [", []),
        ("code `a[1]` and ```\nb[2]\n``` and c [3]", [(3,)]),
        ("an odd ` back-tick\nthen [1]", [(1,)]),
    ],
)
def test_marks(text: str, numbers: list[tuple[int, ...]]) -> None:
    parsed = parse([text])
    assert [part.numbers for part in parsed if isinstance(part, Mark)] == numbers
    assert "".join(part if isinstance(part, str) else part.written for part in parsed) == text


@given(st.text(alphabet="ab [1,]-3`\n.", max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_marks_do_not_depend_on_how_the_stream_was_cut(text: str, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    assert parse(pieces) == parse([text])


def test_text_is_held_back_only_while_it_may_be_a_mark() -> None:
    parser = MarkParser()
    assert list(parser.feed("so it is [")) == ["so it is"]
    assert list(parser.feed("1")) == []
    assert list(parser.feed("]. N")) == [Mark((1,), " [1]"), ". N"]
    assert "".join(str(part) for part in parser.feed("[" + "x" * 60)).startswith("[xxx")


def test_a_mark_is_rewritten_with_what_is_left() -> None:
    assert Mark((1, 2), " [1, 2]").rewritten([1, 2]) == " [1, 2]"
    assert Mark((1, 2, 3), " [1-3]").rewritten([1, 3]) == " [1][3]"
    assert Mark((1,), " [1]").rewritten([]) == ""


@pytest.mark.parametrize(
    ("claim", "quote"),
    [
        ("The tower stands 330 metres tall.", "The Eiffel Tower is 330 metres tall."),
        ("Gustave Eiffel built it in 1889.", "It was built in 1889 by Gustave Eiffel."),
        ("Six million people climb the tower each year, i.e. 6 million.", "About 6 million people climb it every year."),
        (
            "The Eiffel Tower, 330 metres tall, was built by Gustave Eiffel in 1889.",
            "The Eiffel Tower is 330 metres tall. It was built in 1889 by Gustave Eiffel.",
        ),
    ],
)
def test_the_supporting_sentences_are_quoted_with_document_offsets(claim: str, quote: str) -> None:
    citation = cited(1, HIT, claim)
    assert citation is not None
    assert citation.quote == quote == DOCUMENT.text[citation.start : citation.end]
    assert (citation.number, citation.doc_id, citation.source, citation.chunk_id, citation.page) == (
        1,
        DOCUMENT.id,
        "a.txt",
        HIT.chunk.id,
        7,
    )


@pytest.mark.parametrize("claim", ["Ducks fly south in winter.", "The bridge is 512 metres long and opened in 1932.", "It is.", ""])
def test_a_claim_that_the_source_does_not_hold_has_no_citation(claim: str) -> None:
    assert cited(1, HIT, claim) is None


def test_numbers_and_names_weigh_more_than_words() -> None:
    text = "The tall tower is made of iron. It rusts. People paint it. Paint is dear. Height: 330."
    found = support("It is 330 tall", text)
    assert found is not None and found.span.of(text) == "Height: 330."


def test_without_metadata_the_document_id_is_the_source() -> None:
    bare = Hit(Chunk.of(DOCUMENT, Span(0, 8)), 1.0)
    citation = quotation(3, bare, Span(0, 7))
    assert (citation.source, citation.page, citation.quote) == (DOCUMENT.id, None, "Preface")
