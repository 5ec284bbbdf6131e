"""Words and terms: folding, technical names, scripts without spaces, stop words; how well real questions find with them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.core import Chunk, Span
from rag.errors import ConfigError
from rag.retrievers.analyse import MAX_TERM_CHARS, STOP_WORDS, Analyser
from rag.retrievers.bm25 import BM25Index

ENGLISH = Analyser()
PLAIN = Analyser("none")
DATA = Path(__file__).parents[2] / "../shared/data"


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Running runners ran", ["run", "runner", "ran"]),
        ("\ufb01ne \uff26\uff35\uff2c\uff2c Stra\u00dfe", ["fine", "full", "strass"]),
        ("John's dogs' don't we'll O\u2019Brien", ["john", "dog", "dont", "we", "obrien"]),
        ("foo_bar", ["foo", "bar", "foo_bar"]),
        ("C++ and C# code", ["c", "c++", "and", "c", "c#", "code"]),
        ("v1.2.3.", ["v1", "2", "3", "v1.2.3"]),
        ("e\u2011mail E-Mails", ["e", "mail", "email", "e", "mail", "email"]),
        ("2024-01-31 covid-19", ["2024", "01", "31", "2024-01-31", "covid", "19", "covid19"]),
        ("1,000,000 this,that", ["1", "000", "000", "1000000", "this", "that"]),
        ("U.S.A. AT&T", ["usa", "at", "t", "at&t"]),
        ("__init__ ____ -- ...", ["init"]),
        ("soft\u00adware", ["softwar"]),
        ("", []),
    ],
)
def test_english_terms(text: str, terms: list[str]) -> None:
    assert ENGLISH.terms(text) == terms


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("東 京", ["東", "京"]),
        ("GPT4東京", ["gpt4", "東京"]),
        ("서울시", ["서울", "울시"]),
        ("\uff76\uff9e\uff97\uff7d", ["ガラ", "ラス"]),  # half-width katakana
        ("कार्यक्रम", ["कार्यक्रम"]),  # vowel signs do not cut a word
        ("กข", ["กข"]),
    ],
)
def test_scripts(text: str, terms: list[str]) -> None:
    assert PLAIN.terms(text) == terms


def test_a_word_is_found_by_its_whole_and_by_its_parts() -> None:
    document = set(ENGLISH.terms("Set max_tokens_to_sample in v2.0.1 of e-mail-gateway (C++)."))
    for query in ("max_tokens_to_sample", "tokens", "v2.0.1", "email-gateway", "gateway", "C++"):
        assert document & set(ENGLISH.query_terms(query)), query
    assert "emailgateway" in document


@pytest.mark.parametrize(
    ("language", "text", "kept"),
    [
        ("english", "What is the capital of France?", ["capital", "france"]),
        ("german", "Was ist die Hauptstadt von Frankreich?", ["hauptstadt", "frankreich"]),
        ("french", "Qu'est-ce que l'homme ? aujourd'hui", ["homme", "aujourdhui"]),
        ("italian", "dell'acqua che", ["acqua"]),
        ("none", "What is this", ["what", "is", "this"]),
    ],
)
def test_queries_leave_out_stop_words(language: str, text: str, kept: list[str]) -> None:
    analyser = Analyser(language)
    assert analyser.query_terms(text) == [term for word in kept for term in analyser.terms_of(word)]


def test_a_query_of_stop_words_keeps_them() -> None:
    assert ENGLISH.query_terms("To be or not to be") == ["to", "be", "or", "not", "to", "be"]
    assert Analyser(stop_words=False).query_terms("the house") == ["the", "hous"]
    assert ENGLISH.terms("the house") == ["the", "hous"]  # documents keep them always


def test_fingerprints_name_what_changes_terms() -> None:
    assert ENGLISH.fingerprint == Analyser(stop_words=False).fingerprint
    assert len({ENGLISH.fingerprint, PLAIN.fingerprint, Analyser("german").fingerprint}) == 3


def test_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'klingon'.*allowed: none.*english"):
        Analyser("klingon")


@pytest.mark.parametrize("language", sorted(STOP_WORDS))
def test_stop_words_are_spelled_as_they_are_compared(language: str) -> None:
    analyser = Analyser(language)
    for word in STOP_WORDS[language]:
        assert analyser.words(word) == [word]
        assert analyser.query_terms(f"{word} zebra") == analyser.query_terms("zebra"), word


@given(st.text(max_size=80))
def test_any_text(text: str) -> None:
    for analyser in (ENGLISH, PLAIN):
        terms = analyser.terms(text)
        assert terms == [term for word in analyser.words(text) for term in analyser.terms_of(word)]
        assert all(0 < len(term) <= MAX_TERM_CHARS and not any(map(str.isspace, term)) for term in terms)
        assert set(analyser.query_terms(text)) <= set(terms)
        assert bool(analyser.query_terms(text)) == bool(terms)
        assert bool(terms) == any(character.isalnum() for character in text) or not text.isascii()


def test_long_runs_are_cut_alike_and_in_linear_time() -> None:
    assert ENGLISH.terms("x" * 500) == ["x" * MAX_TERM_CHARS]
    assert len(ENGLISH.terms("a." * 100_000)) == 1  # initials, cut
    assert len(ENGLISH.terms("ab-" * 100_000)) == 100_000


def ndcg_at_10(folder: Path) -> float:
    """Mean over the queries of a BEIR folder, indexed as title, line break, text."""
    if not folder.exists():
        pytest.skip(f"no data at {folder}")
    with (folder / "corpus.jsonl").open(encoding="utf-8") as file:
        corpus = [json.loads(line) for line in file]
    with (folder / "queries.jsonl").open(encoding="utf-8") as file:
        queries = {each["_id"]: each["text"] for each in map(json.loads, file)}
    relevant: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels/test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, chunk, grade = line.split("\t")
        relevant.setdefault(query, {})[chunk] = int(grade)
    index = BM25Index()
    contents = [Chunk(each["_id"], each["_id"], Span(0, 1), each["text"], each.get("title") or "") for each in corpus]
    reader = index.reader([index.build(np.arange(len(corpus)), contents)], np.ones(len(corpus), np.bool_))
    values = []
    for matches, grades in zip(reader.search([queries[query] for query in relevant], 10), relevant.values(), strict=True):
        gains = [grades.get(corpus[key]["_id"], 0) for key in matches.keys]
        ideal = sorted(grades.values(), reverse=True)[:10]
        discounted = [sum(gain / math.log2(rank + 2) for rank, gain in enumerate(row)) for row in (gains, ideal)]
        values.append(discounted[0] / discounted[1])
    return float(np.mean(values))


@pytest.mark.parametrize(
    ("folder", "least"), [("anthropic_cookbook_retrieval/docs/derived_beir", 0.74), ("mtrag_un_reference/derived_beir", 0.79)]
)
def test_quality_on_real_questions(folder: str, least: float) -> None:
    assert ndcg_at_10(DATA / folder) >= least
