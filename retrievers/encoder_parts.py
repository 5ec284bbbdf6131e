"""What a BERT encoder is made of: tensors, numbers, a tokeniser. Knows its folder; computes nothing.

``read_parts`` reads the plainest kind of folder directly, which spares a short-lived process the import of transformers and
sentence-transformers (seconds); ``objection`` says why a folder is not of that kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

_KNOWN_FILES = {"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"}
_ACTIVATIONS = {"gelu", "gelu_new", "gelu_pytorch_tanh", "relu"}
_PLAIN_SETTINGS = {"max_seq_length", "do_lower_case"}


@dataclass(frozen=True, slots=True)
class BertParts:
    """``tensors`` carry the names of ``transformers.BertModel``; ``tokenize`` cuts texts and adds the special tokens.

    ``described_tokenizer`` gives the JSON text of its ``tokenizers.Tokenizer``. ``max_tokens``: where texts are cut. ``prompts``: of
    ``query`` and ``document``.
    """

    tensors: Mapping[str, Tensor]
    num_layers: int
    num_heads: int
    activation: str
    norm_eps: float
    pooling: str
    max_tokens: int
    tokenize: Callable[[Sequence[str]], list[list[int]]]
    described_tokenizer: Callable[[], str]
    prompts: Mapping[str, str]


def task_prompts(prompts: Mapping[str, str], default_name: str | None) -> dict[str, str]:
    """The prompt of queries and that of documents, by the names that ``encode_query`` and ``encode_document`` look for."""
    names = {"query": ("query",), "document": ("document", "passage", "corpus")}
    default = prompts.get(default_name, "") if default_name is not None else ""
    return {task: next((prompts[name] for name in known if name in prompts), default) for task, known in names.items()}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def objection(folder: Path) -> str | None:
    """Why this folder must be read by sentence-transformers; ``None`` if ``read_parts`` may read it."""
    config, settings = _json(folder / "config.json"), _json(folder / "sentence_bert_config.json")
    words = _json(folder / "tokenizer.json")
    needed = ("modules.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json")
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        return f"it has no {missing[0]}"
    modules = [module["type"].rsplit(".", 1)[-1] for module in json.loads((folder / "modules.json").read_text(encoding="utf-8"))]
    if modules not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return f"its modules are {' + '.join(modules)}"
    plain = config.get("model_type") == "bert" and config.get("architectures") == ["BertModel"]
    if not plain or config.get("is_decoder") or config.get("position_embedding_type", "absolute") != "absolute":
        return "it is not a plain BertModel"
    if config.get("hidden_act", "gelu") not in _ACTIVATIONS:
        return f"its activation is {config['hidden_act']!r}"
    pooling = _json(folder / "1_Pooling" / "config.json")
    if not pooling.get("include_prompt", True):
        return "its pooling leaves the prompt out"
    modes = {name for name, value in pooling.items() if name.startswith("pooling_mode_") and value}
    if modes not in ({"pooling_mode_mean_tokens"}, {"pooling_mode_cls_token"}):
        return "its pooling is not mean or CLS"
    if not settings.keys() <= _PLAIN_SETTINGS or settings.get("do_lower_case") or "max_seq_length" not in settings:
        return "its settings are not the plain ones"
    if not _json(folder / "config_sentence_transformers.json").keys() <= {
        "__version__",
        "prompts",
        "default_prompt_name",
        "similarity_fn_name",
    }:
        return "its settings are not the plain ones"
    told = _json(folder / "tokenizer_config.json")
    normalizer, tokens = words.get("normalizer") or {}, words.get("model") or {}
    if tokens.get("type") != "WordPiece" or normalizer.get("type") != "BertNormalizer":
        return "its tokeniser is not BERT's"
    names = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "handle_chinese_chars"}
    if any(name in told and told[name] != normalizer.get(own) for name, own in names.items()):
        return "tokenizer_config.json and tokenizer.json differ"
    return None


def read_parts(folder: Path) -> BertParts:
    """The parts of a folder to which there is no ``objection``. Raises ``OSError`` or ``ValueError`` for files that cannot be read."""
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    config, settings = _json(folder / "config.json"), _json(folder / "sentence_bert_config.json")
    stored = load_file(folder / "model.safetensors")
    words = Tokenizer.from_file(str(folder / "tokenizer.json"))
    max_tokens = min(int(settings["max_seq_length"]), int(config["max_position_embeddings"]))
    words.no_padding()
    words.enable_truncation(max_tokens)
    pooling = _json(folder / "1_Pooling" / "config.json")
    told = _json(folder / "config_sentence_transformers.json")
    known = {"query": "", "document": "", **(told.get("prompts") or {})}  # what sentence-transformers begins with
    prompts = task_prompts(known, told.get("default_prompt_name"))
    return BertParts(
        tensors={name.removeprefix("bert."): tensor.float() for name, tensor in stored.items() if tensor.is_floating_point()},
        num_layers=int(config["num_hidden_layers"]),
        num_heads=int(config["num_attention_heads"]),
        activation=config.get("hidden_act", "gelu"),
        norm_eps=float(config["layer_norm_eps"]),
        pooling="cls" if pooling.get("pooling_mode_cls_token") else "mean",
        max_tokens=max_tokens,
        tokenize=lambda texts: [encoding.ids for encoding in words.encode_batch_fast(list(texts))],
        described_tokenizer=words.to_str,
        prompts=prompts,
    )
