"""What every encoder must do, whatever its kind and its word: one vector a text, one a token, or weighted terms."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag import registry
from rag.core import SparseVectors, hearing
from rag.retrievers.colbert import ColBERTEncoder
from rag.retrievers.encoder import SentenceTransformersEncoder
from rag.retrievers.encoder_asymmetric import AsymmetricEncoder
from rag.retrievers.encoder_ray import RayEncoder
from rag.retrievers.sparse_encoder import SentenceTransformersSparseEncoder
from rag.retrievers.sparse_uhd import UhdEncoder
from rag.retrievers.token_vectors import TokenVectorsEncoder
from tests.tiny_colbert import save_colbert
from tests.tiny_encoders import save_encoder, save_sparse_encoder

KINDS = ("encoder", "token_encoder", "sparse_encoder")


def plain(folder: Path) -> SentenceTransformersEncoder:
    model = folder / "plain"
    return SentenceTransformersEncoder(str(model if model.exists() else save_encoder(model)), device="cpu", dtype="float32")


BUILT: dict[tuple[str, str], Callable[[Path], Any]] = {
    ("encoder", "sentence-transformers"): plain,
    ("encoder", "asymmetric"): lambda folder: AsymmetricEncoder(plain(folder), plain(folder)),
    ("encoder", "ray"): lambda folder: RayEncoder(plain(folder)),  # few texts, so without Ray
    ("token_encoder", "token-vectors"): lambda folder: TokenVectorsEncoder(plain(folder), overlap_tokens=4),
    ("token_encoder", "colbert"): lambda folder: ColBERTEncoder(
        str(save_colbert(folder / "colbert")), device="cpu", dtype="float32"
    ),
    ("sparse_encoder", "sentence-transformers"): lambda folder: SentenceTransformersSparseEncoder(
        str(save_sparse_encoder(folder / "sparse", "splade"))
    ),
    ("sparse_encoder", "uhd"): lambda folder: UhdEncoder(plain(folder), num_buckets=8, width=8, overlap_tokens=4),
}
TEXTS = [" ".join(f"w{(row * 7 + word) % 60}" for word in range(1 + row % 31)) for row in range(90)] + ["w1 w2", "w1 w2", ", .", ""]


def rows_of(found: Any) -> list[NDArray[Any]]:
    """What an encoder gave, text by text: a vector, token vectors, or term ids above their weights."""
    if isinstance(found, SparseVectors):
        bounds = zip(found.starts[:-1], found.starts[1:], strict=True)
        return [np.stack([found.term_ids[start:end].astype(float), found.weights[start:end]]) for start, end in bounds]
    return list(found)


@pytest.fixture(params=BUILT, ids=lambda key: "-".join(key))
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return BUILT[request.param](tmp_path)


def test_every_word_is_tested() -> None:
    assert {*BUILT} == {(kind, word) for kind in KINDS for word in registry.TABLE[kind]}


def test_shapes_and_values(encoder: Any) -> None:
    for encode in (encoder.encode_documents, encoder.encode_queries):
        found = encode(TEXTS)
        rows = rows_of(found)
        assert len(rows) == len(TEXTS) and all(np.isfinite(row).all() for row in rows)
        if isinstance(found, SparseVectors):
            assert [part.dtype.name for part in found] == ["int64", "int32", "float32"]
            assert all((np.diff(ids) > 0).all() and (weights >= 0).all() for ids, weights in rows)
            assert all(len(ids) == 0 or (ids[0] >= 0 and ids[-1] < encoder.num_terms) for ids, _ in rows)
        else:
            assert all(row.dtype == np.float32 and row.shape[-1] == encoder.dim and row.size for row in rows)
            lengths = np.concatenate([np.linalg.norm(np.atleast_2d(row), axis=1) for row in rows])
            np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_no_texts(encoder: Any) -> None:
    for encode in (encoder.encode_documents, encoder.encode_queries):
        assert rows_of(encode([])) == []


def test_a_text_is_encoded_by_itself_whatever_stands_beside_it(encoder: Any) -> None:
    found = rows_of(encoder.encode_documents(TEXTS))
    turned = rows_of(encoder.encode_documents(TEXTS[::-1]))[::-1]
    for number, (one, other) in enumerate(zip(found, turned, strict=True)):
        np.testing.assert_allclose(one, other, atol=2e-5, err_msg=TEXTS[number])
    for number in (0, 30, 57, 91, 93):
        (alone,) = rows_of(encoder.encode_documents([TEXTS[number]]))
        np.testing.assert_allclose(alone, found[number], atol=2e-5, err_msg=TEXTS[number])
    np.testing.assert_allclose(found[90], found[91], atol=2e-5)


def test_two_runs_agree(encoder: Any) -> None:
    once, twice = (rows_of(encoder.encode_documents(TEXTS)) for _ in range(2))
    for one, other in zip(once, twice, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_fingerprint_is_that_of_the_files(encoder: Any, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    key = request.node.callspec.params["encoder"]
    (tmp_path / "again").mkdir()
    assert isinstance(encoder.fingerprint, str) and encoder.fingerprint == BUILT[key](tmp_path / "again").fingerprint


def test_no_more_texts_are_told_than_there_are(encoder: Any) -> None:
    told: list[int] = []
    with hearing(told.append):
        encoder.encode_documents(TEXTS)
    assert all(number >= 0 for number in told) and sum(told) <= len(TEXTS)
    encoder.encode_documents(TEXTS[:3])  # and nobody has to listen


@pytest.mark.parametrize("key", BUILT, ids="-".join)
def test_its_module_loads_no_model_library(key: tuple[str, str]) -> None:
    module = registry.TABLE[key[0]][key[1]].partition(":")[0]
    program = f"import sys, {module}\nprint({{'torch', 'transformers', 'sentence_transformers', 'ray'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "set()"
