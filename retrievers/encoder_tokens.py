"""Vectors of all tokens of whole texts, each with its characters. Knows tokenizers and windows; pools nothing.

Special tokens (and the prompt, if the encoder has one) stand in every window, as the model was trained, and give no vectors.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.core import TokenBlock
from rag.errors import ModelError
from rag.retrievers.windows import Window, plan_windows

Hidden = Callable[[Sequence[NDArray[np.int64]]], list[NDArray[np.float32]]]
"""Token ids of some windows -> their last hidden states, ``(tokens, dim)`` each."""

_WINDOWS_AT_ONCE = 64  # bounds memory: a window of 512 tokens and 1024 dimensions is 2 MiB


class Tokenized(NamedTuple):
    """A whole text without special tokens: ``ids`` ``(tokens,)``, ``spans`` ``(tokens, 2)`` in characters."""

    ids: NDArray[np.int64]
    spans: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Wording:
    """A tokenizer as token vectors need it: whole texts with offsets, and what stands around every input."""

    tokenize: Callable[[str], Tokenized]
    before: tuple[int, ...]
    after: tuple[int, ...]
    max_tokens: int


def wording_of(tokenizer: Any, max_tokens: int) -> Wording:
    """Of a transformers tokenizer. Raises ``ModelError`` if it gives no offsets."""
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"the tokenizer {type(tokenizer).__name__} gives no character offsets (no tokenizer.json)")
    return wording_of_backend(tokenizer.backend_tokenizer.to_str(), max_tokens)


def wording_of_backend(described: str, max_tokens: int) -> Wording:
    """Of the JSON text of a ``tokenizers.Tokenizer`` (a copy: the model's own truncation and padding stay as they are)."""
    from tokenizers import Tokenizer

    own = Tokenizer.from_str(described)
    own.no_padding()
    own.no_truncation()

    def tokenize(text: str) -> Tokenized:
        found = own.encode(text, add_special_tokens=False)
        return Tokenized(np.array(found.ids, np.int64), np.array(found.offsets, np.int64).reshape(-1, 2))

    sample = own.encode("a")
    special = sample.special_tokens_mask
    num_before = next((place for place, is_special in enumerate(special) if not is_special), len(special))
    num_after = next((place for place, is_special in enumerate(reversed(special)) if not is_special), 0)
    return Wording(tokenize, tuple(sample.ids[:num_before]), tuple(sample.ids[len(special) - num_after :]), max_tokens)


def token_blocks(
    texts: Sequence[str], wording: Wording, hidden: Hidden, overlap_tokens: int, prompt: str = ""
) -> Iterator[TokenBlock]:
    """Every token of every text once, text by text and in order, a window at a time.

    Raises ``ValueError`` if ``overlap_tokens`` leaves a window no token of its own.
    """
    before = (*wording.before, *wording.tokenize(prompt).ids) if prompt else wording.before
    room = wording.max_tokens - len(before) - len(wording.after)
    if not 0 <= overlap_tokens < room:
        raise ValueError(
            f"overlap_tokens={overlap_tokens}: must be between 0 and {room - 1}, the encoder reads {room} tokens at once"
        )
    head, tail = np.array(before, np.int64), np.array(wording.after, np.int64)
    for some in _batched(_windows(texts, wording, room, overlap_tokens), _WINDOWS_AT_ONCE):
        inputs = [np.concatenate([head, whole.ids[window.start : window.stop], tail]) for _, whole, window in some]
        for (row, whole, window), vectors in zip(some, hidden(inputs), strict=True):
            kept = slice(window.first - window.start + len(head), window.last - window.start + len(head))
            yield TokenBlock(row, whole.spans[window.first : window.last], vectors[kept])


def _windows(texts: Sequence[str], wording: Wording, room: int, overlap: int) -> Iterator[tuple[int, Tokenized, Window]]:
    for row, text in enumerate(texts):
        whole = wording.tokenize(text)
        for window in plan_windows(len(whole.ids), room, overlap):
            yield row, whole, window


def _batched(items: Iterable[tuple[int, Tokenized, Window]], size: int) -> Iterator[list[tuple[int, Tokenized, Window]]]:
    iterator = iter(items)
    while some := list(itertools.islice(iterator, size)):
        yield some


def plain_hidden(model: Any, inputs: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float32]]:
    """Last hidden states by the ``SentenceTransformer``'s own network, padded on the right: the reference path."""
    import torch

    longest = max(map(len, inputs))
    ids = torch.zeros(len(inputs), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, some in enumerate(inputs):
        ids[row, : len(some)] = torch.from_numpy(some)
        mask[row, : len(some)] = 1
    with torch.inference_mode():
        out = model[0].auto_model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).last_hidden_state
    return [np.asarray(vectors[: len(some)].float().cpu().numpy(), np.float32) for vectors, some in zip(out, inputs, strict=True)]


def pooling_of(model: Any) -> str:
    """The pooling of a ``SentenceTransformer`` and the names of modules after it that change more than the length: ``mean + Dense``."""
    names = [type(module).__name__ for module in model]
    mode = next((str(module.pooling_mode) for module in model if hasattr(module, "pooling_mode")), "none")
    later = names[names.index("Pooling") + 1 :] if "Pooling" in names else names[1:]
    return " + ".join([mode, *(name for name in later if name != "Normalize")])
