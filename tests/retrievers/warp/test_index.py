"""The multi-vector index itself: recall of coded segments, updates against shared codecs, filters, files, bad input."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.core import Chunk, Matches, Span
from rag.errors import ConfigError, DamagedIndex, IndexMismatch
from rag.kernels.crew import Crew
from rag.retrievers.warp import search
from rag.retrievers.warp.centroids import train_centroids
from rag.retrievers.warp.index import WarpIndex, WarpReader
from rag.retrievers.warp.segment import WarpSegment
from tests.fakes import HashingTokenEncoder
from tests.retrievers.warp.made import documents, maxsim, unit

DIM = 48


class Ready:
    """An encoder that is never asked: the tests hand over vectors."""

    dim = DIM
    fingerprint = "ready"

    def encode_documents(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        raise AssertionError("nothing is encoded here")

    encode_queries = encode_documents


def index(**options: Any) -> WarpIndex:
    given: dict[str, Any] = {"dim": None, "exact_below": 0, "num_threads": 2} | options
    return WarpIndex(Ready(), **given)


def everything(length: int) -> NDArray[np.bool_]:
    return np.ones(length, np.bool_)


def queries(rng: np.random.Generator, given: Sequence[NDArray[np.float32]], count: int = 12) -> list[NDArray[np.float32]]:
    """Disturbed tokens of documents, of one to forty tokens."""
    found = []
    for _ in range(count):
        tokens = given[int(rng.integers(0, len(given)))]
        rows = tokens[rng.integers(0, len(tokens), rng.integers(1, 41))] + 0.3 * unit(rng, 1, tokens.shape[1])
        found.append((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    return found


def recall(found: Sequence[Matches], given: Sequence[NDArray[np.float32]], asked: Sequence[NDArray[np.float32]], k: int) -> float:
    hits = 0
    for matches, query in zip(found, asked, strict=True):
        scores = maxsim(given, query)
        worst = np.sort(scores)[-k]
        hits += int((scores[matches.keys] >= worst - 1e-3).sum())
    return hits / (k * len(asked))


@pytest.mark.parametrize(("bits", "least"), [(2, 0.75), (4, 0.93), (5, 0.95), (8, 0.97)])
def test_a_coded_segment_finds_what_exact_search_finds(bits: int, least: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(bits)
    given = documents(rng, 600, DIM)
    asked = queries(rng, given)
    made = index(bits=bits)
    segment = made.build_vectors(np.arange(600), given)
    segment.save(tmp_path)
    assert segment.header.bits == bits and segment.facts()["recall_estimate"] > least - 0.1  # type: ignore[operator]
    loaded = made.load(tmp_path)
    found = made.reader([loaded], everything(600)).search_vectors(asked, 10)
    assert recall(found, given, asked, 10) >= least
    for matches, query in zip(found, asked, strict=True):
        exact = maxsim(given, query)[matches.keys]
        np.testing.assert_allclose(matches.scores, exact, atol=0.12 * len(query) * {2: 2.0, 4: 1.0, 5: 0.7, 8: 0.5}[bits])


def test_probing_finds_nearly_what_reading_all_finds() -> None:
    rng = np.random.default_rng(5)
    given = documents(rng, 800, DIM)
    asked = queries(rng, given)
    made = index(probe_above_runs=0, num_probes=16)
    segment = made.build_vectors(np.arange(800), given)
    assert recall(made.reader([segment], everything(800)).search_vectors(asked, 10), given, asked, 10) >= 0.9
    allowed = rng.random(800) < 0.5
    for matches in made.reader([segment], everything(800)).search_vectors(asked, 10, allowed):
        assert allowed[matches.keys].all() and len(matches.keys) == 10


def test_lists_are_stored_of_large_segments_and_made_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = documents(np.random.default_rng(5), 200, DIM)
    made = index(probe_above_runs=0)
    small = made.build_vectors(np.arange(200), given)
    small.save(tmp_path)
    monkeypatch.setattr("rag.retrievers.warp.build._LISTS_ABOVE_RUNS", 0)
    large = made.build_vectors(np.arange(200), given)
    (tmp_path / "large").mkdir()
    large.save(tmp_path / "large")
    assert not (tmp_path / "list_rows.bin").exists() and (tmp_path / "large" / "list_rows.bin").exists()
    for stored, computed in zip(made.load(tmp_path / "large").lists, made.load(tmp_path).lists, strict=True):
        np.testing.assert_array_equal(stored, computed)


def test_rescored_results_are_exact_scores() -> None:
    rng = np.random.default_rng(6)
    given = documents(rng, 500, DIM)
    asked = queries(rng, given)
    made = index(bits=2, rescore=64)
    segment = made.build_vectors(np.arange(500), given)
    plain = index(bits=2)
    coded = plain.build_vectors(np.arange(500), given)
    with_codes = plain.reader([coded], everything(500)).search_vectors(asked, 10)
    found = made.reader([segment], everything(500)).search_vectors(asked, 10)
    for matches, query in zip(found, asked, strict=True):
        np.testing.assert_allclose(matches.scores, maxsim(given, query)[matches.keys], atol=0.002 * len(query))
    assert recall(found, given, asked, 10) > recall(with_codes, given, asked, 10)


def test_results_do_not_depend_on_threads_or_on_the_company_of_a_query() -> None:
    rng = np.random.default_rng(7)
    given = documents(rng, 300, DIM)
    asked = queries(rng, given)
    answers = []
    for num_threads in (1, 2, 3):
        made = index(num_threads=num_threads)
        reader = made.reader([made.build_vectors(np.arange(300), given)], everything(300))
        answers += [reader.search_vectors(asked, 10), [reader.search_vectors([query], 10)[0] for query in asked]]
    for one, other in itertools.pairwise(answers):
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(mine.keys, theirs.keys)
            np.testing.assert_array_equal(mine.scores, theirs.scores)


def test_adding_takes_the_codec_that_is_there_and_merging_copies_its_codes() -> None:
    rng = np.random.default_rng(8)
    given = documents(rng, 400, DIM)
    made = index()
    first = made.build_vectors(np.arange(300), given[:300])
    second = made.build_vectors(np.arange(300, 400), given[300:], [first])
    assert first.codec is not None and second.codec is not None and second.codec.name == first.codec.name
    merged = made.merge([second, first], everything(400))
    assert merged.codec is not None and merged.codec.name == first.codec.name
    np.testing.assert_array_equal(merged.tokens.codes, np.concatenate([first.tokens.codes, second.tokens.codes]))
    asked = queries(rng, given)
    apart = made.reader([first, second], everything(400)).search_vectors(asked, 400)
    joined = made.reader([merged], everything(400)).search_vectors(asked, 400)
    for mine, theirs in zip(joined, apart, strict=True):
        np.testing.assert_array_equal(mine.keys, theirs.keys)
        np.testing.assert_allclose(mine.scores, theirs.scores, rtol=1e-6)


def test_a_small_addition_stays_plain_and_is_coded_when_it_is_merged() -> None:
    rng = np.random.default_rng(9)
    given = documents(rng, 330, DIM)
    made = index(exact_below=1000)
    large = made.build_vectors(np.arange(300), given[:300])
    small = made.build_vectors(np.arange(300, 330), given[300:], [large])
    assert large.codec is not None and small.codec is None
    asked = queries(rng, given)
    assert recall(made.reader([large, small], everything(330)).search_vectors(asked, 10), given, asked, 10) >= 0.9
    merged = made.merge([large, small], everything(330))
    assert merged.codec is not None and merged.codec.name == large.codec.name
    assert recall(made.reader([merged], everything(330)).search_vectors(asked, 10), given, asked, 10) >= 0.9


def test_drift_and_growth_train_a_new_codec() -> None:
    rng = np.random.default_rng(10)
    narrow = [(part[:, :1] * 0 + unit(rng, 1, DIM) + 0.1 * part).astype(np.float32) for part in documents(rng, 60, DIM)]
    narrow = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in narrow]
    made = index()
    first = made.build_vectors(np.arange(60), narrow)
    strange = documents(rng, 60, DIM)
    second = made.build_vectors(np.arange(60, 120), strange, [first])
    assert first.codec is not None and second.codec is not None and second.codec.name != first.codec.name  # drift
    like = [part + np.float32(0.01) * unit(rng, len(part), DIM) for part in narrow * 9]
    grown = made.build_vectors(np.arange(200, 740), like, [first])
    assert grown.codec is not None and grown.codec.name != first.codec.name  # nine times the tokens
    merged = made.merge([first, second], everything(120))
    assert merged.codec is not None and 0 < merged.facts()["drift"] < 1.3  # type: ignore[operator]
    assert merged.keys.tolist() == list(range(120))


def test_other_options_recode_at_the_next_merge() -> None:
    rng = np.random.default_rng(11)
    given = documents(rng, 200, DIM)
    segment = index().build_vectors(np.arange(200), given)
    merged = index(bits=8, dim=16).merge([segment], everything(200))
    assert merged.codec is not None and merged.codec.bits == 8 and merged.codec.basis.shape == (DIM, 16)
    assert index().fingerprint == index(bits=8).fingerprint != index(rescore=5).fingerprint


def test_projected_scores_stay_near_the_full_ones() -> None:
    rng = np.random.default_rng(12)
    flat = [part @ np.diag(np.r_[np.ones(12), np.full(DIM - 12, 0.05)]).astype(np.float32) for part in documents(rng, 300, DIM)]
    given = [(part / np.linalg.norm(part, axis=1, keepdims=True)).astype(np.float32) for part in flat]
    made = index(dim=16, bits=8)
    segment = made.build_vectors(np.arange(300), given)
    asked = queries(rng, given)
    for matches, query in zip(made.reader([segment], everything(300)).search_vectors(asked, 5), asked, strict=True):
        np.testing.assert_allclose(matches.scores, maxsim(given, query)[matches.keys], rtol=0.06)


def test_the_vectors_behind_the_codes_are_near_those_that_were_given() -> None:
    rng = np.random.default_rng(13)
    given = documents(rng, 100, DIM)
    encoder = HashingTokenEncoder(DIM)
    made = WarpIndex(encoder, dim=None, exact_below=0)
    segment = made.build_vectors(np.arange(100), given)
    reader = made.reader([segment], everything(100))
    (seen,) = reader.vectors(["valve pressure"], [np.array([7, 3])])
    assert seen.query.shape == (2, DIM) and [len(some) for some in seen.chunks] == [len(given[7]), len(given[3])]
    # Inside a document codes stand by centroid, so only the sets can be compared.
    assert seen.basis is not None
    for some, key in zip(seen.chunks, (7, 3), strict=True):
        assert ((some @ (given[key] @ seen.basis).T).max(0) > 0.9).all()
    plain = WarpIndex(encoder, dim=None).build_vectors(np.arange(100, 102), [given[8], given[9]])
    (mixed,) = made.reader([segment, plain], everything(102)).vectors(["valve pressure"], [np.array([101, 7, 100, 3])])
    assert mixed.basis is None  # two kinds of segments meet in the encoder's space
    for some, wanted in zip(mixed.chunks, (given[9], given[7], given[8], given[3]), strict=True):
        assert len(some) == len(wanted) and ((some @ wanted.T).max(0) > 0.9).all()
    with pytest.raises(ValueError, match="no live chunk with the key 100"):
        reader.vectors(["valve"], [np.array([100])])
    assert reader.vectors([], []) == []


def test_one_document_of_a_hundred_thousand_tokens() -> None:
    rng = np.random.default_rng(14)
    long = unit(rng, 100_000, DIM)
    made = index()
    segment = made.build_vectors(np.array([4, 9]), [long, long[:3]])
    found = made.reader([segment], everything(10)).search_vectors([long[:32]], 2)[0]
    assert found.keys.tolist() == [4, 9]
    assert int(segment.tokens.run_lengths.sum()) == 100_003


def test_fewer_tokens_than_centroids_and_equal_tokens() -> None:
    rng = np.random.default_rng(15)
    one = unit(rng, 1, DIM)
    made = index()
    segment = made.build_vectors(np.arange(3), [one, np.repeat(one, 700, axis=0), -one])
    found = made.reader([segment], everything(3)).search_vectors([one], 3)[0]
    assert found.keys.tolist() == [0, 1, 2] and found.scores[0] == pytest.approx(1, abs=0.02)
    assert segment.tokens.run_lengths.astype(int).sum() == segment.num_tokens  # 700 tokens are more than a byte counts
    merged = made.merge([segment], np.array([True, False, True]))
    assert merged.keys.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("bits", 3, "bits must be one of 2, 4, 5, 8, not 3"),
        ("dim", 0, "dim must be at least 1"),
        ("confidence", float("nan"), "confidence must be at least 0"),
        ("exact_below", -1, "exact_below must be at least 0, not -1"),
        ("pool_factor", 0, "0"),
        ("pool_method", "guess", "ward"),
        ("num_probes", 0, "num_probes must be at least 1, not 0"),
    ],
)
def test_options_out_of_range_are_named(option: str, value: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        index(**{option: value})


class Broken(HashingTokenEncoder):
    """Gives one bad array for the text ``bad``."""

    def __init__(self, bad: NDArray[np.float32]) -> None:
        super().__init__(DIM)
        self.bad = bad

    def encode_queries(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        return [self.bad if text == "bad" else vectors for text, vectors in zip(texts, super().encode_queries(texts), strict=True)]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (np.full((2, DIM), np.nan, np.float32), "token 0 has a vector that is not finite"),
        (np.zeros((2, DIM), np.float32), "token 0 has a vector of length 0"),
        (np.ones((2, 3), np.float32), r"must have the shape \(tokens, 48\)"),
        (np.ones((0, DIM), np.float32), "at least one token"),
    ],
)
def test_what_is_no_vector_is_named(bad: NDArray[np.float32], text: str) -> None:
    made = WarpIndex(Broken(bad))
    chunks = [Chunk("good", "doc", Span(0, 4), "good"), Chunk("c7", "doc", Span(0, 3), "bad")]
    with pytest.raises(ValueError, match=f"chunk 'c7'.*{text}"):
        made.build(np.arange(2), chunks)
    reader = made.reader([made.build(np.arange(1), chunks[:1])], everything(1))
    with pytest.raises(ValueError, match=f"query 'bad'.*{text}"):
        reader.search(["bad"], 3)
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        reader.search(["good"], 0)


def test_segments_of_others_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(16)
    index().build_vectors(np.arange(5), documents(rng, 5, DIM)).save(tmp_path)
    with pytest.raises(IndexMismatch, match="another token encoder"):
        index(rescore=3).load(tmp_path)
    with pytest.raises(TypeError, match="reads its own segments"):
        index().merge([object()], everything(1))  # type: ignore[list-item]
    foreign = dataclasses.replace(index().load(tmp_path).header, bits=0)
    with pytest.raises(IndexMismatch):
        index().reader([WarpSegment(np.arange(1), "other", None, {}, foreign)], everything(1))


def test_every_file_of_a_segment_is_checked(tmp_path: Path) -> None:
    rng = np.random.default_rng(17)
    made = index()
    made.build_vectors(np.arange(50), documents(rng, 50, DIM)).save(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for damage in (whole[: len(whole) // 2], b""):
            path.write_bytes(damage)
            with pytest.raises(DamagedIndex, match=path.name):
                made.load(tmp_path)
        path.unlink()
        with pytest.raises(DamagedIndex, match=path.name):
            made.load(tmp_path)
        path.write_bytes(whole)
    assert isinstance(made.reader([made.load(tmp_path)], everything(50)), WarpReader)
    manifest = tmp_path / "manifest.json"
    whole_text = manifest.read_text()
    for other in (1, 3):
        manifest.write_text(whole_text.replace('"format": 2', f'"format": {other}'))
        with pytest.raises(IndexMismatch, match=f"format {other}; this version reads format 2: `rag index rebuild`"):
            made.load(tmp_path)


def test_pooled_documents_take_fewer_vectors() -> None:
    rng = np.random.default_rng(18)
    given = documents(rng, 120, DIM)
    made = index(pool_factor=2)
    segment = made.build_vectors(np.arange(120), given)
    num_tokens = sum(map(len, given))
    assert num_tokens * 0.4 < segment.num_tokens < num_tokens * 0.6
    assert made.fingerprint != index().fingerprint


def test_confidence_decides_how_many_candidates_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(19)
    given = documents(rng, 900, DIM)
    made = index(num_threads=1)
    segment = made.build_vectors(np.arange(900), given)
    assert segment.header.bits == 4  # built, and measured, before counting begins
    looked_at: list[int] = []

    def counting(*arguments: Any) -> NDArray[np.float32]:
        looked_at.append(len(arguments[2]))
        return scores(*arguments)

    scores = search._scores
    monkeypatch.setattr(search, "_scores", counting)
    totals = []
    for confidence in (0.0, 3.0, 1e9):
        made.effort = dataclasses.replace(made.effort, confidence=confidence)
        looked_at.clear()
        made.reader([segment], everything(900)).search_vectors([given[5][:8]], 3)
        totals.append(sum(looked_at))
    assert totals[0] <= totals[1] <= totals[2] == 900 > totals[0]
    made.effort = dataclasses.replace(made.effort, most_candidates=200)
    looked_at.clear()
    made.reader([segment], everything(900)).search_vectors([given[5][:8]], 3)
    assert sum(looked_at) == 200


def test_centroids_are_the_middles_of_what_is_there() -> None:
    rng = np.random.default_rng(20)
    middles = unit(rng, 16, DIM)
    vectors = (np.repeat(middles, 200, axis=0) + 0.2 * unit(rng, 3200, DIM)).astype(np.float32)
    centroids = train_centroids(vectors, 16, 0, Crew(1))
    wanted = 0.2**2 * (1 - 1 / 200)
    squares = ((vectors - centroids.vectors[centroids.nearest(vectors)]) ** 2).sum(1)
    assert np.median(squares) == pytest.approx(wanted, rel=0.1)  # a random member instead of the mean would double it
    assert (centroids.nearest(vectors) == centroids.reference_nearest(vectors)).mean() > 0.99
    threads = train_centroids(vectors, 16, 0, Crew(3))
    np.testing.assert_array_equal(threads.levels, centroids.levels)
    with pytest.raises(ValueError, match="at least one vector"):
        train_centroids(vectors[:0], 4, 0, Crew(1))


def test_files_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(21)
    made = index()
    made.build_vectors(np.arange(50), documents(rng, 50, DIM)).save(tmp_path)
    manifest = tmp_path / "manifest.json"
    told = json.loads(manifest.read_text())
    rows, width = told["arrays"]["codes"][1]
    told["arrays"]["codes"][1] = [rows * 2, width // 2]  # as many bytes as before
    manifest.write_text(json.dumps(told))
    with pytest.raises(DamagedIndex, match=r"codes\.bin.*the other files say"):
        made.load(tmp_path)


def test_a_few_vectors_that_lie_far_out_are_not_cut() -> None:
    rng = np.random.default_rng(22)
    middles = unit(rng, 8, DIM)
    near = [(middles[rng.integers(0, 8, 20)] + 0.05 * unit(rng, 20, DIM)).astype(np.float32) for _ in range(300)]
    given = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in near] + [unit(rng, 20, DIM)]
    made = index(bits=8)
    first = made.build_vectors(np.arange(300), given[:300])
    far = made.build_vectors(np.arange(300, 301), given[300:])
    merged = made.merge([first, far], everything(301))
    found = made.reader([merged], everything(301)).search_vectors([given[300]], 1)[0]
    assert found.keys.tolist() == [300] and found.scores[0] == pytest.approx(20, abs=0.3)
