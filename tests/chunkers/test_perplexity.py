"""Minima of perplexity, and how units become chunks of a wanted size."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.chunkers.merge import UnitMerger
from rag.chunkers.perplexity import PerplexityChunker, minima, surprises
from rag.core import LM, Chunk, Document, Span, TokenLogprobs
from rag.errors import ModelError
from rag.read.draft import TextBuilder
from rag.tokenizer import WordTokenizer
from tests.fakes import ToyLM

WORDS = WordTokenizer()
DUCKS = "Ducks swim on the lake. " * 3
BANKS = "Banks lend money at interest. " * 3
TEXT = DUCKS + "Quite another subject begins now here. " + BANKS


def chunked(text: str, lm: LM | None = None, **options: Any) -> list[Chunk]:
    return PerplexityChunker(WORDS, lm or ToyLM(), **options).chunk(Document("id", "a.txt", text))


class ScriptedLM(ToyLM):
    """Each sentence has the surprise that is written in it as a number."""

    def logprobs(self, texts: Sequence[str]) -> list[TokenLogprobs]:
        spans, values = super().logprobs(texts)[0].spans, []
        for sentence in re.finditer(r"[^.]*?(\d+)\.", texts[0]):
            values += [-float(sentence.group(1)) for span in spans if sentence.start() <= span.start < sentence.end()]
        return [TokenLogprobs(spans, tuple(values))]


def scripted(*numbers: int) -> str:
    return " ".join(f"Level number {number}." for number in numbers)


@pytest.mark.parametrize(
    ("values", "theta", "expected"),
    [
        ([3, 1, 3], 0.0, [1]),
        ([3, 1, 3], 2.0, [1]),
        ([3, 1, 3], 2.5, []),
        ([3, 1, 9], 2.5, [1]),  # one of the two differences is enough
        ([3, 1, 1, 3], 0.0, [1]),  # equal on the right: the fall decides
        ([3, 1, 1, 3], 2.5, []),
        ([3, 3, 4, 4, 5], 0.0, []),
        ([1, 2, 3], 0.0, []),  # neither first nor last
        ([3, 2, 1], 0.0, []),
        ([math.nan, 1, 3, 1, math.nan, 1, 2], 0.0, []),
        ([], 0.0, []),
        ([1], 0.0, []),
    ],
)
def test_minima(values: list[float], theta: float, expected: list[int]) -> None:
    assert minima(values, theta) == expected


@given(st.lists(st.floats(0, 9)), st.floats(0, 3))
def test_a_larger_theta_finds_a_part_of_the_minima(values: list[float], theta: float) -> None:
    assert set(minima(values, theta)) <= set(minima(values))


def test_a_dynamic_theta_is_the_smallest_of_the_last_hundred_depths() -> None:
    deep = [5.0, 1.0] * 99  # as many minima of depth 4
    shallow = [5.0, 4.0, 5.0, 1.0, 5.0]
    assert minima(deep + shallow, "dynamic") == minima(deep + shallow, 0.0)
    deep = [5.0, 1.0] * 100
    found = minima(deep + shallow, "dynamic")
    assert len(deep) + 1 not in found and len(deep) + 3 in found
    assert set(minima(deep + shallow, 0.0)) - set(found) == {len(deep) + 1}


def test_the_surprise_of_a_sentence_is_the_mean_over_its_tokens() -> None:
    text = "One two. \n Three."
    units = [Span(0, 11), Span(11, len(text))]
    spans = (Span(0, 3), Span(3, 7), Span(7, 8), Span(8, 11), Span(10, 16), Span(16, 17))
    found = surprises(TokenLogprobs(spans, (math.nan, -2.0, -4.0, -100.0, -1.0, -2.0)), text, units)
    assert found == [3.0, 1.5]  # the first token has no value, a blank one does not count, " Three" begins at its first letter
    assert math.isnan(surprises(TokenLogprobs((Span(0, 3),), (math.nan,)), text, units)[0])


def test_a_chunk_ends_after_the_sentence_that_was_easiest() -> None:
    text = scripted(9, 5, 1, 5, 9, 2, 8, 9)
    found = [chunk.text for chunk in chunked(text, ScriptedLM(), target_tokens=1)]
    assert found == [scripted(9, 5, 1), scripted(5, 9, 2), scripted(8, 9)]
    found = [chunk.text for chunk in chunked(text, ScriptedLM(), target_tokens=1, theta=5.0)]
    assert found == [scripted(9, 5, 1, 5, 9, 2), scripted(8, 9)]


def test_the_text_is_read_once_and_whole() -> None:
    lm = ToyLM()
    chunks = chunked(TEXT, lm)
    assert lm.num_calls == 1 and list(lm.prompts) == [TEXT]
    assert chunks == chunked(TEXT)
    assert chunked(" \n ", lm) == [] and lm.num_calls == 1


def test_pieces_are_merged_up_to_the_target_and_never_above_the_limit() -> None:
    text = scripted(*([9, 1] * 30))  # a minimum after every second sentence: pieces of 8 tokens
    sizes = [WORDS.count(chunk.text) for chunk in chunked(text, ScriptedLM(), target_tokens=30)]
    assert sizes == [24] * 10
    assert {WORDS.count(chunk.text) for chunk in chunked(text, ScriptedLM(), target_tokens=1)} == {8}
    flat = scripted(*([5] * 60))  # no minimum at all: cut between sentences, at the limit
    assert [WORDS.count(chunk.text) for chunk in chunked(flat, ScriptedLM(), max_tokens=50)] == [48] * 5


def test_headings_stay_with_what_follows_and_rows_stay_whole() -> None:
    builder = TextBuilder()
    builder.add("Birds", "heading", level=1)
    builder.add("Ducks swim. Geese fly. Swans do both. Owls sleep.")
    builder.add("Prices", "heading", level=1)
    builder.add_table([["name", "kg"], *([f"duck {number}", str(number)] for number in range(40))], num_header_rows=1)
    builder.add("Wares", "heading", level=2)
    builder.add("Bread is sold by weight.")
    document = builder.draft({"title": "A guide"}).document("guide")
    for theta in (0.0, 1.0):
        chunks = PerplexityChunker(WORDS, ToyLM(), max_tokens=20, theta=theta).chunk(document)
        rows = {row.of(document.text) for element in document.elements for row in element.rows}
        for chunk in chunks:
            assert chunk.text.splitlines()[-1] not in ("Birds", "Prices", "Wares")
            if "table" in chunk.meta["kinds"]:
                assert rows >= {line for line in chunk.text.splitlines() if "|" in line}
        assert chunks[-1].context.startswith("A guide > Prices")


class FlatLM(ToyLM):
    """Every token is as likely as any other: no sentence is a minimum."""

    def logprobs(self, texts: Sequence[str]) -> list[TokenLogprobs]:
        return [TokenLogprobs(each.spans, (-1.0,) * len(each.spans)) for each in super().logprobs(texts)]


def test_sections_are_merged_as_a_whole_or_not_at_all() -> None:
    builder = TextBuilder()
    for number in range(6):
        builder.add(f"Part {number}", "heading", level=1)
        builder.add("Some words. Some words. " * (3 if number % 2 else 2))
    document = builder.draft().document("parts")
    chunks = PerplexityChunker(WORDS, FlatLM(), max_tokens=40).chunk(document)
    assert [chunk.text.count("Part") for chunk in chunks] == [2, 2, 2]
    assert all(chunk.text.startswith("Part") for chunk in chunks)


def test_a_table_that_fits_is_not_parted() -> None:
    builder = TextBuilder()
    builder.add("Ducks swim on the lake. " * 3)
    builder.add_table([["name", "kg"], *([f"duck {number}", str(number)] for number in range(4))], num_header_rows=1)
    builder.add("Geese swim on the lake.")
    document = builder.draft().document("table")
    chunks = PerplexityChunker(WORDS, FlatLM(), max_tokens=26).chunk(document)
    assert [chunk.meta["kinds"] for chunk in chunks] == [["paragraph"], ["table", "paragraph"]]


@pytest.mark.parametrize("theta", [-0.1, math.nan, math.inf, "often", None])
def test_a_bad_theta_is_refused(theta: Any) -> None:
    with pytest.raises(ValueError, match="theta="):
        PerplexityChunker(WORDS, ToyLM(), theta=theta)


@pytest.mark.parametrize("target", [0, 201])
def test_a_bad_target_is_refused(target: int) -> None:
    with pytest.raises(ValueError, match=rf"target_tokens={target}: must be between 1 and 200"):
        UnitMerger(WORDS, 200, target, 0)


def test_a_model_without_log_probabilities_is_named() -> None:
    class Silent(ToyLM):
        def logprobs(self, texts: Sequence[str]) -> list[TokenLogprobs]:
            found = super().logprobs(texts)
            return [TokenLogprobs(each.spans, (math.nan,) * len(each.spans)) for each in found]

    class Refusing(ToyLM):
        def logprobs(self, texts: Sequence[str]) -> list[TokenLogprobs]:
            raise ModelError("sent no log-probabilities of the prompt")

    with pytest.raises(ModelError, match=r"needs log-probabilities of 'a\.txt'; the language model gave none"):
        chunked(TEXT, Silent())
    with pytest.raises(ModelError, match=r"needs log-probabilities of 'a\.txt': sent no"):
        chunked(TEXT, Refusing())
    assert len(chunked("One", Silent())) == 1
