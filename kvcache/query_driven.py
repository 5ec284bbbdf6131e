"""The tokens that the question looks at. Knows the attention of the question on stale keys; knows no deviation.

Sources: ProphetKV, arXiv 2602.02579 (ICML 2026), and QCFuse, arXiv 2604.08585: rules that are blind to the question spend their budget on
tokens it never reads. One pass of the question over the stale keys (a few rows) tells which it does, over all layers and heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.kvcache.evidence import Evidence, Unchecked, top

if TYPE_CHECKING:
    import torch


class QueryDriven(Unchecked):
    """``pool``: mass is averaged over this many neighbours within a chunk, so that words are computed with what surrounds them."""

    wants_mass = True

    def __init__(self, pool: int = 3) -> None:
        if pool < 1 or pool % 2 == 0:
            raise ValueError(f"pool={pool}: must be odd and at least 1")
        self.pool = pool

    def first(self, evidence: Evidence, budget: int) -> torch.Tensor:
        """The tokens of highest mass."""
        return top(pooled(evidence, self.pool), budget)


def pooled(evidence: Evidence, width: int) -> torch.Tensor:
    """Mass averaged over ``width`` neighbouring tokens of the same chunk (fewer at its ends), ``[C]``."""
    import torch

    assert evidence.mass is not None
    total, count = torch.zeros_like(evidence.mass), torch.zeros_like(evidence.mass)
    for shift in range(-(width // 2), width // 2 + 1):
        mass, chunk = evidence.mass.roll(shift), evidence.chunk.roll(shift)
        same = chunk == evidence.chunk
        if shift > 0:
            same[:shift] = False
        elif shift < 0:
            same[shift:] = False
        total += torch.where(same, mass, 0.0)
        count += same
    return total / count
