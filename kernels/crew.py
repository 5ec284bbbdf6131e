"""A few threads that share a list of work. Knows items; the work must release the interpreter's lock to gain by it.

Work goes to threads as a whole, and torch runs each operation in one of them: there is no barrier between operations. On a machine with
other work a barrier costs a time slice of the scheduler (some milliseconds) whenever one thread has to wait for its core. The caller
works too, and waits for no thread that has not begun.
numba's own parallel loops are not used: their OpenMP ends a process that forks, their work queue one that uses it from two threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

Item = TypeVar("Item")
PARTS_PER_THREAD = 4


def each(items: Iterable[Item], work: Callable[[Item], None]) -> None:
    """``work(item)`` of every item, on as many threads as torch has; inside, torch uses one and keeps no gradients."""
    import torch

    listed = list(items)
    left = iter(listed)

    def take() -> None:
        with torch.inference_mode():
            for item in left:
                work(item)

    num_threads = torch.get_num_threads()
    others = [_threads(num_threads - 1).submit(take) for _ in range(min(num_threads, len(listed)) - 1)]
    if num_threads > 1:
        torch.set_num_threads(1)  # of this thread only, like the others'
    try:
        take()
    finally:
        if num_threads > 1:
            torch.set_num_threads(num_threads)
        for other in others:
            if not other.cancel():
                other.result()


def split(num_items: int, work: Callable[[int, int], None]) -> None:
    """``work(first, last)`` over ranges that cover ``num_items``, some for every thread."""
    import torch

    num_parts = max(1, min(num_items, PARTS_PER_THREAD * torch.get_num_threads()))
    borders = [num_items * part // num_parts for part in range(num_parts + 1)]
    each(range(num_parts), lambda part: work(borders[part], borders[part + 1]))


@lru_cache(maxsize=1)
def _threads(num_threads: int) -> ThreadPoolExecutor:
    import torch

    return ThreadPoolExecutor(num_threads, "rag-kernels", initializer=torch.set_num_threads, initargs=(1,))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a child has the pool's object and none of its threads
