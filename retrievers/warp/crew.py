"""Some threads that share one piece of work. Knows ranges of numbers; the work must release the interpreter's lock to gain by it."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Crew:
    """``num_threads`` threads, the caller's included; they start when they are first needed. Safe to use from several threads."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def split(self, num_items: int, least: int, work: Callable[[int, int], None]) -> None:
        """``work(first, last)`` over ranges that cover ``num_items``, none shorter than ``least`` unless it is all there is."""
        num_parts = max(1, min(self.num_threads, num_items // max(least, 1)))
        borders = [num_items * part // num_parts for part in range(num_parts + 1)]
        others = [self._threads().submit(work, first, last) for first, last in itertools.pairwise(borders[1:])]
        work(0, borders[1])
        for other in others:
            other.result()

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``work(item)`` of each, in order; at most one item per thread is in work or waiting to be taken."""
        iterator = iter(items)
        while some := list(itertools.islice(iterator, self.num_threads)):
            yield from [work(some[0])] if len(some) == 1 else self._threads().map(work, some)

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.num_threads, "rag-warp")
            return self._pool


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
