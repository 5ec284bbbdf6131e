"""Work in torch's own threads: how many, errors, inside one another, many callers, a forked child, and where there are none."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from rag.kernels import openmp
from rag.kernels.crew import Crew, each
from rag.kernels.openmp import together

needs_them = pytest.mark.skipif(not together(1, lambda: None), reason="torch has no threads of GNU's OpenMP here")


@needs_them
def test_they_work_at_once() -> None:
    gate, seen = threading.Barrier(2), list[int]()

    def meet() -> None:
        gate.wait(20)  # ends only if there are two
        seen.append(threading.get_ident())

    assert together(2, meet) and len(set(seen)) == 2


@needs_them
def test_an_error_is_the_caller_s_and_the_threads_go_on() -> None:
    def fail() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        together(2, fail)
    done = list[int]()
    assert together(2, lambda: done.append(1)) and len(done) == 2


def test_work_within_work_and_torch_between() -> None:
    before = torch.get_num_threads()
    a = torch.randn(300, 300)
    expected = a @ a

    def inner(item: int) -> None:
        assert torch.get_num_threads() == 1
        torch.testing.assert_close(a @ a, expected)

    try:
        torch.set_num_threads(2)
        for _ in range(20):
            each(range(4), lambda _: each(range(3), inner))
            torch.testing.assert_close(a @ a, expected)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_many_callers_at_once() -> None:
    crew, found = Crew(2), list[int]()

    def call(first: int) -> None:
        for _ in range(30):
            crew.each(range(first, first + 5), found.append)

    callers = [threading.Thread(target=call, args=(5 * number,)) for number in range(12)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(found) == sorted(list(range(60)) * 30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_does_without() -> None:
    child = os.fork()
    if not child:
        os._exit(7 if not together(2, lambda: None) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_crew_has_its_own_where_torch_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp, "_parallel", lambda: None)
    gate, names = threading.Barrier(2), list[str]()

    def meet(_: int) -> None:
        gate.wait(20)
        names.append(threading.current_thread().name)

    Crew(2).each(range(2), meet)
    assert any(name.startswith("rag-crew") for name in names)
