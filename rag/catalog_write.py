"""Changes inside one transaction of the catalog. Knows the tables; the caller holds the writer's lock."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rag.catalog_read import DocumentRow, Read, SegmentRow, mix_keys, seal_of
from rag.core import Chunk, Document, digest


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


class Write(Read):
    """Changes inside one transaction."""

    def _put(self, table: str, *columns: Any) -> None:
        marks = ", ".join("?" * (len(columns) + 1))
        self._connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", (*columns, seal_of(*columns)))

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
        elements = [[e.span, e.kind, e.level, e.page, e.bbox, e.rows, e.num_header_rows, e.source] for e in document.elements]
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
            f"INSERT OR REPLACE INTO chunks VALUES ({', '.join('?' * 10)})", [(*row, seal_of(*row)) for row in rows]
        )

    def delete_chunks(self, keys: Sequence[int]) -> None:
        """Removes chunks; unknown keys are ignored."""
        self._count(keys, gone=True)
        self._connection.executemany("DELETE FROM chunks WHERE key = ?", [(key,) for key in keys])

    def _count(self, keys: Sequence[int], *, gone: bool) -> None:
        import numpy as np

        present: set[int] = set()
        for start in range(0, len(keys), 500):
            part = list(keys[start : start + 500])
            sql = f"SELECT key FROM chunks WHERE key IN ({', '.join('?' * len(part))})"
            present.update(key for (key,) in self._rows(sql, part))
        changed = [key for key in keys if (key in present) == gone]
        number, mixed = (int(part) for part in self.meta("live").split())
        sign = -1 if gone else 1
        self.set_meta(
            "live",
            f"{number + sign * len(changed)} {(mixed + sign * mix_keys(np.array(changed, dtype=np.int64))) & 0xFFFFFFFFFFFFFFFF}",
        )

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
