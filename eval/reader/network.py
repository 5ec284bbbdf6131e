"""The reader's network: the maths and the parameter names of a Llama model, with an explicit mask. Knows tensors, no tasks.

Written out so that training pays for nothing but the maths; ``config`` and the weights load as ``LlamaForCausalLM``, and a
test holds the two equal. Pre-norm blocks with RMSNorm, rotary positions on halves of a head (RoFormer, arXiv 2104.09864),
grouped queries, SwiGLU, embeddings tied to the output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the network."""

    vocab_size: int
    width: int = 128
    num_layers: int = 6
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 32
    hidden: int = 384
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    def config(self, **tokens: int) -> Any:
        """The same as a ``LlamaConfig``; ``tokens`` are the ids of the special tokens."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.width,
            intermediate_size=self.hidden,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            rms_norm_eps=self.norm_eps,
            max_position_embeddings=2048,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            tie_word_embeddings=True,
            architectures=["LlamaForCausalLM"],
            **tokens,
        )


class Norm(nn.Module):
    """RMSNorm with a learnt scale."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention under an additive mask."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        inner, inner_kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        self.shape = shape
        self.q_proj = nn.Linear(shape.width, inner, bias=False)
        self.k_proj = nn.Linear(shape.width, inner_kv, bias=False)
        self.v_proj = nn.Linear(shape.width, inner_kv, bias=False)
        self.o_proj = nn.Linear(inner, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        batch, length, _ = x.shape
        kv_heads, head_dim = self.shape.num_kv_heads, self.shape.head_dim
        rows = (batch * kv_heads, -1, head_dim)  # the query heads of one key head lie one after another: no key is copied

        def heads(projected: Tensor) -> Tensor:
            return projected.view(batch, length, -1, head_dim).transpose(1, 2)

        queries = rotated(heads(self.q_proj(x)), cos, sin).reshape(rows)
        keys = rotated(heads(self.k_proj(x)), cos, sin).reshape(rows)
        values = heads(self.v_proj(x)).reshape(rows)
        scores = (queries @ keys.transpose(1, 2)).view(batch, kv_heads, -1, length, length) * head_dim**-0.5
        weights = torch.softmax(scores.float() + mask[:, :, None], dim=-1).to(values.dtype)
        mixed = weights.view(batch * kv_heads, -1, length) @ values
        return self.o_proj(mixed.view(batch, -1, length, head_dim).transpose(1, 2).reshape(batch, length, -1))  # type: ignore[no-any-return]

    def looks(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, rows: Tensor, at: Tensor) -> Tensor:
        """Attention weights ``[asked, heads, tokens]`` of the tokens ``at [asked]`` of ``rows [asked]``."""

        def heads(projected: Tensor) -> Tensor:
            return rotated(projected.view(*x.shape[:2], -1, self.shape.head_dim).transpose(1, 2), cos, sin)[rows].float()

        queries = heads(self.q_proj(x))[torch.arange(len(at)), :, at]
        keys = heads(self.k_proj(x)).repeat_interleave(self.shape.num_heads // self.shape.num_kv_heads, dim=1)
        scores = torch.einsum("ahd,ahtd->aht", queries, keys) * self.shape.head_dim**-0.5
        return torch.softmax(scores + mask[rows, :, at], dim=-1)


class Gate(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(shape.width, shape.norm_eps), Norm(shape.width, shape.norm_eps)
        self.self_attn, self.mlp = Attention(shape), Gate(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]

    def looks(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, rows: Tensor, at: Tensor) -> Tensor:
        """Where tokens look (see ``Attention.looks``), given what comes into the block."""
        return self.self_attn.looks(self.input_layernorm(x), cos, sin, mask, rows, at)


class Trunk(nn.Module):
    """Embeddings, blocks and the last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_layers))
        self.norm = Norm(shape.width, shape.norm_eps)


class Network(nn.Module):
    """Ids, positions and a mask to hidden states, hidden states to logits."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, self.model = shape, Trunk(shape)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02 if "embed" in name else parameter.shape[1] ** -0.5)
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)

    def forward(self, ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Hidden states ``[batch, tokens, width]`` of ``ids [batch, tokens]`` at ``positions``; ``mask [batch, 1, tokens, tokens]`` is added."""
        cos, sin = rotation(positions, self.shape.head_dim, self.shape.rope_theta)
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return self.model.norm(x)  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary of any rows of hidden states."""
        return F.linear(hidden, self.model.embed_tokens.weight)


def rotation(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[batch, 1, tokens, head_dim / 2]`` of ``positions [batch, tokens]``."""
    speeds = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = positions[:, None, :, None].float() * speeds
    return angles.cos(), angles.sin()


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``x [batch, heads, tokens, head_dim]`` with the pairs (i, i + head_dim / 2) turned by the angles of its positions."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
