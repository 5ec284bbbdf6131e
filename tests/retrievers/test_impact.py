"""Impact postings against a plain sum, against themselves (two paths, merged, reloaded), damaged files and bad encoders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag.core import Chunk, Facts, Index, Matches, Span, SparseVectors
from rag.errors import ConfigError, DamagedIndex, IndexMismatch, ModelError
from rag.retrievers import posting_merge
from rag.retrievers.impact import ImpactIndex
from rag.retrievers.impact_segment import Impacts, ImpactSegment, Store
from rag.retrievers.posting_score import Engine
from rag.retrievers.sparse_vectors import checked
from tests.fakes import HashingSparseEncoder, sparse_vectors

Row = dict[int, float]  # term id -> weight
NUM_TERMS = 50


class Told:
    """An encoder whose texts are the JSON of their terms and weights."""

    num_terms = NUM_TERMS

    def __init__(self, *, binary: bool = False, fingerprint: str = "told") -> None:
        self.binary = binary
        self.fingerprint = fingerprint

    def encode_documents(self, texts: Sequence[str]) -> SparseVectors:
        return sparse_vectors([sorted((int(term), float(weight)) for term, weight in json.loads(text).items()) for text in texts])

    encode_queries = encode_documents


class Giving(Told):
    """An encoder that gives the same whatever it is asked."""

    def __init__(self, given: SparseVectors, *, binary: bool = False) -> None:
        super().__init__(binary=binary)
        self.given = given

    def encode_documents(self, texts: Sequence[str]) -> SparseVectors:
        return self.given

    encode_queries = encode_documents


def chunks(rows: Sequence[Row]) -> list[Chunk]:
    texts = [json.dumps(row) for row in rows]
    return [Chunk(str(number), "d", Span(0, len(text)), text) for number, text in enumerate(texts)]


def build(index: ImpactIndex, rows: Sequence[Row], first_key: int = 0) -> ImpactSegment:
    return index.build(np.arange(first_key, first_key + len(rows)), chunks(rows))


def ask(index: ImpactIndex, segments: Sequence[ImpactSegment], queries: Sequence[Row], k: int, **options: Any) -> list[Matches]:
    live = options.pop("live", np.ones(1000, np.bool_))
    return index.reader(segments, live).search([json.dumps(query) for query in queries], k, **options)


def stored(row: Row, store: Store, binary: bool) -> tuple[np.float32, dict[int, np.float32]]:
    """Scale and impacts of a chunk, worked out term by term."""
    weights = {term: np.float32(weight) for term, weight in row.items() if np.float32(weight) > 0}
    if binary:
        return np.float32(next(iter(weights.values()), 1)), dict.fromkeys(weights, np.float32(1))
    if store == "float32" or not weights:
        return np.float32(1), weights
    scale = max(max(weights.values()) / np.float32(255), np.finfo(np.float32).tiny)  # a step is never a subnormal number
    return scale, {term: np.float32(max(1, round(float(weight) / float(scale)))) for term, weight in weights.items()}


def oracle(rows: dict[int, Row], query: Row, k: int, store: Store = "uint8", binary: bool = False) -> list[tuple[int, float]]:
    """Keys and scores of the best ``k``, in float32 and in the order of term ids."""
    found = []
    for key, row in rows.items():
        scale, impacts = stored(row, store, binary)
        score = np.float32(0)
        for term in sorted(query):
            if term in impacts and query[term] > 0:
                score += np.float32(query[term]) * impacts[term]
        if score * scale > 0:
            found.append((key, float(score * scale)))
    return sorted(found, key=lambda pair: (-pair[1], pair[0]))[:k]


def pairs(matches: Matches) -> list[tuple[int, float]]:
    return list(zip(matches.keys.tolist(), matches.scores.tolist(), strict=True))


WEIGHT = st.sampled_from([0.0, 0.01, 0.3, 0.5, 1.0, 1.7, 3.25]) | st.floats(0.0, 4.0, width=32, allow_subnormal=False)
ROW = st.dictionaries(st.integers(0, NUM_TERMS - 1), WEIGHT, max_size=12)
ROWS = st.lists(ROW, max_size=25)
FLAT_ROWS = st.lists(
    st.tuples(st.sets(st.integers(0, NUM_TERMS - 1), max_size=12), st.sampled_from([0.25, 0.5, 1.0])), max_size=25
).map(lambda each: [dict.fromkeys(terms, weight) for terms, weight in each])


@pytest.mark.parametrize("engine", ["numpy", "numba"])
@pytest.mark.parametrize("store", ["uint8", "float32"])
@settings(deadline=None, max_examples=60)
@given(
    rows=ROWS,
    queries=st.lists(ROW, min_size=1, max_size=4),
    k=st.integers(1, 12),
    cut=st.integers(0, 25),
    dead=st.sets(st.integers(0, 24)),
)
def test_scores_are_those_of_a_plain_sum(
    engine: Engine, store: Store, rows: list[Row], queries: list[Row], k: int, cut: int, dead: set[int]
) -> None:
    index = ImpactIndex(Told(), store, engine=engine)
    segments = [build(index, rows[:cut]), build(index, rows[cut:], min(cut, len(rows)))]
    live = np.array([key not in dead for key in range(30)])
    left = {key: row for key, row in enumerate(rows) if key not in dead}
    for query, found in zip(queries, ask(index, segments, queries, k, live=live), strict=True):
        assert pairs(found) == oracle(left, query, k, store)
    allow = np.arange(22) % 3 == 0
    kept = {key: row for key, row in left.items() if key < len(allow) and allow[key]}
    for query, found in zip(queries, ask(index, segments, queries, k, live=live, allow=allow), strict=True):
        assert pairs(found) == oracle(kept, query, k, store)


@pytest.mark.parametrize("engine", ["numpy", "numba"])
@settings(deadline=None, max_examples=40)
@given(rows=FLAT_ROWS, query=ROW, k=st.integers(1, 12))
def test_binary_codes_store_one_weight_per_chunk(engine: Engine, rows: list[Row], query: Row, k: int) -> None:
    index = ImpactIndex(Told(binary=True), idf=False, engine=engine)
    segment = build(index, rows)
    assert len(segment.arrays.impacts) == 0
    (found,) = ask(index, [segment], [query], k)
    assert pairs(found) == oracle(dict(enumerate(rows)), query, k, binary=True)


def test_the_two_engines_agree_on_many_chunks() -> None:
    random = np.random.default_rng(0)
    rows = [
        dict(zip(random.choice(50, 20, replace=False).tolist(), random.lognormal(0, 0.6, 20).tolist(), strict=True))
        for _ in range(900)
    ]
    queries = [dict(zip(random.choice(50, 9, replace=False).tolist(), random.random(9).tolist(), strict=True)) for _ in range(5)]
    slow, fast = (ImpactIndex(Told(), engine=engine) for engine in ("numpy", "numba"))
    allow = random.random(900) < 0.5
    for k in (1, 10, 300):
        for options in ({}, {"allow": allow}, {"live": allow}):
            for one, other in zip(
                ask(slow, [build(slow, rows)], queries, k, **options),
                ask(fast, [build(fast, rows)], queries, k, **options),
                strict=True,
            ):
                assert len(one.keys) == min(k, len(one.keys)) and pairs(one) == pairs(other)


@pytest.mark.parametrize("idf", [True, None])
def test_idf_is_that_of_the_live_chunks(idf: bool | None) -> None:
    encoder = Told(binary=True)
    index, plain = ImpactIndex(encoder, idf=idf), ImpactIndex(encoder, idf=False)
    rows: list[Row] = [{1: 1.0}, {1: 1.0, 2: 1.0}, {1: 1.0}, {1: 1.0, 2: 1.0}, {3: 1.0}]
    segments = [build(index, rows[:2]), build(index, rows[2:], 2)]
    live = np.array([True, True, False, True, True])
    (found,) = ask(index, segments, [{1: 1.0, 2: 2.0}], 9, live=live)
    one, two = np.log1p((4 - 3 + 0.5) / (3 + 0.5)), 2 * np.log1p((4 - 2 + 0.5) / (2 + 0.5))
    assert found.keys.tolist() == [1, 3, 0]
    assert found.scores.tolist() == pytest.approx([one + two, one + two, one])
    (without,) = ask(plain, segments, [{1: 1.0, 2: 2.0}], 9, live=live)
    assert without.scores.tolist() == [3.0, 3.0, 1.0]
    assert index.fingerprint == plain.fingerprint  # it changes nothing that is stored


def test_a_weight_is_off_by_half_a_step_of_its_own_chunk() -> None:
    random = np.random.default_rng(1)
    rows = [{term: float(weight) for term, weight in enumerate(random.lognormal(0, 1, 40))} for _ in range(50)]
    arrays = build(ImpactIndex(Told()), rows).arrays
    for row, term in enumerate(arrays.terms.tolist()):
        part = slice(arrays.posting_starts[row], arrays.posting_starts[row + 1])
        ordinals = arrays.ordinals[part]
        exact = np.array([rows[ordinal][term] for ordinal in ordinals.tolist()])
        off = np.abs(arrays.impacts[part] * arrays.scales[ordinals] - exact)
        low = arrays.impacts[part] == 1
        assert (off[~low] <= arrays.scales[ordinals][~low] * 0.5001).all() and (off <= arrays.scales[ordinals]).all()
    assert arrays.impacts.dtype == np.uint8 and arrays.impacts.max() == 255


def same(one: ImpactSegment, other: ImpactSegment) -> bool:
    pairs: list[tuple[NDArray[Any], NDArray[Any]]] = [
        (getattr(one.arrays, name), getattr(other.arrays, name)) for name in Impacts._fields
    ]
    return all(ours.dtype == theirs.dtype and np.array_equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.parametrize(("store", "binary"), [("uint8", False), ("float32", False), ("uint8", True)])
@settings(deadline=None, max_examples=40)
@given(
    plain=ROWS, flat=FLAT_ROWS, owners=st.lists(st.integers(0, 2), min_size=25, max_size=25),
    dead=st.sets(st.integers(0, 24)), block=st.integers(1, 50),
)  # fmt: skip
def test_a_merge_is_a_fresh_build(
    store: Store, binary: bool, plain: list[Row], flat: list[Row], owners: list[int], dead: set[int], block: int
) -> None:
    rows = flat if binary else plain
    index = ImpactIndex(Told(binary=binary), store)
    keys = np.arange(len(rows)) * 3 + 1
    live = np.zeros(3 * len(rows), np.bool_)
    live[[int(key) for place, key in enumerate(keys) if place not in dead]] = True
    parts = []
    for part in range(3):
        mine = [place for place in range(len(rows)) if owners[place] == part]
        parts.append(index.build(keys[mine], chunks([rows[place] for place in mine])))
    left = [place for place in range(len(rows)) if place not in dead]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posting_merge, "_MERGE_POSTINGS", block)
        patch.setattr(posting_merge, "_MAX_BYTES_IN_MEMORY", block)
        merged = index.merge(parts, live)
    fresh = index.build(keys[left], chunks([rows[place] for place in left]))
    assert same(merged, fresh) or not fresh.num_postings and np.array_equal(merged.keys, fresh.keys)


def some_rows(count: int = 60) -> list[Row]:
    random = np.random.default_rng(2)
    return [
        {term: float(random.random() + 0.1) for term in random.choice(NUM_TERMS, 8, replace=False).tolist()} for _ in range(count)
    ]


@pytest.mark.parametrize("binary", [False, True])
def test_a_reloaded_segment_answers_alike(tmp_path: Path, binary: bool) -> None:
    rows = [dict.fromkeys(row, 0.5) for row in some_rows()] if binary else some_rows()
    index = ImpactIndex(Told(binary=binary))
    segment = build(index, rows)
    segment.save(tmp_path)
    loaded = index.load(tmp_path)
    assert same(segment, loaded) and loaded.fingerprint == index.fingerprint
    assert not loaded.arrays.ordinals.flags.writeable and isinstance(loaded.arrays.ordinals.base, np.memmap)
    assert [pairs(found) for found in ask(index, [loaded], rows[:3], 9)] == [
        pairs(found) for found in ask(index, [segment], rows[:3], 9)
    ]


@pytest.mark.parametrize("name", Impacts._fields)
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    index = ImpactIndex(Told())
    build(index, some_rows()).save(tmp_path)
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
    if name not in ("ordinals", "impacts"):  # their content cannot be checked without reading it all
        np.save(path, -values[::-1].copy())
        with pytest.raises(DamagedIndex, match=name):
            index.load(tmp_path)
    path.unlink()
    with pytest.raises(DamagedIndex, match=name):
        index.load(tmp_path)


def test_damaged_and_foreign_manifests(tmp_path: Path) -> None:
    index = ImpactIndex(Told())
    segment = build(index, some_rows(3))
    segment.save(tmp_path)
    for other in (ImpactIndex(Told(fingerprint="another")), ImpactIndex(Told(), "float32"), ImpactIndex(Told(binary=True))):
        with pytest.raises(IndexMismatch, match=index.fingerprint):
            other.load(tmp_path)
        with pytest.raises(IndexMismatch, match="another encoder"):
            other.reader([segment], np.ones(3, np.bool_))
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(IndexMismatch, match="99"):
        index.load(tmp_path)
    path.write_text(json.dumps({**manifest, "kind": "bm25"}))
    with pytest.raises(IndexMismatch, match="'bm25'"):
        index.load(tmp_path)
    for content in ("{", "[]", "{}", "null"):
        path.write_text(content)
        with pytest.raises(DamagedIndex, match="manifest"):
            index.load(tmp_path)


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_ordinals_out_of_range_are_skipped(tmp_path: Path, engine: Engine) -> None:
    index = ImpactIndex(Told(), engine=engine)
    build(index, [{1: 1.0}, {1: 1.0}, {1: 1.0}]).save(tmp_path)
    np.save(tmp_path / "ordinals.npy", np.array([0, -7, 1 << 30], np.int32))
    assert ask(index, [index.load(tmp_path)], [{1: 1.0}], 5)[0].keys.tolist() == [0]


def rows_of(*rows: Row) -> SparseVectors:
    return sparse_vectors([list(row.items()) for row in rows])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (rows_of({1: float("nan")}), "Giving gave the weight nan to term 1; allowed: 0 to 1e"),
        (rows_of({4: -0.5}), "the weight -0.5 to term 4; allowed: 0 to"),
        (rows_of({4: float("inf")}), "the weight inf to term 4; allowed: 0 to"),
        (rows_of({4: 1e12}), "to term 4; allowed: 0 to"),
        (rows_of({NUM_TERMS: 1.0}), "the term id 50; allowed: 0 to 49"),
        (rows_of({-1: 1.0}), "the term id -1; allowed: 0 to 49"),
        (rows_of({3: 1.0, 2: 1.0}), "term 2 after term 3 of one text; allowed: ascending"),
        (SparseVectors(np.array([0, 2]), np.array([3, 3], np.int32), np.ones(2, np.float32)), "term 3 after term 3"),
        (rows_of({3: 1.0}, {2: 1.0}), "for 1 texts and 2 terms; allowed: one row per text"),
        (SparseVectors(np.array([0, 1]), np.array([3], np.int32), np.ones(2, np.float32)), "one weight per term id"),
    ],
)
def test_what_no_index_can_hold_is_refused(given: SparseVectors, message: str) -> None:
    index = ImpactIndex(Giving(given))
    with pytest.raises(ModelError, match=message):
        build(index, [{}])
    with pytest.raises(ModelError, match=message):
        ask(index, [build(ImpactIndex(Told()), [{1: 1.0}])], [{}], 3)


def test_a_binary_encoder_must_be_one() -> None:
    with pytest.raises(ModelError, match="binary but gave the weights 1.0 and 0.5 to one text; allowed: one weight"):
        build(ImpactIndex(Giving(rows_of({1: 1.0, 2: 0.5}), binary=True)), [{}])


def test_rows_that_start_where_another_ends_are_told_apart() -> None:
    found = checked(rows_of({}, {7: 1.0, 9: 0.0}, {}, {2: 1.0, 7: 2.0}, {}), 5, Told(), binary=False)
    assert found.starts.tolist() == [0, 0, 1, 1, 3, 3]
    assert found.term_ids.tolist() == [7, 2, 7] and found.weights.tolist() == [1.0, 1.0, 2.0]


def test_texts_without_terms_are_kept_and_not_found(tmp_path: Path) -> None:
    index = ImpactIndex(Told())
    cases: list[list[Row]] = [[{}], [{}, {1: 1.0}, {}]]
    for rows in cases:
        segment = build(index, rows)
        folder = tmp_path / str(len(rows))
        folder.mkdir()
        segment.save(folder)
        for each in (segment, index.load(folder), index.merge([segment], np.ones(3, np.bool_))):
            assert each.keys.tolist() == list(range(len(rows)))
            found = ask(index, [each], [{}, {1: 2.0}, {3: 1.0}], 5)
            assert [matches.keys.tolist() for matches in found] == [[], [1] if len(rows) > 1 else [], []]


def test_large_batches_are_shared_between_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = some_rows(200)
    alone = ImpactIndex(Told(), engine="numpy")
    expected = [pairs(found) for found in ask(alone, [build(alone, rows)], rows[:50], 5)]
    monkeypatch.setattr("rag.retrievers.posting_search._POSTINGS_PER_THREAD", 100)
    index = ImpactIndex(Told(), engine="numba", num_threads=3)
    found = ask(index, [build(index, rows[:90]), build(index, rows[90:], 90)], rows[:50], 5)
    assert [pairs(matches) for matches in found] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store": "int4"}, "'int4'.*uint8, float32"),
        ({"engine": "gpu"}, "'gpu'.*auto, numpy, numba"),
        ({"num_threads": -2}, "-2"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImpactIndex(HashingSparseEncoder(), **options)


def test_bad_calls_are_refused() -> None:
    index = ImpactIndex(HashingSparseEncoder(), engine="numpy")
    as_index: Index = index
    segment = as_index.build(np.array([1]), [Chunk("1", "d", Span(0, 4), "word")])
    with pytest.raises(ValueError, match="k must be"):
        as_index.reader([segment], np.ones(2, np.bool_)).search(["word"], 0)
    for keys in ([2, 1], [1, 1], [-1, 0], [1]):
        with pytest.raises(ValueError, match="ascending"):
            build_two: NDArray[np.int64] = np.array(keys)
            index.build(build_two, [Chunk("1", "d", Span(0, 4), "word")] * 2)
    with pytest.raises(ValueError, match="two of the segments"):
        index.merge([segment, segment], np.ones(2, np.bool_))
    with pytest.raises(ValueError, match="takes impact segments, got Foreign"):
        as_index.merge([Foreign()], np.ones(2, np.bool_))
    assert index.explain() == "numpy: engine is 'numpy'"


class Foreign:
    keys = np.zeros(0, np.int64)

    def save(self, folder: Path) -> None:
        raise NotImplementedError

    def facts(self) -> Facts:
        raise NotImplementedError
