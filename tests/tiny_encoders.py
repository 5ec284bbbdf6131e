"""Tiny random encoders in real sentence-transformers folders: code is tested on files, not on mocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

WORDS = [f"w{n}" for n in range(60)]
LAYOUT = ["Transformer", "Pooling", "Normalize"]


def save_encoder(
    folder: Path,
    kind: str = "Bert",
    pooling: str = "mean_tokens",
    modules: list[str] = LAYOUT,
    prompts: dict[str, str] | None = None,
    include_prompt: bool = True,
    word_pieces: bool = False,
    padding_side: str = "right",
    **config: Any,
) -> Path:
    """A random two-layer encoder that cuts texts after 24 tokens, in the layout of sentence-transformers."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    names = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", *WORDS]
    bare = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="[UNK]"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    if word_pieces:
        bare = Tokenizer(models.WordPiece({name: n for n, name in enumerate(names)}, unk_token="[UNK]"))
        bare.normalizer, bare.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    bare.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", [("[CLS]", 0), ("[SEP]", 2)])
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    made: Any = transformers.PreTrainedTokenizerFast
    tokenizer = made(tokenizer_object=bare, model_max_length=24, padding_side=padding_side, **special)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
    if kind == "DistilBert":
        sizes = {"dim": 16, "n_heads": 2, "n_layers": 2, "hidden_dim": 32}
    if kind in ("Bert", "Roberta", "XLMRoberta"):
        sizes["type_vocab_size"] = 2
    if kind == "ModernBert":
        sizes.update(bos_token_id=0, cls_token_id=0, sep_token_id=2, eos_token_id=2)
    torch.manual_seed(0)
    settings = getattr(transformers, f"{kind}Config")(
        vocab_size=len(names), max_position_embeddings=40, pad_token_id=1, initializer_range=0.6, **sizes, **config
    )
    getattr(transformers, f"{kind}Model")(settings).save_pretrained(folder)
    listed = [{"idx": n, "name": str(n), "path": f"{n}_{name}" if n else "", "type": f"sentence_transformers.models.{name}"}
              for n, name in enumerate(modules)]  # fmt: skip
    for entry in listed[1:]:
        (folder / str(entry["path"])).mkdir()
    pooled = {"word_embedding_dimension": 16, f"pooling_mode_{pooling}": True, "include_prompt": include_prompt}
    if word_pieces:
        (folder / "sentence_bert_config.json").write_text(
            json.dumps({"max_seq_length": 24, "do_lower_case": False}), encoding="utf-8"
        )
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooled), encoding="utf-8")
    (folder / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts or {}}), encoding="utf-8")
    return folder


def save_static(folder: Path) -> Path:
    """An encoder that is a table of vectors, with no network to it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({name: n for n, name in enumerate(["[UNK]", *WORDS])}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=16)], device="cpu").save_pretrained(str(folder))
    return folder


def save_sparse_encoder(folder: Path, kind: str, seed: int = 0, query_weight: float | None = None) -> Path:
    """A random ``splade``, ``inference-free`` or bare ``masked-lm`` model over the same words, saved by the libraries themselves.

    In the inference-free one the word with id ``n`` weighs ``n / 10`` in a query, or ``query_weight``.
    """
    import transformers
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling

    parts = folder.with_name(f"{folder.name}-parts")
    save_encoder(parts)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(parts)
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=32,
        max_position_embeddings=40, pad_token_id=1, initializer_range=0.6,
    )  # fmt: skip
    network = folder if kind == "masked-lm" else parts / "network"
    transformers.BertForMaskedLM(config).save_pretrained(network)
    tokenizer.save_pretrained(network)
    if kind != "masked-lm":
        modules = [Transformer(str(network), transformer_task="fill-mask"), SpladePooling()]
        if kind == "inference-free":
            weights = torch.arange(len(tokenizer)) / 10 if query_weight is None else torch.full((len(tokenizer),), query_weight)
            modules = [Router.for_query_document([SparseStaticEmbedding(tokenizer, weights)], modules)]
        SparseEncoder(modules=modules).save_pretrained(str(folder))
    return folder
