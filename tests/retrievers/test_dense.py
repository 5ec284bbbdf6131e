"""Dense search: exact against sorting, graphs against exact, files against damage. The laws of every index are in tests/contract."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag.core import Chunk, Matches, Span
from rag.errors import ConfigError, DamagedIndex, IndexMismatch
from rag.retrievers.dense import FaissIndex
from rag.retrievers.dense_graph import build_graph, write_graph
from rag.retrievers.dense_search import search_exact, search_reference
from rag.retrievers.dense_segment import Store

DIM = 16


class VectorEncoder:
    """The vector of ``"7"`` is row 7 of a fixed table: tests choose the geometry, no model is needed."""

    def __init__(self, table: NDArray[np.float32], name: str = "table") -> None:
        self.table = table
        self.dim = table.shape[1]
        self.fingerprint = name
        self.num_calls = 0

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows: NDArray[np.float32] = self.table[[int(text) for text in texts]]
        return rows

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.num_calls += 1
        return self.encode_documents(texts)


def unit_rows(num: int, seed: int = 0, dim: int = DIM) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((num, dim))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def chunks(numbers: Sequence[int]) -> list[Chunk]:
    return [Chunk(f"c{n}", "doc", Span(0, len(str(n))), str(n)) for n in numbers]


def same(found: Sequence[Matches], wanted: Sequence[Matches]) -> None:
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(mine.keys, theirs.keys)
        np.testing.assert_array_equal(mine.scores, theirs.scores)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 5), st.integers(0, 99), st.sampled_from([None, 0.05, 0.4, 0.9]))
def test_exact_search_is_the_sorted_reference(num_rows: int, k: int, num_queries: int, seed: int, share: float | None) -> None:
    vectors = unit_rows(num_rows, seed)
    vectors[num_rows // 2 :] = vectors[: num_rows - num_rows // 2]  # equal rows: ties must go to the first
    allowed = None if share is None else np.random.default_rng(seed).random(num_rows) < share
    queries = unit_rows(num_queries, seed + 1)
    for found, wanted in zip(
        search_exact(vectors, queries, k, allowed), search_reference(vectors, queries, k, allowed), strict=True
    ):
        np.testing.assert_array_equal(found.rows, wanted.rows)
        np.testing.assert_array_equal(found.scores, wanted.scores)


def test_blocks_meet_at_their_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = unit_rows(500), unit_rows(7, 1)
    wanted = search_reference(vectors, queries, 20)
    monkeypatch.setattr("rag.retrievers.dense_search._BLOCK_ROWS", 33)
    monkeypatch.setattr("rag.retrievers.dense_search._SCORES_AT_A_TIME", 1001)
    for found, reference in zip(search_exact(vectors, queries, 20), wanted, strict=True):
        np.testing.assert_array_equal(found.rows, reference.rows)


@pytest.fixture(scope="module")
def table() -> NDArray[np.float32]:
    centres = unit_rows(40, 3)
    rows = centres[np.random.default_rng(4).integers(0, 40, 3000)] + 0.6 * unit_rows(3000, 5)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def exact(table: NDArray[np.float32]) -> Callable[..., list[Matches]]:
    index = FaissIndex(VectorEncoder(table))
    segment = index.build(np.arange(2900), chunks(range(2900)))

    def search(k: int = 10, allow: NDArray[np.bool_] | None = None, live: NDArray[np.bool_] | None = None) -> list[Matches]:
        reader = index.reader([segment], np.ones(2900, np.bool_) if live is None else live)
        return reader.search([str(n) for n in range(2900, 2960)], k, allow)

    return search


@pytest.mark.parametrize("ivf", [False, True])
def test_a_graph_finds_what_exact_search_finds(
    table: NDArray[np.float32], exact: Callable[..., list[Matches]], tmp_path: Path, ivf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ivf:
        monkeypatch.setattr("rag.retrievers.dense_graph.IVF_FROM_ROWS", 1000)
    index = FaissIndex(VectorEncoder(table), exact_below=100)
    built = index.build(np.arange(2900), chunks(range(2900)))
    assert built.recipe == ("IVF215,SQ8" if ivf else "HNSW32_SQ8") and built.graph.ntotal == 2900
    built.save(tmp_path)
    rng = np.random.default_rng(0)
    live = rng.random(2900) < 0.8
    queries = [str(n) for n in range(2900, 2960)]
    for segment in (built, index.load(tmp_path)):
        for allow in (None, rng.random(2900) < 0.3, rng.random(2900) < 0.01, np.zeros(2900, np.bool_)):
            found = index.reader([segment], live).search(queries, 10, allow)
            wanted = exact(10, allow, live)
            shared = sum(len(np.intersect1d(mine.keys, theirs.keys)) for mine, theirs in zip(found, wanted, strict=True))
            total = sum(len(theirs.keys) for theirs in wanted)
            assert [len(mine.keys) for mine in found] == [len(theirs.keys) for theirs in wanted]
            assert shared >= (0.9 if ivf else 0.97) * total
            for mine in found:
                assert live[mine.keys].all() and (allow is None or allow[mine.keys].all())
                assert np.all(np.diff(mine.scores) <= 0)


def test_few_allowed_rows_are_searched_exactly(table: NDArray[np.float32], exact: Callable[..., list[Matches]]) -> None:
    index = FaissIndex(VectorEncoder(table), exact_below=100)
    live = np.ones(2900, np.bool_)
    reader = index.reader([index.build(np.arange(2900), chunks(range(2900)))], live)
    allow = np.zeros(2900, np.bool_)
    allow[np.random.default_rng(1).permutation(2900)[:90]] = True
    same(reader.search([str(n) for n in range(2900, 2960)], 10, allow), exact(10, allow))
    assert all(len(matches.keys) == 90 for matches in reader.search(["2900", "2950"], 200, allow))


def test_a_walk_that_ends_in_a_corner_is_finished_exactly(
    table: NDArray[np.float32], exact: Callable[..., list[Matches]], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = FaissIndex(VectorEncoder(table), exact_below=100)
    reader = index.reader([index.build(np.arange(2900), chunks(range(2900)))], np.ones(2900, np.bool_))

    def lost(graph: object, queries: NDArray[np.float32], num: int, *_: object) -> NDArray[np.int64]:
        rows = np.full((len(queries), num), -1)
        rows[:, :9] = np.arange(9)
        return rows

    monkeypatch.setattr("rag.retrievers.dense_graph.candidates", lost)
    same(reader.search([str(n) for n in range(2900, 2960)], 10), exact())


def test_a_merged_graph_is_built_when_it_is_saved(
    table: NDArray[np.float32], exact: Callable[..., list[Matches]], tmp_path: Path
) -> None:
    encoder = VectorEncoder(table)
    index = FaissIndex(encoder, exact_below=100)
    numbers = np.arange(2900)
    parts = [index.build(numbers[start::3], chunks(numbers[start::3].tolist())) for start in range(3)]
    live = np.ones(2900, np.bool_)
    merged = index.merge(parts, live)
    same(index.reader([merged], live).search([str(n) for n in range(2900, 2960)], 10), exact())
    merged.save(tmp_path)
    loaded = index.load(tmp_path)
    assert loaded.graph.ntotal == 2900
    np.testing.assert_array_equal(loaded.vectors[:], table[:2900])
    found = index.reader([loaded], live).search([str(n) for n in range(2900, 2960)], 10)
    assert np.mean([np.isin(mine.keys, theirs.keys).mean() for mine, theirs in zip(found, exact(), strict=True)]) > 0.97


def test_float16_halves_the_file_and_hardly_moves_a_score(
    table: NDArray[np.float32], exact: Callable[..., list[Matches]], tmp_path: Path
) -> None:
    index = FaissIndex(VectorEncoder(table), store="float16")
    index.build(np.arange(2900), chunks(range(2900))).save(tmp_path)
    assert (tmp_path / "vectors.npy").stat().st_size == 2900 * DIM * 2 + 128
    found = index.reader([index.load(tmp_path)], np.ones(2900, np.bool_)).search([str(n) for n in range(2900, 2960)], 10)
    for mine, theirs in zip(found, exact(), strict=True):
        np.testing.assert_allclose(mine.scores, theirs.scores, atol=5e-4)


@pytest.mark.parametrize(
    ("store", "files"), [("int8", {"vectors": DIM, "scales": 2}), ("binary", {"vectors": DIM, "scales": 2, "bits": 8})]
)
def test_compressed_stores_are_small_and_score_like_their_rows(
    table: NDArray[np.float32], tmp_path: Path, store: Store, files: dict[str, int]
) -> None:
    index = FaissIndex(VectorEncoder(table), store=store)
    built = index.build(np.arange(2900), chunks(range(2900)))
    built.save(tmp_path)
    assert {path.stem: (path.stat().st_size - 128) / 2900 for path in tmp_path.glob("*.npy") if path.stem != "keys"} == files
    assert built.facts()["bytes_per_vector"] == sum(files.values())
    loaded, live, queries = index.load(tmp_path), np.ones(2900, np.bool_), [str(n) for n in range(2900, 2960)]
    found = index.reader([loaded], live).search(queries, 10)
    same(index.reader([built], live).search(queries, 10), found)
    for number, mine in enumerate(found):
        np.testing.assert_allclose(mine.scores, table[mine.keys] @ table[2900 + number], atol=0.01)
        kept = loaded.vectors[mine.keys].astype(np.float64) @ table[2900 + number].astype(np.float64)
        np.testing.assert_array_equal(mine.scores, kept.astype(np.float32))


def test_bits_find_candidates_and_small_segments_need_none(table: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, live, queries = VectorEncoder(table), np.ones(2900, np.bool_), [str(n) for n in range(2900, 2960)]
    plain = FaissIndex(encoder, store="int8")
    wanted = plain.reader([plain.build(np.arange(2900), chunks(range(2900)))], live)
    index = FaissIndex(encoder, store="binary", exact_below=100, oversample=10)
    segment = index.build(np.arange(2900), chunks(range(2900)))
    assert segment.graph is None and segment.bits is not None
    reader = index.reader([segment], live)
    rng = np.random.default_rng(0)
    for allow in (None, rng.random(2900) < 0.5):
        found = reader.search(queries, 10, allow)
        truth = wanted.search(queries, 10, allow)
        shared = np.mean([np.isin(mine.keys, theirs.keys).mean() for mine, theirs in zip(found, truth, strict=True)])
        assert 0.6 < shared < 1, "16 bits tell less than all of it"
        assert allow is None or all(allow[mine.keys].all() for mine in found)
    allow = np.zeros(2900, np.bool_)
    allow[rng.permutation(2900)[:200]] = True  # 20 hits' worth of 10 candidates: exact
    same(reader.search(queries, 10, allow), wanted.search(queries, 10, allow))
    allow[np.flatnonzero(~allow)[0]] = True
    picked: list[int] = []

    def first(bits: object, queries: NDArray[np.float32], num: int, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        picked.append(num)
        return np.tile(np.flatnonzero(mask)[:num], (len(queries), 1))

    monkeypatch.setattr("rag.retrievers.dense_find.nearest_by_bits", first)
    reader.search(queries, 10, allow)
    reader.search(queries, 30, allow)  # 300 candidates are more than 201 rows
    assert picked == [200]


@pytest.mark.parametrize("store", ["int8", "binary"])
def test_merging_compressed_segments_moves_no_bit(table: NDArray[np.float32], tmp_path: Path, store: Store) -> None:
    index, live = FaissIndex(VectorEncoder(table), store=store), np.ones(300, np.bool_)
    numbers = np.arange(300)
    folders = [tmp_path / name for name in ("whole", "once", "twice")]
    for folder in folders:
        folder.mkdir()
    index.build(numbers, chunks(range(300))).save(folders[0])
    parts = [index.build(numbers[start::3], chunks(numbers[start::3].tolist())) for start in range(3)]
    index.merge(parts, live).save(folders[1])
    index.merge([index.load(folders[1])], live).save(folders[2])
    for name in ("vectors.npy", "scales.npy", *(["bits.npy"] if store == "binary" else [])):
        assert len({(folder / name).read_bytes() for folder in folders}) == 1


def test_another_store_needs_no_rebuild(table: NDArray[np.float32], tmp_path: Path) -> None:
    encoder, live = VectorEncoder(table), np.ones(200, np.bool_)
    old, new = FaissIndex(encoder), FaissIndex(encoder, store="binary")
    assert old.fingerprint == new.fingerprint
    old.build(np.arange(100), chunks(range(100))).save(tmp_path)
    parts = [new.load(tmp_path), new.build(np.arange(100, 200), chunks(range(100, 200)))]
    found = new.reader(parts, live).search(["250", "260"], 200)
    merged = tmp_path / "merged"
    merged.mkdir()
    new.merge(parts, live).save(merged)
    again = new.reader([new.load(merged)], live).search(["250", "260"], 200)
    for mine, theirs in zip(again, found, strict=True):
        assert len(mine.keys) == 200
        np.testing.assert_allclose(mine.scores, theirs.scores, atol=0.02)
    assert new.load(merged).facts()["store"] == "binary"


@given(st.integers(1, DIM), st.integers(0, 9))
@settings(deadline=None, max_examples=20)
def test_the_first_dimensions_are_those_of_vectors_cut_by_hand(dimensions: int, seed: int) -> None:
    rows = unit_rows(60, seed)
    rows[3, :dimensions] = 0  # nothing left of it
    cut = rows[:, :dimensions]
    lengths = np.linalg.norm(cut, axis=1, keepdims=True)
    by_hand = np.divide(cut, lengths, where=lengths > 0, out=np.zeros_like(cut))
    live, queries = np.ones(50, np.bool_), [str(n) for n in range(50, 60)]
    found = []
    for index in (FaissIndex(VectorEncoder(rows), dimensions=dimensions), FaissIndex(VectorEncoder(by_hand))):
        segment = index.build(np.arange(50), chunks(range(50)))
        assert segment.dim == dimensions
        found.append(index.reader([segment], live).search(queries, 5))
    same(*found)


def test_dimensions_are_part_of_the_fingerprint() -> None:
    encoder = VectorEncoder(unit_rows(5))
    prints = {FaissIndex(encoder, dimensions=number).fingerprint for number in (None, 4, 8)}
    assert len(prints) == 3
    assert FaissIndex(encoder, dimensions=4).merge([], np.ones(1, np.bool_)).dim == 4


def test_the_recall_that_is_told_is_the_recall_that_is_measured(
    table: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = VectorEncoder(table)
    numbers, live = np.arange(2900), np.ones(2900, np.bool_)
    sample = np.unique(np.linspace(0, 2899, 100).astype(np.int64))
    wanted = np.argsort(-(table[sample] @ table[:2900].T + np.where(numbers == sample[:, None], -9, 0)), axis=1)[:, :10]
    told: list[float] = []
    for name, options in {"exact": {}, "graph": {"exact_below": 100}, "bits": {"store": "binary", "oversample": 5}}.items():
        index = FaissIndex(encoder, **options)  # type: ignore[arg-type]
        folder = tmp_path / name
        folder.mkdir()
        segment = index.build(numbers, chunks(range(2900)))
        segment.save(folder)
        told.append(float(segment.facts()["recall_estimate"]))
        assert index.load(folder).facts() == segment.facts()
        found = index.reader([index.load(folder)], live).search([str(row) for row in sample], 11)
        mine = [matches.keys[matches.keys != row][:10] for row, matches in zip(sample, found, strict=True)]
        measured = np.mean([np.isin(*pair).mean() for pair in zip(mine, wanted, strict=True)])
        assert told[-1] == pytest.approx(measured, abs=0.02 if name == "bits" else 2e-3)  # bits: truth is of the int8 rows
    assert told[0] == 1 and 0.97 < told[1] <= 1 and told[2] < 0.95
    monkeypatch.setattr(
        "rag.retrievers.dense_graph.candidates", lambda graph, queries, num, *_: np.tile(np.arange(num), (len(queries), 1))
    )
    folder = tmp_path / "lost"
    folder.mkdir()
    lost = FaissIndex(encoder, exact_below=100).merge([segment], live)
    lost.save(folder)
    assert float(lost.facts()["recall_estimate"]) < 0.1


def test_vectors_are_given_for_any_live_key(table: NDArray[np.float32]) -> None:
    index, live = FaissIndex(VectorEncoder(table)), np.ones(20, np.bool_)
    live[4] = False
    parts = [index.build(np.arange(start, 20, 2), chunks(range(start, 20, 2))) for start in (0, 1)]
    reader = index.reader(parts, live)
    ((query, found, _),) = reader.vectors(["25"], [np.array([7, 2, 7])])
    np.testing.assert_array_equal(query, table[25:26])
    np.testing.assert_array_equal(np.stack(found), table[[7, 2, 7], None])
    for key in (4, 20, 99):
        with pytest.raises(ValueError, match=f"no live chunk has the key {key}"):
            reader.vectors(["25"], [np.array([7, key])])


def test_a_question_asked_again_is_not_encoded_again(table: NDArray[np.float32]) -> None:
    encoder = VectorEncoder(table)
    index = FaissIndex(encoder, num_cached_queries=2)
    reader = index.reader([index.build(np.arange(10), chunks(range(10)))], np.ones(10, np.bool_))
    first = reader.search(["5", "6"], 3)
    same(reader.search(["5", "6"], 3), first)
    assert encoder.num_calls == 1
    reader.search(["7"], 3)
    reader.search(["5"], 3)
    assert encoder.num_calls == 3


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def _change_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no keys": lambda folder: (folder / "keys.npy").unlink(),
    "no vectors": lambda folder: (folder / "vectors.npy").unlink(),
    "no graph": lambda folder: (folder / "graph.faiss").unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "short keys": lambda folder: _cut_short(folder / "keys.npy"),
    "short vectors": lambda folder: _cut_short(folder / "vectors.npy"),
    "short graph": lambda folder: _cut_short(folder / "graph.faiss"),
    "empty vectors": lambda folder: (folder / "vectors.npy").write_bytes(b""),
    "keys out of order": lambda folder: np.save(folder / "keys.npy", np.arange(200)[::-1]),
    "keys as floats": lambda folder: np.save(folder / "keys.npy", np.arange(200.0)),
    "other dim": lambda folder: np.save(folder / "vectors.npy", unit_rows(200, dim=8)),
    "pickled vectors": lambda folder: np.save(folder / "vectors.npy", np.array([{}] * 200), allow_pickle=True),
    "graph of another segment": lambda folder: write_graph(
        build_graph("HNSW32_SQ8", DIM, unit_rows(99), [unit_rows(99)]), folder / "graph.faiss"
    ),
    "not JSON": lambda folder: (folder / "manifest.json").write_text("{", encoding="utf-8"),
    "a list": lambda folder: (folder / "manifest.json").write_text("[]", encoding="utf-8"),
    "fewer rows": lambda folder: _change_manifest(folder, num_rows=199),
    "words for numbers": lambda folder: _change_manifest(folder, dim="16"),
    "unknown store": lambda folder: _change_manifest(folder, store="object"),
}


COMPRESSED_DAMAGES: dict[str, Callable[[Path], object]] = {
    "no scales": lambda folder: (folder / "scales.npy").unlink(),
    "short bits": lambda folder: _cut_short(folder / "bits.npy"),
    "bits of other rows": lambda folder: np.save(folder / "bits.npy", np.zeros((7, 1), np.uint64)),
    "vectors of another store": lambda folder: np.save(folder / "vectors.npy", unit_rows(200)),
    "another store's manifest": lambda folder: _change_manifest(folder, store="float32"),
    "recall in words": lambda folder: _change_manifest(folder, recall_estimate="good"),
}


@pytest.mark.parametrize("damage", COMPRESSED_DAMAGES)
def test_damage_of_compressed_stores_is_named(tmp_path: Path, damage: str) -> None:
    index = FaissIndex(VectorEncoder(unit_rows(200)), store="binary")
    index.build(np.arange(200), chunks(range(200))).save(tmp_path)
    COMPRESSED_DAMAGES[damage](tmp_path)
    with pytest.raises(DamagedIndex) as caught:
        index.load(tmp_path)
    assert Path(caught.value.path).parent == tmp_path


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    index = FaissIndex(VectorEncoder(unit_rows(200)), exact_below=100)
    index.build(np.arange(200), chunks(range(200))).save(tmp_path)
    DAMAGES[damage](tmp_path)
    with pytest.raises(DamagedIndex) as caught:
        index.load(tmp_path)
    assert Path(caught.value.path).parent == tmp_path


def test_another_encoder_or_a_newer_format_is_refused(tmp_path: Path) -> None:
    rows = unit_rows(20)
    index = FaissIndex(VectorEncoder(rows))
    segment = index.build(np.arange(20), chunks(range(20)))
    segment.save(tmp_path)
    other = FaissIndex(VectorEncoder(rows, "other"))
    with pytest.raises(IndexMismatch):
        other.load(tmp_path)
    with pytest.raises(IndexMismatch):
        other.reader([segment], np.ones(20, np.bool_))
    _change_manifest(tmp_path, format=2)
    with pytest.raises(IndexMismatch):
        index.load(tmp_path)


def test_bad_input_is_refused() -> None:
    encoder = VectorEncoder(unit_rows(20))
    with pytest.raises(ConfigError, match="'int4' is not one of float32, float16, int8, binary"):
        FaissIndex(encoder, store="int4")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="dimensions must be at least 1, not 0"):
        FaissIndex(encoder, dimensions=0)
    with pytest.raises(ConfigError, match="oversample must be at least 1, not 0"):
        FaissIndex(encoder, oversample=0)
    longer = FaissIndex(encoder, dimensions=DIM + 1)
    for act in (lambda: longer.build(np.arange(1), chunks([1])), lambda: longer.query_vectors(["1"])):
        with pytest.raises(ConfigError, match="dimensions must be between 1 and 16, what the encoder gives, not 17"):
            act()
    with pytest.raises(ConfigError, match="exact_below"):
        FaissIndex(encoder, exact_below=-1)
    for keys in (np.arange(3), np.array([1, 1]), np.array([2, 1])):
        with pytest.raises(ValueError, match="ascending keys"):
            FaissIndex(encoder).build(keys, chunks([1, 2]))
    with pytest.raises(ValueError, match="k must be"):
        FaissIndex(encoder).reader([], np.ones(0, np.bool_)).search(["1"], 0)
