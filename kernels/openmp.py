"""The threads that torch has woken already, for work of ours. Knows the OpenMP library that torch has loaded; knows no work.

After an operation torch's threads wait actively for some milliseconds (GNU's OpenMP, unless ``OMP_WAIT_POLICY`` says otherwise). Threads of our own would have to share the
processors with them, and are slower to wake. A forked child has none of its parent's, and waking them there would never end: it uses others.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

_CALL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_state = {"forked": False}


def together(num_threads: int, work: Callable[[], object]) -> bool:
    """``work()`` in so many threads at once, the caller's among them; false, and nothing called, where there are none to be had. The first error in any is the caller's."""
    begin = None if _state["forked"] else _parallel()
    if begin is None:
        return False
    errors: list[BaseException] = []

    def call(_: Any) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed on below: nothing may leave through the library's frames
            errors.append(error)

    begin(_CALL(call), None, num_threads, 0)
    if errors:
        raise errors[0]
    return True


@lru_cache(maxsize=1)
def _library() -> str | None:
    """Where GNU's OpenMP is loaded from."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        found = {line.split()[-1] for line in file if "libgomp" in line}
    return found.pop() if len(found) == 1 else None  # with two of them, who knows which one is torch's


def _parallel() -> Callable[..., None] | None:
    if "torch" not in sys.modules or not sys.platform.startswith("linux"):
        return None
    return _entry()


@lru_cache(maxsize=1)
def _entry() -> Callable[..., None] | None:
    path = _library()
    if path is None:
        return None
    entry = ctypes.CDLL(path).GOMP_parallel
    entry.argtypes, entry.restype = [_CALL, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return entry


def _forked() -> None:
    _state["forked"] = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
