"""Servers for the indexes that keep their vectors on one: Qdrant's own in-memory mode, and a Postgres with pgvector of the wheel `pgserver`."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

MISSING = {
    "qdrant": "needs qdrant-client (pip install 'ragstone[qdrant]')",
    "pgvector": "needs psycopg (pip install 'ragstone[pgvector]') and a Postgres: pip install pgserver, or RAG_TEST_PGVECTOR_URL",
}


@cache
def _postgres() -> str:
    """The connection string of a server that lives as long as the test run."""
    pytest.importorskip("psycopg", reason=MISSING["pgvector"])
    if url := os.environ.get("RAG_TEST_PGVECTOR_URL"):
        return url
    pgserver = pytest.importorskip("pgserver", reason=MISSING["pgvector"])
    with warnings.catch_warnings(action="ignore"):
        url = str(pgserver.get_server(tempfile.mkdtemp(prefix="pg")).get_uri())
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:  # nobody cuts the power of a test
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    return url


@cache
def _qdrant(url: str) -> Any:
    from qdrant_client import QdrantClient

    return QdrantClient(":memory:")


class _Quiet:
    """Qdrant's in-memory mode warns that it heeds neither payload indexes nor search parameters, which is what a test server may do."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*args: Any, **options: Any) -> Any:
            with warnings.catch_warnings(action="ignore"):
                return method(*args, **options)

        return call


def options_of(word: str, monkeypatch: pytest.MonkeyPatch, name: str) -> dict[str, Any]:
    """Options that make the index ``word`` reach a test server, its vectors under ``name``; skips with a reason where there is none."""
    if word == "pgvector":
        return {"url": _postgres(), "table": name}
    pytest.importorskip("qdrant_client", reason=MISSING["qdrant"])
    monkeypatch.setattr("rag.retrievers.qdrant.connect", lambda url, api_key, timeout_seconds: _Quiet(_qdrant(url)))
    return {"url": "http://test", "collection": name}
