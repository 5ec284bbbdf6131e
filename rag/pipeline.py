"""The whole chain behind one face: ``Rag``. Knows every room by its protocol and no room by its insides.

files -> read -> chunk -> indexes                                  (ingest)
question -> query stage (searches each index and fuses, once or often) -> rerank -> select -> answer    (stages, stream, ask)
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

from rag import config as configuration
from rag import maintain
from rag.answering import Asked, answer_events
from rag.async_twins import AsyncTwins
from rag.catalog import Catalog
from rag.catalog_read import DocumentRow
from rag.chain import Chain, Terms
from rag.config import Assembly, Config
from rag.core import PUBLIC, Answer, AnswerEvent, Document, Event, Hit, Index, OnProgress, StageEvent, digest
from rag.corpus import CatalogCorpus
from rag.errors import IndexNotFound
from rag.filter import Filter
from rag.ingest import Change, Ingestion, IngestReport, Progress, Tally
from rag.parts import Parts, Wrap
from rag.retrieval import Retrieval
from rag.segments import SegmentStore
from rag.storage import writer_lock
from rag.tracing import span, traced

READER_VERSION = "1"  # part of what decides whether a file must be read again


class Loader(Protocol):
    """What LangChain's loaders can do."""

    def lazy_load(self) -> Iterator[Any]:
        """The documents, one by one."""
        ...


class Rag(AsyncTwins):
    """One index folder and the pipeline over it. Opening is cheap: models load when they are first needed.

    Safe to use from several threads; several processes may read while one writes.
    """

    def __init__(self, folder: Path, assembly: Assembly, raw_config: Mapping[str, Any], wrap: Wrap | None = None) -> None:
        self.folder = folder
        self.config: Config = assembly.config
        self.components = assembly
        self.parts = Parts(assembly, wrap)
        self._raw_config = raw_config
        self._store = SegmentStore(folder / "segments")
        self._catalog: Catalog | None = None
        self._lock = threading.RLock()
        self._chain = Chain(self.parts, Retrieval(self._store), lambda: self.catalog)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        config: Config | Mapping[str, Any] | str | Path | None = None,
        *,
        components: Mapping[str, Any] | None = None,
        wrap: Wrap | None = None,
    ) -> Rag:
        """The index in ``folder``; if there is none yet, the first ``ingest`` makes it.

        ``config``: a YAML file, a mapping or a ``Config``; by default the one the index was made with, else the built-in one.
        ``components``: own objects instead of configured ones, by key (``{"encoder": mine, "generator": mine}``). ``wrap``: is given the kind,
        the key and the object of each component of the chain when it is built, and returns what takes its place (to measure it, to trace it).
        Raises ``ConfigError``, ``IndexMismatch`` or ``DamagedIndex``.
        """
        folder = Path(folder)
        catalog = Catalog(folder / "catalog.sqlite") if (folder / "catalog.sqlite").exists() else None
        raw = configuration.raw(config)
        if config is None and catalog is not None:
            with catalog.reading() as read:
                raw = json.loads(read.meta("config"))
        given = {"index_folder": folder, "corpus": CatalogCorpus(lambda: rag.catalog)}
        rag = cls(folder, Assembly(configuration.load(raw), components, given), raw, wrap)
        rag._catalog = catalog
        if catalog is not None:
            maintain.check_small_catalog(catalog)
        return rag

    # Parts -------------------------------------------------------------------------------------------------------------

    @property
    def catalog(self) -> Catalog:
        """The catalog. Raises ``IndexNotFound`` before the first ingest."""
        if self._catalog is None:
            with self._lock:
                self._catalog = self._catalog or Catalog(self.folder / "catalog.sqlite")
        return self._catalog

    @property
    def indexes(self) -> dict[str, Index]:
        """The configured indexes by name."""
        return self.parts.indexes

    @property
    def generator(self) -> Any:
        """The configured generator."""
        return self.parts.generator

    # Writing -----------------------------------------------------------------------------------------------------------

    def ingest(
        self,
        what: str | Path | Iterable[Any] | Loader,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        hidden: bool = False,
        readers: Sequence[str] = (PUBLIC,),
        meta: Mapping[str, Any] | None = None,
        dry_run: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> IngestReport:
        """Brings the index in step with files and folders: new, edited, renamed and removed files are all applied.

        ``what``: a path or several; or documents (ours, LangChain's, a LangChain loader), which go to ``ingest_documents``.
        ``readers``: principals that may find these documents (``"*"``: everybody; ``"user:ann"``, ``"group:law"``).
        ``meta``: laid over the metadata found in the files. Bad files are reported in ``failed``; the rest is ingested.
        Raises ``FileNotFoundError`` for a path that does not exist and ``IndexLocked`` if another process is writing.
        """
        from rag.sync import Plan, sync

        load = getattr(what, "lazy_load", None)
        if load is not None:
            return self.ingest_documents(load())
        given = [what] if isinstance(what, (str, Path)) else list(cast("Iterable[Any]", what))
        if given and not isinstance(given[0], (str, Path)):
            return self.ingest_documents(given)
        roots = [Path(path) for path in given]
        for root in roots:
            if not root.exists() and not root.is_symlink():
                raise FileNotFoundError(f"{root}: there is no such file or folder")
        settings = digest(self._settings, json.dumps(meta, sort_keys=True)) if meta else self._settings
        plan = Plan(
            roots, include, exclude, tuple(dict.fromkeys(readers)), meta, settings, maintain.limits(self.config),
            self.config.read.workers, hidden,
        )  # fmt: skip
        tally = Tally()
        if dry_run:
            with contextlib.suppress(IndexNotFound):
                _ = self.catalog
            sync(plan, self._catalog, None, tally, on_progress)
        else:
            with self._writing(tally) as ingestion:
                sync(plan, self.catalog, ingestion, tally, on_progress)
        return tally.report(dry_run=dry_run)

    def ingest_documents(self, documents: Iterable[Any]) -> IngestReport:
        """Adds or replaces documents that were read elsewhere: ours, or any LangChain loader's. Removes nothing.

        A LangChain document needs a ``source`` in its metadata (or an id), since that is what names it here.
        """
        tally = Tally()
        names: dict[str, int] = {}
        with self._writing(tally) as ingestion:
            for given in documents:
                document = given if isinstance(given, Document) else maintain.adopt(given, names)
                file_hash = document.content_hash
                with self.catalog.reading() as read:
                    known = next(read.documents([document.id]), None)
                same = known and (known.file_hash, known.settings, known.principals) == (
                    file_hash,
                    self._settings,
                    document.principals,
                )
                if same:
                    tally.unchanged.append(document.source)
                    continue
                ingestion.apply(Change(document, file_hash, "", self._settings, known.id if known else None))
                (tally.changed if known else tally.added).append(document.source)
            ingestion.flush()
        return tally.report()

    def delete(self, sources: Sequence[str] | str, *, missing_ok: bool = False) -> int:
        """Removes documents by source or id at once from all results; returns how many. ``compact`` removes the bytes.

        Raises ``ValueError`` that names a source which is not there, before anything is removed.
        """
        wanted = [sources] if isinstance(sources, str) else list(sources)
        with self._writing(Tally()) as ingestion:
            with self.catalog.reading() as read:
                rows = [maintain.find_document(read, source) for source in wanted]
            if not missing_ok and None in rows:
                raise ValueError(f"there is no document {wanted[rows.index(None)]!r} in {self.folder}")
            ids = list({row.id for row in rows if row is not None})
            if ids:
                ingestion.delete(ids)
        return len(ids)

    def compact(self, on_progress: OnProgress | None = None) -> dict[str, Any]:
        """Merges all segments and removes deleted documents physically, also from the generator's cache. Returns the new ``stats``.

        ``on_progress`` is told chunks, each counted once per index.
        """
        with self._writing(Tally()) as ingestion:
            maintain.compact(self.catalog, ingestion, self.indexes, self.generator, on_progress)
        return self.stats()

    def rebuild(self, on_progress: OnProgress | None = None) -> dict[str, Any]:
        """Builds every configured index anew from the catalog (after a change of models, or damage), in one commit."""
        with self._writing(Tally(), check=False):
            maintain.rebuild(self.catalog, self._store, self.indexes, on_progress)
            with self.catalog.writing() as write:
                write.set_meta("config", json.dumps(self._raw_config))
        return self.stats()

    def verify(self, *, repair: bool = False) -> list[str]:
        """Reads every byte of the index; returns what is wrong, a line each. ``repair`` rebuilds damaged indexes from the catalog."""
        found = maintain.verify(self.catalog, self._store, self.indexes)
        if found and repair:
            self.rebuild()
            return maintain.verify(self.catalog, self._store, self.indexes)
        return found

    @contextlib.contextmanager
    def _writing(self, tally: Tally, *, check: bool = True) -> Iterator[Ingestion]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with writer_lock(self.folder):
            if self._catalog is None and not (self.folder / "catalog.sqlite").exists():
                self._store.folder.mkdir(exist_ok=True)
                prints = {name: index.fingerprint for name, index in self.indexes.items()}
                meta = {"config": json.dumps(self._raw_config), "indexes": json.dumps(prints)}
                self._catalog = Catalog.create(self.folder / "catalog.sqlite", meta)
            if check:
                maintain.reconcile(self.catalog, self.indexes)
            try:
                with span("rag.write") as told:
                    yield Ingestion(self.catalog, self._store, self.indexes, self.parts.chunker, self.generator, tally)
                    told |= {
                        "chunks_added": tally.num_chunks_added,
                        "chunks_deleted": tally.num_chunks_deleted,
                        "failed": len(tally.failed),
                    }
            finally:
                self.catalog.checkpoint()

    @property
    def _settings(self) -> str:
        """Changes with everything that decides how a file becomes chunks; not with secrets: ``${env:NAME}`` counts as written."""
        used = configuration.models_of(self.config, "chunker", self.config.chunker)
        written = self._raw_config.get("models") or {}
        models = {name: written.get(name, block.model_dump()) for name, block in sorted(used.items())}
        chunker = type(self.parts.chunker).__qualname__
        return digest(READER_VERSION, chunker, json.dumps([self.config.chunker.model_dump(), models], sort_keys=True, default=str))

    # Searching ---------------------------------------------------------------------------------------------------------

    def search(
        self, query: str, k: int = 10, *, where: Filter | str | Mapping[str, Any] | None = None, principals: Sequence[str] = (),
        history: Iterable[Any] = (),
    ) -> list[Hit]:  # fmt: skip
        """The best ``k`` chunks after the query stage, fusion and reranking.

        ``where``: a filter, see ``rag.filter``. ``principals``: who asks; documents that none of them (nor ``"*"``) may read
        do not exist for the search. ``history``: the conversation before the query, oldest turn first: ``Message``s, pairs
        ``(role, content)`` or mappings of both; ``query: {use: plain}``, the default, does not read it. Raises ``ConfigError`` for a
        filter that cannot be read, ``ValueError`` for ``k`` < 1 or a turn that is none, ``ModelError`` that names the query stage.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        terms = Terms(max(k, self.config.search.candidates), where, principals, history)
        return self._chain.ranked(query, terms)[:k]

    def search_each(self, queries: Sequence[str], k: int = 100) -> list[dict[str, list[Hit]]]:
        """Per query: stage name -> hits, for every index, ``fused``, and ``reranked`` when there are rerankers.

        With a query stage that rewrites, an index has what it found for all its queries, and ``fused`` is what the stage made of them.
        """
        return self._chain.rankings(queries, Terms(k))

    def stages(
        self, query: str, *, where: Filter | str | Mapping[str, Any] | None = None, principals: Sequence[str] = (),
        history: Iterable[Any] = (),
    ) -> Iterator[StageEvent]:  # fmt: skip
        """Every stage from the indexes to the selection, with its hits and seconds: what evaluation, tracing and answers read.

        Each stage shows once. Where the question is searched as it is, an index and the fusion show when they are done; a query stage that
        rewrites may search them again, so they show when it is done, and it after them, as a ``QueryEvent``.
        """
        yield from self._chain.events(query, Terms(self.config.search.candidates, where, principals, history))

    # Answering ---------------------------------------------------------------------------------------------------------

    def stream(
        self, query: str, *, where: Filter | str | Mapping[str, Any] | None = None, principals: Sequence[str] = (),
        history: Iterable[Any] = (),
    ) -> Iterator[Event]:  # fmt: skip
        """The stages as they end, the answer as it is written, each citation once it is checked, and the whole ``Answer`` last."""
        asked = Asked(query, [PUBLIC, *principals], self.catalog, self.generator)
        yield from traced(answer_events(asked, self.stages(query, where=where, principals=principals, history=history)), "ask")

    def ask(
        self, query: str, *, where: Filter | str | Mapping[str, Any] | None = None, principals: Sequence[str] = (),
        history: Iterable[Any] = (),
    ) -> Answer:  # fmt: skip
        """The answer with checked citations, the hits it rests on, usage and seconds per stage. The options are those of ``search``."""
        *_, last = self.stream(query, where=where, principals=principals, history=history)
        assert isinstance(last, AnswerEvent)
        return last.answer

    # Looking -----------------------------------------------------------------------------------------------------------

    def documents(self) -> list[DocumentRow]:
        """What the catalog knows of every document."""
        with self.catalog.reading() as read:
            return list(read.documents())

    def stats(self) -> dict[str, Any]:
        """Counts, bytes on disk, and per index what its segments tell (build seconds, recall estimate, ...), as plain values."""
        return maintain.stats(self.catalog, self._store, self.folder, self.config)

    def close(self) -> None:
        """Closes the catalog's connections. The object may be used again."""
        if self._catalog is not None:
            self._catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
