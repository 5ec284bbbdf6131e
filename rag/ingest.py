"""Bringing the index in step with documents: what is new, changed, renamed, gone. Knows no file format and no search.

Documents are applied whole or not at all, in batches of bounded size: chunk, build one segment per index, commit. A chunk
whose indexed text is unchanged keeps its key, so an edit encodes only what changed and a rename encodes nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from rag.catalog import Catalog
from rag.catalog_read import DocumentRow, Read
from rag.core import Chunk, Chunker, Document, Generator, Index, OnProgress, chunk_many, digest
from rag.segments import SegmentStore, build_all, due_merges
from rag.tracing import span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH_CHUNKS = 2048
BATCH_CHARS = 8_000_000
CUT_CHARS = 200_000
"""Documents of so many characters are cut together: enough for full batches of the model that a chunker may ask."""

CUT_DOCUMENTS = 256


@dataclass(frozen=True, slots=True)
class Refusal:
    """A source that was not ingested, and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What an ingest did. ``failed``: could not be read (an older version stays as it was); ``skipped``: not meant to be read."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    failed: tuple[Refusal, ...] = ()
    skipped: tuple[Refusal, ...] = ()
    num_chunks_added: int = 0
    num_chunks_deleted: int = 0
    seconds: float = 0.0
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an ingest is. ``num_files`` is 0 while it is not known.

    ``source``: the file that was looked at last. Files are taken in together: while an index is built of their chunks, ``index`` names it,
    and ``num_done`` of its ``num_chunks`` are encoded, as far as the encoder tells (``rag.core.hearing``).
    """

    num_files_done: int
    num_files: int
    num_chunks_encoded: int
    source: str
    index: str = ""
    num_done: int = 0
    num_chunks: int = 0


@dataclass(slots=True)
class Tally:
    """The report while it grows."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    failed: list[Refusal] = field(default_factory=list)
    skipped: list[Refusal] = field(default_factory=list)
    num_chunks_added: int = 0
    num_chunks_deleted: int = 0
    started: float = field(default_factory=time.perf_counter)

    def report(self, *, dry_run: bool = False) -> IngestReport:
        """The report as it stands."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "started"}
        fixed: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
        return IngestReport(**fixed, seconds=time.perf_counter() - self.started, dry_run=dry_run)


@dataclass(frozen=True, slots=True)
class Change:
    """One document to apply. ``old_id``: the document whose chunks it may keep (itself, or the one it was renamed from)."""

    document: Document
    file_hash: str
    stat: str
    settings: str
    old_id: str | None


@dataclass(slots=True)
class _Batch:
    changes: list[tuple[Change, list[tuple[int | None, Chunk]], list[int]]] = field(default_factory=list)
    uncut: list[Change] = field(default_factory=list)
    num_uncut_chars: int = 0
    num_new_chunks: int = 0
    num_chars: int = 0
    ids: set[str] = field(default_factory=set)


class Ingestion:
    """Applies changes to one index. The caller holds the writer's lock for as long as this object is used."""

    def __init__(
        self,
        catalog: Catalog,
        store: SegmentStore,
        indexes: Mapping[str, Index],
        chunker: Chunker,
        generator: Generator | None,
        tally: Tally,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self._catalog, self._store, self._indexes = catalog, store, indexes
        self._chunker, self._generator = chunker, generator
        self._batch = _Batch()
        self._tally, self._on_commit = tally, on_commit
        self.on_encoded: Callable[[str, int, int], None] = lambda index, num_done, num_chunks: None
        """Told, while an index is built, its name, how many chunks are encoded, and of how many."""
        self._reads_documents = any(index.reads_documents for index in indexes.values())
        if catalog.checkpoint():  # else the log may hold a commit that failed halfway and could still come back
            with catalog.reading() as read:
                store.sweep([row.name for row in read.segments()], indexes)

    def apply(self, change: Change) -> None:
        """Takes a document in; it is committed with its batch, at the latest by ``flush``."""
        touched = {change.document.id, change.old_id or change.document.id}
        if touched & self._batch.ids:
            self.flush()  # the old chunks must be read as the earlier change leaves them
        self._batch.ids |= touched
        self._batch.uncut.append(change)
        self._batch.num_uncut_chars += len(change.document.text)
        if self._batch.num_uncut_chars >= CUT_CHARS or len(self._batch.uncut) >= CUT_DOCUMENTS:
            self._cut()
        if self._batch.num_new_chunks >= BATCH_CHUNKS or self._batch.num_chars >= BATCH_CHARS:
            self.flush()

    def _cut(self) -> None:
        """Makes chunks of all documents of the batch that are still whole."""
        batch = self._batch
        if not batch.uncut:
            return
        changes, batch.uncut, batch.num_uncut_chars = batch.uncut, [], 0
        with span("chunk", documents=len(changes), chars=sum(len(change.document.text) for change in changes)) as told:
            chunks_of = chunk_many(self._chunker, [change.document for change in changes])
            told["chunks"] = sum(map(len, chunks_of))
        with self._catalog.reading() as read:
            for change, chunks in zip(changes, chunks_of, strict=True):
                placed, gone = _keep_keys(read, change, chunks, self._reads_documents)
                batch.changes.append((change, placed, gone))
                batch.num_new_chunks += sum(key is None for key, _ in placed)
                batch.num_chars += len(change.document.text)

    def flush(self) -> None:
        """Commits everything taken in so far. Raises ``OSError`` if the disk refuses; the last commit then still stands."""
        self._cut()
        batch, self._batch = self._batch, _Batch()
        if not batch.changes:
            return
        import numpy as np

        if self._generator is not None:
            self._generator.prepare([])
        new_chunks = [chunk for _, placed, _ in batch.changes for key, chunk in placed if key is None]
        texts = {change.document.id: change.document.text for change, _, _ in batch.changes}
        with self._catalog.reading() as read:
            first, others = int(read.meta("next_key")), read.segments()
        keys = np.arange(first, first + len(new_chunks), dtype=np.int64)

        def hear(name: str, num_done: int) -> None:
            self.on_encoded(name, min(num_done, len(new_chunks)), len(new_chunks))

        segments = build_all(self._store, self._indexes, keys, new_chunks, texts, others, hear) if new_chunks else []
        # If this fails, the new segments stay: a commit that reports an error may still stand in the log. The next writer sweeps.
        with span("commit", documents=len(batch.changes)), self._catalog.writing() as write:
            fresh = iter(write.take_keys(len(new_chunks)))
            for change, placed, gone in batch.changes:
                if change.old_id and change.old_id != change.document.id:
                    write.forget_document(change.old_id)
                write.delete_chunks(gone)
                write.put_document(_row(change, len(placed)), change.document)
                write.put_chunks([(next(fresh) if key is None else key, chunk) for key, chunk in placed])
            for segment in segments:
                write.add_segment(segment)
        self._tally.num_chunks_added += len(new_chunks)
        self._tally.num_chunks_deleted += sum(len(gone) for _, _, gone in batch.changes)
        if self._generator is not None:
            with span("prepare", chunks=len(new_chunks)):
                self._generator.prepare(new_chunks)
        self._merge_due()
        self._on_commit()

    def delete(self, doc_ids: Sequence[str]) -> int:
        """Removes documents in one commit; returns how many chunks went. Results no longer show them from this moment."""
        with self._catalog.writing() as write:
            num_chunks = sum(write.delete_document(doc_id) for doc_id in doc_ids)
        self._tally.num_chunks_deleted += num_chunks
        return num_chunks

    def _merge_due(self) -> None:
        with self._catalog.reading() as read:
            rows, live = read.segments(), read.live()
        for group in due_merges(rows):
            self.merge([row.name for row in group], live)

    def merge(self, names: Sequence[str], live: NDArray[np.bool_], on_progress: OnProgress | None = None) -> None:
        """Replaces segments of one index by one segment with their live chunks, in one commit."""
        with self._catalog.reading() as read:
            every = read.segments()
        rows = [row for row in every if row.name in set(names)]
        others = [row for row in every if row.name not in set(names)]
        merged = self._store.merged(rows, others, self._indexes[rows[0].index_name], live, on_progress)
        with self._catalog.writing() as write:
            write.drop_segments(names)
            if merged is not None:
                write.add_segment(merged)
        self._store.forget(names, self._indexes)


def _keep_keys(
    read: Read, change: Change, chunks: Sequence[Chunk], reads_documents: bool
) -> tuple[list[tuple[int | None, Chunk]], list[int]]:
    """Each chunk with the key of an old chunk of the same indexed text (``None``: it is new), and the old keys nobody took.

    ``reads_documents``: an index reads chunks within their document, so they must also stand at the same place of the same text.
    """

    def name(chunk: Chunk) -> str:
        return digest(chunk.indexed_text, *(map(str, chunk.span) if reads_documents else ()))

    free: dict[str, list[int]] = {}
    gone: list[int] = []
    if change.old_id is not None:
        stale = reads_documents and read.document(change.old_id).text != change.document.text
        for key, chunk in reversed(read.chunks_of(change.old_id)):
            (gone if stale else free.setdefault(name(chunk), [])).append(key)
    placed: list[tuple[int | None, Chunk]] = []
    for chunk in chunks:
        keys = free.get(name(chunk))
        placed.append((keys.pop() if keys else None, chunk))
    return placed, gone + [key for keys in free.values() for key in keys]


def _row(change: Change, num_chunks: int) -> DocumentRow:
    document = change.document
    return DocumentRow(
        document.id, document.source, document.content_hash, change.file_hash, change.stat, change.settings,
        document.meta, document.principals, num_chunks,
    )  # fmt: skip


def merge_everything(
    ingestion: Ingestion, catalog: Catalog, indexes: Collection[str], on_progress: OnProgress | None = None
) -> None:
    """One segment per index, with live chunks only. ``on_progress``: is told chunks of all indexes."""
    for number, name in enumerate(indexes):
        with catalog.reading() as read:
            rows, live = [row for row in read.segments() if row.index_name == name], read.live()
            num_live = int(live.sum())
            num_dead = sum(row.num_chunks for row in rows) - num_live
        before, every = number * num_live, len(indexes) * num_live
        if len(rows) > 1 or num_dead:
            told = on_progress and partial(_told_after, on_progress, before, every)
            ingestion.merge([row.name for row in rows], live, told)
        if on_progress:
            on_progress(before + num_live, every)


def _told_after(on_progress: OnProgress, before: int, every: int, done: int, _: int) -> None:
    on_progress(before + done, every)
