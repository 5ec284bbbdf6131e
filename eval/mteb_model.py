"""A whole pipeline as a model of MTEB: chunking, search, fusion and reranking scored as one. Knows MTEB's search protocol.

MTEB (version 2) hands a corpus to ``index`` and queries to ``search``, and takes document ids with scores back. Nothing of MTEB is
imported but for ``mteb_model_meta``; its objects are read as the sequences of mappings that they are.

    import mteb
    from rag.eval.mteb_model import MtebPipeline
    mteb.evaluate(MtebPipeline("rag.yaml"), mteb.get_tasks(tasks=["NFCorpus"]))
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from rag import config as configuration
from rag.core import Document, Hit, digest
from rag.errors import MissingExtra
from rag.eval.beir import Record, document_of
from rag.pipeline import Rag

NAME = "ragstone/pipeline"

Results = dict[str, dict[str, float]]
"""Query id -> document id -> score, best first and strictly falling, also as 32-bit floats, so that nobody breaks ties his own
way."""


class MtebPipeline:
    """The pipeline of ``config`` (a YAML file, a mapping, ``None`` for the defaults), over a new index for every corpus.

    ``name``: under which MTEB files the results. ``components``: own objects, as for ``Rag.open``. ``batch_size``: queries per
    search. A document scores as its best chunk. Documents that the rerankers were not handed follow those they were, in the order
    before.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | str | Path | None = None,
        *,
        name: str = NAME,
        components: Mapping[str, Any] | None = None,
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        self._raw = configuration.raw(config)
        self._components = components
        self._name = name
        self._batch_size = batch_size
        self._place: TemporaryDirectory[str] | None = None
        self._rag: Rag | None = None
        self._ids: dict[str, str] = {}

    @property
    def mteb_model_meta(self) -> Any:
        """What MTEB wants to know of a model; the revision is a digest of the configuration. Raises ``MissingExtra`` without
        mteb."""
        try:
            meta: Any = importlib.import_module("mteb.models.model_meta")
        except ImportError:
            raise MissingExtra("mteb", "mteb", "an evaluation with MTEB") from None
        revision = digest("mteb", json.dumps(self._raw, sort_keys=True, default=str))[:12]
        known = {"name": self._name, "revision": revision, "model_type": ["hybrid"], "modalities": ["text"]}
        return meta.ModelMeta.create_empty(overwrites=known)

    def index(self, corpus: Iterable[Mapping[str, Any]], **_: Any) -> None:
        """Ingests a corpus (``id``, ``title`` and ``body``, or ``text``) into a new index; the one before is removed."""
        self.close()
        self._place = TemporaryDirectory(prefix="rag-mteb-")
        self._rag = Rag.open(Path(self._place.name) / "index", self._raw, components=self._components)
        self._rag.ingest_documents(self._documents(corpus))

    def _documents(self, corpus: Iterable[Mapping[str, Any]]) -> Iterator[Document]:
        for row in corpus:
            body = row["body"] if row.get("body") is not None else row["text"]
            document = document_of(Record(str(row["id"]), str(row.get("title") or ""), str(body or "")))
            if document is not None:
                self._ids[document.id] = str(row["id"])
                yield document

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> Results:
        """The best ``top_k`` documents per query (``id``, ``text``, perhaps ``instruction``); of ``top_ranked`` only, where it is
        given.

        Raises ``ValueError`` before ``index``.
        """
        if self._rag is None:
            raise ValueError("index a corpus before searching it")
        results: Results = {}
        asked: list[tuple[str, str]] = []
        for row in queries:
            identity, text = str(row["id"]), _text_of(row)
            results[identity] = {}
            if text and self._ids:
                asked.append((identity, text))
        with self._rag.catalog.reading() as read:
            num_documents, num_chunks = read.counts()
        chunks_per_document = math.ceil(2 * num_chunks / max(1, num_documents))  # twice the mean: long documents crowd a ranking
        depth = num_chunks if top_ranked else min(num_chunks, top_k * chunks_per_document)
        for start in range(0, len(asked), self._batch_size):
            batch = asked[start : start + self._batch_size]
            found = self._rag.search_each([text for _, text in batch], max(1, depth))
            for (identity, _text), stages in zip(batch, found, strict=True):
                wanted = None if top_ranked is None else list(map(str, top_ranked.get(identity, ())))
                results[identity] = self._scores(stages, top_k, wanted)
        return results

    def _scores(self, stages: Mapping[str, Sequence[Hit]], top_k: int, wanted: Sequence[str] | None) -> dict[str, float]:
        before = stages["fused"] if "fused" in stages else next(iter(stages.values()))
        best = self._best(stages.get("reranked", before))
        lowest = min(best.values(), default=0.0)
        for number, name in enumerate(self._best(before)):
            best.setdefault(name, lowest - 1.0 - number)
        if wanted is not None:
            lowest = min(best.values(), default=0.0)
            best = {name: score for name, score in best.items() if name in set(wanted)}
            for number, name in enumerate(wanted):
                best.setdefault(name, lowest - 1.0 - number)
        return falling(list(best.items())[:top_k])

    def _best(self, hits: Sequence[Hit]) -> dict[str, float]:
        """Document -> score of its best chunk, best first; ties: the one found first."""
        best: dict[str, float] = {}
        for hit in hits:
            name = self._ids[hit.chunk.doc_id]
            best[name] = max(hit.score, best.get(name, hit.score))
        return dict(sorted(best.items(), key=lambda pair: -pair[1]))

    def close(self) -> None:
        """Removes the index."""
        self._ids = {}
        if self._rag is not None:
            self._rag.close()
        if self._place is not None:
            self._place.cleanup()
        self._rag = self._place = None


def falling(ranking: Sequence[tuple[str, float]]) -> dict[str, float]:
    """The same scores where they fall already, else the next lower 32-bit float.

    >>> falling([("a", 1.0), ("b", 1.0), ("c", 0.5)])["b"] < 1.0
    True
    """
    found: dict[str, float] = {}
    last = np.float32(np.inf)
    for name, score in ranking:
        value = np.float32(score)
        last = value if value < last else np.nextafter(last, np.float32(-np.inf))
        found[name] = float(last)
    return found


def _text_of(row: Mapping[str, Any]) -> str:
    """The text of a query; of a conversation its turns, one per line; an instruction comes behind."""
    text = row["text"]
    if not isinstance(text, str):
        text = "\n".join(str(turn["content"]) if isinstance(turn, Mapping) else str(turn) for turn in text)
    return f"{text} {row.get('instruction') or ''}".strip()
