"""Which files of some folders are new, changed, renamed or gone, compared with the catalog. Knows no chunk and no index.

A file whose size, mtime and ctime are those of the last time is not opened; one whose bytes are those of the last time is
not parsed, unless it is to be chunked in another way or to be read by others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rag.catalog import Catalog
from rag.catalog_read import DocumentRow
from rag.core import Document
from rag.errors import ReadError
from rag.ingest import Change, Ingestion, Progress, Refusal, Tally
from rag.read.draft import Draft, Limits
from rag.read.files import open_file, source_of
from rag.read.walk import Skipped, walk
from rag.read.worker import ReadPool
from rag.tracing import span

_RACY_SECONDS = 2.0  # a file changed this recently may change again without its mtime showing it


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ingest and how."""

    roots: Sequence[Path]
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    principals: tuple[str, ...] = ("*",)
    meta: Mapping[str, Any] | None = None
    settings: str = ""
    limits: Limits = field(default_factory=Limits)
    workers: int | None = None
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class _Looked:
    """A file after the cheap questions: ``file_hash`` is set if it is new or changed. Its bytes are not kept."""

    path: Path
    source: str
    stat: str
    file_hash: str | None
    draft: Draft | None = None
    error: ReadError | None = None


def sync(
    plan: Plan, catalog: Catalog | None, ingestion: Ingestion | None, tally: Tally, on_progress: Callable[[Progress], None] | None
) -> None:
    """Applies every difference between the folders and the catalog (``ingestion`` ``None``: only counts them)."""
    paths = []
    for found in walk(plan.roots, plan.include, plan.exclude, plan.hidden):
        if isinstance(found, Path):
            paths.append((found, source_of(found)))
        else:
            (tally.skipped if isinstance(found, Skipped) else tally.failed).append(Refusal(found.path, found.reason))
    refused = {Document.id_of(source_of(Path(refusal.source))) for refusal in tally.failed}  # what cannot be read now is not gone
    seen = {Document.id_of(source) for _, source in paths} | refused
    rows = _missing(plan.roots, catalog, seen) if catalog is not None else []
    missing = _Missing(rows)
    step = Progress(0, len(paths), 0, "")
    if ingestion is not None and on_progress is not None:

        def told(index: str, num_done: int, num_chunks: int) -> None:
            on_progress(replace(step, index=index, num_done=num_done, num_chunks=num_chunks))

        ingestion.on_encoded = told
    with ReadPool(plan.limits, num_workers=plan.workers) as pool:  # ``None``: as many as suit the machine
        for number, looked in enumerate(_look(paths, plan, catalog, pool, parse=ingestion is not None), start=1):
            step = Progress(number, len(paths), tally.num_chunks_added, looked.source)
            _take(looked, plan, catalog, ingestion, tally, missing)
            if on_progress:
                on_progress(replace(step, num_chunks_encoded=tally.num_chunks_added))
    if ingestion is not None and catalog is not None:
        ingestion.flush()
        if missing.rows:
            ingestion.delete(list(missing.rows))
        if missing.touched:
            with catalog.writing() as write:
                for row in missing.touched:
                    write.put_row(row)
    tally.deleted += [row.source for row in missing.rows.values()]


class _Missing:
    """Documents whose file is gone, until a new file with the same bytes turns out to be one of them under another name.

    ``touched``: rows of files that are the same but for their times.
    """

    def __init__(self, rows: Sequence[DocumentRow]) -> None:
        self.rows = {row.id: row for row in rows}
        self.touched: list[DocumentRow] = []

    def take(self, file_hash: str) -> DocumentRow | None:
        """The document with these bytes, which is then no longer missing."""
        found = next((row for row in self.rows.values() if row.file_hash == file_hash), None)
        return self.rows.pop(found.id) if found else None


def _missing(roots: Sequence[Path], catalog: Catalog, seen: set[str]) -> list[DocumentRow]:
    """Documents whose source lies under a folder of ``roots`` where no file stands any more."""
    rows: dict[str, DocumentRow] = {}
    with catalog.reading() as read:
        for root in roots:
            if root.is_dir():
                rows.update((row.id, row) for row in read.under(source_of(root)) if row.id not in seen)
    return list(rows.values())


def _look(
    paths: Iterable[tuple[Path, str]], plan: Plan, catalog: Catalog | None, pool: ReadPool, *, parse: bool
) -> Iterator[_Looked]:
    """Every file in order, read ahead by a few so that parsing and encoding overlap."""
    ahead: deque[Future[_Looked]] = deque()
    with ThreadPoolExecutor(pool.num_workers, thread_name_prefix="read") as threads:
        try:
            for path, source in paths:
                known = _known(catalog, source)
                ahead.append(threads.submit(copy_context().run, _look_at, path, source, known, plan, pool, parse))
                if len(ahead) > 2 * pool.num_workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _known(catalog: Catalog | None, source: str) -> DocumentRow | None:
    if catalog is None:
        return None
    with catalog.reading() as read:
        return next(read.documents([Document.id_of(source)]), None)


def _stat(path: Path) -> str:
    found = path.stat()
    if time.time() - found.st_mtime < _RACY_SECONDS:
        return ""
    return f"{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def _look_at(path: Path, source: str, known: DocumentRow | None, plan: Plan, pool: ReadPool, parse: bool) -> _Looked:
    try:
        stat = _stat(path)
        same_wishes = known is not None and known.settings == plan.settings and known.principals == plan.principals
        if known is not None and same_wishes and stat and stat == known.stat:
            return _Looked(path, source, stat, None)
        within = [Path(source_of(root)) for root in plan.roots if root.is_dir()] if path not in plan.roots else []
        raw = open_file(path, plan.limits, source=source, within=within)
        if known is not None and same_wishes and raw.file_hash == known.file_hash:
            return _Looked(path, source, stat, None)
        with span("read", suffix=path.suffix.lower()):
            return _Looked(path, source, stat, raw.file_hash, pool.parse(raw) if parse else None)
    except ReadError as error:
        return _Looked(path, source, "", None, error=error)
    except OSError as error:
        return _Looked(path, source, "", None, error=ReadError(path, error.strerror or str(error)))


def _take(
    looked: _Looked, plan: Plan, catalog: Catalog | None, ingestion: Ingestion | None, tally: Tally, missing: _Missing
) -> None:
    source = looked.source
    if looked.error is not None:
        tally.failed.append(Refusal(source, looked.error.reason))
        return
    known = _known(catalog, source)
    if looked.file_hash is None:
        tally.unchanged.append(source)
        if known is not None and known.stat != looked.stat:
            missing.touched.append(replace(known, stat=looked.stat))
        return
    renamed_from = missing.take(looked.file_hash) if known is None else None
    if ingestion is not None:
        assert looked.draft is not None
        document = looked.draft.document(source, principals=plan.principals, meta=dict(plan.meta or {}))
        old = known or renamed_from
        ingestion.apply(Change(document, looked.file_hash, looked.stat, plan.settings, old.id if old else None))
    (tally.renamed if renamed_from else tally.changed if known else tally.added).append(source)
