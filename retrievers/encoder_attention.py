"""Our attention within texts as a word that any transformers model knows. Knows transformers' interface; knows no model and no vector.

A model that asks transformers for its attention is set to ``NAME`` and nothing of it is changed. Given texts that lie end to end, with their
borders (``cu_seq_lens_q``, the word of its flash attention), it attends within each text; given anything else it attends as ``sdpa`` does.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rag.kernels.varlen_attention import varlen_attention

NAME = "ragstone_varlen"
_NOT_OURS = ("softcap", "s_aux", "position_bias", "head_mask", "cache")


def register() -> None:
    """Makes ``NAME`` known to transformers, as attention and as mask. May be called again."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, mask_of)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """``(1, T, Hq, Dv)`` of ``query`` ``(1, Hq, T, D)``, ``key`` and ``value``; the signature is transformers'.

    Raises ``ValueError`` for what the kernel does not do (capped scores, sinks, biases by distance).
    """
    if "cu_seq_lens_q" not in more:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        mask = {"attention_mask": attention_mask, "sliding_window": sliding_window}
        found, _ = sdpa_attention_forward(module, query, key, value, scaling=scaling, is_causal=is_causal, **mask, **more)
        return found, None
    unknown = [name for name in _NOT_OURS if more.get(name) is not None]
    if unknown:
        raise ValueError(f"its attention has {' and '.join(unknown)}")
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    found = varlen_attention(
        query[0].to(value.dtype),
        key[0].to(value.dtype),
        value[0],
        more["cu_seq_lens_q"],
        longest=int(more["max_length_q"]),
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        causal=causal,
        window=sliding_window,
    )
    return found[None], None


def mask_of(*places: Any, attention_mask: Tensor | None = None, **more: Any) -> Tensor | None:
    """No mask for texts end to end, which come without one; else that of ``sdpa``."""
    if attention_mask is None:
        return None
    from transformers.masking_utils import sdpa_mask

    found: Tensor | None = sdpa_mask(*places, attention_mask=attention_mask, **more)
    return found
