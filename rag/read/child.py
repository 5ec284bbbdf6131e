"""The process that parses: takes bytes on stdin, answers with a draft on stdout. Knows readers by name and no path on disk.

A parser that a hostile file takes over, crashes or blows up does so here: without the parent's environment, with
bounds on memory, processor time and open files, unable to write to any file, and gone when the parent is gone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, BinaryIO

from rag.errors import FileTooLarge, MissingExtra, ReadError
from rag.read.draft import Draft, Limits
from rag.read.wire import HEADER, MAGIC, encode, encode_error, message, one_line

_MAX_OPEN_FILES = 64
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def answer(target: str, data: bytes, limits: Limits, budget: Callable[[], AbstractContextManager[None]]) -> list[bytes]:
    """The message with the draft that the reader ``target`` makes of ``data``, or with the error it ends in.

    The reader is imported outside the ``budget``: libraries are trusted and only what the file causes counts.
    """
    try:
        module, _, name = target.partition(":")
        reader: Callable[[bytes, Limits], Draft] = getattr(importlib.import_module(module), name)
        with budget():
            return encode(reader(data, limits), limits)
    except (ReadError, MissingExtra) as error:
        return encode_error(error)
    except MemoryError:
        return encode_error(FileTooLarge("", f"takes more than {limits.memory_bytes / 2**20:.0f} MiB of memory to read"))
    except RecursionError:
        return encode_error(ReadError("", "is nested too deeply"))
    except Exception as error:  # noqa: BLE001 - whatever a parser does on a stranger's file costs that file alone
        return encode_error(ReadError("", f"the parser failed: {type(error).__name__}: {one_line(str(error))}"))


def main(parent_pid: int) -> None:
    """Serves until stdin ends. Requests are ``{"target", "limits"}`` + the file's bytes; replies as in ``rag.read.wire``."""
    _end_with(parent_pid)
    requests, replies = _take_over_pipes()
    _limit_process()
    start_bytes = _address_space_bytes()
    _send(replies, message({"ready": True}))
    while header := requests.read(HEADER.size):
        magic, num_json_bytes, num_file_bytes = HEADER.unpack(header)
        assert magic == MAGIC
        request: dict[str, Any] = json.loads(requests.read(num_json_bytes))
        data = requests.read(num_file_bytes)
        limits = Limits(**request["limits"])
        _send(replies, answer(request["target"], data, limits, partial(_budget, limits)))
        del data
        if _address_space_bytes() - start_bytes > limits.memory_bytes // 2:  # leaked or scattered: the next file gets a fresh start
            return


def _send(replies: BinaryIO, parts: list[bytes]) -> None:
    replies.writelines(parts)
    replies.flush()


def _take_over_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Private ends of stdin and stdout; what a parser prints, or writes to descriptor 1 or 2, goes nowhere."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return requests, replies


def _end_with(parent_pid: int) -> None:
    """Asks the kernel to kill this process when its parent dies, even while a parser hangs."""
    if sys.platform == "linux":
        import ctypes
        import signal

        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the line above
        sys.exit(1)


def _limit_process() -> None:
    """Bounds that hold for the life of the process."""
    import resource

    for kind, most in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


@contextlib.contextmanager
def _budget(limits: Limits) -> Iterator[None]:
    """Bounds for one file: address space above what is in use now, and processor time in case the parent cannot kill."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_seconds = used.ru_utime + used.ru_stime + limits.seconds * (os.cpu_count() or 1)
    bounds = [(resource.RLIMIT_CPU, int(cpu_seconds) + 2)]
    if used_bytes := _address_space_bytes():
        bounds.append((resource.RLIMIT_AS, used_bytes + limits.memory_bytes))
    old = [(kind, resource.getrlimit(kind)) for kind, _ in bounds]
    try:
        for kind, most in bounds:
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        yield
    finally:
        for kind, bound in old:
            resource.setrlimit(kind, bound)


def _address_space_bytes() -> int:
    """Virtual memory of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
