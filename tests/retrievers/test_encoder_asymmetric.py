"""Two encoders as one: who encodes what, which pairs are refused, and what a change of either asks of an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag import config
from rag.config import Assembly
from rag.core import Chunk, Document, Encoder, Span
from rag.errors import ConfigError, IndexMismatch
from rag.pipeline import Rag
from rag.registry import TABLE
from rag.retrievers.dense import FaissIndex
from rag.retrievers.encoder import SentenceTransformersEncoder
from rag.retrievers.encoder_asymmetric import AsymmetricEncoder
from rag.retrievers.late import late_vectors_of
from tests.fakes import HashingEncoder, document
from tests.tiny_encoders import save_encoder


class Turned(HashingEncoder):
    """A student that puts queries where the teacher would, times ``length``."""

    def __init__(self, dim: int = 64, length: float = 1.0) -> None:
        super().__init__(dim)
        self.fingerprint = "turned"
        self.length = np.float32(length)
        self.num_queries = 0

    def encode_queries(self, texts: Any) -> Any:
        self.num_queries += len(texts)
        return super().encode_queries(texts) * self.length

    def __repr__(self) -> str:
        return "Turned()"


def test_each_side_has_its_own_encoder() -> None:
    student, teacher = Turned(), HashingEncoder()
    both = AsymmetricEncoder(student, teacher)
    assert isinstance(both.dim, int) and both.dim == 64 and both.fingerprint == teacher.fingerprint
    both.encode_documents(["a duck", "a pond"])
    both.encode_queries(["duck"])
    assert (teacher.num_texts_encoded, student.num_texts_encoded, student.num_queries) == (2, 0, 1)
    assert both.encode_documents([]).shape == (0, 64)


@pytest.mark.parametrize("act", ["encode_documents", "encode_queries"])
def test_other_dimensions_are_refused_before_anything_is_encoded(act: str) -> None:
    student = Turned(32)
    both = AsymmetricEncoder(student, SentenceTransformersEncoder())
    with pytest.raises(
        ConfigError, match=r"query encoder Turned\(\) gives 32 .* SentenceTransformersEncoder\('embedded'\) 384: they must be"
    ):
        getattr(both, act)(["a duck"])


@pytest.mark.parametrize("length", [1.7, 0.0, float("nan")])
def test_other_lengths_are_refused(length: float) -> None:
    both = AsymmetricEncoder(Turned(length=length), Turned())
    with pytest.raises(ConfigError, match=r"the query encoder gives a vector of length .*Turned\(\), document encoder Turned\(\)"):
        both.encode_queries(["a duck"])
    turned_around = AsymmetricEncoder(Turned(), Turned(length=length))
    with pytest.raises(ConfigError, match="the document encoder gives a vector of length"):
        turned_around.encode_documents(["a duck"])


def test_late_chunking_reads_the_document_encoder(tmp_path: Path) -> None:
    teacher = SentenceTransformersEncoder(str(save_encoder(tmp_path / "teacher")), device="cpu", dtype="float32")
    both = AsymmetricEncoder(Turned(16), teacher)
    text = "w1 w2 w3 w4 w5"
    chunks = [Chunk.of(Document("d", "d", text), Span(*span)) for span in ((0, 5), (6, 14))]
    np.testing.assert_array_equal(late_vectors_of(both, chunks, {"d": text}, 4), late_vectors_of(teacher, chunks, {"d": text}, 4))
    index = FaissIndex(AsymmetricEncoder(Turned(), HashingEncoder()), pooling="late")
    with pytest.raises(ConfigError, match="the document encoder .*HashingEncoder.* gives no token vectors"):
        index.build(np.array([1]), chunks[:1], {"d": text})


# Configuration ---------------------------------------------------------------------------------------------------------


def test_the_configuration_nests_two_encoders(tmp_path: Path) -> None:
    student = {"use": "sentence-transformers", "model": str(save_encoder(tmp_path / "student"))}
    teacher = {"use": "sentence-transformers", "model": "embedded"}
    loaded = config.load({"models": {"encoder": {"use": "asymmetric", "query_encoder": student, "document_encoder": teacher}}})
    config.check(loaded)
    made = Assembly(loaded).model("encoder")
    assert isinstance(made, AsymmetricEncoder) and isinstance(made.query_encoder, SentenceTransformersEncoder)
    assert made.query_encoder.model == student["model"]
    described = config.schema()["$defs"]["encoder.asymmetric"]
    assert described["required"] == ["use", "query_encoder", "document_encoder"]
    words = {option["$ref"] for option in described["properties"]["query_encoder"]["oneOf"]}
    assert words == {f"#/$defs/encoder.{word}" for word in TABLE["encoder"]}


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {"query_encoder": {"use": "sentence-transformers"}},
            "models.encoder (asymmetric): document_encoder: is required, a block such as {use: sentence-transformers}",
        ),
        (
            {"query_encoder": {"use": "sentence-transformer"}, "document_encoder": {"use": "sentence-transformers"}},
            "models.encoder.query_encoder.use: unknown encoder 'sentence-transformer' (did you mean 'sentence-transformers'?)",
        ),
        (
            {"query_encoder": {"use": "sentence-transformers"}, "document_encoder": {"use": "sentence-transformers", "modl": "x"}},
            "models.encoder.document_encoder (sentence-transformers): modl: unknown key (did you mean 'model'?)",
        ),
        ({"query_encoder": "student", "document_encoder": {"use": "sentence-transformers"}}, "query_encoder"),
    ],
)
def test_bad_blocks_are_named(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.check(config.load({"models": {"encoder": {"use": "asymmetric", **block}}}))
    assert message in str(caught.value)


def test_an_index_of_the_teacher_serves_its_students_without_a_rebuild(tmp_path: Path) -> None:
    folders = {name: str(save_encoder(tmp_path / name, pooling=pooling)) for name, pooling in
               (("teacher", "mean_tokens"), ("student", "cls_token"), ("other", "max_tokens"))}  # fmt: skip

    def opened(encoder: dict[str, Any]) -> Rag:
        settings = {"models": {"encoder": encoder, "tokenizer": {"use": "words"}}, "chunker": {"use": "fixed"}}
        return Rag.open(
            tmp_path / "index", {**settings, "indexes": {"dense": {"use": "faiss"}}, "generator": {"use": "extractive"}}
        )

    def plain(name: str) -> dict[str, Any]:
        return {"use": "sentence-transformers", "model": folders[name], "device": "cpu", "dtype": "float32"}

    def pair(query: str, documents: str) -> dict[str, Any]:
        return {"use": "asymmetric", "query_encoder": plain(query), "document_encoder": plain(documents)}

    with opened(plain("teacher")) as rag:
        rag.ingest_documents([document("one.txt", "w1 w2 w3"), document("two.txt", "w4 w5")])
        by_teacher = [hit.score for hit in rag.search("w1")]
    with opened(pair("student", "teacher")) as rag:
        found = rag.search("w1")
        assert len(found) == 2 and [hit.score for hit in found] != by_teacher
        asked: Encoder = rag.components.model("encoder").query_encoder
        teacher: Encoder = rag.components.model("encoder").document_encoder
        texts = [hit.chunk.indexed_text for hit in found]
        wanted = teacher.encode_documents(texts) @ asked.encode_queries(["w1"])[0]
        np.testing.assert_allclose([hit.score for hit in found], wanted, atol=1e-5)
        rag.ingest_documents([document("three.txt", "w6")])
    with opened(pair("other", "teacher")) as rag:
        assert len(rag.search("w1")) == 3
    with opened(pair("student", "other")) as rag, pytest.raises(IndexMismatch, match="rag index rebuild"):
        rag.search("w1")
