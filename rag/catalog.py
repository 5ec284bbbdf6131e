"""The one commit point: an SQLite file that holds documents, chunks and the list of live segments. Knows no model, no search.

A change is durable exactly when the transaction that names it is (WAL, ``synchronous=FULL``). Every row carries a seal (a
digest of its other columns), since SQLite itself does not notice a flipped bit (``rag.catalog_read`` checks them).
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rag.catalog_read import Read
from rag.catalog_write import Write
from rag.errors import DamagedIndex, IndexMismatch, IndexNotFound
from rag.storage import fsync

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
            for name, value in {
                "format_version": str(FORMAT_VERSION),
                "generation": "0",
                "next_key": "0",
                "live": "0 0",
                **meta,
            }.items():
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
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
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
            # Python's own complaint, about text that is not UTF-8, carries no code: bytes have changed.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            if code in (
                sqlite3.SQLITE_IOERR,
                sqlite3.SQLITE_FULL,
                sqlite3.SQLITE_CANTOPEN,
                sqlite3.SQLITE_READONLY,
            ):
                raise OSError(f"{self.path}: {error}") from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT):
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

    def checkpoint(self) -> bool:
        """Moves the log into the file and empties it; whether that was possible (a reader that is busy keeps the log for later)."""
        try:
            ((busy, _, _),) = self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.OperationalError as error:  # what was committed stands in the log either way
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_CORRUPT:
                raise DamagedIndex(self.path, str(error)) from None
            return False
        return not busy

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
