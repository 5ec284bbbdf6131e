from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from rag.catalog import Catalog
from rag.catalog_read import DocumentRow
from rag.core import Chunk, Document, Element, Span
from rag.errors import DamagedIndex, IndexMismatch, IndexNotFound
from tests.fakes import document


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog.create(tmp_path / "catalog.sqlite", {"config": "{}", "indexes": "{}"})


def row(of: Document, num_chunks: int) -> DocumentRow:
    return DocumentRow(of.id, of.source, of.content_hash, "hash", "", "", of.meta, of.principals, num_chunks)


def store(catalog: Catalog, of: Document, *spans: Span) -> list[int]:
    chunks = [Chunk.of(of, span) for span in spans]
    with catalog.writing() as write:
        keys = list(write.take_keys(len(chunks)))
        write.put_document(row(of, len(chunks)), of)
        write.put_chunks(list(zip(keys, chunks, strict=True)))
    return keys


RICH = Document(
    Document.id_of("r"), "r", "Head\n\na | b\nc | d",
    (Element(Span(0, 4), "heading", 1, 1, (1.0, 2.0, 3.5, 4.0)),
     Element(Span(6, 17), "table", None, 2, None, (Span(6, 11), Span(12, 17)), 1, "Sheet1!A1:B2")),
    {"title": "Ä", "n": 1, "nested": {"x": [1, None]}}, ("user:ann", "*"),
)  # fmt: skip


def test_documents_and_chunks_come_back_as_they_were(catalog: Catalog) -> None:
    keys = store(catalog, RICH, Span(0, 4), Span(6, 17))
    with catalog.reading() as read:
        assert read.document(RICH.id) == RICH
        assert [chunk.text for chunk in read.chunks(keys).values()] == ["Head", "a | b\nc | d"]
        assert read.counts() == (1, 2)
        read.verify()


def test_keys_are_never_used_again(catalog: Catalog) -> None:
    first = store(catalog, document("a", "xx yy"), Span(0, 2), Span(3, 5))
    with catalog.writing() as write:
        write.delete_document(document("a", "").id)
    assert not set(store(catalog, document("a", "zz"), Span(0, 2))) & set(first)
    with catalog.reading() as read:
        assert read.live().tolist() == [False, False, True]


def test_a_failed_transaction_leaves_nothing(catalog: Catalog) -> None:
    with pytest.raises(RuntimeError), catalog.writing() as write:
        write.put_document(row(RICH, 0), RICH)
        raise RuntimeError
    with catalog.reading() as read:
        assert read.counts() == (0, 0)
        assert read.generation == 0


def test_a_view_does_not_change_while_it_is_open(catalog: Catalog) -> None:
    other = Catalog(catalog.path)
    with catalog.reading() as read:
        assert read.counts() == (0, 0)
        store(other, document("a", "xx"), Span(0, 2))
        assert read.counts() == (0, 0)
    with catalog.reading() as read:
        assert read.counts() == (1, 1)


CHANGES = [
    "UPDATE chunks SET text = 'other' WHERE key = 0",
    "UPDATE chunks SET key = 1 WHERE key = 0",
    "DELETE FROM chunks WHERE key = 0",
    "UPDATE documents SET principals = '[\"*\"]'",
    "UPDATE readable_by SET principal = '*'",
    "DELETE FROM readable_by",
    "UPDATE texts SET text = 'other'",
    "DELETE FROM texts",
    "UPDATE meta SET value = '5' WHERE name = 'next_key'",
    "DELETE FROM meta WHERE name = 'live'",
    "INSERT INTO segments VALUES ('x', 'dense', 0, '[]', 'no seal')",
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_changed_behind_our_back_is_noticed(catalog: Catalog, change: str) -> None:
    store(catalog, document("a", "xx", principals=("user:ann",)), Span(0, 2))
    catalog.close()
    with sqlite3.connect(catalog.path) as database:
        database.execute(change)
    database.close()
    with pytest.raises(DamagedIndex, match="catalog.sqlite"), Catalog(catalog.path).reading() as read:
        read.verify()


def test_a_newer_format_is_refused(catalog: Catalog) -> None:
    with catalog.writing() as write:
        write.set_meta("format_version", "99")
    catalog.close()
    with pytest.raises(IndexMismatch, match="99"):
        Catalog(catalog.path)


def test_what_is_no_catalog(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFound, match="rag ingest"):
        Catalog(tmp_path / "catalog.sqlite")
    (tmp_path / "catalog.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(DamagedIndex, match="catalog.sqlite"):
        Catalog(tmp_path / "catalog.sqlite")
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(DamagedIndex, match="empty.sqlite"):
        Catalog(tmp_path / "empty.sqlite")
