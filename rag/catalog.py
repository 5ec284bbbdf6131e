"""The one commit point: an SQLite file that holds documents, chunks and the list of live segments. Knows no model, no search.

A change is durable exactly when the transaction that names it is (WAL, ``synchronous=FULL``). Every row carries a seal (a
digest of its other columns), since SQLite itself does not notice a flipped bit: a row that is read is a row that is checked.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.core import Chunk, Document, Element, Span, digest
from rag.errors import DamagedIndex, IndexMismatch, IndexNotFound
from rag.filter import Filter, to_sql
from rag.storage import FileSeal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT_VERSION = 1
READABLE_VERSIONS = (1,)

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL, seal TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (id TEXT PRIMARY KEY, source TEXT NOT NULL, content_hash TEXT NOT NULL, file_hash TEXT NOT NULL,
  stat TEXT NOT NULL, settings TEXT NOT NULL, meta TEXT NOT NULL, principals TEXT NOT NULL, num_chunks INTEGER NOT NULL,
  seal TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX documents_source ON documents (source);
CREATE TABLE texts (doc_id TEXT PRIMARY KEY, text TEXT NOT NULL, elements TEXT NOT NULL, seal TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE readable_by (principal TEXT NOT NULL, doc_id TEXT NOT NULL, PRIMARY KEY (principal, doc_id)) WITHOUT ROWID;
CREATE INDEX readable_by_document ON readable_by (doc_id);
CREATE TABLE chunks (key INTEGER PRIMARY KEY, id TEXT NOT NULL, doc_id TEXT NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL,
  text TEXT NOT NULL, context TEXT NOT NULL, meta TEXT NOT NULL, text_hash TEXT NOT NULL, seal TEXT NOT NULL);
CREATE INDEX chunks_document ON chunks (doc_id);
CREATE TABLE segments (name TEXT PRIMARY KEY, index_name TEXT NOT NULL, num_chunks INTEGER NOT NULL, files TEXT NOT NULL,
  seal TEXT NOT NULL) WITHOUT ROWID;
"""


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


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _seal(*columns: Any) -> str:
    return digest(*(str(column) for column in columns))


def _mix(keys: Iterable[int]) -> int:
    """Order-free digest of a set of keys, so that a commit updates it without reading the others (splitmix64, summed)."""
    total = 0
    for key in keys:
        x = (key + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        total = (total + (x ^ (x >> 31))) & 0xFFFFFFFFFFFFFFFF
    return total


def _mix_array(keys: NDArray[np.int64]) -> int:
    import numpy as np

    x = keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((x ^ (x >> np.uint64(31))).sum(dtype=np.uint64))


class Catalog:
    """The catalog of one index folder. One connection per thread; reads see one commit, writes are one transaction."""

    def __init__(self, path: Path) -> None:
        """Opens ``path``. Raises ``IndexNotFound``, ``IndexMismatch`` (newer format) or ``DamagedIndex``."""
        self.path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        if not path.is_file():
            raise IndexNotFound(f"there is no index at {path.parent} (`rag ingest PATH --index {path.parent}` makes one)")
        with self.reading() as read:
            version = int(read.meta("format_version"))
        if version not in READABLE_VERSIONS:
            raise IndexMismatch(f"{path.parent} has format {version}; this version reads {', '.join(map(str, READABLE_VERSIONS))}")

    @classmethod
    def create(cls, path: Path, meta: Mapping[str, str]) -> Catalog:
        """A new, empty catalog: written beside its final name and renamed, so that it is there whole or not at all."""
        from rag.storage import fsync

        partial = path.with_name(path.name + ".new")
        for leftover in path.parent.glob(partial.name + "*"):
            leftover.unlink()
        connection = sqlite3.connect(partial, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN")
            for statement in _SCHEMA.split(";\n"):
                connection.execute(statement)
            writer = Write(connection, path)
            for name, value in {"format_version": str(FORMAT_VERSION), "generation": "0", "next_key": "0", "live": "0 0", **meta}.items():
                writer.set_meta(name, value)
            connection.execute("COMMIT")
        finally:
            connection.close()
        fsync(partial)
        partial.rename(path)
        fsync(path.parent)
        return cls(path)

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, isolation_level=None, timeout=30, check_same_thread=False)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA secure_delete = ON")
                connection.execute("PRAGMA cell_size_check = ON")
                connection.execute("PRAGMA trusted_schema = OFF")
            except sqlite3.DatabaseError as error:
                connection.close()
                raise DamagedIndex(self.path, str(error)) from None
            self._local.connection = connection
            self._connections.append(connection)
        return connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise OSError(f"{self.path}: {error}") from error
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT):
                raise
            raise DamagedIndex(self.path, str(error)) from error
        except (sqlite3.DatabaseError, UnicodeDecodeError, OverflowError) as error:
            raise DamagedIndex(self.path, str(error)) from error

    @contextmanager
    def reading(self) -> Iterator[Read]:
        """A view of the last commit that does not change while it is open. Views of one thread may be nested."""
        with self._translated():
            connection = self._connection()
            nested = connection.in_transaction
            if not nested:
                connection.execute("BEGIN")
            try:
                yield Read(connection, self.path)
            finally:
                if not nested and connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[Write]:
        """One transaction: committed when the block ends, gone if it raises. The caller holds the writer's lock."""
        with self._translated():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                writer = Write(connection, self.path)
                yield writer
                writer.set_meta("generation", str(int(writer.meta("generation")) + 1))
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def checkpoint(self) -> None:
        """Moves the log into the file and empties it. Best effort: a reader that is busy keeps the log for later."""
        try:
            self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.OperationalError as error:  # the commit stands in the log either way
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CORRUPT:
                raise DamagedIndex(self.path, str(error)) from None

    def vacuum(self) -> None:
        """Gives freed pages back to the file system; deleted text is physically gone afterwards."""
        with self._translated():
            self._connection().execute("VACUUM")
        self.checkpoint()

    def close(self) -> None:
        """Closes the connections of all threads."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._local = threading.local()


class Read:
    """Questions to one commit of the catalog."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        yield from self._connection.execute(sql, parameters)

    def _check(self, what: str, seal: str, *columns: Any) -> None:
        if seal != _seal(*columns):
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
        if len(keys) != number or _mix_array(keys) != mixed or (number and not 0 <= keys.min() <= keys.max() < next_key):
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
                raise DamagedIndex(self._path, f"the chunks of {document.source!r} are not the {document.num_chunks} committed ones")
        if readers != expected or num_chunks:
            raise DamagedIndex(self._path, "permissions or chunks do not belong to the committed documents")


def _element(stored: list[Any]) -> Element:
    span, kind, level, page, bbox, rows, num_header_rows, source = stored
    spans = tuple(Span(*row) for row in rows)
    return Element(Span(*span), kind, level, page, tuple(bbox) if bbox else None, spans, num_header_rows, source)


class Write(Read):
    """Changes inside one transaction."""

    def _put(self, table: str, *columns: Any) -> None:
        marks = ", ".join("?" * (len(columns) + 1))
        self._connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", (*columns, _seal(*columns)))

    def set_meta(self, name: str, value: str) -> None:
        """Sets a named setting."""
        self._put("meta", name, value)

    def take_keys(self, number: int) -> range:
        """``number`` chunk keys that were never used before."""
        first = int(self.meta("next_key"))
        self.set_meta("next_key", str(first + number))
        return range(first, first + number)

    def put_document(self, row: DocumentRow, document: Document) -> None:
        """Adds a document or replaces the one with the same id (its chunks are a matter of their own)."""
        self.put_row(row)
        self._connection.execute("DELETE FROM readable_by WHERE doc_id = ?", (row.id,))
        self._connection.executemany("INSERT OR IGNORE INTO readable_by VALUES (?, ?)", [(name, row.id) for name in row.principals])
        elements = [
            [e.span, e.kind, e.level, e.page, e.bbox, e.rows, e.num_header_rows, e.source] for e in document.elements
        ]
        self._put("texts", row.id, document.text, _json(elements))

    def put_row(self, row: DocumentRow) -> None:
        """Rewrites what the catalog knows of a document besides its text and its readers."""
        self._put("documents", row.id, row.source, row.content_hash, row.file_hash, row.stat, row.settings, _json(dict(row.meta)),
                  _json(row.principals), row.num_chunks)  # fmt: skip

    def put_chunks(self, chunks: Iterable[tuple[int, Chunk]]) -> None:
        """Adds chunks under new keys, or replaces those under keys that are in use."""
        rows = [
            (key, c.id, c.doc_id, c.span.start, c.span.end, c.text, c.context, _json(dict(c.meta)), digest(c.indexed_text))
            for key, c in chunks
        ]
        self._count([key for key, *_ in rows], gone=False)
        self._connection.executemany(
            f"INSERT OR REPLACE INTO chunks VALUES ({', '.join('?' * 10)})", [(*row, _seal(*row)) for row in rows]
        )

    def delete_chunks(self, keys: Sequence[int]) -> None:
        """Removes chunks; unknown keys are ignored."""
        self._count(keys, gone=True)
        self._connection.executemany("DELETE FROM chunks WHERE key = ?", [(key,) for key in keys])

    def _count(self, keys: Sequence[int], *, gone: bool) -> None:
        present: set[int] = set()
        for start in range(0, len(keys), 500):
            part = list(keys[start : start + 500])
            sql = f"SELECT key FROM chunks WHERE key IN ({', '.join('?' * len(part))})"
            present.update(key for (key,) in self._rows(sql, part))
        changed = [key for key in keys if (key in present) == gone]
        number, mixed = (int(part) for part in self.meta("live").split())
        sign = -1 if gone else 1
        self.set_meta("live", f"{number + sign * len(changed)} {(mixed + sign * _mix(changed)) & 0xFFFFFFFFFFFFFFFF}")

    def delete_document(self, doc_id: str) -> int:
        """Removes a document with its chunks; returns how many chunks went."""
        keys = [key for (key,) in self._rows("SELECT key FROM chunks WHERE doc_id = ?", (doc_id,))]
        self.delete_chunks(keys)
        self.forget_document(doc_id)
        return len(keys)

    def forget_document(self, doc_id: str) -> None:
        """Removes a document but not its chunks, which another document takes over in the same transaction."""
        self._connection.execute("DELETE FROM documents WHERE id = ?", (doc_id,))
        self._connection.execute("DELETE FROM texts WHERE doc_id = ?", (doc_id,))
        self._connection.execute("DELETE FROM readable_by WHERE doc_id = ?", (doc_id,))

    def add_segment(self, row: SegmentRow) -> None:
        """Names a segment as live."""
        self._put("segments", row.name, row.index_name, row.num_chunks, _json(row.files))

    def drop_segments(self, names: Iterable[str]) -> None:
        """Names segments as dead; the folders are removed after the commit."""
        self._connection.executemany("DELETE FROM segments WHERE name = ?", [(name,) for name in names])
