"""The index that a configuration asks its questions of, shared by configurations that ingest alike. Knows the pipeline; judges nothing.

Two configurations ingest alike if everything that decides what is stored is equal: chunker, indexes, the models these take, the settings
of reading, the documents. Reranking, selecting and answering may differ.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import rag
from rag import config as configuration
from rag.config import Config
from rag.core import Chunk, Document, digest
from rag.eval.axis import Axis
from rag.eval.chain_stages import View
from rag.eval.folded import Folded
from rag.eval.part_prints import identity
from rag.eval.placing import Library
from rag.eval.question_set import QuestionSet
from rag.ingest import IngestReport
from rag.pipeline import READER_VERSION, Rag

MAX_FOLDED_CHUNKS = 20_000


def ingest_print(config: Config, given: Mapping[str, Any], set_print: str) -> str:
    """Names everything that decides what ingesting stores. ``given``: objects that stand in for configured components."""
    blocks = [("chunker", "chunker", config.chunker)]
    blocks += [("index", f"indexes.{name}", block) for name, block in config.indexes.items()]
    parts = [rag.__version__, READER_VERSION, set_print, config.read.model_dump_json()]
    for kind, key, block in blocks:
        if key in given:
            parts += [key, identity(given[key])]
            continue
        models = configuration.models_of(config, kind, block)
        parts += [key, block.model_dump_json()]
        parts += [f"{name} {identity(given[name]) if name in given else model.model_dump_json()}" for name, model in models.items()]
    return digest(*parts)


def print_of_set(given: QuestionSet) -> str:
    """Names the documents of a set: their content, or the paths of the files (whose content the pipeline checks itself)."""
    return digest(
        *(part for each in given.documents for part in (each.id, each.content_hash)), *(str(path.resolve()) for path in given.files)
    )


class Texts(Mapping[str, str]):
    """The canonical texts of an index by document id, each read when it is first asked for."""

    def __init__(self, opened: Rag, ids: Sequence[str]) -> None:
        self._rag, self._ids = opened, dict.fromkeys(ids)
        self._read: dict[str, str] = {}

    def __getitem__(self, doc: str) -> str:
        if doc not in self._read:
            with self._rag.catalog.reading() as read:
                self._read[doc] = read.document(doc).text
        return self._read[doc]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)


@dataclass(frozen=True)
class Indexed:
    """An index that holds the documents of a set. ``facts``: seconds and counts of its ingest; ``failed``: sources that were not read.
    ``content``: names what it holds and under which keys.
    """

    rag: Rag
    facts: Mapping[str, float]
    failed: tuple[str, ...]
    content: str
    library: Library

    @cached_property
    def chunks(self) -> Mapping[str, Sequence[Chunk]]:
        """The chunks of each document, by position."""
        found: dict[str, list[Chunk]] = {doc: [] for doc in self.library.sources}
        after = -1
        with self.rag.catalog.reading() as read:
            while rows := read.all_chunks(after):
                for after, chunk in rows:
                    found[chunk.doc_id].append(chunk)
        return {doc: sorted(own, key=lambda chunk: (chunk.span, chunk.id)) for doc, own in found.items()}

    @cached_property
    def names(self) -> Mapping[str, str]:
        """The names of the documents in a report: sources without the folders that all of them have in common."""
        sources = self.library.sources
        paths = [source for source in sources.values() if os.path.isabs(source)]
        common = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
        return {doc: os.path.relpath(source, common) if os.path.isabs(source) else source for doc, source in sources.items()}

    @cached_property
    def view(self) -> View:
        """What stages are judged by."""

        @lru_cache(maxsize=MAX_FOLDED_CHUNKS)
        def folded(text: str) -> Folded:
            return Folded(text)

        return View(self.library.texts, self.names, self.library.folded, lambda chunk: folded(chunk.indexed_text))

    def axis(self, tokenizer: Any) -> Axis:
        """All texts end to end, in tokens."""
        return Axis([Document(doc, source, self.library.texts[doc]) for doc, source in self.library.sources.items()], tokenizer)


def ingested(opened: Rag, given: QuestionSet) -> Indexed:
    """Brings the documents of ``given`` into the index (what is there already costs nothing) and describes it."""
    facts_file = opened.folder / "ingest.json"
    began = time.perf_counter()
    report: IngestReport = opened.ingest(given.files) if given.files else opened.ingest_documents(given.documents)
    with opened.catalog.reading() as read:
        rows, (num_documents, num_chunks) = list(read.documents()), read.counts()
        content = read.fingerprint()
    if report.num_chunks_added or not facts_file.exists():
        facts = {
            "seconds": time.perf_counter() - began, "num_documents": num_documents, "num_chunks": num_chunks,
            "num_unread_files": len(report.failed),
        }  # fmt: skip
        facts_file.write_text(json.dumps(facts), encoding="utf-8")
    facts = json.loads(facts_file.read_text(encoding="utf-8"))
    failed = tuple(refusal.source for refusal in report.failed)
    sources = {row.id: row.source for row in rows}
    library = Library(Texts(opened, list(sources)), sources, unread=failed, is_read=bool(given.files))
    return Indexed(opened, facts, failed, content, library)
