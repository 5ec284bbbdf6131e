"""How texts are laid for a network that must see no padding. Knows token ids and lengths; knows no model.

Two layouts: end to end in one row, with borders and positions of their own (the words are those that transformers and sentence-transformers have
for flash attention), or texts of equal length as the rows of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int64]
Texts = Mapping[str, Sequence[Ids]]
"""What the tokeniser gives for every token (``input_ids``, ``token_type_ids``): one array per text."""


@dataclass(frozen=True, slots=True)
class EndToEnd:
    """All texts in one row; positions begin at ``first_position`` in each."""

    first_position: int

    def runs(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Which of the texts are laid together: all."""
        yield list(range(len(lengths)))

    def features(self, texts: Texts) -> dict[str, Any]:
        """Tensors ``(1, tokens)`` and the borders ``(texts + 1,)``."""
        lengths = [len(ids) for ids in texts["input_ids"]]
        borders = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
        places = np.concatenate([np.arange(length) for length in lengths]) + self.first_position
        laid = {name: torch.from_numpy(np.concatenate(list(rows)))[None] for name, rows in texts.items()}
        where = {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": max(lengths), "max_length_k": max(lengths)}
        return {**laid, "position_ids": torch.from_numpy(places)[None], **where}


@dataclass(frozen=True, slots=True)
class EqualLengths:
    """Texts of one length as the rows of a batch."""

    def runs(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Which of the texts are laid together: neighbours of one length."""
        for _, run in itertools.groupby(range(len(lengths)), key=lambda row: lengths[row]):
            yield list(run)

    def features(self, texts: Texts) -> dict[str, Any]:
        """Tensors ``(texts, tokens)``."""
        stacked = {name: torch.from_numpy(np.stack(list(rows))) for name, rows in texts.items()}
        return {**stacked, "attention_mask": torch.ones_like(stacked["input_ids"])}


Layout = EndToEnd | EqualLengths


def without_padding(padded: Mapping[str, Any]) -> list[dict[str, Ids]] | None:
    """Per text what a tokeniser gave for its tokens; ``None`` where there is more than tokens (query expansion), or nothing."""
    tensors = {name: value for name, value in padded.items() if isinstance(value, Tensor)}
    if not tensors.keys() <= {"input_ids", "attention_mask", "token_type_ids"} or "attention_mask" not in tensors:
        return None
    real = tensors.pop("attention_mask").bool().numpy()
    if not real.any(1).all():
        return None
    arrays = {name: value.numpy() for name, value in tensors.items()}
    return [{name: array[row, kept] for name, array in arrays.items()} for row, kept in enumerate(real)]
