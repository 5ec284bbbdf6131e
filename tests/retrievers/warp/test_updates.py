"""Documents come, change, go, are merged, the disk fails, processes reopen: the multi-vector index still answers like an exact oracle."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rag import segments
from rag.core import Document, Hit
from rag.errors import RagError
from rag.pipeline import Rag
from rag.retrievers.warp.arrays import FileSink
from tests.fakes import HashingTokenEncoder, QuotingGenerator
from tests.retrievers.warp.made import maxsim

WORDS = [f"word{number}" for number in range(40)]
SOURCES = [f"{number}.txt" for number in range(25)]
QUERIES = ["word1 word2 word3", "word7", "word30 word31 word32 word33 word1 word9"]
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
ENCODER = HashingTokenEncoder(64)


def config(exact_below: int) -> dict[str, Any]:
    return {
        "models": {"tokenizer": {"use": "words"}},
        "chunker": {"use": "fixed", "max_tokens": 200},
        "indexes": {"multi": {"use": "warp", "bits": 8, "exact_below": exact_below, "num_threads": 1}},
    }


def opened(folder: Path, exact_below: int) -> Rag:
    return Rag.open(folder, config(exact_below), components={"token_encoder": ENCODER, "generator": QuotingGenerator()})


def made(source: str, text: str) -> Document:
    return Document(Document.id_of(source), source, text, (), {"odd": int(source.split(".")[0]) % 2})


class Life(RuleBasedStateMachine):
    """``exact_below`` decides whether segments are plain (equal to the oracle) or coded (near it)."""

    exact_below = 10**9

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.live: dict[str, str] = {}

    @initialize(text=TEXT)
    def start(self, text: str) -> None:
        self.rag = opened(self.folder, self.exact_below)
        self.put({"0.txt": text})

    def put(self, texts: dict[str, str]) -> None:
        self.rag.ingest_documents([made(source, text) for source, text in texts.items()])
        self.live |= texts

    @rule(texts=st.dictionaries(st.sampled_from(SOURCES), TEXT, min_size=1, max_size=12))
    def add_or_edit(self, texts: dict[str, str]) -> None:
        self.put(texts)

    @precondition(lambda self: self.live)
    @rule(chance=st.randoms(use_true_random=False))
    def remove(self, chance: random.Random) -> None:
        source = chance.choice(sorted(self.live))
        self.rag.delete(source)
        del self.live[source]

    @rule()
    def compact(self) -> None:
        self.rag.compact()

    @rule()
    def reopen(self) -> None:
        self.rag = opened(self.folder, self.exact_below)

    @rule(text=TEXT, place=st.sampled_from(["write_facts", "seal_folder"]), also_compacts=st.booleans())
    def the_disk_fails(self, text: str, place: str, also_compacts: bool) -> None:
        with pytest.MonkeyPatch.context() as patch:

            def fail(*_: object, **__: object) -> None:
                raise OSError(28, "No space left on device")

            patch.setattr(segments, place, fail)
            fresh = f"{len(SOURCES) + len(self.live)}.txt"
            with pytest.raises(OSError, match="No space"):
                self.rag.ingest_documents([made(fresh, text)])
            if also_compacts:  # with one segment and nothing dead there is nothing to write
                try:
                    self.rag.compact()
                except OSError:
                    pass
        self.rag = opened(self.folder, self.exact_below)

    @invariant()
    def answers_like_the_oracle(self) -> None:
        sources = sorted(self.live)
        given = [ENCODER.encode_documents([self.live[source]])[0] for source in sources]
        for query in QUERIES:
            scores = dict(zip(sources, maxsim(given, ENCODER.encode_queries([query])[0]).tolist(), strict=True))
            self.compare(self.found(query, None), scores)
            self.compare(self.found(query, "odd = 1"), {source: scores[source] for source in sources if int(source[:-4]) % 2})

    def found(self, query: str, where: str | None) -> dict[str, float]:
        hits: list[Hit] = self.rag.search(query, 100, where=where)
        by_id = {Document.id_of(source): source for source in self.live}
        assert all(hit.chunk.text == self.live[by_id[hit.chunk.doc_id]] for hit in hits)
        return {by_id[hit.chunk.doc_id]: hit.why["multi"].score for hit in hits}

    def compare(self, found: dict[str, float], wanted: dict[str, float]) -> None:
        assert found.keys() == wanted.keys()
        for source, score in wanted.items():
            assert found[source] == pytest.approx(score, abs=0.006)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


class CodedLife(Life):
    exact_below = 0

    def compare(self, found: dict[str, float], wanted: dict[str, float]) -> None:
        assert found.keys() == wanted.keys()
        for source, score in wanted.items():
            assert found[source] == pytest.approx(score, abs=0.25)
        best = sorted(wanted, key=lambda source: -wanted[source])[:3]
        if best:
            least = wanted[best[-1]] - 0.25
            top = sorted(found, key=lambda source: -found[source])[: len(best)]
            assert all(wanted[source] >= least for source in top)


LAWS = settings(
    max_examples=8,
    stateful_step_count=10,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
TestPlain = Life.TestCase
TestPlain.settings = LAWS
TestCoded = CodedLife.TestCase
TestCoded.settings = LAWS


READER = """
    import sys
    from pathlib import Path

    from tests.retrievers.warp.test_updates import opened

    folder, stop = Path(sys.argv[1]), Path(sys.argv[2])
    rag, rounds = opened(folder, 60), 0
    while not stop.exists() or rounds < 5:
        hits = rag.search("word1 keeper", 50)
        assert "keeper" in hits[0].chunk.text, [hit.chunk.text for hit in hits]
        assert len({hit.chunk.id for hit in hits}) == len(hits)
        assert not any("gone" in hit.chunk.text for hit in hits)
        rounds += 1
    print("rounds", rounds)
"""


def test_two_processes_read_while_one_writes(tmp_path: Path) -> None:
    folder, stop = tmp_path / "index", tmp_path / "stop"
    rng = np.random.default_rng(0)
    rag = opened(folder, 60)
    rag.ingest_documents([made("90.txt", "keeper of word1"), made("91.txt", "gone at once"), made("92.txt", "word3 word4")])
    rag.delete("91.txt")
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", textwrap.dedent(READER), str(folder), str(stop)]
    environment = os.environ | {"PYTHONPATH": root}
    readers = [
        subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in "ab"
    ]
    try:
        for number in range(12):
            rag.ingest_documents([made(f"{number}.txt", " ".join(rng.choice(WORDS, 8))), made("93.txt", f"word5 {number}")])
            if number % 4 == 3:
                rag.delete(f"{number}.txt")
                rag.compact()
    finally:
        stop.touch()
        ended = [reader.communicate(timeout=120) for reader in readers]
    for reader, (out, error) in zip(readers, ended, strict=True):
        assert reader.returncode == 0 and out.startswith("rounds"), error


def test_an_index_of_another_encoder_is_refused_and_rebuilt(tmp_path: Path) -> None:
    opened(tmp_path, 0).ingest_documents([made("1.txt", "word1 word2"), made("2.txt", "word3")])
    other = Rag.open(tmp_path, config(0), components={"token_encoder": HashingTokenEncoder(32), "generator": QuotingGenerator()})
    with pytest.raises(RagError, match="rebuild"):
        other.search("word1")
    other.rebuild()
    assert other.search("word1")[0].chunk.text == "word1 word2"
    stats = other.stats()["indexes"]["multi"]
    assert stats["vectors"] == 3 and {"bits", "drift", "recall_estimate", "bytes_per_document", "build_seconds"} <= stats.keys()


def test_a_damaged_segment_is_named_and_rebuilt_from_the_catalog(tmp_path: Path) -> None:
    rag = opened(tmp_path, 0)
    rag.ingest_documents([made(f"{number}.txt", f"word{number} word1") for number in range(20)])
    (codes,) = tmp_path.glob("segments/*/codes.bin")
    whole = bytearray(codes.read_bytes())
    whole[len(whole) // 2] ^= 1
    codes.write_bytes(whole)
    fresh = opened(tmp_path, 0)
    assert any("codes.bin" in fault for fault in fresh.verify())
    with pytest.raises(RagError, match=r"codes\.bin"):
        fresh.search("word3")
    assert fresh.verify(repair=True) == []
    assert fresh.search("word3")[0].chunk.text == "word3 word1"


def test_what_is_added_later_takes_the_codec_that_is_there(tmp_path: Path) -> None:
    rag = opened(tmp_path, 0)
    rag.ingest_documents([made(f"{number}.txt", " ".join(WORDS[number : number + 9])) for number in range(25)])
    rag.ingest_documents([made("30.txt", "word1 word2 word3")])
    codecs = [rag.indexes["multi"].load(folder).codec for folder in tmp_path.glob("segments/multi-*")]  # type: ignore[attr-defined]
    assert len(codecs) == 2 and codecs[0].name == codecs[1].name


def test_a_compaction_tells_how_far_it_is(tmp_path: Path) -> None:
    rag = opened(tmp_path, 0)
    for part in range(3):
        rag.ingest_documents([made(f"{number}.txt", f"word{number} word1") for number in range(5 * part, 5 * part + 5)])
    rag.delete("3.txt")
    told: list[tuple[int, int]] = []
    rag.compact(lambda *some: told.append(some))
    assert told == sorted(told) and told[-1] == (14, 14)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system")])
def test_a_disk_that_fails_in_the_middle_of_a_merge_loses_nothing(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rag = opened(tmp_path, 0)
    for part in range(3):
        rag.ingest_documents([made(f"{number}.txt", f"word{number} word1") for number in range(5 * part, 5 * part + 5)])
    before = [hit.chunk.text for hit in rag.search("word3 word7", 15)]
    segments_before = sorted(path.name for path in (tmp_path / "segments").iterdir())
    with monkeypatch.context() as failing:
        written = FileSink.add

        def add(self: FileSink, name: str, block: Any) -> None:
            if name == "scales":
                raise error
            written(self, name, block)

        failing.setattr(FileSink, "add", add)
        with pytest.raises(OSError, match=str(error.strerror)):
            rag.compact()
    assert sorted(path.name for path in (tmp_path / "segments").iterdir()) == segments_before
    assert [hit.chunk.text for hit in opened(tmp_path, 0).search("word3 word7", 15)] == before
    assert opened(tmp_path, 0).compact()["indexes"]["multi"]["segments"] == 1
    assert len(opened(tmp_path, 0).search("word3 word7", 15)) == 15
