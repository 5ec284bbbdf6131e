"""What a store holds and what it was good for, in numbers. Knows no store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KVStats:
    """Counts since the store was opened, except where it says what is there now.

    Now: ``entries`` (chunks and byte entries, each once), ``tokens`` of the chunks, ``entries_by_tier``, ``bytes_by_tier``,
    ``budget_by_tier``. Since: ``hits_by_tier``, ``misses``, ``evictions_by_tier``, ``refused`` (put, but not worth its place or too large),
    ``damaged`` entries found, ``failed_writes`` of the disk, ``saved_seconds``: prefill that hits saved, less what loading takes.
    ``foreign``: files in the folder that are none of ours, or of another version; they are left alone.
    """

    entries: int
    tokens: int
    entries_by_tier: Mapping[str, int]
    bytes_by_tier: Mapping[str, int]
    budget_by_tier: Mapping[str, int]
    hits_by_tier: Mapping[str, int]
    misses: int
    evictions_by_tier: Mapping[str, int]
    refused: int
    damaged: int
    failed_writes: int
    foreign: int
    saved_seconds: float

    @property
    def hit_ratio(self) -> float:
        """Share of requests that were answered; 0 before the first."""
        hits = sum(self.hits_by_tier.values())
        return hits / (hits + self.misses) if hits + self.misses else 0.0
