"""LangChain's words for our parts: vector store, retriever, embeddings, document compressor. Knows both, adds no behaviour.

store = RagVectorStore.open("my.index"); store.as_retriever()
retriever = RagRetriever(rag=rag, k=4)
"""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.callbacks import CallbackManagerForRetrieverRun, Callbacks
from langchain_core.documents import BaseDocumentCompressor
from langchain_core.documents import Document as LangChainDocument
from langchain_core.embeddings import Embeddings
from langchain_core.messages import BaseMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from numpy.typing import NDArray
from pydantic import ConfigDict

from rag.core import Chunk, Document, Encoder, Hit, Reranker, Span
from rag.pipeline import Rag
from rag.read.draft import canonical

_PREFIX = "langchain:"


class RagEmbeddings(Embeddings):
    """Our encoder as LangChain embeddings; vectors are L2-normalised."""

    def __init__(self, encoder: Encoder | None = None, *, model: str = "embedded") -> None:
        """``encoder``: a ready one; otherwise the sentence-transformers model ``model`` (path, hub id or ``embedded``)."""
        if encoder is None:
            from rag.retrievers.encoder import SentenceTransformersEncoder

            encoder = SentenceTransformersEncoder(model)
        self.encoder = encoder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector per text."""
        return [[float(x) for x in row] for row in self.encoder.encode_documents(texts)]

    def embed_query(self, text: str) -> list[float]:
        """The vector of a query."""
        return [float(x) for x in self.encoder.encode_queries([text])[0]]


class LangChainEncoder:
    """Any LangChain embeddings as our encoder. ``name`` tells its vectors from those of another model."""

    def __init__(self, embeddings: Embeddings, name: str | None = None) -> None:
        self._embeddings = embeddings
        known = name or getattr(embeddings, "model", None) or getattr(embeddings, "model_name", None) or ""
        self._name = f"{type(embeddings).__qualname__}:{known}"
        self._dim: int | None = None

    @property
    def dim(self) -> int:
        """Length of its vectors, asked of the model once."""
        if self._dim is None:
            self._dim = len(self._embeddings.embed_query("length"))
        return self._dim

    @property
    def fingerprint(self) -> str:
        """Class, model name and length of the vectors."""
        return f"langchain:{self._name}:{self.dim}"

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``(texts, dim)``."""
        return _unit(np.array(self._embeddings.embed_documents(list(texts)), dtype=np.float32).reshape(len(texts), -1))

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``(texts, dim)``."""
        return _unit(np.array([self._embeddings.embed_query(text) for text in texts], dtype=np.float32).reshape(len(texts), -1))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1.0), dtype=np.float32)


class RagVectorStore(VectorStore):
    """A LangChain vector store on a durable index: searched by all its indexes, filtered before the top k, deletable.

    A document is found by its best chunk and returned whole. ``filter`` takes the expressions of ``rag.filter``.
    """

    def __init__(self, rag: Rag) -> None:
        self.rag = rag

    @classmethod
    def open(cls, folder: str | Path, config: Any = None, *, embedding: Embeddings | None = None) -> RagVectorStore:
        """The store in ``folder`` (made at the first write). ``embedding`` takes the place of the configured encoder."""
        components = {"encoder": LangChainEncoder(embedding)} if embedding is not None else {}
        return cls(Rag.open(folder, config, components=components))

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        folder: str | Path | None = None,
        **options: Any,
    ) -> RagVectorStore:
        """A store with these texts, in ``folder`` or in a new temporary one."""
        store = cls.open(folder or tempfile.mkdtemp(prefix="rag-"), embedding=embedding, **options)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @property
    def embeddings(self) -> Embeddings | None:
        """The encoder that the store's dense index uses."""
        return RagEmbeddings(self.rag.components.model("encoder"))

    def add_texts(
        self, texts: Iterable[str], metadatas: list[dict[str, Any]] | None = None, *, ids: list[str] | None = None, **options: Any
    ) -> list[str]:
        """Adds texts, or replaces those whose id is there already; returns the ids. Raises ``ValueError`` for unequal lengths."""
        texts = list(texts)
        for name, given in (("metadatas", metadatas), ("ids", ids)):
            if given is not None and len(given) != len(texts):
                raise ValueError(f"{len(texts)} texts but {len(given)} {name}")
        documents = [
            LangChainDocument(text, metadata=(metadatas or [{}] * len(texts))[n], id=ids[n] if ids else None)
            for n, text in enumerate(texts)
        ]
        return self.add_documents(documents)

    def add_documents(self, documents: list[LangChainDocument], **options: Any) -> list[str]:
        """Adds documents, or replaces those whose id is there already; returns the ids (new ones where none were given)."""
        given = options.get("ids") or [document.id for document in documents]
        names = [name or str(uuid.uuid4()) for name in given]
        last = {name: document for name, document in zip(names, documents, strict=True)}
        self.rag.ingest_documents(
            Document(Document.id_of(_PREFIX + name), _PREFIX + name, canonical(document.page_content), (), dict(document.metadata))
            for name, document in last.items()
        )
        return names

    def delete(self, ids: list[str] | None = None, **options: Any) -> bool | None:
        """Deletes by id; unknown ids are ignored. Raises ``ValueError`` without ids, rather than deleting everything."""
        if ids is None:
            raise ValueError("delete needs ids")
        self.rag.delete([_PREFIX + name for name in ids], missing_ok=True)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[LangChainDocument]:
        """The documents with these ids; unknown ids are left out."""
        if not (self.rag.folder / "catalog.sqlite").exists():
            return []
        found = []
        with self.rag.catalog.reading() as read:
            for name in ids:
                try:
                    found.append(_to_langchain(read.document(Document.id_of(_PREFIX + name))))
                except KeyError:
                    continue
        return found

    def similarity_search(self, query: str, k: int = 4, **options: Any) -> list[LangChainDocument]:
        """The best ``k`` documents. Options: ``filter``, ``principals``."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **options)]

    def similarity_search_with_score(self, query: str, k: int = 4, **options: Any) -> list[tuple[LangChainDocument, float]]:
        """The best ``k`` documents, each with the score of its best chunk (higher is better)."""
        if not (self.rag.folder / "catalog.sqlite").exists():
            return []
        depth = max(k * 4, 20)
        while True:
            hits = self.rag.search(query, depth, where=options.get("filter"), principals=options.get("principals", ()))
            best: dict[str, Hit] = {}
            for hit in hits:
                best.setdefault(hit.chunk.doc_id, hit)
            if len(best) >= k or len(hits) < depth:
                break
            depth *= 4  # a few documents own all the hits: look further
        with self.rag.catalog.reading() as read:
            return [(_to_langchain(read.document(doc_id)), hit.score) for doc_id, hit in list(best.items())[:k]]


def _to_langchain(document: Document) -> LangChainDocument:
    return LangChainDocument(document.text, metadata=dict(document.meta), id=document.source.removeprefix(_PREFIX))


class RagRetriever(BaseRetriever):
    """The whole retrieval chain (indexes, fusion, rerankers) as a retriever of chunks.

    Metadata: the chunk's own, and ``source``, ``start``, ``end`` (characters of the document), ``score``. ``invoke(query, history=[...])``
    takes the conversation before the query as LangChain messages, for a query stage that reads it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    rag: Rag
    k: int = 4
    where: str | dict[str, Any] | None = None
    principals: tuple[str, ...] = ()

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        history: Sequence[BaseMessage] = (),
        **options: Any,
    ) -> list[LangChainDocument]:
        roles = {"human": "user", "ai": "assistant"}
        turns = [(roles[message.type], message.text) for message in history if message.type in roles]
        hits = self.rag.search(query, k or self.k, where=self.where, principals=self.principals, history=turns)
        with self.rag.catalog.reading() as read:
            sources = {row.id: row.source for row in read.documents(sorted({hit.chunk.doc_id for hit in hits}))}
        found = []
        for hit in hits:
            where = {"source": sources[hit.chunk.doc_id], "start": hit.chunk.span.start, "end": hit.chunk.span.end}
            found.append(
                LangChainDocument(hit.chunk.text, metadata={**hit.chunk.meta, **where, "score": hit.score}, id=hit.chunk.id)
            )
        return found


class RagCompressor(BaseDocumentCompressor):
    """Any of our rerankers or selectors as a document compressor; documents come back as they went in, in its order.

    What cuts pieces out of texts (``compress``) gives copies of the documents that hold a piece each.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    reranker: Any

    def compress_documents(
        self, documents: Sequence[LangChainDocument], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[LangChainDocument]:
        """A permutation or a subset of ``documents``, or of pieces of them."""
        reranker: Reranker = self.reranker
        kept = {}
        hits = []
        for number, document in enumerate(documents):
            if document.page_content:
                name = f"{number:06d}-{hashlib.sha256(document.page_content.encode()).hexdigest()[:8]}"
                kept[name] = document
                chunk = Chunk(name, name, Span(0, len(document.page_content)), document.page_content)
                hits.append(Hit(chunk, 1.0 / (number + 1)))
        found = ((kept[hit.chunk.doc_id], hit.chunk.text) for hit in reranker.rerank(query, hits))
        return [
            document if text == document.page_content else document.model_copy(update={"page_content": text})
            for document, text in found
        ]
