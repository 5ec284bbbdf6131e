"""Entries in host or device memory: one pool, its ranking and who lies in it. Knows no disk and no reader."""

from __future__ import annotations

from collections.abc import Callable

from rag.kvcache.entry import Entry, Resident
from rag.kvcache.eviction import Policy, Ranking
from rag.kvcache.pool import Pool
from rag.kvcache.rate import Rates
from rag.kvcache.slab import Head

Leave = Callable[[Entry], bool]


class Memory:
    """The tier ``name`` (``ram`` or ``device``) of a store. The store's lock is held around every call."""

    def __init__(self, name: str, pool: Pool, eviction: Policy, rates: Rates) -> None:
        self.name, self.pool = name, pool
        self.evictions = 0
        self._rates = rates
        self._ranking = Ranking(eviction)
        self._entries: dict[str, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def reserve(self, head: Head, hits: int, may_evict: bool, leave: Leave, wait: Callable[[], bool]) -> Resident | None:
        """Memory for an entry, nothing of it filled; ``None`` if it is not worth its place.

        ``leave``: called before an entry is evicted; ``False``: it cannot go yet. ``wait``: called when nobody can go; ``False``: no use.
        """
        if head.num_bytes > self.pool.num_bytes or self._rates.seconds(self.name, head.num_bytes) >= head.seconds:
            return None
        while (memory := self.pool.lend(head.num_bytes)) is None:
            if not may_evict:
                return None
            victim = self._ranking.lowest(lambda name: self._entries[name].idle)
            if victim is None:
                if not wait():
                    return None
                continue
            if self._ranking.loses(self._ranking.value(hits, self._saved(head), head.num_bytes), victim):
                return None
            if leave(self._entries[victim]):
                self._ranking.evict(victim)
                self.evictions += 1
                self.release(self._entries[victim])
        return Resident(memory, [False] * len(head.places))

    def settle(self, entry: Entry, resident: Resident, hits: int) -> None:
        """Gives reserved memory to an entry."""
        entry.residents[self.name] = resident
        self._entries[entry.head.name] = entry
        self.touch(entry, hits)

    def touch(self, entry: Entry, hits: int) -> None:
        """It was asked for, if it is here."""
        if self._entries.get(entry.head.name) is entry:
            self._ranking.touch(entry.head.name, hits, self._saved(entry.head), entry.head.num_bytes)

    def release(self, entry: Entry) -> None:
        """Takes the memory of an entry back, if it has any."""
        resident = entry.residents.pop(self.name, None)
        if resident is not None:
            self.pool.take_back(resident.memory)
        if self._entries.get(entry.head.name) is entry:
            self.lose(entry)

    def lose(self, entry: Entry) -> None:
        """Nobody can find it any more; its memory stays with those who read it."""
        if self._entries.get(entry.head.name) is entry:
            del self._entries[entry.head.name]
            self._ranking.forget(entry.head.name)

    def _saved(self, head: Head) -> float:
        return max(head.seconds - self._rates.seconds(self.name, head.num_bytes), 0.0)
