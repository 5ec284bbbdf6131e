"""The extractive generator: what it quotes, in which order, and when it declines."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.core import Chunk, Citation, CitationEvent, Document, Hit, Span, TextEvent, UsageEvent
from rag.extractive import DISPLAY_CHARS, ExtractiveGenerator
from rag.prompt import ABSTENTION

DATA = Path(__file__).parents[1] / "../shared/data"


class WordsEncoder:
    """Hashed bags of words, except that it knows a few synonyms: enough meaning to tell it from plain overlap."""

    dim = 256
    fingerprint = "words"

    def __init__(self) -> None:
        self.num_texts: list[int] = []

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.num_texts.append(len(texts))
        vectors = np.full((len(texts), self.dim), 1e-4, dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                meaning = {"physician": "doctor", "automobile": "car", "purchased": "bought"}.get(word, word)
                vectors[row, sum(ord(c) * 31**i for i, c in enumerate(meaning)) % self.dim] += 1
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.encode_documents(texts)


def hits(*texts: str, offset: int = 0) -> list[Hit]:
    found = []
    for i, text in enumerate(texts):
        document = Document(Document.id_of(f"doc{i}"), f"doc{i}", "#" * offset + text)
        found.append(Hit(Chunk.of(document, Span(offset, offset + len(text))), 1.0 - i / 10))
    return found


def ask(query: str, found: Sequence[Hit], **options: float) -> tuple[str, list[Citation], bool]:
    *events, last = list(ExtractiveGenerator(**options).generate(query, found))  # type: ignore[arg-type]
    assert isinstance(last, UsageEvent)
    text = "".join(event.text for event in events if isinstance(event, TextEvent))
    return text, [event.citation for event in events if isinstance(event, CitationEvent)], last.abstained


TOWER = "# Eiffel Tower\n\nThe Eiffel Tower stands in Paris. The tower is 330 metres tall. It was painted many times. Bring an umbrella."
DUCKS = "Ducks are water birds. Mallards weigh about 1.1 kg. Many ducks migrate south in winter."


def test_the_best_sentence_is_quoted_verbatim_with_document_offsets() -> None:
    text, citations, abstained = ask("How tall is the Eiffel Tower in metres?", hits(DUCKS, TOWER, offset=9), max_sentences=1)
    assert text == "The tower is 330 metres tall. [1]" and not abstained
    (citation,) = citations
    assert citation.quote == "The tower is 330 metres tall."
    assert ("#" * 9 + TOWER)[citation.start : citation.end] == citation.quote
    assert (citation.number, citation.doc_id) == (1, Document.id_of("doc1"))


@pytest.mark.parametrize("query", ["Who wrote the opera Carmen?", "When was the bridge opened?", "", "???", "what is it"])
def test_it_declines_when_nothing_fits(query: str) -> None:
    assert ask(query, hits(TOWER, DUCKS)) == (ABSTENTION, [], True)


def test_no_hits_no_answer() -> None:
    assert ask("How tall is the tower?", []) == (ABSTENTION, [], True)


def test_headings_questions_menus_and_boilerplate_are_no_answers() -> None:
    page = (
        "# How tall is the Eiffel Tower\n\nHow tall is the Eiffel Tower?\n\nEiffel Tower height\n\nIt measures 330 metres, antennas included.\n\n"
        "Copyright \u00a9 Eiffel Tower height tall. All rights reserved.\n\n" + "Eiffel Tower Tall Height Menu Login Shop " * 4
    )
    text, citations, _ = ask("How tall is the Eiffel Tower?", hits(page), min_support=0.0)
    assert [citation.quote for citation in citations] == ["It measures 330 metres, antennas included."]
    assert text == "It measures 330 metres, antennas included. [1]"


def test_the_sentence_after_a_matching_question_or_heading_counts_for_it() -> None:
    page = "Can I bring my dog?\nYes, on a lead.\n\nIs parking free of charge?\nNot on Sundays, alas."
    text, _, abstained = ask("Can I bring my dog?", hits(page))
    assert text.startswith("Yes, on a lead. [1]") and not abstained


def test_a_sentence_that_leans_on_the_one_before_takes_it_along() -> None:
    text, citations, _ = ask(
        "Where was Ada Lovelace born in 1815?", hits("Ada Lovelace wrote programs. She was born in London in 1815. Ducks swim.")
    )
    assert text == "Ada Lovelace wrote programs. She was born in London in 1815. [1]"
    assert citations[0].quote == "Ada Lovelace wrote programs. She was born in London in 1815."


def test_table_rows_are_sentences() -> None:
    text, citations, _ = ask("What does a mallard weigh?", hits("bird | weigh kg\nmallard | 1.1\nswan | 11"), max_sentences=1)
    assert citations[0].quote == "mallard | 1.1" and text == "bird | weigh kg: mallard | 1.1 [1]"


def test_near_duplicates_are_said_once() -> None:
    twin = "The Eiffel Tower is 330 metres tall today."
    _, citations, _ = ask("How tall is the Eiffel Tower in metres?", hits("The Eiffel Tower is 330 metres tall.", twin, twin + " "))
    assert len(citations) == 1


def test_one_sentence_in_two_formats_is_said_once_whatever_stands_above_it() -> None:
    page = "Mallard duckling preening\n\nDucks eat grasses, fish, worms, and small molluscs."
    other = "Pecten along the bill in spring\n\nDucks eat grasses , fish, worms, and small molluscs ."
    _, citations, _ = ask("What do ducks eat?", hits(page, other))
    assert [citation.quote for citation in citations] == ["Ducks eat grasses, fish, worms, and small molluscs."]
    _, citations, _ = ask(
        "Where were they born in 1815?", hits("Ada wrote. She was born in 1815.", "Joe sang. She was born in 1815.")
    )
    assert len(citations) == 2  # who is meant stands in the sentence before


def test_numbers_run_from_one_and_quotations_keep_the_documents_order() -> None:
    page = "Ducks eat grass in spring. Rain fell on Tuesday. Ducks eat snails in summer. Cats sleep."
    text, citations, _ = ask("What do ducks eat?", hits(page, "Ducks eat bread in towns, which is bad."), max_sentences=3)
    assert [citation.number for citation in citations] == list(range(1, len(citations) + 1))
    assert [int(n) for n in re.findall(r"\[(\d)\]", text)] == [citation.number for citation in citations]
    of_page = [citation.start for citation in citations if citation.doc_id == Document.id_of("doc0")]
    assert len(of_page) == 2 and of_page == sorted(of_page)


def test_the_kind_of_thing_asked_for_decides_between_equals() -> None:
    page = "The tower opened to great applause. The tower opened in 1889."
    assert ask("When did the tower open?", hits(page), max_sentences=1)[0].startswith("The tower opened in 1889.")


def test_the_encoder_finds_what_words_do_not() -> None:
    page = "The physician purchased an automobile. The garden was green."
    query = "doctor bought car"
    assert ask(query, hits(page))[2]
    encoder = WordsEncoder()
    _, *events, _ = ExtractiveGenerator(encoder, max_sentences=1).generate(query, hits(page))
    assert isinstance(events[0], TextEvent) and events[0].text == "The physician purchased an automobile. [1]"
    assert encoder.num_texts == [2, 1]  # one batch of sentences, one query


def test_no_more_than_max_candidates_are_encoded_and_likely_ones_are_among_them() -> None:
    page = " ".join(f"Filler number {i} about nothing at all." for i in range(100)) + " The zebra is striped."
    encoder = WordsEncoder()
    _, *events, _ = ExtractiveGenerator(encoder, max_candidates=8).generate("Is the zebra striped?", hits(page))
    assert encoder.num_texts == [8, 1]
    assert isinstance(events[0], TextEvent) and "zebra" in events[0].text


def test_a_very_long_sentence_is_cut_for_display_at_a_clause_but_quoted_whole() -> None:
    clauses = ", ".join(f"clause number {i} goes on and on about weather" for i in range(30))
    page = f"In the beginning {clauses}, the zebra is striped, {clauses}."
    text, citations, _ = ask("Is the zebra striped?", hits(page))
    assert citations[0].quote == page
    assert len(text) < DISPLAY_CHARS + 20 and "the zebra is striped" in text
    shown = text.removesuffix(" [1]").strip("\u2026 ")
    assert shown in page and page[page.index(shown) + len(shown)] == ","


def test_hidden_text_and_citation_marks_of_the_source_are_not_printed() -> None:
    text, citations, _ = ask("How tall is the tower?", hits("The tower\u200b is 330 metres tall [7]."))
    assert text == "The tower is 330 metres tall (7). [1]"
    assert citations[0].quote == "The tower\u200b is 330 metres tall [7]."


def test_overlapping_chunks_give_a_sentence_once() -> None:
    document = Document(Document.id_of("d"), "d", "Cats purr. The tower is 330 metres tall. Dogs bark.")
    found = [Hit(Chunk.of(document, Span(0, 40)), 1.0), Hit(Chunk.of(document, Span(11, 51)), 0.9)]
    assert len(ask("How tall is the tower in metres?", found)[1]) == 1


@pytest.mark.parametrize("options", [{"max_sentences": 0}, {"min_support": 1.5}, {"max_candidates": 1}])
def test_bad_options_are_named(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ExtractiveGenerator(**options)  # type: ignore[arg-type]


def test_calibration_without_an_encoder_holds_on_real_questions() -> None:
    folder = DATA / "xquad/derived_beir_en"
    if not folder.is_dir():
        pytest.skip("shared/data/xquad is not there")
    passages = {row["_id"]: row["text"] for row in map(json.loads, (folder / "corpus.jsonl").read_text("utf-8").splitlines())}
    queries = {row["_id"]: row["text"] for row in map(json.loads, (folder / "queries.jsonl").read_text("utf-8").splitlines())}
    pairs = [line.split("\t")[:2] for line in (folder / "qrels/test.tsv").read_text("utf-8").splitlines()[1::40]]
    declined, answered = 0, 0
    others = list(passages)
    for i, (query, gold) in enumerate(pairs):
        strangers = [name for name in others[i::29] if name.split("_")[0] != gold.split("_")[0]][:5]
        declined += ask(queries[query], hits(passages[gold], *(passages[name] for name in strangers[:4])))[2]
        answered += not ask(queries[query], hits(*(passages[name] for name in strangers)))[2]
    assert len(pairs) == 30
    assert declined <= 4 and answered <= 3


def test_a_row_of_numbers_answers_and_its_caption_does_not() -> None:
    table = "Freshwater ducks per year\n\nYear | Ducks\n2021 | 150\n2022 | 170\n2023 | 160"
    text, citations, _ = ask("How many freshwater ducks were there in 2022?", hits(table), max_sentences=1)
    assert text == "Year | Ducks: 2022 | 170 [1]" and citations[0].quote == "2022 | 170"
