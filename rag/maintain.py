"""Keeping an index in order: compaction, verification, rebuilding, counting. Knows the catalog and the segments, no query."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.catalog import Catalog
from rag.catalog_read import DocumentRow, Read, SegmentRow
from rag.core import Chunk, Document, Generator, Index, OnProgress
from rag.errors import DamagedIndex, IndexMismatch, ServerError
from rag.facts import together
from rag.ingest import BATCH_CHUNKS, Ingestion, merge_everything
from rag.segments import SegmentStore, build_all
from rag.storage import check_folder

if TYPE_CHECKING:
    from rag.config import Config
    from rag.read.draft import Limits

SMALL_CATALOG_BYTES = 32 * 2**20
"""Up to this size opening an index reads its whole catalog; beyond it, rows are checked when they are read."""


def check_small_catalog(catalog: Catalog) -> None:
    """Reads a small catalog whole. Raises ``DamagedIndex``."""
    if catalog.path.stat().st_size <= SMALL_CATALOG_BYTES:
        with catalog.reading() as read:
            read.verify()


def limits(config: Config) -> Limits:
    """The limits for one file, in bytes."""
    from rag.read.draft import Limits

    read = config.read
    return Limits(
        max_file_bytes=read.max_file_mb * 2**20,
        max_expanded_bytes=read.max_expanded_mb * 2**20,
        max_pages=read.max_pages,
        memory_bytes=read.memory_mb * 2**20,
        seconds=read.seconds,
    )


def adopt(given: Any, names: dict[str, int]) -> Document:
    """A document of ours from a LangChain one (``page_content``, ``metadata``, ``id``).

    Several from one source (pages, splits) become ``source#page=3`` or ``source#2``; ``names`` counts them over one call.
    Raises ``ValueError`` if it has neither a source nor an id.
    """
    if not hasattr(given, "page_content"):
        raise ValueError(f"expected a Document of rag or of LangChain, not {type(given).__name__}")
    from rag.read.draft import canonical

    meta = json.loads(json.dumps(dict(given.metadata), default=str))
    readers = meta.pop("principals", ["*"])
    source = meta.pop("source", None) or given.id
    if not source:
        raise ValueError(f"a LangChain document needs metadata['source'] or an id: {given.page_content[:60]!r}")
    if "page" in meta:  # loaders that make one document per page give all of them the same source
        source = f"{source}#page={meta['page']}"
    names[source] = names.get(source, 0) + 1
    if names[source] > 1:
        source = f"{source}#{names[source]}"
    return Document(Document.id_of(str(source)), str(source), canonical(given.page_content), (), meta, tuple(readers))


def find_document(read: Read, name: str) -> DocumentRow | None:
    """A document by id, by source, or by the path of its file."""
    ids = [name, Document.id_of(name), Document.id_of(str(Path(name).resolve()))]
    return next(read.documents(ids), None)


def reconcile(catalog: Catalog, indexes: Mapping[str, Index]) -> None:
    """Prepares for writing: indexes that are no longer configured go, new ones may join while there are no chunks.

    Raises ``IndexMismatch`` if a configured index does not fit what is on disk.
    """
    with catalog.reading() as read:
        stored: dict[str, str] = json.loads(read.meta("indexes"))
        rows, (_, num_chunks) = read.segments(), read.counts()
    wanted = {name: index.fingerprint for name, index in indexes.items()}
    if stored == wanted:
        return
    differing = [name for name, fingerprint in wanted.items() if stored.get(name) != fingerprint]
    if differing and num_chunks:
        raise IndexMismatch(
            f"the index {differing[0]!r} is not built with these settings; `rag index rebuild` builds it anew from the catalog"
        )
    with catalog.writing() as write:
        write.drop_segments([row.name for row in rows if row.index_name not in wanted])
        write.set_meta("indexes", json.dumps(wanted))


def compact(
    catalog: Catalog,
    ingestion: Ingestion,
    indexes: Mapping[str, Index],
    generator: Generator,
    on_progress: OnProgress | None = None,
) -> None:
    """One segment per index without dead chunks, freed catalog pages given back, nothing kept of chunks that are gone."""
    merge_everything(ingestion, catalog, indexes, on_progress)
    catalog.vacuum()
    generator.keep_only(all_chunks(catalog))


def all_chunks(catalog: Catalog) -> Iterator[Chunk]:
    """Every chunk, read in batches."""
    after = -1
    while True:
        with catalog.reading() as read:
            batch = read.all_chunks(after, BATCH_CHUNKS)
        if not batch:
            return
        yield from (chunk for _, chunk in batch)
        after = batch[-1][0]


def rebuild(catalog: Catalog, store: SegmentStore, indexes: Mapping[str, Index], on_progress: OnProgress | None) -> None:
    """Builds all indexes from the catalog's chunks in bounded batches; one commit swaps them in."""
    import numpy as np

    with catalog.reading() as read:
        old, (_, num_chunks) = read.segments(), read.counts()
    fresh: list[SegmentRow] = []
    after = -1
    while True:
        with catalog.reading() as read:
            batch = read.all_chunks(after, BATCH_CHUNKS)
            wanted = {chunk.doc_id for _, chunk in batch} if any(index.reads_documents for index in indexes.values()) else set()
            texts = {doc_id: read.document(doc_id).text for doc_id in wanted}
        if not batch:
            break
        keys = np.array([key for key, _ in batch], dtype=np.int64)
        fresh += build_all(store, indexes, keys, [chunk for _, chunk in batch], texts, fresh)
        after = int(keys[-1])
        if on_progress:
            on_progress(sum(row.num_chunks for row in fresh) // len(indexes), num_chunks)
    with catalog.writing() as write:
        write.drop_segments([row.name for row in old])
        for row in fresh:
            write.add_segment(row)
        write.set_meta("indexes", json.dumps({name: index.fingerprint for name, index in indexes.items()}))
    store.forget([row.name for row in old], indexes)


def verify(catalog: Catalog, store: SegmentStore, indexes: Mapping[str, Index]) -> list[str]:
    """Every fault found, a line each: rows and pages of the catalog, length and checksum of every segment file, vectors on servers."""
    faults = []
    try:
        with catalog.reading() as read:
            read.verify()
            rows = read.segments()
    except DamagedIndex as error:
        return [str(error)]
    for row in rows:
        try:
            check_folder(store.folder / row.name, list(row.files))
            if row.index_name in indexes:
                indexes[row.index_name].check(store.folder / row.name)
        except (DamagedIndex, ServerError) as error:
            faults.append(str(error))
    return faults


def verify_folder(folder: Path, *, repair: bool) -> list[str]:
    """``verify`` of an index that may be too damaged to open. ``repair`` rebuilds segments; a damaged catalog cannot be rebuilt.

    Raises ``IndexNotFound`` if there is no catalog.
    """
    from rag.pipeline import Rag

    try:
        rag = Rag.open(folder)
        return rag.verify(repair=repair) if rag.catalog else []
    except DamagedIndex as error:
        return [f"{error.path}: {error.reason}"]


def stats(catalog: Catalog, store: SegmentStore, folder: Path, config: Config) -> dict[str, Any]:
    """Counts, bytes on disk, and what the segments of each index tell of themselves.

    ``build_seconds`` is the time that went into what is there: encoding, and every merge since. Raises ``DamagedIndex``.
    """
    with catalog.reading() as read:
        (num_documents, num_chunks), rows, generation = read.counts(), read.segments(), read.generation
    try:
        by_index = {
            name: {"use": block.use, **_index_stats(store, [row for row in rows if row.index_name == name], num_documents)}
            for name, block in config.indexes.items()
        }
    except DamagedIndex:
        with catalog.reading() as read:
            same_commit = read.generation == generation
        if same_commit:
            raise
        return stats(catalog, store, folder, config)  # a compaction in another process took the files of the commit we read
    return {
        "folder": str(folder),
        "documents": num_documents,
        "chunks": num_chunks,
        "commits": generation,
        "catalog_bytes": catalog.path.stat().st_size,
        "indexes": by_index,
    }


def _index_stats(store: SegmentStore, rows: list[SegmentRow], num_documents: int) -> dict[str, Any]:
    num_bytes = sum(file.num_bytes for row in rows for file in row.files)
    return {
        "segments": len(rows),
        "chunks_on_disk": sum(row.num_chunks for row in rows),
        "bytes": num_bytes,
        "bytes_per_document": round(num_bytes / num_documents) if num_documents else 0,
        **together([(row.num_chunks, store.facts(row)) for row in rows]),
    }
