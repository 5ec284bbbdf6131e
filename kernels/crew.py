"""A few threads that share a piece of work. Knows items and ranges; the work must release the interpreter's lock to gain by it.

Work goes to threads as a whole, and torch runs each operation in one of them: there is no barrier between operations. On a machine with
other work a barrier costs a time slice of the scheduler (some milliseconds) whenever one thread has to wait for its core. The caller
works too. With threads of its own a crew waits for none that has not begun; torch's (``openmp``) begin all, and all are waited for once.
numba's own parallel loops are not used: their OpenMP ends a process that forks, their work queue one that uses it from two threads.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import TypeVar
from weakref import WeakSet

from rag.kernels.openmp import together

Item = TypeVar("Item")
Result = TypeVar("Result")
PARTS_PER_THREAD = 4
_EVERY: WeakSet[Crew] = WeakSet()
_COUNTING, _AT_WORK = threading.Lock(), [0]
"""Threads that all crews together have at work: more than there are cores would only wait for each other."""


class Crew:
    """``num_threads`` threads, the caller's included: those that torch has woken, where there are any (``openmp``), else threads of its own, which start when they are
    first needed. Safe to use from several threads; a forked child has threads of its own."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self.forget()
        _EVERY.add(self)

    def forget(self) -> None:
        """Has no threads from now on, as a forked child that holds the parent's pool and none of its threads."""
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def each(
        self,
        items: Iterable[Item],
        work: Callable[[Item], object],
        within: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """``work(item)`` of every item, taken in order by whichever thread is free, each thread inside a context of ``within`` meanwhile."""
        listed = list(items)
        left = iter(listed)

        def take() -> None:
            with within():
                for item in left:
                    work(item)

        with _room(min(self.num_threads, len(listed))) as wanted:
            if wanted > 1 and together(wanted, take):
                return
            self._each_in_pool(wanted, take)

    def _each_in_pool(self, wanted: int, take: Callable[[], None]) -> None:
        others = [self._threads().submit(take) for _ in range(wanted - 1)]
        try:
            take()
        finally:
            for other in others:
                if not other.cancel():
                    other.result()

    def split(self, num_items: int, least: int, work: Callable[[int, int], None]) -> None:
        """``work(first, last)`` over ranges that cover ``num_items``, one for every thread, none shorter than ``least`` unless it is all there is."""
        num_parts = max(1, min(self.num_threads, num_items // max(least, 1)))
        borders = [num_items * part // num_parts for part in range(num_parts + 1)]
        self.each(itertools.pairwise(borders), lambda ends: work(*ends))

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``work(item)`` of each, in order; at most one item per thread is in work or waiting to be taken."""
        iterator = iter(items)
        while some := list(itertools.islice(iterator, self.num_threads)):
            yield from [work(some[0])] if len(some) == 1 else self._threads().map(work, some)

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.num_threads, "rag-crew")
            return self._pool


@contextmanager
def _room(wanted: int) -> Iterator[int]:
    """How many of so many threads have a core beside those of other calls that are at work now; one at least, the caller's."""
    with _COUNTING:
        given = max(1, min(wanted, num_cores() - _AT_WORK[0])) if _AT_WORK[0] else wanted
        _AT_WORK[0] += given
    try:
        yield given
    finally:
        with _COUNTING:
            _AT_WORK[0] -= given


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _alone() -> Iterator[None]:
    import torch

    torch.set_num_threads(1)  # of this thread only
    with torch.inference_mode():
        yield


def each(items: Iterable[Item], work: Callable[[Item], object]) -> None:
    """``work(item)`` of every item, on as many threads as torch has; inside, torch uses one and keeps no gradients."""
    import torch

    num_threads = torch.get_num_threads()
    if num_threads == 1:
        with torch.inference_mode():
            for item in items:
                work(item)
        return
    try:
        _torchs(num_threads).each(items, work, _alone)
    finally:
        torch.set_num_threads(num_threads)


def split(num_items: int, work: Callable[[int, int], None]) -> None:
    """``work(first, last)`` over ranges that cover ``num_items``, some for every thread of torch's."""
    import torch

    num_parts = max(1, min(num_items, PARTS_PER_THREAD * torch.get_num_threads()))
    borders = [num_items * part // num_parts for part in range(num_parts + 1)]
    each(range(num_parts), lambda part: work(borders[part], borders[part + 1]))


@lru_cache(maxsize=1)
def _torchs(num_threads: int) -> Crew:
    return Crew(num_threads)


def _forget_all() -> None:
    global _COUNTING  # another thread may have held it when the process forked
    _COUNTING, _AT_WORK[0] = threading.Lock(), 0
    for crew in list(_EVERY):
        crew.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
