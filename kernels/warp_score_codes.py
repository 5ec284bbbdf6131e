"""Coded token vectors of documents, and how codes of 2, 4, 5 and 8 bits lie in a row. Knows tensors; knows no query and no file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BITS = (2, 4, 5, 8)


class Arrays(NamedTuple):
    """The tensors of ``Coded`` as arrays."""

    token_starts: NDArray[np.int64]
    run_starts: NDArray[np.int64]
    runs: NDArray[np.uint16]
    run_lengths: NDArray[np.uint8]
    codes: NDArray[np.uint8]
    scales: NDArray[np.uint8]


@dataclass(frozen=True)
class Coded:
    """Coded tokens of all documents, inside a document by ascending centroid; a run are those of one document and one centroid.

    ``token_starts`` and ``run_starts`` int64 ``(documents + 1,)``; ``runs`` uint16 and ``run_lengths`` uint8 ``(runs,)``: centroid and
    number of tokens; ``codes`` uint8 ``(tokens, row bytes)`` (see ``unpacked``); ``scales`` uint8 ``(tokens,)`` in steps of ``scale_unit``; ``dim``:
    that of the vectors, a multiple of 16. ``of_token`` uint16 ``(tokens,)``: the centroid of every token, which a GPU reads instead of runs.
    """

    token_starts: Tensor
    run_starts: Tensor
    runs: Tensor
    run_lengths: Tensor
    codes: Tensor
    scales: Tensor
    scale_unit: float
    bits: int
    dim: int
    of_token: Tensor | None = None

    @property
    def num_fine(self) -> int:
        """Dimensions with all bits."""
        return num_fine(self.dim, self.bits)

    @property
    def middles(self) -> NDArray[np.float32]:
        """Per dimension the level that stands for 0, ``(dim,)``."""
        return middles(self.dim, self.bits)

    @cached_property
    def arrays(self) -> Arrays:
        """The same memory for compiled loops: to tell a tensor's array takes longer than to score some tokens. Only in memory."""
        tensors = (self.token_starts, self.run_starts, self.runs, self.run_lengths, self.codes, self.scales)
        return Arrays(*(tensor.numpy() for tensor in tensors))

    def to(self, device: torch.device) -> Coded:
        """A copy on ``device`` with ``of_token``; itself where it is there already."""
        import torch

        if self.codes.device == device:
            return self
        of_token = torch.repeat_interleave(self.runs.int(), self.run_lengths.int()).to(torch.uint16)
        token_starts, run_starts, runs = (tensor.to(device) for tensor in (self.token_starts, self.run_starts, self.runs))
        run_lengths, codes, scales = (tensor.to(device) for tensor in (self.run_lengths, self.codes, self.scales))
        more = (self.scale_unit, self.bits, self.dim, of_token.to(device))
        return Coded(token_starts, run_starts, runs, run_lengths, codes, scales, *more)


def num_fine(dim: int, bits: int) -> int:
    """How many of the dimensions have all ``bits``: of 5 the first seven eighths (in whole sixteens), the others have 4."""
    return dim * 7 // 8 // 16 * 16 if bits == 5 else dim


def row_bytes(dim: int, bits: int) -> int:
    """Bytes of the codes of one vector."""
    return dim // 2 + num_fine(dim, bits) // 8 if bits == 5 else dim * bits // 8


def middles(dim: int, bits: int) -> NDArray[np.float32]:
    """Per dimension the level that stands for 0, ``(dim,)`` float32. Of 5 bits a missing lowest one counts as half a level."""
    found = np.full(dim, (2**bits - 1) / 2, np.float32)
    found[num_fine(dim, bits) :] -= np.float32(0.5)
    return found


def unpacked(codes: Tensor, dim: int, bits: int) -> Tensor:
    """The levels uint8 ``(tokens, dim)`` of ``codes`` ``(tokens, row_bytes(dim, bits))``.

    Part ``p`` of byte ``b``, in a row of ``r`` bytes, is dimension ``p * r + b``. With 5 bits the first ``dim / 2`` bytes are such a row of the upper four; the
    lowest bit of dimension ``d`` below ``num_fine`` is bit ``d % 8`` of byte ``d // 8`` behind it.
    """
    import torch

    width = 4 if bits == 5 else bits
    rows = codes[:, : dim * width // 8]
    levels = torch.cat([(rows >> shift) & (2**width - 1) for shift in range(0, 8, width)], 1)
    if bits == 5:
        flags = (codes[:, dim // 2 :, None] >> torch.arange(8, dtype=torch.uint8, device=codes.device)) & 1
        levels = levels * 2
        levels[:, : num_fine(dim, bits)] += flags.flatten(1)
    return levels
