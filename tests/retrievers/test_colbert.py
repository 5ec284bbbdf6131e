"""Our batches against the library's own ``encode_query`` and ``encode_document``, on tiny random models in real folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rag.errors import ConfigError, ModelError
from rag.kernels import narrow_linear
from rag.kernels.narrow_linear import WidenedLinear
from rag.retrievers.colbert import ColBERTEncoder
from tests.tiny_colbert import DIM, WORDS, save_colbert
from tests.tiny_encoders import save_encoder

FIXED = {"strategy": "fixed", "attend": False, "length": 12}
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "prefixes": {"prompts": {"query": "[Q] ", "document": "[D] "}},
    "expansion": {"expansion": FIXED},
    "attended expansion": {"expansion": {**FIXED, "attend": True}},
    "least expansion": {"expansion": {**FIXED, "strategy": "min"}},
    "skiplist": {"skiplist": [".", ","]},
    "lengths": {"document_length": 10, "query_length": 6},
    "not normalised": {"normalize": False},
    "all of it": {"expansion": FIXED, "skiplist": ["."], "prompts": {"query": "[Q] ", "document": "[D] "}, "document_length": 16},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    known: dict[str, str] = {}

    def folder(name: str) -> str:
        if name not in known:
            known[name] = str(save_colbert(tmp_path_factory.mktemp("colbert") / "model", **MODELS[name]))
        return known[name]

    return folder


def some_texts(num: int = 20, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice([*WORDS, ".", ","], rng.integers(1, 40))) for _ in range(num)]


def by_library(folder: str, texts: list[str], task: str) -> list[NDArray[np.float32]]:
    from sentence_transformers import MultiVectorEncoder

    model: Any = MultiVectorEncoder(folder, device="cpu")
    encode = model.encode_query if task == "query" else model.encode_document
    found: list[NDArray[np.float32]] = encode(texts, convert_to_numpy=True, normalize_embeddings=True, batch_size=4)
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tokens_per_batch", [1, 100, 4096])
def test_equal_to_the_library(saved: Callable[[str], str], name: str, tokens_per_batch: int) -> None:
    encoder = ColBERTEncoder(saved(name), device="cpu", tokens_per_batch=tokens_per_batch)
    texts = [*some_texts(), "", " ", ". , .", "unknown words", "w1 " * 300]
    for found, task in ((encoder.encode_documents(texts), "document"), (encoder.encode_queries(texts), "query")):
        for mine, theirs in zip(found, by_library(saved(name), texts, task), strict=True):
            assert mine.dtype == np.float32 and mine.shape == theirs.shape and mine.shape[1] == DIM == encoder.dim
            assert len(mine) >= 1
            np.testing.assert_allclose(mine, theirs, atol=1e-5)
            np.testing.assert_allclose(np.linalg.norm(mine, axis=1), 1, atol=1e-5)
    assert encoder.num_texts_encoded == 2 * len(texts)


def test_the_tokens_of_a_text_are_those_the_model_keeps(saved: Callable[[str], str]) -> None:
    def lengths(name: str, text: str) -> tuple[int, int]:
        encoder = ColBERTEncoder(saved(name), device="cpu")
        return len(encoder.encode_documents([text])[0]), len(encoder.encode_queries([text])[0])

    assert lengths("plain", "w1 w2 .") == (5, 5)  # with [CLS] and [SEP]
    assert lengths("prefixes", "w1 w2 .") == (6, 6)
    assert lengths("skiplist", "w1 w2 .") == (4, 5)  # documents lose punctuation, queries do not
    assert lengths("expansion", "w1 w2 .") == (5, 12)  # [MASK] up to 12
    assert lengths("expansion", "w1 " * 30) == (24, 12)  # and no more than 12
    assert lengths("least expansion", "w1 w2 .") == (5, 12)
    assert lengths("least expansion", "w1 " * 30) == (24, 24)  # 12 is the least only
    assert lengths("lengths", "w1 " * 30) == (10, 6)
    assert lengths("plain", "") == (2, 2)


def test_expansion_tokens_and_prefixes_are_read_and_scored(saved: Callable[[str], str]) -> None:
    expanded = ColBERTEncoder(saved("expansion"), device="cpu").encode_queries(["w1 w2"])[0]
    assert np.abs(expanded[4] - expanded[5]).max() > 1e-3  # two [MASK]s differ by their places
    prefixed = ColBERTEncoder(saved("prefixes"), device="cpu")
    query, document = prefixed.encode_queries(["w1 w2"])[0], prefixed.encode_documents(["w1 w2"])[0]
    assert np.abs(query - document).max() > 1e-2


def test_a_text_of_which_nothing_is_kept_has_the_mean_of_all(tmp_path: Path) -> None:
    skipped = ColBERTEncoder(str(save_colbert(tmp_path / "skipped", skiplist=[".", "[CLS]", "[SEP]"])), device="cpu")
    whole = ColBERTEncoder(str(save_colbert(tmp_path / "whole")), device="cpu")
    found, other = skipped.encode_documents([". .", "w1 . w2"])
    mean = whole.encode_documents([". ."])[0].mean(0)
    assert found.shape == (1, DIM) and len(other) == 2
    np.testing.assert_allclose(found[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_nothing_is_loaded_before_the_first_text_and_no_texts_are_no_work(saved: Callable[[str], str]) -> None:
    encoder = ColBERTEncoder(saved("plain"))
    assert encoder.fingerprint and encoder.encode_documents([]) == [] and encoder.encode_queries([]) == []
    assert encoder._model is None


def test_many_callers_at_once_get_their_own_vectors(saved: Callable[[str], str]) -> None:
    encoder = ColBERTEncoder(saved("all of it"), device="cpu", tokens_per_batch=60)
    batches = [some_texts(8, seed) for seed in range(6)]
    with ThreadPoolExecutor(12) as callers:
        documents = list(callers.map(encoder.encode_documents, batches))
        queries = list(callers.map(encoder.encode_queries, batches))
    for texts, mine, asked in zip(batches, documents, queries, strict=True):
        for found, task in ((mine, "document"), (asked, "query")):
            for vectors, wanted in zip(found, by_library(saved("all of it"), texts, task), strict=True):
                np.testing.assert_allclose(vectors, wanted, atol=1e-5)


def test_the_fingerprint_names_what_decides_a_vector(saved: Callable[[str], str], tmp_path: Path) -> None:
    original = ColBERTEncoder(saved("plain")).fingerprint
    copy = tmp_path / "elsewhere"
    shutil.copytree(saved("plain"), copy)
    assert ColBERTEncoder(str(copy), dtype="bfloat16", tokens_per_batch=7).fingerprint == original
    prints = {original} | {ColBERTEncoder(saved(name)).fingerprint for name in ("skiplist", "prefixes", "expansion", "lengths")}
    assert len(prints) == 5
    for name in ("model.safetensors", "1_Dense/model.safetensors", "tokenizer.json", "2_MultiVectorMask/config.json"):
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(before + b" ")
        assert ColBERTEncoder(str(copy)).fingerprint != original
        (copy / name).write_bytes(before)
    assert ColBERTEncoder(str(save_colbert(tmp_path / "other", seed=1))).fingerprint != original


def test_weights_that_are_not_finite_are_named(saved: Callable[[str], str], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    copy = tmp_path / "damaged"
    shutil.copytree(saved("plain"), copy)
    weights = load_file(copy / "1_Dense" / "model.safetensors")
    save_file({name: np.full_like(tensor, np.nan) for name, tensor in weights.items()}, copy / "1_Dense" / "model.safetensors")
    with pytest.raises(ModelError, match="damaged.*not finite"):
        ColBERTEncoder(str(copy)).encode_documents(["w1"])


def test_bfloat16_stays_near(saved: Callable[[str], str]) -> None:
    texts = some_texts(6)
    wanted = ColBERTEncoder(saved("plain"), device="cpu").encode_documents(texts)
    for mine, theirs in zip(ColBERTEncoder(saved("plain"), "cpu", "bfloat16").encode_documents(texts), wanted, strict=True):
        assert (mine * theirs).sum(1).min() > 0.99
        np.testing.assert_allclose(np.linalg.norm(mine, axis=1), 1, atol=1e-6)


def test_a_model_that_the_library_computes_has_its_products_too(
    saved: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = some_texts(6)
    wanted = ColBERTEncoder(saved("plain"), device="cpu").encode_documents(texts)
    monkeypatch.setattr("rag.retrievers.encoder_ragged.objection", lambda model: "the test says so")
    monkeypatch.setattr(narrow_linear, "multiplies", lambda dtype: dtype == torch.float32)
    encoder = ColBERTEncoder(saved("plain"), "cpu", "bfloat16")
    for mine, theirs in zip(encoder.encode_documents(texts), wanted, strict=True):
        assert np.median((mine * theirs).sum(1)) > 0.99
    assert any(isinstance(layer, WidenedLinear) for layer in encoder._full_model().modules())


def test_models_that_were_not_trained_for_it_and_bad_options_are_refused(tmp_path: Path) -> None:
    plain = str(save_encoder(tmp_path / "plain"))
    with pytest.raises(ConfigError, match="random projection.*token-vectors"):
        ColBERTEncoder(plain).encode_documents(["w1"])
    with pytest.raises(ModelError, match="nowhere"):
        ColBERTEncoder(str(tmp_path / "nowhere" / "else" / "model")).encode_documents(["w1"])
    with pytest.raises(ConfigError, match="auto, float32, bfloat16, float16"):
        ColBERTEncoder(plain, dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tokens_per_batch must be at least 1, not 0"):
        ColBERTEncoder(plain, tokens_per_batch=0)
    with pytest.raises(ConfigError, match="slower than float32"):
        _ = ColBERTEncoder(plain, device="cpu", dtype="float16").dim
