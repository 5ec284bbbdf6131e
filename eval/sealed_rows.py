"""Texts on disk under keys, each with a seal. Knows SQLite; knows nothing of what the texts say.

One file in WAL mode, a transaction per text: what was written before an interruption, kill -9 included, is there afterwards. It is a cache: a file
or a row that cannot be read counts as absent and is put aside or written anew.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from rag.core import digest

_TABLE = "CREATE TABLE IF NOT EXISTS texts (key TEXT PRIMARY KEY, text TEXT NOT NULL, seal TEXT NOT NULL)"


class SealedRows:
    """The texts in the file ``path``, which is made if it is not there. Raises ``OSError`` or ``sqlite3.OperationalError`` if it cannot be."""

    def __init__(self, path: Path) -> None:
        self._connection = _opened(path)

    def get(self, key: str) -> str | None:
        """What was put under ``key``, if it is there unaltered."""
        for text, seal in self._connection.execute("SELECT text, seal FROM texts WHERE key = ?", (key,)):
            if seal == digest(key, text):
                return str(text)
        return None

    def put(self, key: str, text: str) -> None:
        """Keeps ``text``; when this returns it survives the end of the process."""
        self._connection.execute("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", (key, text, digest(key, text)))

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(_TABLE)
            connection.execute("SELECT key, text, seal FROM texts LIMIT 1").fetchall()
            return connection
        except sqlite3.OperationalError:  # locked, full, read-only: the file itself is no worse for it
            connection.close()
            raise
        except (sqlite3.DatabaseError, UnicodeDecodeError):  # the latter where the message would quote what is damaged
            connection.close()
            path.replace(path.with_suffix(".damaged"))
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
    raise OSError(f"{path}: a new file cannot be read either")
