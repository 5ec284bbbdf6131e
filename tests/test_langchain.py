from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from langchain_core.documents import Document as LangChainDocument
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests, RetrieversIntegrationTests, VectorStoreIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from rag.core import Hit
from rag.langchain import LangChainEncoder, RagCompressor, RagEmbeddings, RagRetriever, RagVectorStore
from rag.pipeline import Rag
from rag.rerankers.compress import CompressSelector
from rag.tokenizer import WordTokenizer
from tests.fakes import HashingEncoder, document

CONFIG = {"models": {"tokenizer": {"use": "words"}}, "chunker": {"use": "recursive"}}


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture()
    def vectorstore(self, tmp_path: Path) -> Generator[VectorStore, None, None]:
        yield RagVectorStore.open(tmp_path / "index", CONFIG, embedding=self.get_embeddings())


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.rag = Rag.open(tmp_path / "index", CONFIG, components={"encoder": HashingEncoder()})
        self.rag.ingest_documents([document(f"d{n}", f"Ducks number {n}.") for n in range(5)])

    @property
    def retriever_constructor(self) -> type[RagRetriever]:
        return RagRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, object]:
        return {"rag": self.rag}

    @property
    def retriever_query_example(self) -> str:
        return "ducks"


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return RagEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, object]:
        return {"encoder": HashingEncoder()}


class TestEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return RagEmbeddings


def test_the_store_filters_and_reopens(tmp_path: Path) -> None:
    embedding = DeterministicFakeEmbedding(size=8)
    store = RagVectorStore.from_texts(
        ["ducks swim", "cats swim"], embedding, [{"n": 1}, {"n": 2}], ids=["a", "b"], folder=tmp_path / "i", config=CONFIG
    )
    assert [d.id for d in store.similarity_search("swim", filter="n = 2")] == ["b"]
    again = RagVectorStore.open(tmp_path / "i", CONFIG, embedding=embedding)
    assert {d.id for d in again.similarity_search("swim")} == {"a", "b"}
    with pytest.raises(ValueError, match="2 texts but 1 ids"):
        store.add_texts(["x", "y"], ids=["a"])


def test_k_documents_come_back_even_if_one_owns_the_best_chunks(tmp_path: Path) -> None:
    store = RagVectorStore(
        Rag.open(tmp_path / "i", {**CONFIG, "chunker": {"use": "fixed", "max_tokens": 8}}, components={"encoder": HashingEncoder()})
    )
    many = "\n\n".join("ducks swim on ponds all day long" for _ in range(60))
    store.add_documents([LangChainDocument(many, id="long"), LangChainDocument("a duck may swim too", id="short")])
    assert {d.id for d in store.similarity_search("ducks swim ponds", k=2)} == {"long", "short"}


def test_the_compressor_keeps_documents_whole_and_equal_ones_apart() -> None:
    class Backwards:
        def rerank(self, query: str, hits: list[Hit]) -> list[Hit]:
            return list(reversed(hits))[:2]

    given = [LangChainDocument("same", metadata={"n": n}) for n in range(3)]
    assert [d.metadata["n"] for d in RagCompressor(reranker=Backwards()).compress_documents(given, "q")] == [2, 1]


def test_a_compressor_that_cuts_gives_copies_with_the_pieces() -> None:
    given = [
        LangChainDocument("Ducks swim. Cats sleep.", metadata={"n": 0}),
        LangChainDocument("Cats eat fish.", metadata={"n": 1}),
    ]
    found = RagCompressor(reranker=CompressSelector(WordTokenizer(), max_tokens=7, hit_weight=0.1)).compress_documents(
        given, "What do cats do?"
    )
    assert [(d.page_content, d.metadata) for d in found] == [("Cats sleep.", {"n": 0}), ("Cats eat fish.", {"n": 1})]
    assert found[1] is given[1] and given[0].page_content == "Ducks swim. Cats sleep."


def test_langchain_vectors_are_normalised() -> None:
    encoder = LangChainEncoder(DeterministicFakeEmbedding(size=8))
    assert encoder.dim == 8
    assert abs(float((encoder.encode_documents(["x"]) ** 2).sum()) - 1) < 1e-5
