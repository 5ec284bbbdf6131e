"""Spends the budget where the retriever believes the answer to be, and there from the beginning of chunks. Knows no model.

Of what the rules it grew from measure, two things earned their place (bench/kv_quality.py): what is wrong with a chunk that was encoded alone
is mostly its beginning (EPIC, arXiv 2410.15332), and only chunks that the question needs have to be right (ProphetKV, arXiv
2602.02579). Which these are, a framework that retrieves knows for nothing: from retrieval scores. A chunk that matches the question also lends its
weight to the chunk after it, whose beginning may speak of what the first one ends with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.kvcache.evidence import Evidence, Unchecked, top

if TYPE_CHECKING:
    import torch


class Combined(Unchecked):
    """Chunk c has the weight ``w_c = exp(prior_weight * z_c) + follow * exp(prior_weight * z_{c-1})``; z: standardised retrieval scores.

    Tokens are handed out one by one, each to the chunk of largest ``w_c / (tokens it has + 1)`` (D'Hondt's rule), first tokens first: shares
    are in proportion to the weights, and a larger budget holds a smaller one. With equal scores this is ``first-k``.
    """

    wants_mass = False

    def __init__(self, prior_weight: float = 2.0, follow: float = 3.0) -> None:
        if prior_weight < 0 or follow < 0:
            raise ValueError(f"prior_weight={prior_weight}, follow={follow}: both must be at least 0")
        self.prior_weight, self.follow = prior_weight, follow

    def first(self, evidence: Evidence, budget: int) -> torch.Tensor:
        """At most ``budget`` tokens: beginnings of chunks, the longer the more their scores promise."""
        return top(self.weights(evidence)[evidence.chunk] / (evidence.offset + 1), budget)

    def weights(self, evidence: Evidence) -> torch.Tensor:
        """Float32 ``[chunks]``."""
        import torch

        prior = torch.zeros(int(evidence.chunk.max()) + 1, device=evidence.prior.device).index_copy(
            0, evidence.chunk, evidence.prior
        )
        spread = prior.std(correction=0)
        own = torch.exp(self.prior_weight * (prior - prior.mean()) / spread) if spread > 0 else torch.ones_like(prior)
        before = own.roll(1)
        before[0] = own.min()  # nothing that was retrieved stands before the first
        return own + self.follow * before
