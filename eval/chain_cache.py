"""Outcomes of single questions on disk, by the content they depend on. Knows keys and records; knows no pipeline.

One SQLite file in WAL mode, a transaction per outcome: what was written before an interruption, kill -9 included, is there afterwards. It is
a cache: a file or a row that cannot be read counts as absent and is put aside or written anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from rag.core import digest
from rag.eval.chain_report import QuestionOutcome

FILE = "outcomes.sqlite"
_TABLE = "CREATE TABLE IF NOT EXISTS outcomes (key TEXT PRIMARY KEY, outcome TEXT NOT NULL, seal TEXT NOT NULL)"


class OutcomeCache:
    """The outcomes in ``folder``; with ``None`` nothing is kept and nothing is found."""

    def __init__(self, folder: Path | None) -> None:
        self._connection = None if folder is None else _opened(folder / FILE)

    @property
    def is_kept(self) -> bool:
        """Whether anything outlasts the run."""
        return self._connection is not None

    def get(self, key: str) -> QuestionOutcome | None:
        """What was put under ``key``, if it can be read."""
        if self._connection is None:
            return None
        for outcome, seal in self._connection.execute("SELECT outcome, seal FROM outcomes WHERE key = ?", (key,)):
            if seal == digest(key, outcome):
                try:
                    return QuestionOutcome.model_validate_json(outcome)
                except ValidationError:
                    return None
        return None

    def put(self, key: str, outcome: QuestionOutcome) -> None:
        """Keeps ``outcome``; when this returns it survives the end of the process."""
        if self._connection is not None:
            text = outcome.model_dump_json()
            self._connection.execute("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?)", (key, text, digest(key, text)))

    def close(self) -> None:
        """Closes the file."""
        if self._connection is not None:
            self._connection.close()


@contextmanager
def outcome_cache(folder: Path | None) -> Iterator[OutcomeCache]:
    """An ``OutcomeCache`` that is closed at the end."""
    cache = OutcomeCache(folder)
    try:
        yield cache
    finally:
        cache.close()


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(_TABLE)
            connection.execute("SELECT key, outcome, seal FROM outcomes LIMIT 1").fetchall()
            return connection
        except sqlite3.OperationalError:  # locked, full, read-only: the file itself is no worse for it
            connection.close()
            raise
        except sqlite3.DatabaseError:
            connection.close()
            path.replace(path.with_suffix(".damaged"))
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
    raise OSError(f"{path}: a new file cannot be read either")
