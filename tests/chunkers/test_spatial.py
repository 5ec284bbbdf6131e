"""The spatial chunker: what stands together, what means the same, and what may not be parted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag.chunkers.distance import STEP_LINES, TURN_LINES, USUAL_LINE_HEIGHT, line_height, step_lines
from rag.chunkers.layout import Layout
from rag.chunkers.ruler import Ruler
from rag.chunkers.spatial import SpatialChunker
from rag.chunkers.spatial_graph import band_of, graph_weights, objective, positions
from rag.chunkers.spatial_nodes import NodeMaker
from rag.core import Chunk, Document, Element, Span
from rag.read.draft import TextBuilder
from rag.tokenizer import WordTokenizer
from tests.fakes import HashingEncoder

WORDS = WordTokenizer()
Box = tuple[float, float, float, float]


class TopicEncoder:
    """One axis per letter: texts mean the same if they start with the same letter. Counts its calls."""

    dim = 26
    fingerprint = "topics"

    def __init__(self) -> None:
        self.num_calls = 0

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.num_calls += 1
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        vectors[np.arange(len(texts)), [(ord(text[0].lower()) - ord("a")) % self.dim for text in texts]] = 1.0
        return vectors

    encode_queries = encode_documents


def words(number: int, word: str = "a") -> str:
    return " ".join([word] * number)


def document(*parts: Any) -> Document:
    """``(kind, text or rows, box or None, page)``; ``("h2", ...)`` is a heading of level 2. Tables have one head row."""
    builder = TextBuilder()
    for kind, content, box, page in parts:
        if kind == "table":
            builder.add_table(content, num_header_rows=1, page=page, bbox=box)
        elif kind.startswith("h") and kind[1:].isdigit():
            builder.add(content, "heading", level=int(kind[1:]), page=page, bbox=box)
        else:
            builder.add(content, kind, page=page, bbox=box)
    return builder.draft().document("source")


def column(*parts: Any, line: float = 10.0) -> Document:
    """``(kind, content, lines of space before it)``, one below the other on one page, each one line high."""
    placed, top = [], 0.0
    for kind, content, space in parts:
        top += space * line
        placed.append((kind, content, (0.0, top, 200.0, top + line), 1))
        top += line
    return document(*placed)


def cut(source: Document, max_tokens: int, **options: Any) -> list[str]:
    chunks = SpatialChunker(options.pop("encoder", TopicEncoder()), WORDS, max_tokens=max_tokens, **options).chunk(source)
    return [" ".join(chunk.text.split()) for chunk in chunks]


def nodes_of(source: Document, max_tokens: int = 100, headings: Any = "section") -> list[Any]:
    return NodeMaker(source, Layout(source), Ruler(source.text, WORDS), max_tokens).nodes(headings, 3)


# Distance --------------------------------------------------------------------------------------------------------------


def element(box: Box | None, page: int | None = 1) -> Element:
    return Element(Span(0, 1), "paragraph", page=page, bbox=box)


def test_a_step_is_the_gap_between_edges_in_lines() -> None:
    upper = element((0, 0, 100, 30))
    assert step_lines(upper, element((0, 50, 100, 60)), 10.0) == pytest.approx(2.0)
    assert step_lines(upper, element((0, 50, 100, 60)), 20.0) == pytest.approx(1.0)
    assert step_lines(upper, element((0, 30, 100, 60)), 10.0) == 0.0
    assert step_lines(upper, element((130, 70, 200, 90)), 10.0) == pytest.approx(5.0)  # 3 across, 4 down
    assert step_lines(upper, element((0, 500, 100, 510)), 10.0) == 8.0  # no step is longer


def test_no_geometry_across_pages_and_columns() -> None:
    low = element((0, 700, 100, 720))
    assert step_lines(low, element((0, 720, 100, 740), page=2), 10.0) == TURN_LINES
    assert step_lines(low, element((300, 0, 400, 20)), 10.0) == TURN_LINES
    assert step_lines(low, element(None), 10.0) == STEP_LINES


def test_line_height_is_found_from_boxes_and_characters() -> None:
    # 200 points wide, 10 high: 50 characters of 4 points a line
    boxes = [Element(Span(0, 50 * lines), "paragraph", bbox=(0, 0, 200, 10.0 * lines)) for lines in (1, 3, 7)]
    assert line_height(boxes) == pytest.approx(10.0)
    odd = [Element(Span(0, 20), "paragraph", bbox=(0, 0, 200, height)) for height in (4, 40)]
    assert line_height([odd[0], *boxes, odd[1]]) == pytest.approx(10.0)
    assert line_height([element(None)]) == USUAL_LINE_HEIGHT
    assert line_height([Element(Span(0, 3), "paragraph", bbox=(0, 0, 200, 10))]) == 10.0  # a short line is no higher than its box


def test_pieces_of_one_element_are_at_one_place() -> None:
    parts = ("paragraph", ". ".join([words(9)] * 4)), ("paragraph", words(5))
    for source in (column(*((*part, 3) for part in parts)), document(*((*part, None, None) for part in parts))):
        places = positions(nodes_of(source, max_tokens=12))
        assert places[:-1].tolist() == [0.0] * (len(places) - 1)
        assert len(places) > 3 and places[-1] > 0


def test_a_heading_is_farther_from_what_is_above_it() -> None:
    nodes = nodes_of(column(("paragraph", words(20), 0), ("h4", "Title", 1), ("h5", "Below", 1), ("paragraph", words(20), 1)))
    steps = np.diff(positions(nodes, 4.0)) - np.diff(positions(nodes, 0.0))
    assert steps.tolist() == pytest.approx([4.0, 0.0, 0.0])


# Graph -----------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=9), st.integers(1, 20), st.floats(0, 1), st.floats(0, 2), st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_weights_and_objective_are_what_the_formulas_say(
    sizes: list[int], max_size: int, semantic: float, resolution: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    num = len(sizes)
    places = np.cumsum(random.uniform(0, 3, num))
    vectors = random.normal(size=(num, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    weights = graph_weights(places, vectors, np.array(sizes), max_size, semantic)
    worth = objective(weights, np.array(sizes), resolution)
    assert weights.shape == worth.shape == (num, band_of(np.array(sizes), max_size))
    expected = {}
    for i in range(num):
        for j in range(i + 1, num):
            if sum(sizes[i : j + 1]) <= max_size:
                near = 1 / (1 + places[j] - places[i])
                expected[i, j] = (1 - semantic) * near + semantic * float(vectors[i] @ vectors[j])
    mass = {(i, j): sizes[i] * sizes[j] for i, j in expected}
    total = sum(mass.values())
    mean = sum(expected[pair] * mass[pair] for pair in expected) / total if total else 0.0
    for i in range(num):
        for distance in range(weights.shape[1]):
            pair = (i, i + distance)
            if pair in expected:
                assert weights[i, distance] == pytest.approx(expected[pair], abs=1e-6)
                assert worth[i, distance] == pytest.approx((expected[pair] - resolution * mean) * mass[pair], abs=1e-4)
            else:
                assert np.isnan(weights[i, distance]) and worth[i, distance] == 0.0


# What decides ----------------------------------------------------------------------------------------------------------


def test_white_space_decides() -> None:
    parts = [("paragraph", words(4), space) for space in (0, 6, 0.5, 0.5)]
    assert cut(column(*parts), 12, min_tokens=0) == [words(4), words(12)]
    parts = [("paragraph", words(4), space) for space in (0, 0.5, 0.5, 6)]
    assert cut(column(*parts), 12, min_tokens=0) == [words(12), words(4)]


def test_meaning_decides() -> None:
    parts = [("paragraph", words(4, word), 1) for word in "abbb"]
    assert cut(column(*parts), 12, min_tokens=0) == [words(4), words(12, "b")]
    parts = [("paragraph", words(4, word), 1) for word in "aaab"]
    assert cut(column(*parts), 12, min_tokens=0) == [words(12), words(4, "b")]


def test_semantic_weight_says_which_of_the_two() -> None:
    parts = [("paragraph", words(4, word), space) for word, space in (("a", 0), ("b", 0.5), ("b", 6))]
    assert cut(column(*parts), 8, min_tokens=0, semantic_weight=0.0) == ["a a a a b b b b", words(4, "b")]
    assert cut(column(*parts), 8, min_tokens=0, semantic_weight=1.0) == [words(4), words(8, "b")]


def test_a_page_turn_is_no_wider_than_a_blank_and_no_nearer_than_it_looks() -> None:
    """The foot of a page and the same place overleaf are no neighbours; head of a page and foot of the one before are."""
    foot, head = (0.0, 700.0, 200.0, 710.0), (0.0, 0.0, 200.0, 10.0)
    far = document(*(("paragraph", words(4), box, page) for box, page in ((head, 1), (foot, 1), (head, 2))))
    assert cut(far, 8, min_tokens=0) == [words(4), words(8)]


def test_larger_resolution_makes_smaller_chunks() -> None:
    source = column(*(("paragraph", words(4, word), 1) for word in "abababab"))
    numbers = [len(cut(source, 32, min_tokens=0, resolution=resolution)) for resolution in (0.0, 0.5, 1.0, 2.0)]
    assert numbers[0] == 1 and numbers == sorted(numbers) and numbers[-1] > 2


def test_as_few_small_chunks_as_possible() -> None:
    source = column(("paragraph", words(8), 0), ("paragraph", words(2, "b"), 6), ("paragraph", words(8, "c"), 6))
    assert min(len(text.split()) for text in cut(source, 10, min_tokens=5, resolution=2.0)) == 8
    assert words(2, "b") in cut(source, 10, min_tokens=0, resolution=2.0)


def test_without_boxes_every_element_is_a_step_from_the_next() -> None:
    source = document(*(("paragraph", words(4, word), None, None) for word in "abbb"))
    assert cut(source, 12, min_tokens=0) == [words(4), words(12, "b")]


def test_text_without_elements_goes_by_paragraphs_then_sentences() -> None:
    text = "\n\n".join(words(4, word) + "." for word in "abbb")
    assert cut(Document("id", "source", text), 15, min_tokens=0) == ["a a a a.", "b b b b. b b b b. b b b b."]
    long = " ".join(f"{words(3, 'badger').capitalize()}." for _ in range(9))
    assert all(text.endswith(".") for text in cut(Document("id", "source", long), 10))


# What may not be parted ------------------------------------------------------------------------------------------------


def test_a_heading_stays_with_what_follows_even_if_that_is_cut_for_it() -> None:
    body = " ".join(f"{words(3, word).capitalize()}." for word in ("badger", "cattle", "dolphin"))  # 12 tokens, as many as fit
    for headings in ("section", "link"):
        chunks = cut(column(("paragraph", words(6), 0), ("h1", "Title", 1), ("paragraph", body, 1)), 12, headings=headings)
        assert any(text.startswith("Title Badger badger badger.") for text in chunks), chunks


def test_headings_ignored_are_elements_like_any_other() -> None:
    source = column(("paragraph", words(6, "t"), 0), ("h1", "Title", 0.2), ("paragraph", words(6, "b"), 5))
    assert cut(source, 7, headings="ignore", min_tokens=0) == [f"{words(6, 't')} Title", words(6, "b")]
    assert cut(source, 7, headings="link", min_tokens=0) == [words(6, "t"), f"Title {words(6, 'b')}"]


def test_a_section_starts_a_chunk() -> None:
    source = column(("paragraph", words(6), 0), ("h2", "Animals", 0.1), ("paragraph", words(6), 0.1))
    assert cut(source, 20, headings="link", resolution=2.0)[0] == words(6)
    assert len(cut(source, 20, headings="link", resolution=0.0)) == 1
    assert cut(source, 20, resolution=0.0) == [words(6), f"Animals {words(6)}"]
    assert len(cut(source, 20, resolution=0.0, section_level=1)) == 1


def test_a_small_section_goes_with_the_neighbour_it_weighs_more_with() -> None:
    def cut_with(first: str, last: str) -> list[str]:
        parts = [
            ("h2", first, 2),
            ("paragraph", words(8, first), 1),
            ("h2", "m", 2),
            ("h2", last, 2),
            ("paragraph", words(8, last), 1),
        ]
        return cut(column(*parts), 12, min_tokens=4, resolution=0.1)

    assert cut_with("m", "z") == [words(10, "m"), words(9, "z")]
    assert cut_with("z", "m") == [words(9, "z"), words(10, "m")]


def test_a_small_section_goes_with_the_sections_below_it() -> None:
    parts = [
        ("h2", "x", 2),
        ("paragraph", words(8, "x"), 1),
        ("h2", "x", 2),
        ("paragraph", "x", 1),
        ("h3", "b", 9),
        ("paragraph", words(8, "b"), 1),
    ]
    assert cut(column(*parts), 12, min_tokens=4, resolution=0.1)[0] == words(9, "x")


def test_a_small_section_that_fits_nowhere_stays_alone() -> None:
    small = ("h2", "b", 2), ("paragraph", "b", 1)
    first = ("paragraph", words(5), 0), ("paragraph", words(5), 1)
    last = ("h2", "c", 2), *(("paragraph", words(3, "c"), 1) for _ in range(3))
    assert cut(column(*first, *small), 10, min_tokens=4) == [words(10), "b b"]
    assert cut(column(*small, *last), 10, min_tokens=4) == ["b b", words(10, "c")]
    assert cut(column(*first, *small, *last), 10, min_tokens=4) == [words(10), "b b", words(10, "c")]


def test_only_whole_sections_are_joined() -> None:
    source = column(("paragraph", words(10), 0), ("paragraph", words(2), 1), ("h2", "b", 2), ("paragraph", words(4, "b"), 1))
    assert cut(source, 10, min_tokens=4) == [words(10), words(2), words(5, "b")]


def test_where_headings_mean_something_they_part() -> None:
    source = column(("paragraph", words(4), 0), ("paragraph", words(4), 1), ("h5", "a", 0.5), ("paragraph", words(3), 0.5))
    assert cut(source, 8, min_tokens=0, headings="ignore") == [words(4), words(8)]
    assert cut(source, 8, min_tokens=0, headings="link") == [words(8), words(4)]
    assert cut(source, 8, min_tokens=0, headings="section") == [words(8), words(4)]


def test_a_table_is_cut_between_rows_and_keeps_its_head_on_its_first_row() -> None:
    rows = [["name", "kg"], *([f"duck{number}", str(number)] for number in range(30))]
    source = column(("h1", "Ducks", 0), ("table", rows, 1))
    chunks = cut(source, 16)
    assert chunks[0].startswith("Ducks name | kg duck0 | 0")
    assert all(text.endswith(tuple("0123456789")) and text.startswith(("Ducks", "duck")) for text in chunks)
    assert len(chunks) > 5


def test_a_caption_stays_with_its_table_if_both_fit() -> None:
    rows = [["a", "b"], ["c", "d"]]  # 6 tokens
    table, caption = ("table", rows, 1), ("caption", "Table 1", 4)
    assert cut(column(("paragraph", words(4, "t"), 0), table, caption), 8, min_tokens=0) == [words(4, "t"), "a | b c | d Table 1"]
    assert cut(column(table, ("caption", words(4, "t"), 1)), 8, min_tokens=0) == ["a | b c | d", words(4, "t")]
    assert len(nodes_of(column(("caption", words(4, "t"), 1), table), max_tokens=8)) == 2  # the table is not cut for its caption


def test_a_caption_between_two_tables_goes_with_the_nearer_and_cuts_neither() -> None:
    rows = [["a", "b"], ["c", "d"]]

    def cut_at(before: float, after: float) -> list[str]:
        return cut(column(("table", rows, 0), ("caption", "Table 1", before), ("table", rows, after)), 8, min_tokens=0)

    assert cut_at(1, 3) == ["a | b c | d Table 1", "a | b c | d"]
    assert cut_at(3, 1) == ["a | b c | d", "Table 1 a | b c | d"]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    text = " ".join(f"{words(number, 'badger').capitalize()}." for number in (3, 9, 5, 7, 2, 4))
    chunks = cut(column(("paragraph", text, 0)), 12)
    assert " ".join(chunks) == text and all(chunk.endswith(".") for chunk in chunks) and len(chunks) > 2


def test_pieces_are_filled_up_to_an_eighth_of_the_limit() -> None:
    text = " ".join(f"{words(3, 'badger').capitalize()}." for _ in range(40))
    assert [node.num_tokens for node in nodes_of(column(("paragraph", text, 0)), max_tokens=64)] == [8] * 20
    assert [node.num_tokens for node in nodes_of(column(("paragraph", text, 0)), max_tokens=8)] == [4] * 40


def test_nodes_fit_and_fill_the_text() -> None:
    source = column(("h1", "Title", 0), ("paragraph", words(40), 1), ("table", [["x"] * 3] * 9, 1), ("list", "- a\n- b\n- c", 1))
    nodes = nodes_of(source, max_tokens=9)
    assert max(node.num_tokens for node in nodes) <= 9
    assert [node.span.start for node in nodes[1:]] == [node.span.end for node in nodes[:-1]]
    assert (nodes[0].span.start, nodes[-1].span.end) == (0, len(source.text))


# The chunker -----------------------------------------------------------------------------------------------------------


def test_every_node_is_encoded_once_in_one_call() -> None:
    encoder = TopicEncoder()
    cut(column(*(("paragraph", words(4, word), 1) for word in "abcd")), 8, encoder=encoder)
    assert encoder.num_calls == 1


def test_context_and_meta_are_those_of_the_layout() -> None:
    source = column(("h1", "Ducks", 0), ("paragraph", words(8), 1), ("paragraph", words(8), 1))
    chunks = SpatialChunker(HashingEncoder(), WORDS, max_tokens=10).chunk(source)
    assert [chunk.context for chunk in chunks] == ["", "Ducks"]
    assert chunks[1].meta == {"kinds": ["paragraph"], "headings": ["Ducks"], "page": 1}


def published(source: Document, max_tokens: int) -> list[Chunk]:
    return SpatialChunker(TopicEncoder(), WORDS, mode="s2", max_tokens=max_tokens).chunk(source)


def test_s2_scatters_what_alternates_and_says_so() -> None:
    source = column(*(("paragraph", words(4, word), 1) for word in "ab" * 10))
    chunks = published(source, 20)  # two clusters of 40 tokens, each cut at 20
    assert [chunk.meta["cluster"] for chunk in chunks] == [0, 1] * 5 + [2, 3] * 5
    assert [chunk.text for chunk in chunks] == [words(4, word) for word in "ab" * 10]
    assert published(source, 20) == chunks


@pytest.mark.parametrize("num_words", [4, 90])
def test_s2_of_one_element_or_one_subject_is_contiguous(num_words: int) -> None:
    for source in (column(("paragraph", words(num_words), 1)), column(*(("paragraph", words(num_words), 1) for _ in range(2)))):
        clusters = [chunk.meta["cluster"] for chunk in published(source, 20)]
        assert clusters == sorted(clusters) and len(clusters) >= num_words // 20


def test_s2_keeps_a_cluster_under_the_limit() -> None:
    chunks = published(column(*(("paragraph", words(4), 1) for _ in range(9))), 10)
    tokens: dict[int, int] = {}
    for chunk in chunks:
        tokens[chunk.meta["cluster"]] = tokens.get(chunk.meta["cluster"], 0) + WORDS.count(chunk.text)
    assert max(tokens.values()) <= 10 and sum(tokens.values()) == 36


def test_s2_of_a_long_document_goes_by_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.chunkers.spatial.MAX_CLUSTERED_NODES", 4)
    chunks = published(column(*(("paragraph", words(4, word), 1) for word in "ababababab")), 8)
    stretches = [{chunk.meta["cluster"] for chunk in chunks[first : first + 4]} for first in (0, 4, 8)]
    assert not stretches[0] & stretches[1] and not stretches[1] & stretches[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "s3"}, "mode='s3': must be one of layout, s2"),
        ({"headings": "no"}, "headings='no': must be one of section, link, ignore"),
        ({"semantic_weight": 1.5}, "semantic_weight=1.5"),
        ({"semantic_weight": float("nan")}, "semantic_weight=nan"),
        ({"resolution": -0.1}, "resolution=-0.1"),
        ({"resolution": float("inf")}, "resolution=inf"),
        ({"section_level": 7}, "section_level=7"),
        ({"max_context_tokens": -1}, "max_context_tokens=-1"),
        ({"max_tokens": 0}, "max_tokens=0"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpatialChunker(TopicEncoder(), WORDS, **options)
