"""Building and merging read block by block: memory by counting, progress, and the same files whichever way vectors come."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from rag.retrievers.warp import parts
from rag.retrievers.warp.build import SAMPLE_PER_CENTROID
from rag.retrievers.warp.codec import num_centroids_for
from rag.retrievers.warp.index import WarpIndex
from rag.retrievers.warp.parts import Part, sample
from rag.retrievers.warp.segment import WarpSegment
from tests.retrievers.warp.made import documents, unit
from tests.retrievers.warp.test_index import DIM, Ready, everything, index

BYTES_PER_TOKEN = 24
"""What may grow with the tokens: borders and lists, but neither vectors (96 bytes in float16 here) nor codes."""


def stored(folder: Path, num_documents: int) -> None:
    """Saves a plain segment of documents of 40 tokens, made anew in pieces."""
    rng = np.random.default_rng(num_documents)
    rows = np.lib.format.open_memmap(folder / "tokens.npy", mode="w+", dtype=np.float16, shape=(40 * num_documents, DIM))
    for start in range(0, len(rows), 4000):
        rows[start : start + 4000] = unit(rng, 4000, DIM)
    rows.flush()
    del rows
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    (folder / "plain").mkdir()
    plain = index(exact_below=10**9)
    plain.build_stored(np.arange(num_documents), np.arange(0, len(tokens) + 1, 40), tokens).save(folder / "plain")


def test_stored_vectors_give_the_files_that_vectors_in_memory_give(tmp_path: Path) -> None:
    given = documents(np.random.default_rng(0), 300, DIM)
    starts = np.concatenate([[0], np.cumsum([len(some) for some in given])])
    np.save(tmp_path / "tokens.npy", np.concatenate(given).astype(np.float16))
    tokens = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    told: list[tuple[int, int]] = []
    for name in ("memory", "stored"):
        (tmp_path / name).mkdir()
    made = index()
    made.build_vectors(np.arange(300), given).save(tmp_path / "memory")
    made.build_stored(np.arange(300), starts, tokens, on_progress=lambda *some: told.append(some)).save(tmp_path / "stored")
    for path in sorted((tmp_path / "memory").iterdir()):
        assert path.read_bytes() == (tmp_path / "stored" / path.name).read_bytes(), path.name
    assert told[-1] == (300, 300)


def test_a_merge_tells_how_many_documents_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "BLOCK_TOKENS", 200)
    given = documents(np.random.default_rng(1), 120, DIM)
    made = index()
    segments = [made.build_vectors(np.arange(60), given[:60]), made.build_vectors(np.arange(60, 120), given[60:])]
    live = everything(120)
    live[7] = False
    told: list[tuple[int, int]] = []
    made.merge(segments, live, on_progress=lambda *some: told.append(some)).save(tmp_path)
    done = [done for done, _ in told]
    assert len(told) > 5 and done == sorted(set(done)) and done[-1] == 119 and {every for _, every in told} == {119}


@pytest.mark.parametrize("rescore", [0, 5])
def test_memory_does_not_grow_with_what_is_merged(rescore: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "BLOCK_TOKENS", 2000)
    made = index(num_threads=1, rescore=rescore)
    coded, peaks = list[WarpSegment](), list[int]()
    for num_documents in (1000, 2000, 7000):  # the first trains and compiles, the others are coded with its codec
        folder = tmp_path / f"{num_documents}"
        (folder / "merged").mkdir(parents=True)
        stored(folder, num_documents)
        plain = index(exact_below=10**9).load(folder / "plain")
        plain.fingerprint = made.fingerprint
        tracemalloc.start()
        merged = made.merge([plain], everything(num_documents), coded)
        merged.save(folder / "merged")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        coded = coded or [merged]
        assert merged.codec is not None and coded[0].codec is not None and merged.codec.name == coded[0].codec.name
    assert peaks[2] - peaks[1] < BYTES_PER_TOKEN * 40 * 5000, peaks


def test_the_sample_that_trains_grows_with_the_root_of_the_tokens(tmp_path: Path) -> None:
    stored(tmp_path, 2000)
    plain = index(exact_below=10**9).load(tmp_path / "plain")
    wanted = SAMPLE_PER_CENTROID * num_centroids_for(400)
    assert wanted <= len(sample([Part(plain, np.arange(2000))], wanted, 0)) < wanted + 40
    assert SAMPLE_PER_CENTROID * num_centroids_for(10**12) == SAMPLE_PER_CENTROID * 65_536


@pytest.mark.parametrize(
    ("starts", "shape", "message"),
    [
        ([0, 2, 5], (4, DIM), r"2 keys need 3 token_starts and float16 vectors \(5, 48\)"),
        ([0, 5], (5, DIM), "2 keys need 3 token_starts"),
        ([0, 2, 5], (5, DIM + 1), r"float16 \(5, 49\)"),
        ([0, 0, 5], (5, DIM), "every document needs a token"),
        ([1, 2, 5], (5, DIM), "must begin at 0"),
    ],
)
def test_stored_vectors_that_do_not_fit_are_refused(starts: list[int], shape: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        index().build_stored(np.arange(2), np.array(starts), np.ones(shape, np.float16))


def test_stored_vectors_are_not_pooled() -> None:
    made = WarpIndex(Ready(), pool_factor=2)
    with pytest.raises(ValueError, match="pool_factor is 2"):
        made.build_stored(np.arange(1), np.array([0, 5]), np.ones((5, DIM), np.float16))
