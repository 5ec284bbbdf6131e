"""Sparse models of sentence-transformers from real folders, symmetric and inference-free, against the library's own numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rag.core import Chunk, Span, SparseEncoder, SparseVectors
from rag.errors import ConfigError, ModelError
from rag.registry import component
from rag.retrievers.impact import ImpactIndex
from rag.retrievers.sparse_encoder import SentenceTransformersSparseEncoder
from tests.tiny_encoders import save_encoder, save_sparse_encoder

KINDS = ("splade", "inference-free", "masked-lm")
TEXTS = ["w1 w2 w3", "", "w5", " ".join(f"w{n}" for n in range(60)), "w7 w1", "never seen"]


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sparse_encoder(tmp_path_factory.mktemp("sparse") / "model", request.param)


@pytest.fixture(scope="module")
def splade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sparse_encoder(tmp_path_factory.mktemp("splade") / "model", "splade")


def dense(vectors: SparseVectors, num_terms: int) -> NDArray[np.float32]:
    out = np.zeros((len(vectors.starts) - 1, num_terms), np.float32)
    out[np.repeat(np.arange(len(out)), np.diff(vectors.starts)), vectors.term_ids] = vectors.weights
    return out


def library(folder: Path, task: str, texts: list[str], **options: Any) -> NDArray[np.float32]:
    """One text at a time, so that no padding takes part."""
    from sentence_transformers import SparseEncoder as Library

    model: Any = Library(str(folder))
    encode = getattr(model, f"encode_{task}")
    rows = [encode(text, convert_to_sparse_tensor=False, show_progress_bar=False, **options).cpu().numpy() for text in texts]
    found: NDArray[np.float32] = np.stack(rows)
    return found


@pytest.mark.parametrize("tokens_per_batch", [1, 8, 2048])
def test_weights_are_those_of_sentence_transformers(folder: Path, tokens_per_batch: int) -> None:
    encoder = SentenceTransformersSparseEncoder(str(folder), tokens_per_batch=tokens_per_batch)
    assert isinstance(encoder, SparseEncoder) and not encoder.binary
    assert encoder.num_terms == 64
    for task, encode in (("document", encoder.encode_documents), ("query", encoder.encode_queries)):
        found = encode(TEXTS)
        assert found.starts.dtype == np.int64 and found.term_ids.dtype == np.int32 and found.weights.dtype == np.float32
        np.testing.assert_allclose(dense(found, 64), library(folder, task, TEXTS), rtol=1e-4, atol=1e-5)
    assert encode([]).starts.tolist() == [0]


@pytest.mark.parametrize(
    ("kind", "words"), [("splade", "without padding"), ("masked-lm", "without padding"), ("inference-free", "Router")]
)
def test_the_path_says_why(tmp_path: Path, kind: str, words: str) -> None:
    assert words in SentenceTransformersSparseEncoder(str(save_sparse_encoder(tmp_path / "model", kind))).how


def test_an_inference_free_question_is_its_tokens(tmp_path: Path) -> None:
    encoder = SentenceTransformersSparseEncoder(str(save_sparse_encoder(tmp_path / "model", "inference-free")))
    found = encoder.encode_queries(["w2 w1 w2"])
    assert found.term_ids.tolist() == [5, 6] and found.weights.tolist() == pytest.approx([0.5, 0.6])  # names, then w0, w1, w2
    assert len(encoder.encode_documents(["w2 w1 w2"]).term_ids) > 10  # a network's


def test_the_heaviest_terms_are_kept(splade: Path) -> None:
    whole = dense(SentenceTransformersSparseEncoder(str(splade)).encode_documents(TEXTS), 64)
    cut = SentenceTransformersSparseEncoder(str(splade), max_document_terms=4, max_query_terms=2)
    for row, few in zip(whole, dense(cut.encode_documents(TEXTS), 64), strict=True):
        assert sorted(few[few > 0]) == pytest.approx(sorted(row)[-4:])
    assert np.diff(cut.encode_queries(TEXTS).starts).tolist() == [2] * len(TEXTS)


def test_prompts_are_read(splade: Path) -> None:
    plain = SentenceTransformersSparseEncoder(str(splade))
    asking = SentenceTransformersSparseEncoder(str(splade), query_prompt="w9 ", document_prompt="w8 ")
    for mine, theirs in (
        (asking.encode_queries(["w1"]), plain.encode_queries(["w9 w1"])),
        (asking.encode_documents(["w1"]), plain.encode_documents(["w8 w1"])),
    ):
        np.testing.assert_array_equal(mine.term_ids, theirs.term_ids)
        np.testing.assert_allclose(mine.weights, theirs.weights, rtol=1e-5)


def test_the_fingerprint_names_what_documents_hang_on(splade: Path, tmp_path: Path) -> None:
    own = SentenceTransformersSparseEncoder(str(splade)).fingerprint
    copy = SentenceTransformersSparseEncoder(str(save_sparse_encoder(tmp_path / "copy", "splade")))
    assert copy.fingerprint == own
    for options, differs in (
        ({"max_document_terms": 3}, True),
        ({"document_prompt": "x"}, True),
        ({"max_query_terms": 3}, False),
        ({"tokens_per_batch": 7}, False),
    ):
        other = SentenceTransformersSparseEncoder(str(splade), **options)
        assert (other.fingerprint != own) == differs, options
    other_seed = save_sparse_encoder(tmp_path / "other", "splade", seed=1)
    assert SentenceTransformersSparseEncoder(str(other_seed)).fingerprint != own


def test_a_chunk_is_found_by_its_own_words(folder: Path) -> None:
    cls = component("sparse_encoder", "sentence-transformers")
    index = ImpactIndex(cls(model=str(folder)), engine="numpy")
    texts = [f"w{n} w{n + 1} w{n + 2}" for n in range(0, 12, 3)]
    reader = index.reader(
        [index.build(np.arange(4), [Chunk(str(n), "d", Span(0, 1), text) for n, text in enumerate(texts)])], np.ones(4, np.bool_)
    )
    encoder = index.sparse_encoder
    scores = dense(encoder.encode_queries(texts), 64) @ dense(encoder.encode_documents(texts), 64).T
    for row, found in zip(scores, reader.search(texts, 4), strict=True):
        exact = row[found.keys]
        np.testing.assert_allclose(found.scores, exact, rtol=0.02)  # of 8-bit impacts
        assert len(found.keys) == np.count_nonzero(row)


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no-such-folder"):
        SentenceTransformersSparseEncoder(str(tmp_path / "no-such-folder")).encode_queries(["a"])
    dense_model = save_encoder(tmp_path / "dense")
    with pytest.raises(ModelError, match="no sparse model.*allowed: a SparseEncoder"):
        SentenceTransformersSparseEncoder(str(dense_model)).encode_queries(["a"])


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = save_sparse_encoder(tmp_path / "model", "inference-free", query_weight=float("nan"))
    index = ImpactIndex(SentenceTransformersSparseEncoder(str(model)))
    segment = index.build(np.arange(1), [Chunk("1", "d", Span(0, 1), "w1")])
    with pytest.raises(ModelError, match="SentenceTransformersSparseEncoder gave the weight nan"):
        index.reader([segment], np.ones(1, np.bool_)).search(["w1"], 3)


@pytest.mark.parametrize("name", ["tokens_per_batch", "max_query_terms", "max_document_terms"])
def test_bad_options_are_refused(name: str) -> None:
    options: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, not 0"):
        SentenceTransformersSparseEncoder("x", **options)


def test_nothing_is_loaded_before_it_is_needed() -> None:
    assert not SentenceTransformersSparseEncoder("never/loaded").binary
    assert torch.is_grad_enabled()
