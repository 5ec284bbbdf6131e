from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from rag.kernels.crew import Crew, each, split


@pytest.mark.parametrize("num_items", [0, 1, 2, 50])
def test_every_item_is_worked_on_once_with_one_thread_of_torch(num_items: int) -> None:
    before, seen, threads = torch.get_num_threads(), list[int](), set[int]()
    try:
        torch.set_num_threads(3)

        def note(item: int) -> None:
            seen.append(item)
            threads.add(torch.get_num_threads())

        each(range(num_items), note)
        assert sorted(seen) == list(range(num_items)) and threads <= {1} and torch.get_num_threads() == 3
        seen.clear()
        split(num_items, lambda first, last: seen.extend(range(first, last)))
        assert sorted(seen) == list(range(num_items))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_an_error_in_any_thread_is_the_caller_s(num_threads: int) -> None:
    before = torch.get_num_threads()

    def fail(item: int) -> None:
        raise RuntimeError(f"item {item}")

    try:
        torch.set_num_threads(num_threads)
        with pytest.raises(RuntimeError, match="item"):
            each(range(4), fail)
        assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("num_items", "least", "ranges"), [(10, 1, 3), (10, 4, 2), (10, 40, 1), (0, 1, 1)])
def test_ranges_cover_the_items_and_are_none_too_short(num_items: int, least: int, ranges: int) -> None:
    found = list[tuple[int, int]]()
    Crew(3).split(num_items, least, lambda first, last: found.append((first, last)))
    assert len(found) == ranges and [item for first, last in sorted(found) for item in range(first, last)] == list(range(num_items))


def test_results_come_in_order_and_items_are_taken_one_a_thread() -> None:
    taken = list[int]()

    def items() -> Iterator[int]:
        for item in range(7):
            taken.append(item)
            yield item

    results = Crew(2).map(lambda item: item * item, items())
    assert next(results) == 0 and len(taken) == 2
    assert list(results) == [1, 4, 9, 16, 25, 36]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_has_threads_of_its_own() -> None:
    before = torch.get_num_threads()

    crew = Crew(2)

    def meet() -> None:
        for share in (each, crew.each):
            gate = threading.Barrier(2)

            def wait(item: int, gate: threading.Barrier = gate) -> None:
                gate.wait(20)

            share(range(2), wait)  # ends only if there are two threads

    try:
        torch.set_num_threads(2)
        meet()
        child = os.fork()
        if not child:
            meet()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    finally:
        torch.set_num_threads(before)


def test_calls_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call, while the first has all cores at work, is done by its caller alone."""
    monkeypatch.setattr("rag.kernels.crew.num_cores", lambda: 2)
    started, done, threads = threading.Barrier(3), threading.Event(), set[int]()

    def hold(_: int) -> None:
        started.wait(20)
        done.wait(20)

    def note(_: int) -> None:
        threads.add(threading.get_ident())
        time.sleep(0.01)  # long enough for a second thread to take the next one

    first = threading.Thread(target=lambda: Crew(2).each(range(2), hold))
    first.start()
    started.wait(20)
    Crew(2).each(range(20), note)
    done.set()
    first.join()
    assert threads == {threading.get_ident()}
