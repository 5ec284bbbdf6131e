"""How long loading takes from each tier, assumed first and then measured. Knows no entry."""

from __future__ import annotations

import threading
from collections.abc import Mapping

ASSUMED = {"device": float("inf"), "ram": 8e9, "disk": 1e9}
"""Bytes per second before anything was measured: nothing to do, one copy on a server's memory, a modest solid-state disk."""
_WEIGHT = 0.1
_SHORTEST = 1 << 16  # bytes; shorter reads measure the call, not the disk


class Rates:
    """Bytes per second by tier. Those that are given are taken as they are; the others follow what is observed. Thread safe."""

    def __init__(self, given: Mapping[str, float] | None = None) -> None:
        for tier, rate in (given or {}).items():
            if tier not in ASSUMED or not rate > 0:
                raise ValueError(f"rate of {tier!r} is {rate}; tiers are {', '.join(ASSUMED)} and rates positive bytes per second")
        self._given = dict(given or {})
        self._seconds_per_byte = {tier: 1 / rate for tier, rate in {**ASSUMED, **self._given}.items()}
        self._lock = threading.Lock()

    def seconds(self, tier: str, num_bytes: int) -> float:
        """What loading so much takes."""
        return num_bytes * self._seconds_per_byte[tier]

    def observe(self, tier: str, num_bytes: int, seconds: float) -> None:
        """A load took so long."""
        if tier not in self._given and num_bytes >= _SHORTEST:
            with self._lock:
                self._seconds_per_byte[tier] += _WEIGHT * (seconds / num_bytes - self._seconds_per_byte[tier])
