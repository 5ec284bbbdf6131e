"""A few threads that share a loop. Knows numbers of items; the work must release the interpreter's lock to gain by it.

Work goes to threads as a whole, and torch runs each operation in one of them: there is no barrier between operations. On a machine with
other work a barrier costs a time slice of the scheduler (some milliseconds) whenever one thread has to wait for its core.
numba's own parallel loops are not used: their OpenMP ends a process that forks, their work queue one that uses it from two threads.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

Item = TypeVar("Item")


def split(num_items: int, least: int, work: Callable[[int, int], None]) -> None:
    """``work(first, last)`` over ranges that cover ``num_items``, none shorter than ``least`` unless it is all there is. Not for torch."""
    import torch

    num_threads = torch.get_num_threads()
    num_parts = max(1, min(num_threads, num_items // max(least, 1)))
    borders = [num_items * part // num_parts for part in range(num_parts + 1)]
    others = [_threads(num_threads).submit(work, first, last) for first, last in itertools.pairwise(borders[1:])]
    work(0, borders[1])
    for other in others:
        other.result()


def each(items: Iterable[Item], work: Callable[[Item], None]) -> None:
    """``work(item)`` of every item, torch's number of threads at a time; inside, torch uses one thread and keeps no gradients."""
    import torch

    def quietly(item: Item) -> None:
        with torch.inference_mode():
            work(item)

    listed = list(items)
    if len(listed) == 1:  # nothing to share, and this thread may use all of torch's
        quietly(listed[0])
        return
    for done in [_threads(torch.get_num_threads()).submit(quietly, item) for item in listed]:
        done.result()


@lru_cache(maxsize=1)
def _threads(num_threads: int) -> ThreadPoolExecutor:
    import torch

    return ThreadPoolExecutor(num_threads, "rag-kernels", initializer=torch.set_num_threads, initargs=(1,))  # of that thread only


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a child has the pool's object and none of its threads
