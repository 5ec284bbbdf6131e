"""Chooses what to compute anew by what each chunk once leaned on (Cache-Craft). Knows needs and attention; no model and no store.

Source: arXiv 2502.15734. Where the paper scales needs by a constant of the model, the budget does it here, so that rules can be compared at
the same cost: chunk c gets ``min(1, a * need_c)`` of its tokens, with the largest ``a`` that the budget allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag.kvcache.evidence import Evidence, Unchecked, top

if TYPE_CHECKING:
    import torch


class CacheCraft(Unchecked):
    """In each chunk the tokens that leaned most on other chunks; the first ones where that is not known. No need, nothing computed."""

    wants_mass = False

    def first(self, evidence: Evidence, budget: int) -> torch.Tensor:
        """At most ``budget`` tokens."""
        import torch

        num_chunks = int(evidence.chunk.max()) + 1 if len(evidence) else 0
        members = [(evidence.chunk == number).nonzero()[:, 0] for number in range(num_chunks)]
        members = [own for own in members if len(own)]
        needs = [float(evidence.need[own[0]]) if evidence.need is not None else 1.0 for own in members]
        chosen = []
        for own, count in zip(members, quotas(needs, [len(own) for own in members], budget), strict=True):
            leaning = evidence.leaning[own] if evidence.leaning is not None else -evidence.offset[own].float()
            chosen.append(own[top(leaning, count)])
        return torch.cat(chosen).sort().values if chosen else torch.arange(0, device=evidence.slots.device)


def quotas(needs: Sequence[float], sizes: Sequence[int], budget: int) -> list[int]:
    """Tokens of each chunk: ``size * min(1, a * need)`` rounded down, with the largest ``a`` for which they sum to at most ``budget``.

    >>> quotas([0.5, 1.0, 0.0], [10, 10, 10], 6)
    [2, 4, 0]
    """
    left, full = float(budget), set[int]()
    while True:
        open_ones = [number for number, need in enumerate(needs) if need > 0 and number not in full]
        weight = sum(needs[number] * sizes[number] for number in open_ones)
        scale = left / weight if weight else 0.0
        filled = [number for number in open_ones if scale * needs[number] >= 1]
        if not filled:
            break
        # whoever is full leaves the rest to the others; filling the neediest first keeps the sum within the budget
        neediest = max(filled, key=lambda number: needs[number])
        full.add(neediest)
        left -= sizes[neediest]
    counts = [sizes[n] if n in full else min(sizes[n], int(scale * need * sizes[n])) for n, need in enumerate(needs)]
    spare = budget - sum(counts)
    for number in sorted(range(len(needs)), key=lambda n: -needs[n]):  # what rounding down left
        more = min(spare, sizes[number] - counts[number], 1) if needs[number] > 0 else 0
        counts[number] += more
        spare -= more
    return counts
