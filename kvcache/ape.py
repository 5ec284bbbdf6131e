"""APE: chunks side by side at the same positions, the question behind the longest. Knows slots and log-sum-exps; computes no chunk anew.

Source: Adaptive Parallel Encoding, arXiv 2502.05431 (ICLR 2025). Every chunk was encoded behind the shared prefix and stays where it was
encoded, so no key is moved and their order does not matter. What the question pays to all chunks together is sharpened by a temperature
T < 1 and its log-sum-exp is multiplied by s T before both parts (chunks, and everything else) are merged by their log-sum-exps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rag.kvcache.cached_pass import Attending, causal
from rag.kvcache.plan import Plan

if TYPE_CHECKING:
    import torch


class ParallelAttention:
    """Attention of rows behind the chunks ``[start, end)``: temperature ``temperature`` on them, their weight scaled by ``scaling``.

    Rows that stand among the chunks attend as usual. Raises ``ValueError`` for a temperature or a scaling that is not positive.
    """

    def __init__(self, start: int, end: int, temperature: float = 0.9, scaling: float = 0.9) -> None:
        if temperature <= 0 or scaling <= 0:
            raise ValueError(f"temperature={temperature}, scaling={scaling}: both must be positive")
        self.start, self.end, self.temperature, self.scaling = start, end, temperature, scaling

    def __call__(self, attending: Attending) -> torch.Tensor:
        """``[T, Hq, Dv]``."""
        import torch

        behind = attending.rows.slots >= self.end
        if self.start == self.end or not bool(behind.any()):
            return causal(attending)
        first = int((~behind).sum())
        after = self._merged(attending, first)
        if not first:
            return after
        before = replace(
            attending, queries=attending.queries[:, :first], rows=replace(attending.rows, slots=attending.rows.slots[:first])
        )
        return torch.cat([causal(before), after])

    def _merged(self, attending: Attending, first: int) -> torch.Tensor:
        import torch

        from rag.kernels.merge_states import merge_states
        from rag.kernels.selective_attention import selective_attention

        queries, slots, options = attending.queries[:, first:], attending.rows.slots[first:], dict(attending.options)
        everywhere = torch.full_like(slots, attending.num_keys)
        outs, lses = [], []
        for begin, end in ((0, self.start), (self.start, self.end), (self.end, attending.num_keys)):
            if begin == end:
                continue
            context = begin == self.start and end == self.end
            out, lse = selective_attention(
                queries,
                attending.keys[:, begin:end],
                attending.values[:, begin:end],
                slots - begin if begin == self.end else everywhere,
                num_keys=end - begin,
                scale=options["scale"] / self.temperature if context else options["scale"],
                softcap=options["softcap"],
                sinks=options["sinks"] if begin == self.end else None,
                return_lse=True,
            )
            outs.append(out)
            lses.append(lse * self.scaling * self.temperature if context else lse)
        return merge_states(outs, lses)[0]


def side_by_side(plan: Plan) -> Plan:
    """``plan`` with every chunk (and the glue before it) right behind the prefix, the question behind the longest of them."""
    start = len(plan.prompt.prefix)
    positions, at, furthest = list(range(start)), start, start
    for segment, part in zip(plan.prompt.segments, plan.parts, strict=True):
        if segment.kind == "prefix":
            continue
        if segment.kind == "question":
            at = furthest
        positions += range(at, at + part.num_tokens)
        at += part.num_tokens
        furthest = max(furthest, at)
        if segment.kind == "chunk":
            at = start
    return replace(plan, positions=tuple(positions))


def parallel_attention(plan: Plan, temperature: float = 0.9, scaling: float = 0.9) -> ParallelAttention:
    """The attention that goes with ``side_by_side(plan)``."""
    end = len(plan.prompt) - plan.num_question_tokens
    return ParallelAttention(min(len(plan.prompt.prefix), end), end, temperature, scaling)
