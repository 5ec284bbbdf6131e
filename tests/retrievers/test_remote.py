"""Indexes whose vectors lie on a server, under the whole pipeline: what is committed is what is there, whatever breaks in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.catalog import Catalog
from rag.core import Document
from rag.errors import ConfigError, DamagedIndex, MissingExtra, ServerError
from rag.pipeline import Rag
from rag.retrievers.pgvector import PgvectorIndex
from rag.retrievers.qdrant import QdrantIndex, QdrantServer
from rag.retrievers.remote import RemoteSegment, Selection, ServerRows, blocks
from rag.retrievers.remote_index import RemoteIndex
from tests.fakes import HashingEncoder, ParagraphChunker, QuotingGenerator
from tests.servers import options_of

CLASSES: dict[str, Callable[..., RemoteIndex]] = {"qdrant": QdrantIndex, "pgvector": PgvectorIndex}
TEXTS = {"a.txt": "apple river\n\nvalve pressure", "b.txt": "apple mountain\n\ninvoice", "c.txt": "contract engine"}


@pytest.fixture(params=CLASSES)
def index(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RemoteIndex:
    name = f"remote_{abs(hash(tmp_path))}"
    return CLASSES[request.param](HashingEncoder(256), **options_of(request.param, monkeypatch, name))


@pytest.fixture
def rag(index: RemoteIndex, tmp_path: Path) -> Rag:
    return opened(index, tmp_path)


def opened(index: RemoteIndex, tmp_path: Path) -> Rag:
    parts = {"indexes.words": index, "chunker": ParagraphChunker(), "generator": QuotingGenerator()}
    light = {"indexes": {"words": {"use": "bm25"}}, "chunker": {"use": "fixed"}}
    return Rag.open(tmp_path / "index", light, components=parts)


def documents(texts: dict[str, str], readers: tuple[str, ...] = ("*",)) -> list[Document]:
    return [Document(Document.id_of(name), name, text, principals=readers) for name, text in texts.items()]


def on_server(rag: Rag) -> int:
    """How many vectors of this index the server holds for any folder there is or was."""
    (index,) = rag.indexes.values()
    server: Any = index.server  # type: ignore[attr-defined]
    with server._asking() as asked:
        if isinstance(server, QdrantServer):
            return int(asked[0].count(server._collection, exact=True).count)
        return int(asked.execute(f"SELECT count(*) FROM {server._table}").fetchone()[0])


def test_ingest_edit_delete_and_compact_leave_on_the_server_what_is_committed(rag: Rag) -> None:
    rag.ingest_documents(documents(TEXTS))
    assert [hit.chunk.text for hit in rag.search("apple river", 1)] == ["apple river"] and on_server(rag) == 5
    rag.ingest_documents(documents({"a.txt": "apple lake\n\nvalve pressure"}))
    rag.delete("c.txt")
    assert {hit.chunk.text for hit in rag.search("apple", 9)} == {"apple lake", "valve pressure", "apple mountain", "invoice"}
    assert on_server(rag) == 6  # the edit kept one chunk and added one; nothing is taken away before it is compacted
    rag.compact()
    assert on_server(rag) == 4 == rag.stats()["indexes"]["words"]["vectors"]
    assert {hit.chunk.text for hit in rag.search("apple", 9)} == {"apple lake", "valve pressure", "apple mountain", "invoice"}
    assert rag.verify() == []


def test_filters_and_permissions_come_before_the_top_k(rag: Rag) -> None:
    rag.ingest_documents(documents({f"open{n}.txt": "apple apple apple" for n in range(20)}))
    rag.ingest_documents(documents({"secret.txt": "apple pear plum"}, ("group:law",)))
    assert all(hit.chunk.text != "apple pear plum" for hit in rag.search("apple", 30))
    assert "apple pear plum" in {hit.chunk.text for hit in rag.search("apple", 30, principals=["group:law"])}
    (hit,) = rag.search("apple", 1, where="source = 'secret.txt'", principals=["group:law"])
    assert hit.chunk.text == "apple pear plum"
    assert rag.search("apple", 5, where="source = 'secret.txt'") == []


def test_vectors_of_a_commit_that_failed_are_in_no_result_and_are_taken_back(
    rag: Rag, index: RemoteIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rag.ingest_documents(documents(TEXTS))
    with monkeypatch.context() as broken:
        broken.setattr(Catalog, "writing", lambda self: (_ for _ in ()).throw(OSError("no space left on device")))
        with pytest.raises(OSError, match="no space"):
            rag.ingest_documents(documents({"d.txt": "apple orphan"}))
    assert on_server(rag) == 6
    again = opened(index, tmp_path)  # another process
    assert len(again.search("apple", 9)) == 5 and again.verify() == []
    again.ingest_documents(documents({"e.txt": "apple pie"}))  # takes the keys of the orphan
    assert on_server(again) == 6
    assert "apple pie" in {hit.chunk.text for hit in again.search("apple pie", 9)}


def test_a_server_that_stops_halfway_costs_the_commit_only(
    rag: Rag, index: RemoteIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rag.ingest_documents(documents(TEXTS))
    real = index.server.put

    def stops(segment: str, keys: Any, vectors: Any) -> None:
        real(segment, keys[:1], vectors[:1])
        raise ServerError("gone")

    def gone(segment: str) -> None:
        raise ServerError("gone")

    with monkeypatch.context() as broken:
        broken.setattr(index.server, "put", stops)
        broken.setattr(index.server, "drop", gone)
        with pytest.raises(ServerError, match="gone"):
            rag.ingest_documents(documents({"d.txt": "one\n\ntwo"}))
        assert on_server(rag) == 6 and len(list((tmp_path / "index" / "segments").iterdir())) == 2
        with pytest.raises(ServerError, match="gone"):
            opened(index, tmp_path).ingest_documents(documents({"d.txt": "one\n\ntwo"}))
    assert len(opened(index, tmp_path).search("apple", 9)) == 5
    opened(index, tmp_path).ingest_documents(documents({"d.txt": "one\n\ntwo"}))
    assert on_server(rag) == 7 and len(list((tmp_path / "index" / "segments").iterdir())) == 2


def test_what_is_missing_or_changed_on_the_server_is_named_and_repaired(rag: Rag, index: RemoteIndex, tmp_path: Path) -> None:
    rag.ingest_documents(documents(TEXTS))
    (folder,) = (tmp_path / "index" / "segments").iterdir()
    keys = np.array([0], np.int64)
    vector = index.server.fetch(folder.name, keys)[0]
    index.server.drop(folder.name)
    with pytest.raises(DamagedIndex, match="the server holds 0 of its 5 vectors"):
        opened(index, tmp_path).search("apple", 3)
    rag = opened(index, tmp_path)
    assert ["the server holds 0 of its 5 vectors" in fault for fault in rag.verify()] == [True]
    assert rag.verify(repair=True) == [] and on_server(rag) == 5
    (folder,) = (tmp_path / "index" / "segments").iterdir()
    rows = ServerRows(index.server, folder, np.arange(5), 256)[:]
    index.server.drop(folder.name)
    rows[0] = vector[::-1]
    index.server.put(folder.name, np.arange(5), rows)
    assert ["vectors have changed" in fault for fault in opened(index, tmp_path).verify()] == [True]


def test_a_reader_that_a_compaction_left_behind_takes_the_new_commit(
    rag: Rag, index: RemoteIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rag.ingest_documents(documents(TEXTS))
    other = opened(index, tmp_path)
    rag.catalog._connection().execute("PRAGMA busy_timeout = 0")  # it need not wait for the reader that waits for it
    real, done = index.server.nearest, list[bool]()

    def compacts_first(*asked: Any) -> Any:
        if not done:
            done.append(True)
            rag.delete("c.txt")
            rag.compact()
        return real(*asked)

    monkeypatch.setattr(index.server, "nearest", compacts_first)
    assert len(other.search("apple", 9)) == 4 and done


def test_saved_again_from_another_segment_the_vectors_are_the_same_bits(index: RemoteIndex, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((1100, 8)).astype(np.float32)  # more than a block
    segments: list[RemoteSegment] = []
    for name, vectors in (("one", rows), ("two", None)):
        folder = tmp_path / f"{tmp_path.name}-{name}"
        folder.mkdir()
        source = vectors if vectors is not None else segments[0].vectors
        RemoteSegment(np.arange(1100), source, "f", index.server).save(folder)
        segments.append(RemoteSegment(np.arange(1100), ServerRows(index.server, folder, np.arange(1100), 8), "f", index.server))
    np.testing.assert_array_equal(segments[1].vectors[:], rows)


@pytest.mark.parametrize(("rows", "dim", "most"), [(1100, 8, 512), (300, 4096, 128), (3, 2**20, 1), (0, 8, 0)])
def test_no_request_grows_with_the_segment_or_the_width(rows: int, dim: int, most: int) -> None:
    sent = [block.shape for _, block in blocks(np.arange(rows), np.zeros((rows, dim), np.float32))]
    assert sum(number for number, _ in sent) == rows and max((number for number, _ in sent), default=0) == most


def test_many_queries_with_a_large_filter_are_asked_in_parts(
    index: RemoteIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / f"{tmp_path.name}-filter"
    folder.mkdir()
    rows = np.random.default_rng(1).standard_normal((40, 8)).astype(np.float32)
    RemoteSegment(np.arange(40), rows, "f", index.server).save(folder)
    wanted = Selection([folder.name], np.arange(0, 40, 2), None)
    whole = index.server.nearest(rows[:5], 3, wanted)
    monkeypatch.setattr("rag.retrievers.qdrant._KEYS_AT_A_TIME", 45)
    for mine, theirs, row in zip(index.server.nearest(rows[:5], 3, wanted), whole, rows[:5], strict=True):
        truth = np.arange(0, 40, 2)[np.argsort(-(rows[::2] @ row))[:3]]
        assert mine.keys.tolist() == theirs.keys.tolist() == truth.tolist()


def test_a_place_made_for_other_vectors_is_refused_by_name(index: RemoteIndex) -> None:
    index.server.create(256)
    with pytest.raises(ConfigError, match="remote_.* of 128 numbers"):
        index.server.create(128)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QdrantIndex(HashingEncoder(), url="localhost"), "url must be that of a Qdrant server"),
        (lambda: QdrantIndex(HashingEncoder(), collection=""), "collection must not be empty"),
        (lambda: QdrantIndex(HashingEncoder(), ef_search=0), "ef_search=0"),
        (lambda: QdrantIndex(HashingEncoder(), timeout_seconds=0), "timeout_seconds=0"),
        (lambda: PgvectorIndex(HashingEncoder(), table="x; DROP TABLE y"), "table must be lower-case letters"),
        (lambda: PgvectorIndex(HashingEncoder(), timeout_seconds=-1), "timeout_seconds must be above 0"),
        (lambda: PgvectorIndex(HashingEncoder(), num_cached_queries=-1), "num_cached_queries"),
    ],
)
def test_wrong_options_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_no_server_is_one_line_without_the_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(ServerError) as told:
        PgvectorIndex(HashingEncoder(), url="postgresql://me:hunter2@127.0.0.1:9/x", timeout_seconds=1).server.count("s")
    assert str(told.value).startswith("Postgres (host 127.0.0.1, database x): ") and "hunter2" not in str(told.value)
    assert "\n" not in str(told.value)


def test_no_qdrant_is_one_line() -> None:
    pytest.importorskip("qdrant_client")
    with pytest.raises(ServerError, match=r"^Qdrant at http://127.0.0.1:9: .*refused"):
        QdrantIndex(HashingEncoder(), url="http://127.0.0.1:9", timeout_seconds=1).server.count("s")


@pytest.mark.parametrize(("word", "module"), [("qdrant", "qdrant_client"), ("pgvector", "psycopg")])
def test_without_the_package_the_command_that_brings_it_is_told(word: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'ragstone\[{word}\]'"):
        CLASSES[word](HashingEncoder()).server.count("s")
