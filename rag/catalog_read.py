"""Questions to one commit of the catalog. Knows the tables; a row that is read is a row that is checked against its seal."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.core import Chunk, Document, Element, Span, digest
from rag.errors import DamagedIndex
from rag.filter import Filter, to_sql
from rag.storage import FileSeal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """What the catalog knows of a document besides its text. ``stat``: size, mtime and ctime of the file when it was read."""

    id: str
    source: str
    content_hash: str
    file_hash: str
    stat: str
    settings: str
    meta: Mapping[str, Any]
    principals: tuple[str, ...]
    num_chunks: int


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """A live segment of one index: a folder under ``segments/`` and what its files must be."""

    name: str
    index_name: str
    num_chunks: int
    files: tuple[FileSeal, ...]


def seal_of(*columns: Any) -> str:
    """The digest that a row carries of its other columns."""
    return digest(*(str(column) for column in columns))


def mix_keys(keys: NDArray[np.int64]) -> int:
    """Order-free digest of a set of keys, so that a commit updates it without reading the others (splitmix64, summed)."""
    import numpy as np

    x = keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((x ^ (x >> np.uint64(31))).sum(dtype=np.uint64))


class Read:
    """Questions to one commit of the catalog."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        yield from self._connection.execute(sql, parameters)

    def _check(self, what: str, seal: str, *columns: Any) -> None:
        if seal != seal_of(*columns):
            raise DamagedIndex(self._path, f"the row of {what} has changed")

    def meta(self, name: str) -> str:
        """A named setting. Raises ``DamagedIndex`` if it is not there."""
        for value, seal in self._rows("SELECT value, seal FROM meta WHERE name = ?", (name,)):
            self._check(f"the setting {name!r}", seal, name, value)
            return str(value)
        raise DamagedIndex(self._path, f"the setting {name!r} is missing")

    @property
    def generation(self) -> int:
        """Counts commits."""
        return int(self.meta("generation"))

    def live(self) -> NDArray[np.bool_]:
        """``live[key]``: whether the chunk exists. Raises ``DamagedIndex`` if the keys are not those that were committed."""
        import numpy as np

        keys = np.fromiter((key for (key,) in self._rows("SELECT key FROM chunks")), dtype=np.int64)
        number, mixed = (int(part) for part in self.meta("live").split())
        next_key = int(self.meta("next_key"))
        if len(keys) != number or mix_keys(keys) != mixed or (number and not 0 <= keys.min() <= keys.max() < next_key):
            raise DamagedIndex(self._path, f"holds {len(keys)} chunks that are not the {number} committed ones")
        live = np.zeros(next_key, dtype=np.bool_)
        live[keys] = True
        return live

    def allowed(self, principals: Sequence[str] | None, expression: Filter | None) -> NDArray[np.bool_]:
        """``allow[key]`` for the chunks that pass the filter and that one of ``principals`` may read (``None``: no such test)."""
        import numpy as np

        conditions, parameters = ["1"], []
        if principals is not None:
            marks = ", ".join("?" * len(principals))
            conditions.append(f"c.doc_id IN (SELECT doc_id FROM readable_by WHERE principal IN ({marks}))")
            parameters += list(principals)
        if expression is not None:
            sql, more = to_sql(expression)
            conditions.append(sql)
            parameters += more
        sql = f"SELECT c.key FROM chunks c JOIN documents d ON d.id = c.doc_id WHERE {' AND '.join(conditions)}"
        allow = np.zeros(int(self.meta("next_key")), dtype=np.bool_)
        allow[np.fromiter((key for (key,) in self._rows(sql, parameters)), dtype=np.int64)] = True
        return allow

    def only_public(self) -> bool:
        """Whether every document may be read by everybody."""
        sql = "SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM readable_by WHERE principal = '*')"
        ((num_documents, num_public),) = self._rows(sql)
        return bool(num_documents == num_public)

    def chunks(self, keys: Sequence[int]) -> dict[int, Chunk]:
        """The chunks with these keys; keys that are gone are left out."""
        found: dict[int, Chunk] = {}
        for start in range(0, len(keys), 500):
            part = [int(key) for key in keys[start : start + 500]]
            sql = f"SELECT * FROM chunks WHERE key IN ({', '.join('?' * len(part))})"
            found.update(self._chunk(row) for row in self._rows(sql, part))
        return found

    def _chunk(self, row: tuple[Any, ...]) -> tuple[int, Chunk]:
        *columns, seal = row
        key, name, doc_id, start, end, text, context, meta, _ = columns
        self._check(f"chunk {key}", seal, *columns)
        return key, Chunk(name, doc_id, Span(start, end), text, context, json.loads(meta))

    def all_chunks(self, after: int = -1, limit: int = 1000) -> list[tuple[int, Chunk]]:
        """The next ``limit`` chunks by ascending key."""
        sql = "SELECT * FROM chunks WHERE key > ? ORDER BY key LIMIT ?"
        return [self._chunk(row) for row in self._rows(sql, (after, limit))]

    def chunks_of(self, doc_id: str) -> list[tuple[int, Chunk]]:
        """The chunks of a document with their keys, by position."""
        return [self._chunk(row) for row in self._rows("SELECT * FROM chunks WHERE doc_id = ? ORDER BY start, key", (doc_id,))]

    def places_of(self, doc_id: str) -> list[tuple[int, Span]]:
        """Key and characters of every chunk of a document, by position; the rows are not compared with their seals."""
        sql = 'SELECT key, start, "end" FROM chunks WHERE doc_id = ? ORDER BY start, key'
        return [(key, Span(start, end)) for key, start, end in self._rows(sql, (doc_id,))]

    def fingerprint(self) -> str:
        """Names what a search can find: the documents and who may read them, the keys of their chunks, and the bytes of all segments."""
        documents = (
            f"{row.id} {row.content_hash} {row.principals} {[key for key, _ in self.places_of(row.id)]}" for row in self.documents()
        )
        segments = (f"{row.index_name} {row.files}" for row in self.segments())
        return digest(*sorted(documents), *sorted(segments))

    def _document_row(self, row: tuple[Any, ...]) -> DocumentRow:
        *columns, seal = row
        self._check(f"document {columns[1]!r}", seal, *columns)
        name, source, content_hash, file_hash, stat, settings, meta, principals, num_chunks = columns
        readers = tuple(json.loads(principals))
        return DocumentRow(name, source, content_hash, file_hash, stat, settings, json.loads(meta), readers, num_chunks)

    def documents(self, ids: Sequence[str] | None = None) -> Iterator[DocumentRow]:
        """The rows of these documents (``None``: of all, by id)."""
        if ids is None:
            yield from map(self._document_row, self._rows("SELECT * FROM documents ORDER BY id"))
            return
        for start in range(0, len(ids), 500):
            part = list(ids[start : start + 500])
            sql = f"SELECT * FROM documents WHERE id IN ({', '.join('?' * len(part))}) ORDER BY id"
            yield from map(self._document_row, self._rows(sql, part))

    def document(self, doc_id: str) -> Document:
        """The whole document. Raises ``KeyError`` if it is not there, ``DamagedIndex`` if it is not what was stored."""
        for row in self.documents([doc_id]):
            for text, elements, seal in self._rows("SELECT text, elements, seal FROM texts WHERE doc_id = ?", (doc_id,)):
                self._check(f"the text of {row.source!r}", seal, doc_id, text, elements)
                return Document(doc_id, row.source, text, tuple(map(_element, json.loads(elements))), row.meta, row.principals)
            raise DamagedIndex(self._path, f"the text of {row.source!r} is missing")
        raise KeyError(doc_id)

    def text(self, doc_id: str) -> str:
        """The text of a document. Raises ``KeyError`` if it is not there, ``DamagedIndex`` if it is not what was stored."""
        for text, elements, seal in self._rows("SELECT text, elements, seal FROM texts WHERE doc_id = ?", (doc_id,)):
            self._check(f"the text of document {doc_id}", seal, doc_id, text, elements)
            return str(text)
        raise KeyError(doc_id)

    def under(self, folder: str) -> Iterator[DocumentRow]:
        """The documents whose source lies in ``folder``, or is it."""
        sql = "SELECT * FROM documents WHERE source = ? OR (source >= ? AND source < ?) ORDER BY source"
        prefix = folder.rstrip("/") + "/"
        yield from map(self._document_row, self._rows(sql, (folder, prefix, prefix[:-1] + "0")))

    def segments(self) -> list[SegmentRow]:
        """The live segments, by name."""
        rows = []
        for *columns, seal in self._rows("SELECT * FROM segments ORDER BY name"):
            self._check(f"segment {columns[0]!r}", seal, *columns)
            name, index_name, num_chunks, files = columns
            rows.append(SegmentRow(name, index_name, num_chunks, tuple(FileSeal(*file) for file in json.loads(files))))
        return rows

    def counts(self) -> tuple[int, int]:
        """How many documents and chunks there are."""
        ((num_documents, num_chunks),) = self._rows("SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM chunks)")
        return num_documents, num_chunks

    def verify(self) -> None:
        """Reads everything. Raises ``DamagedIndex`` for the first row or page that is not what was written."""
        for (verdict,) in self._rows("PRAGMA integrity_check(1)"):
            if verdict != "ok":
                raise DamagedIndex(self._path, verdict)
        for (name,) in list(self._rows("SELECT name FROM meta")):
            self.meta(name)
        self.live()
        self.segments()
        readers = {(principal, doc_id) for principal, doc_id in self._rows("SELECT principal, doc_id FROM readable_by")}
        expected = set()
        num_chunks: dict[str, int] = {}
        for row in self._rows("SELECT * FROM chunks"):
            doc_id = self._chunk(row)[1].doc_id
            num_chunks[doc_id] = num_chunks.get(doc_id, 0) + 1
        for document in self.documents():
            expected |= {(principal, document.id) for principal in document.principals}
            self.document(document.id)
            if num_chunks.pop(document.id, 0) != document.num_chunks:
                raise DamagedIndex(
                    self._path, f"the chunks of {document.source!r} are not the {document.num_chunks} committed ones"
                )
        if readers != expected or num_chunks:
            raise DamagedIndex(self._path, "permissions or chunks do not belong to the committed documents")


def _element(stored: list[Any]) -> Element:
    span, kind, level, page, bbox, rows, num_header_rows, source = stored
    spans = tuple(Span(*row) for row in rows)
    return Element(Span(*span), kind, level, page, tuple(bbox) if bbox else None, spans, num_header_rows, source)
