"""CacheBlend: recompute the tokens whose fresh keys and values are farthest from the stale ones. Knows no question.

Source: arXiv 2405.16444 (EuroSys 2025). Layer 0 is computed for all tokens (its own keys and values are exact, so the first layer that
can tell is 1); at each check layer the tokens of highest deviation go on ("gradual filtering" when there are several). The
published code checks layer 1 only, on values; LMCache checks layer 1 on keys. Both measures, and their sum, are to be had here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.kvcache.evidence import Evidence, Part, top

if TYPE_CHECKING:
    import torch


class Blend:
    """``check_layers``: where deviation is measured. ``part``: of keys ``k``, values ``v`` or both ``kv``.

    ``widening``: at a check layer that is not the last, this many times the budget goes on per layer that is still to come.
    Raises ``ValueError`` for check layers that do not ascend from 1.
    """

    wants_mass = False

    def __init__(self, check_layers: tuple[int, ...] = (1,), part: Part = "v", widening: float = 1.5) -> None:
        if not check_layers or list(check_layers) != sorted(set(check_layers)) or check_layers[0] < 1:
            raise ValueError(f"check_layers={check_layers}: at least one, ascending, from 1 (layer 0 never deviates)")
        if part not in ("k", "v", "kv"):
            raise ValueError(f"part={part!r}: allowed are 'k', 'v', 'kv'")
        if widening < 1:
            raise ValueError(f"widening={widening}: at least 1, or fewer tokens would go on early than are wanted at the end")
        self.check_layers, self.part, self.widening = check_layers, part, widening

    def first(self, evidence: Evidence, budget: int) -> torch.Tensor:
        """All of them."""
        import torch

        return torch.arange(len(evidence), device=evidence.slots.device)

    def narrow(self, evidence: Evidence, budget: int, stage: int) -> torch.Tensor:
        """The tokens of highest deviation."""
        assert evidence.deviation is not None
        wider = self.widening ** (len(self.check_layers) - 1 - stage)
        return top(evidence.deviation, min(len(evidence), round(budget * wider)))
