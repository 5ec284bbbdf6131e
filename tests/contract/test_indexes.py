"""The laws of ``rag.core.Index``, for every word of the table. A new index is tested the moment it is listed."""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag.core import Chunk, Index, Matches, Segment, Span
from rag.errors import NoVectors
from rag.registry import component, table, wanted_models
from rag.retrievers.remote import RemoteSegment
from tests.fakes import HashingEncoder, HashingSparseEncoder, HashingTokenEncoder
from tests.servers import options_of

WORDS = ["apple", "banana", "cherry", "river", "mountain", "engine", "valve", "pressure", "invoice", "contract"]
QUERIES = ["apple river", "valve pressure engine", "contract", "unheard"]
MODELS: dict[str, Any] = {
    "encoder": HashingEncoder(1024),
    "sparse_encoder": HashingSparseEncoder(),
    "token_encoder": HashingTokenEncoder(1024),
}

Texts = dict[int, str]  # key -> text
LAWS = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)
CORPUS = st.dictionaries(st.integers(0, 60), TEXT, min_size=1, max_size=30)
FLAGS = st.lists(st.booleans(), max_size=70).map(lambda flags: np.array(flags, np.bool_))


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "faiss": [{"store": "float16"}, {"store": "int8"}, {"store": "binary"}, {"dimensions": 1020}],
}
"""More ways to make an index of that word, held to the same laws: options that change what is stored."""
MAKES = [(word, options) for word in sorted(table()["index"]) for options in [{}, *OPTIONS.get(word, [])]]


FOLDER = tempfile.TemporaryDirectory()
ON_SERVERS = ("pgvector", "qdrant")
"""Indexes whose segments are searched on a server once they are saved: the laws are put to saved ones, the merged ones apart."""


@pytest.fixture(params=MAKES, ids=lambda make: "-".join([make[0], *map(str, make[1].values())]))
def index(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Index:
    word, options = request.param
    if word in ON_SERVERS:
        options = options_of(word, monkeypatch, f"contract_{zlib.crc32(request.node.name.encode())}")
    cls = component("index", word)
    made: Index = cls(**{name: MODELS[name] for name in wanted_models(cls)}, **options)
    return made


def build(index: Index, texts: Texts) -> Segment:
    keys = sorted(texts)
    chunks = [Chunk(f"chunk{key}", "doc", Span(0, len(texts[key])), texts[key]) for key in keys]
    segment = index.build(np.array(keys, np.int64), chunks)
    if isinstance(segment, RemoteSegment):
        folder = Path(tempfile.mkdtemp(dir=FOLDER.name))
        segment.save(folder)
        return index.load(folder)
    return segment


def flags(keys: Sequence[int], length: int = 70) -> NDArray[np.bool_]:
    out = np.zeros(length, np.bool_)
    out[list(keys)] = True
    return out


def search(
    index: Index, segments: Sequence[Segment], live: NDArray[np.bool_], k: int = 100, allow: NDArray[np.bool_] | None = None
) -> list[Matches]:
    return index.reader(segments, live).search(QUERIES, k, allow)


def assert_same(found: Sequence[Matches], wanted: Sequence[Matches]) -> None:
    """The same keys with the same scores; keys whose scores agree within rounding may stand in either order."""
    for mine, theirs in zip(found, wanted, strict=True):
        assert len(mine.keys) == len(theirs.keys)
        np.testing.assert_allclose(mine.scores, theirs.scores, rtol=1e-5, atol=1e-6)
        if not np.array_equal(mine.keys, theirs.keys):
            scores = dict(zip(theirs.keys.tolist(), theirs.scores.tolist(), strict=True))
            last = theirs.scores[-1]
            for key, score in zip(mine.keys.tolist(), mine.scores.tolist(), strict=True):
                assert score == pytest.approx(scores.get(key, last), rel=1e-5, abs=1e-6)


@LAWS
@given(texts=CORPUS, k=st.integers(1, 40), split=st.integers(1, 3))
def test_matches_are_sorted_and_at_most_k(index: Index, texts: Texts, k: int, split: int) -> None:
    parts = [{key: text for key, text in texts.items() if key % split == part} for part in range(split)]
    segments = [build(index, part) for part in reversed(parts) if part]
    for matches in search(index, segments, flags(list(texts)), k):
        assert matches.keys.dtype == np.int64 and matches.scores.dtype == np.float32
        assert len(matches.keys) == len(matches.scores) <= min(k, len(texts))
        assert np.isfinite(matches.scores).all() and set(matches.keys.tolist()) <= set(texts)
        order = list(zip((-matches.scores).tolist(), matches.keys.tolist(), strict=True))
        assert order == sorted(order) and len(set(matches.keys.tolist())) == len(matches.keys)


@LAWS
@given(texts=CORPUS, k=st.integers(1, 40))
def test_k_takes_the_head_of_the_whole_ranking(index: Index, texts: Texts, k: int) -> None:
    segments, live = [build(index, texts)], flags(list(texts))
    whole = search(index, segments, live, 1000)
    for some, every in zip(search(index, segments, live, k), whole, strict=True):
        assert_same([some], [Matches(every.keys[:k], every.scores[:k])])


@LAWS
@given(texts=CORPUS, allow=FLAGS, dead=FLAGS, k=st.integers(1, 10))
def test_only_live_and_allowed_keys_appear_and_all_of_them_count(
    index: Index, texts: Texts, allow: NDArray[np.bool_], dead: NDArray[np.bool_], k: int
) -> None:
    live = flags(list(texts))
    live[: len(dead)] &= ~dead
    segments = [build(index, texts)]
    kept = [key for key in texts if live[key] and key < len(allow) and allow[key]]
    whole = search(index, segments, live, 1000)
    for some, every in zip(search(index, segments, live, k, allow), whole, strict=True):
        inside = np.isin(every.keys, kept)  # a filter leaves scores alone and is applied before the top k
        assert_same([some], [Matches(every.keys[inside][:k], every.scores[inside][:k])])


@LAWS
@given(texts=CORPUS, dead=FLAGS)
def test_a_deleted_chunk_is_as_good_as_never_added(index: Index, texts: Texts, dead: NDArray[np.bool_]) -> None:
    kept = {key: text for key, text in texts.items() if not (key < len(dead) and dead[key])}
    segments = [build(index, kept)] if kept else []
    assert_same(search(index, [build(index, texts)], flags(list(kept))), search(index, segments, flags(list(kept))))


@LAWS
@given(texts=CORPUS)
def test_keys_past_the_end_of_live_do_not_exist(index: Index, texts: Texts) -> None:
    cut = sorted(texts)[len(texts) // 2]
    for matches in search(index, [build(index, texts)], np.ones(cut, np.bool_)):
        assert (matches.keys < cut).all()


@LAWS
@given(texts=CORPUS, split=st.integers(1, 4))
def test_several_segments_answer_like_one(index: Index, texts: Texts, split: int) -> None:
    parts = [{key: text for key, text in texts.items() if key % split == part} for part in range(split)]
    segments = [build(index, part) for part in parts if part]
    live = flags(list(texts))
    assert_same(search(index, segments, live, 7), search(index, [build(index, texts)], live, 7))
    assert_same(search(index, segments[::-1], live, 7), search(index, segments, live, 7))


@LAWS
@given(texts=CORPUS, split=st.integers(1, 4), dead=FLAGS)
def test_merging_is_building_the_union_of_what_lives(
    index: Index, texts: Texts, split: int, dead: NDArray[np.bool_], tmp_path_factory: pytest.TempPathFactory
) -> None:
    live = flags(list(texts))
    live[: len(dead)] &= ~dead
    parts = [{key: text for key, text in texts.items() if key % split == part} for part in range(split)]
    merged = index.merge([build(index, part) for part in parts if part], live)
    kept = {key: text for key, text in texts.items() if live[key]}
    assert merged.keys.tolist() == sorted(kept)
    wanted = search(index, [build(index, kept)] if kept else [], live, 7)
    assert_same(search(index, [merged], live, 7), wanted)
    folder = tmp_path_factory.mktemp("merged")
    merged.save(folder)
    assert_same(search(index, [index.load(folder)], live, 7), wanted)


@LAWS
@given(texts=CORPUS, allow=FLAGS)
def test_saved_and_loaded_answers_are_the_same(
    index: Index, texts: Texts, allow: NDArray[np.bool_], tmp_path_factory: pytest.TempPathFactory
) -> None:
    segment, folder, live = build(index, texts), tmp_path_factory.mktemp("segment"), flags(list(texts))
    segment.save(folder)
    assert any(folder.iterdir())
    loaded = index.load(folder)
    np.testing.assert_array_equal(loaded.keys, segment.keys)
    for choice in (None, allow):
        for mine, theirs in zip(search(index, [loaded], live, 7, choice), search(index, [segment], live, 7, choice), strict=True):
            np.testing.assert_array_equal(mine.keys, theirs.keys)
            np.testing.assert_array_equal(mine.scores, theirs.scores)


@LAWS
@given(texts=CORPUS)
def test_a_saved_segment_tells_the_same_facts_when_it_is_loaded(
    index: Index, texts: Texts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    segment, folder = build(index, texts), tmp_path_factory.mktemp("segment")
    segment.save(folder)
    facts = segment.facts()
    assert index.load(folder).facts() == facts
    assert all(type(value) in (int, float, str) for value in facts.values()) and json.loads(json.dumps(dict(facts))) == facts


@LAWS
@given(texts=CORPUS, split=st.integers(1, 3), dead=FLAGS)
def test_vectors_give_the_scores_of_search_or_are_refused_by_name(
    index: Index, texts: Texts, split: int, dead: NDArray[np.bool_]
) -> None:
    live = flags(list(texts))
    live[: len(dead)] &= ~dead
    parts = [{key: text for key, text in texts.items() if key % split == part} for part in range(split)]
    reader = index.reader([build(index, part) for part in parts if part], live)
    found = reader.search(QUERIES, 100)
    try:
        seen = reader.vectors(QUERIES, [matches.keys[::-1] for matches in found])
    except NoVectors as error:
        assert error.use in table()["index"] and error.use in str(error)
        return
    assert reader.vectors([], []) == [] and len(seen) == len(QUERIES)
    for matches, (query, chunks, basis) in zip(found, seen, strict=True):
        assert query.dtype == np.float32 and all(rows.dtype == np.float32 for rows in chunks)
        asked = query if basis is None else query @ basis
        scores = [(asked @ rows.T).max(axis=1).sum() for rows in chunks]
        np.testing.assert_allclose(scores[::-1], matches.scores, rtol=1e-4, atol=1e-5)
    gone = next((key for key in range(100) if key >= len(live) or not live[key]), 0)
    with pytest.raises(ValueError, match=str(gone)):
        reader.vectors(QUERIES[:1], [np.array([gone], np.int64)])


@LAWS
@given(texts=CORPUS)
def test_a_batch_answers_like_its_queries_one_by_one(index: Index, texts: Texts) -> None:
    reader = index.reader([build(index, texts)], flags(list(texts)))
    assert_same(reader.search(QUERIES, 5), [reader.search([query], 5)[0] for query in QUERIES])


@LAWS
@given(texts=CORPUS, later=CORPUS)
def test_a_reader_stands_still(index: Index, texts: Texts, later: Texts) -> None:
    segments, live = [build(index, texts)], flags(list(texts))
    reader = index.reader(segments, live)
    before = reader.search(QUERIES, 9)
    segments.append(build(index, {key + 61: text for key, text in later.items()}))
    live[:] = False
    index.reader(segments, np.ones(200, np.bool_)).search(QUERIES, 9)
    for mine, theirs in zip(reader.search(QUERIES, 9), before, strict=True):
        np.testing.assert_array_equal(mine.keys, theirs.keys)
        np.testing.assert_array_equal(mine.scores, theirs.scores)


def test_an_empty_index_finds_nothing(index: Index, tmp_path: Path) -> None:
    everything = np.ones(10, np.bool_)
    empty = build(index, {})
    empty.save(tmp_path)
    for segments in (
        [],
        [empty],
        [index.load(tmp_path)],
        [index.merge([], everything)],
        [index.merge([build(index, {3: "apple"})], ~everything)],
    ):
        found = search(index, segments, everything)
        assert [len(matches.keys) for matches in found] == [0] * len(QUERIES)
    assert index.reader([empty], everything).search([], 5) == []


def test_the_right_chunk_is_found_first(index: Index) -> None:
    texts = {n: f"{word} alone" for n, word in enumerate(WORDS)}
    reader = index.reader([build(index, texts)], flags(list(texts)))
    for n, matches in enumerate(reader.search(WORDS, 3)):
        assert matches.keys[0] == n


def test_the_context_is_indexed_too(index: Index) -> None:
    chunks = [Chunk("a", "doc", Span(0, 5), "apple", context="mountain"), Chunk("b", "doc", Span(0, 5), "apple", context="valve")]
    reader = index.reader([index.build(np.array([4, 9]), chunks)], np.ones(10, np.bool_))
    assert [int(matches.keys[0]) for matches in reader.search(["valve", "mountain"], 1)] == [9, 4]


def test_the_fingerprint_is_a_stable_name(index: Index) -> None:
    assert index.fingerprint == index.fingerprint and isinstance(index.fingerprint, str) and index.fingerprint


def test_nothing_is_built_from_keys_that_do_not_ascend(index: Index) -> None:
    chunks = [Chunk("a", "doc", Span(0, 1), "a"), Chunk("b", "doc", Span(0, 1), "b")]
    for keys in ([2, 1], [1, 1], [1]):
        with pytest.raises(ValueError):
            index.build(np.array(keys, np.int64), chunks)
