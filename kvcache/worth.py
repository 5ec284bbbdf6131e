"""How fast this machine computes and loads, measured as it works, and what that says about a plan. Knows no store and no model.

Reuse pays when loading (and computing the chosen share) takes less time than computing everything. Bytes per token and FLOP per token of a
model decide: small models with many key-value heads may compute faster than a disk reads. Nothing is assumed: until a rate has been
measured, reuse is tried, and that measures it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from rag.kvcache.plan import Plan

WEIGHT_OF_NEW = 0.3
TRY_AGAIN = 16  # after so many refusals reuse is tried once more: a disk that was busy must not be given up for good


class Verdict(NamedTuple):
    """Whether to take from the cache, and a sentence that says why."""

    reuse: bool
    why: str


class Loadable(Protocol):
    """Something in a tier of the store."""

    @property
    def tier(self) -> str: ...

    @property
    def num_bytes(self) -> int: ...


class Worth:
    """Seconds per computed token and bytes per second of each tier, as running means. Safe to share between threads.

    ``recompute``: the share of reused tokens that will be computed anew, for the estimate.
    """

    def __init__(self, recompute: float = 0.15) -> None:
        self._recompute = recompute
        self._num_declined = 0
        self._seconds_per_token: float | None = None
        self._bytes_per_second: dict[str, float] = {}
        self._lock = threading.Lock()

    def saw_compute(self, num_tokens: int, seconds: float) -> None:
        """``num_tokens`` rows went through the model in ``seconds``. Passes of a few rows tell nothing and are not counted."""
        if num_tokens >= 64 and seconds > 0:
            with self._lock:
                self._seconds_per_token = _mean(self._seconds_per_token, seconds / num_tokens)

    def saw_load(self, tier: str, num_bytes: int, seconds: float) -> None:
        """``num_bytes`` came out of ``tier`` in ``seconds``."""
        if num_bytes and seconds > 0:
            with self._lock:
                self._bytes_per_second[tier] = _mean(self._bytes_per_second.get(tier), num_bytes / seconds)

    def compute_seconds(self, num_tokens: int) -> float | None:
        """What computing that many rows takes; ``None`` while nobody knows. Attention over long prompts is not in it: it favours reuse."""
        return None if self._seconds_per_token is None else num_tokens * self._seconds_per_token

    def load_seconds(self, tier: str, num_bytes: int) -> float | None:
        """What loading takes; ``None`` while nobody knows."""
        rate = self._bytes_per_second.get(tier)
        return None if rate is None else num_bytes / rate

    def verdict(self, plan: Plan, held: Sequence[Loadable]) -> Verdict:
        """Whether the cached parts of ``plan`` are worth loading."""
        if not held:
            return Verdict(True, "nothing is cached, everything is computed")
        loads = [self.load_seconds(each.tier, each.num_bytes) for each in held]
        num_saved = sum(
            part.num_tokens * (1 if part.source == "exact" else 1 - self._recompute) for part in plan.parts if part.cached
        )
        saved = self.compute_seconds(round(num_saved))
        if saved is None or any(seconds is None for seconds in loads):
            return Verdict(True, "reused: this machine's rates are not measured yet")
        load = sum(seconds for seconds in loads if seconds is not None)
        tiers = ", ".join(sorted({each.tier for each in held}))
        if load < saved:
            return Verdict(True, f"reused: loading from {tiers} takes about {load:.3f} s and saves {saved:.3f} s of computing")
        with self._lock:
            self._num_declined += 1
            again = self._num_declined % TRY_AGAIN == 0
        if again:
            return Verdict(True, f"reused: loading from {tiers} was too slow for a while, and is measured again")
        return Verdict(
            False, f"computed in full: loading from {tiers} would take {load:.3f} s and save only {saved:.3f} s of computing"
        )


def _mean(before: float | None, new: float) -> float:
    return new if before is None else (1 - WEIGHT_OF_NEW) * before + WEIGHT_OF_NEW * new
