"""The index ``pgvector``: dense vectors in a table of a Postgres server. Knows SQL and pgvector's operators; knows no catalog and no model."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rag.core import Encoder, Matches
from rag.errors import ConfigError, MissingExtra
from rag.retrievers.remote import Floats, Keys, Selection, refused
from rag.retrievers.remote_index import RemoteIndex

_MOST_DIMENSIONS = 16_000  # of pgvector's type `vector`


class PgvectorIndex(RemoteIndex):
    """Finds chunks whose meaning is near the query's, by inner product of ``encoder`` vectors in Postgres with the extension pgvector.

    ``url``: a connection string (``postgresql://user@host/database``), best written ``${env:NAME}``; ``table``: made at the first ingest;
    several indexes may share one. Every search is exact, by a scan of what may appear (which Postgres spreads over its workers): pgvector
    filters a graph's results after the top k. Nothing but vectors, keys and names of segments is sent: no text, no permission.
    Raises ``ConfigError`` for options out of range, ``MissingExtra`` without psycopg.
    """

    def __init__(
        self,
        encoder: Encoder,
        url: str = "postgresql://localhost",
        table: str = "ragstone",
        timeout_seconds: float = 30.0,
        num_cached_queries: int = 256,
    ) -> None:
        super().__init__(encoder, num_cached_queries)
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", table):
            raise ConfigError(f"table must be lower-case letters, digits and underscores (at most 63), not {table!r}")
        if not timeout_seconds > 0:
            raise ConfigError(f"timeout_seconds must be above 0, not {timeout_seconds}")
        self._server = PgvectorServer(url, table, timeout_seconds)

    @property
    def server(self) -> PgvectorServer:
        return self._server


class PgvectorServer:
    """One table (segment, key, embedding). A ``VectorServer`` over one connection, which is made again when it breaks."""

    def __init__(self, url: str, table: str, timeout_seconds: float) -> None:
        self._url, self._table, self._timeout_seconds = url, table, timeout_seconds
        self._connection: Any = None
        self._lock = threading.Lock()

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        """The connection, ours alone; its errors become ours, without the password that the URL may hold."""
        try:
            import psycopg
        except ImportError:
            raise MissingExtra("psycopg", "pgvector", "the index 'pgvector'") from None
        with self._lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = self._connect(psycopg)
                yield self._connection
            except psycopg.Error as error:
                raise refused(f"Postgres ({_place(psycopg, self._url)})", error) from error

    def _connect(self, psycopg: Any) -> Any:
        connection = psycopg.connect(self._url, autocommit=True, connect_timeout=max(1, round(self._timeout_seconds)))
        connection.execute("SELECT set_config('statement_timeout', %s, false)", [str(round(1000 * self._timeout_seconds))])
        connection.execute("SET synchronous_commit = on")  # what the catalog names must survive a power cut on the other side too
        return connection

    def create(self, dim: int) -> None:
        if dim > _MOST_DIMENSIONS:
            raise ConfigError(f"pgvector holds vectors of at most {_MOST_DIMENSIONS} numbers, this encoder makes {dim}")
        with self._asking() as connection:
            if connection.execute("SELECT to_regtype('vector')").fetchone() == (None,):
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self._table} "
                f"(segment text NOT NULL, key bigint NOT NULL, embedding vector({dim}) NOT NULL, PRIMARY KEY (segment, key))"
            )
            found = "SELECT atttypmod FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = 'embedding'"
            if connection.execute(found, [self._table]).fetchone() != (dim,):
                raise ConfigError(
                    f"the table {self._table!r} is not made for vectors of {dim} numbers; name another one with `table:`"
                )

    def put(self, segment: str, keys: Keys, vectors: Floats) -> None:
        sql = f"COPY {self._table} (segment, key, embedding) FROM STDIN"
        with self._asking() as connection, connection.cursor() as cursor, cursor.copy(sql) as copy:
            for key, row in zip(keys.tolist(), vectors, strict=True):
                copy.write_row((segment, key, _text(row)))

    def count(self, segment: str) -> int:
        with self._asking() as connection:
            if connection.execute("SELECT to_regclass(%s)", [self._table]).fetchone() == (None,):
                return 0
            return int(connection.execute(f"SELECT count(*) FROM {self._table} WHERE segment = %s", [segment]).fetchone()[0])

    def fetch(self, segment: str, keys: Keys) -> dict[int, Floats]:
        sql = f"SELECT key, embedding::real[] FROM {self._table} WHERE segment = %s AND key = ANY(%s)"
        with self._asking() as connection, connection.cursor(binary=True) as cursor:
            return {key: np.array(row, np.float32) for key, row in cursor.execute(sql, [segment, keys.tolist()])}

    def nearest(self, queries: Floats, k: int, selection: Selection) -> list[Matches]:
        where, values = "segment = ANY(%s)", [list(selection.segments)]
        for keys, condition in ((selection.only, "key = ANY(%s)"), (selection.without, "key <> ALL(%s)")):
            if keys is not None:
                where += f" AND {condition}"
                values.append(keys.tolist())
        # `0 +`: somebody's graph index on the column would be used otherwise, and takes its top before it filters
        distance = "0 + (embedding <#> %s::vector)"
        sql = f"SELECT key, -({distance}) FROM {self._table} WHERE {where} ORDER BY {distance}, key LIMIT %s"
        found = []
        with self._asking() as connection:
            for query in queries:
                rows = connection.execute(sql, [_text(query), *values, _text(query), k]).fetchall()
                keys = np.array([key for key, _ in rows], np.int64)
                found.append(Matches(keys, np.array([score for _, score in rows], np.float32)))
        return found

    def drop(self, segment: str) -> None:
        with self._asking() as connection:
            if connection.execute("SELECT to_regclass(%s)", [self._table]).fetchone() != (None,):
                connection.execute(f"DELETE FROM {self._table} WHERE segment = %s", [segment])


def _text(row: Floats) -> str:
    """pgvector's way to write a vector; nine digits give a float32 back exactly."""
    return f"[{','.join(format(number, '.9g') for number in row.tolist())}]"


def _place(psycopg: Any, url: str) -> str:
    try:
        parts = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        return "a connection string that cannot be read"
    return f"host {parts.get('host', 'local')}, database {parts.get('dbname', 'of the user')}"
