"""The first tokens of every chunk (EPIC), and, as the control of every comparison, tokens drawn by lot. Know no model.

Source of the first: EPIC / LegoLink, arXiv 2410.15332 (ICML 2025): the beginning of a chunk that was encoded alone acts as an attention
sink which the whole prompt does not have; computing it anew removes most of them. No full layer is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.kvcache.evidence import Evidence, Unchecked, top

if TYPE_CHECKING:
    import torch


class FirstK(Unchecked):
    """The budget is spread evenly over the chunks. The first chunk comes last: what stands before it was there when it was encoded."""

    wants_mass = False

    def first(self, evidence: Evidence, budget: int) -> torch.Tensor:
        """The tokens of smallest offset, the first chunk's after all others."""
        import torch

        longest = int(evidence.offset.max()) + 1
        late = torch.where(evidence.chunk == 0, longest, 0)
        return top(-(evidence.offset + late).float(), budget)


class Lot(Unchecked):
    """Tokens drawn by lot, always the same for the same prompt. What a rule gains over this, its measure gains."""

    wants_mass = False

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def first(self, evidence: Evidence, budget: int) -> torch.Tensor:
        """``budget`` random tokens."""
        import torch

        scores = torch.rand(len(evidence), generator=torch.Generator().manual_seed(self.seed))
        return top(scores.to(evidence.slots.device), budget)
