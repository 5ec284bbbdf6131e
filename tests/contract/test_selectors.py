"""What every selector of the registry must do beside the contract of rerankers: many hits, equal scores, budgets, exact extents.

A new word needs a line in ``BUILT`` and, by what it declares, in the sets below it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest

from rag import config
from rag.core import Chunk, Corpus, Document, Hit, Reranker, Span
from rag.registry import TABLE, component
from rag.tokenizer import WordTokenizer
from tests.fakes import HashingEncoder, HashingTokenEncoder, ListCorpus, ToyLM

MAX_TOKENS = 120
TOKENIZER = WordTokenizer()


def make(word: str, **options: object) -> Reranker:
    built: Reranker = component("selector", word)(**options)
    return built


BUILT: Mapping[str, Callable[[Corpus], Reranker]] = {
    "top": lambda corpus: make("top"),
    "budget": lambda corpus: make("budget", tokenizer=TOKENIZER, max_tokens=MAX_TOKENS),
    "mmr": lambda corpus: make("mmr", tokenizer=TOKENIZER, max_tokens=MAX_TOKENS),
    "facility": lambda corpus: make("facility", tokenizer=TOKENIZER, max_tokens=MAX_TOKENS, encoder=HashingEncoder(), by="encoder"),
    "score-drop": lambda corpus: make("score-drop"),
    "chunkrag": lambda corpus: make("chunkrag", lm=ToyLM(), max_candidates=8),
    "corag": lambda corpus: make(
        "corag", tokenizer=TOKENIZER, token_encoder=HashingTokenEncoder(), search="tree", max_tokens=MAX_TOKENS, max_rewards=60
    ),
    "compress": lambda corpus: make("compress", tokenizer=TOKENIZER, max_tokens=MAX_TOKENS),
    "neighbours": lambda corpus: make("neighbours", corpus=corpus),
    "parents": lambda corpus: make("parents", tokenizer=TOKENIZER, corpus=corpus, min_share=0.25),
    "order": lambda corpus: make("order"),
    "steps": lambda corpus: make(
        "steps",
        selectors=[make("mmr", k=10), make("budget", tokenizer=TOKENIZER, max_tokens=MAX_TOKENS), make("order", by="document")],
    ),
}

PREFIX = {"top", "score-drop"}
"""They return the first hits."""
ORDER_KEPT = {"top", "budget", "score-drop", "chunkrag", "compress", "neighbours", "parents"}
"""Of hits with equal scores and equal worth the earlier one comes first."""
WITHIN_BUDGET = {"budget", "mmr", "facility", "corag", "compress", "steps"}
"""They never return more than MAX_TOKENS tokens, contexts included, unless it is one hit alone (of ``compress``: one sentence)."""
PIECES = {"compress"}
"""Every returned character lies in a given hit."""
WIDENED = {"neighbours", "parents"}
"""Every returned character lies in the document of a given hit."""

WORDS = "tower bridge river metre height built opened year stone iron arch queen storm light north"


def documents(number: int) -> list[Document]:
    drawn = random.Random(number)
    found = []
    for name in range(number):
        sentences = [" ".join(drawn.choices(WORDS.split(), k=drawn.randint(3, 12))).capitalize() + "." for _ in range(12)]
        text = "\n\n".join(" ".join(sentences[i : i + 3]) for i in range(0, 12, 3))
        found.append(Document(Document.id_of(str(name)), str(name), text))
    return found


def chunks_of(document: Document) -> list[Chunk]:
    spans, start = [], 0
    for paragraph in document.text.split("\n\n"):
        spans.append(Span(start, start + len(paragraph)))
        start += len(paragraph) + 2
    return [Chunk.of(document, span, context="A title" if number % 2 else "") for number, span in enumerate(spans)]


@pytest.fixture(scope="module")
def world() -> tuple[ListCorpus, list[Hit]]:
    """1,000 chunks of 250 documents, shuffled, scores falling and partly below zero."""
    found = documents(250)
    chunks = [chunk for document in found for chunk in chunks_of(document)]
    shuffled = random.Random(1).sample(chunks, len(chunks))
    return ListCorpus(found, chunks), [Hit(chunk, 500.0 - number) for number, chunk in enumerate(shuffled)]


@pytest.fixture(params=list(TABLE["selector"]))
def word(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_word_is_tested() -> None:
    assert set(BUILT) == set(TABLE["selector"])
    assert PREFIX | ORDER_KEPT | WITHIN_BUDGET | PIECES | WIDENED | {"order"} == set(BUILT)


@pytest.mark.parametrize("num_hits", [0, 1, 2, 40, 1000])
def test_from_no_hit_to_a_thousand(world: tuple[ListCorpus, list[Hit]], word: str, num_hits: int) -> None:
    corpus, hits = world
    given = hits[:num_hits]
    corpus.reads.clear()
    selected = BUILT[word](corpus).rerank("When was the iron bridge built?", given)
    assert selected == BUILT[word](corpus).rerank("When was the iron bridge built?", given)
    assert bool(selected) == bool(given)
    assert [hit.why[word].rank for hit in selected] == list(range(1, len(selected) + 1))
    assert len({hit.chunk.id for hit in selected}) == len(selected)
    chunks = [hit.chunk for hit in given]
    if word in PREFIX:
        assert [hit.chunk for hit in selected] == chunks[: len(selected)]
    if word not in PIECES | WIDENED:
        assert all(hit.chunk in chunks for hit in selected)
    if word in WITHIN_BUDGET and len(selected) > 1:
        assert sum(TOKENIZER.count(hit.chunk.indexed_text) for hit in selected) <= MAX_TOKENS
    if word in PIECES:
        for hit in selected:
            (parent,) = [chunk for chunk in chunks if chunk.id == hit.chunk.meta.get("parent_chunk", hit.chunk.id)]
            assert parent.doc_id == hit.chunk.doc_id
            assert parent.span.start <= hit.chunk.span.start < hit.chunk.span.end <= parent.span.end
    if word in PIECES | WIDENED:
        assert all(hit.chunk.span.of(corpus.texts[hit.chunk.doc_id]) == hit.chunk.text for hit in selected)
    if word in WIDENED:
        allowed = {chunk.doc_id for chunk in chunks}
        assert {hit.chunk.doc_id for hit in selected} <= allowed
        assert set(corpus.reads) <= allowed


def test_equal_scores_keep_their_order(word: str) -> None:
    """Equal texts, so that no hit is worth more than another in any way that can be seen."""
    found = [Document(Document.id_of(str(n)), str(n), "The iron bridge was built in 1932.") for n in range(30)]
    hits = [Hit(Chunk.of(document, Span(0, len(document.text))), 0.5) for document in found]
    selected = BUILT[word](ListCorpus(found, [hit.chunk for hit in hits])).rerank("When was the bridge built?", hits)
    places = [[hit.chunk.doc_id for hit in hits].index(hit.chunk.doc_id) for hit in selected]
    if word in ORDER_KEPT:
        assert places == sorted(places)
    assert places[0] == 0


def test_equal_grades_keep_their_order() -> None:
    """Distinct texts with the same grades."""
    texts = [f"Bridge number {n} was built by {name}." for n, name in enumerate(["Ann", "Bob", "Cid", "Dan", "Eve"])]
    found = [Document(Document.id_of(str(n)), str(n), text) for n, text in enumerate(texts)]
    hits = [Hit(Chunk.of(document, Span(0, len(document.text))), 0.5) for document in found]
    selected = make("chunkrag", lm=ToyLM(judge=lambda prompt: [0.1, 0.1, 0.1, 0.3, 0.4])).rerank("Who built it?", hits)
    assert [hit.chunk for hit in selected] == [hit.chunk for hit in hits]


def test_a_configuration_builds_it_from_its_word(word: str) -> None:
    """With the default models and an LM; nothing is loaded."""
    options = {"steps": {"selectors": [{"use": "top"}]}}.get(word, {})
    given = config.load({"select": {"use": word, **options}})
    assembly = config.Assembly(given, {"lm": ToyLM()}, {"corpus": ListCorpus([], [])})
    assert assembly.build("selector", "select", given.select).rerank("q", []) == []
