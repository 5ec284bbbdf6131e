"""BM25 against rank-bm25, against itself (two paths, merged, reloaded) and against damaged files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rank_bm25 import BM25Okapi

from rag.core import Chunk, Index, Span
from rag.errors import ConfigError, DamagedIndex, IndexMismatch
from rag.retrievers import posting_merge, posting_score
from rag.retrievers.bm25 import BM25Index, BM25Reader
from rag.retrievers.bm25_segment import BM25Segment, Postings
from rag.retrievers.posting_score import Chooser, Engine, Ranges, Scored, best_by_numba, best_by_numpy

WORDS = [f"w{number}" for number in range(40)]


def texts(count: int, seed: int = 0) -> list[str]:
    """Texts with Zipf words and lengths from 0 to 60."""
    random = np.random.default_rng(seed)
    chance = 1 / np.arange(1, len(WORDS) + 1)
    return [" ".join(random.choice(WORDS, random.integers(0, 60), p=chance / chance.sum())) for _ in range(count)]


def chunks(contents: Sequence[str]) -> list[Chunk]:
    return [Chunk(str(number), "d", Span(0, len(text)), text) for number, text in enumerate(contents)]


def build(index: BM25Index, contents: Sequence[str], first_key: int = 0) -> BM25Segment:
    return index.build(np.arange(first_key, first_key + len(contents)), chunks(contents))


def everything(reader: BM25Reader, query: str) -> dict[int, float]:
    (matches,) = reader.search([query], 1 << 20)
    return dict(zip(matches.keys.tolist(), matches.scores.tolist(), strict=True))


class LuceneOkapi(BM25Okapi):  # type: ignore[misc]
    """rank-bm25 with the idf that is never negative."""

    def _calc_idf(self, nd: dict[str, int]) -> None:
        self.idf = {term: math.log(1 + (self.corpus_size - n + 0.5) / (n + 0.5)) for term, n in nd.items()}


def oracle(index: BM25Index, contents: dict[int, str], query: str, k1: float, b: float) -> dict[int, float]:
    scorer = LuceneOkapi([index.analyser.terms(text) for text in contents.values()], k1=k1, b=b)
    scores = scorer.get_scores(index.analyser.query_terms(query))
    return {key: score for key, score in zip(contents, scores.tolist(), strict=True) if score > 0}


QUERIES = ["w0 w1 w2", "w39", "w5 w5 w5 w7", "w1 nothing", "w3 w30 w31 w32 w33 w34"]


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide:RuntimeWarning")  # rank-bm25: empty text and b = 1
@pytest.mark.parametrize("engine", ["numpy", "numba"])
@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (2.0, 1.0), (1.5, 0.0)])
def test_scores_are_those_of_rank_bm25(engine: Engine, k1: float, b: float) -> None:
    index = BM25Index(k1, b, language="none", engine=engine)
    contents = texts(300)
    parts = [(0, 120), (120, 121), (121, 300)]
    segments = [build(index, contents[start:end], start) for start, end in parts]
    live = np.ones(300, np.bool_)
    for dead in (np.arange(0), np.arange(0, 300, 3)):
        live[dead] = False
        reader = index.reader(segments, live)
        left = {key: contents[key] for key in np.flatnonzero(live).tolist()}
        for query in QUERIES:
            assert everything(reader, query) == pytest.approx(oracle(index, left, query, k1, b), rel=1e-5), query


def test_the_idf_is_what_differs_from_rank_bm25() -> None:
    index = BM25Index(1.5, 0.75, language="none")
    contents = texts(100)
    plain = BM25Okapi([index.analyser.terms(text) for text in contents], k1=1.5, b=0.75)
    holding = sum("w20" in text.split() for text in contents)
    factor = math.log(1 + (100 - holding + 0.5) / (holding + 0.5)) / plain.idf["w20"]
    expected = {key: score * factor for key, score in enumerate(plain.get_scores(["w20"]).tolist()) if score > 0}
    assert expected and everything(index.reader([build(index, contents)], np.ones(100, np.bool_)), "w20") == pytest.approx(expected)


def as_stored(
    ordinals: NDArray[np.int32], counts: NDArray[np.uint8], norms: NDArray[np.float32], keys: NDArray[np.int64]
) -> Scored:
    """Read-only like the arrays of a segment: numba compiles once for all tests."""
    for values in (ordinals, counts, keys):
        values.flags.writeable = False
    return Scored(ordinals, counts, norms, None, keys)


posting_counts = st.lists(st.dictionaries(st.integers(0, 29), st.integers(1, 255), max_size=30), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(
    posting_counts, st.integers(1, 40), st.none() | st.lists(st.booleans(), max_size=70), st.sets(st.integers(0, 29)), st.randoms()
)
def test_numpy_and_numba_are_equal_bit_for_bit(
    terms: list[dict[int, int]], k: int, allow: list[bool] | None, dead: set[int], random: Any
) -> None:
    sizes = np.cumsum([0, *map(len, terms)])
    norms = np.array([np.inf if number in dead else random.choice([0.5, 1.0, 1.7]) for number in range(30)], np.float32)
    segment = as_stored(
        np.array([ordinal for term in terms for ordinal in sorted(term)], np.int32),
        np.array([term[ordinal] for term in terms for ordinal in sorted(term)], np.uint8),
        norms,
        np.arange(30, dtype=np.int64) * 2,
    )
    weights = np.array([random.choice([0.3, 1.0, 2.5]) for _ in terms], np.float32)
    ranges = Ranges(sizes[:-1].copy(), sizes[1:].copy(), weights, np.array([0, len(terms) // 2, len(terms)]))
    mask = None if allow is None else np.array(allow, np.bool_)
    slow, fast = best_by_numpy(segment, ranges, k, mask), best_by_numba(segment, ranges, k, mask)
    assert slow.found.tolist() == fast.found.tolist()
    for query, found in enumerate(slow.found):
        assert slow.ordinals[query, :found].tolist() == fast.ordinals[query, :found].tolist()
        assert slow.scores[query, :found].tolist() == fast.scores[query, :found].tolist()
        pairs = list(zip(-slow.scores[query, :found], slow.ordinals[query, :found], strict=True))
        assert pairs == sorted(pairs)
        assert not dead & set(slow.ordinals[query, :found].tolist())


@pytest.mark.parametrize("seed", range(8))
def test_windows_change_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting_score, "WINDOW_CHUNKS", (128, 1024, 1 << 13)[seed % 3])
    random = np.random.default_rng(seed)
    num_chunks = 3000
    norms = random.choice(np.array([0.4, 1.1, 2.0], np.float32), num_chunks)  # few lengths make many ties
    norms[random.random(num_chunks) < 0.1] = np.inf
    sizes = [8, 20, 60, 900, 2900, 5, 30, 100, 200, 1500, 12, 2000, 2500, 3000]
    postings = [np.sort(random.choice(num_chunks, size, replace=False)) for size in sizes]
    starts = np.cumsum([0, *sizes])
    segment = as_stored(
        np.concatenate(postings).astype(np.int32),
        random.geometric(0.6, starts[-1]).astype(np.uint8),
        norms,
        np.arange(num_chunks, dtype=np.int64),
    )
    weights = np.array([2.2 * math.log1p((num_chunks - size + 0.5) / (size + 0.5)) for size in sizes], np.float32)
    ranges = Ranges(starts[:-1], starts[1:], weights, np.array([0, 3, 5, 10, 14]))  # the first has few postings
    for k in (1, 10, 400):
        for allow in (None, random.random(num_chunks) < 0.2):
            slow, fast = best_by_numpy(segment, ranges, k, allow), best_by_numba(segment, ranges, k, allow)
            assert slow.found.tolist() == fast.found.tolist()
            for query, found in enumerate(slow.found):
                assert np.array_equal(slow.ordinals[query, :found], fast.ordinals[query, :found])
                assert np.array_equal(slow.scores[query, :found], fast.scores[query, :found])


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_ties_filters_and_repeats(engine: Engine) -> None:
    index = BM25Index(engine=engine)
    segments = [build(index, ["red apple"] * 5, 0), build(index, ["red apple"] * 5 + ["green pear"], 5)]
    reader = index.reader(segments, np.ones(11, np.bool_))
    (matches,) = reader.search(["apples"], 7)
    assert matches.keys.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert matches.keys.dtype == np.int64 and matches.scores.dtype == np.float32
    allow = np.zeros(9, np.bool_)
    allow[[3, 7, 8]] = True
    assert [found.keys.tolist() for found in reader.search(["apple", "pear", "", "plum"], 2, allow)] == [[3, 7], [], [], []]
    once, twice = everything(reader, "apple pear"), everything(reader, "apple pear pear")
    assert twice[10] == pytest.approx(2 * once[10]) and twice[0] == once[0]
    assert reader.search([], 3) == []


def test_filters_come_before_the_top_k() -> None:
    index = BM25Index()
    reader = index.reader([build(index, ["fox fox fox"] * 50 + ["a fox and a dog and a bird"])], np.ones(51, np.bool_))
    allow = np.arange(51) == 50
    assert reader.search(["fox"], 1, allow)[0].keys.tolist() == [50]


def test_stop_words_in_queries() -> None:
    index = BM25Index()
    reader = index.reader([build(index, ["to be or not to be", "the cat and the hat"])], np.ones(2, np.bool_))
    assert list(everything(reader, "not to be")) == [0]
    assert list(everything(reader, "what is a cat to be")) == [1]


def test_context_is_indexed() -> None:
    index = BM25Index()
    segment = index.build(np.array([4]), [Chunk("c", "d", Span(0, 4), "body", "Heading")])
    assert list(everything(index.reader([segment], np.ones(5, np.bool_)), "heading")) == [4]


def same(one: BM25Segment, other: BM25Segment) -> bool:
    pairs = [(getattr(one.postings, name), getattr(other.postings, name)) for name in Postings._fields]
    return all(ours.dtype == theirs.dtype and np.array_equal(ours, theirs) for ours, theirs in pairs)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.text("abcé 東", max_size=300)), max_size=40), st.integers(1, 50))
def test_a_merge_is_a_fresh_build(contents: list[tuple[int, bool, str]], block: int) -> None:
    index = BM25Index(language="none")
    keys = np.arange(len(contents)) * 3 + 1
    live = np.zeros(3 * len(contents), np.bool_)  # shorter than the last key + 1 at times, which means dead
    live[keys[[place for place, (_, alive, _) in enumerate(contents) if alive]]] = True
    parts = []
    for part in range(3):
        mine = [place for place, (owner, _, _) in enumerate(contents) if owner == part]
        parts.append(index.build(keys[mine], chunks([contents[place][2] for place in mine])))
    left = [place for place, (_, alive, _) in enumerate(contents) if alive]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posting_merge, "_MERGE_POSTINGS", block)
        patch.setattr(posting_merge, "_MAX_BYTES_IN_MEMORY", block)
        merged = index.merge(parts, live)
    assert same(merged, index.build(keys[left], chunks([contents[place][2] for place in left])))


def test_counts_take_the_narrowest_type() -> None:
    index = BM25Index(language="none")
    segments = [build(index, ["x " * repeats], key) for key, repeats in enumerate((255, 256, 65536))]
    assert [segment.postings.counts.dtype for segment in segments] == [np.uint8, np.uint16, np.int32]
    live = np.ones(3, np.bool_)
    assert index.merge(segments, live).postings.counts.tolist() == [255, 256, 65536]
    live[2] = False
    assert index.merge(segments, live).postings.counts.dtype == np.uint16
    assert len(everything(index.reader(segments, live), "x")) == 2


def test_a_reloaded_segment_answers_alike(tmp_path: Path) -> None:
    index = BM25Index()
    segment = build(index, texts(200))
    segment.save(tmp_path)
    loaded = index.load(tmp_path)
    assert same(segment, loaded) and loaded.fingerprint == index.fingerprint
    assert not loaded.postings.ordinals.flags.writeable and isinstance(loaded.postings.ordinals.base, np.memmap)
    live = np.ones(200, np.bool_)
    for query in QUERIES:
        assert everything(index.reader([loaded], live), query) == everything(index.reader([segment], live), query)


def test_terms_that_begin_alike_are_told_apart() -> None:
    index = BM25Index(language="none")
    words = [f"international{number}" for number in range(50)] + ["internat", "interna", "internati", "東京都庁舎前駅"]
    segment = build(index, words)
    reader = index.reader([segment], np.ones(len(words), np.bool_))
    assert [matches.keys.tolist() for matches in reader.search(words[:-1], 5)] == [[key] for key in range(len(words) - 1)]
    assert all(segment.row(segment.term(row)) == row for row in range(segment.num_terms))
    for absent in ("international", "internationalz", "int", "zzz", "\U0010ffff"):
        assert segment.row(absent.encode()) == -1


def test_nothing_to_search(tmp_path: Path) -> None:
    index = BM25Index()
    empty = build(index, [])
    empty.save(tmp_path)
    for segments in ([], [empty], [index.load(tmp_path)], [build(index, ["", "..."])]):
        assert everything(index.reader(segments, np.ones(2, np.bool_)), "word") == {}
    assert everything(index.reader([build(index, ["word"])], np.zeros(0, np.bool_)), "word") == {}
    assert index.merge([], np.zeros(0, np.bool_)).num_chunks == 0


@pytest.mark.parametrize("name", Postings._fields)
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    index = BM25Index()
    build(index, texts(50)).save(tmp_path)
    path = tmp_path / f"{name}.npy"
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:40], b"", b"junk" * 40):
        path.write_bytes(damaged)
        with pytest.raises(DamagedIndex, match=name):
            index.load(tmp_path)
    path.write_bytes(whole)
    values = np.load(path)
    np.save(path, values[:-1])
    with pytest.raises(DamagedIndex, match=name):
        index.load(tmp_path)
    if name not in ("term_bytes", "ordinals", "counts", "lengths"):  # their content cannot be checked without reading it all
        np.save(path, values[::-1].copy())
        with pytest.raises(DamagedIndex, match=name):
            index.load(tmp_path)
    path.unlink()
    with pytest.raises(DamagedIndex, match=name):
        index.load(tmp_path)


def test_damaged_and_foreign_manifests(tmp_path: Path) -> None:
    index = BM25Index()
    build(index, ["word"]).save(tmp_path)
    with pytest.raises(IndexMismatch, match="german"):
        BM25Index(language="german").load(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(IndexMismatch, match="99"):
        index.load(tmp_path)
    for content in ("{", "[]", "{}", "null", "\udcff"):
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
        with pytest.raises(DamagedIndex, match="manifest"):
            index.load(tmp_path)
    path.unlink()
    with pytest.raises(DamagedIndex, match="manifest"):
        index.load(tmp_path)


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_ordinals_out_of_range_are_skipped(tmp_path: Path, engine: Engine) -> None:
    index = BM25Index(engine=engine)
    build(index, ["fox", "fox", "fox"]).save(tmp_path)
    np.save(tmp_path / "ordinals.npy", np.array([0, -7, 1 << 30], np.int32))
    assert list(everything(index.reader([index.load(tmp_path)], np.ones(3, np.bool_)), "fox")) == [0]


def test_large_batches_are_shared_between_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = texts(400)
    live = np.ones(400, np.bool_)
    queries = [f"w{number % 40} w{number % 7}" for number in range(60)]
    alone = BM25Index(engine="numpy")
    expected = alone.reader([build(alone, contents)], live).search(queries, 5)
    monkeypatch.setattr("rag.retrievers.posting_search._POSTINGS_PER_THREAD", 100)
    index = BM25Index(engine="numba", num_threads=3)
    reader = index.reader([build(index, contents[:150]), build(index, contents[150:], 150)], live)
    found = reader.search(queries, 5)
    assert [matches.keys.tolist() for matches in found] == [matches.keys.tolist() for matches in expected]


def test_the_choice_and_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_args(Engine) == posting_score.ENGINES
    monkeypatch.setattr(posting_score, "NUMBA_LOAD_POSTINGS", 10)
    monkeypatch.setattr(posting_score, "NUMBA_READY_POSTINGS", 10)
    chooser = Chooser()
    assert [chooser.choose(5).engine for _ in range(3)] == ["numpy", "numpy", "numba"]
    assert chooser.now().why == "15 postings asked for so far, numba pays from 10 on"
    assert Chooser("numba").now().engine == "numba" and Chooser("numpy").choose(1 << 40).engine == "numpy"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert Chooser("numba").now() == ("numpy", "numba is not installed")
    assert BM25Index(engine="numpy").explain() == "numpy: engine is 'numpy'"


def test_numba_without_a_place_for_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    compile_loops = numba.njit

    def read_only(**options: Any) -> Any:
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return compile_loops(**options)

    monkeypatch.setattr(numba, "njit", read_only)
    assert callable(posting_score._compiled.__wrapped__())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": -1}, "k1.*-1"),
        ({"k1": math.nan}, "k1.*nan"),
        ({"b": 1.5}, "b must.*1.5"),
        ({"engine": "gpu"}, "'gpu'.*auto, numpy, numba"),
        ({"language": "klingon"}, "klingon"),
        ({"num_threads": -2}, "-2"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BM25Index(**options)


def test_bad_calls_are_refused() -> None:
    index: Index = BM25Index()
    segment = index.build(np.array([1]), chunks(["word"]))
    with pytest.raises(ValueError, match="k must be"):
        index.reader([segment], np.ones(2, np.bool_)).search(["word"], 0)
    for keys in ([2, 1], [1, 1], [-1, 0], [1]):
        with pytest.raises(ValueError, match="ascending"):
            index.build(np.array(keys), chunks(["a", "b"]))
    with pytest.raises(ValueError, match="two of the segments"):
        index.merge([segment, segment], np.ones(2, np.bool_))
