"""How much a chunk leaned on the chunks before it when it was computed, and how much of it is wrong behind others. Knows no model.

Source: Cache-Craft, arXiv 2502.15734 (SIGMOD 2025). With ``inter(i, j)`` the attention that the tokens of chunk i paid to chunk j before it, and
``intra(i)`` what they paid to each other:

- context impact ``CCI = 1 / (1 + exp(-a / b))``, ``a = sum_j inter(i, j) / (|i| |j|)``, ``b = intra(i) / |i|^2``
- overlap ``beta``: the share of ``inter`` that went to chunks which stand before it again; times one minus the Kendall distance of their orders
- the share of a chunk to be computed anew is proportional to ``CCI (1 - beta)``: its ``need`` here

A chunk that was computed alone has no chunk to lean on: its need is that of ``a = 0`` as soon as another one stands before it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ALONE = 0.5
"""Need of a chunk that was computed alone and now stands behind others."""


def chunk_name(ids: Sequence[int]) -> int:
    """64 bits that name a chunk's tokens, as a signed number."""
    packed = b"".join(int(token).to_bytes(8, "little", signed=True) for token in ids)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little", signed=True)


@dataclass(frozen=True, eq=False)
class Dependence:
    """Of a chunk that was computed, wholly or in part, behind the chunks ``before`` (their ``chunk_name``s in order).

    ``sizes``: their tokens. ``inter``: attention to each of them, averaged over layers and heads, summed over the chunk's tokens; ``intra``: to
    the chunk itself. ``token_inter`` float32 ``[T]``: of each token, to all that stood before it when it was computed; NaN where that is not
    known. ``fresh`` bool ``[T]``: the tokens that were computed behind ``before``; the others are as they were before, when the chunk's need
    was ``base``.
    """

    before: tuple[int, ...]
    sizes: tuple[int, ...]
    inter: tuple[float, ...]
    intra: float
    token_inter: torch.Tensor
    fresh: torch.Tensor
    base: float = 0.0

    @property
    def left(self) -> float:
        """The need that has not been met yet."""
        return self.base * (1 - float(self.fresh.float().mean()))

    @property
    def impact(self) -> float:
        """CCI, 0.5 to 1."""
        num_tokens = len(self.token_inter)
        outside = sum(mass / size for mass, size in zip(self.inter, self.sizes, strict=True)) / num_tokens
        inside = self.intra / num_tokens**2
        return 1 / (1 + math.exp(-min(outside / inside, 700.0))) if inside > 0 else 1.0

    def overlap(self, now: Sequence[int]) -> float:
        """``beta`` less the order penalty, 0 to 1, when the chunks ``now`` stand before it."""
        total = sum(self.inter)
        shared = [name for name in self.before if name in now]
        if total <= 0:
            return 1.0 if list(now) == list(self.before) else 0.0
        kept = sum(mass for name, mass in zip(self.before, self.inter, strict=True) if name in now)
        return kept / total * (1 - _disorder(shared, list(now)))

    def need(self, now: Sequence[int]) -> float:
        """How much of it ought to be computed anew behind ``now``, 0 to 1, before a budget scales it."""
        return max(self.left, self.impact * (1 - self.overlap(now)))

    def leaning(self, now: Sequence[int]) -> torch.Tensor:
        """Which tokens are wrong behind ``now``, the larger the more, float32 ``[T]``.

        What a token leaned on counts as far as it is not there; a token that was never computed behind others counts wholly. Where
        nothing is known the first tokens count most (EPIC, arXiv 2410.15332), below any that is known to be wrong.
        """
        import torch

        gone = 1 - self.overlap(now)
        known = torch.where(self.fresh, self.token_inter * gone if gone > 0 else float("-inf"), self.token_inter)
        return torch.where(known.isnan(), first_tokens(len(known)), known)

    def statistics(self) -> dict[str, torch.Tensor]:
        """As tensors, for the store."""
        import torch

        return {
            "before": torch.tensor(self.before, dtype=torch.int64),
            "sizes": torch.tensor(self.sizes, dtype=torch.int64),
            "inter": torch.tensor(self.inter, dtype=torch.float32),
            "within": torch.tensor([self.intra, self.base], dtype=torch.float32),
            "token_inter": self.token_inter.float(),
            "fresh": self.fresh.float(),
        }

    @classmethod
    def of(cls, statistics: Mapping[str, torch.Tensor]) -> Dependence:
        """What ``statistics`` gave."""
        intra, base = statistics["within"].tolist()
        return cls(
            tuple(statistics["before"].tolist()),
            tuple(statistics["sizes"].tolist()),
            tuple(statistics["inter"].tolist()),
            intra,
            statistics["token_inter"].clone(),  # the store's memory may be taken back
            statistics["fresh"] > 0,
            base,
        )


def need_alone(now: Sequence[int]) -> float:
    """Need of a chunk that was computed alone, when the chunks ``now`` stand before it."""
    return ALONE if now else 0.0


def first_tokens(num_tokens: int) -> torch.Tensor:
    """What stands for leaning where nothing is known: the earlier the more, all below zero, float32 ``[T]``."""
    import torch

    return -torch.arange(1.0, num_tokens + 1)


def _disorder(shared: Sequence[int], now: Sequence[int]) -> float:
    """Kendall's distance of two orders of the same chunks, from 0 (the same) to 1 (reversed)."""
    place = {name: number for number, name in reversed(list(enumerate(now)))}
    pairs = list(combinations(dict.fromkeys(shared), 2))
    return sum(place[one] > place[other] for one, other in pairs) / len(pairs) if pairs else 0.0
