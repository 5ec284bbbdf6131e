"""Tiny random ColBERT type models in real folders: code is tested on files, not on mocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = [f"w{n}" for n in range(60)]
DIM = 8


def save_colbert(
    folder: Path,
    *,
    expansion: dict[str, Any] | None = None,
    skiplist: list[str] | None = None,
    prompts: dict[str, str] | None = None,
    document_length: int | None = None,
    query_length: int | None = None,
    normalize: bool = True,
    seed: int = 0,
) -> Path:
    """A two-layer BERT with random weights and a projection to ``DIM``, as ``MultiVectorEncoder.save_pretrained`` writes it.

    Its words are ``WORDS``, ``.``, ``,`` and the prefixes ``[Q]`` and ``[D]``; it cuts texts after 24 tokens.
    """
    import transformers
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.base.modules.dense import Dense
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[Q]", "[D]"]
    names = [*special, ".", ",", *WORDS]
    bare = Tokenizer(models.WordPiece({name: n for n, name in enumerate(names)}, unk_token="[UNK]"))
    bare.normalizer, bare.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    bare.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", [("[CLS]", 2), ("[SEP]", 3)])
    bare.add_special_tokens(special)
    backbone = folder.parent / f"{folder.name}-backbone"
    made: Any = transformers.PreTrainedTokenizerFast
    roles = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    made(tokenizer_object=bare, model_max_length=24, **roles).save_pretrained(backbone)
    torch.manual_seed(seed)
    settings: Any = transformers.BertConfig(
        vocab_size=len(names), hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=32,
        max_position_embeddings=40, initializer_range=0.6,
    )  # fmt: skip
    network: Any = transformers.BertModel(settings)
    network.save_pretrained(backbone)
    first = Transformer(
        str(backbone), max_seq_length=24, query_expansion=expansion, document_length=document_length, query_length=query_length
    )
    names_of = {"module_input_name": "token_embeddings"}
    modules = [first, Dense(16, DIM, bias=False, activation_function=torch.nn.Identity(), **names_of)]
    modules += [MultiVectorMask(skiplist_words=skiplist), *([Normalize(**names_of)] if normalize else [])]
    MultiVectorEncoder(modules=modules, device="cpu", prompts=prompts).save_pretrained(str(folder))
    return folder
