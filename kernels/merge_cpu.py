"""Merging of attention states in memory: one compiled pass over rows. Knows addresses; checks no shape. See ``merge_states``.

Every row of every part is read once and the sum stays in a scratch row: torch's operations would read and write the sum once a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from rag.kernels.crew import split
from rag.kernels.numbers_cpu import array_at, bits, narrow, pointer, wide

if TYPE_CHECKING:
    from torch import Tensor

FEW_NUMBERS = 1 << 15
"""Below this many numbers of the result the threads are not asked: waking them takes longer than the work."""


def merge_cpu(outs: Sequence[Tensor] | Tensor, lses: Sequence[Tensor] | Tensor) -> tuple[Tensor, Tensor]:
    """See ``merge_states.merge_states``; float32 or bfloat16."""
    import torch

    parts, logs = [out.contiguous() for out in outs], [lse.float().contiguous() for lse in lses]
    merged, total = torch.empty_like(parts[0]), torch.empty_like(logs[0])
    addresses = np.array([[part.data_ptr(), log.data_ptr()] for part, log in zip(parts, logs, strict=True)], np.int64)
    to, sums = bits(merged), bits(total)

    def work(first: int, last: int) -> None:
        _merge(addresses, to, sums, first, last)

    if merged.numel() < FEW_NUMBERS:
        work(0, len(merged))
    else:
        split(len(merged), work)
    return merged, total


@numba.njit(nogil=True, cache=True)
def _merge(addresses: Any, merged: Any, total: Any, first: int, last: int) -> None:  # pragma: no cover - compiled
    tokens, heads, dim = merged.shape
    like, none = merged.dtype.type(0), np.float32(-np.inf)
    logs, row = np.empty(len(addresses), np.float32), np.empty(dim, np.float32)
    for token in range(first, last):
        for head in range(heads):
            largest, whole = none, np.float32(0)
            for part in range(len(addresses)):
                logs[part] = array_at(pointer(addresses[part, 1], np.float32(0)), heads * tokens)[head * tokens + token]
                if not logs[part] <= largest:  # what is no number stays one
                    largest = logs[part]
            if largest != none:
                for part in range(len(addresses)):
                    whole += np.exp(logs[part] - largest)
            lse = largest + np.log(whole)
            total[head, token] = lse
            row[:] = 0
            for part in range(len(addresses)):
                if logs[part] == none:
                    continue
                share = np.exp(logs[part] - lse)
                out = array_at(pointer(addresses[part, 0], like), tokens * heads * dim)[(token * heads + head) * dim :]
                for place in range(dim):
                    row[place] += share * wide(out[place])
            for place in range(dim):
                merged[token, head, place] = narrow(row[place], like)
