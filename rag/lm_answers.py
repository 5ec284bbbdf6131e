"""Answers by key in one SQLite file that several threads and processes share, bounded in bytes. Knows no language model.

A cache: whatever it cannot vouch for is absent. Every entry carries a checksum over key and text, so a page that a torn write or a
bad disk has altered is no wrong answer.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rag.errors import ModelError

APPLICATION_ID = 0x5261674C
"""Marks the file as ours ("RagL")."""

FORMAT_VERSION = 1
"""Part of the file's name: another format is another file."""

ENTRY_BYTES = 128
"""What an entry takes beside its text: key, checksum, time, two index rows."""

BUSY_SECONDS = 30.0
NUM_EVICTED = 64  # entries looked at together when room is made

REMEDY = "delete it, or name another folder"
_DELETE = "DELETE FROM answers WHERE key = ?"
_TABLES = ("answers", "by_use", "total", "added", "removed")
_PASSING = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR}
)

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, used INTEGER NOT NULL, num_bytes INTEGER NOT NULL, checksum BLOB NOT NULL,
  text BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON answers (used);
CREATE TABLE IF NOT EXISTS total (num_bytes INTEGER NOT NULL);
INSERT INTO total SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM total);
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON answers BEGIN UPDATE total SET num_bytes = num_bytes + new.num_bytes; END;
CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON answers BEGIN UPDATE total SET num_bytes = num_bytes - old.num_bytes; END;
PRAGMA application_id = {APPLICATION_ID};
COMMIT;
"""


class AnswerStore:
    """Texts by 16-byte key in ``folder``, at most ``max_bytes`` of them; those that were used longest ago go first.

    All methods raise ``ModelError`` that names the file if it is not ours or damaged beyond reading. A store that cannot be written to
    for now (disk full, locked for long) keeps nothing new; ``num_unsaved`` counts.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.path = folder / f"answers-{FORMAT_VERSION}.sqlite"
        self.max_bytes = max_bytes
        self.num_unsaved = 0
        self._lock = threading.Lock()
        self._opened: tuple[int, sqlite3.Connection] | None = None

    def get(self, keys: Sequence[bytes]) -> dict[bytes, str]:
        """What is there under ``keys``; it counts as used now."""
        found: dict[bytes, str] = {}
        damaged: list[tuple[bytes]] = []
        with self._connection() as db:
            for key in dict.fromkeys(keys):
                row = db.execute("SELECT checksum, text FROM answers WHERE key = ?", (key,)).fetchone()
                if row is None:
                    continue
                if isinstance(row[1], bytes) and row[0] == _checksum(key, row[1]):
                    found[key] = row[1].decode("utf-8")
                else:
                    damaged.append((key,))
            if found or damaged:
                now = time.time_ns()
                used = partial(db.executemany, "UPDATE answers SET used = ? WHERE key = ?", [(now, key) for key in found])
                self._save(db, 0, used, partial(db.executemany, _DELETE, damaged))
        return found

    def put(self, texts: Mapping[bytes, str]) -> None:
        """Keeps ``texts``, then makes room. One that is larger than the whole store is not kept."""
        now = time.time_ns()
        rows = []
        for key, text in texts.items():
            encoded = text.encode("utf-8")
            if len(encoded) + ENTRY_BYTES <= self.max_bytes:
                rows.append((key, now, len(encoded) + ENTRY_BYTES, _checksum(key, encoded), encoded))
        if rows:
            with self._connection() as db:
                old = partial(db.executemany, _DELETE, [(row[0],) for row in rows])
                new = partial(db.executemany, "INSERT INTO answers VALUES (?, ?, ?, ?, ?)", rows)
                self._save(db, len(rows), old, new, partial(self._make_room, db))

    def num_bytes(self) -> int:
        """What the entries take; the file is somewhat larger."""
        with self._connection() as db:
            return int(db.execute("SELECT coalesce(sum(num_bytes), 0) FROM total").fetchone()[0])

    def __len__(self) -> int:
        with self._connection() as db:
            return int(db.execute("SELECT count(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        """Closes the file; the next use opens it again."""
        with self._lock:
            if self._opened and self._opened[0] == os.getpid():
                self._opened[1].close()
            self._opened = None

    def _make_room(self, db: sqlite3.Connection) -> None:
        while (excess := db.execute("SELECT coalesce(sum(num_bytes), 0) FROM total").fetchone()[0] - self.max_bytes) > 0:
            oldest = db.execute("SELECT key, num_bytes FROM answers ORDER BY used, key LIMIT ?", (NUM_EVICTED,)).fetchall()
            if not oldest:
                return
            for key, num_bytes in oldest:
                if excess <= 0:
                    break
                db.execute(_DELETE, (key,))
                excess -= num_bytes

    # The file ------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                if self._opened is None or self._opened[0] != os.getpid():  # a forked child opens the file anew
                    self._opened = (os.getpid(), self._open())
                yield self._opened[1]
            except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where the message would quote what is damaged
                raise ModelError(f"{self.path} is damaged or cannot be used as a cache of answers ({error}): {REMEDY}") from error

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(f"cannot make the folder {self.path.parent} for a cache of answers: {error.strerror}") from error
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            owner = db.execute("PRAGMA application_id").fetchone()[0]
            tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if tables and owner != APPLICATION_ID:
                raise ModelError(f"{self.path} is a database of another program: {REMEDY}")
            if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA journal_size_limit = 16777216")
            if owner != APPLICATION_ID or tables < len(_TABLES):
                db.executescript(_SCHEMA)
        except (sqlite3.Error, UnicodeDecodeError, ModelError):
            db.close()
            raise
        return db

    def _save(self, db: sqlite3.Connection, num_entries: int, *steps: Callable[[], object]) -> None:
        """All steps in one transaction. If the file cannot be written to for now, nothing is kept and ``num_entries`` are counted as unsaved."""
        try:
            db.execute("BEGIN IMMEDIATE")
            for step in steps:
                step()
            db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _PASSING:
                raise
            self.num_unsaved += num_entries
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")


def _checksum(key: bytes, text: bytes) -> bytes:
    return hashlib.blake2b(text, key=key, digest_size=16).digest()
