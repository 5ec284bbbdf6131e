"""The last queries' vectors, by text: the same question with another filter or ``k`` costs no encoder call. Knows no model."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Encode = Callable[[Sequence[str]], Sequence[NDArray[np.float32]]]


class QueryCache:
    """Holds what ``encode`` gave for the last ``capacity`` texts. Thread-safe."""

    def __init__(self, encode: Encode, capacity: int) -> None:
        self._encode = encode
        self._capacity = capacity
        self._known: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, queries: Sequence[str]) -> list[NDArray[np.float32]]:
        """One array per query; texts that are not known are encoded in one call."""
        with self._lock:
            known = {query: self._known[query] for query in queries if query in self._known}
        missing = [query for query in dict.fromkeys(queries) if query not in known]
        if missing:
            known.update(zip(missing, self._encode(missing), strict=True))
        with self._lock:
            for query, vectors in known.items():
                if query not in self._known:
                    self._known[query] = vectors.copy()  # a view would keep the whole batch in memory
                self._known.move_to_end(query)
            while len(self._known) > self._capacity:
                self._known.popitem(last=False)
        return [known[query] for query in queries]
