"""Models of many architectures without padding, against ``SentenceTransformer.encode`` and against each text alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rag.kernels.varlen_attention import varlen_attention
from rag.retrievers import encoder_attention, encoder_ragged
from rag.retrievers.colbert import ColBERTEncoder
from rag.retrievers.encoder import SentenceTransformersEncoder
from rag.retrievers.encoder_layout import EndToEnd, EqualLengths, without_padding
from rag.retrievers.encoder_ragged import RaggedModel, Refusal, objection
from rag.retrievers.encoder_tokens import plain_hidden
from tests.tiny_colbert import save_colbert
from tests.tiny_encoders import WORDS, save_encoder

FAMILIES: dict[str, dict[str, Any]] = {
    "distilbert": {"kind": "DistilBert"},
    "roberta": {"kind": "Roberta"},
    "xlm-roberta cls": {"kind": "XLMRoberta", "pooling": "cls_token"},
    "electra": {"kind": "Electra"},
    "albert weighted mean": {"kind": "Albert", "pooling": "weightedmean_tokens"},
    "nomic": {"kind": "NomicBert"},
    "eurobert": {"kind": "EuroBert"},
    "modernbert": {"kind": "ModernBert", "local_attention": 10, "global_attn_every_n_layers": 2},
    "qwen3, last token, padded on the left": {
        "kind": "Qwen3", "pooling": "lasttoken", "padding_side": "left", "num_key_value_heads": 1, "head_dim": 8
    },
    "mistral with a window": {"kind": "Mistral", "num_key_value_heads": 1, "sliding_window": 5},
    "gemma3 in both directions": {
        "kind": "Gemma3Text", "num_key_value_heads": 1, "head_dim": 8, "use_bidirectional_attention": True, "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}  # fmt: skip
BY_LENGTH: dict[str, tuple[dict[str, Any], str]] = {
    "mpnet": ({"kind": "MPNet"}, "other vectors"),
    "deberta": ({"kind": "DebertaV2", "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, "other vectors"),
    "gemma2 with capped scores": ({"kind": "Gemma2", "num_key_value_heads": 1, "head_dim": 8}, "its attention has softcap"),
}
ALL = {**FAMILIES, **{name: options for name, (options, _) in BY_LENGTH.items()}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    known: dict[str, str] = {}

    def folder(name: str) -> str:
        if name not in known:
            known[name] = str(save_encoder(tmp_path_factory.mktemp("encoder"), **ALL[name]))
        return known[name]

    return folder


def some_texts(num: int = 24, seed: int = 0, most_words: int = 40) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, most_words))) for _ in range(num)]


@pytest.mark.parametrize("name", ALL)
def test_vectors_are_those_of_sentence_transformers(saved: Callable[[str], str], name: str) -> None:
    encoder = SentenceTransformersEncoder(saved(name), dtype="float32", device="cpu", tokens_per_batch=100)
    texts = [*some_texts(), "", "unknown words only", "w1 " * 500]
    layout = "texts of equal length together" if name in BY_LENGTH else "attention within texts"
    assert encoder.how.startswith(f"without padding, {layout}"), encoder.how
    assert name not in BY_LENGTH or BY_LENGTH[name][1] in encoder.how
    np.testing.assert_allclose(encoder.encode_documents(texts), encoder.reference(texts), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_queries(texts[:1]), encoder.reference(texts[:1], "query"), atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_token_vectors_are_those_of_each_text_alone(saved: Callable[[str], str], name: str) -> None:
    encoder = SentenceTransformersEncoder(saved(name), dtype="float32", device="cpu", tokens_per_batch=60)
    drawn = np.random.default_rng(1)
    inputs = [drawn.integers(4, 64, length) for length in (5, 24, 1, 24, 9)]
    found = encoder._load().hidden(inputs)
    for ids, states in zip(inputs, found, strict=True):
        np.testing.assert_allclose(states, plain_hidden(encoder._full_model(), [ids])[0], atol=2e-4)


@pytest.mark.parametrize("name", ["qwen3, last token, padded on the left", "electra", "modernbert"])
def test_products_in_bfloat16_stay_near(saved: Callable[[str], str], name: str) -> None:
    encoder = SentenceTransformersEncoder(saved(name), dtype="bfloat16", device="cpu")
    texts = some_texts()
    assert "bfloat16" in encoder.how
    cosines = (encoder.encode_documents(texts) * encoder.reference(texts)).sum(axis=1)
    assert np.median(cosines) > 0.999 and cosines.min() > 0.9  # a random network of 16 dimensions turns some rounding into much


def test_a_product_that_is_too_far_off_is_not_taken(saved: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_ragged, "_NEAR", 1e-6)
    encoder = SentenceTransformersEncoder(saved("electra"), dtype="bfloat16", device="cpu")
    texts = some_texts()
    assert "bfloat16" not in encoder.how.split(";")[1]
    np.testing.assert_allclose(encoder.encode_documents(texts), encoder.reference(texts), atol=1e-5)


@pytest.mark.parametrize("planted", ["borders", "window", "causal"])
def test_attention_that_is_wrong_is_found_out_at_load(
    saved: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    right: Any = varlen_attention
    name = {"borders": "electra", "window": "modernbert", "causal": "mistral with a window"}[planted]

    def wrong(*tensors: Any, **more: Any) -> Any:
        if planted == "borders":
            whole = tensors[3][[0, -1]]
            return right(*tensors[:3], whole, **{**more, "longest": int(whole[-1])})
        return right(*tensors, **{**more, planted: None if planted == "window" else False})

    monkeypatch.setattr(encoder_attention, "varlen_attention", wrong)
    encoder = SentenceTransformersEncoder(saved(name), dtype="float32", device="cpu")
    texts = some_texts()
    assert "attention within texts gives other vectors" in encoder.how
    np.testing.assert_allclose(encoder.encode_documents(texts), encoder.reference(texts), atol=1e-5)


def test_a_model_that_gives_no_numbers_is_refused(saved: Callable[[str], str]) -> None:
    model = SentenceTransformersEncoder(saved("electra"), device="cpu")._full_model()
    with torch.no_grad():
        next(model[0].auto_model.parameters()).fill_(float("nan"))
    with pytest.raises(Refusal, match="texts of equal length together do too"):
        RaggedModel(model, ["torch"], 100)
    assert model[0].auto_model.config._attn_implementation != encoder_attention.NAME


def test_the_network_still_reads_padded_texts(saved: Callable[[str], str]) -> None:
    model = SentenceTransformersEncoder(saved("modernbert"), device="cpu")._full_model()
    texts = some_texts()
    before = model.encode(texts)
    ragged = RaggedModel(model, ["torch"], 100)
    assert model[0].auto_model.config._attn_implementation == encoder_attention.NAME and ragged.kind == "torch"
    np.testing.assert_allclose(model.encode(texts), before, atol=1e-5)


def test_late_interaction_documents_take_the_same_way(tmp_path: Path) -> None:
    encoder = ColBERTEncoder(str(save_colbert(tmp_path / "model", skiplist=["."])), device="cpu", tokens_per_batch=50)
    assert encoder.how.startswith("without padding, attention within texts")


def test_layouts_by_hand() -> None:
    texts = {"input_ids": [np.array([5, 6]), np.array([7])]}
    laid = EndToEnd(2).features(texts)
    assert laid["input_ids"].tolist() == [[5, 6, 7]] and laid["position_ids"].tolist() == [[2, 3, 2]]
    assert laid["cu_seq_lens_q"].tolist() == [0, 2, 3] and laid["max_length_q"] == 2
    assert list(EndToEnd(0).runs([2, 2, 1])) == [[0, 1, 2]] and list(EqualLengths().runs([2, 2, 1])) == [[0, 1], [2]]
    ids, mask = torch.tensor([[0, 8], [9, 9]]), torch.tensor([[0, 1], [1, 1]])
    real = without_padding({"input_ids": ids, "attention_mask": mask, "modality": "text"})
    assert real is not None and [row["input_ids"].tolist() for row in real] == [[8], [9, 9]]
    assert without_padding({"input_ids": ids, "attention_mask": mask * 0}) is None
    assert without_padding({"input_ids": ids, "attention_mask": mask, "query_expansion_positions": mask}) is None


def test_what_is_no_text_network_is_not_tried(saved: Callable[[str], str]) -> None:
    model = SentenceTransformersEncoder(saved("electra"), device="cpu")._full_model()
    assert objection(model) is None
    assert objection([torch.nn.Identity()]) == "its first module is Identity"
    model[0].backend = "onnx"
    assert "not a torch network" in str(objection(model))
