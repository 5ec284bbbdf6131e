"""Which entry of a full tier goes first. Knows names, hits, seconds and bytes; no entry and no memory.

``benefit``: the least ``clock + hits x saved seconds / bytes``, GreedyDual-Size with frequency (Cherkasova, HPL-98-69): the clock is
the value of the last one that went, so that what was wanted long ago ages without being visited. ``lru``: the one not asked for
longest; the peer that the first is measured beside.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Literal

Policy = Literal["benefit", "lru"]
POLICIES: tuple[Policy, ...] = ("benefit", "lru")


class Ranking:
    """The entries of one tier, ranked. Not thread safe."""

    def __init__(self, policy: Policy = "benefit") -> None:
        if policy not in POLICIES:
            raise ValueError(f"eviction is {policy!r}; it can be {', '.join(POLICIES)}")
        self._policy = policy
        self._clock = 0.0
        self._uses = 0
        self._values: dict[str, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, str]] = []  # with stale ones, told by the use they were pushed at

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def value(self, hits: int, saved_seconds: float, num_bytes: int) -> float:
        """What an entry would be worth now. ``saved_seconds``: what one hit saves, at least 0."""
        if self._policy == "lru":
            return float(self._uses + 1)
        return self._clock + hits * saved_seconds / num_bytes

    def touch(self, name: str, hits: int, saved_seconds: float, num_bytes: int) -> None:
        """An entry came or was asked for."""
        value = self.value(hits, saved_seconds, num_bytes)
        self._uses += 1
        self._values[name] = (value, self._uses)
        heapq.heappush(self._heap, (value, self._uses, name))
        if len(self._heap) > 4 * len(self._values) + 64:
            self._heap = [(value, use, name) for name, (value, use) in self._values.items()]
            heapq.heapify(self._heap)

    def lowest(self, allowed: Callable[[str], bool]) -> str | None:
        """The entry to go next among those that are allowed to; ``None`` if there is none."""
        kept = []
        found = None
        while self._heap and found is None:
            item = self._heap[0]
            if self._values.get(item[2]) != item[:2]:
                heapq.heappop(self._heap)
            elif allowed(item[2]):
                found = item[2]
            else:
                kept.append(heapq.heappop(self._heap))
        for item in kept:
            heapq.heappush(self._heap, item)
        return found

    def loses(self, value: float, name: str) -> bool:
        """Whether a newcomer of this value is worth less than ``name``, so that it is the one to go.

        If so, the clock moves on as if it had come and gone: else nobody could ever take the place of what was popular once.
        """
        if value >= self._values[name][0]:
            return False
        self._clock = max(self._clock, value)
        return True

    def evict(self, name: str) -> None:
        """It went for want of room: the clock moves on."""
        if self._policy == "benefit":
            self._clock = max(self._clock, self._values[name][0])
        del self._values[name]

    def forget(self, name: str) -> None:
        """It went for another reason, or was not there."""
        self._values.pop(name, None)
