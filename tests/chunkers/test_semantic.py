"""Chunks by meaning, with an encoder for which texts that share words are alike."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.chunkers.breakpoints import RULES
from rag.chunkers.semantic import MAX_BAND, SemanticChunker, similarity_band
from rag.core import Chunk, Document, Span
from rag.read.draft import TextBuilder
from rag.tokenizer import WordTokenizer, counts_of
from tests.fakes import HashingEncoder

WORDS = WordTokenizer()
DUCKS = "Ducks swim on ponds. Ducks eat weeds on ponds. Ducks sleep on ponds."
BREAD = "Bread needs flour. Bread rises if flour rises. Bread bakes with flour."
ROCKS = "Rocks melt inside volcanoes. Rocks cool outside volcanoes. Rocks crumble near volcanoes."


class CountingEncoder(HashingEncoder):
    """Remembers what it was asked."""

    def __init__(self, dim: int = 4096) -> None:
        super().__init__(dim)
        self.calls: list[list[str]] = []

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls.append(list(texts))
        return super().encode_documents(texts)


def cut(text: str, **options: Any) -> list[str]:
    return [chunk.text for chunk in chunks(Document("id", "source", text), **options)]


def chunks(document: Document, **options: Any) -> list[Chunk]:
    return SemanticChunker(options.pop("encoder", HashingEncoder(4096)), WORDS, **options).chunk(document)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rule": "percentile", "amount": 75, "window": 0},
        {"rule": "standard_deviation", "amount": 1, "window": 0},
        {"rule": "interquartile", "amount": 0.5, "window": 0},
        {"rule": "absolute", "amount": 0.9, "window": 0},
    ],
)
def test_topics_are_parted(options: dict[str, Any]) -> None:
    assert cut(f"{DUCKS} {BREAD} {ROCKS}", min_tokens=0, **options) == [DUCKS, BREAD, ROCKS]


def test_the_gradient_is_steepest_before_the_gap() -> None:
    assert len(cut(f"{DUCKS} {BREAD} {ROCKS}", min_tokens=0, rule="gradient", amount=60, window=0)) > 1


@pytest.mark.parametrize("rule", ["optimal", *RULES])
def test_sizes_are_kept_whatever_the_rule(rule: str) -> None:
    text = f"{DUCKS} {BREAD} {ROCKS} " * 3
    counts = counts_of(WORDS, cut(text, rule=rule, max_tokens=30, min_tokens=12))
    assert 12 <= min(counts) and max(counts) <= 30


def test_what_is_too_long_is_cut_where_neighbours_are_farthest_apart() -> None:
    assert cut(f"{DUCKS} {BREAD}", rule="absolute", amount=2.0, window=0, max_tokens=24) == [DUCKS, BREAD]


def test_what_is_too_short_goes_with_its_like() -> None:
    text = f"{DUCKS} Ducks quack. {BREAD}"
    options = {"rule": "absolute", "amount": 0.64, "window": 0, "min_tokens": 6, "max_tokens": 40}
    assert f"{DUCKS} Ducks quack." in "\n".join(cut(text, **options))
    assert all("quack. Bread" not in chunk for chunk in cut(text, **options))


def test_amount_makes_optimal_chunks_smaller() -> None:
    text = f"{DUCKS} {BREAD} {ROCKS}"
    assert len(cut(text, min_tokens=0, amount=0.9)) > len(cut(text, min_tokens=0))


@pytest.mark.parametrize(("options", "window"), [({}, 0), ({"rule": "percentile"}, 1), ({"window": 2}, 2)])
def test_every_window_is_read_once_in_one_call(options: dict[str, Any], window: int) -> None:
    encoder = CountingEncoder()
    text = f"{DUCKS} {BREAD}"
    cut(text, encoder=encoder, **options)
    sentences = [f"{part}." for part in text.rstrip(".").split(". ")]
    windows = [" ".join(sentences[max(place - window, 0) : place + window + 1]) for place in range(len(sentences))]
    assert encoder.calls == [windows]


def test_blank_texts_are_not_read() -> None:
    encoder = CountingEncoder()
    assert cut(" \n ", encoder=encoder) == []
    assert encoder.calls == []


def test_a_heading_belongs_to_what_follows_and_rows_stay_whole() -> None:
    builder = TextBuilder()
    builder.add(DUCKS, "paragraph")
    builder.add("Bread ducks", "heading", level=1)
    builder.add(BREAD, "paragraph")
    builder.add_table([["bread", "duck"], *([f"loaf {number}", "crust of bread"] for number in range(12))], num_header_rows=1)
    document = builder.draft({"title": "Food"}).document("food")
    found = chunks(document, max_tokens=40, min_tokens=0)
    rows = [row.of(document.text) for element in document.elements for row in element.rows]
    for chunk in found:
        assert not chunk.text.endswith("Bread ducks")
        assert {line for line in chunk.text.splitlines() if "|" in line} <= set(rows)
    assert found[-1].context.splitlines()[0] == "Food > Bread ducks"
    assert found[-1].context.splitlines()[-1] == "bread | duck"
    assert max(counts_of(WORDS, [chunk.context for chunk in found])) <= 40


def test_a_splitter_finds_the_sentences() -> None:
    class Halves:
        def spans(self, text: str) -> list[Span]:
            middle = text.index("Bread")
            return [Span(0, middle - 1), Span(middle, len(text))]

    text = f"{DUCKS} {BREAD}"
    encoder = CountingEncoder()
    cut(text, encoder=encoder, splitter=Halves())
    assert encoder.calls == [[DUCKS, BREAD]]


def test_band_equals_the_matrix_of_all_pairs() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    mean = (cosines.sum() - np.trace(cosines)) / (9 * 8)
    band = similarity_band(vectors, 4, amount=0.1)
    for row in range(9):
        for distance in range(4):
            expected = cosines[row, row + distance] - mean - 0.1 if 0 < distance < 9 - row else 0.0
            assert band[row, distance] == pytest.approx(expected, abs=1e-6)


def test_a_megabyte_takes_memory_in_proportion() -> None:
    class Constant(HashingEncoder):
        def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
            chance = np.random.default_rng(len(texts))
            vectors: NDArray[np.float32] = chance.normal(size=(len(texts), self.dim)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            return vectors

    text = "One two three four five. " * 5_000
    tracemalloc.start()
    found = cut(text, encoder=Constant(64))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) > 125
    assert peak_bytes < 60 * len(text)  # all pairs would be 5,000 x 5,000
    assert MAX_BAND < 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "median"}, "unknown rule 'median'"),
        ({"rule": "percentile", "amount": 101}, "amount=101"),
        ({"window": -1}, "window=-1: must be at least 0"),
        ({"max_context_tokens": -1}, "max_context_tokens=-1"),
        ({"max_tokens": 50, "min_tokens": 50}, "min_tokens=50: must be between 0 and 49"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SemanticChunker(HashingEncoder(), WORDS, **options)
