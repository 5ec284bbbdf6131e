"""Everything that helps, in one rule: sinks, what the question looks at, what deviates, what the retriever believed in.

None of the rules it is made of is enough alone ("complementary", as the study arXiv 2603.20218 finds): the first tokens of each chunk
take away false attention sinks (EPIC), the question's mass says what will be read (ProphetKV), deviation says what of it is wrong
(CacheBlend), and retrieval scores, which a framework that retrieves has for nothing, say which chunks deserve more of the budget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.kvcache.evidence import Evidence, Part, top
from rag.kvcache.query_driven import pooled

if TYPE_CHECKING:
    import torch


class Combined:
    """``num_first``: this many first tokens of each chunk but the first are always in (at most ``first_share`` of the budget).

    The rest goes by the question's mass, averaged over ``pool`` neighbours, times ``exp(prior_weight * z)`` where z is the chunk's retrieval
    score, standardised over the prompt. ``widening`` > 1: so many times the budget starts, and at layer 1 the tokens whose mass times
    ``deviation ** deviation_power`` is highest go on; this costs that much more of one layer.
    """

    wants_mass = True
    part: Part = "kv"

    def __init__(
        self,
        num_first: int = 16,
        first_share: float = 0.75,
        pool: int = 9,
        prior_weight: float = 0.0,
        widening: float = 2.0,
        deviation_power: float = 0.5,
    ) -> None:
        if num_first < 0 or not 0 <= first_share <= 1:
            raise ValueError(f"num_first={num_first}, first_share={first_share}: at least 0, and between 0 and 1")
        if pool < 1 or pool % 2 == 0:
            raise ValueError(f"pool={pool}: must be odd and at least 1")
        if widening < 1:
            raise ValueError(f"widening={widening}: must be at least 1")
        self.num_first, self.first_share, self.pool, self.prior_weight = num_first, first_share, pool, prior_weight
        self.widening, self.deviation_power = widening, deviation_power
        self.check_layers: tuple[int, ...] = (1,) if widening > 1 else ()

    def first(self, evidence: Evidence, budget: int) -> torch.Tensor:
        """First tokens and the highest mass, ``widening`` times the budget."""
        return top(self._scores(evidence, budget), min(len(evidence), round(budget * self.widening)))

    def narrow(self, evidence: Evidence, budget: int, stage: int) -> torch.Tensor:
        """Of those, the highest mass times deviation; first tokens stay."""
        assert evidence.deviation is not None
        return top(self._scores(evidence, budget, evidence.deviation**self.deviation_power), budget)

    def _scores(self, evidence: Evidence, budget: int, weight: torch.Tensor | float = 1.0) -> torch.Tensor:
        import torch

        mass = pooled(evidence, self.pool) * weight
        if self.prior_weight:
            spread = evidence.prior.std(correction=0)
            standard = (evidence.prior - evidence.prior.mean()) / spread if spread > 0 else torch.zeros_like(evidence.prior)
            mass = mass * torch.exp(self.prior_weight * standard)
        later_chunks = int(evidence.chunk.max())
        allowed = min(self.num_first, int(self.first_share * budget) // max(later_chunks, 1))
        sinks = (evidence.offset < allowed) & (evidence.chunk > 0)
        return torch.where(sinks, float("inf"), mass)
