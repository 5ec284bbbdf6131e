"""Tiny random decoders of many families, for tests of the maths: what they answer means nothing, how they attend is their family's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

VOCABULARY = 211
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,  # larger than usual, so that what one token does to another shows
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _llama(**more: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(**{**SHAPE, **more})


def _qwen3() -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(**SHAPE, head_dim=16)


def _mistral() -> Any:
    from transformers import MistralConfig

    return MistralConfig(**SHAPE, sliding_window=9)


def _gemma3() -> Any:
    from transformers import Gemma3TextConfig

    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    return Gemma3TextConfig(**SHAPE, head_dim=16, sliding_window=9, layer_types=kinds, query_pre_attn_scalar=16)


def _gemma2() -> Any:
    from transformers import Gemma2Config

    return Gemma2Config(**SHAPE, head_dim=16, sliding_window=9, query_pre_attn_scalar=16, attn_logit_softcapping=2.0)


def _glm() -> Any:
    from transformers import GlmConfig

    return GlmConfig(**SHAPE, head_dim=16)


def _phi() -> Any:
    from transformers import PhiConfig

    return PhiConfig(**SHAPE)


def _phi3() -> Any:
    from transformers import Phi3Config

    return Phi3Config(**SHAPE)


def _cohere() -> Any:
    from transformers import CohereConfig

    return CohereConfig(**SHAPE)


def _smollm3() -> Any:
    from transformers import SmolLM3Config

    return SmolLM3Config(**SHAPE)


def _gpt_oss() -> Any:
    from transformers import GptOssConfig

    small = {**SHAPE, "initializer_range": 0.1}
    return GptOssConfig(**small, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=9)


def _granite() -> Any:
    from transformers import GraniteConfig

    return GraniteConfig(**SHAPE, embedding_multiplier=3.0, logits_scaling=2.0, residual_multiplier=0.5)


def _rope(**parameters: Any) -> Any:
    return _llama(rope_parameters={"rope_theta": 10000.0, **parameters})


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "qwen3": _qwen3,
    "mistral-sliding": _mistral,
    "gemma2-softcap": _gemma2,
    "gemma3-two-thetas": _gemma3,
    "glm-partial-interleaved": _glm,
    "phi-partial": _phi,
    "phi3-fused": _phi3,
    "cohere-interleaved": _cohere,
    "smollm3-nope": _smollm3,
    "gpt-oss-sinks": _gpt_oss,
    "granite-scaled": _granite,
    "llama-llama3": lambda: _rope(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
    ),
    "llama-yarn": lambda: _rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=256),
    "llama-linear": lambda: _rope(rope_type="linear", factor=2.0),
    "llama-dynamic": lambda: _rope(rope_type="dynamic", factor=2.0, original_max_position_embeddings=1024),
}
"""Family -> its configuration."""

REFUSED = ("gpt2", "opt", "bloom", "mamba", "falcon-alibi")


def _refused(word: str) -> Any:
    import transformers as t

    match word:
        case "gpt2":
            return t.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256)
        case "opt":
            return t.OPTConfig(
                vocab_size=VOCABULARY,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                ffn_dim=64,
                word_embed_proj_dim=32,
            )
        case "bloom":
            return t.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)
        case "mamba":
            return t.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)
        case _:
            return t.FalconConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True)


@cache
def network(family: str, dtype: str = "float32") -> Any:
    """A random model of the family, the same in every call."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(11)
    config = FAMILIES[family]() if family in FAMILIES else _refused(family)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager" if "eager" in family else None)
    return model.to(getattr(torch, dtype)).eval()


def ids(count: int, seed: int = 0) -> list[int]:
    """Random tokens without the special ones."""
    import torch

    return torch.randint(3, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
