"""How often entries were asked for, also those that are not here. Knows names only."""

from __future__ import annotations

from collections import OrderedDict

MAX_NAMES = 1 << 16


class History:
    """Requests by name for the names asked for most recently; an entry that comes back brings its past. Not thread safe."""

    def __init__(self, max_names: int = MAX_NAMES) -> None:
        self._max_names = max_names
        self._counts: OrderedDict[str, int] = OrderedDict()

    def add(self, name: str) -> int:
        """It was asked for; how often that has been."""
        count = self._counts.pop(name, 0) + 1
        self._counts[name] = count
        if len(self._counts) > self._max_names:
            self._counts.popitem(last=False)
        return count

    def __getitem__(self, name: str) -> int:
        return self._counts.get(name, 0)
