"""A BERT encoder on real tokens only. Knows the architecture and the pooling; knows no prompt, no index and no disk.

Every other model takes the way of ``encoder_ragged``. This one is for short-lived processes: it needs neither transformers nor sentence-transformers.

Texts are laid end to end: every linear layer, norm and activation sees ``(tokens, dim)`` with no padding, attention looks
at one text at a time. The buffers of a pack are kept, because a fresh 25 MB activation
per layer costs more in page faults than its GELU. Packs are shared out among threads (see ``rag.kernels.crew``): a pack
waits for nobody, where one pack spread over all cores waits at every layer for the slowest of them.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rag.kernels.crew import each
from rag.kernels.varlen_attention import varlen_attention
from rag.retrievers.encoder_linear import Kind, Linear
from rag.retrievers.encoder_parts import BertParts

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": torch.ops.aten.gelu_,
    "gelu_new": lambda x: torch.ops.aten.gelu_(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: torch.ops.aten.gelu_(x, approximate="tanh"),
    "relu": torch.relu_,
}  # fmt: skip
_WINDOW_TEXTS = 8192  # tokenised at a time: bounds memory (Python integers), long enough to sort by length well
_FEW_TOKENS = 512  # up to this a pack is computed by the caller with all of torch's threads: sharing out would cost more
_BUFFER_STEP = 512  # tokens; buffers grow by whole steps


class _Norm(NamedTuple):
    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class _Layer(NamedTuple):
    qkv: Linear
    out: Linear
    norm_attention: _Norm
    up: Linear
    down: Linear
    norm_feed_forward: _Norm


class Buffers:
    """What one thread needs to compute one pack of at most ``num_tokens`` tokens."""

    def __init__(self, num_tokens: int, dim: int, wide: int) -> None:
        self.qkv = torch.empty(num_tokens, 3 * dim)
        self.wide = torch.empty(num_tokens, wide)
        self.sum = torch.empty(num_tokens, dim)


class PackedBert:
    """The weights of a BERT encoder with mean or CLS pooling, and its forward pass over a pack."""

    def __init__(self, parts: BertParts, kind: Kind) -> None:
        tensors = parts.tensors
        # Every text here is one segment, so type 0 is folded into the positions.
        places = tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
        self._words = tensors["embeddings.word_embeddings.weight"]
        self._places = places
        self._norm = _norm(parts, "embeddings.LayerNorm")
        self.max_tokens = len(self._places)
        self._num_heads = parts.num_heads
        self._activation = _ACTIVATIONS[parts.activation]
        self.pooling = parts.pooling
        self.dim = self._words.shape[1]
        self._layers = [_layer(parts, number, kind) for number in range(parts.num_layers)]
        self.wide = self._layers[0].up.num_outputs

    def forward(self, texts: Sequence[NDArray[np.int64]], buffers: Buffers) -> Tensor:
        """Token ids of some texts, those of equal length next to each other -> unit vectors ``(texts, dim)``."""
        lengths = [len(ids) for ids in texts]
        x = self.hidden(texts, buffers)
        if self.pooling == "cls":
            pooled = x[torch.tensor([0, *itertools.accumulate(lengths)][:-1])]
        else:
            pooled = torch.segment_reduce(x, "mean", lengths=torch.tensor(lengths), axis=0)
        return functional.normalize(pooled, dim=1)

    def hidden(self, texts: Sequence[NDArray[np.int64]], buffers: Buffers) -> Tensor:
        """The last hidden states of the same texts, one after the other, ``(tokens, dim)``."""
        lengths = [len(ids) for ids in texts]
        num_tokens = sum(lengths)
        groups = [(length, len(list(run))) for length, run in itertools.groupby(lengths)]
        x = self._words[torch.from_numpy(np.concatenate(texts))]
        x += torch.cat([self._places[:n].repeat(count, 1) for n, count in groups])
        x = self._norm(x)
        qkv, wide, total = buffers.qkv[:num_tokens], buffers.wide[:num_tokens], buffers.sum[:num_tokens]
        for layer in self._layers:
            attended = self._attend(layer.qkv(x, qkv), lengths)
            x = layer.norm_attention(torch.add(x, layer.out(attended, total), out=total))
            hidden = self._activation(layer.up(x, wide))
            x = layer.norm_feed_forward(torch.add(x, layer.down(hidden, total), out=total))
        return x

    def _attend(self, qkv: Tensor, lengths: Sequence[int]) -> Tensor:
        width = self.dim // self._num_heads
        q, k, v = qkv.view(len(qkv), 3, self._num_heads, width).permute(1, 2, 0, 3)
        starts = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
        found = varlen_attention(q, k, v, starts, longest=max(lengths), scale=width**-0.5)
        return found.view(len(qkv), self.dim)


def _norm(parts: BertParts, name: str) -> _Norm:
    return _Norm(parts.tensors[f"{name}.weight"], parts.tensors[f"{name}.bias"], parts.norm_eps)


def _layer(parts: BertParts, number: int, kind: Kind) -> _Layer:
    name = f"encoder.layer.{number}"

    def stacked(*names: str) -> Linear:
        weights = [parts.tensors[f"{name}.{part}.weight"] for part in names]
        biases = [parts.tensors[f"{name}.{part}.bias"] for part in names]
        return Linear(torch.cat(weights), torch.cat(biases), kind)

    heads = ("attention.self.query", "attention.self.key", "attention.self.value")
    out, up, down = (stacked(part) for part in ("attention.output.dense", "intermediate.dense", "output.dense"))
    norms = [_norm(parts, f"{name}.{part}.LayerNorm") for part in ("attention.output", "output")]
    return _Layer(stacked(*heads), out, norms[0], up, down, norms[1])


def plan(lengths: NDArray[np.int64], tokens_per_batch: int, num_workers: int) -> list[NDArray[np.int64]]:
    """Rows grouped into packs, longest texts first, each of at most ``tokens_per_batch`` tokens (or one text).

    Packs are evened out, so that no worker is left with a full pack while the others are done.
    """
    order = np.argsort(-lengths, kind="stable")
    num_packs = -(-int(lengths.sum()) // tokens_per_batch)
    num_packs = -(-num_packs // num_workers) * num_workers
    budget = min(tokens_per_batch, -(-int(lengths.sum()) // num_packs) + int(lengths.max(initial=0)) // 2)
    packs: list[list[int]] = []
    free = 0
    for row in order:
        if lengths[row] > free:
            packs.append([])
            free = max(budget, int(lengths[row]))
        packs[-1].append(int(row))
        free -= int(lengths[row])
    return [np.array(pack) for pack in packs]


class PackedEncoder:
    """Texts -> vectors: tokenises in bulk, packs by length, and shares the packs out among threads."""

    def __init__(self, parts: BertParts, kind: Kind, tokens_per_batch: int) -> None:
        self._tokenize = parts.tokenize
        self._bert = PackedBert(parts, kind)
        self._tokens_per_batch = max(tokens_per_batch, min(parts.max_tokens, self._bert.max_tokens))  # a pack holds any text
        self._own = threading.local()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``(texts, dim)``. Cuts texts exactly where ``SentenceTransformer`` does."""
        vectors = np.empty((len(texts), self._bert.dim), np.float32)
        for start in range(0, len(texts), _WINDOW_TEXTS):
            window = texts[start : start + _WINDOW_TEXTS]
            tokens = [np.array(ids, np.int64) for ids in self._tokenize(window)]
            into = vectors[start : start + len(window)]

            def compute(
                pack: NDArray[np.int64], tokens: list[NDArray[np.int64]] = tokens, into: NDArray[np.float32] = into
            ) -> None:
                texts = [tokens[row] for row in pack]
                into[pack] = self._bert.forward(texts, self._buffers(sum(map(len, texts)))).numpy()

            self._share(np.array([len(ids) for ids in tokens]), compute)
        return vectors

    def hidden(self, inputs: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
        """Last hidden states ``(tokens, dim)`` of texts given as token ids, special tokens included."""
        lengths = np.array([len(ids) for ids in inputs])
        found: dict[int, NDArray[np.float32]] = {}

        def compute(pack: NDArray[np.int64]) -> None:
            states = self._bert.hidden([inputs[row] for row in pack], self._buffers(int(lengths[pack].sum()))).numpy()
            found.update(zip(pack.tolist(), np.split(states, np.cumsum(lengths[pack])[:-1]), strict=True))

        self._share(lengths, compute)
        return [found[row] for row in range(len(inputs))]

    @property
    def pooling(self) -> str:
        """``mean`` or ``cls``."""
        return self._bert.pooling

    def _share(self, lengths: NDArray[np.int64], compute: Callable[[NDArray[np.int64]], None]) -> None:
        """``compute`` of packs of texts of these lengths, until every text was in one."""
        if lengths.sum() <= min(_FEW_TOKENS, self._tokens_per_batch):
            with torch.inference_mode():
                compute(np.argsort(-lengths, kind="stable"))
        else:
            each(plan(lengths, self._tokens_per_batch, torch.get_num_threads()), compute)

    def _buffers(self, num_tokens: int) -> Buffers:
        """This thread's, which are kept; they grow when they are too small."""
        kept: Buffers | None = getattr(self._own, "buffers", None)
        if kept is None or len(kept.sum) < num_tokens:
            kept = self._own.buffers = Buffers(-(-num_tokens // _BUFFER_STEP) * _BUFFER_STEP, self._bert.dim, self._bert.wide)
        return kept
